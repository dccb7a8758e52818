"""`geotempo build`."""


def build() -> None:
    """Not written yet."""
