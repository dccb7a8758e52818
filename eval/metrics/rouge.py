"""ROUGE-L as the captioning field computes it (Lin 2004; pycocoevalcap `rouge.py`).

F with beta 1.2 from the highest precision and the highest recall over the references, which may belong to different
references; the corpus score is the mean. The `rouge_score` package computes another number (beta 1, one reference for
both, stems), and EarthDial's averages over references: neither compares with this one.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

BETA = 1.2


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, by bit vectors (Hyyrö 2004)."""
    where: dict[str, int] = {}
    for i, word in enumerate(first):
        where[word] = where.get(word, 0) | 1 << i
    every = (1 << len(first)) - 1
    left = every
    for word in second:
        met = left & where.get(word, 0)
        left = (left + met | left - met) & every
    return len(first) - left.bit_count()


@lru_cache(maxsize=262144)
def _pair(caption: str, reference: str) -> tuple[float, float]:
    """Precision and recall. Words are split at every single blank, as the official code does it."""
    said, known = caption.split(" "), reference.split(" ")
    shared = longest_common_subsequence(known, said)
    return shared / len(said), shared / len(known)


def rouge_l(captions: Sequence[str], references: Sequence[Sequence[str]]) -> npt.NDArray[np.float64]:
    """ROUGE-L of each caption; the corpus score is the mean.

    Args:
        captions: n captions as words separated by single blanks. Further blanks count as empty words: that is what
            the official code does to captions which nobody normalised, and the protocol `raw` keeps it.
        references: n lists of one or more references, likewise.

    Returns:
        Array (n,), 0-1.
    """
    scores = np.zeros(len(captions))
    for i, (caption, known) in enumerate(zip(captions, references, strict=True)):
        pairs = [_pair(caption, text) for text in known]
        precision, recall = max(pair[0] for pair in pairs), max(pair[1] for pair in pairs)
        if precision and recall:
            scores[i] = (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
    return scores
