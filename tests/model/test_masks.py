"""Masks by SAM: coordinates, order, clipping, fallback and errors, on small random models."""

import io
import json
import shutil
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from geotempo.model.errors import InputError, ModelError
from geotempo.model.geometry import Box, GridMask, Mask, Polygon, rasterize
from geotempo.model.masks import (
    BATCH,
    Segmenter,
    box_mask,
    enlarged_window,
    sample_logits,
)
from geotempo.model.records import ImageRecord, Region
from geotempo.model.sam import Canvas
from tests.tiny_sam import write


@pytest.fixture(scope="module")
def random_sam(tmp_path_factory):
    """Folder of a SAM with random weights, input 64 px, masks of 32 px."""
    return write("sam", tmp_path_factory.mktemp("sam") / "random")


@pytest.fixture(scope="module", params=["sam", "sam2", "sam2_video"])
def any_sam(request, tmp_path_factory):
    """Folder of a small random model of each family."""
    return write(request.param, tmp_path_factory.mktemp("any") / request.param)


def constant(folder, value):
    """A segmenter whose logits have the sign of `value` everywhere, whatever it sees."""
    segmenter = Segmenter.load(folder)
    decoder = segmenter.model.mask_decoder
    with torch.no_grad():
        decoder.upscale_conv2.weight.zero_()
        decoder.upscale_conv2.bias.fill_(5.0)
        head = decoder.output_hypernetworks_mlps[0].proj_out
        head.weight.zero_()
        head.bias.fill_(value)
    return segmenter


def picture(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def regions_of(width, height, count, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        x1, y1 = rng.uniform(0, width * 0.6), rng.uniform(0, height * 0.6)
        box = Box(x1, y1, x1 + width * rng.uniform(0.1, 0.4), y1 + height * rng.uniform(0.1, 0.4))
        middle = ((box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2)
        made.append(Region(1, box, points=(middle, middle) if i % 2 else None))
    return made


@pytest.mark.parametrize("size", [(64, 64), (150, 40), (33, 200), (5, 3)])
def test_one_mask_per_region_of_the_images_own_size(any_sam, size):
    segmenter = Segmenter.load(any_sam)
    masks = segmenter.segment(picture(*size), regions_of(*size, 3))
    assert [(mask.width, mask.height) for mask in masks] == [size] * 3
    assert all(mask.to_array().any() for mask in masks)


def test_order_is_kept_across_batches_and_batches_do_not_mix(any_sam):
    segmenter, image = Segmenter.load(any_sam, crops=False), picture(90, 70)
    regions = regions_of(90, 70, BATCH + 5)
    together = segmenter.segment(image, regions)
    for i in (0, 1, BATCH - 1, BATCH, BATCH + 4):
        alone = segmenter.segment(image, [regions[i]])[0].to_array()
        assert (alone != together[i].to_array()).sum() <= 1  # float sums may differ in the last bit
    assert len({mask.counts for mask in together}) > BATCH // 2


def test_the_same_input_gives_the_same_masks_and_a_record_equals_its_picture(random_sam):
    image, regions = picture(80, 50), regions_of(80, 50, 4)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    record = ImageRecord("a", 80, 50, data=buffer.getvalue())
    first = Segmenter.load(random_sam).segment(image, regions)
    assert Segmenter.load(str(random_sam)).segment(record, regions) == first


def test_no_regions_no_masks(random_sam):
    assert Segmenter.load(random_sam).segment(picture(10, 10), []) == []


@pytest.mark.parametrize("size", [(64, 64), (301, 97), (40, 500)])
def test_masks_reach_over_their_box_by_ten_percent_and_no_further(random_sam, size):
    width, height = size
    box = Box(width * 0.3, height * 0.4, width * 0.7, height * 0.9)
    made = constant(random_sam, 1.0).segment_with_source(picture(*size), [Region(1, box)])[0]
    rows, columns = enlarged_window(box, width, height)
    expected = np.zeros((height, width), bool)
    expected[rows, columns] = True
    assert (made.mask.to_array() == expected).all() and made.source == "model"
    assert columns.start == int(width * 0.26 + 1e-9) and columns.stop == int(np.ceil(width * 0.74 - 1e-9))


def test_where_the_model_finds_nothing_the_box_stands_in_and_says_so(random_sam):
    made = constant(random_sam, -1.0).segment_with_source(picture(50, 30), [Region(1, Box(10, 5, 20, 25))])[0]
    assert made.fallback and made.source == "box" and made.score == 0
    array = made.mask.to_array()
    assert array[5:25, 10:20].all() and array.sum() == 200


def test_a_mask_that_the_model_itself_scores_low_is_not_trusted_where_that_is_asked_for(random_sam):
    segmenter, region = constant(random_sam, 1.0), Region(1, Box(10, 5, 30, 25))
    with torch.no_grad():
        head = segmenter.model.mask_decoder.iou_prediction_head.proj_out
        head.weight.zero_()
        head.bias.fill_(0.6)
    for least, source in ((0.0, "model"), (0.59, "model"), (0.61, "box")):  # its mask is 24 x 24 pixels, its box 20 x 20
        segmenter.least_score = least
        made = segmenter.segment_with_source(picture(50, 30), [region])[0]
        assert made.source == source and made.mask.to_array().sum() == (576 if source == "model" else 400)


def test_a_checkpoint_says_itself_from_which_score_on_its_masks_are_trusted(random_sam, tmp_path):
    assert Segmenter.load(random_sam).least_score == 0 and Segmenter.load(random_sam, least_score=0.2).least_score == 0.2
    own = shutil.copytree(random_sam, tmp_path / "own")
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(config | {"least_score": 0.3}))
    assert Segmenter.load(own).least_score == 0.3


def test_a_box_smaller_than_a_pixel_falls_back_to_the_pixel_under_it(random_sam):
    made = constant(random_sam, -1.0).segment(picture(50, 30), [Region(1, Box(49.7, 29.7, 49.9, 29.9))])[0]
    assert np.argwhere(made.to_array()).tolist() == [[29, 49]]


def test_a_region_partly_outside_is_clipped_and_one_wholly_outside_is_refused(random_sam):
    segmenter = Segmenter.load(random_sam)
    assert segmenter.segment(picture(50, 30), [Region(1, Box(-10, -10, 20, 60))])[0].to_array().any()
    with pytest.raises(InputError, match="outside the image of 50 x 30"):
        segmenter.segment(picture(50, 30), [Region(1, Box(50, 0, 60, 10))])


def test_any_geometry_prompts_with_its_box(random_sam):
    segmenter, image = Segmenter.load(random_sam), picture(60, 60)
    triangle = Region(1, Polygon(((10, 10), (40, 10), (10, 50))))
    assert segmenter.segment(image, [triangle]) == segmenter.segment(image, [Region(1, Box(10, 10, 40, 50))])


@pytest.mark.parametrize(("width", "height"), [(64, 64), (320, 160), (160, 320), (37, 101), (1000, 10)])
def test_logits_come_back_where_the_image_has_them(width, height):
    """A plane over the canvas, sampled at the image's pixels, equals the plane in image coordinates."""
    side, cells = 64, 32
    scale = side / max(width, height)
    canvas = Canvas(side, width, height, (int(width * scale + 0.5), int(height * scale + 0.5)))
    x, y = np.meshgrid(*[(np.arange(cells) + 0.5) * side / cells] * 2)
    logits = (3 * x - 2 * y).astype(np.float32)
    found = sample_logits(logits, slice(0, height), slice(0, width), canvas)
    sx, sy = canvas.scale
    px, py = np.meshgrid((np.arange(width) + 0.5) * sx, (np.arange(height) + 0.5) * sy)
    half = side / cells / 2  # within half a cell of the border values are held, not extrapolated
    inner = (px >= half) & (px <= canvas.resized[0] - half) & (py >= half) & (py <= canvas.resized[1] - half)
    assert found.shape == (height, width)
    np.testing.assert_allclose(found[inner], (3 * px - 2 * py)[inner], rtol=0, atol=1e-3)


def test_padding_never_leaks_into_the_image():
    canvas = Canvas(64, 200, 100, (64, 32))
    logits = np.full((32, 32), -9.0, np.float32)
    logits[:16] = 1.0  # the image's part
    assert (sample_logits(logits, slice(0, 100), slice(0, 200), canvas) == 1).all()


def test_a_window_equals_the_same_part_of_the_whole():
    canvas = Canvas(64, 200, 100, (64, 32))
    logits = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
    whole = sample_logits(logits, slice(0, 100), slice(0, 200), canvas)
    np.testing.assert_allclose(sample_logits(logits, slice(20, 77), slice(3, 150), canvas), whole[20:77, 3:150],
                               atol=1e-5)


def test_a_device_that_is_not_there_is_refused(random_sam):
    with pytest.raises(ModelError, match="no-such-device") as error:
        Segmenter.load(random_sam, device="no-such-device")
    assert "\n" not in str(error.value)


def counting(segmenter):
    """Count the encoder runs of a segmenter."""
    runs, original = [], segmenter.model.get_image_embeddings

    def counted(pixels):
        runs.append(pixels.shape[0])
        return original(pixels)

    segmenter.model.get_image_embeddings = counted
    return runs


def test_a_second_request_on_the_same_image_costs_no_encoder_run(any_sam):
    segmenter, regions = Segmenter.load(any_sam), [Region(1, Box(5, 5, 60, 60)), Region(1, Box(80, 80, 86, 86))]
    runs = counting(segmenter)
    first = segmenter.segment(picture(100, 90), regions)
    assert len(runs) == 2  # the image, and a crop for the small region
    assert segmenter.segment(picture(100, 90), regions) == first and len(runs) == 2
    segmenter.segment(picture(100, 90, seed=1), regions)
    assert len(runs) == 4  # another content


def test_kept_embeddings_are_bounded_and_the_least_used_goes_first(random_sam):
    segmenter, regions = Segmenter.load(random_sam), [Region(1, Box(5, 5, 60, 60))]
    runs, images = counting(segmenter), [picture(70, 70, seed) for seed in range(3)]
    segmenter._embeddings.limit = 2 * 16 * 8 * 8 * 4
    for image in (images[0], images[1], images[0], images[2], images[0]):
        segmenter.segment(image, regions)
    assert len(runs) == 3 and segmenter._embeddings.held == segmenter._embeddings.limit
    segmenter.segment(images[1], regions)
    assert len(runs) == 4


def test_regions_of_a_sequence_are_segmented_on_the_image_they_name(any_sam):
    segmenter = Segmenter.load(any_sam)
    images = [picture(90, 70, 0), picture(40, 50, 1), picture(90, 70, 2)]
    regions = [Region(3, Box(10, 10, 60, 50)), Region(2, Box(0, 0, 30, 50)), Region(3, Box(5, 5, 70, 60)), Region(1, Box(9, 9, 80, 60))]
    found = [item.mask for item in segmenter.segment_sequence(images, regions)]
    assert [(mask.width, mask.height) for mask in found] == [(90, 70), (40, 50), (90, 70), (90, 70)]
    assert [found[0], found[2]] == segmenter.segment(images[2], [regions[0], regions[2]])
    assert [found[1]] == segmenter.segment(images[1], [regions[1]])
    with pytest.raises(InputError, match="Image 9, but there are Image 1 to Image 3"):
        segmenter.segment_sequence(images, [*regions, Region(9, Box(1, 1, 2, 2))])


@pytest.mark.parametrize("family", ["sam", "sam2"])
def test_a_crop_is_mapped_back_to_where_it_lies(family, tmp_path):
    """A model that says yes everywhere fills each box's window, on the image as on a crop of it."""
    folder = write(family, tmp_path / "m")
    boxes = [Box(101.2, 57.7, 109.9, 66.1), Box(3, 2, 9, 20), Box(20, 10, 190, 120)]
    made = constant(folder, 1.0).segment_with_source(picture(200, 130), [Region(1, box) for box in boxes])
    for box, item in zip(boxes, made, strict=True):
        expected = np.zeros((130, 200), bool)
        expected[enlarged_window(box, 200, 130)] = True
        assert (item.mask.to_array() == expected).all() and item.source == "model"


def test_a_window_of_logits_on_a_crop_is_that_of_the_cropped_image():
    logits = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
    crop, alone = Canvas(64, 50, 40, (64, 51), left=30, top=20), Canvas(64, 50, 40, (64, 51))
    np.testing.assert_array_equal(sample_logits(logits, slice(25, 55), slice(33, 70), crop),
                                  sample_logits(logits, slice(5, 35), slice(3, 40), alone))


@pytest.mark.parametrize("box", [Box(0, 0, 50, 30), Box(10.4, 5.6, 20.5, 25.4), Box(-5, -5, 3, 3), Box(48.2, 28.2, 70, 70),
                                 Box(49.7, 29.7, 49.9, 29.9)])
def test_a_boxs_mask_is_its_rasterised_pixels_or_the_one_under_it(box):
    expected = rasterize(box, 30, 50)
    found = box_mask(box, 30, 50).to_array()
    assert (found == expected).all() if expected.any() else found.sum() == 1


def test_five_hundred_regions_on_a_large_image_never_hold_many_masks():
    """Encoded as they are made: full masks of 4096 x 4096 would take 8 GB."""
    side, count = 4096, 500
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)).resize((side, side))
    corners = rng.uniform(0, side - 700, (count, 2))
    sizes = np.exp(rng.uniform(np.log(300), np.log(600), (count, 2)))
    regions = [Region(1, Box(x, y, x + w, y + h)) for (x, y), (w, h) in zip(corners.tolist(), sizes.tolist(), strict=True)]
    regions[7] = Region(1, Box(0, 0, side, side))
    segmenter = Segmenter.load()
    segmenter.segment(coarse, regions[:1])
    tracemalloc.start()  # numpy and Python; torch's part is the model's and does not grow with the number of regions
    found = segmenter.segment(coarse, regions)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == count and all(isinstance(mask, Mask) and mask.width == side for mask in found)
    assert peak < 400 * 2**20, peak / 2**20


def test_a_region_with_a_grid_keeps_it_as_its_mask():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    cells = np.add.outer(np.arange(16), np.arange(16)) < 16
    grid = Region(1, GridMask.from_array(Box(10, 10, 58, 42), cells))
    tiny = Region(1, GridMask.from_array(Box(3.6, 3.6, 4.4, 4.4), cells))  # no pixel centre inside
    boxed = Region(1, Box(50, 5, 80, 55))
    segmenter = Segmenter.load()
    found = segmenter.segment_with_source(picture, [grid, boxed, tiny])
    assert [(item.source, item.score > 0) for item in found] == [("grid", False), (found[1].source, found[1].score > 0), ("grid", False)]
    assert np.array_equal(found[0].mask.to_array(), rasterize(grid.geometry, 60, 90))
    assert found[1] == segmenter.segment_with_source(picture, [boxed])[0]
    assert found[2].mask.to_array().sum() == 1
    with pytest.raises(InputError, match="outside the image"):
        segmenter.segment(picture, [Region(1, GridMask.from_array(Box(100, 0, 120, 9), cells))])
