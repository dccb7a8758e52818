"""Percentile bootstrap over clusters (Efron 1979) from sufficient statistics."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
RESAMPLES = 2000
SEED = 0
_CHUNK = 100


def ratio_from_sums(sums: FloatArray) -> FloatArray:
    """Mean from an array (..., 2) of summed values and summed counts; 0 where nothing was counted."""
    scores: FloatArray = np.divide(sums[..., 0], sums[..., 1], out=np.zeros_like(sums[..., 0]), where=sums[..., 1] > 0)
    return scores


def cluster_sums(statistics: FloatArray, clusters: Sequence[str]) -> FloatArray:
    """Statistics summed within each cluster.

    Args:
        statistics: Array (runs, n, k), one row per run and sample.
        clusters: n names; samples of equal name belong together.

    Returns:
        Array (runs, clusters, k), clusters in the order of their names.
    """
    names, member = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.zeros((len(names), statistics.shape[0], statistics.shape[2]))
    np.add.at(sums, member, statistics.swapaxes(0, 1))
    return sums.swapaxes(0, 1)


def draws(rng: np.random.Generator, resamples: int, count: int) -> FloatArray:
    """How often each of `count` things is drawn, (resamples, count); one thing alone needs no draw."""
    if count == 1:
        return np.ones((resamples, 1))
    drawn = rng.integers(0, count, (resamples, count))
    return np.stack([np.bincount(row, minlength=count) for row in drawn]).astype(np.float64)


def interval(statistics: FloatArray, clusters: Sequence[str], aggregate: Callable[[FloatArray], FloatArray],
             resamples: int = RESAMPLES, seed: int = SEED) -> tuple[float, float]:
    """95 % percentile interval of a metric that is a function of summed statistics.

    Questions about the same images err together, so whole clusters are drawn, with replacement.

    Args:
        statistics: Array (n, k), one row per sample.
        clusters: n names; samples of equal name stay together.
        aggregate: Sums (..., k) to scores (...).
        resamples: Number of resamples.
        seed: Of the draw.

    Returns:
        (2.5th, 97.5th percentile).
    """
    (sums,) = cluster_sums(statistics[None], clusters)
    rng = np.random.default_rng(seed)
    scores = []
    for start in range(0, resamples, _CHUNK):
        # A product with the sums is cheaper than gathering the drawn rows.
        scores.append(aggregate(draws(rng, min(_CHUNK, resamples - start), len(sums)) @ sums))
    low, high = np.percentile(np.concatenate(scores), [2.5, 97.5])
    return float(low), float(high)
