"""Masks: intersections and unions, oIoU, mIoU, gIoU.

Names as in referring segmentation. oIoU (RMSIN; cIoU in LISA) divides summed intersections by summed unions. The
mean over samples has two conventions for "nothing there and nothing found": mIoU of RMSIN gives 0, gIoU of LISA
gives 1. Both are reported, because they differ by the share of empty samples. (Not the box losses GIoU and CIoU.)
"""

import numpy as np
import numpy.typing as npt

from geotempo.model.errors import InputError
from geotempo.model.geometry import BoolArray

FloatArray = npt.NDArray[np.float64]


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
