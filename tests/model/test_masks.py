"""Masks by SAM: coordinates, order, clipping, fallback and errors, on small random models."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, SamConfig, SamModel

from geotempo.model.errors import InputError, ModelError
from geotempo.model.geometry import Box, Polygon
from geotempo.model.masks import (
    BATCH,
    Canvas,
    Segmenter,
    enlarged_window,
    image_processor,
    point_prompts,
    sample_logits,
    to_canvas,
)
from geotempo.model.records import ImageRecord, Region

SIDE = 64


@pytest.fixture(scope="module")
def random_sam(tmp_path_factory):
    """Folder of a SAM with random weights, input 64 px, masks of 32 px."""
    torch.manual_seed(0)
    model = SamModel(SamConfig(
        vision_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": SIDE,
                       "patch_size": 8, "mlp_ratio": 2.0, "window_size": 4, "global_attn_indexes": [],
                       "output_channels": 16, "num_pos_feats": 8, "initializer_range": 0.02},
        prompt_encoder_config={"hidden_size": 16, "image_size": SIDE, "patch_size": 8},
        mask_decoder_config={"hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}))
    folder = tmp_path_factory.mktemp("sam") / "random"
    model.save_pretrained(folder)
    return folder


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
def test_one_mask_per_region_of_the_images_own_size(random_sam, size):
    segmenter = Segmenter.load(random_sam)
    masks = segmenter.segment(picture(*size), regions_of(*size, 3))
    assert [(mask.width, mask.height) for mask in masks] == [size] * 3
    assert all(mask.to_array().any() for mask in masks)


def test_order_is_kept_across_batches_and_batches_do_not_mix(random_sam):
    segmenter, image = Segmenter.load(random_sam), picture(90, 70)
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


def test_the_canvas_keeps_the_aspect_and_pads_at_the_bottom_right():
    pixels, canvas = to_canvas(Image.new("RGB", (200, 100), (255, 255, 255)), image_processor(SIDE))
    assert canvas == Canvas(SIDE, 200, 100, (64, 32)) and pixels.shape == (3, SIDE, SIDE)
    assert (pixels[:, :32] > 2).all() and (pixels[:, 32:] == 0).all()


def test_prompts_are_pixel_indices_of_the_canvas():
    canvas = Canvas(64, 200, 100, (64, 32))
    points, labels = point_prompts([((100.0, 50.0), (200.0, 100.0)), None], canvas)
    assert points[0].tolist() == [[31.5, 15.5], [63.5, 31.5]]
    assert labels.tolist() == [[1, 1], [-10, -10]]


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


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_folder_is_one_line(tmp_path):
    with pytest.raises(ModelError, match="cannot load SAM") as error:
        Segmenter.load(tmp_path / "nothing")
    assert "nothing" in one_line(error)


def test_another_architecture_is_refused_by_name(tmp_path):
    CLIPConfig().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="'clip' model") as error:
        Segmenter.load(tmp_path)
    one_line(error)


def test_damaged_or_missing_weights_are_refused(random_sam, tmp_path):
    (tmp_path / "config.json").write_bytes((random_sam / "config.json").read_bytes())
    with pytest.raises(ModelError) as error:
        Segmenter.load(tmp_path)
    one_line(error)
    (tmp_path / "model.safetensors").write_bytes((random_sam / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(ModelError) as error:
        Segmenter.load(tmp_path)
    one_line(error)


def test_a_device_that_is_not_there_is_refused(random_sam):
    with pytest.raises(ModelError, match="no-such-device") as error:
        Segmenter.load(random_sam, device="no-such-device")
    one_line(error)
