from hypothesis import given
from hypothesis import strategies as st

from geotempo.eval.metrics.text import absolute_error, caption_match, normalise_caption, normalise_short, short_match


def test_caption_normalisation_follows_the_protocol():
    assert normalise_caption("  The  road, is built. ") == "the road , is built"
    assert normalise_caption("No change?!") == "no change"
    assert normalise_caption(" . ") == ""


@given(st.text())
def test_normalisation_is_idempotent(text):
    assert normalise_caption(normalise_caption(text)) == normalise_caption(text)
    assert normalise_short(normalise_short(text)) == normalise_short(text)


def test_short_answers_keep_bins_and_decimals():
    assert {normalise_short(text) for text in ("0-10%", "0 to 10", "0_to_10", "0% – 10%", "0_TO_10.")} == {"0_to_10"}
    assert normalise_short("2.5 ha.") == "2.5 ha"
    assert normalise_short("Low_vegetation -> Building!") == "low vegetation building"
    assert normalise_short("10_to_20") != normalise_short("1_to_20")


def test_caption_match_first_and_any():
    refs = ["A road appears.", "a new road is built"]
    assert caption_match("a road appears", refs) == (True, True)
    assert caption_match("A new road is built.", refs) == (False, True)
    assert caption_match("a road", refs) == (False, False)
    assert caption_match("", ["", "."]) == (False, False)


def test_short_match_needs_the_whole_answer():
    assert short_match("Yes.", ["yes"])
    assert not short_match("nothing", ["no"])
    assert not short_match("...", ["..."])


def test_missing_number_is_an_error_of_the_whole_count():
    assert absolute_error(3, 5) == 2
    assert absolute_error(None, 5) == 5
    assert absolute_error(None, 0) == 1
