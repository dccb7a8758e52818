"""Geometry in the texts of instruction sets, and their conversations."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geotempo.data_builders.conversations import Turn, converse, image_named, read_turns
from geotempo.data_builders.render import chat, target_text
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Rejection
from geotempo.data_builders.text_regions import GEOCHAT, GRID_1000, PIXELS, TEOCHAT, VRSBENCH, extract
from geotempo.model.convention import TEOCHAT as TEOCHAT_CONVENTION
from geotempo.model.geometry import Box, RotatedBox
from geotempo.model.prompts import fill_regions, frames_of
from geotempo.model.records import ImageRecord, Region
from tests.data_builders.fixtures.instruct import png


def image(width=200, height=100, name="a"):
    return ImageRecord(name, width, height, data=png(1, (width, height)))


PLAIN = ImageRecord("a", 200, 100, data=b"")
BOXES = st.tuples(st.integers(0, 98), st.integers(0, 98), st.integers(1, 100), st.integers(1, 100)).map(
    lambda b: (b[0], b[1], min(100, b[0] + b[2]), min(100, b[1] + b[3])))
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="[]<>{}"), max_size=12)


def test_boxes_in_a_sentence_become_placeholders_with_pixels():
    found = extract("Is the building at [0, 8, 49, 53] new?", [TEOCHAT], PLAIN, 2, start=3)
    assert found.text == "Is the building at <region:3> new?"
    assert found.regions == (Region(2, Box(0, 8, 98, 53)),)


@pytest.mark.parametrize("between", [", ", "; ", "\n", " and ", "<delim>", ",\n", ""])
def test_an_answer_of_nothing_but_boxes_is_a_list(between):
    found = extract(f"[1, 2, 3, 4]{between}[10, 20, 30, 40].", [TEOCHAT], PLAIN, 1, start=1)
    assert found.text == "<regions:1,2>" and len(found.regions) == 2
    assert extract(f"[1, 2, 3, 4]{between}[10, 20, 30, 40].", [TEOCHAT], PLAIN, 1, lists=False).text.startswith("<region:0>")


def test_a_list_names_the_largest_regions_and_counts_the_others():
    text = ", ".join(f"[{n}, 0, {n + 1}, {n + 1}]" for n in range(40))
    found = extract(text, [TEOCHAT], PLAIN, 1)
    assert len(found.regions) == 40 and found.left_out == 8
    assert found.text == "<regions:" + ",".join(map(str, range(8, 40))) + ">"


@pytest.mark.parametrize("text", ["of the form [x_min, y_min, x_max, y_max]", "at [bbox]", "[refer] this", "no change", "see [3]"])
def test_brackets_without_coordinates_are_prose(text):
    assert extract(text, [TEOCHAT], PLAIN, 1) == extract(text, [], PLAIN, 1)
    assert extract(text, [TEOCHAT], PLAIN, 1).text == text


@pytest.mark.parametrize("codec, text", [
    (TEOCHAT, "[10, 10, 101, 20]"), (TEOCHAT, "[10, 10, 10, 20]"), (TEOCHAT, "[30, 10, 20, 20]"), (TEOCHAT, "[-1, 0, 5, 5]"),
    (TEOCHAT, "[NaN, 0, 5, 5]"), (TEOCHAT, "[0, 0, inf, 5]"), (TEOCHAT, "[1, 2, 3]"), (TEOCHAT, "a box [1, 2, 3, 4, 5] here"),
    (GEOCHAT, "{<1><2><3><400>|<0>}"), (GEOCHAT, "{<1><2><3>}"), (GEOCHAT, "{<1><2><3><4>|<nan>}"), (GRID_1000, "[0, 0, 1001, 5]"),
    (PIXELS, "[0, 0, 201, 5]"), (PIXELS, "[0, 0, 5, 101]"), (VRSBENCH, "{<5><5><5><9>}"),
])
def test_impossible_boxes_are_rejected(codec, text):
    with pytest.raises(Rejection, match="impossible box"):
        extract(text, [codec], PLAIN, 1)


def test_geochat_phrases_label_their_rotated_boxes():
    text = "<p> 2 ships </p> {<10><20><30><40>|<45>}<delim>{<0><0><50><50>|<0>} near the <p>pier</p>."
    found = extract(text, [GEOCHAT], PLAIN, 1)
    assert found.text == "2 ships <region:0> <region:1> near the pier."
    assert found.regions == (Region(1, RotatedBox(40, 30, 40, 20, 45), "2 ships"), Region(1, Box(0, 0, 100, 50), "2 ships"))


def test_a_labelled_list_keeps_its_labels():
    found = extract("<p>ship</p>{<1><2><3><4>} <p>quay</p>{<5><6><70><80>|<30>}", [GEOCHAT], PLAIN, 1)
    assert found.text == "<regions:0,1>" and [region.label for region in found.regions] == ["ship", "quay"]


def test_the_earliest_of_several_conventions_counts():
    found = extract("at {<1><2><3><4>} and [5, 6, 7, 8]", [TEOCHAT, VRSBENCH], PLAIN, 1)
    assert [region.geometry for region in found.regions] == [Box(2, 2, 6, 4), Box(10, 6, 14, 8)]


def test_our_own_placeholders_in_foreign_text_are_refused():
    with pytest.raises(Rejection, match="reserved placeholder"):
        extract("what is <region:0>?", [TEOCHAT], PLAIN, 1)


@given(st.lists(st.tuples(WORDS, BOXES), max_size=5), WORDS, st.integers(1, 900), st.integers(1, 900))
def test_teochat_text_comes_back_as_it_was(parts, end, width, height):
    record = ImageRecord("a", width, height, data=b"")
    text = "".join(f"{words} [{', '.join(map(str, box))}]" for words, box in parts) + end
    found = extract(text, [TEOCHAT], record, 1, lists=False)
    assert len(found.regions) == len(parts)
    frames = frames_of([record], TEOCHAT_CONVENTION)
    assert fill_regions(found.text, found.regions, frames, "teochat") == text


@given(BOXES, st.integers(-180, 180))
def test_turned_boxes_keep_size_and_centre(box, angle):
    text = "{<" + "><".join(map(str, box)) + f">|<{angle}>}}"
    (region,) = extract(text, [GEOCHAT], ImageRecord("a", 100, 100, data=b""), 1).regions
    flat = Box(*map(float, box))
    if angle == 0:
        assert region.geometry == flat
    else:
        turned = region.geometry
        assert (turned.width * turned.height) == pytest.approx(flat.area) and turned.angle == angle
        corner = turned.corners()[0]
        assert math.hypot(corner[0] - turned.cx, corner[1] - turned.cy) == pytest.approx(math.hypot(turned.width, turned.height) / 2)


# --- conversations -------------------------------------------------------------------------------------------------


def turns(*texts):
    return [Turn("assistant" if index % 2 else "user", text) for index, text in enumerate(texts)]


@pytest.mark.parametrize("given_turns", [
    [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
    [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
    [{"from": "Human", "value": "q"}, {"from": "bot", "value": "a"}],
])
def test_turns_are_read_under_all_their_names(given_turns):
    assert read_turns(given_turns, "r") == [Turn("user", "q"), Turn("assistant", "a")]


@pytest.mark.parametrize("given_turns, reason", [
    (None, "no conversation"), ([], "no conversation"), (["q"], "broken turn"), ([{"from": "tool", "value": "x"}], "unknown role"),
    ([{"from": "human", "value": 3}], "broken turn"), ([{"value": "x"}], "unknown role"),
])
def test_broken_turns_are_rejected(given_turns, reason):
    with pytest.raises(Rejection, match=f"{reason}.*file:7"):
        read_turns(given_turns, "file:7")


@pytest.mark.parametrize("question, count, asked", [
    ("<image>\nWhat?", 1, "What?"),
    ("What?\n<image>", 1, "What?"),
    ("What?", 2, "What?"),
    ("<image><image>\nWhat?", 2, "What?"),
    ("Image 1: <image>\nImage 2: <image>\nWhat?", 2, "What?"),
    ("Compare <image> with <image>.", 2, "Compare Image 1 with Image 2."),
    ("<image>\nCompare it with <image> now.", 2, "Compare it with Image 2 now."),
    ("<video>\nWhat?", 4, "What?"),
    ("Look at <video> now.", 3, "Look at the images now."),
    ("These are two satellite images capturing the same location at different times: <video>\nWhat?", 2, "What?"),
    ("This a sequence of satellite images capturing the same location at different times in chronological order: <video>\nW?", 3, "W?"),
    ("This is a sequence of low-resolution, optical satellite images from Sentinel-2 at different times: <video> \nWhich: a?", 5, "Which: a?"),
])
def test_image_tags_and_introductions_are_normalised(question, count, asked):
    talk = converse(turns(question, "yes"), [image(name=str(n)) for n in range(count)], [], "r")
    assert talk.messages[0].text == "<image>" * count + "\n" + asked
    assert ("introduction" in talk.facts) == question.startswith("Th")


@pytest.mark.parametrize("texts, count, reason", [
    (("<image>\nq", "a"), 2, "image count"), (("<image><image>q", "a"), 1, "image count"), (("<image>\nq", "a"), 0, "image count"),
    (("<video>q <video>", "a"), 3, "image count"), (("q", "see <image>"), 1, "image in an answer"), (("q", " "), 1, "empty answer"),
    (("<image>", "a"), 1, "empty question"), (("q",), 1, "turn order"), (("q", "a", "q2"), 1, "turn order"), ((), 1, "turn order"),
])
def test_bad_conversations_are_rejected(texts, count, reason):
    with pytest.raises(Rejection) as error:
        converse(turns(*texts), [image(name=str(n)) for n in range(count)], [], "file:3")
    assert error.value.reason == reason and "file:3" in error.value.detail


def test_system_turns_go_into_the_facts():
    talk = converse([Turn("system", "Be brief."), *turns("q", "a")], [PLAIN], [], "r")
    assert talk.facts == {"system": "Be brief."} and len(talk.messages) == 2


@pytest.mark.parametrize("text, count, named", [
    ("the buildings in the first image which were damaged in the second image", 2, 1), ("the building in the second image", 2, 2),
    ("status in image 4?", 5, 4), ("status in Image 9?", 5, None), ("In which image(s) was it?", 5, None), ("images 12", 5, None),
])
def test_the_image_that_a_question_names_first(text, count, named):
    assert image_named(text, count) == named


def test_geometry_is_put_on_the_image_that_the_question_names():
    pair = [image(name="a"), image(100, 100, name="b")]
    first = converse(turns("Identify the buildings in the first image.", "[0, 0, 50, 50]"), pair, [TEOCHAT], "r")
    latest = converse(turns("Identify all changed buildings.", "[0, 0, 50, 50]"), pair, [TEOCHAT], "r")
    assert (first.regions, latest.regions) == ((Region(1, Box(0, 0, 100, 50)),), (Region(2, Box(0, 0, 50, 50)),))


def test_several_turns_are_rendered_with_the_geometry_of_each():
    talk = converse(turns("<image>\nWhat is at [0, 0, 50, 50]?", "A <p>ship</p> {<0><0><50><50>|<90>} at sea.", "Where are all ships?",
                          "[0, 0, 50, 50], [50, 50, 100, 100]"), [image(100, 100)], [TEOCHAT, GEOCHAT], "r")
    sample = Sample("d/train/1#vqa", "d", "train", "vqa", (image(100, 100),), talk.messages, talk.regions, {"licence": "MIT"})
    rendered = chat(sample).messages
    words = ["".join(part.get("text", "") for part in message["content"]) for message in rendered]
    assert [message["role"] for message in rendered] == ["user", "assistant", "user", "assistant"]
    assert words[0].endswith('What is at {"image":1,"bbox_2d":[0,0,500,500]}?')
    assert words[1] == 'A ship {"image":1,"bbox_2d":[0,0,500,500]} at sea.'
    assert words[3] == '[{"image":1,"bbox_2d":[0,0,500,500]},{"image":1,"bbox_2d":[500,500,1000,1000]}]' == target_text(sample)
    assert target_text(sample, convention=TEOCHAT_CONVENTION) == "[0, 0, 50, 50], [50, 50, 100, 100]"
