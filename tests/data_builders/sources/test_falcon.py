"""Falcon_SFT from its documentation: 14 tasks, three geometries, crops, pairs on a canvas."""

import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shapely import Polygon as Shape
from shapely import make_valid

from geotempo.data_builders.build import build_store
from geotempo.data_builders.check import check_store
from geotempo.data_builders.falcon_texts import FALCON, on_canvas
from geotempo.data_builders.source import Rejection
from geotempo.data_builders.sources import make_source
from geotempo.data_builders.sources.falcon import TASKS, task_name
from geotempo.data_builders.store import Store
from geotempo.data_builders.text_regions import extract
from geotempo.model.errors import LayoutError
from geotempo.model.geometry import Box, Mask, Polygon, area
from geotempo.model.records import ImageRecord
from tests.data_builders.fixtures import falcon as made
from tests.data_builders.fixtures.instruct import write

TRAIN = "FCD/json_train_taskall/train_task14_all"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("falcon")
    manifest = build_store("falcon", made.falcon(folder / "in"), folder / "out", progress=False)
    return Store(folder / "out"), manifest


def change_of(root, answer, **options):
    """The sample of a pair with an answer."""
    pairs = made.paths("Task14_PIX_CHG")
    source = make_source("falcon", **options)
    return next(iter(source.record_samples(made.falcon(root), "a.json:0", made.record(pairs, "Find changes.", answer))))


def nth(store, number):
    return store.by_id(next(name for name in store.ids if f"{TRAIN}:{number}#" in name))


def test_the_store_is_sound_and_holds_all_tasks(built):
    store, manifest = built
    assert manifest["rejected"]["total"] == 0 and not check_store(store, progress=False).faults
    assert {name for name in manifest["tally"] if name.startswith("records/")} == {f"records/{name}" for name in TASKS}
    assert manifest["counts"]["by_split"] == {"train": 15, "test": 1}


@pytest.mark.parametrize(("number", "name"), list(enumerate(made.ASKED)))
def test_every_task(built, number, name):
    question, _, task, target = made.ASKED[name]
    sample = nth(built[0], number)
    for form in (made.BOX, made.SQUARE, made.TRIANGLE):
        question = question.replace(form, "<region:0>")
    assert (sample.task, sample.question, sample.target) == (task, question, target)
    assert sample.meta["task"] == name.partition("_")[2]


def test_geometry_is_in_pixels_of_its_image(built):
    store, _ = built
    names = list(made.ASKED)
    assert nth(store, names.index("Task06_REG_CLS_HBB")).regions[0].geometry == Box(20, 20, 60, 40)
    assert nth(store, names.index("Task09_REG_DET_OBB")).regions[0].geometry == Polygon(((20, 20), (60, 20), (60, 40), (20, 40)))
    change = nth(store, names.index("Task14_PIX_CHG"))
    assert len(change.images) == 2 and change.regions[0].image == 2
    assert change.regions[0].geometry == Polygon(((0, 0), (100, 0), (0, 100)))  # the lower right quarter of a canvas is the later image


def test_the_upper_left_quarter_of_a_canvas_is_the_earlier_image(tmp_path):
    region = change_of(tmp_path, "<poly><0><0><250><0><0><500></poly>").regions[0]
    assert (region.image, region.geometry) == (1, Polygon(((0, 0), (100, 0), (0, 100))))


def test_changes_may_count_on_the_later_image(tmp_path):
    region = change_of(tmp_path, made.CORNER, changes="image").regions[0]
    assert (region.image, region.geometry) == (2, Polygon(((100, 50), (150, 50), (100, 100))))


@pytest.mark.parametrize("answer", ["<poly><600><600><700><600><400><700></poly>", "<poly><0><0><250><0><0><500></poly>" + made.CORNER,
                                    "<poly><600><600><700><600><600><700>", "<quad><1><1><2><1><2><2><sep><1><2></quad>"])
def test_geometry_on_no_single_image_and_tags_that_are_left_are_set_aside(tmp_path, answer):
    with pytest.raises(Rejection, match="impossible polygon"):
        change_of(tmp_path, answer)


def test_rings_with_a_separator_are_the_parts_of_one_object():
    found = read("<poly><0><0><100><0><100><100><0><100><sep><500><500><600><500><600><600><500><600></poly>")
    assert isinstance(found, Mask) and area(found) == 2 * 20 * 10


@pytest.mark.parametrize(("answer", "right"), [(made.CORNER, "canvas"), (made.TRIANGLE, "image")])
def test_answers_that_contradict_the_reading_of_changes_are_refused(tmp_path, answer, right):
    pairs = made.paths("Task14_PIX_CHG")
    root = made.falcon(tmp_path, [made.record(pairs, "Find changes.", answer)] * 8)
    make_source("falcon", changes=right).check_layout(root)
    with pytest.raises(LayoutError, match=f"give changes={right}"):
        make_source("falcon", changes="image" if right == "canvas" else "canvas").check_layout(root)


def test_few_answers_say_nothing_about_the_canvas():
    assert on_canvas([made.CORNER] * 7 + ["no change"]) is None and on_canvas([made.CORNER] * 8) is True
    assert on_canvas([made.CORNER] * 8 + [made.BOX]) is True  # each in one quarter
    assert on_canvas([made.CORNER] * 8 + [made.BOX + made.CORNER]) is False


def test_a_crop_is_cut_out(built):
    whole, part = nth(built[0], 1).images[0], nth(built[0], 14).images[0]
    assert (part.width, part.height) == (100, 50)
    assert part.rgb().tobytes() == whole.rgb().crop((20, 10, 120, 60)).tobytes()


def test_the_version_with_several_instructions_is_read_where_asked_for(tmp_path):
    root = made.falcon(tmp_path)
    assert [path.name for path in make_source("falcon", instructions="multi").files(root)] == [
        "train_task14_all_multi-instructions-version.json", "Annotation_test.json"]


def test_what_cannot_be_used_is_named_with_its_record(tmp_path):
    faults = made.faults()
    root = made.falcon(tmp_path / "in", [record for record, _ in faults])
    build_store("falcon", root, tmp_path / "out", progress=False, max_rejected=1.0)
    found = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [entry["reason"] for entry in found] == [reason for _, reason in faults]
    assert found[0]["key"] == f"{TRAIN}.json:15"


def test_the_layout_is_checked(tmp_path):
    with pytest.raises(LayoutError, match=r"has no train_task14_all.json"):
        make_source("falcon").check_layout(tmp_path)
    write(tmp_path / "json_train_taskall/train_task14_all.json", [{"images": ["a.png"], "conversations": [{"value": "Q"}]}])
    with pytest.raises(LayoutError, match="record 0: conversations is missing, or its turns have no key 'content'"):
        make_source("falcon").check_layout(tmp_path)


def test_the_task_stands_in_the_path():
    assert [task_name(path) for path in ("FCD/Task03_IMG_CAP_DETAILED/train/a.png", "x\\Task14_PIX_CHG\\a.png", "Task99_OTHER/a.png", "a.png")] == [
        "IMG_CAP_DETAILED", "PIX_CHG", "", ""]


SIDES = ((0, 0), (500, 0), (500, 500), (0, 500))
HOLE = ((0, 0), (100, 100), (100, 200), (200, 200), (200, 100), (100, 100))


def poly(corners):
    return "<poly>" + "".join(f"<{x}><{y}>" for x, y in corners) + "</poly>"


def read(text, size=(200, 100)):
    return extract(f"Here {text}.", (FALCON,), ImageRecord("i", *size, data=b"-"), 1).regions[0].geometry


def test_a_ring_that_runs_on_into_a_second_one_has_a_hole():
    found = read(poly((*SIDES, *HOLE)))
    assert isinstance(found, Polygon) and len(found.holes) == 1
    assert area(found) == pytest.approx(200 * 100 * (0.25 - 0.01))


def test_a_ring_that_crosses_itself_is_the_mask_of_what_it_encloses():
    found = read(poly(((0, 0), (500, 500), (500, 0), (0, 500))))
    assert isinstance(found, Mask) and area(found) == pytest.approx(200 * 100 * 0.125, rel=0.05)


points = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=3, max_size=7, unique=True)


@settings(max_examples=40, deadline=None)
@given(points)
def test_a_polygon_is_read_at_the_resolution_of_the_image(corners):
    shape = make_valid(Shape([(x, y / 2) for x, y in corners]))
    assume(shape.area > 4000)
    found = read(poly(corners), (1000, 500))
    if Shape(corners).is_valid:
        assert found == Polygon(tuple((float(x), y / 2) for x, y in corners))
    assert area(found) == pytest.approx(shape.area, rel=0.1)
