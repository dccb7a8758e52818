"""Geometries in image coordinates, and their way to and from pixel masks.

Coordinates are continuous, half-open, with the origin at the outer corner of the top-left pixel, x right, y down:
the pixel in column 3, row 5 covers [3, 4) x [5, 6) and its centre is (3.5, 5.5). No torch here.
"""

from dataclasses import dataclass
from math import cos, radians, sin
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from pycocotools import mask as coco
from scipy import ndimage

from geotempo.model.errors import InputError

Point = tuple[float, float]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Box:
    """Axis-parallel box in pixels, x1 < x2 and y1 < y2."""

    x1: float
    y1: float
    x2: float
    y2: float

    def __post_init__(self) -> None:
        if not (self.x1 < self.x2 and self.y1 < self.y2):
            raise InputError(f"a box needs x1 < x2 and y1 < y2, got {self.as_tuple()}")

    def as_tuple(self) -> tuple[float, float, float, float]:
        """(x1, y1, x2, y2)."""
        return self.x1, self.y1, self.x2, self.y2

    @property
    def area(self) -> float:
        """Square pixels."""
        return (self.x2 - self.x1) * (self.y2 - self.y1)


@dataclass(frozen=True)
class RotatedBox:
    """Box around (cx, cy) with width and height in pixels, turned clockwise on the screen by `angle` degrees."""

    cx: float
    cy: float
    width: float
    height: float
    angle: float

    def __post_init__(self) -> None:
        if not (self.width > 0 and self.height > 0):
            raise InputError(f"a rotated box needs a positive size, got {self.width} x {self.height}")

    def corners(self) -> tuple[Point, Point, Point, Point]:
        """The four corners, clockwise on the screen from the unrotated top left."""
        c, s = cos(radians(self.angle)), sin(radians(self.angle))
        w, h = self.width / 2, self.height / 2
        a, b, d, e = ((self.cx + x * c - y * s, self.cy + x * s + y * c) for x, y in ((-w, -h), (w, -h), (w, h), (-w, h)))
        return a, b, d, e


@dataclass(frozen=True)
class Polygon:
    """Simple polygon in pixels: exterior ring and holes, rings not closed (first point not repeated)."""

    exterior: tuple[Point, ...]
    holes: tuple[tuple[Point, ...], ...] = ()

    def __post_init__(self) -> None:
        if len(self.exterior) < 3 or any(len(hole) < 3 for hole in self.holes):
            raise InputError(f"a polygon ring needs 3 or more points, got {len(self.exterior)} in the exterior")


@dataclass(frozen=True)
class Mask:
    """Pixel mask as compressed COCO RLE.

    Attributes:
        height: Rows of the image.
        width: Columns of the image.
        counts: Compressed run lengths, column-major, as in `pycocotools` (ASCII).
    """

    height: int
    width: int
    counts: str

    @classmethod
    def from_array(cls, array: npt.NDArray[Any]) -> "Mask":
        """Encode an H x W array; non-zero is inside."""
        rle = coco.encode(np.asfortranarray(array.astype(bool).astype(np.uint8)))
        counts = rle["counts"]
        text = counts.decode("ascii") if isinstance(counts, bytes) else counts
        return cls(int(array.shape[0]), int(array.shape[1]), text)

    def to_array(self) -> BoolArray:
        """Decode to an H x W boolean array."""
        decoded = coco.decode({"size": [self.height, self.width], "counts": self.counts.encode("ascii")})
        return np.asarray(decoded, dtype=np.bool_)

    def to_coco(self) -> dict[str, Any]:
        """The COCO dictionary {"size": [h, w], "counts": str}."""
        return {"size": [self.height, self.width], "counts": self.counts}


@dataclass(frozen=True)
class GridMask:
    """Coarse mask: a box divided into equal cells, each of them inside or outside.

    Its bounds are the box, whether or not the cells at its edges are inside.

    Attributes:
        box: In pixels.
        cells: Rows from top to bottom, each from left to right; all of one length, at least one cell inside.
    """

    box: Box
    cells: tuple[tuple[bool, ...], ...]

    def __post_init__(self) -> None:
        if len({len(row) for row in self.cells}) != 1 or not any(map(any, self.cells)):
            raise InputError("a grid needs rows of one length and at least one cell that is inside; leave an empty one out")

    @classmethod
    def from_array(cls, box: Box, array: npt.NDArray[Any]) -> "GridMask":
        """From an array (rows, columns); non-zero is inside."""
        return cls(box, tuple(map(tuple, array.astype(bool).tolist())))

    def to_array(self) -> BoolArray:
        """The cells, (rows, columns)."""
        return np.array(self.cells, dtype=np.bool_)


Geometry = Box | RotatedBox | Polygon | Mask | GridMask


def bounds(geometry: Geometry) -> Box:
    """Smallest axis-parallel box around a geometry, in pixels.

    Raises:
        InputError: The geometry is an empty mask.
    """
    match geometry:
        case Box():
            return geometry
        case GridMask():
            return geometry.box
        case Mask():
            array = geometry.to_array()
            rows, columns = np.flatnonzero(array.any(axis=1)), np.flatnonzero(array.any(axis=0))
            if not len(rows):
                raise InputError("an empty mask has no bounding box; leave the region out")
            return Box(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
        case RotatedBox():
            ring: tuple[Point, ...] = geometry.corners()
        case Polygon():
            ring = geometry.exterior
    xs, ys = [p[0] for p in ring], [p[1] for p in ring]
    return Box(min(xs), min(ys), max(xs), max(ys))


def area(geometry: Geometry) -> float:
    """Square pixels of a geometry, also where it lies outside its image."""
    match geometry:
        case Box():
            return geometry.area
        case Mask():
            return float(geometry.to_array().sum())
        case GridMask():
            return geometry.box.area * float(geometry.to_array().mean())
        case _:
            return float(shapely.area(to_shape(geometry)))


def to_shape(geometry: Geometry) -> shapely.Polygon | shapely.MultiPolygon:
    """A geometry as a shapely polygon in pixel coordinates; a grid whose cells do not hang together as several.

    Raises:
        InputError: The geometry is a mask (use `rasterize`).
    """
    match geometry:
        case Box():
            return shapely.box(*geometry.as_tuple())
        case RotatedBox():
            return shapely.Polygon(geometry.corners())
        case Polygon():
            return shapely.Polygon(geometry.exterior, geometry.holes)
        case GridMask():
            rows, columns = np.nonzero(geometry.to_array())
            xs, ys = _edges(geometry.box, *geometry.to_array().shape)
            cells = shapely.box(xs[columns], ys[rows], xs[columns + 1], ys[rows + 1])
            return _surfaces(shapely.union_all(cells))
        case Mask():
            raise InputError("a mask is no polygon; use rasterize()")


def _surfaces(shape: shapely.geometry.base.BaseGeometry) -> shapely.Polygon | shapely.MultiPolygon:
    """A union of rectangles, which is one polygon or several."""
    return shape if isinstance(shape, shapely.Polygon) else shapely.MultiPolygon(list(shapely.get_parts(shape)))


def rasterize(geometry: Geometry, height: int, width: int) -> BoolArray:
    """Pixels of an H x W image whose centre lies inside the geometry.

    Args:
        geometry: Any geometry; a `Mask` must have the size H x W.
        height: Rows.
        width: Columns.

    Returns:
        Boolean array of shape (height, width).
    """
    if isinstance(geometry, Mask):
        if (geometry.height, geometry.width) != (height, width):
            raise InputError(f"the mask is {geometry.width} x {geometry.height}, the image {width} x {height}; "
                             "resample one of them first")
        return geometry.to_array()
    out = np.zeros((height, width), dtype=np.bool_)
    box = bounds(geometry)
    x1, y1 = max(0, int(np.floor(box.x1))), max(0, int(np.floor(box.y1)))
    x2, y2 = min(width, int(np.ceil(box.x2))), min(height, int(np.ceil(box.y2)))
    if x1 >= x2 or y1 >= y2:
        return out
    if isinstance(geometry, GridMask):
        cells = geometry.to_array()
        rows = _cells_of(np.arange(y1, y2) + 0.5, box.y1, box.y2, cells.shape[0])
        columns = _cells_of(np.arange(x1, x2) + 0.5, box.x1, box.x2, cells.shape[1])
        # One row and column of nothing in front, where pixels whose centre lies outside the box point to.
        out[y1:y2, x1:x2] = np.pad(cells, ((1, 0), (1, 0)))[np.ix_(rows, columns)]
        return out
    xs, ys = np.meshgrid(np.arange(x1, x2) + 0.5, np.arange(y1, y2) + 0.5)
    shape = to_shape(geometry)
    shapely.prepare(shape)
    out[y1:y2, x1:x2] = shapely.contains_xy(shape, xs, ys)
    return out


def coverage(geometry: Geometry, box: Box, shape: tuple[int, int]) -> FloatArray:
    """How much of each cell of a box lies inside a geometry.

    Args:
        geometry: Any geometry.
        box: Divided into equal cells.
        shape: (rows, columns) of cells.

    Returns:
        Array of that shape, 0 to 1; exact areas, whatever the cells' size compared with pixels.
    """
    xs, ys = _edges(box, *shape)
    cell = box.area / (shape[0] * shape[1])
    match geometry:
        case Mask():
            array, left, top = _crop(geometry, box)
            columns, rows = left + np.arange(array.shape[1] + 1.0), top + np.arange(array.shape[0] + 1.0)
        case Box():
            array, (columns, rows) = np.ones((1, 1), dtype=np.bool_), _edges(geometry, 1, 1)
        case GridMask():
            array = geometry.to_array()
            columns, rows = _edges(geometry.box, *array.shape)
        case _:
            whole = shapely.make_valid(to_shape(geometry))
            shapely.prepare(whole)
            cells = shapely.box(xs[None, :-1], ys[:-1, None], xs[None, 1:], ys[1:, None])
            return np.asarray(shapely.area(shapely.intersection(cells, whole)) / cell, dtype=np.float64)
    covered: FloatArray = _overlap(ys, rows) @ array.astype(np.float64) @ _overlap(xs, columns).T / cell
    return covered


def _crop(mask: Mask, box: Box) -> tuple[BoolArray, int, int]:
    """The pixels of a mask that a box touches, and the column and row where they begin."""
    left, top = max(0, int(np.floor(box.x1))), max(0, int(np.floor(box.y1)))
    return mask.to_array()[top : max(top, int(np.ceil(box.y2))), left : max(left, int(np.ceil(box.x2)))], left, top


def _edges(box: Box, rows: int, columns: int) -> tuple[FloatArray, FloatArray]:
    """Edges of the columns (x) and of the rows (y)."""
    return np.linspace(box.x1, box.x2, columns + 1), np.linspace(box.y1, box.y2, rows + 1)


def _overlap(edges: FloatArray, others: FloatArray) -> FloatArray:
    """Length that each interval between `edges` shares with each one between `others`, (n, m)."""
    low = np.maximum(edges[:-1, None], others[None, :-1])
    high = np.minimum(edges[1:, None], others[None, 1:])
    shared: FloatArray = np.clip(high - low, 0.0, None)
    return shared


def _cells_of(centres: npt.NDArray[np.floating[Any]], low: float, high: float, count: int) -> npt.NDArray[np.int64]:
    """Number, from 1, of the cell between low and high that each coordinate lies in; 0 outside."""
    cells = np.floor((centres - low) / (high - low) * count).astype(np.int64)
    return np.where((centres >= low) & (centres < high), np.minimum(cells, count - 1) + 1, 0)


def interior_points(mask: BoolArray) -> tuple[Point, Point]:
    """Two pixel centres inside a mask: the deepest pixel, and the farthest from it that is at least half as deep.

    Depth is the Euclidean distance to the outside, so a long object gets one point in its middle or thick end and one
    at the other end, both away from the border.

    Args:
        mask: H x W boolean array with at least one pixel.

    Returns:
        ((x, y), (x, y)) in pixels; equal for a mask of a single pixel.
    """
    box = bounds(Mask.from_array(mask))
    x0, y0 = int(box.x1), int(box.y1)
    crop = np.pad(mask[y0 : int(box.y2), x0 : int(box.x2)], 1)
    depth = ndimage.distance_transform_edt(crop)[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    rows, columns = np.indices(depth.shape)
    far = np.where(depth >= depth.max() / 2, np.hypot(rows - row, columns - column), -1.0)
    row2, column2 = np.unravel_index(int(far.argmax()), depth.shape)
    return (float(x0 + column + 0.5), float(y0 + row + 0.5)), (float(x0 + column2 + 0.5), float(y0 + row2 + 0.5))
