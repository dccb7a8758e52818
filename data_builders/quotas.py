"""Whole numbers in given proportions, where nothing can give more than it has."""

from collections.abc import Sequence


def fill(total: int, weights: Sequence[float], limits: Sequence[int]) -> list[int]:
    """Share out a total in proportion to weights; what one cannot give the others give, in their proportions.

    Args:
        total: To share out, 0 or more; where all together have less, all give what they have.
        weights: By part, 0 or more.
        limits: What each part has at most.

    Returns:
        Whole numbers of sum min(total, sum of the limits of parts with a weight above 0); of equal remainders the first is
        rounded up.
    """
    given = [0] * len(weights)
    open_parts = [part for part, weight in enumerate(weights) if weight > 0 and limits[part] > 0]
    left = min(total, sum(limits[part] for part in open_parts))
    while open_parts and left > 0:
        weight = sum(weights[part] for part in open_parts)
        full = [part for part in open_parts if left * weights[part] / weight >= limits[part]]
        if not full:
            break
        for part in full:
            given[part] = limits[part]
        left -= sum(limits[part] for part in full)
        open_parts = [part for part in open_parts if part not in full]
    if open_parts and left > 0:
        _round(given, open_parts, left, weights)
    return given


def thin(weights: Sequence[float], limits: Sequence[int]) -> list[int]:
    """The most that all can give in exact proportion to their weights, up to rounding down; parts without anything are left out."""
    least = min((limit / weight for weight, limit in zip(weights, limits, strict=True) if limit), default=0.0)
    return [min(limit, int(least * weight + 1e-9)) for weight, limit in zip(weights, limits, strict=True)]


def _round(given: list[int], parts: Sequence[int], left: int, weights: Sequence[float]) -> None:
    """Largest remainders (Hamilton)."""
    weight = sum(weights[part] for part in parts)
    exact = {part: left * weights[part] / weight for part in parts}
    for part in parts:
        given[part] = int(exact[part])
    spare = left - sum(given[part] for part in parts)
    for part in sorted(parts, key=lambda part: (int(exact[part]) - exact[part], part))[:spare]:
        given[part] += 1
