"""Clouds: quality layers and mask files; left out of percentiles and of what can be judged."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("rasterio")

from geotempo.model.bandplan import Spectral
from geotempo.model.clouds import clouds_of
from geotempo.model.errors import InputError
from geotempo.model.raster import load_stack
from tests.rasters import reflectance, write_tif

NAMES = ("B02", "B03", "B04", "B08", "SCL")
ID = "S2A_MSIL2A_20200601T105021_N0214_R051_T31UDQ_20200601T131011"


def test_scene_classification_and_pixel_quality():
    cloud, empty = clouds_of("scl", np.arange(12)[None])
    assert np.flatnonzero(cloud).tolist() == [3, 8, 9, 10] and np.flatnonzero(empty).tolist() == [0, 1]
    bits = np.array([[1, 2, 4, 8, 16, 32, 64, 21824, 22280]])  # the last two: clear, and cloud with high confidence
    cloud, empty = clouds_of("qa_pixel", bits)
    assert cloud.tolist() == [[False, True, True, True, True, False, False, False, True]]
    assert empty.tolist() == [[True, *[False] * 8]]
    assert clouds_of(None, np.array([[0, 1, 255]]))[0].tolist() == [[False, True, True]]


def scene(path, cloud=True, seed=0):
    """A Sentinel-2 image with a very bright cloud in its first ten rows, and its classification."""
    values = np.rint(reflectance(5, seed) * 10000).astype(np.uint16)
    values[4] = 4
    if cloud:
        values[:4, :10], values[4, :10] = 15000, 9
    return write_tif(path, values, names=NAMES)


def test_clouds_are_seen_but_neither_counted_nor_judged(tmp_path):
    files = [scene(tmp_path / "1.tif"), scene(tmp_path / "2.tif", cloud=False, seed=1)]
    stack = load_stack(files, ["2020", "2021"], spectral=Spectral(("true colour", "NDVI")))
    assert stack.stretches[0].method == "percentiles 2-98" and max(stack.stretches[0].high) < 5100, "no cloud in the percentiles"
    picture, valid = np.asarray(stack.images[0].rgb()), stack.images[0].valid.to_array()
    assert (picture[:10] == 255).all(), "the cloud is still in the picture"
    assert not valid[:10].any() and valid[10:].all() and stack.images[1].valid == stack.images[0].valid
    assert stack.images[2].valid is None and stack.clouds[2] is None
    assert stack.clouds[0].to_array().sum() == 500 and stack.clouds[1] == stack.clouds[0], "every view of the date"
    assert any("25.0 % of the pixels lie under cloud" in note for note in stack.notes)


def test_a_mask_of_the_user(tmp_path):
    mask = np.zeros((40, 50), np.uint8)
    mask[:, :5] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    placed = write_tif(tmp_path / "m.tif", mask[None])
    coarse = write_tif(tmp_path / "c.tif", mask[None, ::5, ::5], transform=(50, 0, 5e5, 0, -50, 5e6))
    files = [scene(tmp_path / "1.tif"), scene(tmp_path / "2.tif", cloud=False)]
    for given in (str(tmp_path / "m.png"), placed, coarse):
        stack = load_stack(files, spectral=Spectral(("NDVI",), cloud_masks=("none", given)))
        assert stack.clouds[0].to_array()[:10].all(), "its own classification still counts"
        assert stack.clouds[1].to_array()[:, :5].all() and stack.clouds[1].to_array().sum() == 200
    other = write_tif(tmp_path / "x_SCL.tif", np.full((1, 40, 50), 4, np.uint8))
    assert load_stack(files[1:], spectral=Spectral(("NDVI",), cloud_masks=(other,))).clouds == (None,), "class 4 is vegetation"


def test_nodata_of_the_classification(tmp_path):
    values = np.rint(reflectance(5) * 10000).astype(np.uint16)
    values[4] = 4
    values[4, 30:] = 0
    stack = load_stack([write_tif(tmp_path / f"{ID}.tif", values, names=NAMES)])
    assert not stack.images[0].valid.to_array()[30:].any() and stack.clouds == (None,)
    assert (np.asarray(stack.images[0].rgb())[30:] == 0).all()


def test_an_image_all_under_cloud_can_still_be_shown(tmp_path):
    values = np.rint(reflectance(5) * 10000).astype(np.uint16)
    values[4] = 9
    stack = load_stack([write_tif(tmp_path / "a.tif", values, names=NAMES)], spectral=Spectral(("NIR",)))
    assert not stack.images[0].valid.to_array().any() and np.asarray(stack.images[0].rgb()).std() > 20


def test_wrong_masks(tmp_path):
    files = [scene(tmp_path / "1.tif"), scene(tmp_path / "2.tif")]
    Image.new("L", (9, 9)).save(tmp_path / "small.png")
    three = write_tif(tmp_path / "3.tif", np.zeros((3, 40, 50), np.uint16))
    far = write_tif(tmp_path / "far.tif", np.ones((1, 40, 50), np.uint8), transform=(10, 0, 7e5, 0, -10, 5.5e6))
    for masks, message in ((("a", "b", "c"), "2 images and 3 values of --cloud-mask"), ((str(tmp_path / "small.png"),), "9 x 9"),
                           ((three,), "3 bands"), ((far,), "does not overlap"), (("missing.tif",), "no such file")):
        with pytest.raises(InputError, match=message):
            load_stack(files, spectral=Spectral(("NDVI",), cloud_masks=masks))
