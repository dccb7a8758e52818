"""Where something changed, as cells of a 3 x 3 grid (ChangeChat; DeltaVLM notebook `test-loc`)."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from geotempo.eval.metrics.boxes import f1_from_sums
from geotempo.model.errors import InputError

FloatArray = npt.NDArray[np.float64]
CELLS = tuple(f"{row}-{column}" for row in ("top", "center", "bottom") for column in ("left", "center", "right"))
PROTOCOLS = {
    "changechat": "scikit-learn's conventions: two empty sets have Jaccard 0; unreadable answers are empty",
    "strict": "two empty sets have Jaccard 1; an unreadable answer has every cell wrong",
}
_CELL = re.compile(r"\b(top|center|bottom)[- ](left|center|right)\b")


def read_cells(text: str, name: str) -> frozenset[str] | None:
    """The cells listed after a name, as in `roads [top-left] buildings []`; None where the name has no list.

    Args:
        text: The answer.
        name: `roads` or `buildings`.
    """
    found = re.search(rf"{re.escape(name)}\s*\[([^\]]*)\]", text)
    if found is None:
        return None
    inside = found.group(1).lower()
    cells = [f"{row}-{column}" for row, column in _CELL.findall(inside)]
    return frozenset(cells) if len(cells) == len([part for part in inside.split(",") if part.strip()]) else None


def score(said: Sequence[Iterable[str] | None], truth: Sequence[Iterable[str]], protocol: str = "changechat") -> dict[str, Any]:
    """Scores of sets of cells, times 100.

    Args:
        said: n answered sets; None where the answer is unreadable.
        truth: n true sets.
        protocol: A key of `PROTOCOLS`.

    Returns:
        `precision`, `recall`, `F1` (pooled over all cells), `Hamming` (share of wrong cells), `Jaccard` (mean over
        samples), `subset accuracy` (whole set right), `unreadable`, `n`, `protocol`.

    Raises:
        InputError: Lengths that differ, an unknown protocol or cell.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"unknown protocol {protocol!r}; allowed: {', '.join(PROTOCOLS)}")
    if len(said) != len(truth):
        raise InputError(f"{len(said)} answers and {len(truth)} true sets; there must be one for each answer")
    known = [_checked(cells) for cells in truth]
    worst = protocol == "strict"
    read = [(frozenset(CELLS) - wanted if worst else frozenset()) if cells is None else frozenset(cells)
            for cells, wanted in zip(said, known, strict=True)]
    rows = np.array([(len(a & b), len(a - b), len(b - a)) for a, b in zip(read, known, strict=True)]).reshape(-1, 3)
    hit, extra, missed = rows.sum(axis=0).tolist()
    jaccard = [len(a & b) / len(a | b) if a | b else float(worst and c is not None)
               for a, b, c in zip(read, known, said, strict=True)]
    whole = [a == b and not (worst and c is None) for a, b, c in zip(read, known, said, strict=True)]
    n = max(1, len(known))
    return {"precision": 100 * hit / max(1, hit + extra), "recall": 100 * hit / max(1, hit + missed),
            "F1": 100 * float(f1_from_sums(rows.sum(axis=0).astype(np.float64))) if hit + extra + missed else 0.0,
            "Hamming": 100 * (extra + missed) / (n * len(CELLS)), "Jaccard": 100 * sum(jaccard) / n,
            "subset accuracy": 100 * sum(whole) / n, "unreadable": sum(cells is None for cells in said), "n": len(known),
            "protocol": protocol}


def _checked(cells: Iterable[str]) -> frozenset[str]:
    known = frozenset(cells)
    if wrong := sorted(known.difference(CELLS)):
        raise InputError(f"unknown cell {wrong[0]!r}; allowed: {', '.join(CELLS)}")
    return known
