"""xBD in all its layouts, Ida-BD and BRIGHT: events, held-out splits, footprints, two sensors."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from geotempo.data_builders.build import build_store
from geotempo.data_builders.check import check_store
from geotempo.data_builders.events import event_names
from geotempo.data_builders.sources import make_source
from geotempo.data_builders.store import Store
from geotempo.model.errors import InputError, LayoutError
from geotempo.model.geometry import area, bounds
from tests.data_builders.fixtures import damage as made


def built(name, root, out, **keywords):
    manifest = build_store(name, root, out, progress=False, **keywords)
    return Store(out), manifest


def splits(store):
    return {name.split("#")[0].split("/")[2]: name.split("/")[1] for name in store.ids}


def test_the_folders_give_the_splits(tmp_path):
    store, manifest = built("xbd", made.xbd(tmp_path / "in"), tmp_path / "out")
    assert splits(store) == {"quake_00000001": "train", "storm_00000001": "train", "storm_00000002": "val", "quake_00000002": "test"}
    assert manifest["tally"]["buildings/destroyed"] == 2 and manifest["tally"]["buildings/major-damage"] == 4
    assert not check_store(store, progress=False).faults
    assert set(manifest["counts"]["by_task"]) <= set(make_source("xbd").tasks)


@pytest.mark.parametrize("held_out", ["storm", ["storm"], " storm ,"])
def test_whole_events_can_be_held_out(tmp_path, held_out):
    store, _ = built("xbd", made.xbd(tmp_path / "in"), tmp_path / "out", options={"held_out": held_out})
    assert splits(store) == {"quake_00000001": "train", "storm_00000001": "val", "storm_00000002": "val", "quake_00000002": "train"}
    assert {store.by_id(name).meta["event"] for name in store.ids if "/val/" in name} == {"storm"}


def test_events_that_are_not_there_are_refused(tmp_path):
    root = made.xbd(tmp_path)
    with pytest.raises(InputError, match="names 'flood', which xbd does not have here; it has: quake, storm"):
        make_source("xbd", held_out=["flood"]).check_layout(root)
    with pytest.raises(InputError, match="leave one to train on"):
        make_source("xbd", held_out="quake,storm").check_layout(root)
    assert event_names("b, a,,b") == ("a", "b")


def test_scene_event_and_footprint_are_in_the_meta(tmp_path):
    store, _ = built("xbd", made.xbd(tmp_path / "in"), tmp_path / "out")
    meta = store.by_id("xbd/train/quake_00000001#damage").meta
    assert (meta["event"], meta["scene"]) == ("quake", "quake_00000001")
    assert meta["footprint"] == pytest.approx([10.0, 49.9996, 10.0004, 50.0])
    assert "footprint" not in store.by_id("xbd/val/storm_00000002#damage").meta


def test_buildings_of_the_earlier_image_come_from_labels_only(tmp_path):
    store, _ = built("xbd", made.xbd(tmp_path / "in"), tmp_path / "out")
    sample = store.by_id("xbd/train/quake_00000001#referring_segmentation:building")
    assert len(sample.images) == 1 and str(sample.images[0].date).startswith("2017")
    assert len(sample.target_regions) == 3, "nobody could grade one of them, but it stood there"
    assert store.by_id("xbd/train/quake_00000001#counting:building").target == "3"
    assert not any("storm" in name and name.endswith(":building") for name in store.ids), "touching buildings are one in a mask"


def test_nothing_is_counted_where_a_polygon_was_set_aside(tmp_path):
    root = made.xbd(tmp_path / "in")
    for end in ("pre", "post"):
        path = root / f"train/labels/quake_00000001_{end}_disaster.json"
        label = json.loads(path.read_text())
        label["features"]["xy"][0]["wkt"] = "POLYGON (("
        path.write_text(json.dumps(label))
    store, _ = built("xbd", root, tmp_path / "out")
    assert not any("quake_00000001" in name and name.endswith(":building") for name in store.ids)


def test_real_labels_show_the_same_buildings_before(shared, tmp_path):
    root = shared("xBD/tier3")
    store, _ = built("xbd", root, tmp_path / "out")
    for path in sorted(root.glob("labels/*_pre_disaster.json")):
        stem = path.stem.removesuffix("_pre_disaster")
        before = json.loads(path.read_text())["features"]["xy"]
        assert store.by_id(f"xbd/train/{stem}#counting:building").target == str(len(before))
        meta = store.by_id(f"xbd/train/{stem}#damage").meta
        assert meta["event"] == "joplin-tornado"
        west, south, east, north = meta["footprint"]
        assert -94.6 < west < east < -94.4 and 37.0 < south < north < 37.1


@pytest.mark.parametrize(("stem", "split"), [("quake_00000001", "train"), ("storm_00000001", "train")])
def test_tiles_show_each_building_where_it_lies(tmp_path, stem, split):
    store, manifest = built("xbd", made.xbd(tmp_path / "in"), tmp_path / "out", options={"tile": 20})
    assert manifest["tally"]["pairs/train"] == 8
    boxes = {name: [bounds(region.geometry).as_tuple() for region in store.by_id(f"xbd/{split}/{stem}-{name}#damage").regions]
             for name in ("0-0", "0-1", "1-0", "1-1")}
    assert boxes == {"0-0": [(2, 2, 10, 10)], "0-1": [(0, 2, 10, 10)], "1-0": [], "1-1": [(0, 0, 10, 10)]}
    if stem.startswith("quake"):
        west, south, east, north = store.by_id(f"xbd/train/{stem}-1-1#damage").meta["footprint"]
        assert (west, north) == pytest.approx((10.0002, 49.9998)) and (east, south) == pytest.approx((10.0004, 49.9996))


def test_real_buildings_in_tiles_are_the_buildings_of_the_scene(shared):
    root, key = shared("xBD/tier3"), "tier3/joplin-tornado_00000001"
    whole = next(sample for sample in make_source("xbd").samples(root, key) if sample.id.endswith("#damage"))
    tiles = [sample for sample in make_source("xbd", tile=256).samples(root, key) if sample.id.endswith("#damage")]
    assert len(tiles) == 16 and max(len(sample.regions) for sample in tiles) < len(whole.regions) / 3
    parts, full = (sum(area(region.geometry) for sample in found for region in sample.regions) for found in (tiles, [whole]))
    assert 0.97 * full < parts <= full, "pieces below a quarter of a building are left out, nothing else"
    assert sum(sample.meta["left_out"] for sample in tiles) < whole.meta["left_out"] / 10
    assert [sample.meta["set_aside"] for sample in tiles[1:]] == [{}] * 15


def test_ida_bd_goes_where_it_is_told_as_a_whole(tmp_path):
    root = made.ida_bd(tmp_path / "in")
    store, manifest = built("ida-bd", root, tmp_path / "out", options={"split": "test"})
    assert splits(store) == {"AOI1-tile_1-1": "test", "AOI2-tile_10-3": "test"}
    assert {store.by_id(name).meta["event"] for name in store.ids} == {"hurricane-ida"}
    assert manifest["tally"]["buildings/major-damage"] == 4 and not check_store(store, progress=False).faults
    with pytest.raises(InputError, match="split is 'all'"):
        make_source("ida-bd", split="all")


def test_ida_bd_masks_of_another_scale_are_refused_by_name(tmp_path):
    root = made.ida_bd(tmp_path / "in")
    Image.fromarray(np.full((40, 40), 5, np.uint8)).save(root / "masks/AOI1-tile_1-1_post_disaster.png")
    _, manifest = built("ida-bd", root, tmp_path / "out", max_rejected=0.5)
    assert manifest["rejected"]["by_reason"] == {"unknown mask value": 1}


def test_bright_pairs_two_sensors(tmp_path):
    root = made.bright(tmp_path / "in")
    store, manifest = built("bright", root, tmp_path / "out", max_rejected=0.5)
    sample = store.by_id("bright/train/bata-explosion_00000000#damage")
    assert [image.modality for image in sample.images] == ["optical", "sar"]
    for image, folder in zip(sample.images, ("pre-event/bata-explosion_00000000_pre", "post-event/bata-explosion_00000000_post"), strict=True):
        with Image.open(root / f"{folder}_disaster.tif") as picture:
            assert np.array_equal(np.asarray(image.rgb()), np.asarray(picture.convert("RGB")))
    assert [region.label for region in sample.regions] == ["destroyed", "destroyed", "intact"]
    assert "intact" in sample.question and "no-damage" not in sample.question
    assert manifest["tally"]["buildings/destroyed"] == 8 and not check_store(store, progress=False).faults


def test_tiles_of_both_sensors_show_the_same_place(tmp_path):
    store, _ = built("bright", made.bright(tmp_path / "in"), tmp_path / "out", max_rejected=0.5, options={"tile": 20})
    sample = store.by_id("bright/train/bata-explosion_00000000-1-1#damage")
    assert [image.modality for image in sample.images] == ["optical", "sar"] and [image.width for image in sample.images] == [20, 20]
    assert [region.label for region in sample.regions] == ["destroyed"] and sample.meta["scene"] == "bata-explosion_00000000"
    with Image.open(tmp_path / "in/post-event/bata-explosion_00000000_post_disaster.tif") as picture:
        assert np.array_equal(np.asarray(sample.images[1].rgb())[..., 0], np.asarray(picture)[20:, 20:])
    assert not check_store(store, progress=False).faults


def test_bright_lists_name_pairs_that_are_not_redistributed(tmp_path):
    store, manifest = built("bright", made.bright(tmp_path / "in"), tmp_path / "out", max_rejected=0.5)
    assert splits(store) == {"bata-explosion_00000000": "train", "beirut-explosion_00000000": "train",
                             "bata-explosion_00000001": "val", "beirut-explosion_00000001": "test"}
    assert manifest["rejected"]["by_reason"] == {"missing image": 1}
    assert "ukraine-conflict_00000363" in (tmp_path / "out/rejected.jsonl").read_text()


def test_bright_events_can_be_held_out_without_lists(tmp_path):
    root = made.bright(tmp_path / "in", lists=False)
    with pytest.raises(LayoutError, match="nothing tells the splits"):
        make_source("bright").check_layout(root)
    store, _ = built("bright", root, tmp_path / "out", options={"held_out": ["beirut-explosion"]})
    assert {name.rpartition("_")[0]: split for name, split in splits(store).items()} == {"bata-explosion": "train", "beirut-explosion": "val"}


def test_bad_bright_pairs_are_named(tmp_path):
    root = made.bright(tmp_path / "in")
    made.noise(1).save(root / "post-event/bata-explosion_00000000_post_disaster.tif")  # three channels cannot be the radar image
    Image.fromarray(np.full((40, 40), 4, np.uint8)).save(root / "target/bata-explosion_00000001_building_damage.tif")
    (root / "pre-event/beirut-explosion_00000000_pre_disaster.tif").write_bytes(b"II*\0")
    shutil.copy(root / "target/beirut-explosion_00000001_building_damage.tif", root / "target/new-event_00000001_building_damage.tif")
    _, manifest = built("bright", root, tmp_path / "out", max_rejected=1)
    assert manifest["rejected"]["by_reason"] == {"unsupported image": 1, "unknown mask value": 1, "broken image": 1, "missing image": 1,
                                                 "unknown split": 1}


def test_real_lists_of_bright(shared, tmp_path):
    lists = shared("CD_split_lists") / "BRIGHT_standard_ML"
    made.bright(tmp_path / "in", lists=False)
    for path in lists.iterdir():
        shutil.copy(path, tmp_path / "in" / path.name)
    keys = make_source("bright").keys(tmp_path / "in")
    found = {split: sum(key.startswith(f"{split}/") for key in keys) for split in ("train", "val", "test")}
    assert found == {"train": 2918, "val": 450, "test": 878}

