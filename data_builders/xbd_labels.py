"""Reading xBD labels: the label JSON with WKT polygons, or target masks; both become `Building`s.

Format: Gupta et al. 2019, "xBD: A Dataset for Assessing Building Damage from Satellite Imagery", and the
xView2 baseline's label template.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import cos, radians, sin, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely import wkt
from shapely.geometry.base import BaseGeometry

from geotempo.data_builders.instances import components, mask_points
from geotempo.data_builders.label_states import LEVELS, UNCLASSIFIED
from geotempo.data_builders.source import Rejection
from geotempo.data_builders.tiling import Window
from geotempo.model.dates import AcquisitionDate
from geotempo.model.errors import InputError
from geotempo.model.geometry import Geometry, Mask, Polygon, rasterize, to_shape
from geotempo.model.records import Region, Transform

CLASSES = LEVELS


@dataclass(frozen=True)
class Building:
    """One building of the post-disaster image.

    Attributes:
        uid: The label's uid; for target masks the component's number.
        geometry: Polygon, or a mask from a target image.
        damage: One of `CLASSES`, or `un-classified`.
        area: Square pixels.
    """

    uid: str
    geometry: Geometry
    damage: str
    area: float

    def region(self, height: int, width: int, label: str | None = None) -> Region:
        """The building as a region of acquisition 2, labelled with its damage unless another label is given."""
        mask = rasterize(self.geometry, height, width)
        points = mask_points(mask)
        assessable = self.damage != UNCLASSIFIED
        return Region(2, self.geometry, self.damage if label is None else label, points, assessable,
                      None if assessable else "un-classified in xBD")


def read_features(label: Mapping[str, Any], width: int, height: int) -> tuple[list[Building], Counter[str]]:
    """Buildings of a post-disaster label JSON, largest first.

    Args:
        label: The JSON; `features.xy` is used, in pixels.
        width: Columns of the image, to which polygons are clipped.
        height: Rows.

    Returns:
        The buildings, and how many features were set aside for which reason.

    Raises:
        Rejection: The JSON has another structure or an unknown damage class.
    """
    buildings, aside = [], Counter[str]()
    for uid, subtype, text in features(label, "xy"):
        if subtype not in (*CLASSES, UNCLASSIFIED):
            raise Rejection("unknown damage class",
                            f"{subtype!r}; allowed in a post-disaster label: {', '.join(CLASSES)}, {UNCLASSIFIED}")
        try:
            shape = simple_polygon(text, width, height)
        except InputError as error:
            aside[str(error)] += 1
            continue
        buildings.append(Building(uid, polygon_of(shape), subtype, float(shape.area)))
    return sorted(buildings, key=lambda building: (-building.area, building.uid)), aside


def in_window(building: Building, window: Window) -> Building | None:
    """The part of a building that a window shows, in the window's pixels.

    Args:
        building: With a polygon.
        window: Rows and columns.

    Returns:
        The largest piece; None where it is less than a quarter of the building, which nobody would recognise.
    """
    rows, columns = window
    shape = to_shape(building.geometry)
    frame = shapely.box(columns.start, rows.start, columns.stop, rows.stop)
    if frame.contains(shape) and rows.start == columns.start == 0:
        return building
    parts = [part for part in shapely.get_parts(shape.intersection(frame)).tolist() if isinstance(part, shapely.Polygon)]
    part = max(parts, key=lambda piece: piece.area, default=None)
    if part is None or part.area < building.area / 4:
        return None
    moved = shapely.transform(part, lambda xy: xy - [columns.start, rows.start])
    return replace(building, geometry=polygon_of(moved), area=float(part.area))


def polygon_of(shape: shapely.Polygon) -> Polygon:
    """A shapely polygon as a `Polygon`."""
    rings = [tuple((float(x), float(y)) for x, y, *_ in ring.coords[:-1]) for ring in (shape.exterior, *shape.interiors)]
    return Polygon(rings[0], tuple(rings[1:]))


def simple_polygon(text: str, width: int, height: int) -> shapely.Polygon:
    """A WKT polygon clipped to the image.

    Self-intersections are mended where that leaves one polygon.

    Raises:
        InputError: With a short reason, when the text is no polygon, is a multi-polygon of several parts, has no area,
            or lies outside the image.
    """
    try:
        shape = wkt.loads(text)
    except (shapely.errors.ShapelyError, ValueError, TypeError):
        raise InputError("unreadable WKT") from None
    if shape.is_empty:
        raise InputError("empty geometry")
    if not shape.is_valid:
        shape = shapely.make_valid(shape)
        if shape.area == 0:
            raise InputError("no area")
        shape = _one_part(shape, "self-intersecting")
    shape = _one_part(shape, "several parts")
    if shape.bounds[0] < 0 or shape.bounds[1] < 0 or shape.bounds[2] > width or shape.bounds[3] > height:
        inside = shape.intersection(shapely.box(0, 0, width, height))
        if inside.area == 0:
            raise InputError("outside the image")
        shape = _one_part(inside, "several parts inside the image")
    if shape.area == 0:
        raise InputError("no area")
    return shape


def read_targets(post: npt.NDArray[np.uint8], levels: Sequence[str] = CLASSES) -> list[Building]:
    """Buildings of a post-disaster target mask (0 background, from 1 the levels): connected components per class.

    Neighbours of equal damage that touch become one building; the label JSON keeps them apart.

    Raises:
        Rejection: The mask holds another value.
    """
    odd = sorted(set(np.unique(post).tolist()) - set(range(len(levels) + 1)))
    if odd:
        raise Rejection("unknown mask value", f"the post-disaster target holds {odd[:5]}; allowed: 0 to {len(levels)}")
    found = []
    for value, name in enumerate(levels, start=1):
        for number, part in enumerate(components(post == value)):
            found.append(Building(f"{name}-{number:04d}", Mask.from_array(part), name, float(part.sum())))
    return sorted(found, key=lambda building: (-building.area, building.uid))


def features(label: Mapping[str, Any], kind: str) -> Iterator[tuple[str, str | None, str]]:
    """(uid, subtype, WKT) of the building features of a label JSON.

    Raises:
        Rejection: The JSON has another structure.
    """
    try:
        for feature in label["features"][kind]:
            properties = feature["properties"]
            if properties.get("feature_type", "building") == "building":
                yield str(properties["uid"]), properties.get("subtype"), str(feature["wkt"])
    except (KeyError, TypeError, AttributeError) as error:
        raise Rejection("broken annotation", f"not an xBD label JSON ({error!r}); expected features.{kind}[] with "
                                             "properties.uid and wkt") from None


def image_facts(label: Mapping[str, Any], width: int, height: int) -> dict[str, Any]:
    """What a label JSON tells about its image, as fields of `ImageRecord`.

    The pixel size comes from the pairs of pixel and geographic vertices, which fit an affine transform within a few
    hundredths of a pixel: `metadata.gsd` is the multispectral ground sampling distance of the sensor (2.35 m where the
    pixels are 0.45 m) and is not used.

    Returns:
        date, sensor, gsd, crs and transform, each only where known.
    """
    metadata = label.get("metadata") or {}
    facts: dict[str, Any] = {}
    if metadata.get("capture_date"):
        facts["date"] = AcquisitionDate(str(metadata["capture_date"]))
    if metadata.get("sensor"):
        facts["sensor"] = str(metadata["sensor"])
    transform = fit_transform(label)
    if transform:
        facts.update(crs="EPSG:4326", transform=transform, gsd=pixel_size(transform, width, height))
    return facts


def fit_transform(label: Mapping[str, Any], tolerance: float = 0.5) -> Transform | None:
    """Affine transform from pixels to longitude and latitude, by least squares over the label's vertices.

    Args:
        label: A label JSON with `features.xy` and `features.lng_lat`.
        tolerance: Highest residual in pixels for the fit to be believed.

    Returns:
        (a, b, c, d, e, f), or None where vertices are too few or do not fit.
    """
    geographic = {uid: text for uid, _, text in features(label, "lng_lat")} if label["features"].get("lng_lat") else {}
    pairs = [(_vertices(text), _vertices(geographic[uid])) for uid, _, text in features(label, "xy")
             if uid in geographic]
    same = [(xy, lng_lat) for xy, lng_lat in pairs if len(xy) == len(lng_lat) and len(xy)]
    if not same:
        return None
    pixels = np.concatenate([xy for xy, _ in same])
    places = np.concatenate([lng_lat for _, lng_lat in same])
    design = np.column_stack([pixels, np.ones(len(pixels))])
    solution, _, rank, _ = np.linalg.lstsq(design, places, rcond=None)
    step = np.abs(solution[:2]).max()
    if rank < 3 or step == 0 or np.abs(design @ solution - places).max() > tolerance * step:
        return None
    (a, d), (b, e), (c, f) = solution.tolist()
    return a, b, c, d, e, f


def pixel_size(transform: Transform, width: int, height: int) -> tuple[float, float]:
    """Metres of one pixel step in x and in y at the image centre, for a transform to degrees on WGS 84."""
    a, b, _, d, e, f = transform
    latitude = radians(d * width / 2 + e * height / 2 + f)
    # Radii of curvature of the WGS 84 ellipsoid, prime vertical and meridian.
    semi_major, eccentricity2 = 6378137.0, 0.00669437999014
    w = sqrt(1 - eccentricity2 * sin(latitude) ** 2)
    east = radians(1) * semi_major / w * cos(latitude)
    north = radians(1) * semi_major * (1 - eccentricity2) / w**3
    return round(float(np.hypot(a * east, d * north)), 3), round(float(np.hypot(b * east, e * north)), 3)


def _one_part(shape: BaseGeometry, reason: str) -> shapely.Polygon:
    """The only polygon of a geometry; lines and points beside it have no area and are dropped."""
    parts = [part for part in shapely.get_parts(shape).tolist()
             if isinstance(part, shapely.Polygon) and part.area > 0] if not shape.is_empty else []
    if isinstance(shape, shapely.Polygon) and not parts:
        raise InputError("no area")
    if len(parts) != 1:
        raise InputError(reason)
    return parts[0]


def _vertices(text: str) -> npt.NDArray[np.float64]:
    """Vertices of a WKT geometry, N x 2; empty where it cannot be read."""
    try:
        return np.asarray(shapely.get_coordinates(wkt.loads(text)), dtype=np.float64)
    except (shapely.errors.ShapelyError, ValueError, TypeError):
        return np.empty((0, 2))
