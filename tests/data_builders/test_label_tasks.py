"""Labels become samples: objects, expressions, changes, damage, states."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geotempo.data_builders.instances import instances
from geotempo.data_builders.label_states import LEVELS, damage_tasks, image_list, state_tasks
from geotempo.data_builders.label_tasks import (
    absent,
    change_tasks,
    class_tasks,
    expression_tasks,
    joint_task,
    object_tasks,
    slug,
)
from geotempo.data_builders.source import Draft
from geotempo.data_builders.wordings import ask, recognise, wordings
from geotempo.model.errors import ConfigError
from geotempo.model.geometry import Box, Mask, Polygon
from geotempo.model.records import ImageRecord, Region

CLASSES = ("ship", "harbor", "factory", "water", "bridge")


def draft(images=1):
    return Draft("demo", "train", "a", tuple(ImageRecord(str(n), 40, 40, data=b"x") for n in range(images)), "unknown")


def square(x, y, side, label, image=1):
    array = np.zeros((40, 40), dtype=bool)
    array[y : y + side, x : x + side] = True
    return Region(image, Mask.from_array(array), label)


def boxed(x, y, side, label):
    return Region(1, Box(x, y, x + side, y + side), label)


def tagged(samples):
    found = {sample.id.partition("#")[2]: sample for sample in samples}
    return found


SHIPS = [square(0, 0, 5, "ship"), square(10, 0, 9, "ship"), square(30, 0, 3, "ship")]


def test_objects_become_masks_numbers_presence_and_places():
    found = tagged(object_tasks(draft(), [*SHIPS, square(0, 20, 15, "water")], CLASSES))
    assert [int(region.geometry.to_array().sum()) for region in found["referring_segmentation:ship"].target_regions] == [81, 25, 9]
    assert "all ships" in found["referring_segmentation:ship"].question
    assert (found["counting:ship"].target, found["vqa:ship"].target) == ("3", "yes")
    assert "counting:water" not in found and "water" in found["vqa:water"].question, "water is not counted"
    places = [sample for tag, sample in found.items() if tag.startswith("region_vqa")]
    assert sorted(sample.target for sample in places) == ["ship", "ship", "water"], "two at most of each class"
    assert all(sample.regions[0].label == "" for sample in places)


def test_as_many_classes_are_denied_as_affirmed():
    found = tagged(object_tasks(draft(), [*SHIPS, square(0, 20, 15, "water")], CLASSES))
    answers = [sample.target for tag, sample in found.items() if tag.startswith("vqa:")]
    assert sorted(answers) == ["no", "no", "yes", "yes"]
    denied = next(tag.partition(":")[2] for tag, sample in found.items() if sample.target == "no")
    assert found[f"referring_segmentation:{denied}"].target == "<regions:>" and found[f"counting:{denied}"].target == "0"


def test_an_empty_image_denies_one_class():
    found = tagged(object_tasks(draft(), [], CLASSES))
    assert [sample.target for tag, sample in found.items() if tag.startswith("vqa:")] == ["no"]


def test_boxes_are_grounded_and_never_segmented():
    found = tagged(object_tasks(draft(), [boxed(0, 0, 4, "ship")], CLASSES))
    assert {sample.task for sample in found.values()} == {"change_grounding", "counting", "vqa", "region_vqa"}
    empty = tagged(object_tasks(draft(), [], CLASSES, masks=False))
    assert "referring_segmentation" not in {sample.task for sample in empty.values()}


def test_things_that_are_several_words_keep_ids_apart():
    tags = [sample.id for sample in class_tasks(draft(), "tennis court", [])]
    assert tags[0] == "demo/train/a#referring_segmentation:tennis_court" and len(set(tags)) == 3
    assert slug("a#b@c/d e") == "a_b_c_d_e"


@given(present=st.sets(st.sampled_from(CLASSES)), seed=st.text(max_size=5))
def test_denied_classes_are_not_there(present, seed):
    denied = absent(present, CLASSES, seed)
    assert not set(denied) & present and len(denied) == min(len(CLASSES) - len(present), max(1, len(present)))
    assert denied == absent(present, CLASSES, seed)


def test_an_expression_is_asked_in_every_way_it_supports():
    found = tagged(expression_tasks(draft(), "3", "the ship at the pier", [SHIPS[0]], kind="relation"))
    assert list(found) == ["change_grounding:3", "referring_segmentation:3", "region_caption:3"]
    assert found["region_caption:3"].target == "the ship at the pier" and found["region_caption:3"].regions[0].label == ""
    assert all(sample.meta["kind"] == "relation" for sample in found.values())
    assert list(tagged(expression_tasks(draft(), "3", "the ships", SHIPS))) == ["change_grounding:3", "referring_segmentation:3"]
    assert list(tagged(expression_tasks(draft(), "3", "it", [boxed(0, 0, 4, "ship")]))) == ["change_grounding:3", "region_caption:3"]
    nothing = list(expression_tasks(draft(), "3", "the submarine", []))
    assert [sample.target for sample in nothing] == ["<regions:>"]


def test_a_polygon_counts_as_an_outline():
    ring = Region(1, Polygon(((0.0, 0.0), (4.0, 0.0), (4.0, 4.0))), "ship")
    assert "referring_segmentation:1" in tagged(expression_tasks(draft(), "1", "it", [ring]))


def test_changes_and_the_answers_where_nothing_changed():
    regions = [square(0, 0, 5, "building", 2), square(10, 10, 4, "building", 2)]
    found = tagged(change_tasks(draft(2), regions, "building"))
    assert list(found) == ["change_vqa:buildings", "change_grounding:buildings", "referring_segmentation:buildings",
                           "change_segmentation:buildings", "counting:buildings"]
    assert [sample.target for sample in found.values()] == ["yes", *["<regions:0,1>"] * 3, "2"]
    none = [sample.target for sample in change_tasks(draft(2), [], "building")]
    assert none == ["no", *["<regions:>"] * 3, "0"]
    assert "the buildings that changed" in found["referring_segmentation:buildings"].question


def test_changes_of_a_kind_name_it():
    found = tagged(change_tasks(draft(2), [square(0, 0, 5, "new building", 2)], "building", done="built"))
    assert all("built" in sample.question and tag.endswith(":buildings_built") for tag, sample in found.items())
    areas = tagged(change_tasks(draft(2), [square(0, 0, 5, "changed area", 2)], "area", count=False, presence=False))
    assert {sample.task for sample in areas.values()} == {"change_grounding", "referring_segmentation", "change_segmentation"}


def test_a_joint_answer_is_a_sentence_and_the_list():
    sample = joint_task(draft(2), "a house appears", ["a house appears", "new house"], "buildings", SHIPS)
    assert sample.target == "a house appears\n<regions:0,1,2>" and sample.meta["references"][1] == "new house"


def test_more_than_the_answer_can_list_is_counted():
    mask = np.zeros((40, 40), dtype=bool)
    mask[::2, ::2] = True
    mask[1:-1:2] = False
    dots = instances(mask & (np.indices((40, 40)).sum(axis=0) % 4 == 0), 2, "building")
    found = tagged(change_tasks(draft(2), dots, "building"))
    assert len(dots) > 32 and found["counting:buildings"].target == str(len(dots))
    grounding = found["change_grounding:buildings"]
    assert len(grounding.target_regions) == 32 and grounding.meta["left_out"] == len(dots) - 32


def damaged(grades):
    return {f"b{n}": Region(2, Box(n, 0, n + 1, 5), grade, None, grade != "un-classified",
                            None if grade != "un-classified" else "nobody knows") for n, grade in enumerate(grades)}


def test_damage_of_all_and_of_single_buildings():
    buildings = damaged(["no-damage", "destroyed", "un-classified", "no-damage", "no-damage", "destroyed", "destroyed"])
    found = tagged(damage_tasks(draft(2), buildings))
    assert found["damage"].target == "<regions:0,1,3,4,5,6>" and found["damage"].meta["buildings"]["un-classified"] == 1
    assert {tag: sample.target for tag, sample in found.items() if sample.task == "counting"} == {
        "counting:no-damage": "3", "counting:minor-damage": "0", "counting:major-damage": "0", "counting:destroyed": "3"}
    assert found["change_vqa:damage"].target == "yes" and len(found["change_grounding:damaged"].regions) == 3
    single = [sample for tag, sample in found.items() if tag.startswith("damage:")]
    assert sorted(sample.target for sample in single) == ["destroyed", "destroyed", "no-damage", "no-damage"]
    assert all(level in sample.question for sample in single for level in LEVELS)


def test_levels_are_masks_and_one_that_is_not_there_is_denied():
    found = tagged(damage_tasks(draft(2), damaged(["no-damage", "destroyed", "minor-damage", "destroyed"])))
    named = {tag.partition(":")[2]: sample for tag, sample in found.items() if sample.task == "referring_segmentation"}
    assert {level: len(sample.target_regions) for level, sample in named.items()} == {"destroyed": 2, "minor-damage": 1, "major-damage": 0}
    assert all(level in sample.question for level, sample in named.items())


def test_a_scale_of_its_own_is_named_in_the_questions():
    found = tagged(damage_tasks(draft(2), damaged(["intact", "intact"]), ("intact", "damaged", "destroyed")))
    assert "intact, damaged" in found["damage"].question and "minor" not in found["damage"].question
    assert found["change_vqa:damage"].target == "no" and found["change_grounding:damaged"].target == "<regions:>"
    assert found["temporal_referring:intact:b0"].target == "Image 1, Image 2"


def test_nothing_is_asked_about_buildings_that_nobody_graded():
    found = tagged(damage_tasks(draft(2), damaged(["un-classified"])))
    assert "change_vqa:damage" not in found and found["damage"].target == "<regions:>"


STATES = ("greenland", "construction started", "construction done")


def states(*values):
    return tagged(state_tasks(draft(len(values)), "7", square(0, 0, 5, "site"), list(values), STATES, "site"))


def test_which_images_since_and_until():
    found = states("greenland", "construction started", "construction done", "construction done")
    assert found["temporal_referring:since:7"].target == "Image 3"
    assert found["temporal_referring:until:7"].target == "Image 1"
    assert found["temporal_referring:construction_done:7"].target == "Image 3, Image 4"
    assert found["region_vqa:state:7"].target in STATES


def test_a_state_that_never_held_is_shown_by_no_image():
    found = states("greenland", "greenland", "construction done")
    assert found["temporal_referring:construction_started:7"].target == image_list([]) == "none"


def test_a_state_that_does_not_change_has_no_since():
    assert not [tag for tag in states("greenland", "greenland") if "since" in tag or "until" in tag]


def test_an_unknown_date_leaves_the_whole_sequence_out():
    found = states("greenland", None, "construction done")
    assert list(found) == ["region_vqa:state:7"] and "Image 2" not in found["region_vqa:state:7"].question
    assert not states(None, None)


@given(values=st.lists(st.sampled_from(STATES), min_size=2, max_size=8))
def test_since_and_until_hold_by_their_definition(values):
    found = states(*values)
    if values[0] != values[-1]:
        since = int(found["temporal_referring:since:7"].target.split()[1])
        until = int(found["temporal_referring:until:7"].target.split()[1])
        assert set(values[since - 1 :]) == {values[-1]} and values[since - 2] != values[-1]
        assert set(values[:until]) == {values[0]} and values[until] != values[0]


FIELDS = {"thing": "tennis court", "things": "tennis courts", "phrase": "all ships", "done": "built", "before": "tree",
          "after": "low vegetation", "classes": "a, b", "bins": "0, 0_to_10", "level": "destroyed", "levels": "a, b, c",
          "either": "a, b or c", "state": "greenland", "states": "x, y", "number": "3", "kinds": "fire, wind"}


@pytest.mark.parametrize("name", sorted(wordings()))
def test_every_wording_is_recognised(name):
    for seed in range(20):
        try:
            question = ask(name, "id", seed, **FIELDS)
        except ConfigError as error:  # a wording of another source with fields of its own
            pytest.skip(str(error))
        asked = recognise(question, [name])
        assert asked is not None and asked.name == name and asked.text == question
        assert all(FIELDS[key] == value for key, value in asked.fields.items())


def test_the_most_specific_wording_is_recognised():
    assert recognise("Segment all changed buildings.", ["referring_segmentation", "change_segmentation"]).name == "change_segmentation"
    assert recognise("Who was here?", ["change_vqa.any"]) is None
