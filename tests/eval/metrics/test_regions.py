import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geotempo.eval.metrics.bootstrap import interval, ratio_from_sums
from geotempo.eval.metrics.boxes import Detection, box_counts, box_iou, f1_from_sums, match
from geotempo.eval.metrics.masks import mask_counts, overall_iou, sample_iou
from geotempo.model.errors import InputError

BOXES = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(1, 4), st.integers(1, 4)), max_size=6).map(
    lambda rows: [Detection(1, (x, y, x + w, y + h)) for x, y, w, h in rows])


def test_box_iou_by_hand():
    ious = box_iou([(0, 0, 4, 4)], [(0, 0, 4, 4), (2, 0, 6, 4), (4, 0, 8, 4), (1, 1, 3, 3)])
    assert ious.tolist() == [[1.0, 8 / 24, 0.0, 4 / 16]]


def test_matching_is_one_to_one_and_takes_the_best_pair_first():
    truth = [Detection(1, (0, 0, 10, 10))]
    near, exact = Detection(1, (0, 0, 10, 9)), Detection(1, (0, 0, 10, 10))
    assert match([near, exact], truth, 0.5) == [(1, 0)]
    assert box_counts([near, exact], truth) == (1, 1, 0)


def test_half_overlap_counts_and_less_does_not():
    truth = [Detection(1, (0, 0, 10, 10))]
    assert box_counts([Detection(1, (0, 0, 10, 5))], truth) == (1, 0, 0)
    assert box_counts([Detection(1, (0, 0, 10, 4.9))], truth) == (0, 1, 1)


def test_image_number_must_agree_and_label_only_on_request():
    truth, corners = [Detection(2, (0, 0, 4, 4), "road")], (0, 0, 4, 4)
    assert box_counts([Detection(1, corners, "road")], truth) == (0, 1, 1)
    assert box_counts([Detection(2, corners, "house")], truth) == (1, 0, 0)
    assert box_counts([Detection(2, corners, "house")], truth, label_aware=True) == (0, 1, 1)


def test_ignored_truth_is_neither_missed_nor_a_false_alarm():
    truth = [Detection(1, (0, 0, 4, 4), ignore=True), Detection(1, (10, 0, 14, 4))]
    assert box_counts([], truth) == (0, 0, 1)
    assert box_counts([Detection(1, (0, 0, 4, 4)), Detection(1, (20, 20, 24, 24))], truth) == (0, 1, 1)


def test_f1_by_hand():
    sums = np.array([[3.0, 1.0, 2.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert f1_from_sums(sums).tolist() == [pytest.approx(6 / 9), 1.0, 0.0]


@settings(max_examples=80, deadline=None)
@given(BOXES, BOXES)
def test_counts_add_up_and_are_symmetric_in_their_totals(predicted, truth):
    tp, fp, fn = box_counts(predicted, truth)
    assert (tp + fp, tp + fn) == (len(predicted), len(truth))
    assert box_counts(truth, truth) == (len(truth), 0, 0)
    assert box_counts(truth, predicted)[1:] == (len(truth) - box_counts(truth, predicted)[0],
                                                len(predicted) - box_counts(truth, predicted)[0])


def test_masks_equal_rmsin_and_lisa(metrics_fixtures):
    with gzip.open(metrics_fixtures / "golden_synthetic.json.gz", "rt") as file:
        golden = json.load(file)["rrsisd"]
    pairs = zip(golden["preds"], golden["gts"], strict=True)
    counts = [mask_counts(np.array(p, dtype=bool), np.array(t, dtype=bool)) for p, t in pairs]
    overall = float(overall_iou(np.array(counts, dtype=float).sum(axis=0)))
    assert 100 * overall == pytest.approx(golden["official"]["oIoU"])
    assert 100 * np.mean([sample_iou(*c, 0.0) for c in counts]) == pytest.approx(golden["official"]["mIoU"])
    assert 100 * np.mean([sample_iou(*c, 1.0) for c in counts]) == pytest.approx(golden["lisa_style_gIoU"])


def test_masks_of_other_shape_are_refused():
    with pytest.raises(InputError, match="resample"):
        mask_counts(np.zeros((2, 3), dtype=bool), np.zeros((3, 2), dtype=bool))
    assert float(overall_iou(np.zeros(2))) == 1.0


def test_interval_of_a_mean_is_the_normal_one():
    hits = np.tile([1.0, 0.0], 200)
    low, high = interval(np.stack([hits, np.ones(400)], axis=-1), [str(i) for i in range(400)], ratio_from_sums)
    assert (low, high) == (pytest.approx(0.5 - 1.96 * 0.025, abs=0.005), pytest.approx(0.5 + 1.96 * 0.025, abs=0.005))


def test_questions_about_one_place_widen_the_interval():
    statistics = np.stack([np.repeat([1.0, 0.0], 100), np.ones(200)], axis=-1)
    alone = interval(statistics, [str(i) for i in range(200)], ratio_from_sums)
    grouped = interval(statistics, [str(i // 20) for i in range(200)], ratio_from_sums)
    assert grouped[1] - grouped[0] > 3 * (alone[1] - alone[0])
    assert interval(statistics, ["a"] * 200, ratio_from_sums) == (0.5, 0.5)


def test_interval_is_reproducible():
    statistics = np.stack([np.arange(30.0) / 30, np.ones(30)], axis=-1)
    names = [str(i % 7) for i in range(30)]
    assert interval(statistics, names, ratio_from_sums) == interval(statistics, names, ratio_from_sums)
    assert interval(statistics, names, ratio_from_sums) != interval(statistics, names, ratio_from_sums, seed=1)
