"""The coordinate grid of the answer grammar: from regions to written items and back.

An `Item` is one region as the text holds it: numbers on the answer's grid, a label, perhaps two points. Everything
that turns pixels into grid numbers, grid numbers into pixels, or items into text is here; reading text that a model
wrote is `geotempo.model.answer_parse`, and users import `geotempo.model.answer`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, isfinite
from typing import Literal

import numpy as np
import numpy.typing as npt
import shapely

from geotempo.model.answer_cells import Cells, to_cells, write_cells
from geotempo.model.errors import InputError
from geotempo.model.geometry import (
    BoolArray,
    Box,
    Geometry,
    GridMask,
    Mask,
    Point,
    bounds,
    interior_points,
    rasterize,
    to_shape,
)
from geotempo.model.records import Frame, Region

TEOCHAT_GRID = 100
"""Cells per side in `teochat` mode (TEOChat writes percent of width and height)."""

Mode = Literal["geotempo", "teochat"]

Inside = Callable[[npt.NDArray[np.float64], npt.NDArray[np.float64]], BoolArray]

FUZZ = 1e-6
"""Cells by which numbers may be off: division leaves a number that came from the grid off by a few 1e-13."""

# What a label may not hold as it is. Beside what JSON asks for: C1 controls, the line separators that split text
# files, lone surrogates that no UTF-8 file can hold, and "<", which opens every special token ("</s>", "<image>").
_UNSAFE = re.compile("[\"\\\\<\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


@dataclass(frozen=True)
class Item:
    """One region as it stands in the text.

    Attributes:
        image: Acquisition number from 1.
        box: x1, y1, x2, y2 in cells.
        label: Unescaped.
        points: Two points in cells, or None.
        grid: Which parts of the box are inside, or None.
    """

    image: int
    box: tuple[float, float, float, float]
    label: str = ""
    points: tuple[Point, Point] | None = None
    grid: Cells | None = None

    @property
    def order(self) -> tuple[float, float, float]:
        """Image, top edge, left edge: the order in which a list is written."""
        return self.image, self.box[1], self.box[0]


def in_mode(frames: Sequence[Frame], mode: Mode) -> tuple[Frame, ...]:
    """The frames with the cells that a mode counts in: their own, in `teochat` mode always `TEOCHAT_GRID`.

    Raises:
        InputError: The mode is unknown.
    """
    if mode not in ("geotempo", "teochat"):
        raise InputError(f"unknown answer mode {mode!r}; allowed: geotempo, teochat")
    return tuple(frames) if mode == "geotempo" else tuple(replace(frame, grid=TEOCHAT_GRID) for frame in frames)


def limits(frame: Frame) -> tuple[int, int]:
    """Last grid lines (x, y) that a box on this image may use; less than `grid` where the image is letterboxed."""
    across, down = (max(1, min(frame.grid, ceil(end - FUZZ))) for end in ends(frame))
    return across, down


def ends(frame: Frame) -> tuple[float, float]:
    """Where the image ends, in cells (x, y)."""
    return frame.width * frame.grid / frame.span[0], frame.height * frame.grid / frame.span[1]


def frame_of(image: int, frames: Sequence[Frame]) -> Frame:
    """The frame of an acquisition.

    Raises:
        InputError: There is no such acquisition.
    """
    if not 1 <= image <= len(frames):
        raise InputError(f"a region is on image {image}, but there are {len(frames)} images, counted from 1")
    return frames[image - 1]


def to_item(region: Region, frames: Sequence[Frame], points: bool, grids: bool) -> Item:
    """Put a region on the grid: its bounding box rounded outward, its points on nodes inside it, its shape as cells.

    Args:
        region: Any geometry; boxes that reach over the image's edge are clipped.
        frames: One per acquisition, in the cells to write (`in_mode`).
        points: Whether two interior points are wanted.
        grids: Whether the cells of its box that are inside are wanted.

    Raises:
        InputError: The image number has no frame, the region lies outside its image, or its mask has another size.
    """
    frame = frame_of(region.image, frames)
    geometry = region.geometry
    if isinstance(geometry, Mask) and (geometry.width, geometry.height) != (frame.width, frame.height):
        raise InputError(f"a mask of {geometry.width} x {geometry.height} is on image {region.image} of {frame.width} x "
                         f"{frame.height}; resample the mask to the image")
    box = bounds(geometry)
    if box.x1 >= frame.width or box.y1 >= frame.height or box.x2 <= 0 or box.y2 <= 0:
        raise InputError(f"a region at {box.as_tuple()} lies outside image {region.image} of {frame.width} x "
                         f"{frame.height}; leave it out")
    x1, x2 = _side(box.x1, box.x2, frame.width, frame.span[0], frame.grid)
    y1, y2 = _side(box.y1, box.y2, frame.height, frame.span[1], frame.grid)
    cells = (x1, y1, x2, y2)
    nodes = _nodes(region, frame, cells) if points else None
    grid = to_cells(geometry, _pixel_box(cells, frame)) if grids else None
    return Item(region.image, cells, _whole(region.label), nodes, grid)


def to_region(item: Item, frame: Frame) -> Region:
    """Take an item back to pixels of the user's image, clipped to it.

    Args:
        item: Its box must overlap the image.
        frame: Of the item's acquisition, in the cells of the item.
    """
    box = _pixel_box(item.box, frame)
    points = (_pixel(item.points[0], frame), _pixel(item.points[1], frame)) if item.points else None
    return Region(item.image, GridMask(box, item.grid) if item.grid else box, item.label, points)


def write_item(item: Item) -> str:
    """One item as compact JSON: image, bbox_2d, then points, grid and label where there are any."""
    text = f'{{"image":{item.image},"bbox_2d":{_numbers(item.box)}'
    if item.points:
        text += f',"points":[{_numbers(item.points[0])},{_numbers(item.points[1])}]'
    if item.grid:
        text += f',"grid":"{write_cells(item.grid)}"'
    if item.label:
        text += f',"label":"{escape(item.label)}"'
    return text + "}"


def write_list(items: Sequence[Item], mode: Mode) -> str:
    """A list of items exactly as the grammar of the mode says."""
    if mode == "teochat":
        return ", ".join(_numbers(item.box, ", ") for item in items) or "[]"
    return "[" + ",".join(write_item(item) for item in items) + "]"


def escape(label: str) -> str:
    """The inside of a JSON string that no character of the label can end, split or turn into a special token."""

    def one(match: re.Match[str]) -> str:
        char = match.group()
        return _SHORT.get(char) or f"\\u{ord(char):04x}"

    return _UNSAFE.sub(one, _whole(label))


def _whole(label: str) -> str:
    """The label with two surrogates that form a pair replaced by their character, as every JSON reader does."""
    return label.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _numbers(values: Sequence[float], separator: str = ",") -> str:
    """A bracketed list; whole numbers are written without a point."""
    return "[" + separator.join(str(int(v)) if v == int(v) else repr(v) for v in values) + "]"


def _side(low: float, high: float, size: int, span: float, grid: int) -> tuple[int, int]:
    """One axis of a box on the grid: clipped to the image, rounded outward, at least one cell long."""
    limit = max(1, min(grid, ceil(size * grid / span - FUZZ)))
    first = min(floor(max(low, 0.0) * grid / span + FUZZ), limit - 1)
    last = min(ceil(min(high, float(size)) * grid / span - FUZZ), limit)
    return first, max(last, first + 1)


def _pixel(point: Point, frame: Frame) -> Point:
    """A point in cells as pixels, moved to the image's edge where it lies beyond."""
    return (min(max(point[0] * frame.span[0] / frame.grid, 0.0), float(frame.width)),
            min(max(point[1] * frame.span[1] / frame.grid, 0.0), float(frame.height)))


def _pixel_box(cells: tuple[float, float, float, float], frame: Frame) -> Box:
    """A box in cells as pixels, clipped to the image."""
    return Box(*_pixel(cells[:2], frame), *_pixel(cells[2:], frame))


def _nodes(region: Region, frame: Frame, cells: tuple[int, int, int, int]) -> tuple[Point, Point] | None:
    """Two grid nodes inside a region, nearest to its points; None where no node lies inside it."""
    geometry, points = region.geometry, region.points
    if points is None:
        if isinstance(geometry, Box | GridMask):
            return None  # a box does not know what of it is the object, a grid only knows it roughly
        mask = rasterize(geometry, frame.height, frame.width)
        if not mask.any():
            return None
        points = interior_points(mask)
    if not all(isfinite(value) for point in points for value in point):
        raise InputError(f"the points {points} of a region on image {region.image} are no finite numbers")
    scale = (frame.span[0] / frame.grid, frame.span[1] / frame.grid)
    if isinstance(geometry, Box | GridMask) and any(_beyond(point, cells, scale) for point in points):
        return None
    inside = _inside(geometry)
    first, second = (_snap(point, inside, cells, frame) for point in points)
    return (first, second) if first and second else None


def _beyond(point: Point, cells: tuple[int, int, int, int], scale: tuple[float, float]) -> bool:
    """Whether a point lies outside a box, so that moving it in would be a guess."""
    x, y = point[0] / scale[0], point[1] / scale[1]
    return not (cells[0] <= x <= cells[2] and cells[1] <= y <= cells[3])


def _inside(geometry: Geometry) -> Inside:
    """A test of which pixel coordinates lie inside a geometry.

    A box takes everything: its cells bound the search. So does a grid, which is coarser than the points given with it.
    """
    if isinstance(geometry, Box | GridMask):
        return lambda xs, ys: np.ones(xs.shape, dtype=np.bool_)
    if not isinstance(geometry, Mask):
        shape = to_shape(geometry)
        return lambda xs, ys: np.asarray(shapely.contains_xy(shape, xs, ys), dtype=np.bool_)
    array = geometry.to_array()

    def in_mask(xs: npt.NDArray[np.float64], ys: npt.NDArray[np.float64]) -> BoolArray:
        columns, rows = np.floor(xs).astype(np.int64), np.floor(ys).astype(np.int64)
        on = (columns >= 0) & (rows >= 0) & (columns < array.shape[1]) & (rows < array.shape[0])
        return np.asarray(on & array[rows.clip(0, array.shape[0] - 1), columns.clip(0, array.shape[1] - 1)])

    return in_mask


def _snap(point: Point, inside: Inside, cells: tuple[int, int, int, int], frame: Frame) -> Point | None:
    """The grid node inside the geometry that is nearest to a point; the direct neighbours are tried first."""
    span, grid = frame.span, frame.grid
    near = round(point[0] * grid / span[0]), round(point[1] * grid / span[1])
    for reach in (1, grid):
        columns = np.arange(max(cells[0], near[0] - reach), min(cells[2], near[0] + reach) + 1)
        rows = np.arange(max(cells[1], near[1] - reach), min(cells[3], near[1] + reach) + 1)
        if not (len(columns) and len(rows)):
            continue
        xs, ys = np.meshgrid(columns * span[0] / grid, rows * span[1] / grid)
        found = inside(xs, ys)
        if found.any():
            distance = np.where(found, np.hypot(xs - point[0], ys - point[1]), np.inf)
            row, column = np.unravel_index(int(distance.argmin()), distance.shape)
            return int(columns[column]), int(rows[row])
    return None
