"""EarthDial: every question and reference of the authors' result files, and shards written with the same columns."""

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geotempo.data_builders.build import build_store
from geotempo.data_builders.check import check_store
from geotempo.data_builders.earthdial_texts import (
    EARTHDIAL,
    TURNS,
    asks,
    plain,
    read_question,
    read_references,
    row_turns,
    split_of,
)
from geotempo.data_builders.source import Draft, Rejection
from geotempo.data_builders.sources import make_source
from geotempo.data_builders.sources.earthdial import image_columns, row_sample
from geotempo.data_builders.store import Store
from geotempo.data_builders.text_regions import extract
from geotempo.model.errors import InputError, LayoutError
from geotempo.model.geometry import Box, RotatedBox
from geotempo.model.records import ImageRecord
from tests.data_builders.fixtures import earthdial as made
from tests.data_builders.fixtures.instruct import png

IMAGE = ImageRecord("image", 200, 100, data=b"-")
UNUSABLE = {("xBD_object_detection.jsonl", 10), ("xBD_reg_cls_testset_2.jsonl", 5), ("HIT_UAV.jsonl", 7),
            ("Swimming_pool_dataset.jsonl", 1), ("Swimming_pool_dataset.jsonl", 6), ("UCAS_AOD.jsonl", 1)}
"""Rows with a box that has no width or reaches beyond the image."""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("earthdial")
    manifest = build_store("earthdial", made.earthdial(folder / "in"), folder / "out", progress=False)
    return Store(folder / "out"), manifest


def one(store, beginning):
    return store.by_id(next(name for name in store.ids if name.split("/", 2)[2].startswith(beginning)))


def as_row(result):
    """A row of a result file under the names of the columns that it comes from."""
    row = {f"groundtruth{number}": result.get(f"caption{number}") for number in range(5)}
    return {**row, "question": result["question"], "groundtruth": result.get("gt_bbox", result.get("groundtruth"))}


def test_every_real_question_and_reference_is_read(shared):
    read, tasks, unusable = 0, {}, set()
    for path in sorted(shared("EarthDial_results").glob("rs_*/*.jsonl")):
        for number, line in enumerate(path.read_text().splitlines()):
            turns, references = row_turns(as_row(json.loads(line)))
            asked = [read_question(turns[0]["value"])]
            count = max(asked[0].images, 2 if path.parent.name == "rs_change_detection" else 1)
            draft = Draft("earthdial", "test", str(number), (IMAGE,) * count, "unknown")
            try:
                sample = row_sample(draft, turns, asked, references)
            except Rejection as error:
                assert error.reason == "impossible box"
                unusable.add((path.name, number))
                continue
            read += 1
            tasks.setdefault(f"{path.parent.name}/{path.stem}", set()).add(sample.task)
            assert not any(mark in message.text for message in sample.messages for mark in ("<ref>", "<box>", "[[", "\\n", '."', "[caption"))
    assert (read, unusable) == (6921, UNUSABLE)
    assert all(len(found) == 1 for found in tasks.values())
    assert {name.partition("/")[2]: next(iter(found)) for name, found in tasks.items() if "xBD" in name} == {
        "xBD_image_captioning": "change_caption", "xBD_object_detection": "change_grounding", "xBD_testset_1": "temporal_classification",
        "xBD_referred_object_detection": "change_grounding", "xBD_reg_cls_testset_1": "region_vqa", "xBD_testset_2": "change_vqa",
        "xBD_reg_cls_testset_2": "region_vqa", "xBD_testset_3": "change_vqa"}


def test_every_part_of_the_real_lists_has_columns_that_are_known(shared):
    bands = set()
    for path in (shared("EarthDial_results") / "shell_data_meta").glob("*.json"):
        for name, entry in json.loads(path.read_text()).items():
            columns = entry["image_key"].split(",")
            assert entry["conversation"] in TURNS
            if image_columns(columns) != columns:
                bands.add(name)
    assert bands == {"Bigearthnet_MS_120Patch", "LCZs_S2_train_32Patch", "TreeSatAI_train", "STARCOP_train", "UHI_train"}


def test_the_shards_are_built_and_sound(built):
    store, manifest = built
    assert manifest["rejected"]["total"] == 0 and not check_store(store, progress=False).faults
    assert manifest["counts"]["by_split"] == {"train": 7, "test": 4}
    assert manifest["tally"]["regions"] == 7


@pytest.mark.parametrize(("beginning", "task", "question", "answer"), [
    ("Geochat_train_instructs/GeoChat_TrainFinal_part1:0", "change_grounding", "where is the ship?", "<regions:0>"),
    ("Geochat_train_instructs/GeoChat_TrainFinal_part1:2", "vqa", "Is there a road?", "no"),
    ("xBD/train/xBD_train_region:0", "region_vqa", "Is the building at <region:0> hit in the pre-disaster image?", "no"),
    ("xBD/train/xBD_train_region:1", "change_grounding", "Locate all buildings in the post-disaster image.", "<regions:0,1>"),
    ("naip_final/naip_final_0:0", "caption", "Describe it.", "A field."),
    ("Quakeset_shards/Quakeset_train:0", "change_vqa", "Has an earthquake happened?", "yes"),
    ("MUDS_ChangeDetection_test:0", "change_caption", "are there any semantic change detected in the provided images?", "Roads are built ."),
    ("validation_shards/xBD_test_change_quest:0", "change_vqa", "How many are affected? none, one. Answer in single word.", "none"),
    ("validation_shards/xBD_test_change_quest:1", "change_caption", "are there any semantic change detected in the provided images?",
     "A pool appeared."),
])
def test_questions_and_answers(built, beginning, task, question, answer):
    sample = one(built[0], beginning)
    assert (sample.task, sample.question, sample.target) == (task, question, answer)


def test_boxes_are_in_pixels_turned_and_on_the_image_that_is_named(built):
    store, _ = built
    ship = one(store, "Geochat_train_instructs/GeoChat_TrainFinal_part1:0").regions[0]
    assert ship.geometry == RotatedBox(40, 30, 40, 20, 90)
    before, after = one(store, "xBD/train/xBD_train_region:0").regions[0], one(store, "xBD/train/xBD_train_region:1").regions[0]
    assert (before.image, before.geometry) == (1, Box(0, 0, 100, 50)) and after.image == 2


def test_bare_expressions_become_questions(built):
    sample = one(built[0], "validation_shards/NWPU_VHR_10_test_refer:0")
    assert sample.task == "change_grounding" and "2 gray ships at the left" in sample.question != "2 gray ships at the left"
    assert sample.target == "<regions:0,1>" and sample.meta["question_type"] == "ref" and "size_group" not in sample.meta


def test_images_come_in_the_order_of_the_columns_with_the_facts_of_their_kind(built):
    store, _ = built
    muds = one(store, "MUDS_ChangeDetection_test:0")
    assert [image.encoded() for image in muds.images] == [png(seed, made.SIZE) for seed in range(8, 12)]
    assert muds.meta["references"] == ["Roads are built .", "A road ."] and muds.meta["kind_of_image"] == "hr_rgb_temp_0.5"
    quake = one(store, "Quakeset_shards/Quakeset_train:0").images[0]
    assert (quake.sensor, quake.modality, quake.gsd) == ("Sentinel-1", "sar", None)
    assert muds.images[0].gsd is None  # the tag of aerial images says 0.5 whatever they are
    assert one(store, "Geochat_train_instructs/GeoChat_TrainFinal_part1:2").images[0].gsd is None  # tagged in the first question only


def test_one_and_two_processes_write_the_same_bytes(built, tmp_path):
    root = made.earthdial(tmp_path / "in")
    build_store("earthdial", root, tmp_path / "two", progress=False, workers=2)
    files = sorted(path.relative_to(tmp_path / "two") for path in (tmp_path / "two").rglob("*.parquet"))
    assert files
    for name in files:
        assert hashlib.sha256((tmp_path / "two" / name).read_bytes()).digest() == hashlib.sha256((built[0].path / name).read_bytes()).digest()


def test_what_cannot_be_used_is_named_with_its_row(tmp_path):
    talk = made.talk("<image> What is it?", "A field.")
    rows = [{"jpg": made.image(0), "conversations": talk}, {"jpg": {"bytes": None, "path": "a.jpg"}, "conversations": talk},
            {"jpg": {"bytes": b"no image", "path": None}, "conversations": talk}, {"jpg": made.image(0), "conversations": "[{"},
            {"jpg": made.image(0), "conversations": made.talk("[refer] <image> a ship", "[[1, 81, 1, 82, 0]]")},
            {"jpg": made.image(0), "conversations": made.talk("[refer] <image> a ship", "[[1, 81, 5]]")},
            {"jpg": made.image(0), "conversations": None},
            {"jpg": made.image(0), "conversations": made.talk("[refer] <image> a ship", "[[nan, 20, 30, 40, 0]]")},
            {"jpg": made.image(0), "conversations": made.talk("[refer] <image> a ship", "[[]]")},
            {"jpg": made.image(0), "conversations": made.talk("[caption] <image> Describe.", '["", " "]')},
            {"jpg": made.image(0), "conversations": json.dumps([{"from": "gpt", "value": "A field."}])}]
    made.part(tmp_path / "in" / "ships", rows)
    build_store("earthdial", tmp_path / "in", tmp_path / "out", progress=False, max_rejected=1.0)
    found = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [(entry["key"], entry["reason"]) for entry in found] == [
        ("ships:1", "missing image"), ("ships:2", "broken image"), ("ships:3", "broken record"), ("ships:4", "impossible box"),
        ("ships:5", "impossible box"), ("ships:6", "no conversation"), ("ships:7", "impossible box"), ("ships:8", "impossible box"),
        ("ships:9", "empty answer"), ("ships:10", "no conversation")]


def test_a_system_turn_in_front_is_no_question():
    turns, references = row_turns({"conversations": json.dumps([{"from": "system", "value": "Be brief."}, *json.loads(
        made.talk("[caption] [hr_rgb_0.5] <image> Describe it.", "A field."))])})
    asked = [read_question(turn["value"]) for turn in turns if asks(turn)]
    sample = row_sample(Draft("earthdial", "train", "0", (IMAGE,), "unknown"), turns, asked, references)
    assert (sample.task, sample.question, sample.target) == ("caption", "Describe it.", "A field.")
    assert sample.meta["system"] == "Be brief." and sample.meta["tags"] == ["caption"]


def test_a_shard_that_breaks_off_fails_the_build(tmp_path):
    folder = made.part(tmp_path / "in" / "ships", [{"jpg": made.image(seed), "conversations": made.talk("<image> Q?", "A")} for seed in range(8)])
    path = folder / "data-00000-of-00001.arrow"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="no whole Arrow stream"):
        build_store("earthdial", tmp_path / "in", tmp_path / "out", progress=False, max_rejected=0.9)


def test_the_layout_is_checked_and_parts_are_chosen(tmp_path):
    with pytest.raises(LayoutError, match="has no part"):
        make_source("earthdial").check_layout(tmp_path)
    made.part(tmp_path / "a" / "LCZs_S2_train", [{"tif_ms": [1, 2], "conversations": "[]"}])
    with pytest.raises(LayoutError, match=r"a/LCZs_S2_train has bands \(tif_ms\), no pictures"):
        make_source("earthdial").check_layout(tmp_path)
    ships = made.part(tmp_path / "ships", [{"jpg": made.image(0), "conversations": made.talk("<image> Q?", "A")}])
    make_source("earthdial", parts=("ships",)).check_layout(tmp_path)
    (ships / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(LayoutError, match=r"has no data-00000-of-00001.arrow"):
        make_source("earthdial", parts=("ships",)).check_layout(tmp_path)
    made.part(tmp_path / "b", [{"jpg": made.image(0), "caption": "A field."}])
    with pytest.raises(LayoutError, match="b has the columns jpg, caption; expected conversations"):
        make_source("earthdial", parts=("b",)).check_layout(tmp_path)


def test_what_datasets_itself_saves_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {"jpg": [made.image(0), made.image(1)], "conversations": [made.talk("<image> Q?", "A")] * 2}
    features = datasets.Features({"jpg": datasets.Image(), "conversations": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "in" / "ships")
    manifest = build_store("earthdial", tmp_path / "in", tmp_path / "out", progress=False)
    assert manifest["counts"]["samples"] == 2 and manifest["counts"]["images"] == 2


def test_texts():
    assert plain('"A field.\\n"') == "A field."
    assert read_references('["A", " "]') == ["A"] and read_references("") == [] and read_references(None) == []
    assert read_references('["broken') == ['["broken']
    asked = read_question(" [hyper_rgb_3] <image>\\n[1, 2] is what?")
    assert (asked.task, asked.kind, asked.images, asked.text) == ("", "hyper_rgb_3", 1, "[1, 2] is what?")
    assert [split_of(part) for part in ("a/xBD/train/x", "MUDS_ChangeDetection_test", "FMoW_RGB_Valid", "validation_shards/UCM_test", "contest_train")] == [
        "train", "test", "val", "test", "train"]


boxes = st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(1, 100), st.integers(1, 100), st.integers(0, 179)).filter(
    lambda box: box[0] < box[2] and box[1] < box[3]), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(boxes, st.sampled_from(["[[{}]]", "<box>[[[{}]]]</box>"]), st.sampled_from(["]][[", "], ["]))
def test_boxes_are_read_in_all_their_forms(numbers, form, between):
    inside = between.join(", ".join(map(str, box)) for box in numbers)
    found = extract(f"There are <ref>ships</ref> {form.format(inside)} here.", (EARTHDIAL,), IMAGE, 1)
    assert found.text == "There are ships " + " ".join(f"<region:{index}>" for index in range(len(numbers))) + " here."
    for region, (x1, y1, x2, y2, angle) in zip(found.regions, numbers, strict=True):
        straight = Box(2 * x1, y1, 2 * x2, y2)
        expected = straight if angle == 0 else RotatedBox(x1 + x2, (y1 + y2) / 2, 2 * (x2 - x1), y2 - y1, angle)
        assert (region.geometry, region.label) == (expected, "ships")
