"""`geotempo eval` and `geotempo score`."""


def evaluate() -> None:
    """Not written yet."""


def score() -> None:
    """Not written yet."""
