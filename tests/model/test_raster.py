"""Reading image files: bands, stretch, valid pixels, grids."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geotempo.model.display import BandTable, Stretch, choose_bands, find_stretch
from geotempo.model.errors import InputError
from geotempo.model.raster import load_stack

rasterio = pytest.importorskip("rasterio")
from rasterio.transform import Affine

UTM = Affine(10, 0, 5e5, 0, -10, 5e6)


def tif(path, array, *, crs="EPSG:32633", transform=UTM, names=None, nodata=None, colours=None):
    """A GeoTIFF of an array (bands, H, W)."""
    count, height, width = array.shape
    with rasterio.open(path, "w", driver="GTiff", width=width, height=height, count=count, dtype=array.dtype, crs=crs,
                       transform=transform, nodata=nodata, photometric="MINISBLACK") as out:
        if colours:  # before the first write, else it goes into a side file
            out.colorinterp = [rasterio.enums.ColorInterp[name] for name in colours]
        out.write(array)
        for number, name in enumerate(names or (), 1):
            out.set_band_description(number, name)
    return str(path)


def noise(bands, dtype, high, seed=0, size=(30, 40)):
    return np.random.default_rng(seed).integers(0, high, (bands, *size)).astype(dtype)


def table(names=(None,) * 4, colours=None):
    return BandTable("x.tif", tuple(names), tuple(colours or ["undefined"] * len(names)))


@pytest.mark.parametrize(("given", "wanted", "expected"), [
    (table(("B02", "B03", "B04", "B08")), None, (3, 2, 1)),
    (table(("Blue", "Green", "Red", "NIR")), None, (3, 2, 1)),
    (table(("nir", None, None, None), ("undefined", "red", "green", "blue")), None, (2, 3, 4)),
    (table((None,) * 4, ("red", "green", "blue", "alpha")), None, (1, 2, 3)),
    (table((None,) * 4, ("gray", "undefined", "undefined", "alpha")), None, (1, 2, 3)),
    (table((None,) * 3), None, (1, 2, 3)),
    (table((None,), ("gray",)), None, (1,)),
    (table((None, None), ("gray", "alpha")), None, (1,)),
    (table(), "3,2,1", (3, 2, 1)),
    (table(), "4", (4,)),
    (table(("B02", "B03", "B04", "B08")), "b08,red,B03", (4, 3, 2)),
    (table(("B02", "B03", "B04", "B08")), "red, green, blue", (3, 2, 1)),
])
def test_bands_by_name_then_colour_then_count(given, wanted, expected):
    assert choose_bands(given, wanted) == expected


@pytest.mark.parametrize(("given", "wanted"), [
    (table(), None), (table((None, None)), None), (table(("B4", "B3", "B2", "B5")), None),
    (table(("red", "red", "green", "blue")), None), (table(), "5,1,2"), (table(), "0"), (table(), "1,2,3,4"), (table(), ""),
])
def test_unclear_bands_are_refused(given, wanted):
    with pytest.raises(InputError):
        choose_bands(given, wanted)


def test_one_stretch_for_the_whole_sequence(tmp_path):
    low, high = noise(3, "uint16", 1000), noise(3, "uint16", 1000, seed=1) + np.uint16(3000)
    files = [tif(tmp_path / "1.tif", low), tif(tmp_path / "2.tif", high)]
    stack = load_stack(files)
    assert stack.stretches[0].method == "percentiles 2-98"
    pool = np.concatenate([low[0].ravel(), high[0].ravel()])
    assert stack.stretches[0].low[0] == pytest.approx(np.percentile(pool, 2))
    assert stack.stretches[0].high[0] == pytest.approx(np.percentile(pool, 98))
    first, second = (np.asarray(image.rgb()) for image in stack.images)
    assert first.max() < second.min()  # the darker date stays darker


def test_nodata_does_not_enter_the_stretch_and_is_not_valid(tmp_path):
    array = noise(3, "int16", 1000)
    array[:, :10] = -32768
    array[0, 20, 20] = -32768  # nodata in one band only: the pixel is still seen
    stack = load_stack([tif(tmp_path / "a.tif", array, nodata=-32768)])
    assert stack.stretches[0].low[1] >= 0
    valid = stack.images[0].valid.to_array()
    assert not valid[:10].any() and valid[10:].all()
    assert (np.asarray(stack.images[0].rgb())[:10] == 0).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_and_infinity_are_not_valid(tmp_path, dtype):
    array = noise(1, dtype, 100)
    array[0, 0, 0], array[0, 0, 1] = np.nan, np.inf
    stack = load_stack([tif(tmp_path / "a.tif", array)])
    valid = stack.images[0].valid.to_array()
    assert not valid[0, :2].any() and valid.sum() == valid.size - 2
    assert np.isfinite(stack.stretches[0].high).all() and stack.images[0].rgb().mode == "RGB"


def test_alpha_is_valid_not_a_band(tmp_path):
    array = noise(5, "uint8", 255)
    array[4] = 255
    array[4, 5:8] = 0
    names = ("B02", "B03", "B04", "B08", None)
    file = tif(tmp_path / "a.tif", array, names=names, colours=("gray", *("undefined",) * 3, "alpha"))
    stack = load_stack([file])
    assert stack.bands == (("B04", "B03", "B02"),)
    assert not stack.images[0].valid.to_array()[5:8].any() and stack.images[0].valid.to_array().sum() == 27 * 40
    shown = np.asarray(stack.images[0].rgb())
    assert (shown[0] == np.moveaxis(array[[2, 1, 0], 0], 0, -1)).all()  # 8-bit values as they are


def test_flat_band_does_not_divide_by_zero(tmp_path):
    stack = load_stack([tif(tmp_path / "a.tif", np.full((1, 5, 5), 7, "uint16"))])
    assert np.isfinite(np.asarray(stack.images[0].rgb())).all()


def test_fixed_stretch_is_linear():
    values = np.array([[[0, 1500, 3000, 9000]]], "uint16")
    shown = Stretch("fixed", (0.0,), (3000.0,)).apply(values, np.array([[True, True, True, False]]))
    assert shown.tolist() == [[[0, 128, 255, 0]]]


@pytest.mark.parametrize("text", ["98-2", "0-101", "x", "1:1", "nan:1", "-5-20"])
def test_wrong_stretches_are_refused(text):
    image = (np.zeros((3, 2, 2), "uint16"), np.ones((2, 2), bool))
    with pytest.raises(InputError):
        find_stretch([image], text, ["a.tif"])


def test_types_that_no_stretch_fits_are_refused(tmp_path):
    files = [tif(tmp_path / "1.tif", noise(3, "uint8", 255)), tif(tmp_path / "2.tif", noise(3, "uint16", 3000))]
    with pytest.raises(InputError, match=r"1\.tif"):
        load_stack(files)
    assert load_stack(files, stretch="0:3000").stretches[0].method == "fixed"


def test_plain_files_keep_their_bytes(tmp_path):
    for name in ("a.png", "b.jpg", "c.webp"):
        Image.fromarray(np.moveaxis(noise(3, "uint8", 255), 0, -1)).save(tmp_path / name)
    files = [str(tmp_path / name) for name in ("a.png", "b.jpg", "c.webp")]
    stack = load_stack(files)
    for file, image in zip(files, stack.images, strict=True):
        with open(file, "rb") as handle:
            assert image.encoded() == handle.read()
        assert image.crs is None and image.gsd is None and image.rgb().size == (40, 30)
    stretched = load_stack(files[:1], stretch="minmax")
    assert stretched.images[0].encoded() != stack.images[0].encoded()


def test_sixteen_bit_png_is_stretched(tmp_path):
    values = noise(1, "uint16", 5000)[0]
    Image.fromarray(values).save(tmp_path / "a.png")
    stack = load_stack([str(tmp_path / "a.png")])
    assert stack.stretches[0].method == "percentiles 2-98" and np.asarray(stack.images[0].rgb()).std() > 50


def test_palette_becomes_colours(tmp_path):
    with rasterio.open(tmp_path / "p.tif", "w", driver="GTiff", width=4, height=4, count=1, dtype="uint8",
                       crs="EPSG:4326", transform=Affine(1, 0, 0, 0, -1, 4)) as out:
        out.write(np.eye(4, dtype="uint8")[None])
        out.write_colormap(1, {0: (10, 20, 30, 255), 1: (200, 100, 0, 255)})
    shown = np.asarray(load_stack([str(tmp_path / "p.tif")]).images[0].rgb())
    assert shown[0, 0].tolist() == [200, 100, 0] and shown[0, 1].tolist() == [10, 20, 30]


def test_gsd_is_in_metres_at_the_centre(tmp_path):
    degrees = tif(tmp_path / "d.tif", noise(1, "uint8", 255), crs="EPSG:4326", transform=Affine(0.001, 0, 20, 0, -0.001, 60))
    x, y = load_stack([degrees]).images[0].gsd
    assert y == pytest.approx(111.41, abs=0.05) and x == pytest.approx(55.8, abs=0.1)


def test_crs_is_kept_exactly(tmp_path):
    own = "+proj=laea +lat_0=10 +lon_0=20 +datum=WGS84 +units=m"
    stack = load_stack([tif(tmp_path / "a.tif", noise(1, "uint8", 255), crs=own)])
    assert stack.images[0].crs.startswith("PROJCS") or "Lambert" in stack.images[0].crs
    assert load_stack([tif(tmp_path / "b.tif", noise(1, "uint8", 255))]).images[0].crs == "EPSG:32633"


def test_geotransform_without_crs_means_pixels_and_says_so(tmp_path):
    stack = load_stack([tif(tmp_path / "a.tif", noise(1, "uint8", 255), crs=None)])
    assert stack.grid.place is None and "no coordinate system" in stack.notes[0]


def test_shifted_grid_is_warped_and_its_rim_has_no_data(tmp_path):
    first = tif(tmp_path / "1.tif", noise(3, "uint8", 255))
    moved = tif(tmp_path / "2.tif", noise(3, "uint8", 255), transform=Affine(10, 0, 5e5 + 100, 0, -10, 5e6))
    stack = load_stack([first, moved], ["2020", "2021"])
    assert stack.grid.place.transform[2] == 5e5 + 100 and "1.tif was warped" in stack.notes[0]
    valid = stack.images[0].valid.to_array()
    assert valid[:, :30].all() and not valid[:, 30:].any() and stack.images[1].valid is None
    other = load_stack([first, moved], ["2020", "2021"], reference=first)
    assert other.grid.place.transform[2] == 5e5 and "2.tif was warped" in other.notes[0]


def test_warping_a_whole_pixel_shift_keeps_the_values(tmp_path):
    array = noise(3, "uint8", 255)
    first = tif(tmp_path / "1.tif", array)
    moved = tif(tmp_path / "2.tif", array, transform=Affine(10, 0, 5e5 + 100, 0, -10, 5e6))
    shown = np.asarray(load_stack([first, moved], ["2020", "2021"]).images[0].rgb())
    assert (shown[:, :30] == np.moveaxis(array, 0, -1)[:, 10:]).all()


def test_south_up_and_rotated_references_take_other_grids(tmp_path):
    flat = tif(tmp_path / "1.tif", np.full((3, 300, 300), 90, "uint8"), transform=Affine(10, 0, 499000, 0, -10, 5001000))
    for name, transform in (("south.tif", Affine(10, 0, 5e5, 0, 10, 5e6 - 500)),
                            ("rotated.tif", Affine.translation(5e5, 5e6) @ Affine.rotation(30) @ Affine.scale(10, -10))):
        late = tif(tmp_path / name, noise(3, "uint8", 255), transform=transform)
        stack = load_stack([flat, late], ["2020", "2021"])
        assert stack.images[0].valid is None and (np.asarray(stack.images[0].rgb()) == 90).all()


def test_complex_values_are_refused(tmp_path):
    with pytest.raises(InputError, match="amplitude"):
        load_stack([tif(tmp_path / "slc.tif", np.ones((1, 4, 4), "complex64"))])


def test_png_bytes_are_deterministic(tmp_path):
    file = tif(tmp_path / "a.tif", noise(3, "uint16", 4000))
    one, two = load_stack([file]).images[0].encoded(), load_stack([file]).images[0].encoded()
    assert one == two and Image.open(io.BytesIO(one)).format == "PNG"


def test_openeo_sequence():
    folder = Path(__file__).parents[2].parent / "shared/data/timeseries/openeo_stac_s2"
    files = sorted(folder.glob("*.tif"))
    if not files:
        pytest.skip("the Sentinel-2 sequence is absent")
    stack = load_stack([str(file) for file in files], [file.stem[-11:-1] for file in files])
    assert stack.bands[0] == ("B04", "B03", "B02") and stack.stretches[0].method == "percentiles 2-98"
    assert stack.images[0].gsd == pytest.approx((10, 10), rel=1e-3) and not stack.notes
