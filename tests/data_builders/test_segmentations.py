"""COCO segmentations of every kind give the pixels that were meant, or say what is wrong."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from geotempo.data_builders.segmentations import boxed, decode_runs, inside_box, segmented
from geotempo.data_builders.source import Rejection
from geotempo.model.geometry import Box, Mask, Polygon, rasterize

MASKS = arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 1))
JSON = st.recursive(
    st.none() | st.integers(-5, 50) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.sampled_from(["size", "counts", "x"]), inner),
    max_leaves=12,
)


def lengths(mask):
    flat = mask.flatten(order="F")
    ends = np.flatnonzero(np.diff(flat.astype(int))) + 1
    runs = np.diff([0, *ends.tolist(), flat.size]).tolist()
    return runs if not flat[0] else [0, *runs]


@settings(max_examples=40, deadline=None)
@given(MASKS)
def test_both_kinds_of_run_lengths_come_back(mask):
    height, width = mask.shape
    packed = coco.encode(np.asfortranarray(mask))["counts"]
    for counts in (lengths(mask), packed, packed.decode()):
        assert np.array_equal(decode_runs({"size": [height, width], "counts": counts}, height, width), mask > 0)


@settings(max_examples=80, deadline=None)
@given(JSON)
def test_any_json_is_a_region_or_is_set_aside(value):
    with contextlib.suppress(Rejection):
        region = segmented(value, 10, 10, "x")
        assert rasterize(region.geometry, 10, 10).any()
    with contextlib.suppress(Rejection):
        assert isinstance(boxed(value, 10, 10, "x").geometry, Box)


@pytest.mark.parametrize(
    "runs",
    [
        {"size": [4, 4], "counts": [20]},
        {"size": [4, 4], "counts": [-4, 20]},
        {"size": [4, 4], "counts": "zzzz"},
        {"size": [4, 5], "counts": [20]},
        {"size": [4, 4]},
        {"counts": [16]},
        {"size": [4, 4], "counts": 16},
    ],
)
def test_run_lengths_of_another_number_of_pixels_are_refused(runs):
    with pytest.raises(Rejection):
        segmented(runs, 4, 4, "x")


def test_one_ring_stays_a_polygon_and_a_bow_tie_becomes_its_pixels():
    ring = [1, 1, 8, 1, 8, 8, 1, 8, 1, 1]
    for value in ([ring], ring):
        assert segmented(value, 10, 10, "x").geometry == Polygon(((1.0, 1.0), (8.0, 1.0), (8.0, 8.0), (1.0, 8.0)))
    tie = segmented([[0, 0, 8, 8, 8, 0, 0, 8]], 10, 10, "x").geometry
    assert isinstance(tie, Mask) and tie.to_array()[4, 1] and tie.to_array()[4, 6] and not tie.to_array()[1, 4]


def test_boxes_are_cut_at_the_border_and_refused_beyond():
    assert inside_box((-2, 0, 8, 10.5), 10, 10, "x") == Box(0, 0, 8, 10)
    for corners in ((5, 5, 5, 9), (8, 8, 30, 30), (20, 20, 30, 30)):
        with pytest.raises(Rejection):
            inside_box(corners, 10, 10, "x")
