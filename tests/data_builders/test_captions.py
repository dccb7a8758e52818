"""The reader of caption files: every form in use means the same, what cannot be used is named, LEVIR's samples stay."""

import hashlib
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geotempo.data_builders.captions import clean_caption, read_captions, usable
from geotempo.data_builders.levir import NO_CHANGE
from geotempo.data_builders.levir import read_captions as read_levir
from geotempo.data_builders.source import Rejection
from geotempo.data_builders.sources import make_source
from geotempo.model.errors import LayoutError
from tests.data_builders.fixtures import captions as made

FULL = made.entry("train_000001.png", made.sentences("roads"), filepath="train", split="train", changeflag=1, imgid=0,
                  sentids=[0, 1, 2, 3, 4])


def read(tmp_path, entries, **keywords):
    return read_captions(made.write(tmp_path / "captions.json", entries), **keywords)


@pytest.mark.parametrize("missing", ["imgid", "sentids", "filepath", "split"])
def test_an_optional_key_that_is_missing_changes_nothing(tmp_path, missing):
    whole = read(tmp_path, [FULL])
    assert read(tmp_path, [{key: value for key, value in FULL.items() if key != missing}]) == whole
    assert list(whole) == ["train/train_000001"] and whole["train/train_000001"].changed is True


@pytest.mark.parametrize("left", ["raw", "tokens"])
def test_sentences_as_text_or_as_words(tmp_path, left):
    sentences = [{left: sentence[left]} for sentence in FULL["sentences"]]
    assert read(tmp_path, [{**FULL, "sentences": sentences}]) == read(tmp_path, [FULL])


@pytest.mark.parametrize(("flag", "captions", "stock", "expected"), [
    (1, made.STOCK, NO_CHANGE, True), (0, ["a road appears"], NO_CHANGE, False), (None, made.STOCK, NO_CHANGE, False),
    (None, ["a road appears", *made.STOCK], NO_CHANGE, True), (None, made.STOCK, (), None), (0, made.STOCK, (), False),
])
def test_the_flag_goes_before_the_sentences_and_nothing_is_guessed(tmp_path, flag, captions, stock, expected):
    keys = {} if flag is None else {"changeflag": flag}
    record = read(tmp_path, [made.entry("a.png", captions, split="train", **keys)], stock=stock)["train/a"]
    assert record.changed is expected


def test_spellings_of_val_and_the_split_of_the_file(tmp_path):
    entries = [made.entry("a.png", ["x"], split="valid"), made.entry("b.png", ["x"], split="train")]
    assert list(read(tmp_path, entries)) == ["train/b", "val/a"]
    assert list(read(tmp_path, entries, split="test")) == ["test/a", "test/b"]


def test_entries_that_cannot_be_used_are_named_and_the_others_stay(tmp_path):
    entries = [FULL, {"filename": "b.png", "split": "train"}, FULL, made.entry("c.png", [" "], split="train"),
               made.entry("d.png", ["x"], split="extra"), {**FULL, "filename": "e.png", "sentences": [{"sentid": 1}]}]
    found = read(tmp_path, entries)
    reasons = {}
    for key, record in found.items():
        try:
            usable(record)
        except Rejection as error:
            reasons[key] = (error.reason, error.detail)
    assert len(found) == len(entries) and len(reasons) == 5
    assert reasons["captions.json:1"] == ("broken annotation", "captions.json, entry 1 has no readable 'sentences'")
    assert reasons["train/train_000001@2"][0] == "repeated item"
    assert reasons["train/c"][0] == "missing caption" and reasons["extra/d"][0] == "unknown split"
    assert reasons["captions.json:5"][1].endswith("no readable 'tokens'")


@pytest.mark.parametrize(("text", "message"), [
    ('{"images": [{"filename": "a.png", "split"', "no whole JSON"), ('{"annotations": []}', 'has no "images"'),
    ('{"images": [{"file_name": "a.png"}]}', "'filename'"), ("[]", 'has no "images"'), ("", "no whole JSON"),
])
def test_another_file_is_refused_as_a_whole(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(LayoutError, match=message):
        read_captions(tmp_path / "a.json")


@given(st.text(max_size=30))
def test_a_caption_has_no_blanks_around_it_and_cleaning_it_again_changes_it_only_by_a_period(text):
    once = clean_caption(text)
    assert once == once.strip() and once in text
    assert clean_caption(f" {once} .") == once


def digest(source, root, images):
    """Everything that a source says, as one hash."""
    found = hashlib.sha256()
    for key in source.keys(root):
        for sample in source.samples(root, key):
            messages = [[message.role, message.text] for message in sample.messages]
            names = [image.id for image in sample.images] if images else []
            regions = list(map(repr, sample.regions))
            facts = [sample.id, sample.split, sample.task, names, messages, regions, sample.meta]
            found.update(json.dumps(facts, sort_keys=True).encode())
    return found.hexdigest()[:16]


@pytest.mark.parametrize(("name", "expected"), [("levir-cc", "32dc905089dadfa7"), ("levir-mci", "c707845456a23abd")])
def test_the_samples_of_levir_are_those_of_version_1(levir, name, expected):
    source = make_source(name)
    assert source.version == 1 and digest(source, levir, images=False) == expected


def test_the_samples_of_the_real_subset_are_those_of_version_1(shared):
    assert digest(make_source("levir-cc"), shared("LEVIR-MCI_subset"), images=True) == "90ea57c03b65ed73"


def test_real_captions_have_the_published_counts(shared):
    """10,077 pairs with five captions each, and the numbers of changed and unchanged pairs of every split."""
    records = [usable(record) for record in read_levir(shared("LEVIR-CC")).values()]
    assert len(records) == 10077 and {len(record.captions) for record in records} == {5}
    assert Counter((record.split, record.changed) for record in records) == {
        ("train", False): 3408, ("train", True): 3407, ("val", False): 666, ("val", True): 667, ("test", False): 965,
        ("test", True): 964}
    every = [caption for record in records for caption in record.captions]
    assert not any(caption.endswith((".", " ")) or caption.startswith(" ") for caption in every)
    unchanged = {record.captions for record in records if not record.changed}
    assert {frozenset(captions) for captions in unchanged} == {NO_CHANGE}
