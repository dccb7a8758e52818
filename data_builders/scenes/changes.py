"""What happens over time: which theme a scene has, which object changes at which date, and the state per date."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import ndimage

from geotempo.data_builders.scenes.buildings import Building
from geotempo.data_builders.scenes.layout import Layout
from geotempo.data_builders.scenes.raster import MARGIN, smooth_noise
from geotempo.data_builders.scenes.scene import (
    BARE,
    BUILDING,
    DEBRIS,
    FOREST,
    ROAD,
    WATER,
    ByteArray,
    ChangeKind,
    SceneKind,
    SceneOptions,
)
from geotempo.model.geometry import BoolArray

# Theme -> kinds of change and how many of each (fewest, most).
_THEMES: Final[dict[str, tuple[tuple[ChangeKind, int, int], ...]]] = {
    "construction": (("built", 1, 5), ("road added", 0, 1), ("cleared", 0, 1)),
    "roadworks": (("road added", 1, 1), ("built", 0, 2)),
    "demolition": (("demolished", 1, 4),),
    "disaster": (("damaged", 2, 6), ("flooded", 0, 1)),
    "flood": (("flooded", 1, 1), ("damaged", 0, 2)),
    "clearing": (("cleared", 1, 1), ("built", 0, 2)),
    "mixed": (("built", 0, 3), ("demolished", 0, 2), ("cleared", 0, 1), ("road added", 0, 1)),
}
_ODDS: Final = (0.28, 0.1, 0.14, 0.18, 0.1, 0.1, 0.1)


@dataclass(frozen=True)
class Plan:
    """What a scene is to show, decided before the world is laid out.

    Attributes:
        kind: single, identical, nuisance or changed.
        wants: Number of changes wanted per kind.
        spare: Changes that may come on top: new buildings that are pulled down again.
    """

    kind: SceneKind
    wants: dict[ChangeKind, int]
    spare: int


@dataclass(frozen=True)
class Fate:
    """One building over time: first date present, first date absent again, damage grade per date (dates from 0)."""

    built: int
    gone: int
    grades: tuple[int, ...]

    def there(self, date: int) -> bool:
        """Whether the building (or its debris) is there."""
        return self.built <= date < self.gone


@dataclass(frozen=True)
class Timeline:
    """All changes of a scene.

    Attributes:
        dates: Number of dates.
        fates: One per building.
        flood: Canvas area that is flooded, buildings included, or None.
        flood_from: First date with the flood.
        clearing: Canvas area of cleared forest or None.
        cleared_from: First date with it.
        road_from: First date with the new road; `dates` when it is never built.
    """

    dates: int
    fates: tuple[Fate, ...]
    flood: BoolArray | None
    flood_from: int
    clearing: BoolArray | None
    cleared_from: int
    road_from: int


def make_plan(rng: np.random.Generator, dates: int, options: SceneOptions) -> Plan:
    """Decide the kind of sequence and the changes wanted."""
    chance = float(rng.random())
    themes = [name for name, parts in _THEMES.items() if parts[0][0] in options.kinds or name == "mixed"]
    odds = np.array([_ODDS[list(_THEMES).index(name)] for name in themes])
    theme = str(rng.choice(themes, p=odds / odds.sum()))
    wants: dict[ChangeKind, int] = {}
    for kind, low, high in _THEMES[theme]:
        count = int(rng.integers(low, high + 1))
        count = min(count, options.max_changes - sum(wants.values()))
        if kind in options.kinds and count > 0:
            wants[kind] = count
    if dates == 1:
        return Plan("single", {}, 0)
    if chance < options.unchanged:
        return Plan("identical" if chance < options.unchanged / 4 else "nuisance", {}, 0)
    wants = wants or {options.kinds[0]: 1}
    return Plan("changed", wants, options.max_changes - sum(wants.values()))


def make_timeline(rng: np.random.Generator, plan: Plan, layout: Layout, buildings: list[Building], dates: int
                  ) -> Timeline:
    """Assign the wanted changes to objects and dates; wishes that the world cannot meet are dropped."""
    fates = _fates(rng, plan, len(buildings), dates)
    flood = _flood(rng, layout) if plan.wants.get("flooded") else None
    clearing = _clearing(rng, layout) if plan.wants.get("cleared") else None
    steps = [int(step) for step in rng.integers(1, max(dates, 2), 3)]
    has_road = bool(plan.wants.get("road added")) and _new_road_shows(layout)
    return Timeline(dates, fates, flood, steps[0], clearing, steps[1], steps[2] if has_road else dates)


def _new_road_shows(layout: Layout) -> bool:
    """Whether enough of the new road lies inside the image, whatever its shift."""
    if layout.new_road is None:
        return False
    rim = MARGIN + 2
    added = (layout.new_road.cover > 0.5) & (layout.cover != ROAD)
    return int(added[rim:-rim, rim:-rim].sum()) >= 100 * layout.scale**2


def _fates(rng: np.random.Generator, plan: Plan, count: int, dates: int) -> tuple[Fate, ...]:
    """Building, demolition and damage; a building has one change, or is built and later demolished."""
    order = [int(i) for i in rng.permutation(count)]
    spare = plan.spare
    built, gone = [0] * count, [dates] * count
    grades = [[0] * dates for _ in range(count)]
    for _ in range(min(plan.wants.get("built", 0), len(order))):
        number = order.pop()
        built[number] = int(rng.integers(1, dates))
        if spare and built[number] < dates - 1 and rng.random() < 0.25:
            spare -= 1
            gone[number] = int(rng.integers(built[number] + 1, dates))
    for _ in range(min(plan.wants.get("demolished", 0), len(order))):
        gone[order.pop()] = int(rng.integers(1, dates))
    disaster = int(rng.integers(1, max(dates, 2)))
    for _ in range(min(plan.wants.get("damaged", 0), len(order))):
        grade = int(rng.choice([1, 2, 3], p=[0.3, 0.35, 0.35]))
        grades[order.pop()][disaster:] = [grade] * (dates - disaster)
    return tuple(Fate(b, g, tuple(row)) for b, g, row in zip(built, gone, grades, strict=True))


def _flood(rng: np.random.Generator, layout: Layout) -> BoolArray | None:
    """Land that a flood covers: near water where there is some, else a low place; None where nothing fits."""
    side = layout.side
    noise = smooth_noise(rng, side, 30 * layout.scale)
    land = (layout.cover != WATER) & (layout.cover != FOREST)
    share = float(rng.uniform(0.12, 0.35))
    if (~land).any() and (layout.water > 0).sum() > 0.02 * side * side:
        level = ndimage.distance_transform_edt(layout.water == 0) + 5 * layout.scale * noise
    else:
        x, y = rng.uniform(0.25, 0.75, 2) * side
        line = np.arange(side)
        level = np.hypot(line[None] - x, line[:, None] - y) + 12 * layout.scale * noise
    area = land & (level < np.quantile(level[::4, ::4], share + float(1 - land.mean()) * 0.5))
    return _largest(area, 0.03 * side * side)


def _largest(area: BoolArray, least: float) -> BoolArray | None:
    """The biggest connected part of an area inside the image, None when it has fewer than `least` pixels there."""
    labels, count = ndimage.label(area)
    if not count:
        return None
    sizes = np.bincount(labels[MARGIN + 2 : -MARGIN - 2, MARGIN + 2 : -MARGIN - 2].ravel(), minlength=count + 1)
    sizes[0] = 0
    best = int(sizes.argmax())
    return np.asarray(labels == best) if sizes[best] >= least else None


def _clearing(rng: np.random.Generator, layout: Layout) -> BoolArray | None:
    """A patch of forest whose trees are felled: all trees within a turned ellipse in a thick part of the forest."""
    trees, side = layout.trees, layout.side
    inner = trees.forest[MARGIN:-MARGIN, MARGIN:-MARGIN]
    if inner.sum() < 0.02 * side * side:
        return None
    depth = ndimage.distance_transform_edt(np.pad(inner, MARGIN))
    rows, columns = np.nonzero(depth > 0.6 * depth.max())
    spot = int(rng.integers(len(rows)))
    reach, stretch = float(rng.uniform(0.1, 0.24)) * side, float(rng.uniform(0.6, 1.0))
    angle = float(rng.uniform(0, np.pi))
    offset = trees.places - np.array([columns[spot], rows[spot]], np.float32)
    along = offset @ np.array([np.cos(angle), np.sin(angle)], np.float32)
    across = offset @ np.array([-np.sin(angle), np.cos(angle)], np.float32)
    felled = np.hypot(along / reach, across / (reach * stretch)) < 1
    return _largest(trees.forest & felled[trees.seed], 0.008 * side * side)


def cover_at(layout: Layout, buildings: list[Building], timeline: Timeline, date: int) -> ByteArray:
    """Land cover of the canvas on a date."""
    cover = layout.cover.copy()
    if timeline.clearing is not None and date >= timeline.cleared_from:
        cover[timeline.clearing & (cover == FOREST)] = BARE
    for building, fate in zip(buildings, timeline.fates, strict=True):
        if date >= fate.gone:
            cover[building.window][building.mask] = BARE
    if layout.new_road is not None and date >= timeline.road_from:
        cover[(layout.new_road.cover > 0.5)] = ROAD
    if timeline.flood is not None and date >= timeline.flood_from:
        cover[timeline.flood] = WATER
    for building, fate in zip(buildings, timeline.fates, strict=True):
        if fate.there(date):
            cover[building.window][building.mask] = DEBRIS if fate.grades[date] == 3 else BUILDING
    return cover
