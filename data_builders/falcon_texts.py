"""Falcon's notation of geometry: `<box>`, `<quad>` and `<poly>` with numbers 0-1000 in angle brackets.

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
_PATTERN = re.compile(rf"<(?P<form>box|quad|poly)>(?P<numbers>(?:\s*<\s*{NUMBER}\s*>)*)\s*</(?P=form)>", re.IGNORECASE)
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


def _read(match: re.Match[str], image: ImageRecord) -> list[Found]:
    numbers = [float(number) for number in _NUMBER.findall(match.group("numbers"))]
    return [(geometry(match.group("form").lower(), numbers, image), "")]


def _read_canvas(match: re.Match[str], image: ImageRecord) -> list[Found]:
    """A geometry on the canvas of a pair, whose lower right quarter the later image is."""
    numbers = [2 * float(number) - END for number in _NUMBER.findall(match.group("numbers"))]
    return [(geometry(match.group("form").lower(), numbers, image), "")]


FALCON: Final = Codec("Falcon", _PATTERN, _read)
CHANGES_ON_CANVAS: Final = Codec("Falcon, on the canvas of a pair", _PATTERN, _read_canvas)


def on_canvas(answers: Sequence[str]) -> bool | None:
    """Whether all geometry of answers about pairs lies in the lower right quarter of 0-1000.

    Returns:
        None where fewer than `ENOUGH` answers hold geometry.
    """
    found = [list(_PATTERN.finditer(text)) for text in answers]
    if sum(map(bool, found)) < ENOUGH:
        return None
    return all(float(number) >= END / 2 for matches in found for match in matches for number in _NUMBER.findall(match.group("numbers")))
