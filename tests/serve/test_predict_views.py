"""`geotempo predict` on multispectral and radar images: views to prompt to regions on the first view to GeoJSON."""

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("rasterio")

from tests.rasters import reflectance, write_tif

NAMES = ("B02", "B03", "B04", "B08", "SCL")
OLD, NEW = "S2A_MSIL2A_20200601T105021_N0214_R051_T31UDQ_x.tif", "S2A_MSIL2A_20220601T105021_N0400_R051_T31UDQ_x.tif"
ANSWER = '[{"image":2,"bbox_2d":[0,0,400,400],"label":"new field"},{"image":2,"bbox_2d":[600,600,900,780],"label":"new pond"}]'


@pytest.fixture
def pair(tmp_path):
    """Two Sentinel-2 dates; the later one holds the offset and has a cloud over its first 20 rows and columns."""
    for name, seed, shift in ((OLD, 0, 0), (NEW, 1, 1000)):
        values = np.rint(reflectance(5, seed) * 10000 + shift).astype(np.uint16)
        values[4] = 4
        if shift:
            values[4, :20, :20] = 9
        write_tif(tmp_path / name, values, names=NAMES)
    (tmp_path / "answer.txt").write_text(ANSWER)
    return tmp_path


def test_from_views_to_geojson(pair, geotempo, monkeypatch):
    monkeypatch.chdir(pair)
    ran = geotempo("predict", NEW, OLD, "--date", "2022-06-01", "--date", "2020-06-01", "--view", "NDVI", "--view", "true colour",
                   "--answer", "answer.txt", "--task", "change_grounding", "--geojson", "o.geojson", "--overlay", "o.png",
                   "--page", "o.html", "--masks", "m.png", "--json")
    assert ran.code == 0, ran.err
    facts = json.loads(ran.out)
    assert [(item["image"], item["view"], item["request_index"]) for item in facts["acquisitions"]] == [
        (1, "NDVI", 1), (1, "true colour", 1), (2, "NDVI", 0), (2, "true colour", 0)]
    assert "NDVI -1 to 1; fixed, reflectance" in facts["stretch"] and not any("ASSUMED" in note for note in facts["notes"])
    field, pond = (feature["properties"] for feature in json.loads((pair / "o.geojson").read_text())["features"])
    assert field["assessable"] is False and field["reason"].startswith("cloud: 100 % of the region's pixels in Image 2 are hidden by cloud")
    assert pond["assessable"] is True and pond["image"] == 2 and (pond["after"], pond["before"]) == ("2020-06-01", "2022-06-01")
    assert pond["file"] == NEW and pond["bands"] == ["NDVI"] and pond["area_m2"] > 0
    page = (pair / "o.html").read_text()
    assert page.count("<figure>") == 4 and page.count("new pond</text>") == 1, "regions are drawn on the first view"


def test_regions_without_data_say_so(pair, geotempo, monkeypatch):
    monkeypatch.chdir(pair)
    values = np.rint(reflectance(4, 2) * 10000).astype(np.uint16)
    values[:, :25, :25] = 0
    write_tif(pair / "late" / OLD, values, names=NAMES[:4])
    ran = geotempo("predict", OLD, f"late/{OLD}", "--view", "NIR", "--answer", "answer.txt", "--prompt", "What is new?", "--json")
    reasons = [region["reason"] for region in json.loads(ran.out)["regions"]]
    assert reasons[0].startswith("nodata: ") and reasons[1] is None


def test_the_embedded_model_reads_views(pair, geotempo, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(pair)
    ran = geotempo("predict", OLD, NEW, "--date", "2020-06-01", "--date", "2022-06-01", "--view", "true colour", "--view", "NDVI",
                   "--json", "--max-new-tokens", 8)
    assert ran.code == 0, ran.err
    facts = json.loads(ran.out)
    assert facts["task"] is None or facts["task"] == "change_caption"
    assert len(facts["acquisitions"]) == 4 and {item["image"] for item in facts["acquisitions"]} == {1, 2}


def test_oscd_folders_are_dates(shared, geotempo, tmp_path):
    city = shared / "data/OSCD/Onera Satellite Change Detection dataset - Images/rennes"
    if not city.is_dir():
        pytest.skip("OSCD is absent")
    (tmp_path / "a.txt").write_text(ANSWER)
    ran = geotempo("predict", city / "imgs_1", city / "imgs_2", "--date", "2015-08-21", "--date", "2017-06-21", "--view", "false colour",
                   "--view", "NDWI", "--answer", tmp_path / "a.txt", "--task", "change_grounding", "--json", "--overlay", tmp_path / "o.png")
    assert ran.code == 0, ran.err
    facts = json.loads(ran.out)
    assert [item["bands"] for item in facts["acquisitions"]] == [["B08", "B04", "B03"], ["NDWI"]] * 2
    assert all(region["area_m2"] > 0 for region in facts["regions"]) and Image.open(tmp_path / "o.png").width > 500
    assert sum("ASSUMED from the date 2017-06-21" in note for note in facts["notes"]) == 1, "the first date's naming is older than the offset"


CASES = {
    "unknown view": ([OLD, "--view", "NDVY"], ["'NDVY'", "did you mean 'NDVI'", "true colour"]),
    "missing band": ([OLD, "--view", "NBR"], ["NBR", "swir22", "B08 (nir)"]),
    "index of a picture": (["a.png", "--view", "NDVI"], ["NDVI", "nir", "red, green, blue"]),
    "impossible date": ([OLD, "--view", "NDVI", "--date", "2021-02-30"], ["2021-02-30"]),
    "unknown product": ([OLD, "--product", "sentinel2"], ["'sentinel2'", "sentinel-2-l2a"]),
    "product of other bands": (["four.tif", "--product", "sentinel-2-l2a", "--view", "NDVI"], ["4 unnamed bands", "sentinel-2-l2a"]),
    "unnamed bands": (["four.tif", "--view", "NDVI"], ["four.tif", "--product", "--band-names"]),
    "view and bands": ([OLD, "--view", "NDVI", "--bands", "4"], ["--view and --bands"]),
    "folder without bands": ([".", "--view", "NDVI"], ["folder without band files"]),
    "empty": (["empty.tif", "--view", "NDVI"], ["no pixel of 'empty.tif' holds data"]),
    "cloud mask of another size": (["a.png", "--cloud-mask", "b.png"], ["b.png", "64 x 64", "40 x 40"]),
    "too many products": ([OLD, "--product", "naip", "--product", "naip"], ["1 images and 2 values of --product"]),
    "offset of something else": (["four.tif", "--bands", "1", "--offset", "0"], ["--offset", "four.tif"]),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_nothing_written(name, pair, geotempo, monkeypatch):
    arguments, parts = CASES[name]
    monkeypatch.chdir(pair)
    for file in (OLD, NEW):  # a folder of no band files
        assert (pair / file).exists()
    Image.new("RGB", (40, 40)).save("a.png")
    Image.new("L", (64, 64)).save("b.png")
    write_tif(pair / "four.tif", np.ones((4, 9, 9), np.uint16))
    write_tif(pair / "empty.tif", np.zeros((2, 9, 9), np.uint16), names=("red", "nir"), nodata=0)
    before = {path: path.read_bytes() for path in pair.iterdir()}
    ran = geotempo("predict", *arguments, "--answer", "answer.txt", "--geojson", "geo.json")
    assert ran.code == 2 and ran.err.startswith("geotempo: error: ") and ran.err.count("\n") == 1
    assert all(part in ran.err for part in parts), ran.err
    assert {path: path.read_bytes() for path in pair.iterdir()} == before
