"""QAG-360K and ChangeChat from their documentation: masks of questions, cells of a grid, the captions file."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geotempo.data_builders.build import build_store
from geotempo.data_builders.check import check_store
from geotempo.data_builders.sources import make_source
from geotempo.data_builders.sources.changechat import CELLS, kind_of, place_regions
from geotempo.data_builders.store import Store
from geotempo.model.errors import LayoutError
from geotempo.model.geometry import bounds, rasterize
from geotempo.model.records import ImageRecord
from tests.data_builders.fixtures import change_talk as made


@pytest.fixture(scope="module")
def qag(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qag")
    manifest = build_store("qag-360k", made.qag(folder / "in"), folder / "out", progress=False)
    return Store(folder / "out"), manifest


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    folder = tmp_path_factory.mktemp("changechat")
    manifest = build_store("changechat", made.changechat(folder / "in"), folder / "out", progress=False)
    return Store(folder / "out"), manifest


def reasons(out):
    return [json.loads(line)["reason"] for line in (out / "rejected.jsonl").read_text().splitlines()]


def named(store, beginning):
    return store.by_id(next(name for name in store.ids if name.split("/", 2)[2].startswith(beginning)))


def test_the_stores_are_sound(qag, chat):
    for store, manifest in (qag, chat):
        assert manifest["rejected"]["total"] == 0 and not check_store(store, progress=False).faults
    assert qag[1]["counts"]["by_split"] == {"train": 6, "test": 2}
    assert qag[1]["tally"] == {"questions/change_or_not": 2, "questions/change_ratio": 1, "questions/largest_change": 1, "empty masks": 2}
    assert chat[1]["tally"] == {"records/train": 2, "records/train_loc": 1, "records/test": 1, "records/test_binary": 1,
                                "records/test_count": 1, "records/test_dialog": 1, "records/test_loc": 1, "records/test_open": 1}


def test_a_question_has_its_answer_and_its_mask(qag):
    store, _ = qag
    short, joint = store.by_id("qag-360k/train/train/json/Train:0#change_vqa"), store.by_id("qag-360k/train/train/json/Train:0#change_segmentation")
    assert (short.question, short.target, short.meta["question_type"]) == ("Question 0?", "yes", "change_or_not")
    assert joint.question.startswith("Question 0?") and joint.target == "yes\n<regions:0,1>"
    assert [(bounds(region.geometry).as_tuple(), region.image, region.label) for region in joint.target_regions] == [
        ((12, 12, 20, 22), 2, "changed area"), ((2, 2, 8, 8), 2, "changed area")]
    assert store.by_id("qag-360k/train/train/json/Train:2#change_segmentation").target == "0\n<regions:>"


def test_masks_are_cut_at_one_half_and_classes_are_words(qag):
    sample = qag[0].by_id("qag-360k/train/train/json/Train:1#change_segmentation")
    assert sample.target == "non-vegetated ground surface\n<regions:0>"
    assert int(rasterize(sample.regions[0].geometry, made.SIDE, made.SIDE).sum()) == 16
    assert sample.regions[0].label == "non-vegetated ground surface" and sample.meta["references"][1] == "NVG_surface"


def test_a_question_of_another_split_with_the_same_number_has_its_own_mask(qag):
    assert qag[0].by_id("qag-360k/test/test/json/Test:0#change_segmentation").target == "no\n<regions:>"


def test_questions_of_qag_that_cannot_be_used_are_named(tmp_path):
    more = [made.asked(9, "yes"), made.asked(0, "yes", picture="7.png"), made.asked(3, "yes"), {"id": 4}, made.asked(0, ""),
            made.asked("../../test/mask/0", "yes")]
    root = made.qag(tmp_path / "in", more)
    made.mask(root / "train" / "mask" / "3.png", [], side=8)
    build_store("qag-360k", root, tmp_path / "out", progress=False, max_rejected=0.9)
    assert reasons(tmp_path / "out") == ["missing mask", "missing image", "size mismatch", *["broken record"] * 3]


def test_assumptions_about_qag_are_checked(tmp_path):
    with pytest.raises(LayoutError, match="no JSON file with a list 'question'"):
        make_source("qag-360k").check_layout(tmp_path)
    root = made.qag(tmp_path / "in")
    (root / "train" / "mask").rename(root / "train" / "evidence")
    with pytest.raises(LayoutError, match=r"no folder of mask for Train.json"):
        make_source("qag-360k").check_layout(root)
    (root / "test" / "json" / "Test.json").unlink()
    make_source("qag-360k", masks=str(root / "train" / "evidence")).check_layout(root)
    (root / "train" / "json" / "Train.json").write_text('{"question": [{"id": 1, "img_id": "a.png", "question": "Q?", "answer": "yes"}]}')
    with pytest.raises(LayoutError, match="question 0: it has no key 'type'"):
        make_source("qag-360k").check_layout(root)


def test_flatter_layouts_of_qag_are_read(tmp_path):
    root = made.qag(tmp_path / "in")
    for split in ("train", "test"):
        (root / split / "json" / f"{split.title()}.json").rename(root / f"{split}.json")
        for part in ("im1", "im2"):
            (root / split / "image" / part).rename(root / split / part)
    source = make_source("qag-360k")
    source.check_layout(root)
    samples = [sample for item in source.items(root) for sample in source.read(root, item)]
    assert len(samples) == 8 and {sample.id for sample in samples} >= {"qag-360k/train/train:0#change_vqa", "qag-360k/test/test:0#change_vqa"}


def test_one_split_of_qag_may_be_the_root(tmp_path):
    root = made.qag(tmp_path) / "train"
    source = make_source("qag-360k")
    source.check_layout(root)
    samples = [sample for item in source.items(root) for sample in source.read(root, item)]
    assert len(samples) == 6 and {sample.split for sample in samples} == {"train"}


@pytest.mark.parametrize(("beginning", "task", "answer"), [
    ("changechat_105k_train:0", "change_caption", "There is no difference."),
    ("changechat_105k_train:1", "counting", "3"),
    ("changechat_105k_train_loc:0", "change_vqa", "roads ['top-left', 'center-center'] buildings []"),
    ("changechat_105k_test_binary:0", "change_vqa", "yes"),
    ("changechat_105k_test_count:0", "change_vqa", "roads: 1, buildings: 0"),
    ("changechat_105k_test_open:0", "change_vqa", "For housing."),
    ("changechat_105k_test_dialog:0", "change_vqa", "In the middle."),
])
def test_conversations_of_changechat(chat, beginning, task, answer):
    sample = named(chat[0], beginning)
    assert (sample.task, sample.target) == (task, answer)


def test_the_captions_file_gives_a_caption_with_five_references(chat):
    sample = chat[0].by_id("changechat/test/changechat_105k_test:0#change_caption")
    assert sample.target == "two houses appear" and len(sample.meta["references"]) == 5 and sample.meta["scene"] == "test_000001"
    assert chat[0].by_id("changechat/test/changechat_105k_test:0#change_vqa").target == "yes"


def test_places_are_regions_beside_the_answer(chat):
    (roads,) = named(chat[0], "changechat_105k_train_loc:0").regions
    third = made.SIDE // 3
    mask = rasterize(roads.geometry, made.SIDE, made.SIDE)
    assert roads.label == "road" and mask[:third, :third].all() and mask[third:-third, third:-third].all()
    assert int(mask.sum()) == 2 * third * third
    (buildings,) = named(chat[0], "changechat_105k_test_loc:0").regions
    assert buildings.label == "building" and rasterize(buildings.geometry, made.SIDE, made.SIDE)[-third:, -third:].all()


WORDS = {"T": "top", "C": "center", "B": "bottom"}, {"L": "left", "C": "center", "R": "right"}


@settings(max_examples=50, deadline=None)
@given(st.sets(st.sampled_from(sorted(CELLS))), st.sets(st.sampled_from(sorted(CELLS))), st.booleans())
def test_both_ways_to_name_cells_are_read(roads, buildings, words):
    def written(cells):
        return str([f"{WORDS[0][cell[0]]}-{WORDS[1][cell[1]]}" if words else cell for cell in sorted(cells)])

    regions = place_regions(f"roads {written(roads)} buildings {written(buildings)}", ImageRecord("i", 30, 30, data=b"-"))
    found = {region.label: {cell for cell, (row, column) in CELLS.items() if region.geometry.cells[row][column]} for region in regions}
    assert found == {label: cells for label, cells in (("road", roads), ("building", buildings)) if cells}


def test_the_training_file_is_chosen_and_the_layout_checked(tmp_path):
    root = made.changechat(tmp_path / "in")
    names = [path.name for path in make_source("changechat", train="train_loc").files(root)]
    assert "changechat_105k_train_loc.json" in names and "changechat_105k_train.json" not in names and len(names) == 7
    assert [kind_of(name) for name in ("changechat_87k_train.json", "changechat_105k_test.json", "notes.json")] == ["train", "test", ""]
    (root / "annotations" / "changechat_105k_test.json").write_text('[{"image_A": "a.png", "captions": []}]')
    with pytest.raises(LayoutError, match="record 0: image is"):
        make_source("changechat").check_layout(root)


def test_records_of_changechat_that_cannot_be_used_are_named(tmp_path):
    more = [made.record(5, "<image> <image> Q?", "A"), made.record(1, "<image> Q?", "A"), made.record(1, "<image> <image> Q?", ""), 7]
    build_store("changechat", made.changechat(tmp_path / "in", more), tmp_path / "out", progress=False, max_rejected=0.9)
    assert sorted(reasons(tmp_path / "out")) == sorted(["missing image", "tags and images differ", "empty answer", "broken record"])
