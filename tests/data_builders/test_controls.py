"""Controls: equal images and time turned round, with the answers that are then right."""

import json

import numpy as np
import pytest

from geotempo.data_builders.controls import CONTROLS, with_controls
from geotempo.data_builders.label_states import damage_tasks
from geotempo.data_builders.label_tasks import change_tasks, expression_tasks, joint_task
from geotempo.data_builders.levir import UNCHANGED
from geotempo.data_builders.semantic import SECOND, from_to_regions, from_to_tasks, transition
from geotempo.data_builders.source import Draft
from geotempo.data_builders.wordings import ask, wordings
from geotempo.model.dates import AcquisitionDate
from geotempo.model.errors import InputError
from geotempo.model.geometry import Box
from geotempo.model.records import ImageRecord, Region, time_order

FIRST = ImageRecord("one", 20, 20, data=b"1", date=AcquisitionDate("2018-01-01"), sensor="A")
SECOND_IMAGE = ImageRecord("two", 20, 20, data=b"2", date=AcquisitionDate("2020-01-01"), sensor="B")
DRAFT = Draft("demo", "train", "a", (FIRST, SECOND_IMAGE), "unknown")
NEW = [Region(2, Box(0, 0, 5, 5), "new building"), Region(2, Box(8, 8, 10, 10), "new building")]


def controls(samples, name):
    made = {}
    for sample in with_controls(samples, [name]):
        if sample.meta.get("control") == name:
            assert sample.id.endswith(f"@{name}")
            made[sample.id.partition("#")[2].removesuffix(f"@{name}")] = sample
    return made


def transitions():
    before, after = np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8)
    before[:10], after[:10] = 4, 5
    before[15:18, :8], after[15:18, :8] = 2, 3
    return list(from_to_tasks(DRAFT, from_to_regions(before, after, SECOND.classes), SECOND.classes))


def test_samples_come_through_unchanged_and_controls_follow_them():
    samples = list(change_tasks(DRAFT, NEW, "building"))
    found = list(with_controls(iter(samples), CONTROLS))
    assert [sample for sample in found if "control" not in sample.meta] == samples
    assert [sample.id.partition("@")[2] for sample in found[:3]] == ["", "identical", "swapped"]
    assert list(with_controls(found[1:3], CONTROLS)) == found[1:3], "a control has no controls"
    assert len({sample.id for sample in found}) == len(found)


def test_equal_images_have_not_changed():
    made = controls([*change_tasks(DRAFT, NEW, "building"), *change_tasks(DRAFT, NEW, "building", done="built")], "identical")
    assert len(made) == 10
    for sample in made.values():
        assert sample.target == {"change_vqa": "no", "counting": "0"}.get(sample.task, "<regions:>") and not sample.regions
        assert [image.data for image in sample.images] == [b"1", b"1"]
        assert [str(image.date) for image in sample.images] == ["2018-01-01", "2020-01-01"]
        assert "flags" not in sample.meta and sample.meta.get("left_out", 0) == 0


def test_equal_images_in_words():
    joint = joint_task(DRAFT, "a house appears", ["a house appears"], "buildings", NEW)
    caption = DRAFT.sample("change_caption", "change_caption", ask("change_caption", "x"), "a house appears", references=["a house appears"])
    made = controls([joint, caption], "identical")
    assert made["change_segmentation:joint"].target == f"{UNCHANGED[0]}\n<regions:>"
    assert made["change_caption"].target == UNCHANGED[0] and made["change_caption"].meta["references"] == list(UNCHANGED)
    assert not controls([joint, caption], "swapped"), "what a caption says of the other direction is not known"


def test_equal_images_show_no_damage():
    buildings = {"a": Region(2, Box(0, 0, 5, 5), "destroyed"), "b": Region(2, Box(8, 8, 10, 10), "no-damage")}
    samples = list(damage_tasks(DRAFT, buildings))
    made = controls(samples, "identical")
    assert made["damage:a"].target == "no-damage" and made["damage:a"].regions == next(s for s in samples if s.id.endswith("damage:a")).regions
    assert made["change_vqa:damage"].target == "no" and made["change_grounding:damaged"].target == "<regions:>"
    assert made["referring_segmentation:destroyed"].target == "<regions:>"
    assert made["counting:destroyed"].target == "0" and "counting:no-damage" not in made
    assert made["temporal_referring:intact:a"].target == "Image 1, Image 2" and "damage" not in made
    assert not controls(samples, "swapped"), "nobody repairs what a disaster destroyed"


def test_two_levels_of_damage_are_told_apart():
    for sample in damage_tasks(DRAFT, {"a": Region(2, Box(0, 0, 5, 5), "damaged")}, ("intact", "damaged")):
        if sample.id.endswith("#damage:a"):
            assert controls([sample], "identical")["damage:a"].target == "intact"


def test_time_turned_round_keeps_dates_in_order():
    made = controls(change_tasks(DRAFT, NEW, "building"), "swapped")["change_grounding:buildings"]
    assert [(image.data, image.sensor, str(image.date)) for image in made.images] == [(b"2", "B", "2018-01-01"), (b"1", "A", "2020-01-01")]
    assert time_order(made.images).order == (0, 1)
    assert {region.image for region in made.target_regions} == {1} and made.target == "<regions:0,1>"


def test_what_was_built_is_demolished_in_the_other_direction():
    samples = {sample.id.partition("#")[2]: sample for sample in change_tasks(DRAFT, NEW, "building", done="built")}
    made = controls(samples.values(), "swapped")
    assert made.keys() == samples.keys()
    for tag, sample in made.items():
        assert sample.question == samples[tag].question.replace("built", "demolished") and sample.target == samples[tag].target
        assert all(region.label == "demolished building" for region in sample.regions)
    flooded = controls(change_tasks(DRAFT, [], "field", done="flooded"), "swapped")
    assert not flooded, "there is no word for the opposite"


def test_transitions_turn_round():
    samples = {sample.id.partition("#")[2]: sample for sample in transitions()}
    made = controls(samples.values(), "swapped")
    for tag in ("semantic_change", "referring_segmentation:tree_to_building"):
        assert [transition(region) for region in made[tag].regions] == [transition(region)[::-1] for region in samples[tag].regions]
    assert "from building to tree" in made["referring_segmentation:tree_to_building"].question
    became, was = made["region_vqa:became:tree_to_building"], samples["region_vqa:was:tree_to_building"]
    assert became.target == "building" and ("before" in became.question) and "before" in was.question
    assert made["change_vqa:most_gained"].target == samples["change_vqa:most_gained"].target == "building"
    assert "lost" in made["change_vqa:most_gained"].question or "before" in made["change_vqa:most_gained"].question
    assert "change_vqa:became:tree" not in made and "change_vqa:ratio:building" not in made


def test_equal_images_have_no_transitions():
    made = controls(transitions(), "identical")
    assert made["semantic_change"].target == "<regions:>" and made["change_vqa:ratio"].target == "0"
    assert made["referring_segmentation:tree_to_building"].target == "<regions:>"
    assert not any(tag.startswith("region_vqa") for tag in made)


def test_uncertain_answers_and_other_questions_have_no_control():
    single = Draft("demo", "train", "b", (FIRST,), "unknown")
    three = Draft("demo", "train", "c", (FIRST, SECOND_IMAGE, FIRST), "unknown")
    samples = [*expression_tasks(DRAFT, "1", "all buildings in image 2", NEW), *expression_tasks(single, "1", "the ship", []),
               DRAFT.sample("change_vqa:own", "change_vqa", "Are there unchanged buildings?", "yes"),
               three.sample("change_vqa", "change_vqa", ask("change_vqa.any", "x"), "yes")]
    assert list(with_controls(samples, CONTROLS)) == samples


def test_real_questions_of_cdvqa_about_equal_images(shared):
    questions = json.loads((shared("CDVQA") / "Val_questions.json").read_text())["questions"][:3000]
    asked = [DRAFT.sample(f"change_vqa:{entry['id']}", "change_vqa", entry["question"], "yes", question_type=entry["type"]) for entry in questions]
    made = controls(asked, "identical")
    kinds = {tag: sample.meta["question_type"] for tag, sample in made.items()}
    assert {made[tag].target for tag, kind in kinds.items() if kind.endswith("_or_not")} == {"no"}
    assert {made[tag].target for tag, kind in kinds.items() if "ratio" in kind} == {"0"}
    assert set(kinds.values()) == {"change_or_not", "increase_or_not", "decrease_or_not", "change_ratio", "change_ratio_types"}
    assert not any("non-change" in sample.question or "unchanged" in sample.question for sample in made.values())
    assert len(made) > 2000 and not controls(asked, "swapped")


def test_turned_wordings_have_as_many_forms():
    for name, other in (("region_vqa.became", "region_vqa.was"), ("change_vqa.most_gained", "change_vqa.most_lost")):
        assert len(wordings()[name]) == len(wordings()[other])


def test_an_unknown_control_is_refused():
    with pytest.raises(InputError, match="unknown control 'blank'; allowed: identical, swapped"):
        list(with_controls([], ["blank"]))
