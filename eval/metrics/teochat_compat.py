"""TEOChat's own scores, bug for bug (Irvin et al. 2024; ermongroup/TEOChat@2ed7387, `videollava/eval`).

For numbers that compare with TEOChat's tables. What the official code does, and this reproduces:

- a task without one right answer is missing from the result;
- with keywords (xBD questions) any keyword inside both texts is a hit, so "nothing" answers "no";
- a box of one to three numbers stops the whole split with an IndexError (`OfficialCrash` here);
- no predicted pixel gives NaN;
- an answer outside the classes costs no false negative;
- holes of polygons are filled, and filled shapes include their border: `[10, 10, 30, 30]` is 2704 of 256 x 256 pixels.

`geotempo.eval.metrics.teochat` prints these beside the strict scores.
"""

import re
import string
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from PIL import Image, ImageDraw

from geotempo.model.errors import InputError

FloatArray = npt.NDArray[np.float64]
ByteArray = npt.NDArray[np.uint8]
Output = Mapping[str, Any]
SIZE = 256
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_GROUP = re.compile(r"\[(.*?)\]")
STOPS = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, shapely.errors.ShapelyError)
"""What broken boxes and polygons raise in shapely, PIL and the official code."""


class OfficialCrash(InputError):
    """Outputs on which the official code stops with an exception; it has no score for them."""


def clean(text: str) -> str:
    """Lower case without ASCII punctuation; blanks stay, and `0_to_10` becomes `0to10`."""
    return text.lower().translate(_PUNCTUATION)


def classification_metrics(outputs: Iterable[Output], keywords: Sequence[str] = ()) -> dict[str, float]:
    """Accuracy of each task, 0-1, under the key `<task>_accuracy`; a task without a right answer has none.

    Args:
        outputs: `response`, `ground_truth` and `task` of each sample.
        keywords: Where given, one that is part of both texts is enough.
    """
    right: dict[str, int] = {}
    every: dict[str, int] = {}
    for output in outputs:
        said, truth, task = clean(output["response"]), clean(output["ground_truth"]), output["task"]
        if said == truth or any(word in said and word in truth for word in keywords):
            right[task] = right.get(task, 0) + 1
        every[task] = every.get(task, 0) + 1
    return {f"{task}_accuracy": hits / every[task] for task, hits in right.items()}


def fill(polygons: Iterable[Sequence[tuple[float, float]]]) -> ByteArray:
    """Rings as a SIZE x SIZE mask of 0 and 1, each filled with its border (PIL)."""
    image = Image.new("L", (SIZE, SIZE), 0)
    draw = ImageDraw.Draw(image)
    for ring in polygons:
        draw.polygon(list(ring), outline=1, fill=1)
    return np.array(image)


def polygon_mask(wkt: str | Sequence[str]) -> ByteArray:
    """The exteriors of one or several WKT polygons as a mask."""
    return _filled((wkt,) if isinstance(wkt, str) else tuple(wkt))


@lru_cache(maxsize=256)
def _filled(shapes: tuple[str, ...]) -> ByteArray:
    """Read-only; the two modes and several questions ask for the same polygons one after the other."""
    mask = fill([tuple(shape.exterior.coords) for shape in shapely.from_wkt(shapes)])
    mask.flags.writeable = False
    return mask


def box_rings(response: str) -> list[list[tuple[float, float]]]:
    """The bracket groups of an answer that hold numbers, as rings in pixels.

    Raises:
        IndexError: A group holds one to three numbers, as in the official code.
    """
    rings = []
    for group in _GROUP.findall(response):
        try:
            numbers = [float(part) for part in group.split(",")]
        except ValueError:
            continue
        x1, y1, x2, y2 = (numbers[i] / 100 * SIZE for i in range(4))
        rings.append([(x1, y1), (x1, y2), (x2, y2), (x2, y1), (x1, y1)])
    return rings


def evaluate_masks(outputs: Iterable[Output]) -> dict[str, float]:
    """Pixel scores of boxes against polygons, over one confusion matrix of the whole split.

    Args:
        outputs: `response`, `ground_truth` and `polygon` (WKT in pixels of 256 x 256) of each sample.

    Returns:
        `oa`, `mIoU`, `kappa`, `fwIoU`, and of the boxes' class `precision`, `recall`, `f1` (the one TEOChat's table
        prints) and `IoU`, 0-1, NaN where the official code divides by zero.

    Raises:
        OfficialCrash: The official code stops on one of the samples.
    """
    matrix = np.zeros((2, 2))
    for index, output in enumerate(outputs):
        try:
            truth = polygon_mask(output["polygon"]) if "[" in output["ground_truth"] else fill(())
            said = fill(box_rings(output["response"]) if "[" in output["response"] else ())
        except STOPS as error:
            raise OfficialCrash(f"the official code stops on sample {index}: {type(error).__name__}: {error}") from None
        matrix += np.bincount(2 * truth.reshape(-1) + said.reshape(-1), minlength=4).reshape(2, 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _pixel_scores(matrix)


def _pixel_scores(matrix: FloatArray) -> dict[str, float]:
    """Scores of a 2 x 2 matrix, truth by prediction, with the official code's epsilons."""
    total, right = matrix.sum(), np.diag(matrix)
    row, column = matrix.sum(axis=1), matrix.sum(axis=0)
    precision, recall = matrix[1, 1] / column[1], matrix[1, 1] / row[1]
    observed, expected = right.sum() / total, (column / total * row / total).sum()
    share, overlap = row / total, right / (row + column - right)
    return {
        "oa": float(observed), "mIoU": float(np.nanmean(right / (row + column - right + 1e-7))),
        "kappa": float((observed - expected) / (1 - expected)),
        "fwIoU": float((share[share > 0] * overlap[share > 0]).sum()),
        "precision": float(precision), "recall": float(recall),
        "f1": float(2 * recall * precision / (recall + precision)), "IoU": float(overlap[1]),
    }


def change_detection_classification(outputs: Sequence[Output], classes: Sequence[str],
                                    skipped: Sequence[str] = ()) -> dict[str, float]:
    """Pixel F1 of a class given to each polygon.

    Args:
        outputs: `response`, `ground_truth` and `polygon` of each sample.
        classes: Labels after `clean`.
        skipped: True labels of samples that are left out.

    Returns:
        `f1` (mean over classes), `w_f1` (weighted by the classes' share of the true pixels; QFabric), `inv_w_f1` (by its
        inverse; xBD damage), 0-1.

    Raises:
        OfficialCrash: The official code stops on one of the samples, or there are none.
    """
    counts = {name: np.zeros(4) for name in classes}  # true and false positives, false negatives, pixels
    try:
        counted = [_count_class(counts, classes, output) for output in outputs if not _is_skipped(output, skipped)]
        if not counted:
            raise ZeroDivisionError("division by zero")
    except STOPS as error:
        raise OfficialCrash(f"the official code stops: {type(error).__name__}: {error}") from None
    with np.errstate(invalid="ignore", divide="ignore"):
        # Labels outside the classes have no score, but their pixels count in the shares.
        shares = np.array([counts[name][3] for name in classes]) / sum(count[3] for count in counts.values())
        inverse = np.where(shares == 0, 0.0, 1 / shares)
    scores = np.array([_f1(*counts[name][:3]) for name in classes])
    weight = inverse.sum()
    return {"f1": float(scores.mean()), "w_f1": float((scores * shares).sum()),
            "inv_w_f1": float((scores * inverse).sum() / weight) if weight > 0 else 0.0}


def _is_skipped(output: Output, skipped: Sequence[str]) -> bool:
    """Whether a sample is left out; its polygon is read all the same, and stops the official code where it is broken."""
    polygon_mask(output["polygon"])
    return clean(output["ground_truth"]) in skipped


def _count_class(counts: dict[str, FloatArray], classes: Sequence[str], output: Output) -> int:
    """Add one sample; returns its pixels."""
    said, truth = clean(output["response"]), clean(output["ground_truth"])
    pixels = int(polygon_mask(output["polygon"]).sum())
    if said in classes:
        classes.index(truth)  # a ValueError there stops the official code
        counts[said][0 if said == truth else 1] += pixels
        counts[truth][2] += 0 if said == truth else pixels
    counts.setdefault(truth, np.zeros(4))[3] += pixels
    return pixels


def _f1(hits: float, extra: float, missed: float) -> float:
    """F1, 0 where it is not defined."""
    precision = hits / (hits + extra) if hits + extra else 0.0
    recall = hits / (hits + missed) if hits + missed else 0.0
    return 2 * (precision * recall) / (precision + recall) if precision + recall else 0.0
