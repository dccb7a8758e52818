"""Generate a procedural scene: a dated sequence of overhead images with exact ground truth."""

from math import radians

import numpy as np

from geotempo.data_builders.scenes.buildings import Building, place_buildings
from geotempo.data_builders.scenes.calendar import acquisition_days, as_dates, greenness
from geotempo.data_builders.scenes.changes import Plan, Timeline, cover_at, make_plan, make_timeline
from geotempo.data_builders.scenes.layout import SETTINGS, Layout, make_layout
from geotempo.data_builders.scenes.raster import window
from geotempo.data_builders.scenes.render import render
from geotempo.data_builders.scenes.scene import (
    APPEARS,
    BARE,
    FIELD,
    FOREST,
    MAX_DATES,
    MIN_SIZE,
    ROAD,
    WATER,
    ByteArray,
    ChangeEvent,
    Nuisance,
    Scene,
    SceneObject,
    SceneOptions,
)
from geotempo.model.errors import InputError
from geotempo.model.geometry import BoolArray

_SETTING_ODDS = (0.34, 0.16, 0.2, 0.16, 0.14)
_LEAST_AREA = 24  # pixels at 256 px: smaller areas are no object


def generate(seed: int, index: int, *, size: int = 256, dates: int | None = None,
             options: SceneOptions = SceneOptions()) -> Scene:
    """Generate scene `index` of the endless series `seed`.

    World, changes and nuisance draw from separate random streams, so switching nuisance off leaves the world as it is.

    Args:
        seed: Series, 0 or more.
        index: Number in the series, 0 or more.
        size: Side of the images in pixels, 48 or more.
        dates: Number of images 1..8; None draws it: mostly 2.
        options: What may happen.

    Returns:
        The scene; equal arguments give equal bytes on every machine with the same library versions.

    Raises:
        InputError: An argument is out of range.
    """
    if seed < 0 or index < 0:
        raise InputError(f"seed and index of a scene must be 0 or more, got {seed} and {index}")
    if size < MIN_SIZE:
        raise InputError(f"a scene must be {MIN_SIZE} px or larger, got {size}")
    if dates is not None and not 1 <= dates <= MAX_DATES:
        raise InputError(f"a scene has 1 to {MAX_DATES} dates, got {dates}")
    rng = np.random.default_rng([seed, index, 0])
    count = _date_count(rng, options.pair_share)
    count = dates if dates is not None else count
    plan = make_plan(rng, count, options)
    setting = _setting(rng, plan)
    layout = make_layout(np.random.default_rng([seed, index, 1]), size, setting, "road added" in plan.wants)
    number = int(rng.integers(options.buildings[0], options.buildings[1] + 1))
    number = max(number, min(options.buildings[1], sum(plan.wants.get(k, 0) for k in ("built", "demolished", "damaged")) + 1))
    buildings = place_buildings(np.random.default_rng([seed, index, 2]), layout, number, options.building_px)
    timeline = make_timeline(np.random.default_rng([seed, index, 3]), plan, layout, buildings, count)
    days = acquisition_days(rng, count)
    conditions = _conditions(np.random.default_rng([seed, index, 4]), plan, days, options, seed, index)
    return _assemble(seed, index, size, plan, layout, buildings, timeline, conditions, days, options)


def _date_count(rng: np.random.Generator, pair_share: float) -> int:
    """Mostly 2, else 1 or 3..8."""
    other = int(rng.choice([1, 1, 3, 3, 4, 4, 5, 6, 7, 8]))
    return 2 if rng.random() < pair_share else other


def _setting(rng: np.random.Generator, plan: Plan) -> str:
    """A setting in which the plan is possible."""
    setting = str(rng.choice(SETTINGS, p=_SETTING_ODDS))
    if "cleared" in plan.wants and setting in ("residential", "industrial"):
        return "forest"
    return setting


def _conditions(rng: np.random.Generator, plan: Plan, days: list[int], options: SceneOptions, seed: int, index: int
                ) -> list[Nuisance]:
    """Acquisition conditions per date, around a common mean."""
    strength = options.nuisance
    azimuth, elevation = float(rng.uniform(0, 2 * np.pi)), radians(float(rng.uniform(38, 62)))
    season = float(rng.uniform(0.3, 1.0))
    out = []
    for number, day in enumerate(days):
        z = rng.standard_normal(8)
        hazy, cloudy = rng.random(2)
        shift = rng.uniform(-2, 2, 2)
        base = Nuisance(azimuth, elevation, season)
        if strength:
            base = Nuisance(
                azimuth + strength * 0.6 * float(z[0]),
                float(np.clip(elevation + strength * 0.15 * z[1], 0.5, 1.2)),
                season + strength * (greenness(day) - season) * 0.9,
                gain=float(np.clip(1 + strength * 0.09 * z[2], 0.75, 1.3)),
                gamma=float(np.clip(1 + strength * 0.09 * z[3], 0.75, 1.3)),
                tint=(1 + strength * 0.025 * float(z[4]), 1.0, 1 + strength * 0.035 * float(z[5])),
                haze=strength * float(np.clip((hazy - 0.6) * 0.6, 0, 0.25)),
                noise=strength * (0.006 + 0.006 * abs(float(z[6]))),
                shift=(0.0, 0.0) if number == 0 else (strength * float(shift[0]), strength * float(shift[1])),
                clouds=bool(cloudy < options.clouds),
                seed=int(rng.integers(1, 2**31)))
        out.append(base)
    return [out[0]] * len(out) if plan.kind == "identical" else out


def _assemble(seed: int, index: int, size: int, plan: Plan, layout: Layout, buildings: list[Building],
              timeline: Timeline, conditions: list[Nuisance], days: list[int], options: SceneOptions) -> Scene:
    """Render all dates and collect the ground truth."""
    images: list[ByteArray] = []
    covers: list[ByteArray] = []
    clouds: list[BoolArray] = []
    for date, light in enumerate(conditions):
        if date and plan.kind == "identical":
            pixels, hidden = images[0], clouds[0]
        else:
            pixels, hidden = render(layout, buildings, timeline, date, light)
            cover = cover_at(layout, buildings, timeline, date)[window(light.shift, size)]
        images.append(pixels)
        covers.append(cover)
        clouds.append(hidden)
    objects = _objects(layout, buildings, timeline, conditions, covers, clouds)
    events = _events(objects)
    kind = plan.kind if events or plan.kind in ("single", "identical") else "nuisance"
    dates = as_dates(np.random.default_rng([seed, index, 5]), days)
    return Scene(seed, index, size, layout.gsd, kind, layout.setting, tuple(images), dates, objects, events,
                 tuple(covers), tuple(clouds), tuple(conditions), options)


def _objects(layout: Layout, buildings: list[Building], timeline: Timeline, conditions: list[Nuisance],
             covers: list[ByteArray], clouds: list[BoolArray]) -> tuple[SceneObject, ...]:
    """All objects with their masks per date."""
    size, count = len(covers[0]), len(covers)
    views = [window(light.shift, size) for light in conditions]
    out: list[SceneObject] = []

    def add(kind: str, places: list[BoolArray], there: list[bool], grades: tuple[int, ...] = (), colour: str = "") -> None:
        least = _LEAST_AREA * layout.scale**2
        masks = tuple(place if on and place.sum() >= least else None for place, on in zip(places, there, strict=True))
        if all(mask is None for mask in masks):
            return
        shown = next(mask for mask in masks if mask is not None)
        visible = tuple(1 - float((cloud & (shown if mask is None else mask)).sum())
                        / float((shown if mask is None else mask).sum())
                        for mask, cloud in zip(masks, clouds, strict=True))
        out.append(SceneObject(len(out), kind, masks, grades or (0,) * count, colour, visible))

    for building, fate in zip(buildings, timeline.fates, strict=True):
        canvas = np.zeros((layout.side, layout.side), dtype=np.bool_)
        canvas[building.window] = building.mask
        add("building", [canvas[view] for view in views], [fate.there(k) for k in range(count)], fate.grades,
            building.colour)
    for kind, value in (("road", ROAD), ("water", WATER), ("forest", FOREST), ("field", FIELD)):
        base = layout.cover == value
        add(kind, [base[view] & (cover == value) for view, cover in zip(views, covers, strict=True)], [True] * count)
    for kind, area, start, value in _areas(layout, timeline):
        if area is not None:
            add(kind, [area[view] & (cover == value) for view, cover in zip(views, covers, strict=True)],
                [k >= start for k in range(count)])
    return tuple(out)


def _areas(layout: Layout, timeline: Timeline) -> list[tuple[str, BoolArray | None, int, int]]:
    """Areas of change: kind, canvas area, first date, land cover there from then on."""
    road = None
    if layout.new_road is not None and timeline.road_from < timeline.dates:
        road = (layout.new_road.cover > 0.5) & (layout.cover != ROAD)
    return [("new road", road, timeline.road_from, ROAD), ("flood", timeline.flood, timeline.flood_from, WATER),
            ("clearing", timeline.clearing, timeline.cleared_from, BARE)]


def _events(objects: tuple[SceneObject, ...]) -> tuple[ChangeEvent, ...]:
    """Changes between successive dates, in time order."""
    out = []
    for item in objects:
        for date in range(1, len(item.masks)):
            was, now = item.there(date - 1), item.there(date)
            if item.kind == "building" and was and not now:
                out.append(ChangeEvent("demolished", item.id, date, date + 1))
            elif now and not was and item.kind in APPEARS:
                out.append(ChangeEvent(APPEARS[item.kind], item.id, date, date + 1))
            elif item.grades[date] != item.grades[date - 1]:
                out.append(ChangeEvent("damaged", item.id, date, date + 1, item.grades[date]))
    return tuple(sorted(out, key=lambda event: (event.before, event.object)))
