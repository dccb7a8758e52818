"""STAC items beside a file, in both of their spellings, and files that are none."""

import pytest

from geotempo.model.metadata import BandFacts, facts_of
from tests.rasters import write_item

BANDS = [{"name": "B04", "common_name": "red", "scale": 1e-4, "offset": -0.1}, {"name": "B08", "common_name": "nir", "scale": 1e-4}]
READ = (BandFacts("B04", "red", None, 1e-4, -0.1), BandFacts("B08", "nir", None, 1e-4, None))


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("beside", [None, "scene.json", "some_item.json"])
def test_an_item_is_found_by_its_asset(tmp_path, new, beside):
    file = tmp_path / "scene.tif"
    file.write_bytes(b"")
    write_item(str(file), {"s2:processing_baseline": "05.00"}, bands=BANDS, new=new, collection="sentinel-2-l2a", beside=beside)
    facts = facts_of(str(file), {"AREA_OR_POINT": "Area"})
    assert facts.bands == READ and facts.properties["s2:processing_baseline"] == "05.00"
    assert facts.texts[:3] == ("sentinel-2-l2a", "item", "scene.tif") and facts.tags == {"AREA_OR_POINT": "Area"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"type":"FeatureCollection"}', '{"type":"Feature","stac_version":"1.0.0","assets":[]}',
                                  '{"type":"Feature","stac_version":"1.0.0","assets":{"a":{"href":7},"b":3}}', "[" * 100000])
def test_other_json_is_passed_over(tmp_path, text):
    file = tmp_path / "scene.tif"
    file.write_bytes(b"")
    (tmp_path / "scene.tif.json").write_text(text)
    facts = facts_of(str(file))
    assert facts.bands == () and facts.properties == {} and facts.texts[0] == "scene.tif"


def test_an_item_of_another_file_is_not_taken(tmp_path):
    for name in ("a.tif", "b.tif"):
        (tmp_path / name).write_bytes(b"")
    write_item(str(tmp_path / "a.tif"), {"datetime": "2020-01-01T00:00:00Z"}, beside="items.json")
    assert facts_of(str(tmp_path / "b.tif")).properties == {} and facts_of(str(tmp_path / "a.tif")).properties


def test_numbers_given_once_for_the_asset_and_wrong_types(tmp_path):
    import json

    file = tmp_path / "scene.tif"
    file.write_bytes(b"")
    asset = {"href": "scene.tif", "raster:scale": 2, "bands": [{"name": 5, "eo:common_name": "red", "eo:center_wavelength": True}, 3]}
    (tmp_path / "scene.json").write_text(json.dumps({"type": "Feature", "stac_version": "1.1.0", "assets": {"a": asset}}))
    assert facts_of(str(file)).bands == (BandFacts(None, "red", None, 2.0, None), BandFacts(None, None, None, 2.0, None))
