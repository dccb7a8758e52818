"""Named views: formulas, stretches, missing bands, and acquisitions that their views share."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rasterio")

from geotempo.model.bandplan import Spectral
from geotempo.model.errors import InputError
from geotempo.model.predictor import Request
from geotempo.model.prompts import render
from geotempo.model.raster import load_stack
from geotempo.model.records import time_order
from geotempo.model.views import VIEWS, default_view, view_named
from tests.rasters import UTM, reflectance, write_item, write_tif

NAMES = ("B02", "B03", "B04", "B08", "B12")
HELD, TAKEN = "S2A_MSIL2A_20220601T105021_N0400_R051_T31UDQ_20220601T131011", "S2A_MSIL2A_20200601T105021_N0214_R051_T31UDQ_x"


def scene(path, truth, held=False, names=NAMES):
    """A Sentinel-2 image of a reflectance, with Sentinel-2's offset in its values or not."""
    return write_tif(path, np.rint(truth * 10000 + 1000 * held).astype(np.uint16), names=names)


def grey(image):
    return np.asarray(image.rgb())[..., 0]


floats = st.lists(st.floats(-0.0625, 1.25, width=32), min_size=8, max_size=8).map(lambda v: np.array(v, np.float32).reshape(2, 4))


@given(floats, floats, st.sampled_from(["NDVI", "NDWI", "NBR"]))
def test_an_index_is_the_normalised_difference(first, second, name):
    made = VIEWS[name].compute([first, second])
    a, b = np.maximum(first, 0).astype(float), np.maximum(second, 0).astype(float)
    known = a + b > 0
    assert made.shape == (1, 2, 4) and np.isnan(made[0][~known]).all()
    assert made[0][known] == pytest.approx((a[known] - b[known]) / (a[known] + b[known]), abs=1e-5)
    assert (np.abs(made[0][known]) <= 1).all()


def test_the_table_is_whole():
    for name, view in VIEWS.items():
        channels = view.channels([role.upper() for role in view.roles])
        assert view.name == name and len(view.low) == len(view.high) == len(channels) in (1, 3)
        assert all(low < high for low, high in zip(view.low, view.high, strict=True))
        assert len(view.compute([np.ones((2, 2), np.float32)] * len(view.roles))) == len(channels)
    assert (VIEWS["NDVI"].roles, VIEWS["NDWI"].roles, VIEWS["NBR"].roles) == (("nir", "red"), ("green", "nir"), ("nir", "swir22"))


@pytest.mark.parametrize(("text", "name"), [("true_color", "true colour"), ("False-Colour", "false colour"), ("ndvi", "NDVI"), ("vv/vh", "VV/VH"),
                                            (" sar  composite", "SAR composite"), ("swir composite", "SWIR")])
def test_spellings(text, name):
    assert view_named(text).name == name


def test_views_of_a_file_show_what_their_formulas_say(tmp_path):
    truth = reflectance(5)
    stack = load_stack([scene(tmp_path / f"{HELD}.tif", truth, held=True)], ["2022-06-01"], spectral=Spectral(
        ("true colour", "false colour", "SWIR", "NDVI", "NBR", "NIR")))
    blue, green, red, nir, swir = np.rint(truth * 10000) / 10000
    for image, channels, top in zip(stack.images[:3], ((red, green, blue), (nir, red, green), (swir, nir, red)), (0.3, 0.4, 0.4), strict=True):
        expected = np.rint(np.clip(np.stack(channels, -1) / top, 0, 1) * 255)
        assert np.abs(np.asarray(image.rgb()) - expected).max() <= 1, image.view
    for image, a, b in ((stack.images[3], nir, red), (stack.images[4], nir, swir)):
        assert np.abs(grey(image) - ((a - b) / (a + b) + 1) / 2 * 255).max() <= 1, image.view
    assert np.abs(grey(stack.images[5]) - np.clip(nir / 0.5, 0, 1) * 255).max() <= 1
    first = stack.images[0]
    assert (first.view, first.sensor, first.modality, first.bands) == ("true colour", "Sentinel-2", "multispectral", ("B04", "B03", "B02"))
    assert stack.stretches[0].describe(stack.bands[0]).startswith("fixed, reflectance, one for the whole sequence: B04 0 to 0.3")


@pytest.mark.parametrize("view", ["true colour", "NDVI", None])
def test_one_date_with_the_offset_and_one_without_look_the_same(tmp_path, view):
    truth = reflectance(5)
    files = [scene(tmp_path / f"{TAKEN}.tif", truth), scene(tmp_path / f"{HELD}.tif", truth, held=True)]
    flagged = scene(tmp_path / "c.tif", truth)
    write_item(flagged, {"earthsearch:boa_offset_applied": True, "s2:processing_baseline": "05.00"}, collection="sentinel-2-l2a",
               bands=[{"name": name, "scale": 1e-4, "offset": -0.1} for name in NAMES])
    tagged = write_tif(tmp_path / "d.tif", np.rint(truth * 10000 + 1000).astype(np.uint16), names=NAMES, scale=(1e-4, -0.1))
    spectral = Spectral((view,) if view else (), ("sentinel-2-l2a",))
    stack = load_stack([*files, flagged, tagged], ["2020-06-01", "2022-06-01", "2023-06-01", "2024-06-01"], spectral=spectral,
                       bands=None if view else "nir,red,green")
    pictures = [np.asarray(image.rgb()).astype(int) for image in stack.images]
    for one, two in itertools.combinations(pictures, 2):
        assert np.abs(one - two).max() <= 1
    assert pictures[0].std() > 20 and not any("ASSUMED" in note for note in stack.notes)


def test_without_a_view_a_known_product_shows_its_usual_one(tmp_path):
    stack = load_stack([scene(tmp_path / f"{TAKEN}.tif", reflectance(5))])
    assert stack.images[0].view == "true colour" and stack.stretches[0].method == "fixed, reflectance"
    unknown = load_stack([scene(tmp_path / "a.tif", reflectance(5))])
    assert unknown.images[0].view is None and unknown.stretches[0].method == "percentiles 2-98" and unknown.images[0].sensor is None
    assert default_view(("vv", None)) is VIEWS["VV"] and default_view(("red",)) is None
    user = load_stack([scene(tmp_path / f"{TAKEN}.tif", reflectance(5))], stretch="0:1")
    assert user.stretches[0].method == "fixed" and user.stretches[0].high == (1.0,) * 3


def test_unknown_products_share_percentiles_over_all_dates(tmp_path):
    dark, light = reflectance(5), reflectance(5, seed=1) + 0.6
    stack = load_stack([scene(tmp_path / "1.tif", dark), scene(tmp_path / "2.tif", light)], spectral=Spectral(("NIR",)))
    pool = np.concatenate([np.rint(part[3] * 10000).ravel() for part in (dark, light)])
    assert stack.stretches[0] == stack.stretches[1] and stack.stretches[0].high[0] == pytest.approx(np.percentile(pool, 98), rel=1e-5)
    assert grey(stack.images[0]).max() < grey(stack.images[1]).min()


def radar(path, power=True):
    rng = np.random.default_rng(2)
    vv, vh = rng.uniform(-20, -2, (40, 50)), rng.uniform(-28, -8, (40, 50))
    values = np.stack([vv, vh]).astype(np.float32)
    return write_tif(path, 10 ** (values / 10) if power else values, names=("VV", "VH")), vv, vh


@pytest.mark.parametrize("power", [True, False])
def test_radar_views(tmp_path, power):
    file, vv, vh = radar(tmp_path / "s1.tif", power)
    stack = load_stack([file], spectral=Spectral(("VV", "VH", "VV/VH", "SAR composite"), ("sentinel-1-grd",)))
    for image, values, low, high in zip(stack.images, (vv, vh, vv - vh), (-25, -30, 0), (0, -5, 20), strict=False):
        assert np.abs(grey(image) - np.clip((values - low) / (high - low), 0, 1) * 255).max() <= 1, image.view
    assert (np.asarray(stack.images[3].rgb()) == np.stack([grey(image) for image in stack.images[:3]], -1)).all()
    assert stack.images[0].modality == "sar" and stack.images[0].sensor == "Sentinel-1" and stack.bands[3] == ("VV", "VH", "VV/VH")
    assert load_stack([file]).images[0].view == "SAR composite", "polarisations need no --bands"


def test_bands_named_by_product_by_hand_by_item_and_by_tag(tmp_path):
    truth = reflectance(12)
    unnamed = scene(tmp_path / "a.tif", truth, names=())
    four = scene(tmp_path / "b.tif", truth[[1, 2, 3, 7]], names=())
    itemed = scene(tmp_path / "c.tif", truth[[1, 2, 3, 7]], names=())
    write_item(itemed, {}, bands=[{"name": name, "common_name": role} for name, role in zip("WXYZ", ("blue", "green", "red", "nir"), strict=True)])
    pictures = [grey(load_stack([file], spectral=spectral).images[0]) for file, spectral in (
        (unnamed, Spectral(("NDVI",), ("sentinel-2-l2a",), offsets=(0,))), (itemed, Spectral(("NDVI",))),
        (four, Spectral(("NDVI",), band_names="blue, green, red, nir")))]
    assert (pictures[0] == pictures[1]).all() and (pictures[0] == pictures[2]).all()
    with pytest.raises(InputError, match=r"b\.tif' does not say which of its 4 bands is which.*--product NAME or --band-names"):
        load_stack([four], spectral=Spectral(("NDVI",)))
    with pytest.raises(InputError, match=r"4 bands.*--bands"):
        load_stack([four])


def test_the_narrow_near_infrared_stands_in_only_where_there_is_no_broad_one(tmp_path):
    truth = reflectance(3)
    narrow = load_stack([scene(tmp_path / "n.tif", truth[:2], names=("B04", "B8A"))], spectral=Spectral(("NDVI",)))
    both = load_stack([scene(tmp_path / "b.tif", truth[[0, 2, 1]], names=("B04", "B8A", "B08"))], spectral=Spectral(("NDVI",)))
    assert (grey(narrow.images[0]) == grey(both.images[0])).all() and grey(narrow.images[0]).std() > 10


# --- acquisitions ----------------------------------------------------------------------------------------------------


def test_views_of_one_file_share_a_number_dated_or_not(tmp_path):
    files = [scene(tmp_path / f"{name}.tif", reflectance(5, seed)) for seed, name in enumerate("ba")]
    for dates, order in (((), (0, 1, 2, 3)), (("2021", "2019"), (2, 3, 0, 1)), (("2020", "2020"), (0, 1, 2, 3))):
        stack = load_stack(files, dates, spectral=Spectral(("true colour", "NDVI"), ("sentinel-2-l2a",), offsets=(0,)))
        result = time_order(stack.images)
        assert result.order == order and [result.numbers[i] for i in order] == [1, 1, 2, 2], dates
        assert stack.requested == (0, 0, 1, 1) and stack.files == (files[0], files[0], files[1], files[1])
        assert len({image.id for image in stack.images}) == 4


def test_optical_and_radar_of_one_day_are_one_acquisition_and_two_optical_files_are_two(tmp_path):
    optical, other = scene(tmp_path / f"{TAKEN}.tif", reflectance(5)), scene(tmp_path / "x" / f"{TAKEN}.tif", reflectance(5, 1))
    sar, *_ = radar(tmp_path / "s1.tif")
    spectral = Spectral(("true colour", "NDVI", "VV"))
    both = load_stack([optical, sar], ["2020-06-01"] * 2, spectral=spectral)
    assert [image.view for image in both.images] == ["true colour", "NDVI", "VV"], "each file shows the views of its kind"
    assert time_order(both.images).numbers == (1, 1, 1)
    assert time_order(load_stack([optical, sar], ["2020-06-01", "2020-06-02"], spectral=spectral).images).numbers == (1, 1, 2)
    twice = load_stack([optical, other], ["2020-06-01"] * 2, spectral=Spectral(("NDVI", "NIR")))
    assert time_order(twice.images).numbers == (1, 1, 2, 2)
    assert time_order(load_stack([optical, sar], spectral=spectral).images).numbers == (1, 1, 2), "without dates files are dates"


def test_the_prompt_names_date_sensor_view_and_resolution(tmp_path):
    files = [scene(tmp_path / f"{TAKEN}.tif", reflectance(5)), scene(tmp_path / f"{HELD}.tif", reflectance(5, 1), held=True)]
    stack = load_stack(files, ["2018-03-20", "2022-06-01"], spectral=Spectral(("true colour", "NDVI")))
    prompt = render(Request(stack.images, "What changed?"))
    texts = [part["text"] for part in prompt.messages[0]["content"] if part["type"] == "text"]
    assert texts == ["Image 1 (2018-03-20, Sentinel-2, true colour, 10 m): ", "\nImage 1 (2018-03-20, Sentinel-2, NDVI, 10 m): ",
                     "\nImage 2 (2022-06-01, Sentinel-2, true colour, 10 m): ", "\nImage 2 (2022-06-01, Sentinel-2, NDVI, 10 m): ",
                     "\nWhat changed?"]
    assert len(prompt.images) == 4 and len(prompt.frames) == 2


# --- wrong input -----------------------------------------------------------------------------------------------------


def test_wrong_input(tmp_path):
    file = scene(tmp_path / f"{TAKEN}.tif", reflectance(5))
    rgb = write_tif(tmp_path / "rgb.tif", np.zeros((3, 40, 50), np.uint8) + 9, names=("red", "green", "blue"))
    sar, *_ = radar(tmp_path / "s1.tif")
    unknown = scene(tmp_path / "u.tif", reflectance(5))
    cases = [
        ([file], {"spectral": Spectral(("NDVX",))}, r"unknown view 'NDVX'; did you mean 'NDVI'\? allowed: true colour"),
        ([rgb], {"spectral": Spectral(("NDVI",))}, r"NDVI' needs nir, which .*rgb\.tif' lacks; it has red, green, blue"),
        ([scene(tmp_path / "v.tif", reflectance(4), names=NAMES[:4])], {"spectral": Spectral(("SWIR",))}, r"SWIR' needs swir22.*B08 \(nir\)"),
        ([file], {"spectral": Spectral(("VV",))}, r"VV' needs vv, which"),
        ([file, sar], {"spectral": Spectral(("NDVI",))}, r"s1\.tif' is a radar image, and none of the views NDVI"),
        ([file], {"spectral": Spectral(("NDVI",)), "bands": "B04"}, "--view and --bands were both given"),
        ([file], {"spectral": Spectral(("NDVI",), ("sentinel-1-grd",))}, r"is no sentinel-1-grd: its bands are B02"),
        ([sar], {"spectral": Spectral(("VV",), ("sentinel-2-l2a",))}, r"is no sentinel-2-l2a: its bands are VV, VH"),
        ([file], {"spectral": Spectral(("NDVI",), ("sentinel",))}, r"unknown product 'sentinel'; did you mean"),
        ([file], {"spectral": Spectral((), ("sentinel-2-l2a",) * 3)}, "1 images and 3 values of --product"),
        ([file], {"spectral": Spectral(("NDVI",), band_names="red,nir")}, "--band-names gives 2 names.*5 bands"),
        ([file], {"spectral": Spectral(("NDVI",), band_names="red,red,nir,-,-")}, r"2 bands that are red"),
        ([unknown], {"spectral": Spectral(("NDVI",), offsets=(0,))}, r"--offset.*u\.tif"),
        ([file, unknown], {"spectral": Spectral(("NIR",))}, r"are reflectance and those of .*u\.tif' are of no known unit"),
    ]
    for files, options, message in cases:
        with pytest.raises(InputError, match=message):
            load_stack(files, **options)


def test_nothing_but_nodata_and_not_a_number(tmp_path):
    empty = write_tif(tmp_path / f"{TAKEN}.tif", np.zeros((5, 40, 50), np.uint16), names=NAMES, nodata=0)
    nan = write_tif(tmp_path / "nan.tif", np.full((2, 40, 50), np.nan, np.float32), names=("red", "nir"))
    for file in (empty, nan):
        with pytest.raises(InputError, match=r"no pixel of .* holds data"):
            load_stack([file], spectral=Spectral(("NDVI",)))
    some = reflectance(2).astype(np.float32)
    some[0, :10] = np.nan
    image = load_stack([write_tif(tmp_path / "some.tif", some, names=("red", "nir"))], spectral=Spectral(("NDVI",))).images[0]
    assert not image.valid.to_array()[:10].any() and image.valid.to_array()[10:].all() and (grey(image)[:10] == 0).all()


def test_no_ratio_of_display_values(tmp_path):
    file = write_tif(tmp_path / "s1.tif", np.full((2, 40, 50), 90, np.uint8), names=("VV", "VH"))
    with pytest.raises(InputError, match="8-bit display values, of which no ratio"):
        load_stack([file], spectral=Spectral(("SAR composite",)))
    assert (grey(load_stack([file], spectral=Spectral(("VV",))).images[0]) == 90).all()
    index = load_stack([write_tif(tmp_path / "n.tif", np.full((4, 40, 50), 90, np.uint8))], spectral=Spectral(("NDVI",), ("naip",)))
    assert any("not known to be reflectance" in note for note in index.notes) and (grey(index.images[0]) == 128).all()


def test_dates_on_other_grids_are_laid_on_the_reference_and_keep_their_views(tmp_path):
    truth = reflectance(5)
    early = write_tif(tmp_path / "b" / f"{TAKEN}.tif", np.rint(truth * 10000).astype(np.uint16), names=NAMES,
                      transform=(*UTM[:2], 5e5 + 100, *UTM[3:]))
    late = scene(tmp_path / f"{HELD}.tif", truth, held=True)
    stack = load_stack([early, late], ["2020", "2022"], spectral=Spectral(("NDVI", "NIR")))
    assert np.abs(grey(stack.images[0])[:, 10:].astype(int) - grey(stack.images[2])[:, :-10].astype(int)).max() <= 1
    assert not stack.images[0].valid.to_array()[:, :10].any() and any("was warped" in note for note in stack.notes)
