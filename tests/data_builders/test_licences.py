"""Licences of mixtures: the strictest terms, and those that cannot be met together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geotempo.data_builders.licences import TERMS, combine, known_licence, licence_id

names = st.lists(st.sampled_from(sorted(TERMS)), min_size=1, max_size=6)


@given(names)
def test_a_mixture_allows_only_what_all_of_its_parts_allow(parts):
    whole = combine(parts).terms
    assert whole.commercial == all(TERMS[name].commercial for name in parts)
    assert whole.derivatives == all(TERMS[name].derivatives for name in parts)
    assert whole.known == all(TERMS[name].known for name in parts) and whole.share_alike == any(TERMS[name].share_alike for name in parts)


@given(names)
def test_order_and_repetition_do_not_matter(parts):
    assert combine(parts) == combine(parts[::-1] + parts) and set(combine(parts).ids) == set(parts)


@pytest.mark.parametrize(("parts", "conflict"), [
    (["CC-BY-NC-ND-4.0", "CC-BY-NC-SA-4.0"], True), (["CC-BY-SA-4.0", "CC-BY-NC-SA-4.0"], True), (["CC-BY-NC-ND-4.0"], False),
    (["CC-BY-NC-SA-4.0", "unknown"], False), (["CC-BY-NC-SA-4.0", "CC-BY-4.0"], False),
])
def test_terms_that_cannot_be_met_together_are_named(parts, conflict):
    assert ("cannot be met together" in combine(parts).text) == conflict


def test_a_text_without_identifier_is_unknown_and_keeps_its_words():
    text = "LEVIR: academic use only; imagery Google Earth"
    assert known_licence(text) == f"unknown; {text}" and licence_id(known_licence(text)) == "unknown"
    assert known_licence("academic; LEVIR") == "academic; LEVIR" and combine([text, "MIT"]).ids == ("unknown", "MIT")
