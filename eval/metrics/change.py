"""Maps of change: binary change, LEVIR-MCI's classes, semantic change of SECOND, building damage of xView2.

Every score is a function of a confusion matrix pooled over the set, truth in rows. The rows of `confusions` may be
added and bootstrapped: each `*_from_sums` takes sums of shape (..., classes * classes).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from geotempo.model.errors import InputError

FloatArray = npt.NDArray[np.float64]
LabelArray = npt.NDArray[np.integer[Any]]
SECOND_CLASSES = 7
LEVIR_MCI_CLASSES = 3
DAMAGE_CLASSES = 5


def confusions(predicted: Sequence[LabelArray], truth: Sequence[LabelArray], classes: int) -> FloatArray:
    """Confusion matrix of each sample, flattened.

    Args:
        predicted: n arrays of labels 0 to classes - 1, of any shape.
        truth: n arrays of the same shapes.
        classes: Number of classes.

    Returns:
        Array (n, classes * classes); entry `truth * classes + predicted`.

    Raises:
        InputError: Lengths or shapes that differ, or a label outside the classes.
    """
    if len(predicted) != len(truth):
        raise InputError(f"{len(predicted)} maps and {len(truth)} true maps; there must be one for each")
    rows = np.zeros((len(truth), classes * classes))
    for row, said, known in zip(rows, predicted, truth, strict=True):
        a, b = np.asarray(said), np.asarray(known)
        if a.shape != b.shape:
            raise InputError(f"maps of shape {a.shape} and {b.shape} cannot be compared; resample one of them")
        for name, labels in (("predicted", a), ("true", b)):
            if labels.size and not 0 <= labels.min() <= labels.max() < classes:
                raise InputError(f"a {name} map holds labels {labels.min()} to {labels.max()}; allowed: 0 to {classes - 1}")
        row[:] = np.bincount((b.astype(np.int64) * classes + a.astype(np.int64)).reshape(-1), minlength=classes * classes)
    return rows


def _square(sums: FloatArray) -> FloatArray:
    side = round(sums.shape[-1] ** 0.5)
    return sums.reshape(*sums.shape[:-1], side, side)


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    """Part by whole, 0 where the whole is 0."""
    result: FloatArray = np.divide(part, whole, out=np.zeros(np.shape(whole)), where=np.asarray(whole) > 0)
    return result


def _diagonal(matrix: FloatArray) -> FloatArray:
    return np.diagonal(matrix, axis1=-2, axis2=-1)


def class_ious(sums: FloatArray) -> FloatArray:
    """IoU of each class, array (..., classes), 0 where a class neither occurs nor is predicted."""
    matrix = _square(sums)
    right = _diagonal(matrix)
    return _ratio(right, matrix.sum(axis=-1) + matrix.sum(axis=-2) - right)


def change_scores(sums: FloatArray) -> dict[str, FloatArray]:
    """`F1`, `IoU`, `precision`, `recall` of the change class alone, 0-1 (ChangeFormer, BIT `F1_1`, `iou_1`).

    Not their `mf1` and `miou`, which are means over both classes and look much better.

    Args:
        sums: Array (..., 4).
    """
    matrix = _square(sums)
    hit, extra, missed = matrix[..., 1, 1], matrix[..., 0, 1], matrix[..., 1, 0]
    return {"F1": _ratio(2 * hit, 2 * hit + extra + missed), "IoU": _ratio(hit, hit + extra + missed),
            "precision": _ratio(hit, hit + extra), "recall": _ratio(hit, hit + missed)}


def levir_mci_scores(sums: FloatArray) -> dict[str, FloatArray]:
    """`mIoU` over all classes with the background, `OA`, `MPA`, `FWIoU`, 0-1 (Change-Agent `utils_tool/metrics.py`).

    Args:
        sums: Array (..., 9): background, and the changed roads and buildings.
    """
    matrix, ious = _square(sums), class_ious(sums)
    total, row = matrix.sum(axis=(-2, -1)), matrix.sum(axis=-1)
    right = _diagonal(matrix)
    return {"mIoU": ious.mean(axis=-1), "OA": _ratio(right.sum(axis=-1), total), "MPA": _ratio(right, row).mean(axis=-1),
            "FWIoU": _ratio((row * ious).sum(axis=-1), total)}


def second_scores(sums: FloatArray) -> dict[str, FloatArray]:
    """`mIoU`, `SeK`, `Fscd` of semantic change (SECOND, Yang et al. 2020; Bi-SRNet `SCDD_eval_all`).

    mIoU is the mean of the IoU of no change and of change; SeK (-e to 1) is Cohen's kappa without the unchanged pixels
    times exp(IoU of change - 1); Fscd is the F1 of the classes on changed pixels.

    Args:
        sums: Array (..., 49) over the maps of both dates; class 0 is no change.
    """
    matrix = _square(sums)
    total, kept = matrix.sum(axis=(-2, -1)), matrix[..., 0, 0]
    said, known = total - matrix[..., :, 0].sum(axis=-1), total - matrix[..., 0, :].sum(axis=-1)
    both = matrix[..., 1:, 1:].sum(axis=(-2, -1))
    change = _ratio(both, total - kept)
    right = _diagonal(matrix)[..., 1:].sum(axis=-1)
    return {"mIoU": (_ratio(kept, total - both) + change) / 2, "SeK": _kappa(matrix) * np.exp(change - 1),
            "Fscd": _ratio(2 * right, said + known)}


def _kappa(matrix: FloatArray) -> FloatArray:
    """Cohen's kappa without the pixels that both call unchanged; 0 where it is not defined."""
    rest = matrix.copy()
    rest[..., 0, 0] = 0
    total = rest.sum(axis=(-2, -1))
    observed = _ratio(_diagonal(rest).sum(axis=-1), total)
    expected = _ratio((rest.sum(axis=-1) * rest.sum(axis=-2)).sum(axis=-1), total**2)
    defined = (total > 0) & (expected < 1)
    result: FloatArray = np.divide(observed - expected, 1 - expected, out=np.zeros_like(total), where=defined)
    return result


def xview2_scores(sums: FloatArray) -> dict[str, FloatArray]:
    """`score` = 0.3 localisation F1 + 0.7 damage F1, 0-1 (xView2; Gupta et al. 2019, `xview2_metrics.py`).

    Damage F1 is the harmonic mean of the four classes' F1 on pixels that are buildings in truth, with 1e-6 added to
    each: a class that is never right makes it nearly 0. TEOChat's damage F1 is no such score.

    Args:
        sums: Array (..., 25); 0 is background, 1 to 4 are no, minor, major damage and destroyed. Where buildings come
            from a separate map, set damage to 0 outside of it.
    """
    matrix = _square(sums)
    hit, missed = matrix[..., 1:, 1:].sum(axis=(-2, -1)), matrix[..., 1:, 0].sum(axis=-1)
    extra = matrix[..., 0, 1:].sum(axis=-1)
    buildings = matrix[..., 1:, :]
    right = np.diagonal(matrix, axis1=-2, axis2=-1)[..., 1:]
    damage = _ratio(2 * right, buildings.sum(axis=-1) + buildings[..., 1:].sum(axis=-2))
    localisation = _ratio(2 * hit, 2 * hit + missed + extra)
    harmonic = damage.shape[-1] / (1 / (damage + 1e-6)).sum(axis=-1)
    names = ("F1 no damage", "F1 minor damage", "F1 major damage", "F1 destroyed")
    return {"score": 0.3 * localisation + 0.7 * harmonic, "localisation F1": localisation, "damage F1": harmonic,
            **{name: damage[..., i] for i, name in enumerate(names)}}


PROTOCOLS = {
    "binary": (2, change_scores), "levir_mci": (LEVIR_MCI_CLASSES, levir_mci_scores),
    "second": (SECOND_CLASSES, second_scores), "xview2": (DAMAGE_CLASSES, xview2_scores),
}
"""Name: number of classes, and the scores of a summed confusion matrix."""


def score(predicted: Sequence[LabelArray], truth: Sequence[LabelArray], protocol: str = "binary") -> dict[str, Any]:
    """Scores times 100 over a set of maps.

    Args:
        predicted: n arrays of labels. For SECOND the maps of both dates, one after the other.
        truth: n arrays of the same shapes.
        protocol: A key of `PROTOCOLS`.

    Returns:
        The protocol's scores, `n`, `protocol`.

    Raises:
        InputError: See `confusions`; an unknown protocol.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"unknown protocol {protocol!r}; allowed: {', '.join(PROTOCOLS)}")
    classes, scores = PROTOCOLS[protocol]
    sums = confusions(predicted, truth, classes).sum(axis=0)
    return {**{name: 100 * float(value) for name, value in scores(sums).items()}, "n": len(truth), "protocol": protocol}
