"""Run lengths from a window, index image, PNG, regions by image."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from geotempo.model.errors import InputError
from geotempo.model.geometry import Box, Mask
from geotempo.model.mask_output import by_image, index_image, mask_area, mask_in_window, mask_png
from geotempo.model.records import Region


@st.composite
def windows(draw):
    """(window, top, left, height, width): any place in any small image, often touching the borders."""
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    rows, columns = draw(st.integers(0, height)), draw(st.integers(0, width))
    top, left = draw(st.integers(0, height - rows)), draw(st.integers(0, width - columns))
    bits = draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
    return np.array(bits, bool).reshape(rows, columns), top, left, height, width


@settings(max_examples=500, deadline=None)
@given(windows())
def test_a_windows_run_lengths_are_those_of_the_whole_mask(case):
    window, top, left, height, width = case
    whole = np.zeros((height, width), bool)
    whole[top : top + window.shape[0], left : left + window.shape[1]] = window
    made = mask_in_window(window, top, left, height, width)
    assert made == Mask.from_array(whole)
    assert mask_area(made) == whole.sum()


@pytest.mark.parametrize("fill", [False, True])
def test_a_window_as_large_as_the_image(fill):
    window = np.full((7, 5), fill)
    assert mask_in_window(window, 0, 0, 7, 5) == Mask.from_array(window)


def test_a_window_that_reaches_over_the_image_is_refused():
    with pytest.raises(InputError, match=r"4 x 3 pixels at \(8, 0\) reaches over an image of 10 x 10"):
        mask_in_window(np.ones((3, 4), bool), 0, 8, 10, 10)


def square(x, size, side=20):
    array = np.zeros((side, side), bool)
    array[x : x + size, x : x + size] = True
    return Mask.from_array(array)


def test_the_index_image_numbers_masks_from_one_and_lays_small_ones_on_top():
    numbers = np.asarray(index_image([square(5, 3), square(2, 12)], 20, 20))
    assert numbers.dtype == np.uint8 and numbers[6, 6] == 1 and numbers[3, 3] == 2 and numbers[0, 0] == 0
    assert (numbers == 1).sum() == 9 and (numbers == 2).sum() == 144 - 9


def test_more_masks_than_a_byte_counts_take_two():
    numbers = np.asarray(index_image([square(i % 17, 1) for i in range(300)], 20, 20))
    assert numbers.dtype == np.uint16 and numbers.max() == 300


def test_a_mask_as_png():
    picture = Image.open(io.BytesIO(mask_png(square(4, 3))))
    assert picture.format == "PNG" and picture.mode == "L"
    assert sorted(set(np.asarray(picture).reshape(-1).tolist())) == [0, 255] and np.asarray(picture).sum() == 9 * 255


def test_regions_by_image():
    regions = [Region(3, Box(0, 0, 1, 1)), Region(1, Box(0, 0, 1, 1)), Region(3, Box(0, 0, 2, 2))]
    assert by_image(regions, 4) == {1: [1], 3: [0, 2]}
    with pytest.raises(InputError, match="region 3 of 3 lies on Image 9, but there are Image 1 to Image 4"):
        by_image([*regions[:2], Region(9, Box(0, 0, 1, 1))], 4)
    with pytest.raises(InputError, match="Image 2, but there is only Image 1"):
        by_image([Region(2, Box(0, 0, 1, 1))], 1)
