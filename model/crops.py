"""Which part of an image SAM looks at for which region: small objects are shown enlarged, on a crop. No torch here."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

from geotempo.model.geometry import Box

SMALL = 32
"""An object whose shorter side has fewer pixels than this on SAM's input is shown on a crop that gives it as many."""
CONTEXT = 2.0
"""Least side of a crop over the longer side of its object: SAM wants to see what lies around."""
SMALLEST_CROP = 24
"""Least side of a crop in image pixels; less would show nothing but blurred pixels."""


@dataclass(frozen=True)
class Window:
    """Columns x1..x2 and rows y1..y2 of an image, in whole pixels, half-open."""

    x1: int
    y1: int
    x2: int
    y2: int


@dataclass(frozen=True)
class Look:
    """A window and the regions that are segmented on it, by index."""

    window: Window
    members: tuple[int, ...]


def looks(boxes: Sequence[Box], width: int, height: int, side: int,
          scale: tuple[float, float] | None) -> list[Look]:
    """Share out regions among the whole image and crops.

    Args:
        boxes: Of the regions, inside the image.
        width: Columns of the image.
        height: Rows.
        side: Side of SAM's square input in pixels.
        scale: SAM's pixels per image pixel, along x and y, where it sees the whole image; None makes no crops.

    Returns:
        The whole image first, if any region is large enough on it; then crops, each of a size that suits its smallest
        member and with the members near it that fit. Every index is a member of exactly one look.
    """
    reach = [_reach(box, side) for box in boxes]
    small = [] if scale is None else [
        i for i, box in enumerate(boxes) if reach[i] < max(width, height)
        and min((box.x2 - box.x1) * scale[0], (box.y2 - box.y1) * scale[1]) < SMALL]
    large = sorted(set(range(len(boxes))) - set(small))
    found = [Look(Window(0, 0, width, height), tuple(large))] if large else []
    left = sorted(small, key=lambda i: (reach[i], boxes[i].y1, boxes[i].x1))
    while left:
        members, span = _gather(left, boxes, reach[left[0]])
        found.append(Look(_around(span, reach[left[0]], width, height), tuple(sorted(members))))
        left = [i for i in left if i not in members]
    return found


def _reach(box: Box, side: int) -> float:
    """Side of the largest crop on which an object is not small, or of the smallest one with enough context."""
    wide, high = box.x2 - box.x1, box.y2 - box.y1
    return max(side * min(wide, high) / SMALL, CONTEXT * max(wide, high), SMALLEST_CROP)


def _gather(left: Sequence[int], boxes: Sequence[Box], reach: float) -> tuple[set[int], Box]:
    """The first region and, nearest first, those that fit into a crop of side `reach` together with it."""
    first = boxes[left[0]]
    members, span = {left[0]}, first
    near = [i for i in left[1:] if _distance(first, boxes[i]) < reach]
    for i in sorted(near, key=lambda i: (_distance(first, boxes[i]), i)):
        joined = Box(min(span.x1, boxes[i].x1), min(span.y1, boxes[i].y1),
                     max(span.x2, boxes[i].x2), max(span.y2, boxes[i].y2))
        margin = 0.25 * max(boxes[i].x2 - boxes[i].x1, boxes[i].y2 - boxes[i].y1)
        if max(joined.x2 - joined.x1, joined.y2 - joined.y1) + 2 * margin <= reach:
            members.add(i)
            span = joined
    return members, span


def _distance(a: Box, b: Box) -> float:
    """Between the centres, along the axis on which they are farther apart."""
    return max(abs(a.x1 + a.x2 - b.x1 - b.x2), abs(a.y1 + a.y2 - b.y1 - b.y2)) / 2


def _around(span: Box, side: float, width: int, height: int) -> Window:
    """A window of about `side` pixels a side around a box, moved rather than cut where the image ends."""
    x1, x2 = _interval(span.x1, span.x2, side, width)
    y1, y2 = _interval(span.y1, span.y2, side, height)
    return Window(x1, y1, x2, y2)


def _interval(low: float, high: float, side: float, size: int) -> tuple[int, int]:
    length = min(size, ceil(side))
    start = min(max(0, floor((low + high - length) / 2)), size - length)
    return start, start + length
