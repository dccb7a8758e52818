"""Two systems on the same samples: paired bootstrap, paired randomisation test, Holm's correction.

Both systems' scores are functions of summed statistics, and whole clusters (the samples on one set of images) are drawn or
exchanged, since questions about the same images err together. A system may stand for several runs (seeds of one recipe): its
statistics are then the mean over its runs.
"""

from collections.abc import Callable, Sequence

import numpy as np

from geotempo.eval.metrics.bootstrap import RESAMPLES, SEED, FloatArray, draws

Aggregate = Callable[[FloatArray], FloatArray]

PERMUTATIONS = 9999
_CHUNK = 250  # resamples at once: with 10,000 clusters 20 MB of weights


def paired_interval(first: FloatArray, second: FloatArray, aggregate: Aggregate, resamples: int = RESAMPLES,
                    seed: int = SEED) -> tuple[float, float]:
    """95 % percentile interval of the difference between two systems (paired bootstrap, Efron and Tibshirani 1993; Koehn 2004).

    The same clusters are drawn for both systems. Where a system has several runs, these are drawn with replacement too, so that
    the interval also holds what another seed would have changed; with three runs that is a rough account of it.

    Args:
        first: Array (runs, clusters, k) of `cluster_sums`.
        second: The other system's, over the same clusters; its number of runs may differ.
        aggregate: Sums (..., k) to scores (...).
        resamples: Number of resamples.
        seed: Of the draw.

    Returns:
        (2.5th, 97.5th percentile) of first minus second.
    """
    rng = np.random.default_rng(seed)
    differences = []
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        drawn = draws(rng, size, first.shape[1])
        scores = [aggregate(_weighted(draws(rng, size, len(side)) / len(side), drawn, side)) for side in (first, second)]
        differences.append(scores[0] - scores[1])
    low, high = np.percentile(np.concatenate(differences), [2.5, 97.5])
    return float(low), float(high)


def _weighted(runs: FloatArray, clusters: FloatArray, sums: FloatArray) -> FloatArray:
    """Sums over runs and clusters, each with its weight: (resamples, k)."""
    of_runs = np.stack([clusters @ run for run in sums])  # (runs, resamples, k)
    weighted: FloatArray = np.einsum("br,rbk->bk", runs, of_runs)
    return weighted


def paired_test(first: FloatArray, second: FloatArray, aggregate: Aggregate, permutations: int = PERMUTATIONS,
                seed: int = SEED) -> float:
    """Two-sided p-value of "the two systems are one" by approximate randomisation (Noreen 1989; Riezler and Maxwell 2005).

    Were the systems the same, exchanging their answers to the questions of a cluster would change nothing, so all
    clusters are exchanged or kept at random and the differences that arise are compared with the one that was found.
    For one yes/no question per cluster this is McNemar's exact test, sampled.

    Args:
        first: Array (runs, clusters, k) of `cluster_sums`; runs are averaged first.
        second: The other system's, over the same clusters.
        aggregate: Sums (..., k) to scores (...).
        permutations: Number of random exchanges.
        seed: Of the exchanges.

    Returns:
        (1 + differences at least as large) / (1 + permutations): never 0.
    """
    rng = np.random.default_rng(seed)
    a, b = first.mean(axis=0), second.mean(axis=0)
    found = abs(float(aggregate(a.sum(axis=0)) - aggregate(b.sum(axis=0))))
    reached = 0
    for start in range(0, permutations, _CHUNK):
        kept = rng.integers(0, 2, (min(_CHUNK, permutations - start), len(a))).astype(np.float64)
        exchanged = aggregate(kept @ a + (1 - kept) @ b) - aggregate(kept @ b + (1 - kept) @ a)
        # Sums in another order differ in their last digits; an equal difference must count.
        reached += int((np.abs(exchanged) >= found - 1e-12).sum())
    return (1 + reached) / (1 + permutations)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction (Holm 1979): p-values under which no test of the family is wrongly positive in 95 of 100 families.

    Args:
        p_values: Of the tests made together, any order.

    Returns:
        Adjusted p-values in the same order, at most 1.
    """
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted
