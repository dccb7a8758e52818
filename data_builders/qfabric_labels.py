"""Reading one QFabric location: dated images, sites with type and statuses; see `geotempo.data_builders.sources.qfabric`.

Types and statuses: Verma et al. 2021, as TEOChat lists them.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from geotempo.data_builders.source import Rejection, load_json
from geotempo.data_builders.tiling import Window
from geotempo.model.errors import InputError
from geotempo.model.geo import Georeference
from geotempo.model.records import ImageRecord

TYPES = ("residential", "commercial", "industrial", "road", "demolition", "mega projects")
STATUSES = ("prior construction", "greenland", "land cleared", "excavation", "materials dumped", "construction started",
            "construction midway", "construction done", "operational")
DATES = 5
IMAGES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")
_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)-?(0[1-9]|1[0-2])-?([0-3]\d)(?!\d)")


@dataclass(frozen=True)
class Site:
    """One polygon.

    Attributes:
        uid: `<number in the file>`, from 0.
        shape: In pixels.
        kind: One of `TYPES`.
        states: One of `STATUSES` per date, in time order.
    """

    uid: str
    shape: shapely.Polygon
    kind: str
    states: tuple[str, ...]


def meaning(feature: dict[str, Any], name: str, type_key: str, status_key: str) -> tuple[str, tuple[str, ...]]:
    """Type and statuses of a feature.

    Args:
        feature: GeoJSON.
        name: Of the feature, for messages.
        type_key: Property with the type of change.
        status_key: Property with the statuses, a list or text with commas.

    Raises:
        Rejection: A property is missing or says something unknown.
    """
    properties = feature.get("properties") or {}
    for option, key in (("type_key", type_key), ("status_key", status_key)):
        if key not in properties:
            raise Rejection("broken annotation", f"{name} has no property {key!r}; it has {', '.join(sorted(properties)) or 'none'}; "
                                                 f"name the right one with {option}")
    kind, given = words(properties[type_key]), properties[status_key]
    states = tuple(map(words, given.split(",") if isinstance(given, str) else given if isinstance(given, list) else ()))
    if kind not in TYPES:
        raise Rejection("unknown type", f"{name}: {properties[type_key]!r}; allowed: {', '.join(TYPES)}")
    if len(states) != DATES or not set(states) <= set(STATUSES):
        raise Rejection("unknown status", f"{name}: {given!r}; allowed: {DATES} of {', '.join(STATUSES)}")
    return kind, states


def words(value: Any) -> str:
    """A type or status as TEOChat writes it: lower case, blanks."""
    return " ".join(str(value).lower().replace("_", " ").replace("-", " ").split())


def dated_images(folder: Path) -> list[tuple[str, Path]]:
    """Dates and files in time order.

    Raises:
        Rejection: There are not five of them, each with a date of its own in its name.
    """
    found = []
    for path in folder.iterdir():
        if path.suffix.lower() in IMAGES:
            match = _DATE.search(path.stem)
            if match is None:
                raise Rejection("missing date", f"{folder.name}/{path.name} has no date such as 2018-03-21 or 20180321 in its name")
            found.append(("-".join(match.groups()), path))
    if len({day for day, _ in found}) != DATES or len(found) != DATES:
        raise Rejection("missing image", f"{folder.name} has {len(found)} images of {len({day for day, _ in found})} dates; expected "
                                         f"{DATES} of {DATES}")
    return sorted(found)


def features(path: Path) -> list[dict[str, Any]]:
    """Features of a GeoJSON.

    Raises:
        Rejection: It is no FeatureCollection.
    """
    label = load_json(path)
    found = label.get("features") if isinstance(label, dict) else None
    if not isinstance(found, list) or not all(isinstance(feature, dict) for feature in found):
        raise Rejection("broken annotation", f"{path.parent.name}/{path.name} is no FeatureCollection")
    return found


def pixel_polygon(geometry: Any, place: Georeference | None, image: ImageRecord) -> shapely.Polygon:
    """A GeoJSON geometry as a polygon in pixels, clipped to the image.

    Raises:
        InputError: With a short reason, when nothing of use is left.
    """
    try:
        shape = shapely.geometry.shape(geometry)
    except (shapely.errors.ShapelyError, AttributeError, KeyError, TypeError, ValueError, IndexError):
        raise InputError("unreadable geometry") from None
    if place is not None:
        shape = shapely.transform(shape, place.pixels)
        if not np.isfinite(shapely.get_coordinates(shape)).all():
            raise InputError("outside the projection")
    whole = shapely.make_valid(shape).intersection(shapely.box(0, 0, image.width, image.height))
    parts = [part for part in shapely.get_parts(whole).tolist() if isinstance(part, shapely.Polygon) and part.area > 0]
    if not parts:
        raise InputError("outside the image" if shape.area else "no area")
    if len(parts) > 1:
        raise InputError("several parts")
    return parts[0]


def shown(shape: shapely.Polygon, window: Window) -> shapely.Polygon | None:
    """The part of a polygon that lies in a window, in its pixels; None where that is less than half of it or not one piece."""
    rows, columns = window
    part = shape.intersection(shapely.box(columns.start, rows.start, columns.stop, rows.stop))
    if not isinstance(part, shapely.Polygon) or part.area < shape.area / 2 or part.is_empty:
        return None
    return shapely.transform(part, lambda xy: xy - [columns.start, rows.start])
