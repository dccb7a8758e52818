"""What the sources of instruction sets share: finding images, time order, the image meant, what a question asks for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geotempo.data_builders.geochat_tags import in_words, untagged
from geotempo.data_builders.instructions import folders, image_named, in_time, locate, read_date, task_by_form
from geotempo.data_builders.source import Rejection
from geotempo.model.dates import AcquisitionDate

YEARS = st.lists(st.one_of(st.none(), st.integers(1990, 2030)), min_size=1, max_size=8)


@given(YEARS)
def test_images_are_sorted_only_where_all_are_dated(years):
    order, numbers = in_time([AcquisitionDate(str(year)) if year else None for year in years])
    assert sorted(order) == list(range(len(years)))
    assert [order[number - 1] for number in numbers] == list(range(len(years)))
    if None in years:
        assert order == list(range(len(years)))
    else:
        assert [years[index] for index in order] == sorted(years)


def test_images_are_found_below_the_places_whatever_stands_before(tmp_path):
    for name in ("train/a/x.png", "train/b/x.png", "y.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    places = folders([tmp_path, tmp_path / "train", tmp_path / "nowhere"])
    assert places == [tmp_path, tmp_path / "train", tmp_path / "train/a", tmp_path / "train/b"]
    assert locate("train/a/x.png", places) == tmp_path / "train/a/x.png"
    assert locate("/scr/me/train/b/x.png", places) == tmp_path / "train/b/x.png"
    assert locate("C:\\data\\b\\x.png", places) == tmp_path / "train/b/x.png"
    assert locate("y.png", places) == tmp_path / "y.png"


@pytest.mark.parametrize("name", ["z.png", "other/y.png", "../y.png", "a/../../y.png", "", None, 3, "/", "train"])
def test_images_that_are_not_there_are_named(tmp_path, name):
    (tmp_path / "in/train").mkdir(parents=True)
    (tmp_path / "in/y.png").touch()
    (tmp_path / "y.png").touch()
    with pytest.raises(Rejection, match=r"missing image|no image"):
        locate(name, [tmp_path / "in"])


@pytest.mark.parametrize(("question", "number"), [
    ("Is the building at [1, 2, 3, 4] in the second image damaged?", 2), ("What happened in image 3?", 3),
    ("Identify the buildings in the first image which were torn down in the second image.", 1), ("Where are ships?", 4),
    ("What is in the latest image?", 4), ("Compare the earlier image with Image 2", 1),
])
def test_the_image_that_a_question_means(question, number):
    assert image_named(question, 4) == number


@pytest.mark.parametrize("question", ["In image 5?", "In the fifth image?", "image 0"])
def test_an_image_that_is_not_there_is_named(question):
    with pytest.raises(Rejection, match="no such image"):
        image_named(question, 4)


def test_dates_keep_their_precision_and_bad_ones_are_named():
    assert str(read_date("2016-01")) == "2016-01" and read_date("") is None and read_date(None) is None
    with pytest.raises(Rejection, match="broken date"):
        read_date("2016-13-01")


@pytest.mark.parametrize(("question", "answer", "images", "task"), [
    ("Find the ships.", "{<1><2><3><4>|<5>}", 1, "change_grounding"),
    ("Find them.", "<regions:0>", 2, "change_grounding"),
    ("What is [1, 2, 3, 4]?", "A ship", 1, "region_vqa"), ("Describe <region:0>.", "A ship", 1, "region_caption"),
    ("Describe the image with boxes", "A ship at <region:0>", 1, "caption"),
    ("Describe the changes.", "A road.", 2, "change_caption"),
    ("Classify the image.", "harbor", 1, "classification"),
    ("Which class does this sequence of images belong to?", "dam", 3,
                                                             "temporal_classification"),
    ("Is there a ship?", "yes", 1, "vqa"), ("Is there a new road?", "yes", 2, "change_vqa"),
])
def test_the_task_by_the_form(question, answer, images, task):
    assert task_by_form(question, answer, images) == task


def test_tags_are_taken_off_every_question():
    turns = [{"role": "system", "content": "[refer] stays"}, {"role": "user", "content": "<image>\n[refer] a ship"},
             {"role": "assistant", "content": "[refer] too"}, {"role": "user", "content": "[Identify] b"},
             {"role": "user"}]
    done, tags = untagged(turns)
    assert [turn.get("content") for turn in done] == ["[refer] stays", "<image>\na ship", "[refer] too", "b", None]
    assert tags == ["refer", "identify", ""]
    assert untagged("no list") == ("no list", [])


@pytest.mark.parametrize(("question", "kept"), [
    ("where is the ship?", True), ("could you tell me the location for the ship?", True),
    ("the location of the ship is", True),
    ("Locate the ship", True), ("the ship located at the top", False), ("a ship which is white.", False),
])
def test_a_bare_phrase_after_refer_becomes_a_question(question, kept):
    asked = in_words(question, "refer", "some/id")
    assert (asked == question) == kept and question.rstrip(".") in asked
    assert in_words(question, "vqa", "some/id") == question
