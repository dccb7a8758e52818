"""Folders of single-band files: OSCD, Sentinel-2, Landsat, catalogue downloads."""

import numpy as np
import pytest

pytest.importorskip("rasterio")

from geotempo.model.bandfolder import band_in, open_folder
from geotempo.model.bandplan import Spectral
from geotempo.model.errors import InputError
from geotempo.model.raster import load_stack
from tests.rasters import UTM, write_tif

COARSE = (20.0, 0.0, 5e5, 0.0, -20.0, 5e6)


def band(value, shape=(40, 50)):
    return np.full((1, *shape), value, np.uint16)


def sentinel(folder, level="L2A"):
    """A product's folder: red and near infrared at 10 m, short-wave infrared at 20 m, red also at 20 m."""
    name = f"S2A_MSI{level}_20200601T105021_N0214_R051_T31UDQ_20200601T131011.SAFE/GRANULE/x/IMG_DATA"
    image = "T31UDQ_20200601T105021"
    for part, value, suffix, fine in (("R10m", 1000, "B04_10m", True), ("R10m", 3000, "B08_10m", True),
                                      ("R20m", 2500, "B04_20m", False), ("R20m", 2000, "B12_20m", False), ("R20m", 4, "SCL_20m", False)):
        write_tif(folder / name / part / f"{image}_{suffix}.tif", band(value) if fine else band(value, (20, 25)),
                  transform=UTM if fine else COARSE)
    return str(folder / name.split("/")[0])


@pytest.mark.parametrize(("stem", "name"), [
    ("B04", "B04"), ("T31UDQ_20170829T105019_B02", "B02"), ("T31UDQ_20200601T105021_B8A_20m", "B8A"), ("X_SR_B4", "B4"),
    ("LC08_L2SP_044034_20200101_20200110_02_T1_QA_PIXEL", "QA_PIXEL"), ("T31UDQ_20200601T105021_SCL_20m", "SCL"), ("red", "red"),
    ("s1a-iw-grd-vh-20200101t000000-20200101t000025-030000-036000-002", "VH"), ("scene_vv", "VV"),
    ("TCI_10m", None), ("img1", None), ("B04_mask", None), ("club04", None),
])
def test_the_band_is_the_end_of_the_name(stem, name):
    assert band_in(stem) == name


def test_a_product_folder_is_one_image_on_its_finest_grid(tmp_path):
    folder = sentinel(tmp_path)
    stack = load_stack([folder], ["2020-06-01"], spectral=Spectral(("NDVI", "NBR")))
    assert stack.bands == (("NDVI",), ("NBR",)) and (stack.grid.width, stack.grid.height) == (50, 40)
    ndvi, nbr = (np.asarray(image.rgb())[..., 0] for image in stack.images)
    assert (ndvi == round((0.5 + 1) / 2 * 255)).all(), "the 10 m red, not the 20 m one"
    assert (nbr == round((0.2 + 1) / 2 * 255)).all()
    assert any("B12 resampled" in note for note in stack.notes) and stack.images[0].sensor == "Sentinel-2"
    assert [image.gsd for image in stack.images] == [pytest.approx((10, 10), rel=1e-2)] * 2


def test_only_coarse_bands_keep_their_own_grid(tmp_path):
    folder = sentinel(tmp_path)
    stack = load_stack([folder], bands="B12")
    assert (stack.grid.width, stack.grid.height) == (25, 20) and not any("resampled" in note for note in stack.notes)


def test_landsat_and_catalogue_names(tmp_path):
    for name, value in (("SR_B4", 18182), ("SR_B5", 21818), ("QA_PIXEL", 21824)):
        write_tif(tmp_path / "a" / f"LC08_L2SP_044034_20200101_20200110_02_T1_{name}.TIF", band(value))
    for name, value in (("red", 3000), ("nir", 4000)):
        write_tif(tmp_path / "b" / f"{name}.tif", band(value))
    landsat, plain = (load_stack([str(tmp_path / name)], spectral=Spectral(("NDVI",))) for name in "ab")
    assert landsat.images[0].sensor == "Landsat 8-9" and plain.images[0].sensor is None
    assert np.asarray(landsat.images[0].rgb()).max() == round((0.1 / 0.7 + 1) / 2 * 255) == np.asarray(plain.images[0].rgb()).max()


def test_files_without_georeference_must_be_of_one_size(tmp_path):
    for name in ("B02", "B03", "B04"):
        write_tif(tmp_path / f"{name}.tif", band(1000), crs=None)
    assert load_stack([str(tmp_path)]).bands == (("B04", "B03", "B02"),)
    write_tif(tmp_path / "B12.tif", band(1000, (20, 25)), crs=None)
    with pytest.raises(InputError, match=r"B12\.tif.*one size, here 50 x 40"):
        open_folder(str(tmp_path))


def test_wrong_folders(tmp_path):
    (tmp_path / "empty").mkdir()
    write_tif(tmp_path / "notes" / "dem.tif", band(1))
    for name in ("empty", "notes"):
        with pytest.raises(InputError, match=r"without band files.*B04\.tif"):
            open_folder(str(tmp_path / name))
    for date in ("imgs_1", "imgs_2"):
        write_tif(tmp_path / "city" / date / "B04.tif", band(1))
    with pytest.raises(InputError, match=r"B04 twice.*imgs_1.*imgs_2.*one acquisition"):
        open_folder(str(tmp_path / "city"))
    write_tif(tmp_path / "far" / "B04.tif", band(1))
    write_tif(tmp_path / "far" / "B08.tif", band(1), transform=(10, 0, 7e5, 0, -10, 5.5e6))
    with pytest.raises(InputError, match="another place"):
        open_folder(str(tmp_path / "far"))
    write_tif(tmp_path / "thick" / "x_B04.tif", np.zeros((3, 4, 4), np.uint16))
    with pytest.raises(InputError, match="named as band B04 but holds 3 bands"):
        open_folder(str(tmp_path / "thick"))
