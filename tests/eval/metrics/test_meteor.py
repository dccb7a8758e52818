"""METEOR-exact-stem against the Java program: stored outputs always, the program itself where it is there."""

import random
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geotempo.eval.metrics import meteor_jar
from geotempo.eval.metrics.meteor import meteor_from_sums, meteor_statistics
from geotempo.eval.metrics.meteor_words import FUNCTION_WORDS, normalise
from geotempo.eval.metrics.stem import stem
from geotempo.model.errors import InputError, MissingExtraError

CAPTIONS = [
    "a road is built beside the forest", "the scene is the same as before", "houses are building along roads",
    "some buildings and the roads and the trees are removed", "the the the a a road the", "",
    "Two-lane road, it's the road's end.", "many house are builted in the forests of the north",
]
REFERENCES = [
    ["a road is built near the forest", "a road appears beside the forests"],
    ["the scene is the same as before", "there is no difference"], ["a house is built along the road"],
    ["the trees and some roads and a building are removed from the scene", "nothing"],
    ["a road the a the the", "the road"], ["a house"], ["the two lane road ends here, isn't it?"],
    ["a lot of houses were built in the north of the forest", "forest"],
]
# Output of `java -jar meteor-1.5.jar - - -stdio -l en -norm -m "exact stem"` for these.
SEGMENTS = [0.41468405035508926, 1.0, 0.17959183673469392, 0.3332138811615297, 0.46887819585013546, 0.0,
            0.2502786124091223, 0.2593318509098148]
CORPUS = 0.3193940205607222
FULL_CORPUS = 0.32260574886151183  # with all four matchers
STEMS = {
    "roads": "road", "buildings": "build", "houses": "hous", "forestry": "forestri", "generously": "generous",
    "skies": "sky", "dying": "die", "tied": "tie", "ties": "tie", "gas": "gas", "kiwis": "kiwi", "hopping": "hop",
    "hoping": "hope", "agreed": "agre", "proceed": "proceed", "national": "nation", "relational": "relat",
    "effective": "effect", "vegetation": "veget", "playgrounds": "playground", "youth": "youth", "enjoying": "enjoy",
    "apology": "apolog", "happily": "happili", "controlled": "control", "bees": "bee", "by": "by", "construction": "construct",
}
needs_jar = pytest.mark.skipif(not meteor_jar.available(), reason="Java or pycocoevalcap is not installed")


def test_segments_and_corpus_are_the_jars():
    rows = meteor_statistics(CAPTIONS, REFERENCES)
    assert meteor_from_sums(rows).tolist() == pytest.approx(SEGMENTS, abs=1e-12)
    assert float(meteor_from_sums(rows.sum(axis=0))) == pytest.approx(CORPUS, abs=1e-12)


@pytest.mark.slow  # the jar reads 60 MB of paraphrases first
@needs_jar
def test_the_full_meteor_is_asked_of_the_jar():
    rows = meteor_jar.jar_statistics([*CAPTIONS, "a ||| b\n"], [*REFERENCES, ["a b"]])
    assert rows.shape == (len(CAPTIONS) + 1, meteor_jar.COLUMNS)
    assert float(meteor_from_sums(rows[:-1].sum(axis=0))) == pytest.approx(FULL_CORPUS, abs=1e-12)
    assert float(meteor_from_sums(rows[-1])) == 1.0


def test_stems_are_snowballs():
    assert {word: stem(word) for word in STEMS} == STEMS


def test_words_are_split_as_meteor_does():
    assert normalise("Two-lane road, it's 3,000 m; don't.") == (
        "two", "lane", "road", ",", "it", "'s", "3,000", "m", ";", "don", "'t", ".")
    assert normalise("the U.S. road... e.g. one, i.e. 5") == ("the", "us", "road", "...", "eg", "one", ",", "ie", "5")
    assert len(FUNCTION_WORDS) == 93


def test_a_perfect_caption_adds_no_chunk():
    rows = meteor_statistics(["a road", "a road"], [["a road"], ["the road a"]])
    assert rows[0, 12] == 0 and float(meteor_from_sums(rows[0])) == 1.0
    assert rows[1, 12] == 2
    assert rows[:, 13].tolist() == [2, 2]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text("ab' .-", max_size=12), min_size=1, max_size=4), st.text("ab' .-", max_size=12))
def test_score_is_a_fraction_and_1_for_the_reference_itself(references, caption):
    score = float(meteor_from_sums(meteor_statistics([caption], [references]))[0])
    assert 0.0 <= score <= 1.0
    if normalise(references[0]):
        own = meteor_statistics([references[0]], [references])
        assert float(meteor_from_sums(own)[0]) == pytest.approx(1.0)


def test_without_java_or_the_package_it_says_what_to_do(monkeypatch):
    monkeypatch.setattr(meteor_jar.shutil, "which", lambda name: None)
    if meteor_jar.importlib.util.find_spec("pycocoevalcap"):
        with pytest.raises(InputError, match="METEOR-exact-stem, which needs none"):
            meteor_jar.jar_path()
    monkeypatch.setattr(meteor_jar.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pycocoevalcap"):
        meteor_jar.jar_path()
    assert not meteor_jar.available()


def sentences(rng, words):
    return [" ".join(rng.choices(words, k=rng.randint(1, 14))) for _ in range(rng.randint(1, 5))]


@needs_jar
def test_statistics_are_the_jars_on_random_sentences():
    rng = random.Random(0)
    words = [*"aa", *["the"] * 2, *CAPTIONS[2].split(), *CAPTIONS[6].split(), "road", "roads", "building", "buildings", "built",
             "build", "is", "change", "changes", "changed", "new,", "(old)", "north."]
    captions = [sentences(rng, words)[0] for _ in range(400)]
    references = [sentences(rng, words) for _ in range(400)]
    jar = meteor_jar.jar_statistics(captions, references, "exact stem")
    ours = meteor_statistics(captions, references)
    assert np.array_equal(jar[:, [*range(12), 20, 21, 22]], ours)


@pytest.mark.slow
@needs_jar
def test_stems_are_the_jars_on_random_words():
    rng = random.Random(0)
    ends = ["ational", "ed", "ing", "ly", "s", "ies", "'s", "ness", "ative", "ization", "eedly", "ion", "ll", "e", "y", "ogi", ""]
    words = ["".join(rng.choices("aeiouybcdlmnrstxw", k=rng.randint(1, 6))) + rng.choice(ends) + rng.choice(ends)
             for _ in range(3000)]
    done = subprocess.run(["java", "-cp", str(meteor_jar.jar_path()), "Stemmer", "en"], input="\n".join(words) + "\n",
                          capture_output=True, text=True, check=True)
    assert [line.strip() for line in done.stdout.splitlines()] == [stem(word) for word in words]
