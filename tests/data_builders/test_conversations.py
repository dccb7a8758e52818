"""Turns of instruction sets: role names, image tags in every place, introductions, and what is refused."""

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geotempo.data_builders.conversations import in_front, read_conversation
from geotempo.data_builders.source import Rejection

PAIR = "These are two satellite images capturing the same location at different times:"
SEQUENCE = ("This is a sequence of high resolution, optical satellite images from Maxar's GeoEye-1, WorldView-2 "
            "capturing the "
            "same location at different times in chronological order:")


def turns(*texts, keys=("from", "value"), roles=("human", "gpt")):
    return [dict(zip(keys, (roles[number % 2], text), strict=True)) for number, text in enumerate(texts)]


@pytest.mark.parametrize(("keys", "roles"), [
    (("from", "value"), ("human", "gpt")), (("role", "content"), ("user", "assistant")),
    (("from", "value"), ("human", "bot")),
    (("from", "value"), ("USER", "Assistant")),
])
def test_roles_of_every_family(keys, roles):
    found = read_conversation(turns("<image>\nWhat?", "A ship.", "How many?", "2", keys=keys, roles=roles), 1)
    assert [(turn.role, turn.text) for turn in found.messages] == [
        ("user", "What?"), ("assistant", "A ship."), ("user", "How many?"), ("assistant", "2")]
    assert in_front(found.messages, 1)[0].text == "<image>\nWhat?"


def test_a_system_turn_is_kept_apart():
    found = read_conversation([{"role": "system", "content": "Be short."}, *turns("Q", "A")], 2)
    assert found.system == "Be short." and len(found.messages) == 2


@pytest.mark.parametrize(("text", "images", "expected"), [
    ("<image>\nWhat?", 1, "What?"),
    ("What?\n<image>", 1, "What?"),
    ("What? <image><image>", 2, "What?"),
    ("What?", 3, "What?"),
    ("<image> <image> Please compare.", 2, "Please compare."),
    ("Image 1: <image>\nImage-2: <image>\nWhat changed?", 2, "What changed?"),
    ("Compare <image> with <image>.", 2, "Compare Image 1 with Image 2."),
    ("Compare this with <image>", 1, "Compare this with Image 1"),
    ("<image>\nCompare it with <image>.", 2, "Compare it with Image 2."),
    ("<video>\nWhat?", 5, "What?"),
    ("In <video> what is new?", 5, "In Images 1 to 5 what is new?"),
    (f"{PAIR} <video>\nWhat?", 2, "What?"),
    (f"{SEQUENCE} <video> \nWhat?", 4, "What?"),
    ("This is a satellite image: <video>\nWhat?", 1, "What?"),
    ("This a sequence of satellite images capturing the same location: <video>\nWhat?", 3, "What?"),
    ("These are satellite images of two dates: <image><image>\nWhat?", 2, "What?"),
    ("This is a question without a tag: what?", 1, "This is a question without a tag: what?"),
])
def test_tags_in_every_place(text, images, expected):
    assert read_conversation(turns(text, "yes"), images).messages[0].text == expected


def test_the_introduction_is_given_back():
    assert read_conversation(turns(f"{PAIR} <video>\nWhat?", "yes"), 2).introduction == PAIR


def test_tags_follow_the_time_order_of_their_images():
    assert read_conversation(turns("Is <image> newer than <image>?", "no"), 2, (2, 1)).messages[0].text == (
        "Is Image 2 newer than Image 1?")


def test_an_image_of_a_later_turn_is_named_there():
    found = read_conversation(turns("<image>\nWhat?", "A ship.", "<image>\nAnd here?", "None."), 2)
    assert found.messages[2].text == "Image 2: And here?"


@pytest.mark.parametrize(("given", "reason"), [
    ([], "no conversation"), ("text", "no conversation"), (None, "no conversation"), (["text"], "no conversation"),
    ([{"speaker": "a"}], "no conversation"), ([{"from": "human", "value": 3}], "no conversation"),
    ([{"from": "robot", "value": "a"}], "unknown role"), (turns("Q"), "turns do not alternate"),
    (turns("Q", "A", "Q"), "turns do not alternate"),
    (turns("Q", "A", roles=("gpt", "human")), "turns do not alternate"),
    ([{"role": "system", "content": "x"}], "turns do not alternate"),
    ([*turns("Q", "A"), {"from": "system", "value": "x"}], "system turn inside"),
    (turns("Q", " "), "empty answer"), (turns(" \n", "A"), "empty question"), (turns("<image>", "A"), "empty question"),
    (turns("Q", "<image>"), "image tag in an answer"), (turns("<image><image>Q", "A"), "tags and images differ"),
    (turns("<image>Q", "A", "<video>Q", "A"), "tags and images differ"),
])
def test_what_cannot_be_used_is_named(given, reason):
    with pytest.raises(Rejection) as caught:
        read_conversation(given, 1)
    assert caught.value.reason == reason


WORDS = st.text(alphabet="abc .,:?\n<>{}[]", min_size=1, max_size=20).filter(lambda text: any(map(str.isalpha, text)))


@given(st.lists(WORDS, min_size=2, max_size=6), st.integers(0, 4), st.data())
def test_no_tag_is_left_and_no_word_is_lost_wherever_tags_stand(words, images, data):
    pieces = [*words]
    for _ in range(images):
        pieces.insert(data.draw(st.integers(0, len(pieces))), "<image>")
    text = read_conversation(turns(" ".join(pieces), "yes"), images).messages[0].text
    assert "<image>" not in text and "<video>" not in text
    left = [int(number) for number in re.findall(r"Image (\d)", text)]
    assert left == sorted(left) and set(left) <= set(range(1, images + 1))
    bare = re.sub(r"Images? \d", "", text)
    assert Counter(filter(str.isalpha, bare)) == Counter(filter(str.isalpha, "".join(words)))
