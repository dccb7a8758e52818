"""Captioned pairs: DUBAI-CCD, LEVIR-CCD, LEVIR-CDC, WHU-CDC, Forest-Change, SECOND-CC, SYSU-CC, RSCC."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from geotempo.data_builders.build import build_store
from geotempo.data_builders.check import check_store
from geotempo.data_builders.sources import make_source
from geotempo.data_builders.store import Store
from geotempo.model.errors import LayoutError
from tests.data_builders.fixtures import captions as made


def built(name, root, out, **keywords):
    manifest = build_store(name, root, out, progress=False, **keywords)
    return Store(out), manifest


def rejected(out):
    return {entry["key"]: (entry["reason"], entry["detail"])
            for entry in map(json.loads, (out / "rejected.jsonl").read_text().splitlines())}


def by_tag(store, key):
    return {name.partition("#")[2]: store.by_id(name) for name in store.ids if name.startswith(f"{key}#")}


def union(sample):
    out = np.zeros((sample.images[0].height, sample.images[0].width), dtype=bool)
    for region in sample.regions:
        out |= region.geometry.to_array()
    return out


@pytest.mark.parametrize(("name", "write"), [
    ("dubai-ccd", made.dubai), ("levir-ccd", lambda root: made.dubai(root, "", ("A", "B"), "png")),
    ("levir-cdc", lambda root: made.masked(root, "LevirCCcaptions.json")), ("whu-cdc", made.masked),
    ("forest-change", made.forest), ("second-cc", made.second_cc),
    ("sysu-cc", made.sysu), ("rscc", made.rscc),
])
def test_every_data_set_builds_a_sound_store(tmp_path, digest, name, write):
    root = write(tmp_path / "in")
    store, manifest = built(name, root, tmp_path / "one", max_rejected=0.6)
    assert not check_store(store, progress=False).faults and len(store)
    assert set(manifest["counts"]["by_task"]) <= set(make_source(name).tasks)
    if name == "second-cc":
        built(name, root, tmp_path / "two", max_rejected=0.6, workers=2)
        assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_dubai_takes_the_split_from_the_name_of_the_file(tmp_path):
    store, manifest = built("dubai-ccd", made.dubai(tmp_path / "in"), tmp_path / "out")
    assert set(store.ids) == {f"dubai-ccd/{key}#change_caption" for key in ("train/1", "train/2", "val/3", "test/1")}
    sample = store.by_id("dubai-ccd/val/3#change_caption")
    assert sample.target == "two roads Validation appear" and len(sample.meta["references"]) == 5
    assert manifest["counts"]["images"] == 6, "one picture of two splits is stored once"
    before = np.asarray(Image.open(tmp_path / "in/imgs_tiles/RGB/500_2000/3.tif"))
    assert np.array_equal(np.asarray(sample.images[0].rgb()), before)


def test_dubai_looks_for_known_folders_and_takes_others(tmp_path):
    root = made.dubai(tmp_path / "in", "RGB/")
    assert len(built("dubai-ccd", root, tmp_path / "a")[0]) == 4
    (root / "RGB").rename(root / "pictures")
    with pytest.raises(LayoutError, match=r"looked for imgs_tiles/RGB/500_2000 and .*before=FOLDER and after=FOLDER"):
        make_source("dubai-ccd").check_layout(root)
    options = {"before": "pictures/500_2000", "after": "pictures/500_2010"}
    assert len(built("dubai-ccd", root, tmp_path / "b", options=options)[0]) == 4


def test_dubai_refuses_files_whose_names_tell_no_split(tmp_path):
    root = made.dubai(tmp_path / "in")
    path = root / "description_jsontr_te_val/Test_desc.json"
    path.rename(path.with_name("captions.json"))
    message = r"names begin with Train_, Validation_ and Test_; found: Train_desc.json, .*captions.json"
    with pytest.raises(LayoutError, match=message):
        make_source("dubai-ccd").check_layout(root)


def test_real_dubai_captions_are_read_as_they_stand(shared, tmp_path):
    """Ground truth of 25 test pairs, as EarthDial's results quote it; the images are not published with it."""
    lines = (shared("EarthDial_results") / "rs_change_detection/Dubai_CC.jsonl").read_text().splitlines()
    rows = [[json.loads(line)[f"caption{n}"] for n in range(5)] for line in lines]
    entries = [{"filename": f"{n}.png", "sentences": [{"raw": text} for text in row]} for n, row in enumerate(rows)]
    root = made.dubai(tmp_path / "in")
    shutil.rmtree(root / "description_jsontr_te_val")
    made.write(root / "description_jsontr_te_val/Test_all.json", entries)
    records = make_source("dubai-ccd").records(root)
    assert len(records) == 25 and records["test/0"].captions[0] == "A road has appeared"
    assert {record.changed for record in records.values()} == {None}, "free sentences must not be taken for a flag"
    assert [f"{text}." for record in records.values() for text in record.captions] == [
        text for row in sorted(zip(map(str, range(25)), rows, strict=True)) for text in row[1]]


@pytest.mark.parametrize(("high", "flag"), [(255, True), (1, True), (255, False)])
def test_captions_and_building_masks(tmp_path, high, flag):
    store, _ = built("whu-cdc", made.masked(tmp_path / "in", high=high, flag=flag), tmp_path / "out")
    found = by_tag(store, "whu-cdc/train/train_000001")
    assert ("change_vqa" in found) is flag and found["change_vqa:buildings"].target == "yes"
    joint = found["change_segmentation:joint"]
    assert joint.target == "two buildings appear\n<regions:0>" and np.array_equal(union(joint), made.truth())
    assert [(region.image, region.label) for region in joint.regions] == [(2, "building")]
    same = by_tag(store, "whu-cdc/train/train_000002")
    assert same["change_segmentation:joint"].target == "there is no difference\n<regions:>"
    assert same["change_vqa:buildings"].target == "no" and same["counting:buildings"].target == "0"
    doubt = by_tag(store, "whu-cdc/train/train_000003")
    assert "change_segmentation:joint" not in doubt
    assert doubt["change_caption"].meta["flag_mask_disagreement"] == {"changeflag": 1, "mask_pixels": 0}
    assert not any("train_000004" in name for name in store.ids), "the file, not the folder, says which pairs exist"


def test_masks_of_one_bit(tmp_path):
    """Loaders of WHU-CDC read its labels as true and false."""
    root = made.masked(tmp_path / "in")
    Image.fromarray(made.truth()).save(root / "images/train/label/train_000001.png")
    store, _ = built("whu-cdc", root, tmp_path / "out")
    sample = store.by_id("whu-cdc/train/train_000001#change_segmentation:buildings")
    assert np.array_equal(union(sample), made.truth())


def test_levir_cdc_refuses_the_roads_of_levir_mci(tmp_path):
    root = made.masked(tmp_path / "in", "LevirCCcaptions.json")
    made.mask(root / "images/train/label/train_000001.png", made.truth(), 128)
    _, manifest = built("levir-cdc", root, tmp_path / "out", max_rejected=0.5)
    assert manifest["rejected"]["by_reason"] == {"unknown mask value": 1}
    assert rejected(tmp_path / "out")["train/train_000001"][1] == (
        "label/train_000001.png holds [128]; levir-cdc expects 0 and 255, or 0 and 1; 128 is the road of LEVIR-MCI: "
        "build levir-mci")


def test_forest_change_lacks_every_optional_key(tmp_path):
    root = made.forest(tmp_path / "in")
    keys = {key for one in json.loads((root / "ForestChatcaptions.json").read_text())["images"] for key in one}
    assert keys == {"filename", "filepath", "split", "sentences"}, "the fixture must have the trap"
    store, _ = built("forest-change", root, tmp_path / "out")
    found = by_tag(store, "forest-change/train/train_000001")
    assert "change_vqa" not in found and found["change_vqa:forest_areas_cleared"].target == "yes"
    assert "cleared" in found["change_grounding:forest_areas_cleared"].question
    assert found["change_segmentation:joint"].regions[0].label == "cleared forest"
    assert not any("#counting" in name for name in store.ids), "an area is not a thing to count"


@pytest.mark.parametrize("brightness", [0, 80])
def test_second_cc_reads_maps_in_both_sets_of_colours(tmp_path, brightness):
    store, manifest = built("second-cc", made.second_cc(tmp_path / "in", brightness), tmp_path / "out")
    found = by_tag(store, "second-cc/train/00001_0_0")
    regions = found["semantic_change"].regions
    assert [region.label for region in regions] == ["low vegetation -> building"]
    assert np.array_equal(union(found["semantic_change"]), made.truth())
    assert found["change_caption"].target == "two buildings appear" and found["change_vqa"].target == "yes"
    assert found["change_caption"].meta["scene"] == "00001"
    assert by_tag(store, "second-cc/train/00002_0_0")["change_vqa"].target == "no"
    assert manifest["tally"]["low vegetation -> building"] == 2


def test_second_cc_says_where_flag_and_maps_disagree_and_asks_the_flag(tmp_path):
    store, manifest = built("second-cc", made.second_cc(tmp_path / "in"), tmp_path / "out")
    found = by_tag(store, "second-cc/train/00003_0_0")
    assert found["change_vqa"].target == "no" and len(found["semantic_change"].regions) == 1
    assert found["semantic_change"].meta["flag_mask_disagreement"] == {"changeflag": 0, "mask_pixels": 192}
    assert manifest["tally"]["flag and maps disagree/train"] == 1


def test_second_cc_names_unknown_colours_and_can_do_without_maps(tmp_path):
    root = made.second_cc(tmp_path / "in")
    made.coloured(root / "train/sem/A/00001_0_0.png", (255, 255, 255), [(made.BOX, (7, 7, 7))])
    built("second-cc", root, tmp_path / "a", max_rejected=0.5)
    reason, detail = rejected(tmp_path / "a")["train/00001_0_0"]
    assert reason == "unknown colour" and "(7, 7, 7)" in detail
    shutil.rmtree(root / "train/sem")
    with pytest.raises(LayoutError, match=r"no folder train/sem/A; .*maps=false makes captions only"):
        make_source("second-cc").check_layout(root)
    store, _ = built("second-cc", root, tmp_path / "b", options={"maps": False})
    assert Counter(store.row(i)["task"] for i in range(len(store))) == {"change_caption": 3, "change_vqa": 3}


@pytest.mark.parametrize(("dates", "prefix"), [
    (("time1", "time2"), ""), (("A", "B"), "sysu_test_"), (("T1", "T2"), ""),
])
def test_sysu_boxes_are_half_open_and_images_are_found_under_either_name(tmp_path, dates, prefix):
    store, manifest = built("sysu-cc", made.sysu(tmp_path / "in", dates, prefix), tmp_path / "out", max_rejected=0.5)
    edge = by_tag(store, "sysu-cc/test/sysu_test_00000")["change_grounding:areas"]
    box = edge.regions[0].geometry
    assert (box.x1, box.y1, box.x2, box.y2) == (0, 10, made.SIDE, made.SIDE) and edge.regions[0].image == 2
    two = by_tag(store, "sysu-cc/test/sysu_test_00001")
    assert two["counting:areas"].target == "2" and two["change_caption"].target == "Change 1 appeared"
    assert [region.geometry.x1 for region in two["change_grounding:areas"].regions] == [10, 1], "largest first"
    assert not any(sample.task == "change_vqa" for sample in two.values()), "all pairs changed: there is nothing to ask"
    assert manifest["rejected"]["by_reason"] == {"missing image": 1}


@pytest.mark.parametrize("box", [[0, 0, 33, 5], [5, 5, 5, 9], [-1, 0, 3, 3], [1, 2, 3], None])
def test_sysu_boxes_that_cannot_be_are_named(tmp_path, box):
    root = made.sysu(tmp_path / "in")
    path = root / "sysu_test_captions.json"
    value = json.loads(path.read_text())
    value["images"][0]["attribute"]["region_properties"][0]["box"] = box
    path.write_text(json.dumps(value))
    built("sysu-cc", root, tmp_path / "out", max_rejected=0.7)
    reason, detail = rejected(tmp_path / "out")["test/sysu_test_00000"]
    assert reason == "impossible box" and str(box) in detail


def test_sysu_entries_that_repeat_or_lack_something_are_named(tmp_path):
    root = made.sysu(tmp_path / "in")
    path = root / "sysu_test_captions.json"
    value = json.loads(path.read_text())
    first, second, _ = value["images"]
    value["images"] = [first, first, {**second, "captions": ["."]}, {"id": 1}, {**second, "folder_name": "extra"}]
    path.write_text(json.dumps(value))
    built("sysu-cc", root, tmp_path / "out", max_rejected=0.9)
    assert {key: reason for key, (reason, _) in rejected(tmp_path / "out").items()} == {
        "test/sysu_test_00000@1": "repeated item", "test/sysu_test_00001": "missing caption",
        "sysu_test_captions.json:3": "broken annotation", "extra/sysu_test_00001": "unknown split"}


def test_sysu_images_may_lie_elsewhere(tmp_path):
    root = made.sysu(tmp_path / "in")
    (root / "SYSU-CD").mkdir()
    (root / "test").rename(root / "SYSU-CD/test")
    store, _ = built("sysu-cc", root, tmp_path / "out", options={"images": "SYSU-CD"}, max_rejected=0.5)
    assert len(store) == 6


def test_real_sysu_captions(shared, tmp_path):
    """3,774 entries; of those whose images are absent every one is named, two images made here show that boxes fit."""
    root = shared("SYSU-CC_cdchat")
    source = make_source("sysu-cc")
    source.check_layout(root)
    keys = source.keys(root)
    assert len(keys) == 3774 and not any("@" in key for key in keys)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/sysu_test_captions.json").symlink_to(root / "sysu_test_captions.json")
    for number, date in enumerate(("time1", "time2")):
        for name in ("00000.png", "00003.png"):
            made.picture(tmp_path / f"in/test/{date}/{name}", number, 256)
    store, manifest = built("sysu-cc", tmp_path / "in", tmp_path / "out", max_rejected=1.0)
    assert manifest["rejected"] == {"total": 3772, "by_reason": {"missing image": 3772}}
    sample = store.by_id("sysu-cc/test/sysu_test_00003#change_grounding:areas")
    assert [region.geometry.x2 for region in sample.regions] == [143, 256]
    one, two = (store.by_id(f"sysu-cc/test/sysu_test_{number}#change_caption").target for number in ("00000", "00003"))
    assert one.endswith("bottom left of the image") and two.count(". ") == 1 and two.endswith("of the image.")
    assert not check_store(store, progress=False).faults


def test_rscc_places_paths_of_another_machine_and_keeps_the_benchmark_out_of_train(tmp_path):
    store, manifest = built("rscc", made.rscc(tmp_path / "in"), tmp_path / "out", max_rejected=0.5)
    assert {(sample.split, sample.meta["event"], sample.meta["scene"]) for sample in map(store.by_id, store.ids)} == {
        ("train", "hurricane-harvey", "hurricane-harvey_00000001"),
        ("train", "hurricane-ida", "hurricane-ida_00000007"),
        ("test", "hurricane-harvey", "hurricane-harvey_00000002")}
    assert manifest["rejected"]["by_reason"] == {"held out": 1}
    assert all(store.by_id(name).meta["captions_by"] == "model" for name in store.ids)
    questions = [store.by_id(name).question.lower() for name in store.ids]
    assert not any("one sentence" in question for question in questions), "the captions are paragraphs"


def test_rscc_refuses_answers_of_models_under_test_and_broken_records(tmp_path):
    root = made.rscc(tmp_path / "in")
    path = root / "ebd_gt_qwen25vl72b.jsonl"
    good = json.loads(path.read_text())
    rows = [good, {**good, "model_id": "x/y-7B"}, {**good, "change_caption": " "}, {**good, "post_image": None},
            {**good, "pre_image": "/elsewhere/a_pre.png"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    built("rscc", root, tmp_path / "out", max_rejected=0.9)
    found = rejected(tmp_path / "out")
    assert [found[f"{path.name}:{n}"][0] for n in (1, 2, 3, 4)] == [
        "prediction", "missing caption", "broken annotation", "missing image"]
    assert found[f"{path.name}:4"][1].endswith("/elsewhere/a_pre.png")


@pytest.mark.parametrize(("name", "message"), [
    ("dubai-ccd", "no folders of earlier and later images"), ("whu-cdc", "0 caption files"),
    ("second-cc", "0 files SECOND"), ("sysu-cc", "no sysu_test_captions.json"), ("rscc", r"no \*.jsonl"),
])
def test_an_empty_folder_is_refused_by_what_is_missing(tmp_path, name, message):
    with pytest.raises(LayoutError, match=message):
        make_source(name).check_layout(tmp_path)
