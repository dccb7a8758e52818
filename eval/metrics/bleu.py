"""Corpus BLEU-4 (Papineni et al. 2002) by sacrebleu, kept as sums per caption so that it can be bootstrapped.

Settings of the LEVIR-CC code line: tokens are split at blanks, no smoothing, brevity against the closest reference.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from geotempo.eval.metrics.text import normalise_caption
from geotempo.model.errors import MissingExtraError

FloatArray = npt.NDArray[np.float64]
ORDER = 4


def bleu_statistics(captions: Sequence[str], references: Sequence[Sequence[str]]) -> FloatArray:
    """What corpus BLEU-4 sums over.

    Args:
        captions: n model captions; normalised here.
        references: n lists of one or more references.

    Returns:
        Array (n, 10): caption length, closest reference length, matches of 1- to 4-grams, number of 1- to 4-grams.

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        raise MissingExtraError("sacrebleu", "eval", "BLEU-4") from None
    # effective_order only changes the score of single sentences, which is not used; it keeps sacrebleu silent.
    metric = BLEU(tokenize="none", smooth_method="none", max_ngram_order=ORDER, effective_order=True)
    rows = []
    for caption, known in zip(captions, references, strict=True):
        score = metric.sentence_score(normalise_caption(caption), [normalise_caption(text) for text in known])
        rows.append([score.sys_len, score.ref_len, *score.counts, *score.totals])
    return np.asarray(rows, dtype=np.float64).reshape(len(rows), 2 + 2 * ORDER)


def bleu_from_sums(sums: FloatArray) -> FloatArray:
    """Corpus BLEU-4 from summed statistics.

    Args:
        sums: Array (..., 10), sums of `bleu_statistics` over captions.

    Returns:
        Array (...), 0-1; 0 where any order has no match (no smoothing).
    """
    length, reference = sums[..., 0], sums[..., 1]
    counts, totals = sums[..., 2 : 2 + ORDER], sums[..., 2 + ORDER :]
    readable = (counts > 0).all(axis=-1)
    precision = np.divide(counts, totals, out=np.ones_like(counts), where=counts > 0)
    ratio = np.divide(reference, length, out=np.ones_like(length), where=length > 0)
    brevity = np.exp(np.minimum(0.0, 1.0 - ratio))
    scores: FloatArray = np.where(readable, brevity * np.exp(np.log(precision).mean(axis=-1)), 0.0)
    return scores
