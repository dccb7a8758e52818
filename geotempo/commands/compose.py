"""`geotempo compose`."""


def compose() -> None:
    """Not written yet."""
