"""From world state and acquisition conditions to pixels.

Order: ground, water, tree crowns, roads, flood, shadows, roofs; then the sensor: registration, point spread, haze,
clouds, light, noise. Reflectances are 0..1 on a display scale.
"""

from math import cos, sin, tan

import numpy as np

from geotempo.data_builders.scenes.buildings import Building
from geotempo.data_builders.scenes.changes import Timeline
from geotempo.data_builders.scenes.layout import Layout, Road
from geotempo.data_builders.scenes.raster import MARGIN, blur, move, smooth_noise, take
from geotempo.data_builders.scenes.scene import ByteArray, FloatArray, Nuisance
from geotempo.model.geometry import BoolArray

_PITCH = 0.45  # roof slope in radians
_SHADE = np.array([0.40, 0.44, 0.54], np.float32)  # shadow keeps blue skylight
_MAX_SHADOW = 20
_STEPS = 4095  # quantisation before gamma
_SOIL = np.array([0.50, 0.39, 0.28], np.float32)
_LOST_SHARE = (0.0, 0.16, 0.48, 1.0)  # of the roof, per damage grade


def render(layout: Layout, buildings: list[Building], timeline: Timeline, date: int, light: Nuisance
           ) -> tuple[ByteArray, BoolArray]:
    """Render one date.

    Args:
        layout: Static world.
        buildings: All buildings that ever stand.
        timeline: All changes.
        date: Index from 0.
        light: Acquisition conditions.

    Returns:
        Image, size x size x 3 uint8, and the pixels under cloud.
    """
    rng = np.random.default_rng([light.seed, 1])
    canvas = _land(layout, buildings, timeline, date, light)
    _paint_roads(canvas, layout, timeline, date, light)
    if timeline.flood is not None and date >= timeline.flood_from:
        _paint_flood(canvas, layout, timeline.flood)
    shadow = _shadows(layout, buildings, timeline, date, light)
    dark = shadow > 0
    canvas[dark] *= 1 - (1 - _SHADE) * shadow[dark][:, None]
    for building, fate in zip(buildings, timeline.fates, strict=True):
        if fate.there(date):
            _paint_building(canvas, building, fate.grades[date], light)
    return _sense(canvas, layout.side - 2 * MARGIN, light, rng)


def _land(layout: Layout, buildings: list[Building], timeline: Timeline, date: int, light: Nuisance) -> FloatArray:
    """Ground, water and crowns."""
    season = np.clip(light.greenness + layout.phase, 0, 1)[:, None]
    colours = layout.palette[:, 1] + (layout.palette[:, 0] - layout.palette[:, 1]) * season
    canvas: FloatArray = colours[layout.material]
    if timeline.clearing is not None and date >= timeline.cleared_from:
        canvas[timeline.clearing] = _SOIL
    canvas *= layout.texture[..., None]
    wet = layout.water > 0
    if wet.any():
        depth = layout.water[wet][:, None]
        tone = np.array([0.30, 0.33, 0.26], np.float32) * (1 - depth) + np.array([0.13, 0.21, 0.22], np.float32) * depth
        canvas[wet] = tone * (0.6 + 0.4 * layout.texture[wet][:, None])
    _paint_trees(canvas, layout, timeline, date, light)
    _paint_soil(canvas, buildings, timeline, layout, date)
    return canvas


def _paint_soil(canvas: FloatArray, buildings: list[Building], timeline: Timeline, layout: Layout, date: int) -> None:
    """Bare soil where a building was pulled down."""
    for building, fate in zip(buildings, timeline.fates, strict=True):
        if date >= fate.gone:
            tone = layout.texture[building.window][building.mask][:, None]
            canvas[building.window][building.mask] = _SOIL * 1.15 * tone


def _paint_trees(canvas: FloatArray, layout: Layout, timeline: Timeline, date: int, light: Nuisance) -> None:
    """Crowns lit from the sun's side, dark gaps in closed forest, and the shade of crowns on open ground."""
    trees = layout.trees
    height, forest = trees.height, trees.forest
    if not len(trees.places):
        return
    if timeline.clearing is not None and date >= timeline.cleared_from:
        kept = ~timeline.clearing
        height, forest = height * kept, forest & kept
    x, y = _sun(light)
    lit = height - move(height, -round(2 * x), -round(2 * y))
    shade = (move(height, -round(4 * x), -round(4 * y)) > 0.3) & (height == 0) & ~forest
    canvas[shade] *= 0.55
    green = light.greenness
    leaf = np.array([0.25 - 0.07 * green, 0.25 + 0.02 * green, 0.14 - 0.02 * green], np.float32)
    crown = height > 0
    glow = (0.55 + 0.5 * height + 0.55 * lit) * trees.tone
    canvas[forest] = leaf * 0.42
    canvas[crown] = leaf * np.clip(glow[crown], 0.3, 2)[:, None] * layout.texture[crown][:, None]


def _paint_roads(canvas: FloatArray, layout: Layout, timeline: Timeline, date: int, light: Nuisance) -> None:
    """Pavement, markings and, with nuisance, traffic."""
    roads = list(layout.roads)
    if layout.new_road is not None and date >= timeline.road_from:
        roads.insert(0, layout.new_road)
    for road in roads:
        _paint_road(canvas, layout, road)
    rng = np.random.default_rng([light.seed, 2])
    if light.seed:
        for road in roads:
            _paint_cars(canvas, road, layout, rng)


def _paint_road(canvas: FloatArray, layout: Layout, road: Road) -> None:
    """One road: blend by coverage, a little worn along the lanes."""
    rows, columns = np.nonzero(road.cover > 0)
    if not len(rows):
        return
    part = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    amount = road.cover[part][..., None]
    grain = 0.5 + 0.5 * layout.texture[part][..., None]
    surface = road.surface * grain * np.array([1.0, 0.99, 0.96], np.float32)
    surface = surface * (1 - road.marks[part][..., None]) + 0.85 * road.marks[part][..., None]
    canvas[part] = canvas[part] * (1 - amount) + surface * amount


def _paint_cars(canvas: FloatArray, road: Road, layout: Layout, rng: np.random.Generator) -> None:
    """A few vehicles, 2 x 4 pixels; they differ between dates and are no change."""
    length = max(2, round(3 * layout.scale))
    for _ in range(int(rng.integers(0, 5))):
        spot = int(rng.integers(len(road.points) - 1))
        (x, y), (x2, y2) = road.points[spot], road.points[spot + 1]
        along, lane = np.array([x2 - x, y2 - y]), 0.25 * road.width * rng.choice([-1, 1])
        along /= max(float(np.hypot(*along)), 1e-6)
        tone = float(rng.choice([0.15, 0.75, 0.85, 0.4]))
        for step in range(length):
            column = int(x + along[0] * step - along[1] * lane)
            row = int(y + along[1] * step + along[0] * lane)
            if 0 <= row < layout.side - 1 and 0 <= column < layout.side - 1 and road.cover[row, column] > 0.9:
                canvas[row : row + 2, column] = tone


def _paint_flood(canvas: FloatArray, layout: Layout, flood: BoolArray) -> None:
    """Turbid brown water with a faint trace of the ground below."""
    mud = np.array([0.36, 0.31, 0.23], np.float32)
    canvas[flood] = 0.88 * mud * (0.65 + 0.35 * layout.texture[flood][:, None]) + 0.12 * canvas[flood]


def _sun(light: Nuisance) -> tuple[float, float]:
    """Unit vector (x, y) on the image that points towards the sun."""
    return sin(light.azimuth), -cos(light.azimuth)


def _shadows(layout: Layout, buildings: list[Building], timeline: Timeline, date: int, light: Nuisance) -> FloatArray:
    """Shadow of all standing buildings, 0..1; debris casts almost none."""
    pad, side = _MAX_SHADOW + 2, layout.side
    shadow = np.zeros((side + 2 * pad,) * 2, dtype=np.float32)
    x, y = _sun(light)
    for building, fate in zip(buildings, timeline.fates, strict=True):
        if not fate.there(date):
            continue
        tall = building.tall * (0.15 if fate.grades[date] == 3 else 1.0)
        height, width = building.mask.shape
        for step in range(1, round(shadow_length(tall, light)) + 1):
            top, left = building.top + pad - round(y * step), building.left + pad - round(x * step)
            part = shadow[top : top + height, left : left + width]
            np.maximum(part, building.mask, out=part)
    return blur(shadow[pad : pad + side, pad : pad + side])


def shadow_length(tall: float, light: Nuisance) -> float:
    """Length in pixels of the shadow of something `tall` pixels high, at most 20."""
    return min(tall / tan(light.elevation), float(_MAX_SHADOW))


def _paint_building(canvas: FloatArray, building: Building, grade: int, light: Nuisance) -> None:
    """Roof shaded by slope; damage opens holes from minor (a sixth) to destroyed (debris only)."""
    x, y = _sun(light)
    facing = building.normal[..., 0] * x + building.normal[..., 1] * y
    pitched = (building.normal != 0).any(axis=2)
    shade = np.where(pitched, cos(_PITCH) + sin(_PITCH) * facing / tan(light.elevation), 1.0)
    roof = building.reflectance * (np.clip(shade, 0.45, 1.45) * building.tone)[..., None].astype(np.float32)
    if grade:
        inside = building.wear[building.mask]
        lost = building.wear >= np.quantile(inside, 1 - _LOST_SHARE[grade])
        # Minor damage shows as dark gaps in the roof, major damage opens it down to the rubble inside.
        wreck = building.rubble * 0.45 if grade == 1 else building.rubble * (0.7 if grade == 2 else 1.0)
        roof = np.where(lost[..., None], np.clip(wreck, 0.03, 1), roof)
    canvas[building.window][building.mask] = roof[building.mask]


def _sense(canvas: FloatArray, size: int, light: Nuisance, rng: np.random.Generator) -> tuple[ByteArray, BoolArray]:
    """Registration, blur, haze, clouds, light and noise, and the pixels under cloud."""
    image = take(blur(canvas), light.shift, size)
    hidden = np.zeros((size, size), dtype=np.bool_)
    if light.haze:
        image += light.haze * (np.array([0.66, 0.68, 0.72], np.float32) - image)
    if light.clouds:
        image, hidden = _clouds(image, size, light, rng)
    image *= np.array(light.tint, np.float32) * np.float32(light.gain)
    if light.noise:
        image += light.noise * rng.standard_normal(image.shape, dtype=np.float32)
    # Gamma by table: a power of every value would cost as much as the rest of the sensor.
    steps = (np.clip(image, 0, 1) * _STEPS + 0.5).astype(np.uint16)
    table = (255 * np.linspace(0, 1, _STEPS + 1) ** light.gamma + 0.5).astype(np.uint8)
    return table[steps], hidden


def _clouds(image: FloatArray, size: int, light: Nuisance, rng: np.random.Generator) -> tuple[FloatArray, BoolArray]:
    """Soft-edged clouds and their shadows; True where the ground cannot be judged."""
    away = round(0.09 * size)  # distance of a cloud from its shadow; the sky is that much wider than the image
    wide = size + 2 * away
    noise = smooth_noise(rng, wide, 0.3 * size) + 0.35 * smooth_noise(rng, wide, 0.1 * size)
    noise += 0.12 * smooth_noise(rng, wide, 0.03 * size)
    level = np.quantile(noise[::4, ::4], 1 - float(rng.uniform(0.06, 0.25)))
    sky = np.clip((noise - level) * 3.0 + 0.25, 0, 0.97)
    x, y = _sun(light)
    inner = slice(away, away + size)
    image *= (1 - 0.45 * move(sky, -round(x * away), -round(y * away))[inner, inner])[..., None]
    veil = sky[inner, inner][..., None]
    return image * (1 - veil) + 0.93 * veil, veil[..., 0] > 0.3

