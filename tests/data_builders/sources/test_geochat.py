"""GeoChat_Instruct and VRSBench from their documentation: tags, turned boxes, phrases, records without image."""

import json

import pytest

from geotempo.data_builders.build import build_store
from geotempo.data_builders.check import check_store
from geotempo.data_builders.sources import make_source
from geotempo.data_builders.store import Store
from geotempo.model.errors import LayoutError
from geotempo.model.geometry import Box, RotatedBox
from tests.data_builders.fixtures import geochat as made


@pytest.fixture(scope="module")
def instruct(tmp_path_factory):
    folder = tmp_path_factory.mktemp("geochat")
    manifest = build_store("geochat-instruct", made.write_instruct(folder / "in"), folder / "out", progress=False)
    return Store(folder / "out"), manifest


def nth(store, number):
    return store.by_id(next(name for name in store.ids if f":{number}#" in name))


def test_the_stores_are_sound(instruct, tmp_path):
    store, manifest = instruct
    assert manifest["rejected"]["total"] == 0 and not check_store(store, progress=False).faults
    assert manifest["tally"] == {"records/grounding": 1, "records/identify": 1, "records/no tag": 3, "records/refer": 2,
                                 "regions": 6}
    build_store("vrsbench", made.write_vrsbench(tmp_path / "in"), tmp_path / "out", progress=False)
    assert not check_store(Store(tmp_path / "out"), progress=False).faults


@pytest.mark.parametrize(("number", "task", "question", "answer"), [
    (0, "change_grounding", "where is the ship on the left?", "<regions:0>"),
    (3, "caption", "describe the image in detail", "2 ships <region:0> <region:1> lie at a dock."),
    (4, "vqa", "What kind?", "A ferry."),
    (5, "caption", "Describe the image.", "A field."),
    (6, "classification", "Classify the image in the following classes: harbor, forest.", "harbor"),
])
def test_questions_and_answers(instruct, number, task, question, answer):
    sample = nth(instruct[0], number)
    assert (sample.task, sample.question, sample.target) == (task, question, answer)


def test_bare_phrases_and_bare_boxes_become_questions(instruct):
    refer, identify = nth(instruct[0], 1), nth(instruct[0], 2)
    assert "2 ships near the dock" in refer.question and refer.question != "2 ships near the dock"
    assert refer.target == "<regions:0,1>"
    assert identify.task == "region_caption" and identify.target == "a white ship"
    assert "<region:0>" in identify.question and identify.question != "<region:0>"


def test_boxes_are_turned_around_their_centre_in_pixels(instruct):
    first, second = nth(instruct[0], 1).regions
    assert first.geometry == Box(4, 4, 12, 8)
    assert second.geometry == RotatedBox(22, 11, 4, 2, 90)
    assert [region.label for region in nth(instruct[0], 3).regions] == ["2 ships", "2 ships"]


def test_all_turns_are_kept(instruct):
    assert [turn.text for turn in nth(instruct[0], 4).messages] == ["<image>\nIs there a ship?", "Yes", "What kind?",
                                                                    "A ferry."]


def test_folders_of_another_machine_are_left_out_from_the_front(instruct):
    below, above = nth(instruct[0], 6), nth(instruct[0], 4)  # images/sub/P0001.png, images/P0001.png
    assert below.images[0].id != above.images[0].id


def test_what_cannot_be_used_is_named_with_its_record(tmp_path):
    faults = made.instruct_faults()
    root = made.write_instruct(tmp_path / "in", [*made.instruct_records(), *(record for record, _ in faults)])
    build_store("geochat-instruct", root, tmp_path / "out", progress=False, max_rejected=1.0)
    found = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [entry["reason"] for entry in found] == [reason for _, reason in faults]
    assert found[0]["key"] == f"GeoChat_Instruct.json:{len(made.instruct_records())}"


def test_vrsbench_has_unique_ids_and_scenes(tmp_path):
    manifest = build_store("vrsbench", made.write_vrsbench(tmp_path / "in"), tmp_path / "out", progress=False)
    store = Store(tmp_path / "out")
    assert manifest["counts"]["by_task"] == {"caption": 1, "change_grounding": 1, "vqa": 1}
    assert store.ids == ["vrsbench/train/VRSBench_train:0#caption", "vrsbench/train/VRSBench_train:1#change_grounding",
                         "vrsbench/train/VRSBench_train:2#vqa"]
    assert [nth(store, number).meta["scene"] for number in range(3)] == ["P0003", "P0003", "00002"]


def test_the_test_files_of_vrsbench(tmp_path):
    root = made.write_vrsbench_tests(tmp_path / "in")
    manifest = build_store("vrsbench", root, tmp_path / "out", progress=False, max_rejected=0.5)
    store = Store(tmp_path / "out")
    assert manifest["rejected"]["by_reason"] == {"no conversation": 1} and manifest["counts"]["by_split"] == {"test": 3}
    referring = store.by_id("vrsbench/test/VRSBench_EVAL_referring:0#change_grounding")
    assert referring.target == "<regions:0>" and referring.regions[0].geometry == Box(3.2, 6.4, 9.6, 12.8)
    assert "The large ship located at the top" in referring.question != "The large ship located at the top."
    assert store.by_id("vrsbench/test/VRSBench_EVAL_vqa:0#vqa").meta["question_type"] == "object quantity"
    assert store.by_id("vrsbench/test/VRSBench_EVAL_Cap:0#caption").target == "A harbour."


def test_faults_of_the_folder_are_named(tmp_path):
    with pytest.raises(LayoutError, match=r"no GeoChat_Instruct.json"):
        make_source("geochat-instruct").check_layout(tmp_path)
    made.write_instruct(tmp_path, [{"image": 3, "conversations": []}])
    with pytest.raises(LayoutError, match="record 0: image is '3'"):
        make_source("geochat-instruct").check_layout(tmp_path)
    with pytest.raises(LayoutError, match="is no folder"):
        make_source("geochat-instruct", images=str(tmp_path / "nowhere")).check_layout(tmp_path)
    made.write_instruct(tmp_path,
                        [made.record("x/y.png", "Q", "A"), made.record("", "Q", "A"), made.record("z.png", "Q", "A")])
    with pytest.raises(LayoutError,
                       match=r"none of the images of the first records of GeoChat_Instruct.json is there, e.g. "
                             r"x/y.png"):
        make_source("geochat-instruct").check_layout(tmp_path)
    (tmp_path / "GeoChat_Instruct.json").write_text('[{"image": "a.png", "conv')
    with pytest.raises(LayoutError, match="no whole JSON array"):
        make_source("geochat-instruct").check_layout(tmp_path)
