"""Geometries, their bounds, and their way to and from masks."""

import json

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from geotempo.model.errors import InputError
from geotempo.model.geometry import (
    Box,
    GridMask,
    Mask,
    Polygon,
    RotatedBox,
    area,
    bounds,
    coverage,
    interior_points,
    rasterize,
    to_shape,
)

arrays = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=30))
filled = arrays.filter(lambda array: bool(array.any()))
corner = st.floats(-20, 60)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x, y = draw(corner), draw(corner)
    return Box(x, y, x + draw(st.floats(0.01, 60)), y + draw(st.floats(0.01, 60)))


rotated_boxes = st.builds(RotatedBox, corner, corner, st.floats(0.1, 50), st.floats(0.1, 50), st.floats(-360, 360))


grids = st.builds(GridMask.from_array, boxes(), filled)


@given(arrays)
def test_a_mask_comes_back_pixel_for_pixel(array):
    mask = Mask.from_array(array)
    assert (mask.height, mask.width) == array.shape
    assert np.array_equal(mask.to_array(), array)
    coco = mask.to_coco()
    assert json.loads(json.dumps(coco)) == coco and coco["size"] == list(array.shape)
    assert Mask.from_array(array.astype(np.uint8) * 255) == mask, "non-zero is inside"
    assert Mask.from_array(np.asfortranarray(array)) == mask, "whatever the memory order"


@given(filled)
def test_bounds_of_a_mask_are_tight_and_half_open(array):
    box = bounds(Mask.from_array(array))
    x1, y1, x2, y2 = (int(value) for value in box.as_tuple())
    assert array.sum() == array[y1:y2, x1:x2].sum()
    assert array[y1].any() and array[y2 - 1].any() and array[:, x1].any() and array[:, x2 - 1].any()


@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 20), st.integers(1, 20))
def test_a_box_on_pixel_corners_covers_exactly_its_pixels(x, y, width, height):
    array = rasterize(Box(x, y, x + width, y + height), 30, 30)
    expected = np.zeros((30, 30), dtype=bool)
    expected[y : y + height, x : x + width] = True
    assert np.array_equal(array, expected)


@given(boxes() | rotated_boxes | grids)
@settings(deadline=None)
def test_rasterised_pixels_are_those_with_their_centre_inside(geometry):
    array = rasterize(geometry, 40, 50)
    shape = to_shape(geometry)
    for row, column in [(0, 0), (39, 49), (20, 25), (7, 31)]:
        centre = shapely.Point(column + 0.5, row + 0.5)
        if shape.boundary.distance(centre) > 1e-9:
            assert array[row, column] == shape.contains(centre)
    assert abs(int(array.sum()) - shapely.intersection(shape, shapely.box(0, 0, 50, 40)).area) <= shape.length + 1


@given(rotated_boxes)
def test_a_rotated_box_keeps_size_and_lies_in_its_bounds(rotated):
    shape, box = to_shape(rotated), bounds(rotated)
    assert shape.area == pytest.approx(rotated.width * rotated.height, rel=1e-6)
    assert bounds(Polygon(rotated.corners())) == box
    assert shape.bounds == pytest.approx(box.as_tuple())
    assert shape.centroid.x == pytest.approx(rotated.cx, abs=1e-6) and shape.centroid.y == pytest.approx(rotated.cy, abs=1e-6)


def test_a_rotated_box_turns_clockwise_on_the_screen():
    top_left, top_right, *_ = RotatedBox(0, 0, 4, 2, 0).corners()
    assert (top_left, top_right) == ((-2, -1), (2, -1))
    assert RotatedBox(0, 0, 4, 2, 90).corners()[0] == pytest.approx((1, -2)), "y points down: the top left moves right and up"


@given(grids)
@settings(deadline=None)
def test_a_grid_is_its_cells(grid):
    shape, cells = to_shape(grid), grid.to_array()
    assert GridMask.from_array(grid.box, cells) == grid and bounds(grid) == grid.box
    assert shape.is_valid and shape.area == pytest.approx(area(grid), rel=1e-6)
    assert area(grid) == pytest.approx(grid.box.area * cells.mean(), rel=1e-9)
    assert np.allclose(coverage(grid, grid.box, cells.shape), cells), "its own cells are full or empty"


def test_a_grid_on_pixel_corners_is_an_enlarged_picture():
    cells = np.random.default_rng(0).random((4, 6)) < 0.5
    grid = GridMask.from_array(Box(3, 5, 3 + 6 * 2, 5 + 4 * 3), cells)
    expected = np.zeros((30, 30), dtype=bool)
    expected[5:17, 3:15] = cells.repeat(3, axis=0).repeat(2, axis=1)
    assert np.array_equal(rasterize(grid, 30, 30), expected)
    small = GridMask.from_array(Box(3, 5, 6, 7), cells.repeat(4, axis=1)[:, :24])  # cells smaller than a pixel
    assert rasterize(small, 30, 30).sum() == cells[1::2, 1::2].sum(), "the cell that a pixel centre lies in decides"


@given(st.one_of(boxes(), rotated_boxes, grids, st.builds(Mask.from_array, filled)), boxes(), st.integers(1, 6), st.integers(1, 6))
@settings(deadline=None, max_examples=150)
def test_coverage_is_the_exact_share_of_each_cell(geometry, box, rows, columns):
    covered = coverage(geometry, box, (rows, columns))
    if isinstance(geometry, Mask):
        array = geometry.to_array()
        shape = shapely.union_all([shapely.box(x, y, x + 1, y + 1) for y, x in zip(*np.nonzero(array), strict=True)])
    else:
        shape = to_shape(geometry)
    width, height = (box.x2 - box.x1) / columns, (box.y2 - box.y1) / rows
    for row in range(rows):
        for column in range(columns):
            x, y = box.x1 + column * width, box.y1 + row * height
            cell = shapely.box(x, y, x + width, y + height)
            assert covered[row, column] == pytest.approx(shape.intersection(cell).area / (width * height), abs=1e-6)


@given(st.builds(Mask.from_array, filled) | rotated_boxes)
def test_areas(geometry):
    expected = geometry.to_array().sum() if isinstance(geometry, Mask) else geometry.width * geometry.height
    assert area(geometry) == pytest.approx(expected, rel=1e-6)


def test_holes_are_outside():
    ring = ((2.0, 2.0), (12.0, 2.0), (12.0, 12.0), (2.0, 12.0))
    hole = ((5.0, 5.0), (8.0, 5.0), (8.0, 8.0), (5.0, 8.0))
    array = rasterize(Polygon(ring, (hole,)), 20, 20)
    assert array.sum() == 100 - 9 and not array[6, 6] and array[4, 4]


@given(filled)
@settings(deadline=None)
def test_interior_points_are_deep_inside(array):
    depth = ndimage.distance_transform_edt(np.pad(array, 1))[1:-1, 1:-1]
    (x1, y1), (x2, y2) = interior_points(array)
    assert all(value % 1 == 0.5 for value in (x1, y1, x2, y2)), "pixel centres"
    assert depth[int(y1), int(x1)] == depth.max()
    assert array[int(y2), int(x2)] and depth[int(y2), int(x2)] >= depth.max() / 2


def test_interior_points_of_a_long_object_lie_apart():
    array = np.zeros((20, 60), dtype=bool)
    array[8:13, 5:55] = True
    (x1, y1), (x2, y2) = interior_points(array)
    assert abs(x1 - x2) > 20 and 9 < y1 < 12 and 9 < y2 < 12
    single = np.zeros((3, 3), dtype=bool)
    single[1, 2] = True
    assert interior_points(single) == ((2.5, 1.5), (2.5, 1.5))


def test_rasterising_outside_the_image_is_empty():
    assert not rasterize(Box(100, 100, 110, 110), 20, 20).any()
    assert not rasterize(Box(-9, -9, -1, -1), 20, 20).any()
    assert rasterize(Box(-1e9, -1e9, 1e9, 1e9), 20, 30).all()


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Box(1, 1, 1, 2), "x1 < x2"), (lambda: Box(1, 3, 2, 2), "y1 < y2"), (lambda: Box(float("nan"), 0, 1, 1), "x1 < x2"),
    (lambda: RotatedBox(0, 0, 0, 1, 0), "positive size"), (lambda: Polygon(((0, 0), (1, 1))), "3 or more points"),
    (lambda: Polygon(((0, 0), (1, 1), (0, 1)), (((0, 0),),)), "3 or more points"),
    (lambda: GridMask(Box(0, 0, 1, 1), ((True,), (True, False))), "rows of one length"),
    (lambda: GridMask(Box(0, 0, 1, 1), ((False, False),)), "one cell that is inside"), (lambda: GridMask(Box(0, 0, 1, 1), ()), "rows"),
    (lambda: bounds(Mask.from_array(np.zeros((2, 2)))), "empty mask"),
    (lambda: to_shape(Mask.from_array(np.ones((2, 2)))), "rasterize"),
    (lambda: rasterize(Mask.from_array(np.ones((2, 3))), 3, 2), "the mask is 3 x 2, the image 2 x 3"),
])
def test_impossible_geometries_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
