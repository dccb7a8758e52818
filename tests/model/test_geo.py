"""Pixels to places and back, areas, the antimeridian and the poles."""

import math

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geotempo.model.errors import InputError
from geotempo.model.geo import Georeference, geodesic_area, mask_polygons, pixel_shape, to_lonlat
from geotempo.model.geometry import Box, GridMask, Mask, Polygon, RotatedBox, area

pytest.importorskip("pyproj")
pytest.importorskip("rasterio")

UTM = Georeference("EPSG:32633", (10.0, 0.0, 5e5, 0.0, -10.0, 5.4e6))
EARTH = 510_065_621_724_089  # m2 of the WGS 84 ellipsoid (Karney 2013)


@given(st.floats(-1000, 1000), st.floats(-1000, 1000), st.floats(0, 360), st.floats(0.1, 50))
@settings(max_examples=50, deadline=None)
def test_pixels_are_the_inverse_of_lonlat(x, y, angle, size):
    c, s = math.cos(math.radians(angle)) * size, math.sin(math.radians(angle)) * size
    place = Georeference("EPSG:32633", (c, s, 5e5, s, -c, 5.4e6))
    back = place.pixels(place.lonlat(np.array([[x, y]])))
    assert np.abs(back - [x, y]).max() < 1e-3


def test_longitudes_count_as_the_raster_does():
    place = Georeference("EPSG:4326", (0.01, 0.0, 179.0, 0.0, -0.01, 0.0))
    ground = place.lonlat(np.array([[200.0, 50.0]]))
    assert ground[0, 0] == pytest.approx(181) and place.pixels(ground)[0, 0] == pytest.approx(200)


def test_a_transform_without_inverse_is_refused():
    with pytest.raises(InputError):
        Georeference("EPSG:4326", (1.0, 1.0, 0.0, 1.0, 1.0, 0.0))


def test_coordinates_without_a_way_to_wgs84_are_refused():
    local = 'LOCAL_CS["site",UNIT["metre",1]]'
    with pytest.raises(InputError):
        Georeference(local, UTM.transform).lonlat(np.zeros((1, 2)))


def test_world_map_is_the_whole_earth():
    place = Georeference("EPSG:4326", (1.0, 0.0, -180.0, 0.0, -1.0, 90.0))
    world = to_lonlat(shapely.box(0, 0, 360, 180), place)
    assert world.equals(shapely.box(-180, -90, 180, 90))
    assert geodesic_area(world) == pytest.approx(EARTH, rel=1e-9)


def test_world_map_from_0_to_360_is_cut_at_the_antimeridian():
    place = Georeference("EPSG:4326", (1.0, 0.0, 0.0, 0.0, -1.0, 90.0))
    shape = to_lonlat(shapely.box(170, 60, 190, 80), place)
    assert sorted(part.bounds for part in shape.geoms) == [(-180, 10, -170, 30), (170, 10, 180, 30)]


def test_web_mercator_world_keeps_its_width():
    half = 20037508.342789244
    place = Georeference("EPSG:3857", (half / 500, 0.0, -half, 0.0, -half / 500, half))
    shape = to_lonlat(shapely.box(0, 0, 1000, 1000), place)
    assert shape.bounds == pytest.approx((-180, -85.0511288, 180, 85.0511288), abs=1e-6)


@pytest.mark.parametrize(("crs", "latitude"), [("EPSG:3413", 90), ("EPSG:3031", -90)])
def test_a_ring_around_the_pole_holds_it_and_its_hole_does_not(crs, latitude):
    place = Georeference(crs, (10000.0, 0.0, -1e6, 0.0, -10000.0, 1e6))
    outer, inner = shapely.box(20, 20, 180, 180), shapely.box(90, 90, 110, 110)
    full, holed = to_lonlat(outer, place), to_lonlat(outer - inner, place)
    assert full.is_valid and holed.is_valid
    spots = [shapely.Point(lon, latitude * 0.9999) for lon in (-170, -45, 10, 120)]
    assert all(full.contains(spot) for spot in spots) and not any(holed.intersects(spot) for spot in spots)
    hole = to_lonlat(inner, place)
    assert geodesic_area(full) == pytest.approx(geodesic_area(holed) + geodesic_area(hole), rel=1e-6)
    # true scale at 70 degrees: near the pole a pixel of the map is up to 6 % smaller on the ground
    assert 0.9 < geodesic_area(hole) / (20 * 10000) ** 2 < 1.1


def test_long_edges_follow_the_projection():
    place = Georeference("EPSG:3413", (1000.0, 0.0, 5e5, 0.0, -1000.0, -5e5))
    shape = to_lonlat(shapely.box(0, 0, 1000, 1000), place)
    middle = place.lonlat(np.array([[500.0, 0.0]]))[0]
    line = np.asarray(shape.exterior.coords)
    back = place.pixels(np.array(shapely.LineString(line).interpolate(
        shapely.LineString(line).project(shapely.Point(middle))).coords))
    assert np.abs(back - [500, 0]).max() < 0.05 and len(line) > 50


def test_edges_that_are_straight_gain_no_points():
    place = Georeference("EPSG:4326", (0.01, 0.0, 10.0, 0.0, -0.01, 50.0))
    assert len(to_lonlat(shapely.box(0, 0, 100, 100), place).exterior.coords) == 5


def test_masks_become_polygons_along_pixel_edges():
    array = np.zeros((20, 30), bool)
    array[2:10, 3:20] = True
    array[4:6, 5:8] = False
    array[15, 25] = True
    shape = mask_polygons(Mask.from_array(array))
    assert shape.equals(shapely.MultiPolygon([shapely.box(3, 2, 20, 10) - shapely.box(5, 4, 8, 6),
                                              shapely.box(25, 15, 26, 16)]))
    assert mask_polygons(Mask.from_array(np.zeros((4, 4), bool))).is_empty


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_polygons_of_any_mask_have_its_area(seed):
    array = np.random.default_rng(seed).random((17, 23)) < 0.5
    mask = Mask.from_array(array)
    shape = mask_polygons(mask)
    assert shape.area == array.sum() and shape.is_valid
    place = to_lonlat(shape, UTM)
    assert geodesic_area(place) == pytest.approx(array.sum() * 100, rel=2e-3)
    assert all(part.exterior.is_ccw and not any(ring.is_ccw for ring in part.interiors)
               for part in shapely.get_parts(place))


def test_other_geometries_are_cut_at_the_image():
    assert pixel_shape(Box(-5, -5, 5, 5), 100, 100).equals(shapely.box(0, 0, 5, 5))
    assert pixel_shape(Box(200, 200, 205, 205), 100, 100).is_empty
    assert pixel_shape(RotatedBox(50, 50, 20, 10, 90), 100, 100).bounds == pytest.approx((45, 40, 55, 60))
    bow = Polygon(((0, 0), (10, 10), (10, 0), (0, 10)))
    assert pixel_shape(bow, 100, 100).area == pytest.approx(50)


def test_area_does_not_depend_on_the_number_of_points():
    strip = shapely.box(0, 70, 40, 70.1)
    assert geodesic_area(strip) == pytest.approx(geodesic_area(shapely.segmentize(strip, 0.01)), rel=1e-6)


def test_a_grid_becomes_the_outline_of_its_cells():
    """Cells that touch along an edge are one polygon, those that meet in a corner or not at all are several."""
    cells = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 1]], dtype=bool)
    grid = GridMask.from_array(Box(10, 20, 18, 26), cells)
    shape = pixel_shape(grid, 100, 100)
    assert shape.is_valid and shape.area == pytest.approx(area(grid)) == pytest.approx(5 * 4)
    assert len(shapely.get_parts(shape)) == 3
    assert pixel_shape(grid, 14, 100).area == pytest.approx(4 * 4), "cut at the image border"
