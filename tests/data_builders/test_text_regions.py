"""Geometry inside instruction texts becomes regions, and comes back as the same text where the convention allows it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geotempo.data_builders.render import target_text
from geotempo.data_builders.sample import Message, Sample, region_indices
from geotempo.data_builders.source import MAX_REGIONS, Rejection
from geotempo.data_builders.text_regions import (
    GEOCHAT,
    GRID_1000,
    PIXELS,
    TEOCHAT,
    VRSBENCH,
    as_list,
    extract,
    extract_turns,
)
from geotempo.model import answer
from geotempo.model.convention import TEOCHAT as CONVENTION
from geotempo.model.geometry import Box, RotatedBox
from geotempo.model.records import ImageRecord

WIDE = ImageRecord("w", 200, 100, data=b"w")
percent = st.tuples(st.integers(0, 99), st.integers(0, 99)).flatmap(
    lambda low: st.tuples(st.just(low[0]), st.just(low[1]), st.integers(low[0] + 1, 100), st.integers(low[1] + 1, 100)))


@given(st.lists(percent, min_size=1, max_size=MAX_REGIONS, unique=True), st.integers(30, 3000), st.integers(30, 3000))
def test_boxes_of_teochat_survive_the_way_to_pixels_and_back(boxes, width, height):
    image = ImageRecord("i", width, height, data=b"i")
    written = [f"[{', '.join(map(str, box))}]" for box in boxes]
    found = extract(", ".join(written), [TEOCHAT], image, 1)
    assert found.text == "<regions:" + ",".join(map(str, range(len(boxes)))) + ">"
    frames = [CONVENTION.frame(width, height)]
    assert [answer.format_region(region, frames, "teochat") for region in found.regions] == written


@given(st.text(alphabet="abc [](){}<>,.;|\n123-"), st.sampled_from([True, False]))
def test_whatever_the_text_it_is_read_or_set_aside(text, lists):
    try:
        found = extract(text, [TEOCHAT, GEOCHAT], WIDE, 1, lists=lists)
    except Rejection:
        return
    assert found.regions or found.text == text
    assert region_indices(found.text) == list(range(len(found.regions)))


@given(percent, st.integers(-180, 180).filter(bool), st.integers(30, 3000))
def test_turned_boxes_of_geochat_keep_centre_size_and_angle(box, angle, side):
    image = ImageRecord("i", side, side, data=b"i")
    x1, y1, x2, y2 = (value * side / 100 for value in box)
    text = f"{{<{box[0]}><{box[1]}><{box[2]}><{box[3]}>|<{angle}>}}"
    (region,) = extract(text, [GEOCHAT], image, 1).regions
    assert isinstance(region.geometry, RotatedBox)
    assert (region.geometry.cx, region.geometry.cy) == pytest.approx(((x1 + x2) / 2, (y1 + y2) / 2))
    assert (region.geometry.width, region.geometry.height,
            region.geometry.angle) == pytest.approx((x2 - x1, y2 - y1, angle))


@pytest.mark.parametrize(("text", "expected"), [
    ("[0, 8, 49, 53]", "<regions:5>"),
    ("[0,8,49,53]; [1, 2, 3, 4].", "<regions:5,6>"),
    ("[0, 8, 49, 53] and [1, 2, 3, 4]\n[2, 2, 9, 9]", "<regions:5,6,7>"),
    ("The building at [0, 8, 49, 53], seen here.", "The building at <region:5>, seen here."),
    ("Two: [0, 8, 49, 53], [1, 2, 3, 4].", "Two: <region:5>, <region:6>."),
    ("[0, 8, 49, 53, 1, 2, 3, 4].", "<regions:5,6>"),
    ("Nothing [yet] in [3].", "Nothing [yet] in [3]."),
])
def test_answers_of_nothing_but_boxes_are_lists_and_sentences_keep_theirs_inside(text, expected):
    found = extract(text, [TEOCHAT], WIDE, 2, start=5)
    assert found.text == expected and {region.image for region in found.regions} <= {2}


def test_a_question_of_nothing_but_a_box_is_no_list():
    assert extract("[0, 8, 49, 53]", [TEOCHAT], WIDE, 1, lists=False).text == "<region:0>"


def test_percents_are_of_width_and_height():
    assert extract("[0, 8, 49, 53]", [TEOCHAT], WIDE, 1).regions[0].geometry == Box(0, 8, 98, 53)
    assert extract("[0, 8, 49, 53]", [PIXELS], WIDE, 1).regions[0].geometry == Box(0, 8, 49, 53)
    assert extract("[0, 80, 490, 530]", [GRID_1000], WIDE, 1).regions[0].geometry == Box(0, 8, 98, 53)


def test_phrases_of_geochat_are_the_labels_of_their_boxes():
    found = extract("<p>2 small ships</p> {<1><2><30><40>|<90>}<delim>{<50><50><60><70>|<0>} at the left of <p>a "
                    "dock</p> .",
                    [GEOCHAT], WIDE, 1)
    assert found.text == "2 small ships <region:0> <region:1> at the left of a dock ."
    assert [(region.label, type(region.geometry)) for region in found.regions] == [("2 small ships", RotatedBox),
                                                                                  ("2 small ships", Box)]


def test_labelled_boxes_alone_are_a_labelled_list():
    found = extract("<p>ship</p> {<1><2><30><40>}<delim><p>car</p>{<3><4><5><6>}", [VRSBENCH], WIDE, 1)
    assert found.text == "<regions:0,1>" and [region.label for region in found.regions] == ["ship", "car"]


@pytest.mark.parametrize("text", [
    "[0, 8, 101, 53]", "[-1, 8, 49, 53]", "[49, 8, 49, 53]", "[49, 8, 0, 53]", "[0, 53, 49, 8]", "[nan, 8, 49, 53]",
    "[0, 8, inf, 53]", "{<0><8><101><53>}", "{<5><8><5><53>|<30>}", "[0, 8, 49]", "{<0><8><49><53>|<nan>}",
    "At [0, 8, 49, 53], <region:0>.", "<regions:>",
])
def test_impossible_boxes_are_named(text):
    with pytest.raises(Rejection, match=r"impossible box|reserved placeholder"):
        extract(text, [TEOCHAT, GEOCHAT], WIDE, 1)


def test_the_largest_regions_of_a_long_list_are_named_and_the_rest_is_counted():
    boxes = ", ".join(f"[{n}, 0, {n + 1}, {n + 1}]" for n in range(40))
    found = extract(boxes, [TEOCHAT], WIDE, 1)
    assert found.text == "<regions:" + ",".join(map(str, range(8, 40))) + ">"
    assert (len(found.regions), found.left_out) == (40, 8)


def test_an_answer_lies_on_the_image_that_its_question_names():
    messages = (Message("user", "Look at [1, 2, 3, 4] in image 2."), Message("assistant", "[5, 5, 9, 9]"),
                Message("user", "And here: [1, 2, 3, 4]?"), Message("assistant", "No."))
    turns, regions, left_out = extract_turns(messages, [TEOCHAT], (WIDE, WIDE),
                                             lambda text: 2 if "image 2" in text else 1)
    assert [turn.text for turn in turns] == ["Look at <region:0> in image 2.", "<regions:1>", "And here: <region:2>?",
                                             "No."]
    assert [region.image for region in regions] == [2, 2, 1] and left_out == 0


@pytest.mark.parametrize(("text", "expected"), [
    ("Include a bounding box of the form [x_min, y_min, x_max, y_max] for each.", "Include a bounding box for each."),
    ("Identify all changed buildings using bounding boxes of the form [x_min, y_min, x_max, y_max].",
     "Identify all changed buildings using bounding boxes."),
])
def test_questions_do_not_ask_for_the_notation_of_one_model(text, expected):
    messages = (Message("user", text), Message("assistant", "[1, 2, 3, 4]"))
    assert extract_turns(messages, [TEOCHAT], (WIDE,), lambda text: 1)[0][0].text == expected


@pytest.mark.parametrize(("question", "answer", "expected"), [
    ("What is [1, 2, 3, 4]?", "[1, 2, 3, 4] a ship", "a ship"),
    ("What is {<1><2><3><4>|<5>}?", "{<1><2><3><4>|<5>} a ship", "a ship"),
    ("What is [1, 2, 3, 4]?", "[1, 2, 3, 5] a ship", "<region:1> a ship"),
    ("Where is [1, 2, 3, 4]?", "[1, 2, 3, 4]", "<regions:1>"),
    ("What is [1, 2, 3, 4]?", "[1, 2, 3, 4], [1, 2, 3, 5]", "<regions:1,2>"),
])
def test_the_box_of_the_question_is_not_said_again(question, answer, expected):
    messages = (Message("user", question), Message("assistant", answer))
    assert extract_turns(messages, [TEOCHAT, GEOCHAT], (WIDE,), lambda text: 1)[0][1].text == expected


def test_a_turn_of_nothing_but_notation_is_named():
    with pytest.raises(Rejection, match="empty text"):
        extract_turns((Message("user", "<p></p>"), Message("assistant", "yes")), [GEOCHAT], (WIDE,), lambda text: 1)


def test_a_sentence_of_no_match_becomes_the_empty_list():
    assert as_list("There are none.") == "There are none.\n<regions:>"
    assert as_list("At <region:0>.") == "At <region:0>." and as_list("<regions:0>") == "<regions:0>"


def test_a_sentence_with_regions_inside_is_rendered_in_both_conventions():
    found = extract("The ship at [0, 8, 49, 53] left.", [TEOCHAT], WIDE, 1)
    sample = Sample("a/train/b#c", "a", "train", "vqa", (WIDE,),
                    (Message("user", "<image>\nWhat?"), Message("assistant", found.text)),
                    found.regions)
    assert target_text(sample) == 'The ship at {"image":1,"bbox_2d":[0,40,490,265]} left.'
    assert target_text(sample, convention=CONVENTION) == "The ship at [0, 8, 49, 53] left."
