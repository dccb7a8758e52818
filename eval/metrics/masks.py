"""Masks: intersections and unions, Pr@t, mIoU, gIoU, oIoU under a named protocol.

Names as in referring segmentation; `NAMES` maps the others. oIoU divides summed intersections by summed unions. The
mean over samples has two conventions for "nothing there and nothing found": mIoU of RMSIN gives 0, gIoU of LISA gives
1. Both are reported, because they differ by the share of empty samples. (Not the box losses GIoU and CIoU; and the
"mIoU" of LEVIR-MCI and SECOND is a mean over classes, see `geotempo.eval.metrics.change`.)
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from geotempo.model.errors import InputError
from geotempo.model.geometry import BoolArray

FloatArray = npt.NDArray[np.float64]
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
PROTOCOLS = {
    "rmsin": "mIoU with 0 where the union is empty, an unreadable answer is an empty mask (RMSIN `test.py`; RRSIS-D)",
    "lisa": "gIoU with 1 where the union is empty, cIoU; an unreadable answer is an empty mask (LISA `validate`)",
    "qag": "mean IoU as rmsin, pooled IoU and F1 of the pixels (VisTA `test.py`; QAG-360K)",
    "strict": "as lisa, but an unreadable answer has every pixel wrong",
}
NAMES = {
    "cIoU (LISA)": "oIoU", "CIoU (surveys)": "oIoU", "cumulative IoU": "oIoU", "overall IoU": "oIoU",
    "gIoU (LISA)": "mIoU, but 1 instead of 0 where truth and answer are empty", "mean IoU": "mIoU",
}
"""Other names in the literature and what they are here."""


def mask_counts(predicted: BoolArray, truth: BoolArray) -> tuple[int, int]:
    """Pixels in the intersection and in the union of two H x W masks.

    Raises:
        InputError: The shapes differ.
    """
    if predicted.shape != truth.shape:
        raise InputError(f"masks of shape {predicted.shape} and {truth.shape} cannot be compared; resample one of them")
    return int(np.count_nonzero(predicted & truth)), int(np.count_nonzero(predicted | truth))


def sample_iou(intersection: float, union: float, empty: float) -> float:
    """IoU of one sample; `empty` where the union is empty (0 for mIoU, 1 for gIoU)."""
    return intersection / union if union else empty


def overall_iou(sums: FloatArray) -> FloatArray:
    """OIoU from summed counts.

    Args:
        sums: Array (..., 2) of intersection and union in pixels.

    Returns:
        Array (...), 0-1; 1 where all unions are empty.
    """
    shared, every = sums[..., 0], sums[..., 1]
    scores: FloatArray = np.divide(shared, every, out=np.ones_like(every), where=every > 0)
    return scores


def statistics(predicted: Sequence[BoolArray | None], truth: Sequence[BoolArray], protocol: str = "rmsin") -> FloatArray:
    """Rows of sufficient statistics: hits at each threshold, IoU, 1, intersection, union; array (n, 9).

    Args:
        predicted: n masks, None where the answer is unreadable.
        truth: n true masks of the same shapes.
        protocol: A key of `PROTOCOLS`.

    Raises:
        InputError: Lengths or shapes that differ, or an unknown protocol.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"unknown protocol {protocol!r}; allowed: {', '.join(PROTOCOLS)}")
    if len(predicted) != len(truth):
        raise InputError(f"{len(predicted)} masks and {len(truth)} true masks; there must be one for each answer")
    empty = 1.0 if protocol in ("lisa", "strict") else 0.0
    rows = np.zeros((len(truth), len(THRESHOLDS) + 4))
    for row, mask, known in zip(rows, predicted, truth, strict=True):
        if mask is None and protocol == "strict":
            shared, union = 0, known.size
        else:
            shared, union = mask_counts(np.zeros_like(known) if mask is None else mask, known)
        iou = sample_iou(shared, union, empty)
        row[:] = [*(iou >= threshold for threshold in THRESHOLDS), iou, 1.0, shared, union]
    return rows


def score(predicted: Sequence[BoolArray | None], truth: Sequence[BoolArray], protocol: str = "rmsin") -> dict[str, Any]:
    """Scores times 100.

    Args:
        predicted: n H x W masks, None where the answer is unreadable.
        truth: n true masks of the same shapes.
        protocol: A key of `PROTOCOLS`.

    Returns:
        `Pr@0.5` to `Pr@0.9` (share with IoU >= t), `oIoU` (`cIoU` is the same number), `mIoU` under `rmsin` and `qag`,
        `gIoU` under `lisa` and `strict`, `F1` of all pixels under `qag`; `unreadable`, `n`, `protocol`.

    Raises:
        InputError: See `statistics`.
    """
    rows = statistics(predicted, truth, protocol)
    sums, n = rows.sum(axis=0), max(1, len(rows))
    result: dict[str, Any] = {f"Pr@{t}": 100 * float(sums[i]) / n for i, t in enumerate(THRESHOLDS)}
    overall = float(overall_iou(sums[-2:]))
    result["gIoU" if protocol in ("lisa", "strict") else "mIoU"] = 100 * float(sums[-4]) / n
    result |= {"oIoU": 100 * overall, "cIoU": 100 * overall}
    if protocol == "qag":
        result["F1"] = 100 * 2 * overall / (1 + overall)
    return {**result, "unreadable": sum(mask is None for mask in predicted), "n": len(rows), "protocol": protocol}
