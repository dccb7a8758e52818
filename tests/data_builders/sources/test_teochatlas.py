"""TEOChatlas from its documentation: order, dates, tasks, boxes, outlines, paths, and everything that is set aside."""

import json
import shutil

import pytest
from PIL import Image

from geotempo.data_builders.build import build_store
from geotempo.data_builders.check import check_store
from geotempo.data_builders.render import target_text
from geotempo.data_builders.sources import make_source
from geotempo.data_builders.store import Store
from geotempo.eval.reading import true_regions
from geotempo.model.convention import TEOCHAT
from geotempo.model.errors import InputError, LayoutError
from geotempo.model.geometry import Box, RotatedBox, bounds
from tests.data_builders.fixtures import teochatlas as made


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teochatlas")
    manifest = build_store("teochatlas", made.write(folder / "in"), folder / "out", progress=False)
    return Store(folder / "out"), manifest


def nth(store, number, file="instruct"):
    return store.by_id(next(name for name in store.ids if f"/{file}:{number}#" in name))


def test_every_record_is_kept_and_the_store_is_sound(built):
    store, manifest = built
    assert manifest["rejected"]["total"] == 0
    assert manifest["counts"]["by_split"] == {"test": 3, "train": len(made.train_records())}
    assert not check_store(store, progress=False).faults
    assert manifest["tally"]["records/xbd"] == 4 and manifest["tally"]["records/fmow"] == 3
    assert manifest["counts"]["by_task"].keys() <= set(make_source("teochatlas").tasks)


@pytest.mark.parametrize(("number", "task", "question", "answer"), [
    (0, "change_grounding",
     ("Identify all the buildings in the first image. Include a bounding box for each identified building in "
     "your response."), "<regions:0,1>"),
    (2, "change_vqa", "What disaster has occurred between the first and second image?", "A hurricane."),
    (3, "region_vqa", "Is the building at <region:0> in the first image damaged?", "No"),
    (4, "change_grounding", "Identify all changed buildings using bounding boxes.",
     "There are no changed buildings.\n<regions:>"),
    (6, "temporal_referring", "In which image(s) was construction finished in this region <region:0>?",
     "Image 4, Image 5"),
    (7, "region_vqa", "What is the development status in this region <region:0> in image 3?", "Excavation"),
    (9, "classification", "Which of the following classes?", "dam"),
    (12, "region_caption", "What is <region:0>?", "a white ship"),
    (13, "change_grounding",
     "Identify the location of the ship. Include bounding boxes for each identified object in your response",
     "<regions:0>"),
])
def test_questions_and_answers(built, number, task, question, answer):
    sample = nth(built[0], number)
    assert (sample.task, sample.question, sample.target) == (task, question, answer)


def test_images_are_sorted_by_date_and_dates_keep_their_precision(built):
    store, _ = built
    turned, straight = nth(store, 1), nth(store, 0)
    assert [image.id for image in turned.images] == [image.id for image in straight.images]
    assert [str(image.date) for image in nth(store, 2).images] == ["2016", "2018-03"]
    assert [str(image.date) for image in nth(store, 8).images] == ["2015-05-02", "2016-05-02", "2017-05-02"]


def test_a_missing_date_keeps_the_order_and_the_other_dates(built):
    images = nth(built[0], 3).images
    assert [image.date and str(image.date) for image in images] == [None, "2018-03-04"]
    assert [image.id for image in images] == [image.id for image in nth(built[0], 0).images]


def test_boxes_lie_on_the_image_that_the_question_names(built):
    store, _ = built
    assert [region.image for region in nth(store, 0).target_regions] == [1, 1]
    assert [nth(store, number).regions[0].image for number in (1, 6, 7)] == [2, 5, 3]
    assert nth(store, 0).regions[1].geometry == Box(16, 16, 24, 24)


def test_boxes_come_back_as_teochat_writes_them(built):
    assert target_text(nth(built[0], 0), convention=TEOCHAT) == "[4, 8, 23, 27], [50, 50, 75, 75]"


def test_outlines_are_regions_in_pixels_of_the_image(built):
    store, manifest = built
    sample = nth(store, 0)
    assert sample.meta["polygons"] == [2, 3]
    assert bounds(sample.regions[2].geometry) == Box(1.25, 2.5, 7.5, 8.75)
    partly = nth(store, 5)
    assert partly.meta["polygons"] == [1]
    assert partly.meta["polygons_unusable"] == {"unreadable WKT": 1, "outside the image": 1}
    assert manifest["tally"]["unusable outlines/unreadable WKT"] == 1


def test_a_long_list_is_scored_against_all_its_boxes_and_no_outline(tmp_path):
    boxes = ", ".join(f"[{number}, 0, {number + 1}, {number + 1}]" for number in range(40))
    record = made.record("xBD", "change_detection_localization", made.HARVEY,
                         f"{made.PAIR}Identify all buildings but [1, 1, 2, 2].",
                         boxes, polygon=[made.SQUARE] * 40)
    build_store("teochatlas", made.write(tmp_path / "in", [record], {}), tmp_path / "out", progress=False)
    sample = nth(Store(tmp_path / "out"), 0)
    assert sample.meta["left_out"] == 8 and len(sample.target_regions) == 32
    assert true_regions(sample) == sample.regions[1:41]


def test_origin_place_and_terms_of_every_record(built):
    store, _ = built
    assert nth(store, 0).meta["event"] == "hurricane-harvey"
    assert nth(store, 0).meta["scene"] == "hurricane-harvey_00000012"
    assert nth(store, 6).meta["scene"] == "qfabric_300"
    assert nth(store, 8).meta["scene"] == "fmow/train/airport_hangar_7"
    assert nth(store, 0, "fMoW_Low_Res").meta["scene"] == "fmow/val/airport_hangar_7"
    assert nth(store, 0).meta["licence"].startswith("CC-BY-NC-SA-4.0")
    assert nth(store, 0).meta["record"] == {"file": "train/instruct.json", "number": 0}
    assert nth(store, 0).meta["question_type"] == "change_detection_localization"
    assert nth(store, 0).meta["introduction"].startswith("These are two satellite images from WorldView-2")
    assert nth(store, 0).images[0].sensor == "maxar"


def test_the_geochat_part_has_its_own_tags(built):
    store, _ = built
    refer = nth(store, 10)
    assert refer.task == "change_grounding"
    assert "the ship on the left" in refer.question and "[refer]" not in refer.question
    assert isinstance(refer.regions[0].geometry, RotatedBox) and refer.meta["tags"] == ["refer"]
    talk = nth(store, 11)
    assert talk.task == "vqa" and [turn.text for turn in talk.messages[2:]] == ["How many ships are there?", "3"]


def test_evaluation_files_tell_the_origin_where_the_record_does_not(built):
    store, _ = built
    assert nth(store, 0, "CDVQA").task == "change_vqa" and nth(store, 0, "CDVQA").meta["origin"] == "cdvqa"
    assert nth(store, 0, "CDVQA").meta["original_question"].startswith("This is a pair of satellite images")
    assert "original_question" not in nth(store, 0).meta
    assert nth(store, 0, "LRBEN").task == "vqa" and nth(store, 0, "LRBEN").meta["licence"].startswith("CC-BY-4.0")


def test_what_cannot_be_used_is_named_with_its_record(tmp_path):
    faulty = made.faulty_records()
    root = made.write(tmp_path / "in", [*made.train_records(), *(record for record, _ in faulty)], {})
    build_store("teochatlas", root, tmp_path / "out", progress=False, max_rejected=1.0)
    found = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    first = len(made.train_records())
    assert [(entry["key"], entry["reason"]) for entry in found] == [
        (f"train/instruct.json:{first + number}", reason) for number, (_, reason) in enumerate(faulty)]
    assert "weather_forecast" in found[1]["detail"] and "Landsat" in found[2]["detail"]


def test_two_workers_write_the_same_bytes(tmp_path, digest):
    root = made.write(tmp_path / "in")
    for workers in (1, 2):
        build_store("teochatlas", root, tmp_path / str(workers), workers=workers, progress=False)
    assert digest(tmp_path / "1") == digest(tmp_path / "2")


def test_some_of_the_files(tmp_path):
    root = made.write(tmp_path / "in")
    manifest = build_store("teochatlas", root, tmp_path / "out", options={"files": "CDVQA, eval/LRBEN.json"},
                           progress=False)
    assert manifest["items"] == 2
    with pytest.raises(InputError, match="no file 'nothing'; allowed: instruct, ABCD"):
        make_source("teochatlas", files=("nothing",))
    with pytest.raises(LayoutError, match=r"AID.json is not there"):
        make_source("teochatlas", files=("AID",)).check_layout(root)


def test_some_of_the_origins(tmp_path):
    root = made.write(tmp_path / "in", [*made.train_records(), made.faulty_records()[0][0]], {})
    shutil.rmtree(root / "train/GeoChat_Instruct_images1")
    manifest = build_store("teochatlas", root, tmp_path / "out", options={"origins": "xBD, QFabric"}, progress=False)
    assert manifest["rejected"]["total"] == 0
    assert {name: count for name, count in manifest["tally"].items() if name.startswith("records")} == {
        "records/qfabric": 2, "records/xbd": 4}
    with pytest.raises(InputError, match="no origin 'landsat'; allowed: xbd, s2looking"):
        make_source("teochatlas", origins=("landsat",))


def test_images_that_were_not_unpacked_are_found_out_before_building(tmp_path):
    root = made.write(tmp_path / "in", made.train_records(), {})
    shutil.rmtree(root / "train/TEOChatlas_images")
    make_source("teochatlas").check_layout(root)  # those of GeoChat are there
    with pytest.raises(LayoutError,
                       match=r"none of the images of the first records of instruct.json is there, e.g. xBD/hurricane"):
        make_source("teochatlas", origins="xbd").check_layout(root)


@pytest.mark.parametrize(("record", "message"), [
    ([1, 2], "a record is list"), ({"video": "a.png", "conversations": []}, "expected a list of paths"),
    ({"image": "a.png"}, "conversations is missing"),
])
def test_other_records_than_described_are_found_before_building(tmp_path, record, message):
    root = made.write(tmp_path / "in", [record], {})
    with pytest.raises(LayoutError, match=message):
        make_source("teochatlas").check_layout(root)


def test_a_folder_without_annotations_is_named(tmp_path):
    with pytest.raises(LayoutError, match=r"no train/instruct.json"):
        make_source("teochatlas").check_layout(tmp_path)


def test_images_elsewhere(tmp_path):
    root = made.write(tmp_path / "in", made.train_records()[:1], {})
    (root / "train/TEOChatlas_images").rename(tmp_path / "pictures")
    manifest = build_store("teochatlas", root, tmp_path / "out", options={"images": str(tmp_path / "pictures")},
                           progress=False)
    assert manifest["counts"]["samples"] == 1


def test_the_demonstration_images_of_the_authors_with_their_prompts(shared, tmp_path):
    folder = shared("TEOChat_examples")
    fmow, fabric = [f"fMoW_cls_{n}.png" for n in range(1, 5)], [f"QFabric_rtqa_{n}.png" for n in range(1, 6)]
    records = [  # the prompts are the authors', the answers only stand in their place
        made.record("fMoW", "scene_classification", fmow,
                    f"{made.SEQUENCE}Classify the sequence of images as one of: flooded road, "
                    "lake or pond, aquaculture, dam, mountain trail.", "flooded road"),
        made.record("xBD", "change_detection_classification", ["xBD_cls_1.png", "xBD_cls_2.png"],
                    f"{made.PAIR}Classify the level of "
                    "damage experienced by the building at location [0, 8, 49, 53].", "Destroyed"),
        made.record("S2Looking", "change_detection_detection", ["S2Looking_cd_1.png", "S2Looking_cd_2.png"],
                    f"{made.PAIR}Identify "
                    "all changed buildings using bounding boxes of the form [x_min, y_min, x_max, y_max].",
                    "[0, 8, 49, 53]."),
        made.record("QFabric", "temporal_referring_expression", fabric,
                    f"{made.SEQUENCE}In which image was construction finished?",
                    "Image 5"),
        made.record("xBD", "region_based_question_answering", ["rqa.png"],
                    f"{made.SINGLE}What is this? [21, 3, 47, 19]", "A road"),
    ]
    root = made.write(tmp_path / "in", records, {})
    manifest = build_store("teochatlas", root, tmp_path / "out", options={"images": str(folder)}, progress=False)
    store = Store(tmp_path / "out")
    assert manifest["rejected"]["total"] == 0 and not check_store(store, progress=False).faults
    assert [len(nth(store, number).images) for number in range(5)] == [4, 2, 2, 5, 1]
    image, region = nth(store, 1).images[1], nth(store, 1).regions[0]
    assert region.geometry == Box(0, 0.08 * image.height, 0.49 * image.width, 0.53 * image.height)
    assert target_text(nth(store, 2), convention=TEOCHAT) == "[0, 8, 49, 53]"
    with Image.open(folder / "fMoW_cls_1.png") as picture:
        assert (nth(store, 0).images[0].width, nth(store, 0).images[0].height) == picture.size
