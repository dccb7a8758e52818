"""One box for one phrase: Pr@t, mean IoU and cumulative IoU under a named protocol.

Of a set that asks for one box per question (DIOR-RSVG, Zhan et al. 2023; VRSBench, Li et al. 2024; RefCOCO). For lists
of boxes see `geotempo.eval.metrics.boxes`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from geotempo.eval.metrics.bootstrap import ratio_from_sums
from geotempo.model.errors import InputError

FloatArray = npt.NDArray[np.float64]
Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Protocol:
    """How boxes are read and compared.

    Attributes:
        description: One line.
        thresholds: Of Pr@t, the IoU that is enough.
        border: 1 where a box includes the pixels of its right and lower edge, else 0.
        cumulative: Whether there is a cumulative IoU, sum of intersections over sum of unions.
    """

    description: str
    thresholds: tuple[float, ...]
    border: int = 0
    cumulative: bool = True


PROTOCOLS = {
    "strict": Protocol("exactly one [x1, y1, x2, y2], corners in order; an unreadable box has IoU 0", (0.5, 0.7), cumulative=False),
    "dior_rsvg": Protocol("the first four numbers; an unreadable box has IoU 0 and the truth's area in the union",
                          (0.5, 0.6, 0.7, 0.8, 0.9)),
    "vrsbench": Protocol("the first four runs of digits, +1 pixel per side; an unreadable box has IoU 0 and is missing from "
                         "the cumulative IoU (VRSBench `compute_metrics.ipynb`)", (0.5, 0.7), border=1),
    "geobench": Protocol("the first four numbers; an unreadable box has IoU 0 (GEOBench-VLM's thresholds)", (0.25, 0.5),
                         cumulative=False),
    "refcoco_lmms": Protocol("the first [x, y, x, y], else [0, 0, 0, 0] (lmms-eval RefCOCO)", (0.1, 0.3, 0.5, 0.7, 0.9)),
}
_NUMBER = r"[-+]?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})"
_BOX = re.compile(rf"\[\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\]")
_NUMBERS = re.compile(_NUMBER)
_DIGITS = re.compile(r"[0-9]{1,300}")


def read_box(text: str, protocol: str = "strict") -> Corners | None:
    """The box of an answer in the answer's own units; None where it cannot be read.

    Args:
        text: The answer.
        protocol: A key of `PROTOCOLS`.
    """
    match protocol:
        case "strict":
            found = _BOX.findall(text)
            box = _corners(found[0]) if len(found) == 1 and text.count("[") == 1 else None
            return box if box and box[0] < box[2] and box[1] < box[3] else None
        case "refcoco_lmms":
            first = _BOX.search(text)
            return _corners(first.groups()) if first else (0.0, 0.0, 0.0, 0.0)
        case "vrsbench":
            return _corners(_DIGITS.findall(text)[:4])
    return _corners(_NUMBERS.findall(text)[:4])


def _corners(numbers: Sequence[Any]) -> Corners | None:
    if len(numbers) != 4:
        return None
    x1, y1, x2, y2 = map(float, numbers)
    return (x1, y1, x2, y2) if all(map(isfinite, (x1, y1, x2, y2))) else None


def overlap(first: Corners, second: Corners, border: int = 0) -> tuple[float, float]:
    """Intersection and union of two boxes.

    Args:
        first: (x1, y1, x2, y2).
        second: Another one in the same units.
        border: 1 for VRSBench's convention, by which a box includes its last row and column.

    Returns:
        (intersection, union); both are 0 or more, whatever the order of the corners.
    """
    width = min(first[2], second[2]) - max(first[0], second[0]) + border
    height = min(first[3], second[3]) - max(first[1], second[1]) + border
    shared = max(0.0, width) * max(0.0, height)
    areas = sum(max(0.0, x2 - x1 + border) * max(0.0, y2 - y1 + border) for x1, y1, x2, y2 in (first, second))
    return shared, areas - shared


def statistics(answers: Sequence[str | Corners | None], truth: Sequence[Corners], protocol: str = "strict") -> FloatArray:
    """Rows of sufficient statistics: hits at each threshold, IoU, 1, intersection, union; array (n, thresholds + 4).

    Args:
        answers: n answers as text, or boxes already read (None: unreadable).
        truth: n true boxes (x1, y1, x2, y2) in the same units.
        protocol: A key of `PROTOCOLS`.

    Raises:
        InputError: Lengths that differ, an unknown protocol, or a true box without area.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"unknown protocol {protocol!r}; allowed: {', '.join(PROTOCOLS)}")
    if len(answers) != len(truth):
        raise InputError(f"{len(answers)} answers and {len(truth)} true boxes; there must be one for each answer")
    rule = PROTOCOLS[protocol]
    rows = np.zeros((len(truth), len(rule.thresholds) + 4))
    for row, answer, known in zip(rows, answers, truth, strict=True):
        if len(known) != 4 or not (known[0] < known[2] and known[1] < known[3]):
            raise InputError(f"a true box must be (x1, y1, x2, y2) with x1 < x2 and y1 < y2, got {known!r:.60}")
        box = read_box(answer, protocol) if isinstance(answer, str) else answer
        shared, union = _compared(box, known, protocol)
        iou = shared / union if union > 0 else 0.0
        row[:] = [*(iou >= threshold for threshold in rule.thresholds), iou, 1.0, shared, union]
    return rows


def _compared(box: Corners | None, known: Corners, protocol: str) -> tuple[float, float]:
    if box is None:
        return 0.0, 0.0 if protocol == "vrsbench" else (known[2] - known[0]) * (known[3] - known[1])
    return overlap(box, known, PROTOCOLS[protocol].border)


def score(answers: Sequence[str | Corners | None], truth: Sequence[Corners], protocol: str = "strict") -> dict[str, Any]:
    """Scores times 100.

    Args:
        answers: n answers as text, or boxes already read (None: unreadable).
        truth: n true boxes (x1, y1, x2, y2) in the same units.
        protocol: A key of `PROTOCOLS`.

    Returns:
        `Pr@t` for the protocol's thresholds (share with IoU >= t), `meanIoU`, `cumIoU` where the protocol has it,
        `unreadable`, `n`, `protocol`.

    Raises:
        InputError: See `statistics`.
    """
    rows = statistics(answers, truth, protocol)
    rule, sums = PROTOCOLS[protocol], rows.sum(axis=0)
    n = max(1, len(rows))
    result: dict[str, Any] = {f"Pr@{t}": 100 * float(sums[i]) / n for i, t in enumerate(rule.thresholds)}
    result["meanIoU"] = 100 * float(sums[-4]) / n
    if rule.cumulative:
        result["cumIoU"] = 100 * float(ratio_from_sums(sums[-2:]))
    unreadable = sum((read_box(answer, protocol) if isinstance(answer, str) else answer) is None for answer in answers)
    return {**result, "unreadable": unreadable, "n": len(rows), "protocol": protocol}
