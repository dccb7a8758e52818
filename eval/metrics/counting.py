"""Counts: mean absolute error, root mean square error and accuracy under a named protocol."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from geotempo.eval.metrics.bootstrap import ratio_from_sums
from geotempo.eval.metrics.text import absolute_error
from geotempo.model.answer import parse_number
from geotempo.model.errors import InputError

FloatArray = npt.NDArray[np.float64]
PROTOCOLS = {
    "plain": "an unreadable answer counts as 0, and as one object wrong where 0 is the truth",
    "strict": "plain, and no error is counted as more than that of an unreadable answer: silence never beats a number",
    "changechat": "the first digits of the text (ChangeChat and DeltaVLM notebooks), unreadable answers as in plain",
}
_DIGITS = re.compile(r"[0-9]{1,300}")
_NO_CHANGE = ("there are no changes in roads or buildings", "no new roads or buildings")


def read_count(text: str, protocol: str = "plain") -> float | None:
    """The number of an answer; None where there is none, or (but in `changechat`) several."""
    if protocol == "changechat":
        found = _DIGITS.search(text)
        return float(found.group()) if found else None
    number = parse_number(text)
    return None if number is None else float(number)


def read_change_counts(text: str) -> tuple[int, int] | None:
    """Numbers of new roads and new buildings in an answer of ChangeChat's form, as DeltaVLM's notebook reads them.

    Returns:
        (roads, buildings); None where the official code stops.
    """
    if any(sentence in text for sentence in _NO_CHANGE):
        return 0, 0
    parts = text.split("new")
    if len(parts) < 2:
        return None
    counts = [0 if "no" in part else read_count(part, "changechat") for part in parts[:2]]
    return None if None in counts else (int(counts[0] or 0), int(counts[1] or 0))


def errors(answers: Sequence[str | float | None], truth: Sequence[float], protocol: str = "plain") -> FloatArray:
    """Absolute error of each answer, in objects.

    Args:
        answers: n answers as text, or as numbers already read (None: unreadable).
        truth: n true counts.
        protocol: A key of `PROTOCOLS`.

    Raises:
        InputError: Lengths that differ, or an unknown protocol.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"unknown protocol {protocol!r}; allowed: {', '.join(PROTOCOLS)}")
    if len(answers) != len(truth):
        raise InputError(f"{len(answers)} answers and {len(truth)} true counts; there must be one for each answer")
    said = [read_count(answer, protocol) if isinstance(answer, str) else answer for answer in answers]
    found = [absolute_error(number, known) for number, known in zip(said, truth, strict=True)]
    if protocol == "strict":
        found = [min(error, absolute_error(None, known)) for error, known in zip(found, truth, strict=True)]
    return np.array(found, dtype=np.float64)


def score(answers: Sequence[str | float | None], truth: Sequence[float], protocol: str = "plain") -> dict[str, Any]:
    """Errors in objects, accuracy times 100.

    Args:
        answers: n answers as text, or as numbers already read (None: unreadable).
        truth: n true counts.
        protocol: A key of `PROTOCOLS`.

    Returns:
        `MAE`, `RMSE`, `accuracy` (exactly right), `unreadable`, `n`, `protocol`.

    Raises:
        InputError: See `errors`.
    """
    found = errors(answers, truth, protocol)
    said = [read_count(answer, protocol) if isinstance(answer, str) else answer for answer in answers]
    rows = np.stack([found, np.ones_like(found)], axis=-1)
    squares = np.stack([found**2, np.ones_like(found)], axis=-1)
    right = [number is not None and number == known for number, known in zip(said, truth, strict=True)]
    return {"MAE": float(ratio_from_sums(rows.sum(axis=0))), "RMSE": float(np.sqrt(ratio_from_sums(squares.sum(axis=0)))),
            "accuracy": 100 * sum(right) / max(1, len(right)), "unreadable": said.count(None), "n": len(found),
            "protocol": protocol}
