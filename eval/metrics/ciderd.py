"""CIDEr-D (Vedantam et al. 2015), equal to the code that the captioning field runs (pycocoevalcap `cider_scorer.py`).

Inverse document frequencies come from the evaluated references, so a score belongs to its reference set: it must not
be compared across subsets, and it is 0 where all references are the same everywhere. `reference_hash` names the set.
Remote sensing captions repeat a few sentences thousands of times; every sentence and pair is computed once.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from math import exp, log, sqrt

import numpy as np
import numpy.typing as npt

from geotempo.eval.metrics.text import normalise_caption

ORDER = 4
SIGMA = 6.0
Ngram = tuple[str, ...]
Vector = dict[Ngram, float]


def count_ngrams(words: str) -> Counter[Ngram]:
    """Counts of the 1- to 4-grams of a blank-separated sentence."""
    tokens = words.split()
    return Counter(tuple(tokens[i : i + n]) for n in range(1, ORDER + 1) for i in range(len(tokens) - n + 1))


def document_frequencies(references: Sequence[Sequence[str]]) -> dict[Ngram, int]:
    """In how many samples' references each n-gram occurs."""
    grams = {text: count_ngrams(text).keys() for known in references for text in known}
    frequencies: Counter[Ngram] = Counter()
    for known in references:
        frequencies.update(set().union(*(grams[text] for text in known)))
    return dict(frequencies)


class _Sentence:
    """tf-idf vector of one sentence: one dictionary per order, its norms, and its length (in bigrams, as official)."""

    def __init__(self, words: str, frequencies: Mapping[Ngram, int], log_samples: float) -> None:
        self.vectors: list[Vector] = [{} for _ in range(ORDER)]
        self.length = 0
        for gram, count in count_ngrams(words).items():
            self.vectors[len(gram) - 1][gram] = count * (log_samples - log(max(1, frequencies.get(gram, 0))))
            self.length += count if len(gram) == 2 else 0

    @cached_property
    def norms(self) -> list[float]:
        """Euclidean length of the vector of each n-gram order."""
        return [sqrt(sum(value * value for value in vector.values())) for vector in self.vectors]


def _similarity(hypothesis: _Sentence, reference: _Sentence) -> float:
    """Clipped cosine similarity, averaged over the orders, with the Gaussian penalty on the difference of length."""
    total = 0.0
    for n in range(ORDER):
        known = reference.vectors[n]
        shared = [gram for gram in hypothesis.vectors[n] if gram in known]
        dot = sum(min(hypothesis.vectors[n][gram], known[gram]) * known[gram] for gram in shared)
        norm = hypothesis.norms[n] * reference.norms[n]
        total += dot / norm if norm else dot
    return total / ORDER * exp(-((hypothesis.length - reference.length) ** 2) / (2 * SIGMA**2))


def cider_d(captions: Sequence[str], references: Sequence[Sequence[str]]) -> npt.NDArray[np.float64]:
    """CIDEr-D of each caption; the corpus score is the mean.

    Args:
        captions: n model captions; normalised here.
        references: n lists of one or more references, which also give the document frequencies.

    Returns:
        Array (n,), 0-10 as in the official code (1.41 is what papers print as 141).
    """
    hypotheses = [normalise_caption(caption) for caption in captions]
    known = [[normalise_caption(text) for text in texts] for texts in references]
    frequencies, log_samples = document_frequencies(known), log(max(1, len(known)))
    sentences = {text: _Sentence(text, frequencies, log_samples)
                 for text in {*hypotheses, *(text for texts in known for text in texts)}}
    pairs: dict[tuple[str, str], float] = {}
    scores = np.zeros(len(hypotheses))
    for i, (hypothesis, texts) in enumerate(zip(hypotheses, known, strict=True)):
        for text in texts:
            if (hypothesis, text) not in pairs:
                pairs[hypothesis, text] = _similarity(sentences[hypothesis], sentences[text])
            scores[i] += pairs[hypothesis, text]
        scores[i] *= 10.0 / len(texts)
    return scores


def reference_hash(references: Sequence[Sequence[str]]) -> str:
    """SHA-256 of a reference set, whatever the order of its samples; two CIDEr-D compare only where it is equal."""
    known = sorted([normalise_caption(text) for text in texts] for texts in references)
    return hashlib.sha256(json.dumps(known, ensure_ascii=False).encode()).hexdigest()
