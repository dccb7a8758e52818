"""Answers about time: which images (temporal referring, QFabric TRE), and between which dates."""

import re
from collections.abc import Sequence
from typing import Any

from geotempo.eval.metrics.teochat_compat import clean
from geotempo.model.answer import parse_images
from geotempo.model.errors import InputError

PROTOCOLS = {
    "sets": "images as sets: `Image 4, Image 5`, `images 5 and 4` and `Images 4-5` are one answer",
    "teochat": "equal texts after lower case and without punctuation (TEOChat's TRE)",
}
Interval = tuple[str, str]
_MANY = 999  # images, where the caller does not say how many there are
_DATE = re.compile(r"(?<![0-9-])([0-9]{4}(?:-(?:0[1-9]|1[0-2])(?:-(?:0[1-9]|[12][0-9]|3[01]))?)?)(?![0-9-])")


def set_f1(said: frozenset[int], known: frozenset[int]) -> float:
    """F1 of one answered set of images, 0-1; 1 where both are empty."""
    return 2 * len(said & known) / (len(said) + len(known)) if said or known else 1.0


def score(answers: Sequence[str], truth: Sequence[str], counts: Sequence[int] | None = None,
          protocol: str = "sets") -> dict[str, Any]:
    """Accuracy and mean set-F1 of answers that name images, times 100.

    An unreadable answer, or one with an image that is not there, scores 0 in both.

    Args:
        answers: n answers.
        truth: n right answers.
        counts: How many images each question has.
        protocol: A key of `PROTOCOLS`; set-F1 is over sets in both.

    Returns:
        `accuracy`, `set-F1`, `unreadable`, `n`, `protocol`.

    Raises:
        InputError: Lengths that differ, an unknown protocol, or an unreadable true answer.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"unknown protocol {protocol!r}; allowed: {', '.join(PROTOCOLS)}")
    limits = [_MANY] * len(answers) if counts is None else list(counts)
    if not len(answers) == len(truth) == len(limits):
        raise InputError(f"{len(answers)} answers, {len(truth)} true answers and {len(limits)} numbers of images; there must "
                         "be one for each answer")
    said = [parse_images(answer, limit) for answer, limit in zip(answers, limits, strict=True)]
    known = [_true_images(text, limit) for text, limit in zip(truth, limits, strict=True)]
    if protocol == "teochat":
        right = [clean(answer) == clean(text) for answer, text in zip(answers, truth, strict=True)]
    else:
        right = [a is not None and frozenset(a) == b for a, b in zip(said, known, strict=True)]
    shares = [0.0 if a is None else set_f1(frozenset(a), b) for a, b in zip(said, known, strict=True)]
    n = max(1, len(answers))
    return {"accuracy": 100 * sum(right) / n, "set-F1": 100 * sum(shares) / n, "unreadable": said.count(None),
            "n": len(answers), "protocol": protocol}


def _true_images(text: str, limit: int) -> frozenset[int]:
    images = parse_images(text, limit)
    if images is None:
        raise InputError(f"the true answer {text!r} names no images 1 to {limit}")
    return frozenset(images)


def read_interval(text: str) -> Interval | None:
    """The two dates of an answer such as "between 2019-05 and 2020-01-31", as written, the earlier first.

    Dates are ISO 8601 with the precision that they have. One date alone is an interval from it to itself; None where
    there is none or there are more than two.
    """
    found = _DATE.findall(text)
    if not 1 <= len(found) <= 2:
        return None
    first, last = sorted((found[0], found[-1]))
    return first, last


def interval_matches(said: Interval, known: Interval) -> bool:
    """Whether both ends agree to the precision of the truth: 2019-05-13 is right where 2019-05 is known, not vice versa."""
    return all(a.startswith(b) for a, b in zip(said, known, strict=True))


def interval_accuracy(answers: Sequence[str], truth: Sequence[Interval | str]) -> dict[str, Any]:
    """Share of the answers with both dates right, times 100; an unreadable answer is wrong.

    Args:
        answers: n answers.
        truth: n pairs of ISO dates, or texts that hold them.

    Returns:
        `date-interval accuracy`, `unreadable`, `n`, `protocol`.

    Raises:
        InputError: Lengths that differ, or a true answer without dates.
    """
    if len(answers) != len(truth):
        raise InputError(f"{len(answers)} answers and {len(truth)} true intervals; there must be one for each answer")
    known = [read_interval(text if isinstance(text, str) else " ".join(text)) for text in truth]
    if None in known:
        raise InputError(f"the true interval {truth[known.index(None)]!r} holds no ISO dates")
    said = [read_interval(answer) for answer in answers]
    right = [a is not None and b is not None and interval_matches(a, b) for a, b in zip(said, known, strict=True)]
    return {"date-interval accuracy": 100 * sum(right) / max(1, len(right)), "unreadable": said.count(None),
            "n": len(right), "protocol": "iso-interval-v1"}
