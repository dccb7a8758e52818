"""Label masks to instances: connected components with two interior points each, largest first."""

from collections.abc import Sequence
from math import ceil, floor
from typing import Any

import numpy as np
from scipy import ndimage

from geotempo.model.geometry import BoolArray, Geometry, Mask, Point, bounds, interior_points, rasterize
from geotempo.model.records import Region

SMALL = 16  # pixels; below that a component is more likely a trace of the labelling than an object
_NEIGHBOURS = ndimage.generate_binary_structure(2, 2)


def components(mask: BoolArray) -> list[BoolArray]:
    """Split a mask into its 8-connected components.

    Args:
        mask: H x W boolean array.

    Returns:
        Disjoint H x W masks whose union is `mask`; largest first, ties by the first pixel in reading order.
    """
    labels, count = ndimage.label(mask, structure=_NEIGHBOURS)
    sizes = np.bincount(np.asarray(labels).ravel(), minlength=count + 1)[1:]
    order = np.argsort(-sizes, kind="stable")  # ndimage.label numbers in reading order
    return [np.asarray(labels == index + 1) for index in order]


def instances(mask: BoolArray, image: int, label: str) -> list[Region]:
    """The components of a mask as regions with mask geometry and two interior points, largest first.

    Args:
        mask: H x W boolean array.
        image: Acquisition number on which the regions are drawn.
        label: Label of every region.
    """
    return [Region(image, Mask.from_array(part), label, mask_points(part)) for part in components(mask)]


def mask_points(mask: BoolArray) -> tuple[Point, Point] | None:
    """`interior_points`, computed on the mask's bounding box only, which matters on large images.

    Args:
        mask: H x W boolean array.

    Returns:
        Two pixel centres, or None for an empty mask (a sliver between pixel centres).
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    top, left = int(rows[0]), int(columns[0])
    (x1, y1), (x2, y2) = interior_points(mask[top : rows[-1] + 1, left : columns[-1] + 1])
    return (x1 + left, y1 + top), (x2 + left, y2 + top)


def flags(regions: Sequence[Region], height: int, width: int) -> dict[str, list[str]]:
    """Doubts about regions, for `meta["flags"]`.

    Returns:
        Region index as text -> `small` (under 16 pixels) and/or `border` (touches the image's edge); only regions
        with a flag are listed.
    """
    found: dict[str, list[str]] = {}
    for index, region in enumerate(regions):
        names = ["small"] if _is_small(region.geometry, height, width) else []
        box = bounds(region.geometry)
        if floor(box.x1) <= 0 or floor(box.y1) <= 0 or ceil(box.x2) >= width or ceil(box.y2) >= height:
            names.append("border")
        if names:
            found[str(index)] = names
    return found


def flag_meta(regions: Sequence[Region], height: int, width: int) -> dict[str, Any]:
    """`{"flags": ...}`, or an empty dictionary where nothing is flagged."""
    found = flags(regions, height, width)
    return {"flags": found} if found else {}


def _is_small(geometry: Geometry, height: int, width: int) -> bool:
    return int(rasterize(geometry, height, width).sum()) < SMALL
