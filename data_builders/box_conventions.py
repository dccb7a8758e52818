"""Whether four numbers are x, y, width, height or two corners, decided by the masks that the boxes belong to."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from geotempo.data_builders.segmentations import inside_box
from geotempo.data_builders.source import Rejection
from geotempo.model.errors import LayoutError
from geotempo.model.geometry import Box

Convention = Literal["xywh", "xyxy"]
Corners = tuple[float, float, float, float]

AGREE = 0.5
"""IoU of a box with the box around its mask, below which they contradict each other."""

_NAMES: tuple[Convention, ...] = ("xywh", "xyxy")


def deciding(pairs: Sequence[tuple[Any, Box]], name: str) -> Convention:
    """The way of writing that fits more boxes.

    Args:
        pairs: Four numbers as a file has them, and the box around the mask.
        name: Of the file, for messages.

    Raises:
        LayoutError: Neither way fits half of them.
    """
    fits: Counter[Convention] = Counter(way for values, around in pairs for way in _NAMES if _fits(values, way, around))
    best = max(_NAMES, key=lambda way: fits[way])
    if not pairs or fits[best] < len(pairs) / 2:
        raise LayoutError(
            f"{name}: of {len(pairs)} boxes {fits['xywh']} fit their masks as x, y, width, height and {fits['xyxy']} "
            "as two corners; the assumption that they are one of these does not hold"
        )
    return best


def agreeing(annotation: Mapping[str, Any], around: Box, convention: Convention, height: int, width: int) -> Box:
    """The box of an annotation, in pixels of its image.

    Args:
        annotation: With `id` and `bbox`.
        around: The box around its mask.
        convention: How boxes are written.
        height: Rows of the image.
        width: Columns.

    Raises:
        Rejection: It is no box, or contradicts the mask.
    """
    values, name = annotation.get("bbox"), f"annotation {annotation['id']}"
    corners = _corners(values, convention)
    if corners is None:
        raise Rejection("impossible box", f"{name}: {values!r:.80} is no four numbers")
    if not _fits(values, convention, around):
        other = next(way for way in _NAMES if way != convention)
        hint = f"; as {other} it would fit" if _fits(values, other, around) else ""
        raise Rejection("box and mask differ", f"{name}: the box {values} ({convention}) is not around its mask{hint}")
    return inside_box(corners, height, width, name)


def _corners(values: Any, convention: Convention) -> Corners | None:
    try:
        x, y, a, b = (float(value) for value in values)
    except (TypeError, ValueError):
        return None
    return (x, y, x + a, y + b) if convention == "xywh" else (x, y, a, b)


def _fits(values: Any, convention: Convention, box: Box) -> bool:
    """Whether four numbers, which need not be a box, overlap a box enough."""
    corners = _corners(values, convention)
    if corners is None:
        return False
    x1, y1, x2, y2 = corners
    shared = max(0.0, min(x2, box.x2) - max(x1, box.x1)) * max(0.0, min(y2, box.y2) - max(y1, box.y1))
    return shared > 0 and shared / ((x2 - x1) * (y2 - y1) + box.area - shared) >= AGREE
