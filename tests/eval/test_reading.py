from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geotempo.data_builders.render import target_text
from geotempo.data_builders.sample import Message
from geotempo.eval.reading import Kind, kind_of, read, references, true_regions, true_value
from geotempo.model.geometry import Box
from geotempo.model.records import Region, Status


def of(samples, task, index=1):
    return [sample for sample in samples if sample.task == task][index]


def test_kind_comes_from_the_true_answer(samples):
    kinds = {task: kind_of(of(samples, task)) for task in ("change_caption", "change_vqa", "counting",
                                                           "temporal_referring", "change_segmentation", "damage")}
    assert kinds == {"change_caption": Kind.TEXT, "change_vqa": Kind.YES_NO, "counting": Kind.NUMBER,
                     "temporal_referring": Kind.IMAGES, "change_segmentation": Kind.REGIONS, "damage": Kind.TEXT}


@pytest.mark.parametrize(("task", "text", "value"), [
    ("change_vqa", "Yes.", True), ("counting", "There are 3 of them.", 3), ("change_caption", " A road. ", "A road."),
    ("temporal_referring", "Images 1 and 2", frozenset({1, 2})), ("temporal_referring", "No image", frozenset()),
    ("change_grounding", "[]", ()),
])
def test_values(samples, task, text, value):
    assert read(of(samples, task), text).value == value


@pytest.mark.parametrize(("task", "text"), [
    ("change_vqa", "perhaps"), ("counting", "many"), ("temporal_referring", "Image 9"), ("change_grounding", "a road"),
    ("change_caption", ""), ("change_grounding", '[{"image":2}]'),
])
def test_what_cannot_be_read_is_invalid(samples, task, text):
    reading = read(of(samples, task), text)
    assert (reading.value, reading.status) == (None, Status.INVALID)


def test_a_cut_answer_keeps_its_whole_regions(samples):
    text = '[{"image":2,"bbox_2d":[0,0,100,100],"label":"a"},{"image":2,"bbox_2d":[5'
    reading = read(of(samples, "change_grounding"), text, "length")
    assert reading.status is Status.TRUNCATED
    assert isinstance(reading.value, tuple) and len(reading.value) == 1
    assert read(of(samples, "change_grounding"), '[{"image":2,"bb', "length").value is None


@given(st.text(), st.sampled_from(["stop", "length"]), st.integers(0, 8))
def test_no_text_raises(samples, text, reason, index):
    reading = read(samples[index], text, reason)
    assert reading.value is not None or reading.status is not Status.OK


def test_every_true_answer_is_readable(samples):
    assert all(true_value(sample) is not None for sample in samples)


def test_references_start_with_the_first_right_answer(samples):
    caption = of(samples, "change_caption")
    assert references(caption)[0] == caption.target and len(references(caption)) == 3
    assert references(of(samples, "change_segmentation")) == ["some houses appear near the lake"]


def test_regions_left_out_by_the_limit_still_count(samples):
    whole = of(samples, "change_grounding", 3)
    capped = replace(whole, messages=(whole.messages[0], Message("assistant", "<regions:0>")), meta={"left_out": 2})
    assert true_regions(capped) == whole.regions
    assert true_regions(replace(capped, meta={})) == whole.regions[:1]


@pytest.mark.parametrize("target", ["A new road <region:0> crosses it.", "It lies at <region:1>."])
def test_sentences_with_places_in_them_are_compared_by_their_words(samples, target):
    sample = of(samples, "change_caption")
    box = Region(2, Box(0, 0, 50, 50))
    sample = replace(sample, messages=(sample.messages[0], Message("assistant", target)), regions=(replace(box, label="new road"), box))
    reading = read(sample, target_text(sample))
    if "road" in target:
        assert (reading.status, reading.value) == (Status.OK, "A new road crosses it.") == (Status.OK, true_value(sample))
    else:
        assert (reading.status, true_value(sample)) == (Status.REPAIRED, "It lies at.")
