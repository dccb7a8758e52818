"""TEOChat's evaluation suite in two modes beside each other: as the official code scores it, and strictly.

`teochat_compat` is bug for bug (`geotempo.eval.metrics.teochat_compat`) and compares with TEOChat's tables. `strict`
has the same metrics over the same pixels and labels, but

- every task of the split has a score, 0 where nothing was right or nothing was answered;
- an answer that cannot be read counts as the worst answer that could have been given: no hit; every pixel wrong; for
  weighted F1 a false negative of the true class and a false positive of every other one. So no answer gains by
  becoming unreadable, and the number beside the score says how many were;
- short answers must agree as a whole ("nothing" is no "no"), sets of images must agree as sets.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geotempo.eval.metrics.bootstrap import ratio_from_sums
from geotempo.eval.metrics.boxes import f1_from_sums
from geotempo.eval.metrics.teochat_compat import (
    SIZE,
    STOPS,
    OfficialCrash,
    Output,
    change_detection_classification,
    classification_metrics,
    clean,
    evaluate_masks,
    fill,
    polygon_mask,
)
from geotempo.eval.metrics.text import normalise_short
from geotempo.model.answer import parse, parse_images
from geotempo.model.errors import InputError
from geotempo.model.geometry import bounds
from geotempo.model.records import Frame

FloatArray = npt.NDArray[np.float64]
PROTOCOL = "teochat_compat | strict"
KEYWORDS = ("yes", "no", "top left", "top center", "top right", "center left", "center", "center right", "bottom left",
            "bottom center", "bottom right")
DAMAGE = ("no damage", "minor damage", "major damage", "destroyed")
DEVELOPMENT = ("residential", "commercial", "industrial", "road", "demolition", "mega projects")
STATUS = ("prior construction", "greenland", "land cleared", "excavation", "materials dumped", "construction started",
          "construction midway", "construction done", "operational")
_FRAME = Frame.plain(SIZE, SIZE)
_GROUP = re.compile(r"\[([^\[\]]*)\]")
_SAYS_NONE = re.compile(r"\b(?:no|none|not|nothing|neither|without|zero)\b|n['’]t\b", re.IGNORECASE)
_NEGATED = re.compile(r"\b(?:not|never|neither|nor)\b|n['’]t\b", re.IGNORECASE)


@dataclass(frozen=True)
class Rule:
    """How a task is scored.

    Attributes:
        metric: `accuracy`, `f1` (of pixels), `w_f1` or `inv_w_f1`.
        labels: Classes of a weighted F1, or keywords of an accuracy.
        skipped: True labels that are left out.
        images: Whether the answer names images.
    """

    metric: str
    labels: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    images: bool = False


_ACCURACY, _PIXELS = Rule("accuracy"), Rule("f1")
_CLASSIFICATION = ("fmow_high_res", "fmow_low_res", "abcd", "cdvqa", "aid", "ucm", "lrben", "hrben")
RULES: dict[str, dict[str, Rule]] = {
    **{name: {} for name in _CLASSIFICATION},  # accuracy, whatever the task is called
    "xbd_loc": {"change_detection_localization": _PIXELS},
    "xbd_dmg_cls": {"change_detection_classification": Rule("inv_w_f1", DAMAGE, ("unclassified",))},
    "s2_det": {"change_detection_detection": _PIXELS},
    "xbd_sre_qa_rqa": {"spatial_referring_expression": _PIXELS, "question_answering": Rule("accuracy", KEYWORDS),
                       "region_based_question_answering": _ACCURACY},
    "s2_sre_qa": {"spatial_referring_expression": _PIXELS, "question_answering": _ACCURACY},
    "s2_rqa": {"region_based_question_answering": _ACCURACY},
    "qfabric_rqa2": {"region_based_question_answering": Rule("w_f1", DEVELOPMENT)},
    "qfabric_rqa5_rtqa5": {"region_based_question_answering": Rule("w_f1", DEVELOPMENT),
                           "region_based_temporal_question_answering": Rule("w_f1", STATUS)},
    "qfabric_tre_rtqa": {"temporal_referring_expression": Rule("accuracy", images=True),
                         "region_based_temporal_question_answering": _ACCURACY},
}
"""The 17 splits by the official names, and the rule of each task in them."""


@dataclass(frozen=True)
class Strict:
    """Strict sufficient statistics of the answers to one task.

    Attributes:
        rows: Array (n, k), one row per sample that counts; they may be added.
        aggregate: Sums (..., k) to scores (...), 0-1.
        unreadable: How many answers could not be read.
    """

    rows: FloatArray
    aggregate: Callable[[FloatArray], FloatArray]
    unreadable: int

    @property
    def score(self) -> float:
        """The strict score, 0-1."""
        return float(self.aggregate(self.rows.sum(axis=0)))


def score(outputs: Sequence[Output], dataset: str) -> dict[str, Any]:
    """Both scores of every task of a split.

    Args:
        outputs: `task`, `response`, `ground_truth` and, where the metric is an F1, `polygon` of each sample, as the
            official code writes them.
        dataset: A key of `RULES`.

    Returns:
        `dataset`, `protocol`, `n` and `tasks`: per task its `metric`, the two scores `teochat_compat` (None where the
        official code has none; `note` says why) and `strict`, 0-100, `n`, and the number of `unreadable` answers.

    Raises:
        InputError: An unknown split, a task that it does not have, or a broken sample.
    """
    if dataset not in RULES:
        raise InputError(f"unknown TEOChat split {dataset!r}; allowed: {', '.join(RULES)}")
    groups: dict[str, list[Output]] = {task: [] for task in RULES[dataset]}
    for index, output in enumerate(outputs):
        _check(output, index, dataset)
        groups.setdefault(output["task"], []).append(output)
    tasks = {task: _task(group, RULES[dataset].get(task, _ACCURACY), task) for task, group in groups.items()}
    return {"dataset": dataset, "protocol": PROTOCOL, "n": len(outputs), "tasks": tasks}


def _check(output: Output, index: int, dataset: str) -> None:
    for key in ("task", "response", "ground_truth"):
        if not isinstance(output.get(key), str):
            raise InputError(f"output {index} has no text {key!r}; needed: task, response, ground_truth (and polygon)")
    known = RULES[dataset]
    if known and output["task"] not in known:
        raise InputError(f"output {index} has the task {output['task']!r}, which {dataset} does not have; "
                         f"allowed: {', '.join(known)}")


def _task(outputs: Sequence[Output], rule: Rule, task: str) -> dict[str, Any]:
    """The entry of one task."""
    if not outputs:
        return {"metric": rule.metric, "teochat_compat": None, "strict": 0.0, "n": 0, "unreadable": 0,
                "note": "no answers to this task"}
    result = strict(outputs, rule)
    compat, note = _compat(outputs, rule, task)
    return {"metric": rule.metric, "teochat_compat": compat, "strict": 100 * result.score, "n": len(result.rows),
            "unreadable": result.unreadable, "note": note}


def _compat(outputs: Sequence[Output], rule: Rule, task: str) -> tuple[float | None, str]:
    """The official score times 100, or None and why there is none."""
    try:
        if rule.metric == "accuracy":
            found = classification_metrics(outputs, rule.labels).get(f"{task}_accuracy")
            return (None, "no right answer: the task is missing from the official result") if found is None else (
                100 * found, "")
        value = evaluate_masks(outputs)["f1"] if rule.metric == "f1" else change_detection_classification(
            outputs, rule.labels, rule.skipped)[rule.metric]
    except OfficialCrash as crash:
        return None, str(crash)
    return (100 * value, "") if np.isfinite(value) else (None, "the official result is NaN: nothing to divide by")


def strict(outputs: Sequence[Output], rule: Rule) -> Strict:
    """Strict statistics of the answers to one task.

    Raises:
        InputError: A true answer or polygon that is broken: data, not an answer.
    """
    if rule.metric == "f1":
        return _strict_pixels(outputs)
    if rule.metric == "accuracy":
        hits = [_hit(output, rule) for output in outputs]
        rows = np.array([[hit or 0.0, 1.0] for hit in hits]).reshape(-1, 2)
        return Strict(rows, ratio_from_sums, hits.count(None))
    return _strict_classes(outputs, rule)


def _hit(output: Output, rule: Rule) -> float | None:
    """1 for a right answer, 0 for a wrong one, None for an unreadable one."""
    said, truth = output["response"], output["ground_truth"]
    if rule.images:
        answer, wanted = parse_images(said, 99), parse_images(truth, 99)
        return None if answer is None else float(answer == wanted)
    words = normalise_short(said)
    if not words:
        return None
    if words == normalise_short(truth):
        return 1.0
    if clean(truth).strip() in rule.labels:
        label = read_label(said, rule.labels)
        return None if label is None else float(label == clean(truth).strip())
    return 0.0


def read_label(text: str, labels: Sequence[str]) -> str | None:
    """The one label that a text names, as whole words and without a negation; None where it names none or several.

    A label inside a longer one ("center" in "center left") is not counted there.
    """
    words = " ".join(clean(text).split())
    if words in labels:
        return words
    if _NEGATED.search(text):
        return None
    found = []
    for label in sorted(labels, key=len, reverse=True):
        words, count = re.subn(rf"\b{re.escape(label)}\b", "|", words)
        found += [label] if count else []
    return found[0] if len(found) == 1 else None


def read_boxes(text: str) -> list[tuple[float, float, float, float]] | None:
    """Boxes of an answer in pixels of 256 x 256; empty where it says that there are none; None where it is unreadable.

    Every bracket group must be a box; a list cut off at the end keeps its complete boxes.
    """
    answer = parse(text, [_FRAME], mode="teochat")
    groups = [group for group in _GROUP.findall(text) if group.strip()]
    if answer.regions is None:
        return [] if not groups and "[" not in text and _SAYS_NONE.search(text) else None
    if len(answer.regions) != len(groups):
        return None
    return [bounds(region.geometry).as_tuple() for region in answer.regions]


def _strict_pixels(outputs: Sequence[Output]) -> Strict:
    rows, unreadable = [], 0
    for index, output in enumerate(outputs):
        truth = _true_mask(output, index) if "[" in output["ground_truth"] else fill(())
        boxes = read_boxes(output["response"])
        if boxes is None:
            unreadable += 1
            said = 1 - truth
        else:
            said = fill([[(x1, y1), (x1, y2), (x2, y2), (x2, y1), (x1, y1)] for x1, y1, x2, y2 in boxes])
        hits = int((said & truth).sum())
        rows.append([hits, int(said.sum()) - hits, int(truth.sum()) - hits])
    return Strict(np.array(rows, dtype=np.float64).reshape(-1, 3), f1_from_sums, unreadable)


def _true_mask(output: Output, index: int) -> npt.NDArray[np.uint8]:
    try:
        return polygon_mask(output["polygon"])
    except STOPS as error:
        raise InputError(f"output {index} has no readable polygon ({type(error).__name__}: {error}); it must be WKT, or a "
                         "list of WKT, in pixels of 256 x 256") from None


def _strict_classes(outputs: Sequence[Output], rule: Rule) -> Strict:
    """Rows of true and false positives, false negatives and true pixels of each class."""
    rows, unreadable = [], 0
    for index, output in enumerate(outputs):
        truth = " ".join(clean(output["ground_truth"]).split())
        if truth in rule.skipped:
            continue
        if truth not in rule.labels:
            raise InputError(f"output {index} has the true answer {output['ground_truth']!r}; allowed: {', '.join(rule.labels)}")
        pixels = int(_true_mask(output, index).sum())
        said = read_label(output["response"], rule.labels)
        unreadable += said is None
        row = np.zeros((len(rule.labels), 4))
        known = rule.labels.index(truth)
        row[known, 3] = pixels
        if said == truth:
            row[known, 0] = pixels
        else:
            row[known, 2] = pixels
            wrong = [i for i, label in enumerate(rule.labels) if label == said or (said is None and i != known)]
            row[wrong, 1] = pixels
        rows.append(row.reshape(-1))
    every = np.array(rows).reshape(-1, 4 * len(rule.labels))
    return Strict(every, weighted_f1 if rule.metric == "w_f1" else inverse_weighted_f1, unreadable)


def _class_scores(sums: FloatArray) -> tuple[FloatArray, FloatArray]:
    """F1 (0 where a class neither occurs nor is named) and true pixels of each class, arrays (..., classes)."""
    counts = sums.reshape(*sums.shape[:-1], -1, 4)
    whole = 2 * counts[..., 0] + counts[..., 1] + counts[..., 2]
    return np.divide(2 * counts[..., 0], whole, out=np.zeros_like(whole), where=whole > 0), counts[..., 3]


def weighted_f1(sums: FloatArray) -> FloatArray:
    """F1 of the classes weighted by their true pixels (TEOChat's QFabric score).

    Args:
        sums: Array (..., 4 c), sums of the rows of `strict`.

    Returns:
        Array (...), 0-1; 0 without true pixels.
    """
    scores, pixels = _class_scores(sums)
    return ratio_from_sums(np.stack([(scores * pixels).sum(axis=-1), pixels.sum(axis=-1)], axis=-1))


def inverse_weighted_f1(sums: FloatArray) -> FloatArray:
    """F1 of the classes weighted by the inverse of their true pixels (TEOChat's xBD damage score; no xView2 score)."""
    scores, pixels = _class_scores(sums)
    weights = np.divide(1.0, pixels, out=np.zeros_like(pixels), where=pixels > 0)
    return ratio_from_sums(np.stack([(scores * weights).sum(axis=-1), weights.sum(axis=-1)], axis=-1))


def table(result: Mapping[str, Any]) -> str:
    """The result of `score` as lines: per task both scores, the number of samples and of unreadable answers."""
    lines = [f"{result['dataset']}   [{result['protocol']}]",
             f"  {'task':42}{'metric':10}{'teochat_compat':>15}{'strict':>9}{'n':>8}{'unreadable':>12}"]
    for task, entry in result["tasks"].items():
        compat = "-" if entry["teochat_compat"] is None else f"{entry['teochat_compat']:.2f}"
        line = f"  {task:42}{entry['metric']:10}{compat:>15}{entry['strict']:>9.2f}{entry['n']:>8}{entry['unreadable']:>12}"
        lines.append(f"{line}   {entry['note']}".rstrip())
    return "\n".join(lines)
