import contextlib
import gzip
import io
import json
import subprocess
import sys
from collections import Counter
from functools import partial
from math import exp, log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geotempo.eval.metrics import caption, meteor_jar
from geotempo.eval.metrics.bleu import bleu_from_sums, bleu_statistics
from geotempo.eval.metrics.ciderd import cider_d, reference_hash
from geotempo.eval.metrics.rouge import longest_common_subsequence, rouge_l
from geotempo.model.errors import InputError

SCORED = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D", "METEOR-exact-stem", "S*m")
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
    for said, refs in zip(captions, references, strict=True):
        total = 0.0
        for ref in refs:
            penalty = exp(-((sum(grams(said, 2).values()) - sum(grams(ref, 2).values())) ** 2) / 72)
            for n in range(1, 5):
                a, b = weights(said, n), weights(ref, n)
                norm = sqrt(sum(v * v for v in a.values())) * sqrt(sum(v * v for v in b.values()))
                if norm:
                    total += penalty * sum(min(a[g], b.get(g, 0.0)) * b.get(g, 0.0) for g in a) / norm
        scores.append(10 * total / 4 / len(refs))
    return scores


def test_cider_d_equals_the_official_code():
    assert np.abs(cider_d(OFFICIAL_CAPTIONS, OFFICIAL_REFERENCES) - OFFICIAL_SCORES).max() < 1e-9


@settings(max_examples=30, deadline=None)
@given(SAMPLES)
def test_cider_d_equals_its_definition(rows):
    captions, references = [row[0] for row in rows], [row[1] for row in rows]
    assert np.allclose(cider_d(captions, references), naive_cider_d(captions, references), atol=1e-9)


@pytest.fixture(scope="module")
def vocabulary(metrics_fixtures):
    return json.loads((metrics_fixtures / "levircc_promptcc" / "vocab.json").read_text())


NAMES = {"B1": "BLEU-1", "B2": "BLEU-2", "B3": "BLEU-3", "B4": "BLEU-4", "ROUGE_L": "ROUGE-L", "CIDEr": "CIDEr-D"}


CASES = [
    ("words", "words", None), ("words", "raw", None), ("words_unk", "words_unk", None),
    ("word_ids(as RSICC/Change-Agent code)", "levircc_ids", None),
    ("changed_964_word_ids", "levircc_ids", True), ("unchanged_965_word_ids", "levircc_ids", False),
]


def chosen_part(promptcc, part):
    """Captions and references of all, of the changed or of the unchanged pairs."""
    captions, references, _ = promptcc
    flags = caption.changed_by_reference(references, index=1)
    chosen = [part is None or flag is part for flag in flags]
    return ([text for text, flag in zip(captions, chosen, strict=True) if flag],
            [texts for texts, flag in zip(references, chosen, strict=True) if flag])


@pytest.mark.parametrize(("case", "protocol", "part"), CASES)
def test_levir_cc_scores_are_the_published_scorers(promptcc, vocabulary, case, protocol, part):
    expected = promptcc[2]
    captions, references = chosen_part(promptcc, part)
    meteor = "METEOR-exact-stem" if protocol == "levircc_ids" else None
    scores = caption.score(captions, references, protocol, vocabulary=vocabulary, meteor=meteor)
    wanted = expected[case]
    assert scores["protocol"] == protocol
    for short, name in NAMES.items():
        if short in wanted:
            assert scores[name] == pytest.approx(wanted[short], abs=5.1e-4), name  # the file has three decimals
    if meteor:  # numbers have no synonyms: the full METEOR and ours meet
        assert scores[meteor] == pytest.approx(wanted["METEOR"], abs=0.04 if part else 0.02)
    if "Sm" in wanted and meteor:
        assert scores["S*m"] == pytest.approx(wanted["Sm"], abs=0.02)


@pytest.mark.slow
@pytest.mark.skipif(not meteor_jar.available(), reason="Java or pycocoevalcap is not installed")
@pytest.mark.parametrize(("case", "protocol", "part"), CASES)
def test_the_full_meteor_and_s_star_m_are_the_published_scorers(promptcc, vocabulary, case, protocol, part):
    captions, references = chosen_part(promptcc, part)
    scores = caption.score(captions, references, protocol, vocabulary=vocabulary, meteor="METEOR-1.5")
    assert scores["METEOR-1.5"] == pytest.approx(promptcc[2][case]["METEOR"], abs=5.1e-4)
    assert scores["S*m METEOR"] == "METEOR-1.5"
    if "Sm" in promptcc[2][case]:
        assert scores["S*m"] == pytest.approx(promptcc[2][case]["Sm"], abs=5.1e-4)


def test_change_recall_of_the_code_line(promptcc):
    captions, references, expected = promptcc
    changed = caption.changed_by_reference(references)
    assert sum(changed) == 964
    recall = caption.change_recall(captions, changed, "levircc")
    assert recall["no-change recall"] / 100 == pytest.approx(expected["unchanged_965_word_ids"]["nochange_acc"], abs=1e-6)
    assert recall["change recall"] == 100.0


def test_the_tolerant_reading_of_no_change_agrees_with_every_reference(promptcc):
    _, references, _ = promptcc
    changed = caption.changed_by_reference(references)
    assert all(caption.says_no_change(text) is not flag
               for texts, flag in zip(references, changed, strict=True) for text in texts)


@pytest.mark.parametrize(("text", "same"), [
    ("No significant changes are visible.", True), ("Nothing seems to have changed", True), ("Both scenes are identical.", True),
    ("The area hasn't changed", True), ("Nothing has changed except a new road", False), ("a new road appears", False),
    ("no trees are left", False), ("", False),
])
def test_no_change_in_other_words(text, same):
    assert caption.says_no_change(text) is same


def test_silence_is_no_recall_of_anything():
    recall = caption.change_recall(["", ""], [True, False])
    assert (recall["change recall"], recall["no-change recall"], recall["hallucination rate"]) == (0.0, 0.0, 0.0)
    assert caption.change_recall(["x"], [True])["no-change recall"] is None


def test_full_stop_and_capital_do_not_matter_unless_the_protocol_is_raw(promptcc):
    captions, references, _ = promptcc
    captions, references = captions[:200], references[:200]
    dressed = [f" {text.capitalize()}. " for text in captions]
    score = partial(caption.score, references=references, meteor=None)
    assert score(dressed) == score(captions)
    assert score(dressed, protocol="raw")["CIDEr-D"] < 0.5 * score(captions, protocol="raw")["CIDEr-D"]


def official(captions, references):
    """Scores of pycocoevalcap, times 100."""
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu", reason="pycocoevalcap is not installed")
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    known = dict(enumerate(references))
    said = {index: [text] for index, text in enumerate(captions)}
    with contextlib.redirect_stdout(io.StringIO()):
        scores = [*bleu.Bleu(4).compute_score(known, said)[0], Rouge().compute_score(known, said)[0],
                  Cider().compute_score(known, said)[0]]
    return [100 * float(value) for value in scores]


def test_levir_cc_equals_pycocoevalcap(promptcc):
    captions, references = promptcc[0][:300], promptcc[1][:300]
    scores = caption.score(captions, references, "raw", meteor=None)
    assert [scores[name] for name in NAMES.values()] == pytest.approx(official(captions, references), abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.text("ab .\t", max_size=9), st.lists(st.text("ab .\t", max_size=9), min_size=1, max_size=3)),
                min_size=2, max_size=6))
def test_any_text_scores_as_in_pycocoevalcap(rows):
    rows = [*rows, ("a", ["b"])]  # theirs fails where no reference has a word
    captions, references = [row[0] for row in rows], [row[1] for row in rows]
    scores = caption.score(captions, references, "raw", meteor=None)
    assert [scores[name] for name in NAMES.values()] == pytest.approx(official(captions, references), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abc"), max_size=8))
def test_longest_common_subsequence_is_the_recursive_one(first, second):
    def length(i, j):
        if i == len(first) or j == len(second):
            return 0
        return 1 + length(i + 1, j + 1) if first[i] == second[j] else max(length(i + 1, j), length(i, j + 1))

    assert longest_common_subsequence(first, second) == length(0, 0)


def test_rouge_takes_precision_and_recall_from_different_references():
    # Precision 1 by the longer reference, recall 1 by the shorter one.
    assert rouge_l(["a b c"], [["a b c d e f", "a b"]]).tolist() == [1.0]
    assert rouge_l(["a b c d"], [["a b"]]).tolist() == [pytest.approx((1 + 1.44) * 0.5 / (1 + 1.44 * 0.5))]


@settings(max_examples=20, deadline=None)
@given(SAMPLES)
def test_scores_are_in_range_and_do_not_depend_on_the_order(rows):
    captions, references = [row[0] for row in rows], [row[1] for row in rows]
    scores = caption.score(captions, references)
    assert all(0 <= scores[name] <= (1000 if name == "CIDEr-D" else 325 if name == "S*m" else 100.0001) for name in SCORED)
    backward = caption.score(captions[::-1], references[::-1])
    assert [backward[name] for name in SCORED] == pytest.approx([scores[name] for name in SCORED], abs=1e-9)
    assert backward["references_sha256"] == scores["references_sha256"]


@settings(max_examples=20, deadline=None)
@given(SAMPLES)
def test_saying_nothing_never_raises_a_mean_over_captions(rows):
    captions, references = [row[0] for row in rows], [row[1] for row in rows]
    before = caption.score(captions, references, meteor=None)
    after = caption.score(["", *captions[1:]], references, meteor=None)
    assert after["ROUGE-L"] <= before["ROUGE-L"] and after["CIDEr-D"] <= before["CIDEr-D"] + 1e-9


def test_results_name_their_protocol_and_reference_set():
    scores = caption.score(["A road is built."], [["a road is built", "a new road"]])
    assert [round(scores[name], 6) for name in SCORED[:5]] == [100.0] * 5
    assert scores["METEOR-exact-stem"] == 100.0 and scores["S*m METEOR"] == "METEOR-exact-stem"
    assert scores["S*m"] == pytest.approx((300 + scores["CIDEr-D"]) / 4)
    assert (scores["protocol"], scores["n"]) == ("words", 1)
    assert scores["references_sha256"] == reference_hash([["a road is built", "a new road"]])


def test_cider_d_of_different_reference_sets_is_not_compared():
    first = caption.score(["a"], [["a b"]], meteor=None)
    second = caption.score(["a"], [["a c"]], meteor=None)
    assert caption.difference(first, first) == dict.fromkeys(list(NAMES.values()), 0.0)
    with pytest.raises(InputError, match="different reference sets"):
        caption.difference(first, second)
    with pytest.raises(InputError, match="protocol 'words' and 'raw'"):
        caption.difference(first, caption.score(["a"], [["a b"]], "raw", meteor=None))


@pytest.mark.parametrize(("arguments", "message"), [
    ((["a"], []), "1 hypotheses and 0 lists"), (([], []), "one or more"), ((["a"], ["a"]), "must be a list of one or more"),
    ((["a"], [[]]), "must be a list of one or more"), (([None], [["a"]]), "not text"),
    ((["a"], [["a"]], "ptb"), "allowed: words, raw"), ((["a"], [["a"]], "levircc_ids"), "needs `vocabulary`"),
    ((["a"], [["a"]], "bpe_ids"), "needs `encode`"),
])
def test_wrong_input_says_what_is_wrong(arguments, message):
    with pytest.raises(InputError, match=message):
        caption.score(*arguments)


def test_subword_numbers_are_scored_as_words():
    scores = caption.score(["ab"], [["ab c"]], "bpe_ids", encode=lambda text: [ord(letter) for letter in text], meteor=None)
    assert scores["BLEU-1"] == pytest.approx(100 * exp(1 - 4 / 2))


def test_captions_are_scored_without_torch():
    code = ("import sys; from geotempo.eval.metrics import caption; caption.score(['a b'], [['a b']]); "
            "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'sacrebleu')))")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_cider_d_is_zero_where_all_references_agree():
    refs = [["no change", "the same scene"]] * 4
    assert cider_d(["no change"] * 4, refs).tolist() == [0.0] * 4


def test_reference_hash_names_the_set_not_its_order():
    refs = [["a b", "c"], ["d"]]
    assert reference_hash(refs) == reference_hash(refs[::-1]) == reference_hash([["A  b.", "c"], ["d"]])
    assert reference_hash(refs) != reference_hash(refs[:1])


def test_bleu_by_hand():
    # 5 of 6 words, 3 of 5 bigrams, 2 of 4 trigrams, 1 of 3 four-grams; the caption is not shorter: no penalty.
    rows = bleu_statistics(["a road is built in forest"], [["a road is built near forest"]])
    assert rows.tolist() == [[6, 6, 5, 3, 2, 1, 6, 5, 4, 3]]
    assert float(bleu_from_sums(rows[0])) == pytest.approx((5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
