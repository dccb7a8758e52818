"""Images of a source: bytes kept, TIFF and BMP re-encoded without loss, everything else refused by name."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from geotempo.data_builders.source import Rejection, find_image, load_image

PIXELS = np.random.default_rng(0).integers(0, 255, (9, 12, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["tif", "bmp"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_tiff_and_bmp_become_png_pixel_for_pixel(tmp_path, kind, mode):
    picture = Image.fromarray(PIXELS).convert(mode)
    picture.save(tmp_path / f"a.{kind}")
    record = load_image(tmp_path / f"a.{kind}")
    with Image.open(io.BytesIO(record.data)) as back:
        assert (back.format, back.mode, back.size) == ("PNG", mode, (12, 9))
        assert back.size == (record.width, record.height)
        assert np.array_equal(np.asarray(back.convert("RGB")), np.asarray(picture.convert("RGB")))


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
@settings(max_examples=20)
def test_equal_pixels_give_one_image_whatever_the_tiff_says_besides(tmp_path_factory, pixels):
    folder = tmp_path_factory.mktemp("t")
    Image.fromarray(pixels).save(folder / "a.tif")
    Image.fromarray(pixels).save(folder / "b.tiff", compression="tiff_lzw", dpi=(300, 300), description="another")
    first, second = load_image(folder / "a.tif"), load_image(folder / "b.tiff")
    assert first.id == second.id and np.array_equal(np.asarray(first.rgb()), pixels)


@pytest.mark.parametrize("mode", ["CMYK", "I;16", "F"])
def test_what_is_no_8_bit_picture_is_refused_by_name(tmp_path, mode):
    grey = Image.fromarray(PIXELS).convert("L")
    picture = Image.fromarray(np.asarray(grey).astype(np.uint16)) if mode == "I;16" else grey.convert(mode)
    (tmp_path / "x").mkdir()
    picture.save(tmp_path / "x/a.tif")
    with pytest.raises(Rejection, match=f"unsupported image: x/a.tif is TIFF {mode}; allowed: 8-bit PNG"):
        load_image(tmp_path / "x/a.tif")


def test_a_truncated_tiff_is_broken(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.tif")
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:200])
    with pytest.raises(Rejection, match="broken image"):
        load_image(tmp_path / "a.tif")


def test_a_copy_in_another_format_is_found_by_its_stem(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "7.tif")
    assert find_image(tmp_path, "7.jpg") == tmp_path / "7.tif"
