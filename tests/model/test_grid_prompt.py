"""Grids as SAM's mask prompt."""

import numpy as np
import pytest
from PIL import Image

from geotempo.model.geometry import Box, GridMask, rasterize
from geotempo.model.grid_prompt import CERTAIN, GridSegmenter, mask_prompt, prompt_side
from geotempo.model.masks import Segmenter
from geotempo.model.records import Region
from geotempo.model.sam import Canvas

CELLS = np.add.outer(np.arange(16), np.arange(16)) < 16


@pytest.fixture(scope="module")
def picture():
    noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((200, 120), Image.Resampling.BICUBIC)


def test_the_prompt_lies_where_the_grid_lies():
    region = Region(1, GridMask.from_array(Box(40, 20, 104, 84), CELLS))
    canvas = Canvas(256, 200, 120, (256, 154))
    prompt = mask_prompt(region, canvas, 128)
    assert prompt.shape == (128, 128) and set(np.unique(prompt)) == {np.float32(-CERTAIN), np.float32(CERTAIN)}
    back = np.asarray(Image.fromarray(prompt > 0).resize((256, 256)))[:154, :256]
    shown = np.asarray(Image.fromarray(back).resize((200, 120)))
    truth = rasterize(region.geometry, 120, 200)
    assert (shown & truth).sum() / (shown | truth).sum() > 0.9
    assert not prompt[78:].any() or (prompt[78:] < 0).all(), "nothing in the padding"


def test_the_prompt_of_a_crop_is_cut_out_of_the_grid():
    region = Region(1, GridMask.from_array(Box(40, 20, 104, 84), CELLS))
    prompt = mask_prompt(region, Canvas(64, 64, 64, (64, 64), 40, 20), 16)
    assert np.array_equal(prompt > 0, CELLS)


def test_regions_without_a_grid_are_segmented_as_ever(picture):
    plain, shown = Segmenter.load(), GridSegmenter.load()
    boxes = [Region(1, Box(20, 20, 90, 100), points=((40.0, 50.0), (60.0, 70.0))), Region(1, Box(100, 10, 190, 110))]
    assert shown.segment(picture, boxes) == plain.segment(picture, boxes)


def test_grids_reach_the_decoder_in_order(picture):
    """The embedded SAM never learned mask prompts, but it is not blind to them."""
    segmenter = GridSegmenter.load(least_score=0.0)
    box = Box(20, 20, 180, 110)
    grids = [Region(1, GridMask.from_array(box, cells)) for cells in (CELLS, ~CELLS, np.ones((16, 16)))]
    regions = [grids[0], Region(1, box), grids[1], grids[2]]
    together = segmenter.segment_with_source(picture, regions)
    alone = [segmenter.segment_with_source(picture, [region])[0] for region in regions]
    for one, other in zip(together, alone, strict=True):
        assert np.mean(one.mask.to_array() != other.mask.to_array()) < 0.01
    assert len({item.mask for item in together}) > 1
    assert prompt_side(segmenter.model) == 128
