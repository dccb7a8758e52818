"""Falcon's notation of geometry: `<box>`, `<quad>` and `<poly>` with numbers 0-1000 in angle brackets.

A `<poly>` may hold several rings with `<sep>` between them, the parts of one object. What changed between two images is said on a
canvas of twice the size, on whose diagonal they lie: the earlier image is its upper left quarter, the later one its lower right.

Yao et al. 2025, "Falcon: A Remote Sensing Vision-Language Foundation Model", arXiv 2503.11070.
"""

import re
from collections.abc import Sequence
from typing import Final

import numpy as np
import shapely

from geotempo.data_builders.source import Rejection
from geotempo.data_builders.text_regions import NUMBER, Codec, Found, scaled_box
from geotempo.model.geometry import Geometry, Mask, Point, Polygon, rasterize
from geotempo.model.records import ImageRecord

END = 1000.0
_SEP = re.compile(r"<\s*sep\s*>", re.IGNORECASE)
_PATTERN = re.compile(rf"<(?P<form>box|quad|poly)>(?P<numbers>(?:\s*<\s*(?:sep|{NUMBER})\s*>)*)\s*</(?P=form)>", re.IGNORECASE)
_LEFT = re.compile(r"</?(?:box|quad|poly)>.{0,40}", re.IGNORECASE | re.DOTALL)
_NUMBER = re.compile(NUMBER, re.IGNORECASE)
ENOUGH = 8
"""Answers with geometry from which on their common place says something."""


def geometry(form: str, numbers: Sequence[float], image: ImageRecord, end: float = END) -> Geometry:
    """One geometry in pixels.

    Args:
        form: box (two corners), quad (four), poly (three or more).
        numbers: x, y, x, y, ...; 0 to `end` of width and height.
        image: What they refer to.
        end: What stands for the right and the lower edge.

    Raises:
        Rejection: Another count of numbers, one beyond the range, or no area.
    """
    if form == "box":
        return scaled_box(list(numbers), image, end)
    shown = f"<{form}> with {len(numbers)} numbers"
    if len(numbers) % 2 or len(numbers) < 6 or (form == "quad" and len(numbers) != 8):
        raise Rejection("impossible polygon", f"{shown}; a quad has 8, a poly 6 or more, in pairs")
    if not all(0 <= number <= end for number in numbers):  # a comparison with nan is false
        raise Rejection("impossible polygon", f"{shown} reaches beyond 0-{end:g}")
    points = [(x * image.width / end, y * image.height / end) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
    ring = [point for place, point in enumerate(points) if point != points[place - 1]]
    found = _surface(ring, image) if len(ring) > 2 else None
    if found is None:
        raise Rejection("impossible polygon", f"{shown} has no area")
    return found


def _surface(ring: Sequence[Point], image: ImageRecord) -> Polygon | Mask | None:
    """What a ring encloses, by the even-odd rule where it crosses itself; None for nothing.

    A ring that runs on into a second one is a polygon with a hole; one that encloses several places is a mask of them.
    """
    shape = shapely.Polygon(ring)
    if shape.is_valid:
        return Polygon(tuple(ring))
    parts = [part for part in shapely.get_parts(shapely.make_valid(shape)) if isinstance(part, shapely.Polygon) and part.area > 0]
    polygons = [Polygon(_open(part.exterior), tuple(_open(hole) for hole in part.interiors)) for part in parts]
    if len(polygons) < 2:
        return polygons[0] if polygons else None
    mask = np.any([rasterize(polygon, image.height, image.width) for polygon in polygons], axis=0)
    return Mask.from_array(mask) if mask.any() else None


def _open(ring: shapely.LinearRing) -> tuple[Point, ...]:
    """Points of a ring without the repetition of the first."""
    return tuple((float(x), float(y)) for x, y, *_ in ring.coords[:-1])


def _codec(name: str, scale: float, start: float) -> Codec:
    """The codec of images that fill 1 / `scale` of a canvas either way, from `start` (0-1000) on."""

    def read(match: re.Match[str], image: ImageRecord) -> list[Found]:
        rings = [[scale * (float(number) - start) for number in _NUMBER.findall(ring)] for ring in _SEP.split(match.group("numbers"))]
        form = match.group("form").lower()
        if len(rings) > 1 and form != "poly":
            raise Rejection("impossible polygon", f"<{form}> holds <sep>, which only <poly> may")
        parts = [geometry(form, ring, image) for ring in rings]
        return [(parts[0] if len(parts) == 1 else _united(parts, image), "")]

    return Codec(name, _PATTERN, read)


def _united(parts: Sequence[Geometry], image: ImageRecord) -> Mask:
    """The parts of one object.

    Raises:
        Rejection: They cover no pixel.
    """
    mask = np.any([rasterize(part, image.height, image.width) for part in parts], axis=0)
    if not mask.any():
        raise Rejection("impossible polygon", f"the {len(parts)} rings of a <poly> cover no pixel")
    return Mask.from_array(mask)


FALCON: Final = _codec("Falcon", 1, 0)
EARLIER_ON_CANVAS: Final = _codec("Falcon, the earlier image on the canvas of a pair", 2, 0)
LATER_ON_CANVAS: Final = _codec("Falcon, the later image on the canvas of a pair", 2, END / 2)


def _coordinates(text: str) -> list[float]:
    """All numbers of a text's geometry."""
    return [float(number) for match in _PATTERN.finditer(text) for number in _NUMBER.findall(match.group("numbers"))]


def canvas_image(text: str) -> int:
    """The image of a pair, from 1, on whose quarter of the canvas the geometry of a text lies; the later one where it is on both."""
    numbers = _coordinates(text)
    return 1 if numbers and max(numbers) <= END / 2 else 2


def on_canvas(answers: Sequence[str]) -> bool | None:
    """Whether the geometry of answers about pairs looks like places on their canvas: each answer within the quarter of one image.

    Returns:
        None where fewer than `ENOUGH` answers hold geometry.
    """
    found = [numbers for text in answers if (numbers := _coordinates(text))]
    return None if len(found) < ENOUGH else all(min(numbers) >= END / 2 or max(numbers) <= END / 2 for numbers in found)


def unread(text: str) -> str:
    """The beginning of a tag of geometry that is still in a text, empty where there is none."""
    match = _LEFT.search(text)
    return match.group() if match else ""
