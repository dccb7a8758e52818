"""Captions: BLEU, ROUGE-L, CIDEr-D, METEOR and S*m under a named protocol; recall of change and of no change.

    >>> from geotempo.eval.metrics import caption
    >>> caption.score(["a road is built"], [["a road is built", "a new road appears"]])["BLEU-4"]
    99.99...

A protocol says how a text becomes the words that are compared. Papers differ in it more than in anything else: a final
full stop left in place costs a model three quarters of its CIDEr-D. Needs numpy alone.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geotempo.eval.metrics.bleu import bleu_from_sums, bleu_statistics
from geotempo.eval.metrics.bootstrap import ratio_from_sums
from geotempo.eval.metrics.ciderd import cider_d, reference_hash, require_same_references
from geotempo.eval.metrics.meteor import NAME as METEOR_EXACT_STEM
from geotempo.eval.metrics.meteor import meteor_from_sums, meteor_statistics
from geotempo.eval.metrics.meteor_jar import NAME as METEOR_1_5
from geotempo.eval.metrics.meteor_jar import jar_statistics
from geotempo.eval.metrics.rouge import rouge_l
from geotempo.eval.metrics.text import normalise_caption
from geotempo.model.errors import InputError

FloatArray = npt.NDArray[np.float64]
Vocabulary = Mapping[str, int]
Encode = Callable[[str], Sequence[int]]
UNKNOWN = "<UNK>"

PROTOCOLS = {
    "words": "lower case, .?! removed, , and ; apart, white space collapsed (levircc-words-v1): for LLM answers",
    "raw": "the strings as they are, as pycocoevalcap's scorers take them (no PTB tokenizer)",
    "ccexpert": "lower case, full stops removed (CCExpert, storage of the published predictions)",
    "words_unk": "words, with those outside the vocabulary replaced by <UNK> in captions and references",
    "levircc_ids": "numbers of the words in the vocabulary, as RSICC, Change-Agent, RSCaMa and Chg2Cap score them",
    "bpe_ids": "numbers of the subwords of a tokenizer, as PromptCC and DeltaVLM score them (GPT-2)",
}
"""Names of the protocols, which every result carries, and what they do to a text."""

SENTENCES = frozenset((
    "the scene is the same as before", "there is no difference", "the two scenes seem identical",
    "no change has occurred", "almost nothing has changed",
))
"""The five sentences by which LEVIR-CC says that nothing changed."""

AGGREGATES: dict[str, tuple[str, Callable[[FloatArray], FloatArray]]] = {
    "BLEU-1": ("BLEU", lambda sums: bleu_from_sums(sums, 1)),
    "BLEU-2": ("BLEU", lambda sums: bleu_from_sums(sums, 2)),
    "BLEU-3": ("BLEU", lambda sums: bleu_from_sums(sums, 3)),
    "BLEU-4": ("BLEU", lambda sums: bleu_from_sums(sums, 4)),
    "ROUGE-L": ("ROUGE-L", ratio_from_sums),
    "CIDEr-D": ("CIDEr-D", ratio_from_sums),
    METEOR_EXACT_STEM: (METEOR_EXACT_STEM, meteor_from_sums),
    METEOR_1_5: (METEOR_1_5, meteor_from_sums),
}
"""Metric: which rows of `statistics` it sums, and the score (a fraction) of a sum."""

_NO_CHANGE = re.compile(
    r"\bno (?:\w+ ){0,2}(?:changes?|differences?)\b|\bnothing (?:\w+ ){0,3}chang|\bunchanged\b|\bidentical\b|"
    r"\bnot (?:\w+ )?chang|\bthe same\b|\bwithout (?:any )?(?:changes?|differences?)\b|n['’]t (?:\w+ )?chang")
_BUT = re.compile(r"\b(?:except|but|however|although|while|apart from|other than|besides)\b")


@dataclass(frozen=True)
class Prepared:
    """Captions and references under a protocol.

    Attributes:
        captions: n token strings.
        references: n lists of token strings.
        protocol: Its name.
    """

    captions: list[str]
    references: list[list[str]]
    protocol: str


def prepare(hypotheses: Sequence[str], references: Sequence[Sequence[str]], protocol: str = "words", *,
            vocabulary: Vocabulary | None = None, encode: Encode | None = None) -> Prepared:
    """Apply a protocol.

    Args:
        hypotheses: n captions.
        references: n lists of one or more references.
        protocol: A key of `PROTOCOLS`.
        vocabulary: Word to number with an entry `<UNK>`, for `words_unk` and `levircc_ids`.
        encode: Text to subword numbers, for `bpe_ids`.

    Raises:
        InputError: Lengths that differ, a sample without references, an unknown protocol, or one that lacks its
            vocabulary or tokenizer.
    """
    _check(hypotheses, references)
    tokens = _tokens(protocol, vocabulary, encode)
    known: dict[str, str] = {}
    for text in (*hypotheses, *(text for texts in references for text in texts)):
        if text not in known:
            known[text] = tokens(text)
    return Prepared([known[text] for text in hypotheses], [[known[text] for text in texts] for texts in references],
                    protocol)


def _check(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if isinstance(hypotheses, str) or len(hypotheses) != len(references) or not hypotheses:
        raise InputError(f"{len(hypotheses)} hypotheses and {len(references)} lists of references: there must be one list "
                         "for each hypothesis, and one or more of them")
    for index, (text, known) in enumerate(zip(hypotheses, references, strict=True)):
        if not isinstance(text, str):
            raise InputError(f"hypothesis {index} is {type(text).__name__}, not text; write an empty text for a missing one")
        if isinstance(known, str) or not known or not all(isinstance(each, str) for each in known):
            raise InputError(f"the references of hypothesis {index} must be a list of one or more texts, got {known!r:.80}")


def _tokens(protocol: str, vocabulary: Vocabulary | None, encode: Encode | None) -> Callable[[str], str]:
    """The function from a text to its token string."""
    if protocol not in PROTOCOLS:
        raise InputError(f"unknown caption protocol {protocol!r}; allowed: {', '.join(PROTOCOLS)}")
    if protocol == "bpe_ids":
        if encode is None:
            raise InputError("the protocol bpe_ids needs `encode`, a function from a text to its subword numbers")
        subwords = encode
        return lambda text: " ".join(map(str, subwords(normalise_caption(text))))
    if protocol in ("words_unk", "levircc_ids"):
        if vocabulary is None or UNKNOWN not in vocabulary:
            raise InputError(f"the protocol {protocol} needs `vocabulary`, the word map of the code line, with {UNKNOWN!r}")
        return _by_vocabulary(vocabulary, numbers=protocol == "levircc_ids")
    simple: dict[str, Callable[[str], str]] = {
        "words": normalise_caption, "raw": str, "ccexpert": lambda text: text.lower().replace(".", "")}
    return simple[protocol]


def _by_vocabulary(vocabulary: Vocabulary, numbers: bool) -> Callable[[str], str]:
    def tokens(text: str) -> str:
        words = [word if word in vocabulary else UNKNOWN for word in normalise_caption(text).split()]
        return " ".join(str(vocabulary[word]) for word in words) if numbers else " ".join(words)

    return tokens


def statistics(prepared: Prepared, meteor: str | None = METEOR_EXACT_STEM) -> dict[str, FloatArray]:
    """Rows of sufficient statistics of each caption, by the names in `AGGREGATES`.

    Rows are added over captions, and a sum gives the score, so one pass serves the score and its bootstrap. Those of
    CIDEr-D depend on the whole reference set (its idf), which a bootstrap takes as given.

    Args:
        prepared: Of `prepare`.
        meteor: `METEOR-exact-stem`, `METEOR-1.5` (both METEORs then; needs Java and pycocoevalcap), or None.
    """
    captions, references = prepared.captions, prepared.references
    rows = {"BLEU": bleu_statistics(captions, references), "ROUGE-L": _with_ones(rouge_l(captions, references)),
            "CIDEr-D": _with_ones(cider_d(captions, references))}
    if prepared.protocol != "raw":
        # Nothing said matches nothing, even a reference of which the protocol leaves no word.
        rows["ROUGE-L"][[not caption for caption in captions], 0] = 0.0
    if meteor not in (METEOR_EXACT_STEM, METEOR_1_5, None):
        raise InputError(f"unknown METEOR {meteor!r}; allowed: {METEOR_EXACT_STEM}, {METEOR_1_5}, None")
    if meteor:
        rows[METEOR_EXACT_STEM] = meteor_statistics(captions, references)
    if meteor == METEOR_1_5:
        rows[METEOR_1_5] = jar_statistics(captions, references)
    return rows


def _with_ones(scores: FloatArray) -> FloatArray:
    return np.stack([scores, np.ones_like(scores)], axis=-1)


def score(hypotheses: Sequence[str], references: Sequence[Sequence[str]], protocol: str = "words", *,
          vocabulary: Vocabulary | None = None, encode: Encode | None = None,
          meteor: str | None = METEOR_EXACT_STEM) -> dict[str, Any]:
    """Scores of a set of captions, times 100 as papers print them.

    S*m is the mean of BLEU-4, METEOR, ROUGE-L and CIDEr-D (CCExpert, Wang et al. 2024). It is an S*m of the literature
    only with METEOR-1.5; which METEOR went in stands beside it.

    Args:
        hypotheses: n captions.
        references: n lists of one or more references.
        protocol: A key of `PROTOCOLS`.
        vocabulary: For `words_unk` and `levircc_ids`.
        encode: For `bpe_ids`.
        meteor: `METEOR-exact-stem`, `METEOR-1.5` (both METEORs then; needs Java and pycocoevalcap), or None.

    Returns:
        `BLEU-1` to `BLEU-4`, `ROUGE-L`, `METEOR-exact-stem` (0-100), `CIDEr-D` (0-1000), `S*m`; `S*m METEOR`, `protocol`,
        `n`, and `references_sha256`, the reference set that CIDEr-D and S*m belong to.

    Raises:
        InputError: See `prepare`; Java is asked for and missing.
        MissingExtraError: METEOR-1.5 is asked for without pycocoevalcap.
    """
    prepared = prepare(hypotheses, references, protocol, vocabulary=vocabulary, encode=encode)
    result: dict[str, Any] = from_sums({name: rows.sum(axis=0) for name, rows in statistics(prepared, meteor).items()})
    if meteor:
        result["S*m METEOR"] = meteor
    return {**result, "protocol": protocol, "n": len(hypotheses), "references_sha256": reference_hash(references)}


def from_sums(sums: Mapping[str, FloatArray]) -> dict[str, float]:
    """Scores times 100 from summed `statistics`; S*m with METEOR-1.5 where it is there."""
    result = {name: 100 * float(aggregate(sums[rows])) for name, (rows, aggregate) in AGGREGATES.items() if rows in sums}
    meteor = result.get(METEOR_1_5, result.get(METEOR_EXACT_STEM))
    if meteor is not None:
        result["S*m"] = (result["BLEU-4"] + meteor + result["ROUGE-L"] + result["CIDEr-D"]) / 4
    return result


def difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, float]:
    """First minus second, metric by metric.

    Args:
        first: A result of `score`.
        second: Another one.

    Raises:
        InputError: The protocols, the reference sets or the METEORs in S*m differ.
    """
    require_same_references(first, second)
    for key in ("protocol", "S*m METEOR"):
        if first.get(key) != second.get(key):
            raise InputError(f"results with {key} {first.get(key)!r} and {second.get(key)!r} cannot be compared; score both "
                             "in the same way")
    names = [*AGGREGATES, "S*m"]
    return {name: first[name] - second[name] for name in names if name in first and name in second}


def says_no_change(text: str) -> bool:
    """Whether a caption says, in whatever words, that nothing changed.

    "The scene is the same", "there are no visible changes", "nothing has changed" do; "nothing has changed except a new
    road" does not. For the answers of an LLM, which does not keep to LEVIR-CC's five sentences.
    """
    words = normalise_caption(text)
    return words in SENTENCES or (bool(_NO_CHANGE.search(words)) and not _BUT.search(words))


def changed_by_reference(references: Sequence[Sequence[str]], index: int = 0) -> list[bool]:
    """The code line's own split into changed and unchanged pairs.

    Args:
        references: n lists of references.
        index: Which reference decides: 0 in Change-Agent and Chg2Cap, 1 in RSICC. The dataset's `changeflag` is better.
    """
    return [normalise_caption(known[min(index, len(known) - 1)]) not in SENTENCES for known in references]


def change_recall(hypotheses: Sequence[str], changed: Sequence[bool], protocol: str = "tolerant") -> dict[str, Any]:
    """Of the changed pairs the share said to be changed, of the unchanged ones the share said to be unchanged.

    Args:
        hypotheses: n captions.
        changed: n flags.
        protocol: `tolerant` reads paraphrases (`says_no_change`), and an empty caption is wrong either way; `levircc` is
            the code line's: a caption says "no change" where it is one of five sentences, word for word, and anything
            else, silence too, says "change".

    Returns:
        `change recall` and `no-change recall` (0-100, None where there is no such pair), `hallucination rate` (of the
        unchanged pairs the share for which a change is described), `protocol`, `n changed`, `n unchanged`.

    Raises:
        InputError: Lengths that differ, or an unknown protocol.
    """
    if len(hypotheses) != len(changed):
        raise InputError(f"{len(hypotheses)} hypotheses and {len(changed)} flags; there must be one flag for each")
    if protocol not in ("tolerant", "levircc"):
        raise InputError(f"unknown protocol {protocol!r}; allowed: tolerant, levircc")
    words = [normalise_caption(text) for text in hypotheses]
    same = [text in SENTENCES if protocol == "levircc" else says_no_change(text) for text in words]
    silent = [protocol == "tolerant" and not text for text in words]
    seen = [not a and not b for a, b, flag in zip(same, silent, changed, strict=True) if flag]
    kept = [a for a, flag in zip(same, changed, strict=True) if not flag]
    invented = [not a and not b for a, b, flag in zip(same, silent, changed, strict=True) if not flag]
    return {"change recall": _percent(seen), "no-change recall": _percent(kept), "hallucination rate": _percent(invented),
            "protocol": protocol, "n changed": len(seen), "n unchanged": len(kept)}


def _percent(values: Sequence[bool]) -> float | None:
    return 100 * sum(values) / len(values) if values else None
