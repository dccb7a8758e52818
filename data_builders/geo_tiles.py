"""Dated rasters of places in tiles, with the labels on each tile and their state on each date."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import shapely

from geotempo.data_builders.geo_labels import Label, Labels
from geotempo.data_builders.instances import mask_points
from geotempo.data_builders.segmentations import as_polygon
from geotempo.data_builders.tiling import Tiles, Window, windows
from geotempo.model.dates import AcquisitionDate
from geotempo.model.errors import LayoutError
from geotempo.model.geo import Georeference
from geotempo.model.geometry import BoolArray, Geometry, Mask, rasterize
from geotempo.model.raster import load_stack, open_source
from geotempo.model.records import ImageRecord, Region
from geotempo.model.source import Grid

SLIVER = 16.0
"""Square pixels below which what a tile cuts off from a larger object is left out."""
SAME_PLACE = 0.5
"""Share of the smaller of two rasters that the other must cover for them to show one place."""
DATA = 0.5
"""Share of a tile, or of an object, that must hold data on a date."""


@dataclass(frozen=True)
class Dated:
    """A raster and its date.

    Attributes:
        path: File, or folder of single-band files.
        date: Of acquisition.
        grid: Size and place.
        changed: When it was written, so that a new file is read anew.
        name: What it is called where its file's name does not tell.
        series: Only rasters of one series show one place together.
    """

    path: str
    date: AcquisitionDate
    grid: Grid
    changed: int = 0
    name: str = ""
    series: str = ""


@dataclass(frozen=True)
class Place:
    """Rasters of one ground in time order; the last one's grid is that of all.

    Attributes:
        name: Unique.
        shots: In time order.
    """

    name: str
    shots: tuple[Dated, ...]

    @property
    def grid(self) -> Grid:
        """The common grid."""
        return self.shots[-1].grid


@dataclass(frozen=True)
class TileSpec:
    """A tile to be read.

    Attributes:
        place: Where.
        name: `-row-column`, or empty for the whole place.
        rows: First row and the row after the last.
        columns: The same of columns.
        bands: Bands to show; None for the usual ones.
    """

    place: Place
    name: str
    rows: tuple[int, int]
    columns: tuple[int, int]
    bands: str | None = None

    @property
    def window(self) -> Window:
        """As slices."""
        return slice(*self.rows), slice(*self.columns)


@dataclass(frozen=True)
class Thing:
    """A label on a tile.

    Attributes:
        label: The label.
        region: In pixels of the tile, image 1, with its class.
        states: For each view: there, not there, or unknown (None).
    """

    label: Label
    region: Region
    states: tuple[bool | None, ...]


@dataclass(frozen=True)
class Tile:
    """A tile that was read.

    Attributes:
        images: Views with data, in time order.
        dates: Of the views.
        things: Labels on it, largest first.
        doubts: For each view the classes of which something cannot be told: a sliver, an unknown date, no data.
        footprint: [west, south, east, north] in degrees.
        counts: What was left out.
    """

    images: tuple[ImageRecord, ...]
    dates: tuple[AcquisitionDate, ...]
    things: tuple[Thing, ...]
    doubts: tuple[frozenset[str], ...]
    footprint: tuple[float, float, float, float]
    counts: Mapping[str, int] = field(default_factory=dict)


def open_dated(path: str, date: AcquisitionDate, name: str = "", series: str = "") -> Dated:
    """A raster with a date, see `Dated`.

    Raises:
        InputError: It cannot be read.
        LayoutError: It has no georeference.
        MissingExtraError: rasterio or pyproj is not installed.
    """
    grid = open_source(path).grid
    if grid.place is None:
        raise LayoutError(
            f"{Path(path).name} has no georeference, so labels cannot be laid on it; assign one, e.g. with "
            "gdal_edit.py -a_srs EPSG:n -a_ullr WEST NORTH EAST SOUTH"
        )
    return Dated(path, date, grid, Path(path).stat().st_mtime_ns, name, series)


def footprint(grid: Grid, window: Window | None = None) -> tuple[float, float, float, float]:
    """West, south, east and north of a grid, or of a window of it, in degrees."""
    assert grid.place is not None
    rows, columns = window or (slice(0, grid.height), slice(0, grid.width))
    side = np.linspace(0, 1, 9)
    x, y = columns.start + (columns.stop - columns.start) * side, rows.start + (rows.stop - rows.start) * side
    edge = np.concatenate(
        [np.stack([x, np.full(9, end)], 1) for end in y[[0, -1]]]
        + [np.stack([np.full(9, end), y], 1) for end in x[[0, -1]]]
    )
    lonlat = grid.place.lonlat(edge)
    west, south, east, north = (float(value) for value in (*lonlat.min(axis=0), *lonlat.max(axis=0)))
    return west, south, east, north


def group_places(rasters: Sequence[Dated]) -> list[Place]:
    """Rasters that cover each other by `SAME_PLACE` or more as places, each in time order.

    Raises:
        LayoutError: Two rasters of one place have one date.
    """
    groups: list[tuple[shapely.Polygon, list[Dated]]] = []
    for raster in sorted(rasters, key=lambda one: (one.date.sort_key, one.path)):
        ground = shapely.box(*footprint(raster.grid))
        for other, members in groups:
            if raster.series == members[0].series and ground.intersection(other).area >= SAME_PLACE * min(
                ground.area, other.area
            ):
                members.append(raster)
                break
        else:
            groups.append((ground, [raster]))
    names: Counter[str] = Counter()
    places = []
    for _, members in groups:
        for first, second in pairwise(members):
            if first.date == second.date:
                raise LayoutError(
                    f"{Path(first.path).name} and {Path(second.path).name} show one place on one date ({first.date}); "
                    "keep one of them, or give their times"
                )
        stem = members[0].name or Path(members[0].path).stem
        names[stem] += 1
        places.append(Place(stem if names[stem] == 1 else f"{stem}~{names[stem]}", tuple(members)))
    return places


def tiles_of(place: Place, side: int, overlap: int, bands: str | None) -> Iterator[TileSpec]:
    """Tiles of at most `side` pixels, neighbours sharing `overlap` of them."""
    grid = place.grid
    grow = overlap // 2 if side else 0
    for name, (rows, columns) in windows(grid.height, grid.width, side - 2 * grow):
        yield TileSpec(place, name, (max(0, rows.start - grow), min(grid.height, rows.stop + grow)),
                       (max(0, columns.start - grow), min(grid.width, columns.stop + grow)), bands)


class _Scene:
    """A place whose pixels are read; one at a time is kept in memory."""

    def __init__(self, place: Place, bands: str | None) -> None:
        stack = load_stack([shot.path for shot in place.shots], [shot.date.text for shot in place.shots], bands=bands)
        self.tiles = Tiles(stack.images, 1)
        self.valid = [None if image.valid is None else image.valid.to_array() for image in stack.images]


@lru_cache(maxsize=1)
def _scene(place: Place, bands: str | None) -> _Scene:
    return _Scene(place, bands)


@lru_cache(maxsize=1)
def _on_place(place: Place, labels: Labels) -> tuple[list[Label], list[shapely.Geometry], shapely.STRtree]:
    """Labels that may touch a place, their shapes in its pixels, and an index of these."""
    ground = place.grid.place
    assert ground is not None
    near = shapely.STRtree([label.shape for label in labels.all]).query(
        shapely.box(*footprint(place.grid)).buffer(1e-6)
    )
    chosen = [labels.all[index] for index in sorted(near.tolist())]
    shapes = [_in_pixels(label.shape, ground) for label in chosen]
    return chosen, shapes, shapely.STRtree(shapes)


def _in_pixels(shape: shapely.Geometry, ground: Georeference) -> shapely.Geometry:
    """A shape in degrees in pixels; empty where the raster's projection is not defined on all of it."""
    moved = shapely.transform(shape, ground.pixels)
    return shapely.make_valid(moved) if np.isfinite(shapely.get_coordinates(moved)).all() else shapely.MultiPolygon()


@lru_cache(maxsize=1)
def read_tile(spec: TileSpec, labels: Labels) -> Tile:
    """The views and labels of a tile.

    Args:
        spec: Which one.
        labels: All labels.

    Raises:
        InputError: The rasters cannot be read or laid on each other.
    """
    scene = _scene(spec.place, spec.bands)
    rows, columns = spec.window
    shape = rows.stop - rows.start, columns.stop - columns.start
    valid = [np.ones(shape, np.bool_) if whole is None else whole[spec.window] for whole in scene.valid]
    kept = [number for number, part in enumerate(valid) if part.mean() >= DATA]
    counts: Counter[str] = Counter({"views without data": len(valid) - len(kept)})
    images = scene.tiles.at(spec.window) if kept else ()
    dates = tuple(shot.date for shot in spec.place.shots)
    views = tuple(replace(images[n], valid=None if valid[n].all() else Mask.from_array(valid[n])) for n in kept)
    things, doubts = _things(spec, labels, [dates[n] for n in kept], [valid[n] for n in kept], counts)
    return Tile(views, tuple(dates[n] for n in kept), tuple(things), tuple(map(frozenset, doubts)),
                footprint(spec.place.grid, spec.window), +counts)


def _things(spec: TileSpec, labels: Labels, dates: Sequence[AcquisitionDate], valid: Sequence[BoolArray],
            counts: Counter[str]) -> tuple[list[Thing], list[set[str]]]:
    """Labels of a tile, largest first, and the classes in doubt on each view."""
    chosen, shapes, index = _on_place(spec.place, labels)
    rows, columns = spec.window
    height, width = rows.stop - rows.start, columns.stop - columns.start
    found: list[tuple[float, Thing]] = []
    doubts: list[set[str]] = [set() for _ in dates]
    for number in sorted(index.query(shapely.box(columns.start, rows.start, columns.stop, rows.stop)).tolist()):
        label = chosen[number]
        whole = shapely.transform(shapes[number], lambda xy: xy - (columns.start, rows.start))
        clipped = _surfaces(whole.intersection(shapely.box(0, 0, width, height)))
        if clipped.is_empty:
            continue
        geometry, pixels = _geometry(clipped, height, width)
        if not pixels.any() or (clipped.area < SLIVER and clipped.area < whole.area / 2):
            counts["slivers of labels" if clipped.area < whole.area / 2 else "labels smaller than a pixel"] += 1
            for date, doubt in zip(dates, doubts, strict=True):
                if label.seen(date) is not False:
                    doubt.add(label.thing)
            continue
        states = tuple(_state(label, date, part, pixels) for date, part in zip(dates, valid, strict=True))
        for state, doubt in zip(states, doubts, strict=True):
            if state is None:
                doubt.add(label.thing)
        if label.fault is None:
            found.append((clipped.area, Thing(label, Region(1, geometry, label.thing, mask_points(pixels)), states)))
    return [thing for _, thing in sorted(found, key=lambda pair: -pair[0])], doubts


def _state(label: Label, date: AcquisitionDate, valid: BoolArray, pixels: BoolArray) -> bool | None:
    """Whether a label is there on a view; unknown where most of it lies on no data."""
    seen = label.seen(date)
    return seen if seen is False or valid[pixels].mean() >= DATA else None


def _geometry(shape: shapely.Geometry, height: int, width: int) -> tuple[Geometry, BoolArray]:
    """A polygon where it is one, else a mask; and its pixels."""
    parts = list(shapely.get_parts(shape))
    polygons = [as_polygon(shapely.simplify(part, 0.01)) for part in parts]
    pixels = np.logical_or.reduce([rasterize(polygon, height, width) for polygon in polygons])
    return (polygons[0] if len(polygons) == 1 else Mask.from_array(pixels)), pixels


def _surfaces(shape: shapely.Geometry) -> shapely.MultiPolygon:
    """What of an intersection has an area."""
    parts = [part for item in shapely.get_parts(shape) for part in shapely.get_parts(item)]
    return shapely.MultiPolygon([part for part in parts if isinstance(part, shapely.Polygon) and part.area > 0])
