"""The static world of a scene: ground, parcels, water, forest, roads. Buildings are in `buildings.py`.

Everything is drawn once per scene on a canvas and shared by all dates, so that only changes and nuisance differ.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from geotempo.data_builders.scenes.raster import MARGIN, grow, smooth_noise, stroke
from geotempo.data_builders.scenes.scene import BARE, FIELD, FOREST, GRASS, ROAD, WATER, ByteArray, FloatArray
from geotempo.model.geometry import BoolArray, Point

SETTINGS: Final = ("residential", "industrial", "farmland", "forest", "waterside")

# Reflectances: (lush, dry). Fields take one of several crops.
_GRASS = ((0.31, 0.37, 0.23), (0.50, 0.46, 0.35))
_BARE = ((0.56, 0.48, 0.36), (0.64, 0.55, 0.42))
_CROPS = (((0.26, 0.37, 0.19), (0.56, 0.51, 0.36)), ((0.36, 0.43, 0.24), (0.63, 0.58, 0.42)),
          ((0.29, 0.34, 0.22), (0.45, 0.38, 0.30)), ((0.43, 0.46, 0.28), (0.54, 0.45, 0.35)))
_PARCEL_SHARE = {"residential": 0.0, "industrial": 0.0, "farmland": 1.0, "forest": 0.25, "waterside": 0.6}
_FOREST_SHARE = {"residential": 0.12, "industrial": 0.06, "farmland": 0.12, "forest": 0.55, "waterside": 0.2}
_BARE_SHARE = {"residential": 0.15, "industrial": 0.5, "farmland": 0.12, "forest": 0.2, "waterside": 0.15}
_TREE_CHANCE = {"residential": 0.10, "industrial": 0.03, "farmland": 0.02, "forest": 0.08, "waterside": 0.05}
_WATER_CHANCE = {"residential": 0.12, "industrial": 0.06, "farmland": 0.15, "forest": 0.2, "waterside": 1.0}


@dataclass(frozen=True)
class Trees:
    """Tree crowns.

    Attributes:
        height: Crown height 0..1 per canvas pixel.
        tone: Brightness factor of the crown at each pixel.
        forest: Pixels of closed forest (gaps between its crowns included).
        seed: Index of the nearest tree per pixel.
        places: Tree positions (x, y), one row per seed.
    """

    height: FloatArray
    tone: FloatArray
    forest: BoolArray
    seed: npt.NDArray[np.int32]
    places: FloatArray


@dataclass(frozen=True)
class Road:
    """A road: centre line, width in pixels, coverage 0..1, lane markings 0..1, surface reflectance."""

    points: tuple[Point, ...]
    width: float
    cover: FloatArray
    marks: FloatArray
    surface: float


@dataclass(frozen=True)
class Layout:
    """The static world on a canvas of `side` pixels.

    Attributes:
        side: Image size + 2 MARGIN.
        scale: Factor on object sizes, 1 at 256 px.
        gsd: Metres per pixel.
        setting: One of `SETTINGS`.
        material: Index into `palette` per pixel.
        palette: K x 2 x 3 reflectances (lush, dry).
        phase: K offsets of the season, so that crops ripen at different times.
        texture: Brightness factor per pixel.
        cover: Land cover without buildings and changes.
        water: Depth tone 0..1 of permanent water, 0 elsewhere.
        trees: Crowns.
        roads: Roads there from the first date.
        new_road: A road that may be added later.
        heading: Main direction of the street grid in radians.
    """

    side: int
    scale: float
    gsd: float
    setting: str
    material: ByteArray
    palette: FloatArray
    phase: FloatArray
    texture: FloatArray
    cover: ByteArray
    water: FloatArray
    trees: Trees
    roads: tuple[Road, ...]
    new_road: Road | None
    heading: float


def make_layout(rng: np.random.Generator, size: int, setting: str, with_new_road: bool) -> Layout:
    """Lay out the static world.

    Args:
        rng: Source of randomness; the layout depends on nothing else.
        size: Side of the image in pixels.
        setting: One of `SETTINGS`.
        with_new_road: Reserve the course of a road that is added later.
    """
    side = size + 2 * MARGIN
    scale = float(np.clip(size / 256, 0.55, 1.25))
    heading = 0.0 if rng.random() < 0.3 else float(rng.uniform(-0.75, 0.75))
    gsd = round(float(rng.uniform(0.5, 2.0)), 2)
    broad, fine = smooth_noise(rng, side, 60 * scale), rng.standard_normal((side, side), dtype=np.float32)
    middle = smooth_noise(rng, side, 9)
    cover, material, palette, phase, rows = _ground(rng, side, scale, setting, heading, broad + 0.35 * middle)
    water = _water(rng, side, scale, setting, heading)
    roads, new_road = _roads(rng, side, scale, setting, heading, with_new_road)
    way = np.zeros((side, side), dtype=np.bool_)
    for road in roads:
        way |= road.cover > 0.5
    open_ground = ~(grow(way, 3) | grow(water > 0, 2))
    trees = _trees(rng, side, scale, setting, open_ground)
    cover[trees.forest] = FOREST
    cover[water > 0] = WATER
    cover[way] = ROAD
    texture = 1 + 0.05 * broad + 0.045 * middle + 0.045 * fine + rows
    return Layout(side, scale, gsd, setting, material, palette, phase, texture, cover, water, trees, roads, new_road,
                  heading)


def _axes(side: int, angle: float) -> tuple[FloatArray, FloatArray]:
    """Coordinates of all pixels along and across a direction, origin at the centre."""
    line = np.arange(side, dtype=np.float32) + 0.5 - side / 2
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return line[None] * c + line[:, None] * s, line[:, None] * c - line[None] * s


def _ground(rng: np.random.Generator, side: int, scale: float, setting: str, heading: float, noise: FloatArray
            ) -> tuple[ByteArray, ByteArray, FloatArray, FloatArray, FloatArray]:
    """Land cover, material, its palette and season phase, and crop rows, before water, roads and trees."""
    bare = noise > np.quantile(noise[::4, ::4], 1 - _BARE_SHARE[setting])
    material = bare.astype(np.uint8)
    cover = np.where(bare, BARE, GRASS).astype(np.uint8)
    entries, phases = [_jitter(rng, _GRASS), _jitter(rng, _BARE)], [0.0, 0.0]
    rows = np.zeros((side, side), dtype=np.float32)
    if rng.random() < _PARCEL_SHARE[setting]:
        parcel, count = _parcels(rng, side, scale, heading)
        table = np.arange(count) + 2
        crops = rng.integers(0, len(_CROPS), count)
        entries += [_jitter(rng, _CROPS[crop]) for crop in crops]
        phases += rng.uniform(-0.5, 0.5, count).tolist()
        farmed = (rng.random(count) < 0.75)[parcel]
        material = np.where(farmed, table[parcel], material).astype(np.uint8)
        cover = np.where(farmed, FIELD, cover).astype(np.uint8)
        angles = heading + np.pi / 2 * rng.integers(0, 2, count)
        period = rng.uniform(4.0, 8.0, count)
        wave_x, wave_y = (2 * np.pi * f(angles) / period for f in (np.cos, np.sin))
        line = np.arange(side, dtype=np.float32)
        wave = np.sin(line[None] * wave_x.astype(np.float32)[parcel] + line[:, None] * wave_y.astype(np.float32)[parcel])
        rows = np.where(farmed, rng.uniform(0.02, 0.10, count).astype(np.float32)[parcel] * wave, 0)
    return cover, material, np.array(entries, dtype=np.float32), np.array(phases, dtype=np.float32), rows


def _jitter(rng: np.random.Generator, pair: tuple[tuple[float, ...], tuple[float, ...]]) -> FloatArray:
    """A lush and a dry reflectance with some variation in brightness and hue."""
    factor = rng.uniform(0.85, 1.15) * (1 + 0.03 * rng.standard_normal(3))
    return np.asarray(np.array(pair) * factor, dtype=np.float32)


def _parcels(rng: np.random.Generator, side: int, scale: float, heading: float) -> tuple[npt.NDArray[np.intp], int]:
    """Parcel number per pixel of a turned, irregular grid, and the number of parcels (at most 200)."""
    along, across = _axes(side, heading)
    reach = 0.75 * side
    steps = [np.cumsum(rng.uniform(45, 130, 40) * max(scale, side / 500)) - reach for _ in range(2)]
    strip = np.searchsorted(steps[0][steps[0] < reach], across)
    stagger = rng.uniform(-40, 40, 64).astype(np.float32) * scale
    cell = np.searchsorted(steps[1][steps[1] < reach], along + stagger[strip])
    columns = int(cell.max()) + 1
    return strip * columns + cell, (int(strip.max()) + 1) * columns


def _water(rng: np.random.Generator, side: int, scale: float, setting: str, heading: float) -> FloatArray:
    """Depth tone of a river or a lake, 0 on land."""
    water = np.zeros((side, side), dtype=np.float32)
    if rng.random() >= _WATER_CHANCE[setting]:
        return water
    wobble = smooth_noise(rng, side, 22 * scale)
    along, across = _axes(side, heading + float(rng.uniform(0.3, 1.2)))
    if setting == "waterside" and rng.random() < 0.75:
        bend, wave = rng.uniform(0.04, 0.12) * side, rng.uniform(0.7, 1.4) * side
        course = bend * np.sin(along * (2 * np.pi / wave) + rng.uniform(0, 6)) + rng.uniform(-0.25, 0.25) * side
        depth = rng.uniform(11, 22) * scale + 1.5 * wobble - np.abs(across - course)
    else:
        x, y = rng.uniform(-0.3, 0.3, 2) * side
        radii = rng.uniform(0.12, 0.24, 2) * side
        depth = (1 - np.hypot((along - x) / radii[0], (across - y) / radii[1])) * radii.min() + 3 * wobble * scale
    return np.where(depth > 0, np.clip(0.4 + depth / (14 * scale), 0, 1), 0).astype(np.float32)


def _roads(rng: np.random.Generator, side: int, scale: float, setting: str, heading: float, with_new: bool
           ) -> tuple[tuple[Road, ...], Road | None]:
    """Main road, side roads that join it, and the reserved course of a new road."""
    if setting == "forest" and not with_new and rng.random() < 0.3:
        return (), None
    width = rng.uniform(6.5, 10) * scale
    main_angle = heading + (np.pi / 2 if rng.random() < 0.5 else 0)
    offset, reach = rng.uniform(-0.22, 0.22) * side, 0.8 * side
    bend = 0.0 if rng.random() < 0.5 else rng.uniform(0.04, 0.1) * side
    t = np.linspace(-reach, reach, 40)
    v = offset + bend * np.sin(t / side * rng.uniform(2.5, 5) + rng.uniform(0, 6))
    centre, c, s = side / 2, np.cos(main_angle), np.sin(main_angle)
    main = np.stack([centre + t * c - v * s, centre + t * s + v * c], axis=1)
    surface = float(rng.uniform(0.36, 0.56))
    courses = [(main, width, True)]
    count = int(rng.integers(0, 3)) if setting != "residential" else int(rng.integers(1, 3))
    inner = main[np.all((main > 0.15 * side) & (main < 0.85 * side), axis=1)]
    inner = inner if len(inner) > 2 else main[18:22]
    spots = rng.permutation(len(inner))[: count + 1]
    normal = np.array([-s, c])
    used: list[float] = []
    for number, spot in enumerate(spots):
        start, way = inner[spot], 1.0 if rng.random() < 0.5 else -1.0
        along = float((start - centre) @ (c, s))
        if number and any(abs(along - other) < 34 * scale for other in used):
            continue
        used.append(along)
        length = rng.uniform(0.25, 0.5) * side if rng.random() < 0.3 and number else 1.5 * side
        sway = rng.uniform(-0.12, 0.12) * side * np.sin(np.linspace(0, 2.5, 20))
        course = start + np.outer(np.linspace(0, way * length, 20), normal) + np.outer(sway, (c, s))
        courses.append((course, width * rng.uniform(0.65, 0.9), False))
    roads = [_road(side, points, breadth, surface, lanes) for points, breadth, lanes in courses]
    new_road = roads.pop(1) if with_new else None
    return tuple(roads[: count + 1]), new_road


def _road(side: int, points: npt.NDArray[np.float64], width: float, surface: float, lanes: bool) -> Road:
    """Draw one road."""
    line = [(float(x), float(y)) for x, y in points]
    marks = np.zeros((side, side), dtype=np.float32)
    if lanes and width > 7:
        dense = np.stack([np.interp(np.linspace(0, len(line) - 1, side // 4), np.arange(len(line)), points[:, axis])
                          for axis in (0, 1)], axis=1)
        for first, second in zip(dense[::3], dense[1::3], strict=False):
            marks = _dash(marks, first, second)
    return Road(tuple(line), width, stroke(side, line, width), marks, surface)


def _dash(marks: FloatArray, first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> FloatArray:
    """Set a lane dash between two points, one pixel wide."""
    for x, y in first + (second - first) * np.linspace(0, 0.9, 5)[:, None]:
        if 0 <= x < len(marks) and 0 <= y < len(marks):
            marks[int(y), int(x)] = 1
    return marks


def _trees(rng: np.random.Generator, side: int, scale: float, setting: str, allowed: BoolArray) -> Trees:
    """Crowns on a jittered grid: dense in forest, scattered elsewhere."""
    spacing = float(rng.uniform(6.0, 9.0)) * (0.6 + 0.4 * scale)
    noise, middle = smooth_noise(rng, side, 75 * scale), smooth_noise(rng, side, 25 * scale)
    wood = noise > np.quantile(noise[::4, ::4], 1 - _FOREST_SHARE[setting])
    cells = int(side / spacing) + 2
    grid = np.stack(np.meshgrid(np.arange(cells), np.arange(cells)), axis=-1).reshape(-1, 2)
    places = ((grid + rng.random((cells * cells, 2)) * 0.9) * spacing).astype(np.float32)
    in_forest, luck = rng.random(len(places)) < 0.97, rng.random(len(places))
    radius = (spacing * rng.uniform(0.55, 0.85, len(places))).astype(np.float32)
    tone = rng.uniform(0.7, 1.3, len(places)).astype(np.float32)
    column, row = np.clip(places.astype(np.int64), 0, side - 1).T
    dense = wood[row, column] & in_forest
    # Single trees stand in loose groups, more of them near the forest.
    chance = _TREE_CHANCE[setting] * np.exp(1.2 * noise[row, column] + 0.8 * middle[row, column]) * 0.6
    keep = (dense | (luck < chance)) & allowed[row, column]
    dense, radius, tone, places, column, row = (a[keep] for a in (dense, radius, tone, places, column, row))
    if not len(places):
        flat = np.zeros((side, side), dtype=np.float32)
        return Trees(flat, flat, flat > 0, flat.astype(np.int32), places)
    empty = np.ones((side, side), dtype=np.bool_)
    empty[row, column] = False
    number = np.zeros((side, side), dtype=np.int32)
    number[row, column] = np.arange(len(places))
    distance, nearest = ndimage.distance_transform_edt(empty, return_indices=True)
    seed = number[nearest[0], nearest[1]]
    far = distance.astype(np.float32)
    height = np.sqrt(np.clip(1 - (far / radius[seed]) ** 2, 0, 1)) * allowed
    forest = dense[seed] & (far < 1.05 * spacing) & allowed
    return Trees(height, tone[seed], forest, seed, places)
