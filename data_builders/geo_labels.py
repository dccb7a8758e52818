"""GeoJSON labels with a class and dates: read as a stream, brought to WGS 84, asked for by date.

RFC 7946 wants WGS 84; files with the older `crs` member, or of a system that is given, are brought there.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import ijson
import numpy as np
import shapely
from shapely.geometry import shape as shape_of

from geotempo.data_builders.raster_dates import read_day
from geotempo.model.dates import AcquisitionDate
from geotempo.model.errors import InputError, LayoutError, MissingExtraError
from geotempo.model.geo import FloatArray

_STEP_DEG = 0.005  # a straight edge of that length in lon/lat stays within a centimetre of its map projection
_DAY_SECONDS = 86_400


@dataclass(frozen=True)
class LabelFields:
    """Where labels say what they are.

    Attributes:
        thing: Property with the class, or `=name` for one class of all.
        start: Property with the date from which on it can be seen; empty where labels have none, and hold on every
            image.
        end: Property with the date from which on it is gone; empty where nothing goes.
        crs: Coordinate reference system, where the file's own word is wrong or missing.
    """

    thing: str
    start: str
    end: str = ""
    crs: str = ""


@dataclass(frozen=True)
class Label:
    """An object or area on the ground.

    Attributes:
        number: Position in the file, from 0.
        thing: Class, in lower case; empty where unknown.
        shape: Polygon or multipolygon in degrees, longitude first.
        start: Since when it can be seen; None means always.
        end: Since when it is gone; None means never.
        fault: (reason, detail) where something is wrong with it, so that nothing is said about it; None otherwise.
    """

    number: int
    thing: str
    shape: shapely.Geometry
    start: AcquisitionDate | None = None
    end: AcquisitionDate | None = None
    fault: tuple[str, str] | None = None

    def seen(self, date: AcquisitionDate) -> bool | None:
        """Whether it is there on an image of a date; None where the dates are too coarse to tell, or it is faulty."""
        if self.fault is not None:
            return None
        began = True if self.start is None else _reached(self.start, date)
        ended = False if self.end is None else _reached(self.end, date)
        if began is False or ended is True:
            return False
        return None if began is None or ended is None else True


@dataclass(frozen=True, eq=False)
class Labels:
    """All labels of a file."""

    all: tuple[Label, ...]


def _reached(event: AcquisitionDate, image: AcquisitionDate) -> bool | None:
    """Whether a date was reached when an image was taken; an event of a day is, on images of that day.

    Returns:
        None where the dates are too coarse to tell; equal ones count as reached.
    """
    (first, last), (taken, until) = event.span, image.span
    if last <= taken or event.span == image.span:
        return True
    if first > until:
        return False
    return True if first <= taken and (last - first).total_seconds() < _DAY_SECONDS else None


def read_labels(path: Path, fields: LabelFields) -> Labels:
    """All features of a GeoJSON file; those that cannot be used have a `fault`.

    Raises:
        LayoutError: The file is no GeoJSON, no feature has the properties named, or its coordinate system is unknown.
    """
    return _read(path, path.stat().st_mtime_ns, fields)


@lru_cache(maxsize=2)
def _read(path: Path, changed: int, fields: LabelFields) -> Labels:
    features = _features(path)
    first = list(islice(features, 100))
    if not first:
        raise LayoutError(f"{path.name} holds no features; expected a GeoJSON FeatureCollection")
    _check_fields(path, fields, first)
    project = _projection(path, fields.crs or _own_crs(path))
    found = [_label(path, number, feature, fields, project) for number, feature in enumerate(first)]
    found += [_label(path, number, feature, fields, project) for number, feature in enumerate(features, len(first))]
    return Labels(tuple(found))


def _features(path: Path) -> Iterator[Any]:
    try:
        with path.open("rb") as handle:
            yield from ijson.items(handle, "features.item", use_float=True)
    except OSError as error:
        raise LayoutError(f"cannot read {path}: {error.strerror}") from None
    except (ijson.JSONError, ValueError) as error:
        raise LayoutError(
            f"{path.name} is no whole GeoJSON file ({' '.join(str(error).split())[:120]}); copy it again"
        ) from None


def _own_crs(path: Path) -> str:
    """Name in the file's `crs` member, else empty."""
    with path.open("rb") as handle:
        return str(next(ijson.items(handle, "crs.properties.name"), "") or "")


def _check_fields(path: Path, fields: LabelFields, features: list[Any]) -> None:
    known = list(dict.fromkeys(str(name) for feature in features for name in _properties(feature)))
    for option, name in (("class_field", fields.thing), ("date_field", fields.start), ("end_field", fields.end)):
        if name and not name.startswith("=") and name not in known:
            raise LayoutError(
                f"{option}={name}, but none of the first {len(features)} features of {path.name} has this property; "
                f"they have: {', '.join(known) or 'none'}"
            )


def _properties(feature: Any) -> Mapping[str, Any]:
    properties = feature.get("properties") if isinstance(feature, Mapping) else None
    return properties if isinstance(properties, Mapping) else {}


def _projection(path: Path, crs: str) -> Any:
    """Function from (N, 2) coordinates of a system to longitude and latitude; None where they are that already."""
    if not crs or crs.rpartition(":")[2] in ("CRS84", "4326"):
        return None
    try:
        import pyproj
    except ImportError:
        raise MissingExtraError("pyproj", "geo", "reading labels") from None
    try:
        system = pyproj.CRS.from_user_input(crs)
        change = pyproj.Transformer.from_crs(system, "OGC:CRS84", always_xy=True)
    except pyproj.exceptions.ProjError as error:
        raise LayoutError(
            f"{path.name}: the coordinate system {crs[:60]!r} is unknown ({str(error)[:80]}); give it with "
            "labels_crs=EPSG:n"
        ) from None

    def project(xy: FloatArray) -> FloatArray:
        lon, lat = change.transform(xy[:, 0], xy[:, 1])
        return np.stack([np.asarray(lon, float), np.asarray(lat, float)], axis=1)

    return project


def _label(path: Path, number: int, feature: Any, fields: LabelFields, project: Any) -> Label:
    """One feature; what is wrong with it goes into `fault`."""
    properties, where = _properties(feature), f"{path.name}, feature {number}"
    thing = (
        fields.thing[1:]
        if fields.thing.startswith("=")
        else " ".join(str(properties.get(fields.thing) or "").replace("_", " ").split()).lower()
    )
    surface, fault = _surface(feature, where, project)
    if not thing:
        fault = fault or ("no class", f"{where} has no {fields.thing}")
    dates: list[AcquisitionDate | None] = []
    for name, needed in ((fields.start, True), (fields.end, False)):
        value = properties.get(name) if name else None
        date = read_day(value)
        if name and date is None and (needed or value not in (None, "")):
            fault = fault or (
                "unknown date",
                f"{where}: {name} is {json.dumps(value)[:40]}; expected a date such as 2021-05-03 or a year",
            )
        dates.append(date)
    start, end = dates
    if start and end and end.span[0] < start.span[0]:
        fault = fault or ("unknown date", f"{where} ends ({end}) before it begins ({start})")
    return Label(number, thing, surface, start, end, fault)


def _surface(feature: Any, where: str, project: Any) -> tuple[shapely.Geometry, tuple[str, str] | None]:
    """A feature's polygons in lon/lat, and what is wrong with them."""
    geometry: Any = feature.get("geometry") if isinstance(feature, Mapping) else None
    kind = geometry.get("type") if isinstance(geometry, Mapping) else None
    if kind not in ("Polygon", "MultiPolygon"):
        return shapely.MultiPolygon(), (
            "no polygon",
            f"{where} is {kind or 'without geometry'}; only polygons have an inside",
        )
    try:
        raw = shapely.segmentize(shapely.force_2d(shape_of(geometry)), _STEP_DEG) if project is None else \
            shapely.transform(shapely.force_2d(shape_of(geometry)), project)
        valid = shapely.make_valid(raw)
    except (
        shapely.errors.ShapelyError,
        InputError,
        ValueError,
        TypeError,
        IndexError,
        KeyError,
        AttributeError,
    ) as error:
        return shapely.MultiPolygon(), ("broken polygon", f"{where}: {' '.join(str(error).split())[:100]}")
    west, south, east, north = valid.bounds if not valid.is_empty else (0, 0, 0, 0)
    if not (-540 <= west <= east <= 540 and -90 <= south <= north <= 90):
        detail = (
            f"{where} reaches from {west:.6g}, {south:.6g} to {east:.6g}, {north:.6g}, which are no degrees; give the "
            "file's coordinate system with labels_crs=EPSG:n"
        )
        return shapely.MultiPolygon(), ("outside the globe", detail)
    if valid.area <= 0:
        return shapely.MultiPolygon(), ("broken polygon", f"{where} has no area")
    return valid, None
