"""TEOChat's image preparation: as the original's transforms, loadable with and without GeoTempo, unlike the stock class."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoImageProcessor, CLIPImageProcessor

from geotempo.model.teochat_images import CLIP_MEAN, CLIP_STD, TeoChatImageProcessor, register


def picture(seed: int, width: int, height: int) -> Image.Image:
    """Edges and noise, so that resizing overshoots."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 2, (8, 8, 3), dtype=np.uint8) * 255
    return Image.fromarray(np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST)) // 2
                           + rng.integers(0, 128, (height, width, 3), dtype=np.uint8))


@settings(max_examples=25, deadline=None)
@given(st.integers(20, 400), st.integers(20, 400), st.integers(0, 9))
def test_shape_and_range_for_any_size(width: int, height: int, seed: int) -> None:
    pixels = TeoChatImageProcessor()(picture(seed, width, height), return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, 224, 224)
    assert pixels.dtype == torch.float32
    values = pixels * torch.tensor(CLIP_STD)[:, None, None] + torch.tensor(CLIP_MEAN)[:, None, None]
    assert -0.3 < values.min() < values.max() < 1.3


def test_overshoot_is_kept() -> None:
    pixels = TeoChatImageProcessor()(picture(0, 90, 90), return_tensors="pt").pixel_values
    values = pixels * torch.tensor(CLIP_STD)[:, None, None] + torch.tensor(CLIP_MEAN)[:, None, None]
    assert values.min() < -0.01
    assert picture(0, 90, 90).getextrema()[0][0] >= 0


@pytest.mark.parametrize(("width", "height", "left", "top"),
                         [(225, 224, 0, 0), (227, 224, 2, 0), (224, 229, 0, 2), (224, 224, 0, 0)])
def test_crop_rounds_half_pixels_to_even(width: int, height: int, left: int, top: int) -> None:
    """As torchvision's CenterCrop does; an image with a shortest side of 224 is not resized."""
    given_ = picture(1, width, height)
    expected = TeoChatImageProcessor()(given_.crop((left, top, left + 224, top + 224)), return_tensors="pt").pixel_values
    assert torch.equal(TeoChatImageProcessor()(given_, return_tensors="pt").pixel_values, expected)


def test_the_same_pixels_for_every_kind_of_input() -> None:
    processor, rgb = TeoChatImageProcessor(), picture(2, 250, 300)
    array = np.asarray(rgb)
    expected = processor(rgb, return_tensors="pt").pixel_values
    for same in (array, array.transpose(2, 0, 1), torch.from_numpy(array.copy()), array.astype(np.float32) / np.float32(255),
                 rgb.convert("RGBA"), [rgb]):
        assert torch.equal(processor(same, return_tensors="pt").pixel_values, expected)
    grey = rgb.convert("L")
    expected = processor(grey.convert("RGB"), return_tensors="pt").pixel_values
    assert torch.equal(processor(grey, return_tensors="pt").pixel_values, expected)


def test_settings_are_saved_and_found(tmp_path: Path) -> None:
    register()
    register()
    TeoChatImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(loaded) is TeoChatImageProcessor
    assert loaded(picture(0, 100, 70), return_tensors="pt").pixel_values.shape == (1, 3, 64, 64)


def test_without_geotempo_it_fails_with_a_reason_and_loads_on_trust(tmp_path: Path) -> None:
    """In a process in which GeoTempo has registered nothing."""
    TeoChatImageProcessor().save_pretrained(tmp_path)
    code = f"""
import sys
from transformers import AutoImageProcessor
try:
    AutoImageProcessor.from_pretrained({str(tmp_path)!r})
except ValueError as error:
    print(error)
print(type(AutoImageProcessor.from_pretrained({str(tmp_path)!r}, trust_remote_code=True)).__module__)
print([name for name in sys.modules if name == "geotempo"])
"""
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL).stdout
    assert "contains custom code" in out
    assert "trust_remote_code=True" in out
    module, ours = out.splitlines()[-2:]
    assert module.endswith("teochat_images")
    assert ours == "[]"


@pytest.mark.parametrize(("width", "height", "least"), [(256, 256, 0.01), (500, 306, 0.01), (220, 300, 0.01), (224, 224, 0)])
def test_the_stock_processor_gives_other_pixels(width: int, height: int, least: float) -> None:
    """Unless nothing is resized. `tests/bench/bench_stock_processor.py` counts the answers that change."""
    shown = picture(3, width, height)
    stock = CLIPImageProcessor()(shown, return_tensors="pt").pixel_values
    difference = (TeoChatImageProcessor()(shown, return_tensors="pt").pixel_values - stock).abs().max()
    assert least - 1e-6 <= difference < max(10 * least, 1e-6) * 10
