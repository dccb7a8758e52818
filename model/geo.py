"""Pixels to places: from image coordinates to longitude and latitude on WGS 84, and geodesic areas.

Longitude comes first everywhere (`always_xy`). Straight pixel edges become polylines in longitude and latitude that
stay within a stated distance of the true edge, so a GeoJSON reader that joins positions by straight lines sees the
region that was meant. Needs the extra `[geo]` (pyproj); no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.polygon import orient

from geotempo.model.errors import InputError, MissingExtraError
from geotempo.model.geometry import Geometry, Mask, bounds, to_shape
from geotempo.model.records import Transform

FloatArray = npt.NDArray[np.float64]
SurfaceShape = shapely.Polygon | shapely.MultiPolygon

EDGE_TOLERANCE_PX = 0.01  # how far a straight lon/lat segment may leave the true edge; the bias of an area follows it
_FIRST_PIECES = 16  # pieces of each edge before refining: keeps a step below 180 degrees even for a world map
_MAX_POINTS = 20_000  # points of one ring; beyond, refining stops (a ring at a singular point of its projection)
_AREA_STEP_DEG = 0.05  # along a parallel of 0.05 degrees a geodesic deviates by less than 0.3 m


def _pyproj() -> Any:
    """The module pyproj, or the error that says how to get it."""
    try:
        import pyproj
    except ImportError:
        raise MissingExtraError("pyproj", "geo", "georeferencing") from None
    return pyproj


@dataclass(frozen=True)
class Georeference:
    """Where the pixels of an image lie.

    Attributes:
        crs: Coordinate reference system, WKT or "EPSG:n".
        transform: Affine (a, b, c, d, e, f): X = a*x + b*y + c, Y = d*x + e*y + f; any rotation or axis direction.

    Raises:
        InputError: The transform cannot be inverted.
    """

    crs: str
    transform: Transform

    def __post_init__(self) -> None:
        a, b, _, d, e, _ = self.transform
        if not np.isfinite(self.transform).all() or a * e - b * d == 0:
            raise InputError(f"the geotransform {self.transform} cannot be inverted; repair the file's georeference")

    @cached_property
    def _projector(self) -> Any:
        pyproj = _pyproj()
        try:
            crs = pyproj.CRS.from_user_input(self.crs).to_2d()
            return pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
        except pyproj.exceptions.ProjError as error:
            raise InputError(f"the coordinate system {self.crs[:80]!r} has no way to WGS 84 ({error}); "
                             "warp the file with gdalwarp -t_srs EPSG:4326") from None

    @cached_property
    def _geographic(self) -> bool:
        return bool(_pyproj().CRS.from_user_input(self.crs).is_geographic)

    def lonlat(self, xy: FloatArray) -> FloatArray:
        """Longitude and latitude of image coordinates.

        Args:
            xy: (N, 2) array of pixels.

        Returns:
            (N, 2) array in degrees. Longitudes of a raster in degrees are kept as the raster counts them (181 stays
            181).

        Raises:
            InputError: A point lies where the projection is not defined.
        """
        a, b, c, d, e, f = self.transform
        x, y = xy[:, 0], xy[:, 1]
        east, north = a * x + b * y + c, d * x + e * y + f
        lon, lat = self._projector.transform(east, north)
        if self._geographic:
            lon = _same_turn(np.asarray(lon, float), east)
        out = np.stack([np.asarray(lon, float), np.asarray(lat, float)], axis=1)
        if not np.isfinite(out).all():
            raise InputError("a region reaches outside the area where the raster's projection is defined")
        return out

    def pixels(self, lonlat: FloatArray) -> FloatArray:
        """Image coordinates of longitudes and latitudes.

        Args:
            lonlat: (N, 2) array in degrees, WGS 84; for a raster in degrees longitudes count as the raster's do.

        Returns:
            (N, 2) array of pixels; not finite where the projection is not defined.
        """
        lon, lat = lonlat[:, 0], lonlat[:, 1]
        east, north = self._projector.transform(lon, lat, direction="INVERSE")
        if self._geographic:
            east = _same_turn(np.asarray(east, float), lon)
        a, b, c, d, e, f = self.transform
        u, v = np.asarray(east, float) - c, np.asarray(north, float) - f
        det = a * e - b * d
        return np.stack([(e * u - b * v) / det, (a * v - d * u) / det], axis=1)

    def gsd(self, width: int, height: int) -> tuple[float, float]:
        """Ground sampling distance (x, y) in metres at the centre of an image of width x height pixels."""
        x, y = width / 2, height / 2
        ends = self.lonlat(np.array([[x - 0.5, y], [x + 0.5, y], [x, y - 0.5], [x, y + 0.5]]))
        geod = _pyproj().Geod(ellps="WGS84")
        _, _, distance = geod.inv(ends[[0, 2], 0], ends[[0, 2], 1], ends[[1, 3], 0], ends[[1, 3], 1])
        return float(distance[0]), float(distance[1])


def pixel_shape(geometry: Geometry, width: int, height: int) -> SurfaceShape:
    """A geometry as polygons in pixels, cut at the image border.

    The pixels of a mask become polygons along the pixel edges, 4-connected, with holes.

    Args:
        geometry: Any geometry.
        width: Columns of the image.
        height: Rows of the image.

    Returns:
        A polygon or multipolygon; empty where the geometry lies outside the image or the mask is empty.
    """
    if isinstance(geometry, Mask):
        return mask_polygons(geometry)
    shape = shapely.make_valid(to_shape(geometry))
    return _surfaces(shape.intersection(shapely.box(0, 0, width, height)))


def mask_polygons(mask: Mask) -> SurfaceShape:
    """The pixels of a mask as polygons in pixel coordinates, with holes.

    Raises:
        MissingExtraError: rasterio is not installed.
    """
    try:
        from rasterio import features
    except ImportError:
        raise MissingExtraError("rasterio", "geo", "turning masks into polygons") from None
    array = mask.to_array()
    if not array.any():
        return shapely.MultiPolygon()
    box = bounds(mask)
    x0, y0 = int(box.x1), int(box.y1)
    crop = array[y0 : int(box.y2), x0 : int(box.x2)].astype(np.uint8)
    rings = [shape["coordinates"] for shape, value in features.shapes(crop, mask=crop > 0) if value]
    parts = [_shifted(shapely.Polygon(first, holes), x0, y0) for first, *holes in rings]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def to_lonlat(shape: SurfaceShape, place: Georeference, tolerance: float = EDGE_TOLERANCE_PX) -> SurfaceShape:
    """Polygons in pixels as polygons in longitude and latitude, as RFC 7946 wants them.

    Exterior rings run counter-clockwise; what crosses the antimeridian is cut into parts (RFC 7946, 3.1.9); a ring
    around a pole is closed along the pole.

    Args:
        shape: In pixels.
        place: The image's georeference.
        tolerance: How far, in pixels, a straight segment in lon/lat may leave the true edge.

    Returns:
        Polygon or multipolygon, longitudes in [-180, 180].
    """
    parts: list[shapely.Polygon] = []
    for polygon in _polygons(shape):
        solid = _ring_to_lonlat(np.asarray(polygon.exterior.coords), place, tolerance)
        for hole in polygon.interiors:
            solid = _surfaces(solid.difference(_ring_to_lonlat(np.asarray(hole.coords), place, tolerance)))
        parts += [orient(part, 1.0) for part in _polygons(solid) if part.area > 0]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def geodesic_area(shape: SurfaceShape) -> float:
    """Area on the WGS 84 ellipsoid in square metres, holes subtracted.

    Edges are taken as straight lines in longitude and latitude, as GeoJSON means them, and are cut into short
    geodesics for that (C. F. F. Karney, Algorithms for geodesics, 2013, through `pyproj.Geod`).

    Args:
        shape: In degrees of longitude and latitude.
    """
    geod = _pyproj().Geod(ellps="WGS84")
    total = 0.0
    for polygon in _half_worlds(shape):
        fine = shapely.segmentize(polygon, _AREA_STEP_DEG)
        rings = [fine.exterior, *fine.interiors]
        areas = [abs(geod.geometry_area_perimeter(shapely.Polygon(ring))[0]) for ring in rings]
        total += areas[0] - sum(areas[1:])
    return total


def _half_worlds(shape: SurfaceShape) -> list[shapely.Polygon]:
    """The polygons, those wider than 180 degrees cut at Greenwich: a geodesic ring cannot tell all from nothing."""
    parts: list[shapely.Polygon] = []
    for polygon in _polygons(shape):
        west, _, east, _ = polygon.bounds
        halves = (shapely.box(-180, -90, 0, 90), shapely.box(0, -90, 180, 90)) if east - west > 180 else ()
        parts += [part for half in halves for part in _polygons(_surfaces(polygon.intersection(half)))] or [polygon]
    return parts


def _ring_to_lonlat(ring: FloatArray, place: Georeference, tolerance: float) -> SurfaceShape:
    """One closed ring in pixels as a solid in lon/lat, cut at the antimeridian."""
    path, ground = _densify(ring, place, tolerance)
    turns = round((ground[-1, 0] - ground[0, 0]) / 360)
    if turns:  # the ring runs around a pole: close it along that pole
        pole = 90.0 if _holds_pole(path, place, 90.0) else -90.0
        ground = np.concatenate([ground, [[ground[-1, 0], pole], [ground[0, 0], pole], ground[0]]])
    pieces = _cut(_surfaces(shapely.make_valid(shapely.Polygon(ground))))
    # around a pole the pieces meet again at the longitude where the ring begins
    return _surfaces(shapely.union_all(_polygons(pieces), grid_size=1e-9)) if turns else pieces


def _densify(ring: FloatArray, place: Georeference, tolerance: float) -> tuple[FloatArray, FloatArray]:
    """Insert points until straight lon/lat segments follow the edges; returns (pixels, unwrapped lon/lat)."""
    steps = np.arange(_FIRST_PIECES) / _FIRST_PIECES
    pieces = ring[:-1, None, :] + steps[None, :, None] * (ring[1:] - ring[:-1])[:, None, :]
    path = np.concatenate([pieces.reshape(-1, 2), ring[-1:]])
    while True:
        ground = _unwrapped(place.lonlat(path))
        bad = _strays(path, ground, place, tolerance)
        if not bad.any() or len(path) + int(bad.sum()) > _MAX_POINTS:
            break
        middle = (path[:-1] + path[1:]) / 2
        path = np.insert(path, np.flatnonzero(bad) + 1, middle[bad], axis=0)
    keep = _needed(path, ground, ring, place, tolerance)
    return path[keep], ground[keep]


def _strays(path: FloatArray, ground: FloatArray, place: Georeference, tolerance: float) -> npt.NDArray[np.bool_]:
    """Which segments leave the true edge by more than the tolerance, tested at 1/4, 1/2 and 3/4."""
    bad = np.zeros(len(path) - 1, dtype=np.bool_)
    for share in (0.25, 0.5, 0.75):
        straight = ground[:-1] + share * (ground[1:] - ground[:-1])
        back = place.pixels(straight)
        true = path[:-1] + share * (path[1:] - path[:-1])
        off = np.hypot(*(back - true).T)
        bad |= ~(off <= tolerance)
    bad &= np.hypot(*(path[1:] - path[:-1]).T) > tolerance
    return bad


def _needed(path: FloatArray, ground: FloatArray, ring: FloatArray, place: Georeference,
            tolerance: float) -> npt.NDArray[np.intp]:
    """Indices of the corners, and of all points between two corners whose plain connection would stray."""
    corners = _corner_indices(path, ring)
    stray = _strays(path[corners], ground[corners], place, tolerance)
    keep: list[int] = []
    for position, (first, last) in enumerate(pairwise(corners)):
        keep += range(first, last) if stray[position] else [first]
    return np.array([*keep, corners[-1]], dtype=np.intp)


def _corner_indices(path: FloatArray, ring: FloatArray) -> list[int]:
    """Positions in `path` of the points of `ring`, in order."""
    found, start = [], 0
    for corner in ring:
        start += int(np.flatnonzero((path[start:] == corner).all(axis=1))[0])
        found.append(start)
        start += 1
    return found


def _same_turn(longitude: FloatArray, reference: FloatArray) -> FloatArray:
    """Longitudes plus the multiples of 360 that bring them within 180 degrees of the reference."""
    return longitude + 360 * np.round((reference - longitude) / 360)


def _unwrapped(lonlat: FloatArray) -> FloatArray:
    """Longitudes without jumps: each step is the shorter way around the globe."""
    out = lonlat.copy()
    out[:, 0] = np.unwrap(lonlat[:, 0], period=360)
    return out


def _holds_pole(path: FloatArray, place: Georeference, latitude: float) -> bool:
    """Whether a ring in pixels holds the pole of that latitude."""
    pole = place.pixels(np.array([[0.0, latitude]]))[0]
    return bool(np.isfinite(pole).all()) and bool(shapely.Polygon(path).contains(shapely.Point(pole)))


def _cut(solid: SurfaceShape) -> SurfaceShape:
    """Cut at every antimeridian and bring the pieces back into [-180, 180]."""
    if solid.is_empty:
        return solid
    west, _, east, _ = solid.bounds
    pieces: list[shapely.Polygon] = []
    for turn in range(int(np.floor((west + 180) / 360)), int(np.ceil((east + 180) / 360))):
        zone = solid.intersection(shapely.box(360 * turn - 180, -90, 360 * turn + 180, 90))
        pieces += [_shifted(part, -360.0 * turn, 0.0) for part in _polygons(_surfaces(zone)) if part.area > 0]
    return pieces[0] if len(pieces) == 1 else shapely.MultiPolygon(pieces)


def _shifted(polygon: shapely.Polygon, x: float, y: float) -> shapely.Polygon:
    """The polygon moved by (x, y)."""
    if not (x or y):
        return polygon
    moved = [np.asarray(ring.coords) + np.array([x, y]) for ring in (polygon.exterior, *polygon.interiors)]
    return shapely.Polygon(moved[0], moved[1:])


def _polygons(shape: shapely.Geometry) -> Sequence[shapely.Polygon]:
    """The polygons of a polygon or multipolygon."""
    return [part for part in shapely.get_parts(shape) if isinstance(part, shapely.Polygon) and not part.is_empty]


def _surfaces(shape: shapely.Geometry) -> SurfaceShape:
    """What of a geometry has an area (`make_valid` and intersections may add lines and points)."""
    if isinstance(shape, shapely.Polygon | shapely.MultiPolygon):
        return shape
    parts = [part for item in shapely.get_parts(shape) for part in _polygons(item)]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)
