"""Lists of boxes: IoU, greedy one-to-one matching, precision, recall and F1 at an IoU threshold."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geotempo.model.errors import InputError

PROTOCOL = "box-greedy-v1"
FloatArray = npt.NDArray[np.float64]
Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Detection:
    """A box to compare.

    Attributes:
        image: Acquisition number, from 1; boxes on different acquisitions never match.
        corners: (x1, y1, x2, y2) in pixels, half-open, x1 < x2, y1 < y2.
        label: Text, compared only on request.
        ignore: True on a true box that the image cannot show; finding it is neither right nor wrong.
    """

    image: int
    corners: Corners
    label: str = ""
    ignore: bool = False


def box_iou(first: Sequence[Corners], second: Sequence[Corners]) -> FloatArray:
    """Intersection over union of every pair, continuous half-open coordinates (no +1 pixel).

    Args:
        first: n boxes.
        second: m boxes.

    Returns:
        Array (n, m), 0-1.
    """
    a = np.asarray(first, dtype=np.float64).reshape(-1, 1, 4)
    b = np.asarray(second, dtype=np.float64).reshape(1, -1, 4)
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0.0, None)
    shared = sides.prod(axis=-1)
    areas = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1)
    overlaps: FloatArray = shared / (areas - shared)
    return overlaps


def match(predicted: Sequence[Detection], truth: Sequence[Detection], threshold: float,
          label_aware: bool = False) -> list[tuple[int, int]]:
    """Greedy one-to-one matching: the pair with the highest IoU first, ties in the order given.

    Args:
        predicted: Boxes of the answer.
        truth: True boxes of the same sample.
        threshold: Least IoU of a pair, 0-1.
        label_aware: Also ask for equal labels.

    Returns:
        Pairs of indices (predicted, truth).
    """
    overlaps = box_iou([box.corners for box in predicted], [box.corners for box in truth])
    pairs = sorted((-overlaps[i, j], i, j) for i, j in np.argwhere(overlaps >= threshold).tolist())
    used: tuple[set[int], set[int]] = (set(), set())
    matches = []
    for _, i, j in pairs:
        same = predicted[i].image == truth[j].image and (not label_aware or predicted[i].label == truth[j].label)
        if same and i not in used[0] and j not in used[1]:
            used[0].add(i)
            used[1].add(j)
            matches.append((i, j))
    return matches


def box_counts(predicted: Sequence[Detection], truth: Sequence[Detection], threshold: float = 0.5,
               label_aware: bool = False) -> tuple[int, int, int]:
    """True positives, false positives and false negatives of one sample.

    True boxes with `ignore` are matched last; what matches them is dropped, and they are never missed.

    Args:
        predicted: Boxes of the answer; empty for an unreadable one, so that every true box is missed.
        truth: True boxes.
        threshold: Least IoU of a match, 0-1.
        label_aware: Also ask for equal labels.
    """
    real = [box for box in truth if not box.ignore]
    found = match(predicted, real, threshold, label_aware)
    taken = {i for i, _ in found}
    left = [box for i, box in enumerate(predicted) if i not in taken]
    excused = match(left, [box for box in truth if box.ignore], threshold)
    return len(found), len(left) - len(excused), len(real) - len(found)


def f1_from_sums(sums: FloatArray) -> FloatArray:
    """F1 from summed counts.

    Args:
        sums: Array (..., 3) of true positives, false positives, false negatives.

    Returns:
        Array (...), 0-1; 1 where there was nothing to find and nothing was found.
    """
    right = 2 * sums[..., 0]
    every = right + sums[..., 1] + sums[..., 2]
    scores: FloatArray = np.divide(right, every, out=np.ones_like(every), where=every > 0)
    return scores


def statistics(predicted: Sequence[Sequence[Detection] | None], truth: Sequence[Sequence[Detection]],
               threshold: float = 0.5, label_aware: bool = False) -> FloatArray:
    """True positives, false positives and false negatives of each sample, array (n, 3).

    An unreadable answer misses every true box; where there is none to miss it counts as one false positive, so that
    silence is never better than the answer "nothing".

    Args:
        predicted: n lists of boxes, None where the answer is unreadable.
        truth: n lists of true boxes.
        threshold: Least IoU of a match, 0-1.
        label_aware: Also ask for equal labels.

    Raises:
        InputError: Lengths that differ.
    """
    if len(predicted) != len(truth):
        raise InputError(f"{len(predicted)} answers and {len(truth)} lists of true boxes; there must be one for each answer")
    rows = np.zeros((len(truth), 3))
    for row, boxes, known in zip(rows, predicted, truth, strict=True):
        if boxes is None:
            missed = sum(not box.ignore for box in known)
            row[:] = 0, 0 if missed else 1, missed
        else:
            row[:] = box_counts(boxes, known, threshold, label_aware)
    return rows


def score(predicted: Sequence[Sequence[Detection] | None], truth: Sequence[Sequence[Detection]],
          thresholds: Sequence[float] = (0.5,), label_aware: bool = False) -> dict[str, Any]:
    """Scores times 100, one box matched to at most one other.

    Args:
        predicted: n lists of boxes, None where the answer is unreadable.
        truth: n lists of true boxes.
        thresholds: Least IoUs of a match, 0-1.
        label_aware: Also ask for equal labels.

    Returns:
        For each threshold t `precision@t`, `recall@t` and `F1@t` of the pooled counts, and `mean F1@t`, the mean over
        samples, in which an unreadable answer is 0: the strict one, which no answer raises by becoming unreadable.
        `unreadable`, `n`, `protocol`.

    Raises:
        InputError: Lengths that differ.
    """
    result: dict[str, Any] = {}
    for threshold in thresholds:
        rows = statistics(predicted, truth, threshold, label_aware)
        hit, extra, missed = rows.sum(axis=0).tolist()
        result |= {f"precision@{threshold}": 100 * hit / (hit + extra) if hit + extra else 0.0,
                   f"recall@{threshold}": 100 * hit / (hit + missed) if hit + missed else 0.0,
                   f"F1@{threshold}": 100 * float(f1_from_sums(rows.sum(axis=0))),
                   f"mean F1@{threshold}": 100 * float(f1_from_sums(rows).mean()) if len(rows) else 0.0}
    unreadable = sum(boxes is None for boxes in predicted)
    return {**result, "unreadable": unreadable, "n": len(truth), "protocol": PROTOCOL + (" labels" if label_aware else "")}
