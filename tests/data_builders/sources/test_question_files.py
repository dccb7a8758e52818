"""CDVQA, RSVQA and RSIVQA: on the real annotations, and on small copies with every trap of their description."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from geotempo.data_builders.build import build_store
from geotempo.data_builders.check import check_store
from geotempo.data_builders.question_files import Picture, find_in, join
from geotempo.data_builders.records import Broken
from geotempo.data_builders.source import Rejection
from geotempo.data_builders.sources import make_source
from geotempo.data_builders.store import Store
from geotempo.model.errors import InputError, LayoutError
from tests.data_builders.fixtures import questions as made
from tests.data_builders.fixtures.instruct import save


def build(name, root, out, **options):
    manifest = build_store(name, root, out, progress=False, **options)
    return Store(out), manifest


def rejected(out):
    return [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]


def digests(folder):
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_the_real_validation_files_of_cdvqa_are_joined(shared):
    source = make_source("cdvqa")
    pictures = [found for found in join(shared("CDVQA"), "Val", source.file_name) if isinstance(found, Picture)]
    assert (len(pictures), sum(picture.records for picture in pictures)) == (400, 6400)
    assert {picture.records for picture in pictures} == {16}
    questions = [question for picture in pictures for question in picture.questions]
    assert len(questions) == 16441
    assert (min(len(picture.questions) for picture in pictures), max(len(picture.questions) for picture in pictures)) == (32, 49)
    assert Counter(question.kind for question in questions) == {
        "change_or_not": 5751, "change_ratio_types": 2409, "decrease_or_not": 1922, "increase_or_not": 1920, "change_to_what": 1239,
        "smallest_change": 1200, "largest_change": 1200, "change_ratio": 800}
    shares = {"0", *(f"{low}_to_{low + 10}" for low in range(0, 100, 10))}
    things = {"NVG_surface", "buildings", "low_vegetation", "trees", "water", "playgrounds"}
    assert {answer for question in questions for answer in question.answers} == {"yes", "no"} | shares | things


def test_real_questions_of_cdvqa_about_pairs_whose_images_are_there(shared, tmp_path):
    source = make_source("cdvqa")
    first = [found for found in join(shared("CDVQA"), "Val", source.file_name) if isinstance(found, Picture)][:3]
    for number, picture in enumerate(first):
        for folder in ("im1", "im2"):
            save(tmp_path / "SECOND" / "train" / folder / picture.name, number, (16, 16))
    store, manifest = build("cdvqa", shared("CDVQA"), tmp_path / "out", max_rejected=1.0, options={"images": str(tmp_path / "SECOND")})
    assert not check_store(store, progress=False).faults
    assert len(store) == sum(len(picture.questions) for picture in first)
    assert manifest["rejected"] == {"total": 397, "by_reason": {"missing image": 397}}
    assert manifest["tally"]["questions"] == 16441 and manifest["tally"]["pairs/val"] == 3
    assert "questions in Val_questions.json" in rejected(tmp_path / "out")[0]["detail"]
    for picture in first:
        for question in picture.questions:
            sample = store.by_id(f"cdvqa/val/{picture.name[:-4]}#change_vqa:{question.id}")
            assert sample.question == question.text and question.answers[0] in sample.meta["references"]


def test_records_of_one_pair_are_one_item_and_its_answers_are_words(tmp_path):
    store, manifest = build("cdvqa", made.cdvqa(tmp_path / "in"), tmp_path / "out", max_rejected=0.5)
    assert set(store.ids) == {"cdvqa/val/00010#change_vqa:0", "cdvqa/val/00010#change_vqa:1", "cdvqa/val/00020#change_vqa:2",
                              "cdvqa/test/00030#change_vqa:0", "cdvqa/test/Test2/00030#change_vqa:0"}
    largest = store.by_id("cdvqa/val/00010#change_vqa:1")
    assert largest.target == "non-vegetated ground surface" and largest.meta["question_type"] == "largest_change"
    assert largest.meta["references"] == ["non-vegetated ground surface", "NVG_surface"] and largest.meta["scene"] == "00010"
    assert [image.gsd for image in largest.images] == [None, None]
    assert store.by_id("cdvqa/val/00020#change_vqa:2").target == "10_to_20"
    assert manifest["tally"]["inactive images"] == 1 and manifest["tally"]["image records"] == 5
    assert {entry["reason"]: entry["detail"] for entry in rejected(tmp_path / "out")} == {
        "question without answer": "Val_questions.json, id 4 of image 0: 'Did water change?'",
        "question without image": "Val_questions.json, id 5 of image 99: 'Of no image?'"}


def test_identical_pairs_are_answered_by_the_type_of_the_question(tmp_path):
    store, _ = build("cdvqa", made.cdvqa(tmp_path / "in"), tmp_path / "out", max_rejected=0.5, controls=("identical",))
    assert store.by_id("cdvqa/val/00010#change_vqa:0@identical").target == "no"
    assert store.by_id("cdvqa/val/00020#change_vqa:2@identical").target == "0"


def test_images_are_found_in_the_splits_of_second(tmp_path):
    root = made.cdvqa(tmp_path / "in", tmp_path / "SECOND")
    store, _ = build("cdvqa", root, tmp_path / "out", max_rejected=0.5, options={"images": str(tmp_path / "SECOND")})
    assert len(store) == 5


def test_one_and_two_processes_write_the_same_bytes(tmp_path):
    root = made.cdvqa(tmp_path / "in")
    build("cdvqa", root, tmp_path / "one", max_rejected=0.5)
    build("cdvqa", root, tmp_path / "two", max_rejected=0.5, workers=2)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_the_real_part_of_rsvqa_lr(shared, tmp_path):
    store, manifest = build("rsvqa-lr", shared("RSVQA-LR"), tmp_path / "out")
    assert manifest["rejected"]["total"] == 0 and not check_store(store, progress=False).faults
    assert manifest["counts"]["by_split"] == {"train": 300, "val": 500, "test": 400} and manifest["counts"]["images"] == 12
    assert manifest["counts"]["by_task"] == {"counting": 350, "vqa": 850}
    assert manifest["tally"]["inactive images"] == 43
    sample = store.by_id("rsvqa-lr/test/236#vqa:23608")
    assert (sample.question, sample.target, sample.meta["question_type"]) == ("Is it a rural or an urban area", "rural", "rural_urban")
    image = sample.images[0]
    assert (image.sensor, str(image.date), image.gsd) == ("Sentinel-2", "2016-07-20", (10.0, 10.0))
    original = np.asarray(Image.open(shared("RSVQA-LR") / "Images_LR" / "236.tif"))
    assert np.array_equal(np.asarray(image.rgb()), original[..., :3])


def test_footprints_of_real_images_are_as_far_apart_as_their_pixels(shared, tmp_path):
    from geotempo.data_builders.sources.rsvqa import footprint

    images = json.loads((shared("RSVQA-LR") / "LR_split_test_images.json").read_text())["images"]
    one, two = (next(record for record in images if record.get("id") == number) for number in (236, 273))
    west, south, east, north = footprint(one, (256, 256))
    columns = 10240 - 8192  # in the names of the two
    assert footprint(two, (256, 256))[0] - west == pytest.approx((east - west) * columns / 256, rel=0.02)
    assert north - footprint(two, (256, 256))[3] == pytest.approx((north - south) * (6656 - 3072) / 256, rel=0.02)


def test_rsvqa_hr_from_its_description(tmp_path):
    store, manifest = build("rsvqa-hr", made.rsvqa_hr(tmp_path / "in"), tmp_path / "out")
    assert not check_store(store, progress=False).faults and manifest["tally"]["inactive images"] == 2
    assert sorted(store.ids) == ["rsvqa-hr/test/7#counting:1", "rsvqa-hr/test/7#vqa:0", "rsvqa-hr/test/7#vqa:2",
                                 *(f"rsvqa-hr/test/USGS_split_test_phili/8#{tag}" for tag in ("counting:1", "vqa:0", "vqa:2"))]
    sample = store.by_id("rsvqa-hr/test/7#vqa:0")
    assert sample.images[0].gsd == (0.1524, 0.1524) and "footprint" not in sample.meta and sample.meta["scene"] == "18060540"


def test_faults_of_the_three_files_are_named(tmp_path):
    root = made.rsvqa_hr(tmp_path)
    (root / "USGS_split_test_answers.json").write_text('{"answer": []}')
    with pytest.raises(LayoutError, match="has no list 'answers'"):
        make_source("rsvqa-hr").check_layout(root)
    (root / "USGS_split_test_answers.json").write_text('{"answers": [{"id": 1, "text": "yes", "active": true}]}')
    with pytest.raises(LayoutError, match="record 0: no key 'question_id'"):
        make_source("rsvqa-hr").check_layout(root)
    (root / "USGS_split_test_answers.json").unlink()
    with pytest.raises(LayoutError, match=r"USGS_split_test_answers.json is missing"):
        make_source("rsvqa-hr").check_layout(root)
    with pytest.raises(LayoutError, match=r"has no LR_split_train_questions.json"):
        make_source("rsvqa-lr").check_layout(root)


def test_a_file_that_breaks_off_fails_the_build(tmp_path):
    root = made.rsvqa_hr(tmp_path / "in")
    path = root / "USGS_split_test_questions.json"
    path.write_text(path.read_text()[:-30])
    with pytest.raises(InputError, match=r"USGS_split_test_questions.json is no whole JSON object"):
        build("rsvqa-hr", root, tmp_path / "out", max_rejected=0.9)


def test_records_that_say_too_little_are_set_aside_one_by_one(tmp_path):
    root = made.cdvqa(tmp_path / "in")
    path = root / "Val_images.json"
    odd = [{"id": 7, "active": True}, {"id": [8], "file_name": "a.png", "active": True}, "none",
           {"id": 9, "file_name": "../../00010.png", "active": True}]
    path.write_text(json.dumps({"images": json.loads(path.read_text())["images"] + odd}))
    answers = root / "Val_answers.json"
    answers.write_text(json.dumps({"answers": [*json.loads(answers.read_text())["answers"], {"id": 9, "question_id": 4, "answer": None}]}))
    questions = root / "Val_questions.json"
    far = made.question(0, 9, "change_or_not", "Far away?")
    questions.write_text(json.dumps({"questions": [*json.loads(questions.read_text())["questions"], far]}))
    store, _ = build("cdvqa", root, tmp_path / "out", max_rejected=0.9)
    assert len(store) == 5
    details = {entry["detail"] for entry in rejected(tmp_path / "out") if not entry["reason"].startswith("question without")}
    assert details == {"../../00010.png leads out of its folder (1 questions in Val_questions.json)", "Val_images.json, id 7",
                       "Val_answers.json, record 6: answer is None; expected a text or a number", "Val_images.json, record 6: str, no object",
                       "Val_images.json, record 5: id is [8]; expected a text or a number"}


@pytest.mark.parametrize(("which", "place", "field", "value", "reasons"), [
    ("images", 2, "file_name", None, ["image record without file name", "question without image"]),
    ("images", 2, "id", [1], ["broken record", "question without image"]),
    ("questions", 2, "img_id", {}, ["broken record"]),
    ("questions", 2, "question", None, ["broken record"]),
    ("answers", 2, "answer", None, ["broken record", "question without answer"]),
    ("answers", 2, "question_id", [2], ["broken record", "question without answer"]),
    ("answers", 2, "answer", " ", ["question without answer"]),
])
def test_an_odd_value_costs_its_own_question_only(tmp_path, which, place, field, value, reasons):
    root = made.cdvqa(tmp_path)
    path = root / f"Val_{which}.json"
    records = json.loads(path.read_text())
    records[which][place][field] = value
    path.write_text(json.dumps(records))
    source = make_source("cdvqa")
    source.check_layout(root)
    found = list(join(root, "Val", source.file_name))
    kept = {question.id for picture in found if isinstance(picture, Picture) for question in picture.questions}
    assert kept == {0, 1}
    always = ["question without answer", "question without image"]
    assert sorted(entry.reason for entry in found if isinstance(entry, Broken)) == sorted([*reasons, *always])


def test_a_first_image_record_without_file_name_is_another_layout(tmp_path):
    root = made.cdvqa(tmp_path)
    path = root / "Val_images.json"
    path.write_text(path.read_text().replace("file_name", "name"))
    with pytest.raises(LayoutError, match=r"Val_images.json, record 0 names no file; it has the keys id, .*name"):
        make_source("cdvqa").check_layout(root)


def test_a_byte_order_mark_in_front_is_no_fault(tmp_path):
    root = made.cdvqa(tmp_path)
    for path in root.glob("Val_*.json"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    source = make_source("cdvqa")
    source.check_layout(root)
    assert sum(isinstance(found, Picture) for found in join(root, "Val", source.file_name)) == 2


@pytest.mark.parametrize("name", ["../im2/1.png", "..\\im2\\1.png", "{root}/im2/1.png"])
def test_no_image_is_read_outside_the_folder_that_is_named(tmp_path, name):
    save(tmp_path / "im2" / "1.png", 1, (8, 8))
    save(tmp_path / "im1" / "sub" / "2.png", 1, (8, 8))
    with pytest.raises(Rejection, match="leads out of its folder"):
        find_in([tmp_path / "im1"], name.format(root=tmp_path))
    assert find_in([tmp_path / "im1"], "sub/2.png").is_file()


def test_lines_of_rsivqa(tmp_path):
    store, _ = build("rsivqa", made.rsivqa(tmp_path / "in"), tmp_path / "out", max_rejected=0.9)
    assert {sample_id: (store.by_id(sample_id).question, store.by_id(sample_id).target) for sample_id in store.ids} == {
        "rsivqa/train/UCM/ucm_res:0#classification": ("What is the theme of this picture?", "farmland"),
        "rsivqa/train/UCM/ucm_res:1#vqa": ("Is it 12:30? Or later?", "yes"),
        "rsivqa/train/UCM/ucm_res:4#vqa": ("How many cars in the picture?", "zero")}
    assert [(entry["key"], entry["reason"]) for entry in rejected(tmp_path / "out")] == [
        ("UCM/ucm_res.txt:3", "question without its noun"), ("UCM/ucm_res.txt:5", "broken record"),
        ("UCM/ucm_res.txt:6", "empty answer"), ("UCM/ucm_res.txt:7", "missing image")]
    assert store.by_id("rsivqa/train/UCM/ucm_res:4#vqa").meta["scene"] == "UCM/1"


def test_the_real_lines_of_rsivqa(shared, tmp_path):
    for number in range(1, 21):
        save(tmp_path / "images" / f"{number}.tif", number, (8, 8))
    store, manifest = build("rsivqa", shared("RSIVQA"), tmp_path / "out", max_rejected=1.0, options={"images": str(tmp_path / "images")})
    assert manifest["rejected"]["by_reason"]["question without its noun"] == 294
    assert manifest["rejected"]["total"] + len(store) == 4895 and set(manifest["rejected"]["by_reason"]) == {
        "question without its noun", "missing image"}
    assert store.by_id("rsivqa/train/UCM/ucm_vqa:0#classification").target == "farmland"
