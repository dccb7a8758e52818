"""Short answers: overall and average accuracy (OA, AA) under a named protocol.

OA counts all questions alike; AA is the plain mean of the accuracies of the question types (RSVQA, Lobry et al. 2020;
CDVQA, Yuan et al. 2022). An answer that is no label of a closed vocabulary is wrong, and is counted as unparsed.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from geotempo.eval.metrics.bootstrap import ratio_from_sums
from geotempo.eval.metrics.teochat_compat import clean
from geotempo.eval.metrics.text import normalise_short
from geotempo.model.answer import parse_yes_no
from geotempo.model.errors import InputError

FloatArray = npt.NDArray[np.float64]
PROTOCOLS = {
    "short": "the whole answer agrees after normalisation (short-answer-v1): RSVQA, scene classes, any short answer",
    "cdvqa": "closed vocabulary of 23 labels with synonyms; question types as they are (CDVQA's table)",
    "vista": "as cdvqa, change_ratio_types counted as change_ratio, AA over always 8 types with 1e-4 added to each "
             "number of questions (VisTA `test.py`; QAG-360K)",
    "teochat": "equal after lower case and without punctuation (TEOChat `classification.py`)",
    "mcq": "the one letter of an option that the answer names (GEOBench-VLM, XLRS-Bench)",
}
_BINS = ("0", *(f"{low}_to_{low + 10}" for low in range(0, 100, 10)))
_SYNONYMS = {
    "NVG_surface": ("nvg surface", "non vegetated ground surface", "nonvegetated ground surface",
                    "non vegetated ground surfaces", "nonvegetated ground surfaces", "non vegetated ground"),
    "buildings": ("buildings", "building"), "low_vegetation": ("low vegetation", "low vegetations"),
    "playgrounds": ("playgrounds", "playground"), "trees": ("trees", "tree"), "water": ("water", "waters"),
    "green_house": ("green house", "green houses", "greenhouse", "greenhouses"), "road": ("road", "roads"),
    "bridge": ("bridge", "bridges"), "others": ("others", "other"), "yes": ("yes",), "no": ("no",),
    **{label: (label,) for label in _BINS},
}
LABELS = tuple(_SYNONYMS)
"""The 23 answers of VisTA's vocabulary; CDVQA's are the first 19 of its numbering."""

VISTA_TYPES = ("change_ratio", "change_or_not", "change_to_what", "increase_or_not", "decrease_or_not", "smallest_change",
               "largest_change", "change_from_what")
_LABEL_OF = {words: label for label, every in _SYNONYMS.items() for words in every}
_MENTION = re.compile(r"\b(?:" + "|".join(sorted(map(re.escape, _LABEL_OF), key=len, reverse=True)) + r")\b")
_NEGATED = re.compile(r"\b(?:not|neither|nor|except)\b")
_OPTION = re.compile(r"\s*\(?([A-Ja-j])(?:[).:]|\s*\Z)")
_OPTIONS = re.compile(r"\b[A-J]\b(?!['’])")


def read_label(text: str) -> str | None:
    """The one label of the vocabulary that an answer names; None where it names none or several.

    "0-10%" and "0 to 10" are `0_to_10`, "0%" is `0`, "Yes, they did." is `yes`.
    """
    words = normalise_short(text)
    if words in _LABEL_OF:
        return _LABEL_OF[words]
    said = parse_yes_no(text)
    if said is not None:
        return "yes" if said else "no"
    found = {_LABEL_OF[mention] for mention in _MENTION.findall(words)} - {"yes", "no"}
    return found.pop() if len(found) == 1 and not _NEGATED.search(words) else None


def read_option(text: str) -> str | None:
    """The option A to J that an answer names: `B`, `(b)`, `B. a harbour`, `the answer is B`; None for none or several."""
    if first := _OPTION.match(text):
        return first.group(1).upper()
    found = set(_OPTIONS.findall(text)) - ({"A", "I"} if text.split()[1:] else set())  # words of a sentence
    return found.pop() if len(found) == 1 else None


def hits(answers: Sequence[str], references: Sequence[str | Sequence[str]], protocol: str = "short") -> list[bool | None]:
    """For each answer True, False, or None where it could not be read (which is wrong as well).

    Args:
        answers: n answers.
        references: n right answers, or lists of alternatives.
        protocol: A key of `PROTOCOLS`.

    Raises:
        InputError: Lengths that differ, an unknown protocol, or a true answer outside the closed vocabulary.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"unknown protocol {protocol!r}; allowed: {', '.join(PROTOCOLS)}")
    if len(answers) != len(references):
        raise InputError(f"{len(answers)} answers and {len(references)} references; there must be one for each answer")
    alternatives = [[known] if isinstance(known, str) else list(known) for known in references]
    if protocol in ("cdvqa", "vista", "mcq"):
        reader = read_option if protocol == "mcq" else read_label
        return [_closed(answer, known, reader) for answer, known in zip(answers, alternatives, strict=True)]
    plain = clean if protocol == "teochat" else normalise_short
    return [plain(answer) in map(plain, known) if plain(answer) else None
            for answer, known in zip(answers, alternatives, strict=True)]


def _closed(answer: str, known: Sequence[str], reader: Callable[[str], str | None]) -> bool | None:
    wanted = [reader(text) for text in known]
    if None in wanted:
        allowed = "a letter A to J" if reader is read_option else ", ".join(LABELS)
        raise InputError(f"the true answer {known[wanted.index(None)]!r} is not in the vocabulary: {allowed}")
    label = reader(answer)
    return None if label is None else label in wanted


def score(answers: Sequence[str], references: Sequence[str | Sequence[str]], types: Sequence[str] | None = None,
          protocol: str = "short") -> dict[str, Any]:
    """OA and AA, times 100.

    Args:
        answers: n answers.
        references: n right answers, or lists of alternatives.
        types: n question types; without them AA is OA.
        protocol: A key of `PROTOCOLS`.

    Returns:
        `OA`, `AA`, `types` (per type `accuracy` and `n`), `unparsed` (a number of answers), `n`, `protocol`.

    Raises:
        InputError: See `hits`.
    """
    found = hits(answers, references, protocol)
    names = ["all"] * len(answers) if types is None else [_type(name, protocol) for name in types]
    if len(names) != len(answers):
        raise InputError(f"{len(answers)} answers and {len(names)} question types; there must be one for each answer")
    order = list(VISTA_TYPES) if protocol == "vista" and types is not None else list(dict.fromkeys(names))
    if unknown := sorted(set(names).difference(order)):
        raise InputError(f"unknown question type {unknown[0]!r} for the protocol vista; allowed: {', '.join(VISTA_TYPES)}")
    sums = statistics(found, names, order).sum(axis=0)
    by_type = {name: {"accuracy": 100 * sums[2 * i] / sums[2 * i + 1], "n": int(sums[2 * i + 1])}
               for i, name in enumerate(order) if sums[2 * i + 1]}
    average = vista_average(sums) if protocol == "vista" and types is not None else average_accuracy(sums)
    return {"OA": 100 * sum(map(bool, found)) / max(1, len(found)), "AA": 100 * float(average), "types": by_type,
            "unparsed": found.count(None), "n": len(found), "protocol": protocol}


def _type(name: str, protocol: str) -> str:
    return "change_ratio" if protocol == "vista" and name == "change_ratio_types" else name


def statistics(found: Sequence[bool | None], types: Sequence[str], order: Sequence[str]) -> FloatArray:
    """Rows for `average_accuracy`: hits and questions of each type, array (n, 2 t)."""
    rows = np.zeros((len(found), 2 * len(order)))
    for row, hit, name in zip(rows, found, types, strict=True):
        column = 2 * order.index(name)
        row[column : column + 2] = bool(hit), 1
    return rows


def average_accuracy(sums: FloatArray) -> FloatArray:
    """Mean accuracy over the types that occur.

    Args:
        sums: Array (..., 2 t), sums of `statistics`.

    Returns:
        Array (...), 0-1.
    """
    counts = sums.reshape(*sums.shape[:-1], -1, 2)
    accuracy = ratio_from_sums(counts)
    return ratio_from_sums(np.stack([accuracy.sum(axis=-1), (counts[..., 1] > 0).sum(axis=-1).astype(np.float64)], axis=-1))


def vista_average(sums: FloatArray) -> FloatArray:
    """VisTA's AA: over all types, those without a question counted as 0, and 1e-4 added to each number of questions."""
    counts = sums.reshape(*sums.shape[:-1], -1, 2)
    scores: FloatArray = (counts[..., 0] / (counts[..., 1] + 1e-4)).mean(axis=-1)
    return scores


def yes_no(answers: Sequence[str], truth: Sequence[bool]) -> dict[str, Any]:
    """Scores of yes as the positive class, as ChangeChat's change classification has them, times 100.

    An unreadable answer is a false negative where yes is right, and a false positive where no is right.

    Args:
        answers: n answers.
        truth: n flags, True for yes.

    Returns:
        `accuracy`, `precision`, `recall`, `F1`, `F0.5`, `unparsed`, `n`, `protocol`.
    """
    said = [parse_yes_no(answer) for answer in answers]
    pairs = [(not flag if word is None else word, flag) for word, flag in zip(said, truth, strict=True)]
    hit, extra, missed = (sum(pair == kind for pair in pairs) for kind in ((True, True), (True, False), (False, True)))
    return {"accuracy": _percent(sum(a == b for a, b in pairs), len(pairs)), "precision": _percent(hit, hit + extra),
            "recall": _percent(hit, hit + missed), "F1": _percent(2 * hit, 2 * hit + extra + missed),
            "F0.5": _percent(1.25 * hit, 1.25 * hit + extra + 0.25 * missed), "unparsed": said.count(None),
            "n": len(pairs), "protocol": "changechat_yes_no"}


def _percent(part: float, whole: float) -> float:
    return 100 * part / whole if whole else 0.0
