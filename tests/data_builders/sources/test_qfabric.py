"""QFabric: assumptions, degrees and pixels, tiles, states over five dates."""

import json

import numpy as np
import pytest

from geotempo.data_builders.build import build_store
from geotempo.data_builders.check import check_store
from geotempo.data_builders.sources import make_source
from geotempo.data_builders.sources.qfabric import city, city_split
from geotempo.data_builders.store import Store
from geotempo.model.errors import LayoutError
from geotempo.model.geometry import bounds
from tests.data_builders.fixtures import qfabric as made

pytest.importorskip("rasterio")
pytest.importorskip("pyproj")


def built(root, out, **keywords):
    manifest = build_store("qfabric", root, out, progress=False, **keywords)
    return Store(out), manifest


def samples(root, **options):
    source = make_source("qfabric", **options)
    source.check_layout(root)
    return {sample.id.partition("/")[2].partition("/")[2]: sample for key in source.keys(root) for sample in source.samples(root, key)}


@pytest.mark.parametrize("located", [True, False])
def test_degrees_and_pixels_are_the_same_place(tmp_path, located):
    made.location(tmp_path / "train", located=located)
    found = samples(tmp_path, tile=0)
    sample = found["zurich_01#region_vqa:type:0"]
    assert bounds(sample.regions[0].geometry).as_tuple() == pytest.approx(made.BOXES["site"], abs=1e-6)
    assert sample.regions[0].image == 5 and sample.target == "residential" and sample.regions[0].label == ""
    assert found["zurich_01#region_vqa:type:1"].target == "mega projects"
    assert [str(image.date) for image in sample.images] == list(made.DAYS)


def test_states_over_the_dates(tmp_path):
    made.location(tmp_path / "train")
    found = samples(tmp_path, tile=0)
    assert found["zurich_01#temporal_referring:construction_done:0"].target == "Image 4"
    assert found["zurich_01#temporal_referring:since:0"].target == "Image 5"
    assert found["zurich_01#temporal_referring:until:0"].target == "Image 1"
    assert found["zurich_01#temporal_referring:operational:1"].target == "Image 1, Image 2, Image 3, Image 4, Image 5"
    assert "zurich_01#temporal_referring:since:1" not in found


def test_tiles_keep_the_sites_that_lie_mostly_in_them(tmp_path):
    made.location(tmp_path / "train")
    found = samples(tmp_path, tile=32)
    asked = {name.split("#")[0]: sample for name, sample in found.items() if "type:" in name}
    assert set(asked) == {"zurich_01-0-0", "zurich_01-1-1"}, "two thirds of the second site lie right of the edge"
    assert bounds(asked["zurich_01-1-1"].regions[0].geometry).as_tuple() == pytest.approx((0, 8, 8, 28), abs=1e-6)
    assert asked["zurich_01-1-1"].images[4].width == 32 and asked["zurich_01-1-1"].meta["scene"] == "zurich_01"
    whole = samples(tmp_path, tile=0)["zurich_01#region_vqa:type:0"]
    assert np.array_equal(np.asarray(asked["zurich_01-0-0"].images[2].rgb()), np.asarray(whole.images[2].rgb())[:32, :32])


def test_the_store_is_sound_and_counts_what_was_set_aside(tmp_path):
    made.location(tmp_path / "in" / "train"), made.location(tmp_path / "in" / "val", "bern_3", seed=1)
    store, manifest = built(tmp_path / "in", tmp_path / "out")
    assert manifest["tally"] == {"locations/train": 1, "sites/train": 2, "locations/val": 1, "sites/val": 2,
                                 "set aside/outside the image": 2, "set aside/several parts": 2}
    assert not check_store(store, progress=False).faults
    assert set(manifest["counts"]["by_task"]) == set(make_source("qfabric").tasks)


def test_cities_are_never_parted(tmp_path):
    assert city("new_york_12") == "new_york" and city("7") == "7" and city("oslo") == "oslo"
    made.location(tmp_path, "zurich_01"), made.location(tmp_path, "zurich_02", seed=1)
    keys = make_source("qfabric").keys(tmp_path)
    assert len({key.split("/")[0] for key in keys}) == 1
    parts = [city_split(f"city{chr(97 + number // 26)}{chr(97 + number % 26)}_1") for number in range(600)]
    assert [round(parts.count(split) / 60) for split in ("train", "val", "test")] == [7, 2, 1]


@pytest.mark.parametrize(("change", "message"), [
    ({"change_type": None}, "no property 'change_type'; it has .*; name the right one with type_key"),
    ({"change_status": None}, "no property 'change_status'"),
    ({"change_type": "bridge"}, "'bridge'; allowed: residential"),
    ({"change_status": ["Greenland"]}, "allowed: 5 of prior construction"),
    ({"change_status": ["Greenland"] * 4 + ["finished"]}, "allowed: 5 of prior construction"),
])
def test_the_assumption_that_fails_is_named(tmp_path, change, message):
    content = made.label()
    for key, value in change.items():
        content["features"][1]["properties"].pop(key)
        if value is not None:
            content["features"][1]["properties"][key] = value
    made.location(tmp_path / "train", located=False, content=content)
    with pytest.raises(LayoutError, match=message):
        make_source("qfabric").check_layout(tmp_path)


def test_other_names_of_properties_are_given_as_options(tmp_path):
    content = made.label()
    for entry in content["features"]:
        entry["properties"] = {"kind": entry["properties"]["change_type"], "stages": entry["properties"]["change_status"]}
    made.location(tmp_path / "train", located=False, content=content)
    assert len(samples(tmp_path, tile=0, type_key="kind", status_key="stages")) > 5


def test_wrong_folders_are_refused(tmp_path):
    with pytest.raises(LayoutError, match="no folder with a GeoJSON"):
        make_source("qfabric").check_layout(tmp_path)
    made.location(tmp_path / "a" / "train", days=made.DAYS[:4])
    with pytest.raises(LayoutError, match="4 images of 4 dates; expected 5"):
        make_source("qfabric").check_layout(tmp_path / "a")
    folder = made.location(tmp_path / "b" / "train")
    (folder / "second.geojson").write_text("{}")
    with pytest.raises(LayoutError, match="2 label files"):
        make_source("qfabric").check_layout(tmp_path / "b")
    folder = made.location(tmp_path / "c" / "train", content=[])
    with pytest.raises(LayoutError, match="no FeatureCollection"):
        make_source("qfabric").check_layout(tmp_path / "c")
    (folder / "undated.tif").write_bytes(b"")
    with pytest.raises(LayoutError, match="has no date"):
        make_source("qfabric").check_layout(tmp_path / "c")


def test_bad_locations_are_named(tmp_path):
    made.location(tmp_path / "in" / "train", "a_1")
    broken = made.location(tmp_path / "in" / "train", "b_1", seed=1)
    next(broken.glob("*.tif")).write_bytes(b"II*\0")
    _, manifest = built(tmp_path / "in", tmp_path / "out", max_rejected=0.5)
    assert manifest["rejected"]["by_reason"] == {"broken image": 1}
    assert str(tmp_path) not in (tmp_path / "out/rejected.jsonl").read_text()


def test_unreadable_geometries_are_set_aside(tmp_path):
    content = made.label()
    content["features"][0]["geometry"] = {"type": "Polygon", "coordinates": [[[0, 0]]]}
    content["features"].append({**made.feature([made.ring((2, 2, 9, 9)).tolist()]), "geometry": None})
    content["features"].append(made.feature([made.ring((2, 2, 9, 2)).tolist()]))
    made.location(tmp_path / "in" / "train", located=False, content=content)
    _, manifest = built(tmp_path / "in", tmp_path / "out")
    aside = {name: count for name, count in manifest["tally"].items() if name.startswith("set aside")}
    assert sum(aside.values()) == 5 and aside["set aside/no area"] == 1
    assert json.loads((tmp_path / "out/manifest.json").read_text())["tally"]["sites/train"] == 1
