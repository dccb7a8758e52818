"""Buildings: where they stand, the shape of their roofs, and how a roof looks whole, damaged or destroyed."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from geotempo.data_builders.scenes.layout import Layout
from geotempo.data_builders.scenes.raster import MARGIN, grow, smooth_noise
from geotempo.data_builders.scenes.scene import FOREST, ROAD, WATER, FloatArray
from geotempo.model.geometry import BoolArray

ROOFS: Final[dict[str, tuple[float, float, float]]] = {
    "red": (0.54, 0.28, 0.22), "brown": (0.40, 0.30, 0.24), "dark grey": (0.27, 0.27, 0.29),
    "light grey": (0.60, 0.60, 0.59), "white": (0.84, 0.84, 0.81), "blue": (0.30, 0.42, 0.58),
}
"""Reflectance per roof colour word."""
_ROOF_ODDS = {"residential": (0.27, 0.27, 0.22, 0.12, 0.06, 0.06), "industrial": (0.04, 0.06, 0.15, 0.3, 0.3, 0.15)}
_OTHER_ODDS = (0.25, 0.2, 0.15, 0.17, 0.13, 0.1)
_FLAT_CHANCE = {"residential": 0.12, "industrial": 0.85}
_BORDER = MARGIN + 4


@dataclass(frozen=True)
class Building:
    """A building on the canvas; arrays cover its window only.

    Attributes:
        top: First row of the window.
        left: First column of the window.
        mask: Footprint.
        normal: h x w x 2 horizontal direction (x, y) in which the roof faces; 0 where flat.
        tone: Brightness factor: tiles, parapet, roof installations.
        wear: Noise that decides which part of the roof is lost first.
        rubble: Noise of the debris, reflectance.
        colour: Word for the roof colour.
        reflectance: Roof colour.
        tall: Height in pixels, for the shadow.
    """

    top: int
    left: int
    mask: BoolArray
    normal: FloatArray
    tone: FloatArray
    wear: FloatArray
    rubble: FloatArray
    colour: str
    reflectance: FloatArray
    tall: float

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns on the canvas."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


@dataclass(frozen=True)
class _Plot:
    """Candidate: centre, width along `angle`, depth across it, in pixels."""

    x: float
    y: float
    width: float
    depth: float
    angle: float


def place_buildings(rng: np.random.Generator, layout: Layout, count: int, sides: tuple[int, int]) -> list[Building]:
    """Place up to `count` buildings that touch neither each other nor roads, water or forest.

    Args:
        rng: Source of randomness.
        layout: The world.
        count: Buildings wanted; fewer come back where there is no room.
        sides: Shortest and longest side in pixels at scale 1.
    """
    taken = np.isin(layout.cover, (ROAD, WATER, FOREST))
    if layout.new_road is not None:
        taken |= layout.new_road.cover > 0
    taken = grow(taken, 2)
    out: list[Building] = []
    # The gap shrinks and buildings get smaller as tries run out, so that crowded scenes still get their count.
    for attempt in range(50 * count):
        if len(out) == count:
            break
        shrink = 1 - 0.4 * attempt / (50 * count)
        plot = _plot(rng, layout, (sides[0], sides[0] + (sides[1] - sides[0]) * shrink))
        fit = _window(plot, layout.side)
        if fit is None:
            continue
        top, left, height, width = fit
        u, v = _local(plot, top, left, height, width)
        gap = 3.5 * layout.scale
        lot = (np.abs(u) < plot.width / 2 + gap) & (np.abs(v) < plot.depth / 2 + gap)
        area = taken[top : top + height, left : left + width]
        if (lot & area).any():
            continue
        building = _build(rng, layout, plot, (top, left), u, v)
        area |= grow(building.mask, 3)
        out.append(building)
    return out


def _plot(rng: np.random.Generator, layout: Layout, sides: tuple[float, float]) -> _Plot:
    """A random plot, mostly along a road and turned like it."""
    low, high = sides[0] * layout.scale, sides[1] * layout.scale
    width = float(low + (high - low) * rng.beta(1.6, 2.2))
    depth = max(low, width * float(rng.uniform(0.5, 1.0)))
    if layout.roads and rng.random() < 0.7:
        road = layout.roads[int(rng.integers(len(layout.roads)))]
        spot = int(rng.integers(len(road.points) - 1))
        (x, y), (x2, y2) = road.points[spot], road.points[spot + 1]
        angle, part = float(np.arctan2(y2 - y, x2 - x)), float(rng.random())
        away = road.width / 2 + depth / 2 + float(rng.uniform(6, 16)) * layout.scale
        away *= 1 if rng.random() < 0.5 else -1
        return _Plot(x + part * (x2 - x) - away * np.sin(angle), y + part * (y2 - y) + away * np.cos(angle),
                     width, depth, angle)
    x, y = rng.uniform(0.05, 0.95, 2) * layout.side
    turn = float(rng.choice([0.0, layout.heading, layout.heading + np.pi / 2, rng.uniform(-np.pi, np.pi)]))
    return _Plot(float(x), float(y), width, depth, turn)


def _window(plot: _Plot, side: int) -> tuple[int, int, int, int] | None:
    """Top, left, height, width of the plot's window with a 4 px rim; None where it would leave the image."""
    c, s = abs(np.cos(plot.angle)), abs(np.sin(plot.angle))
    half_x, half_y = (plot.width * c + plot.depth * s) / 2 + 4, (plot.width * s + plot.depth * c) / 2 + 4
    left, top = int(plot.x - half_x), int(plot.y - half_y)
    right, bottom = int(np.ceil(plot.x + half_x)), int(np.ceil(plot.y + half_y))
    if left < _BORDER - 4 or top < _BORDER - 4 or max(right, bottom) > side - _BORDER + 4:
        return None
    return top, left, bottom - top, right - left


def _local(plot: _Plot, top: int, left: int, height: int, width: int) -> tuple[FloatArray, FloatArray]:
    """Coordinates of the window's pixel centres along and across the plot."""
    x = np.arange(left, left + width, dtype=np.float32)[None] + 0.5 - plot.x
    y = np.arange(top, top + height, dtype=np.float32)[:, None] + 0.5 - plot.y
    c, s = np.float32(np.cos(plot.angle)), np.float32(np.sin(plot.angle))
    return (x * c + y * s).astype(np.float32), (y * c - x * s).astype(np.float32)


def _build(rng: np.random.Generator, layout: Layout, plot: _Plot, corner: tuple[int, int], u: FloatArray,
           v: FloatArray) -> Building:
    """Shape, roof and material of one building."""
    flat = rng.random() < _FLAT_CHANCE.get(layout.setting, 0.35)
    hip = rng.random() < 0.45
    w, d = plot.width / 2, plot.depth / 2
    parts = [(0.0, 0.0, w, d)]
    if min(w, d) > 7 * layout.scale and rng.random() < 0.5:  # L or T shape: body and wing
        body, wing = d * float(rng.uniform(0.5, 0.7)), w * float(rng.uniform(0.35, 0.5))
        place = float(rng.choice([-1.0, 1.0, 0.0])) * (w - wing)
        parts = [(0.0, body - d, w, body), (place, body, wing, d - body)]
    mask = np.zeros(u.shape, dtype=np.bool_)
    normal = np.zeros((*u.shape, 2), dtype=np.float32)
    axes = np.array([[np.cos(plot.angle), np.sin(plot.angle)], [-np.sin(plot.angle), np.cos(plot.angle)]], np.float32)
    for x, y, half_w, half_d in parts:
        inside = (np.abs(u - x) <= half_w) & (np.abs(v - y) <= half_d)
        if not flat:
            _slopes(normal, inside & ~mask, (u - x, v - y), (half_w, half_d), hip, axes)
        mask |= inside
    odds = _ROOF_ODDS.get(layout.setting, _OTHER_ODDS)
    colour = str(rng.choice(list(ROOFS), p=odds))
    reflectance = np.array(ROOFS[colour], np.float32) * np.float32(rng.uniform(0.92, 1.08))
    side = max(u.shape)
    height, width = u.shape
    wear = smooth_noise(rng, side, max(3.0, 0.28 * plot.depth))[:height, :width]
    rubble = 0.42 + 0.16 * rng.standard_normal((*u.shape, 1)).astype(np.float32) + 0.05 * wear[..., None]
    rubble = rubble * np.array([1.06, 1.0, 0.92], np.float32)
    tall = float(rng.uniform(0.22, 0.4) * min(plot.depth, plot.width) + 2)
    return Building(corner[0], corner[1], mask, normal, _roof_tone(rng, mask, (u, v), flat), wear, rubble, colour,
                    reflectance, tall)


def _slopes(normal: FloatArray, inside: BoolArray, local: tuple[FloatArray, FloatArray], half: tuple[float, float],
            hip: bool, axes: FloatArray) -> None:
    """Write the facing direction of a gable or hip roof whose ridge runs along the longer side."""
    u, v = local
    if half[0] >= half[1]:
        across, along, rest = axes[1] * np.sign(v)[..., None], axes[0] * np.sign(u)[..., None], half[0] - np.abs(u)
        steep = half[1] - np.abs(v)
    else:
        across, along, rest = axes[0] * np.sign(u)[..., None], axes[1] * np.sign(v)[..., None], half[1] - np.abs(v)
        steep = half[0] - np.abs(u)
    faces = np.where((rest < steep)[..., None], along, across) if hip else across
    normal[inside] = faces[inside]


def _roof_tone(rng: np.random.Generator, mask: BoolArray, local: tuple[FloatArray, FloatArray], flat: bool
               ) -> FloatArray:
    """Tile rows on pitched roofs; parapet and installations on flat ones."""
    u, v = local
    tone = 1 + 0.03 * rng.standard_normal(mask.shape).astype(np.float32)
    if not flat:
        return np.asarray(tone + 0.035 * np.sin(u * np.float32(rng.uniform(1.6, 2.4))), dtype=np.float32)
    inner = mask & ~grow(~mask, 1)
    tone[mask & ~inner] *= 1.14
    rows, columns = np.nonzero(mask & ~grow(~mask, 3))
    for _ in range(min(len(rows) // 60, 6)):
        spot = int(rng.integers(len(rows)))
        size = int(rng.integers(1, 3))
        tone[rows[spot] : rows[spot] + size + 1, columns[spot] : columns[spot] + size] *= rng.choice([0.6, 1.25])
    return np.asarray(tone + 0.01 * np.sin(v * 2.1), dtype=np.float32)
