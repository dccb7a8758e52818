"""Segmentations as COCO writes them: polygons, run lengths of both kinds, lists of run lengths, boxes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import shapely
from pycocotools import mask as coco

from geotempo.data_builders.instances import mask_points
from geotempo.data_builders.source import Rejection
from geotempo.model.errors import InputError
from geotempo.model.geometry import BoolArray, Box, Geometry, Mask, Polygon, rasterize
from geotempo.model.records import Region


def segmented(segmentation: Any, height: int, width: int, label: str, image: int = 1) -> Region:
    """A segmentation as a region: one simple ring stays a polygon, everything else becomes a mask.

    Args:
        segmentation: A list of rings `[x, y, x, y, ...]` in pixels, one such ring, a dictionary of run lengths with
            `size` [height, width] and `counts` (a list, or compressed), or a list of such dictionaries, whose union is
            meant.
        height: Rows of the image.
        width: Columns.
        label: Of the region.
        image: Acquisition number.

    Raises:
        Rejection: It is none of these, of another size, or empty on the image.
    """
    try:
        geometry = _geometry(segmentation, height, width)
    except (TypeError, ValueError, KeyError, IndexError, OverflowError, InputError) as error:
        raise Rejection(
            "broken segmentation", f"{label}: {' '.join(str(error).split())[:160] or type(error).__name__}"
        ) from None
    points = mask_points(rasterize(geometry, height, width))
    if points is None:
        raise Rejection("empty segmentation", f"{label}: no pixel of the image of {width} x {height} lies inside")
    return Region(image, geometry, label, points)


def boxed(values: Any, height: int, width: int, label: str, image: int = 1) -> Region:
    """A box `[x, y, w, h]` in pixels as a region, cut at the image's border.

    Raises:
        Rejection: It is no box, or lies outside.
    """
    try:
        x, y, w, h = (float(value) for value in values)
        if not np.isfinite([x, y, w, h]).all() or w <= 0 or h <= 0:
            raise ValueError
    except (TypeError, ValueError):
        raise Rejection("impossible box", f"{label}: {values!r:.80} is no [x, y, width, height] with a size") from None
    return Region(image, inside_box((x, y, x + w, y + h), height, width, label), label)


def inside_box(corners: tuple[float, float, float, float], height: int, width: int, label: str) -> Box:
    """The part of a box [x1, y1, x2, y2] that lies on an image.

    Raises:
        Rejection: x1 >= x2 or y1 >= y2, or more than half of it lies outside, so that it cannot belong to this image.
    """
    x1, y1, x2, y2 = corners
    if not (x1 < x2 and y1 < y2):
        raise Rejection("impossible box", f"{label}: [{x1:g}, {y1:g}, {x2:g}, {y2:g}] needs x1 < x2 and y1 < y2")
    left, top, right, bottom = max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2)
    if left >= right or top >= bottom or (right - left) * (bottom - top) < (x2 - x1) * (y2 - y1) / 2:
        raise Rejection(
            "impossible box",
            f"{label}: [{x1:g}, {y1:g}, {x2:g}, {y2:g}] lies outside of the image of {width} x {height}",
        )
    return Box(left, top, right, bottom)


def decode_runs(runs: Any, height: int, width: int) -> BoolArray:
    """Run lengths of either kind as pixels.

    Raises:
        ValueError: Of another size, or not of that many pixels.
        KeyError: Without `size` or `counts`.
        TypeError: Counts are neither a list nor text.
    """
    if list(runs["size"]) != [height, width]:
        raise ValueError(f"run lengths of size {runs['size']} on an image of {height} rows and {width} columns")
    counts = runs["counts"]
    if not isinstance(counts, list):
        return np.asarray(coco.decode({"size": [height, width], "counts": counts}), dtype=np.bool_)
    lengths = np.asarray(counts, dtype=np.int64)
    if (lengths < 0).any() or lengths.sum() != height * width:
        raise ValueError(f"run lengths of {lengths.sum()} pixels on an image of {height * width}")
    inside = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return np.asarray(inside.reshape((height, width), order="F"))


def _geometry(segmentation: Any, height: int, width: int) -> Geometry:
    if isinstance(segmentation, Mapping):
        return Mask.from_array(decode_runs(segmentation, height, width))
    if not isinstance(segmentation, Sequence) or isinstance(segmentation, str) or not segmentation:
        raise ValueError(f"{segmentation!r:.60} is neither polygons nor run lengths")
    if isinstance(segmentation[0], Mapping):
        return Mask.from_array(np.logical_or.reduce([decode_runs(runs, height, width) for runs in segmentation]))
    rings = [segmentation] if isinstance(segmentation[0], int | float) else segmentation
    polygons = [_ring(ring) for ring in rings]
    if len(polygons) == 1 and shapely.Polygon(polygons[0].exterior).is_valid:
        return polygons[0]
    return Mask.from_array(np.logical_or.reduce([_filled(polygon, height, width) for polygon in polygons]))


def _ring(values: Any) -> Polygon:
    points = np.asarray(values, dtype=np.float64)
    if points.ndim != 1 or len(points) % 2 or not np.isfinite(points).all():
        raise ValueError(f"{values!r:.60} is no ring x, y, x, y, ...")
    corners = [(float(x), float(y)) for x, y in points.reshape(-1, 2)]
    if len(corners) > 1 and corners[0] == corners[-1]:
        corners.pop()
    return Polygon(tuple(corners))


def as_polygon(shape: shapely.Polygon) -> Polygon:
    """A polygon of shapely in pixels, with its holes."""
    exterior, *holes = (
        [(float(x), float(y)) for x, y, *_ in ring.coords[:-1]] for ring in (shape.exterior, *shape.interiors)
    )
    return Polygon(tuple(exterior), tuple(tuple(hole) for hole in holes))


def _filled(polygon: Polygon, height: int, width: int) -> BoolArray:
    """Pixels inside a ring, also where it crosses itself."""
    valid = shapely.make_valid(shapely.Polygon(polygon.exterior))
    parts = [part for part in shapely.get_parts(valid) if isinstance(part, shapely.Polygon)]
    filled = [rasterize(as_polygon(part), height, width) for part in parts]
    return np.logical_or.reduce(filled) if filled else np.zeros((height, width), dtype=np.bool_)
