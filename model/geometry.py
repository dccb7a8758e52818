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


Geometry = Box | RotatedBox | Polygon | Mask


def bounds(geometry: Geometry) -> Box:
    """Smallest axis-parallel box around a geometry, in pixels.

    Raises:
        InputError: The geometry is an empty mask.
    """
    match geometry:
        case Box():
            return geometry
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


def to_shape(geometry: Geometry) -> shapely.Polygon:
    """A box, rotated box or polygon as a shapely polygon in pixel coordinates.

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
        case Mask():
            raise InputError("a mask is no polygon; use rasterize()")


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
    xs, ys = np.meshgrid(np.arange(x1, x2) + 0.5, np.arange(y1, y2) + 0.5)
    shape = to_shape(geometry)
    shapely.prepare(shape)
    out[y1:y2, x1:x2] = shapely.contains_xy(shape, xs, ys)
    return out


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
