"""SAM and SAM 2: preprocessing, canvas, loading, prompts, on small random models."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, Sam2Model

from geotempo.model.crops import Window
from geotempo.model.errors import ModelError
from geotempo.model.sam import Canvas, Padded, Squashed, canvas_of, decode, encode, load_sam, point_prompts, to_canvas
from tests.tiny_sam import SIDE, sam, sam2, write

FAMILIES = ["sam", "sam2", "sam2_video"]


def picture(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def prompts(count=3, points=2):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(1, count, 2, generator=generator) * 30
    boxes = torch.cat([corner, corner + 5 + torch.rand(1, count, 2, generator=generator) * 20], dim=-1)
    return {"input_boxes": boxes, "input_points": corner[:, :, None] + torch.rand(1, count, points, 2, generator=generator) * 5,
            "input_labels": torch.ones(1, count, points, dtype=torch.long)}


def test_sam_keeps_the_aspect_and_pads_at_the_bottom_right():
    pixels, canvas = to_canvas(Image.new("RGB", (200, 100), (255, 255, 255)), Padded.of(SIDE))
    assert canvas == Canvas(SIDE, 200, 100, (64, 32)) and pixels.shape == (3, SIDE, SIDE)
    assert (pixels[:, :32] > 2).all() and (pixels[:, 32:] == 0).all()


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (50, 90), (1000, 37), (333, 334)])
def test_the_size_on_sams_square_is_what_its_processor_makes(size):
    preprocessing = Padded.of(SIDE)
    made = preprocessing.processor(picture(*size), return_tensors="pt")["reshaped_input_sizes"][0].tolist()
    assert preprocessing.resized(*size) == (made[1], made[0])


def test_sam2_squashes_without_padding():
    pixels, canvas = to_canvas(Image.new("L", (200, 100), 255), Squashed(SIDE))
    assert canvas == Canvas(SIDE, 200, 100, (SIDE, SIDE)) and canvas.scale == (0.32, 0.64)
    assert pixels.shape == (3, SIDE, SIDE) and (pixels > 2).all()


@pytest.mark.parametrize("size", [(64, 64), (300, 200), (50, 90), (5, 3), (700, 31)])
def test_sam2s_pixels_are_those_of_the_real_processor(size, tmp_path):
    pytest.importorskip("torchvision", reason="transformers' Sam2ImageProcessor needs torchvision")
    from transformers import Sam2ImageProcessor

    Squashed(SIDE).save(tmp_path)
    real = Sam2ImageProcessor.from_pretrained(tmp_path)
    expected = real(picture(*size), return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(Squashed(SIDE)(picture(*size)), expected, rtol=0, atol=1e-6)


def test_a_window_is_shown_as_if_it_were_the_image():
    image, window = picture(100, 80), Window(20, 10, 60, 30)
    for preprocessing in (Padded.of(SIDE), Squashed(SIDE)):
        pixels, canvas = to_canvas(image, preprocessing, window)
        alone, plain = to_canvas(image.crop((20, 10, 60, 30)), preprocessing)
        assert torch.equal(pixels, alone) and (canvas.left, canvas.top) == (20, 10)
        assert canvas == canvas_of(100, 80, preprocessing, window)
        at, there = np.array([[30.0, 15.0], [60.0, 30.0]]), np.array([[10.0, 5.0], [40.0, 20.0]])
        np.testing.assert_array_equal(canvas.prompt(at), plain.prompt(there))


def test_prompts_are_pixel_indices_of_the_canvas():
    points, labels = point_prompts([((100.0, 50.0), (200.0, 100.0)), None], Canvas(64, 200, 100, (64, 32)))
    assert points[0].tolist() == [[31.5, 15.5], [63.5, 31.5]]
    assert labels.tolist() == [[1, 1], [-10, -10]]
    points, _ = point_prompts([((100.0, 50.0), (200.0, 100.0))], Canvas(64, 200, 100, (64, 64)))
    assert points[0].tolist() == [[31.5, 31.5], [63.5, 63.5]]


@pytest.mark.parametrize("model", [sam, sam2])
def test_an_embedding_kept_gives_the_masks_of_the_pixels(model):
    model, pixels = model(), torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits, scores = decode(model, encode(model, pixels), prompts())
        whole = model(pixel_values=pixels, multimask_output=False, **prompts())
    assert logits.shape[:2] == scores.shape == (1, 3)
    torch.testing.assert_close(logits, whole.pred_masks[:, :, 0])
    torch.testing.assert_close(scores, whole.iou_scores[:, :, 0])


@pytest.mark.parametrize("model", [sam, sam2])
def test_box_and_points_act_together_and_padding_points_do_not_move(model):
    model, pixels = model(), torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    given = prompts()
    with torch.no_grad():
        embedding = encode(model, pixels)
        both = decode(model, embedding, given)[0]
        elsewhere = decode(model, embedding, given | {"input_points": given["input_points"] + 9})[0]
        other_box = decode(model, embedding, given | {"input_boxes": given["input_boxes"] + 9})[0]
        padded = given | {"input_labels": torch.full_like(given["input_labels"], -10)}
        ignored, moved = (decode(model, embedding, padded | {"input_points": given["input_points"] + by})[0] for by in (0, 9))
    assert not torch.allclose(both, elsewhere) and not torch.allclose(both, other_box)
    torch.testing.assert_close(ignored, moved)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_loads_without_a_preprocessor_file(family, tmp_path):
    model, preprocessing = load_sam(str(write(family, tmp_path / "m")))
    assert preprocessing.side == SIDE and isinstance(model, Sam2Model) == (family != "sam")
    assert isinstance(preprocessing, Padded if family == "sam" else Squashed)


def test_the_image_part_of_a_video_checkpoint_is_that_of_its_weights(tmp_path):
    folder = write("sam2_video", tmp_path / "m")
    stored, model = load_file(folder / "model.safetensors"), load_sam(str(folder))[0]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, stored[name]), name
    assert any(name.startswith("memory_attention") for name in stored)


def test_a_checkpoints_own_mean_and_deviation_count(tmp_path):
    folder = write("sam2", tmp_path / "m")
    Squashed(SIDE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).save(folder)
    assert load_sam(str(folder))[1] == Squashed(SIDE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert json.loads((folder / "preprocessor_config.json").read_text())["size"] == {"height": SIDE, "width": SIDE}


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_folder_is_one_line(tmp_path):
    with pytest.raises(ModelError, match="no such folder") as error:
        load_sam(str(tmp_path / "nothing"))
    assert "nothing" in one_line(error)


def test_another_architecture_is_refused_by_name(tmp_path):
    CLIPConfig().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"'clip' model.*'sam', 'sam2'") as error:
        load_sam(str(tmp_path))
    one_line(error)


@pytest.mark.parametrize("family", FAMILIES)
def test_damaged_or_missing_weights_are_refused(family, tmp_path):
    whole, broken = write(family, tmp_path / "whole"), tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((whole / "config.json").read_bytes())
    with pytest.raises(ModelError) as error:
        load_sam(str(broken))
    one_line(error)
    (broken / "model.safetensors").write_bytes((whole / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(ModelError) as error:
        load_sam(str(broken))
    one_line(error)
    state = load_file(whole / "model.safetensors")
    save_file({name: tensor for name, tensor in state.items() if "iou_token" not in name}, broken / "model.safetensors",
              metadata={"format": "pt"})
    with pytest.raises(ModelError, match="iou_token") as error:
        load_sam(str(broken))
    one_line(error)
