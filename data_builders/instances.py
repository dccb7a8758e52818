"""Label masks to instances: connected components with two interior points each, largest first."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from geotempo.model.geometry import BoolArray, Mask, interior_points, rasterize
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
    return [Region(image, Mask.from_array(part), label, interior_points(part)) for part in components(mask)]


def flags(regions: Sequence[Region], height: int, width: int) -> dict[str, list[str]]:
    """Doubts about regions, for `meta["flags"]`.

    Returns:
        Region index as text -> `small` (under 16 pixels) and/or `border` (touches the image's edge); only regions
        with a flag are listed.
    """
    found: dict[str, list[str]] = {}
    for index, region in enumerate(regions):
        array = rasterize(region.geometry, height, width)
        names = ["small"] if int(array.sum()) < SMALL else []
        if array[0].any() or array[-1].any() or array[:, 0].any() or array[:, -1].any():
            names.append("border")
        if names:
            found[str(index)] = names
    return found


def flag_meta(regions: Sequence[Region], height: int, width: int) -> dict[str, Any]:
    """`{"flags": ...}`, or an empty dictionary where nothing is flagged."""
    found = flags(regions, height, width)
    return {"flags": found} if found else {}
