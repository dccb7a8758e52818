"""Paired bootstrap, randomisation test and Holm's correction, against exact values and their own promises."""

from itertools import product
from math import comb

import numpy as np
import pytest

from geotempo.eval.metrics.bootstrap import cluster_sums, interval, ratio_from_sums
from geotempo.eval.metrics.paired import holm, paired_interval, paired_test


def accuracy(right):
    """Statistics of one run: right or wrong, and 1; every question a cluster of its own."""
    rows = np.array([[float(value), 1.0] for value in right])
    return cluster_sums(rows[None], [f"{i:04d}" for i in range(len(rows))])


def test_cluster_sums_adds_the_rows_of_a_cluster_run_by_run():
    rows = np.arange(12.0).reshape(2, 3, 2)
    sums = cluster_sums(rows, ["b", "a", "b"])
    assert sums.shape == (2, 2, 2)
    assert np.array_equal(sums[0], [[2, 3], [4, 6]]) and np.array_equal(sums[1], [[8, 9], [16, 18]])


def test_a_difference_on_every_cluster_has_no_spread_however_much_the_clusters_differ():
    rng = np.random.default_rng(1)
    base = rng.random(50)
    first, second = (np.stack([base + shift, np.ones(50)], axis=1)[None] for shift in (0.25, 0.0))
    assert paired_interval(first, second, ratio_from_sums) == pytest.approx((0.25, 0.25))
    assert interval(first[0], [str(i) for i in range(50)], ratio_from_sums)[1] > 0.35  # unpaired, it would drown


def test_the_interval_of_paired_answers_is_that_of_their_differences():
    rng = np.random.default_rng(2)
    first, second = rng.random(80), rng.random(80)
    low, high = paired_interval(*(np.stack([x, np.ones(80)], axis=1)[None] for x in (first, second)), ratio_from_sums, 20000)
    found = first - second
    spread = 1.96 * found.std() / 80**0.5
    assert (low, high) == pytest.approx((found.mean() - spread, found.mean() + spread), abs=0.01)


def test_several_runs_widen_the_interval_by_what_differs_between_them():
    right = np.array([1, 0] * 50)
    one, other = np.zeros(100, dtype=int), np.ones(100, dtype=int)
    second = accuracy(right)
    single = paired_interval(accuracy(right), second, ratio_from_sums)
    pooled = paired_interval(np.concatenate([accuracy(one), accuracy(other)]), second, ratio_from_sums)
    assert single == (0.0, 0.0)
    assert pooled[0] == pytest.approx(-0.5, abs=0.1) and pooled[1] == pytest.approx(0.5, abs=0.1)


def test_randomisation_of_yes_no_questions_is_mcnemars_test():
    first = [True] * 12 + [False] * 3 + [True] * 20
    second = [False] * 12 + [True] * 3 + [True] * 20
    exact = 2 * sum(comb(15, k) for k in range(4)) / 2**15  # 12 against 3 of 15 questions on which they differ
    assert paired_test(accuracy(first), accuracy(second), ratio_from_sums, 40000) == pytest.approx(exact, abs=0.005)


def test_randomisation_agrees_with_all_exchanges_of_unequal_clusters():
    rng = np.random.default_rng(3)
    a, b = (np.stack([rng.random(8) * size, size], axis=1) for size in [np.arange(1.0, 9.0)] * 2)
    found = abs(ratio_from_sums(a.sum(0)) - ratio_from_sums(b.sum(0)))
    exchanges = [np.array(choice)[:, None] for choice in product((0, 1), repeat=8)]
    reached = [abs(ratio_from_sums((k * a + (1 - k) * b).sum(0)) - ratio_from_sums((k * b + (1 - k) * a).sum(0))) >= found - 1e-12
               for k in exchanges]
    assert paired_test(a[None], b[None], ratio_from_sums, 40000) == pytest.approx(np.mean(reached), abs=0.01)


def test_equal_systems_differ_by_nothing_and_p_is_one():
    run = accuracy([True, False, True])
    assert paired_test(run, run, ratio_from_sums) == 1.0
    assert paired_interval(run, run, ratio_from_sums) == (0.0, 0.0)


def test_systems_that_do_not_differ_are_rarely_told_apart():
    """Under the null the p-value is below 0.05 in about 5 of 100 comparisons."""
    rng = np.random.default_rng(4)
    p = [paired_test(*(accuracy(rng.random(60) < 0.6) for _ in range(2)), ratio_from_sums, 499, seed) for seed in range(200)]
    assert np.mean(np.array(p) <= 0.05) < 0.1


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0] and holm([0.02]) == [0.02] and holm([]) == []
