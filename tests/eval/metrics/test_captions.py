import gzip
import json
import sys
from collections import Counter
from math import exp, log, sqrt

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from geotempo.eval.metrics.bleu import bleu_from_sums, bleu_statistics
from geotempo.eval.metrics.ciderd import cider_d, reference_hash
from geotempo.model.errors import MissingExtraError

WORDS = st.lists(st.sampled_from(["a", "road", "is", "built", "no", "change"]), max_size=9).map(" ".join)
SAMPLES = st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3)), min_size=1, max_size=6)

# Output of pycocoevalcap 1.2 `CiderScorer` (the official code) for these captions and references.
OFFICIAL_CAPTIONS = ["a road is built beside the forest", "the scene is the same as before", "a a a a a a",
                     "some houses appear along the road in the north of the scene"]
OFFICIAL_REFERENCES = [
    ["a road is built near the forest", "a road appears beside the forest", "there is a new road"],
    ["the scene is the same as before", "there is no difference"],
    ["a house is built", "a new house appears on the bare land"],
    ["some houses appear", "houses are built along the road", "several houses appear along the road"],
]
OFFICIAL_SCORES = [3.264716240125244, 5.015601792082429, 0.13045871696437725, 1.7827983613214828]


@pytest.fixture(scope="module")
def promptcc(metrics_fixtures):
    with gzip.open(metrics_fixtures / "levircc_promptcc" / "cases.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    expected = json.loads((metrics_fixtures / "expected.json").read_text())["levircc_promptcc"]
    return [row["pred"] for row in rows], [row["refs"] for row in rows], expected


def naive_cider_d(captions, references):
    """The definition of CIDEr-D, written down without any saving of work."""
    def grams(text, n):
        words = text.split()
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    def idf(gram):
        samples = sum(any(gram in grams(ref, len(gram)) for ref in refs) for refs in references)
        return log(len(references)) - log(max(1, samples))

    def weights(text, n):
        return {gram: count * idf(gram) for gram, count in grams(text, n).items()}

    scores = []
    for caption, refs in zip(captions, references, strict=True):
        total = 0.0
        for ref in refs:
            penalty = exp(-((sum(grams(caption, 2).values()) - sum(grams(ref, 2).values())) ** 2) / 72)
            for n in range(1, 5):
                a, b = weights(caption, n), weights(ref, n)
                norm = sqrt(sum(v * v for v in a.values())) * sqrt(sum(v * v for v in b.values()))
                if norm:
                    total += penalty * sum(min(a[g], b.get(g, 0.0)) * b.get(g, 0.0) for g in a) / norm
        scores.append(10 * total / 4 / len(refs))
    return scores


def test_cider_d_equals_the_official_code():
    assert np.abs(cider_d(OFFICIAL_CAPTIONS, OFFICIAL_REFERENCES) - OFFICIAL_SCORES).max() < 1e-9


@settings(max_examples=60, deadline=None)
@given(SAMPLES)
def test_cider_d_equals_its_definition(rows):
    captions, references = [row[0] for row in rows], [row[1] for row in rows]
    assert np.allclose(cider_d(captions, references), naive_cider_d(captions, references), atol=1e-9)


def test_levir_cc_scores_are_the_published_scorers(promptcc):
    captions, references, expected = promptcc
    assert 100 * cider_d(captions, references).mean() == pytest.approx(expected["words"]["CIDEr"], abs=5e-4)
    bleu = float(bleu_from_sums(bleu_statistics(captions, references).sum(axis=0)))
    assert 100 * bleu == pytest.approx(expected["words"]["B4"], abs=5e-4)


def test_full_stop_and_capital_do_not_matter(promptcc):
    captions, references, _ = promptcc
    dressed = [f" {caption.capitalize()}. " for caption in captions]
    assert np.array_equal(cider_d(dressed[:200], references[:200]), cider_d(captions[:200], references[:200]))


def test_cider_d_is_zero_where_all_references_agree():
    refs = [["no change", "the same scene"]] * 4
    assert cider_d(["no change"] * 4, refs).tolist() == [0.0] * 4


def test_reference_hash_names_the_set_not_its_order():
    refs = [["a b", "c"], ["d"]]
    assert reference_hash(refs) == reference_hash(refs[::-1]) == reference_hash([["A  b.", "c"], ["d"]])
    assert reference_hash(refs) != reference_hash(refs[:1])


@settings(max_examples=40, deadline=None)
@given(SAMPLES)
def test_bleu_equals_sacrebleu(rows):
    captions, references = [row[0] for row in rows], [row[1] for row in rows]
    width = max(len(refs) for refs in references)
    padded = [[refs[i] if i < len(refs) else None for refs in references] for i in range(width)]
    expected = sacrebleu.BLEU(tokenize="none", smooth_method="none").corpus_score(captions, padded).score
    ours = float(bleu_from_sums(bleu_statistics(captions, references).sum(axis=0)))
    assert 100 * ours == pytest.approx(expected, abs=1e-9)


def test_bleu_by_hand():
    # 5 of 6 words, 3 of 5 bigrams, 2 of 4 trigrams, 1 of 3 four-grams; the caption is not shorter: no penalty.
    rows = bleu_statistics(["a road is built in forest"], [["a road is built near forest"]])
    assert rows.tolist() == [[6, 6, 5, 3, 2, 1, 6, 5, 4, 3]]
    assert float(bleu_from_sums(rows[0])) == pytest.approx((5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)


def test_bleu_without_sacrebleu_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(MissingExtraError, match=r'pip install "geotempo\[eval\]"'):
        bleu_statistics(["a"], [["a"]])
