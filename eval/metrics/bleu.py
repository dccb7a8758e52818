"""Corpus BLEU-1 to BLEU-4 (Papineni et al. 2002), kept as sums per caption so that they can be bootstrapped.

Equal to the code that the captioning field runs (pycocoevalcap `bleu_scorer.py`, copied into RSICC, Change-Agent and
most LEVIR-CC repositories): words are split at white space, matches are clipped by the reference that has the gram
most often, brevity is against the closest reference length (the shorter of two), and instead of smoothing no match
counts as 1e-15 matches and no n-gram as 1e-9. (The official code adds these always, which moves a score by less than
1e-9; here a perfect one is 1.)
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from geotempo.eval.metrics.ngrams import ORDER, Corpus, Grams

FloatArray = npt.NDArray[np.float64]
_TINY, _SMALL = 1e-15, 1e-9


def bleu_statistics(captions: Sequence[str], references: Sequence[Sequence[str]]) -> FloatArray:
    """What corpus BLEU sums over.

    Args:
        captions: n captions as blank-separated words.
        references: n lists of one or more references, likewise.

    Returns:
        Array (n, 10): caption length, closest reference length, matches of 1- to 4-grams, number of 1- to 4-grams.
    """
    corpus = Corpus.of(captions, references)
    rows = np.zeros((len(captions), 2 + 2 * ORDER))
    if not len(captions):
        return rows
    length = corpus.lengths[corpus.captions]
    rows[:, 0], rows[:, 1] = length, _closest(corpus, length)
    for n, grams in enumerate(corpus.grams()):
        rows[:, 2 + n] = _matches(corpus, grams)
        rows[:, 2 + ORDER + n] = np.maximum(length - n, 0)
    return rows


def _closest(corpus: Corpus, length: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Length of the reference closest to each caption's, the shorter of two."""
    known = corpus.lengths[corpus.references]
    order = np.lexsort((known, np.abs(known - length[corpus.owner]), corpus.owner))
    first = np.searchsorted(corpus.owner, np.arange(len(length)))
    return known[order][first]


def _matches(corpus: Corpus, grams: Grams) -> npt.NDArray[np.int64]:
    """Clipped matches of each caption for one n."""
    entry, caption = grams.entries(corpus.captions)
    # Where the entries of a caption begin among those of all captions.
    begin = np.searchsorted(caption, np.arange(len(corpus.captions)))
    own, other, pair = grams.shared(corpus.captions[corpus.owner], corpus.references)
    owner = corpus.owner[pair]
    most = np.zeros(len(entry), dtype=np.int64)
    np.maximum.at(most, begin[owner] + own - grams.start[corpus.captions[owner]], grams.count[other])
    matched = np.minimum(most, grams.count[entry])
    return np.bincount(caption, matched, minlength=len(corpus.captions)).astype(np.int64)


def bleu_from_sums(sums: FloatArray, order: int = ORDER) -> FloatArray:
    """Corpus BLEU from summed statistics.

    Args:
        sums: Array (..., 10), sums of `bleu_statistics` over captions.
        order: Longest n-gram, 1 to 4.

    Returns:
        Array (...), 0-1.
    """
    length, reference = sums[..., 0], sums[..., 1]
    counts, totals = sums[..., 2 : 2 + order], sums[..., 2 + ORDER : 2 + ORDER + order]
    precision = (np.maximum(counts, _TINY) / np.maximum(totals, _SMALL)).prod(axis=-1) ** (1.0 / order)
    ratio = np.maximum(length, _TINY) / np.maximum(reference, _SMALL)
    scores: FloatArray = precision * np.exp(np.minimum(0.0, 1.0 - 1.0 / ratio))
    return scores
