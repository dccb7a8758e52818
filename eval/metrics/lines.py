"""Other people's predictions: a JSONL file of `{"id", "prediction", "references"}`, scored without a store or a model.

    {"id": "test_000001.png", "prediction": "a road is built", "references": ["a road appears", "a new road"]}

What `references` holds depends on the task: texts for captions and short answers, one box `[x1, y1, x2, y2]` for
grounding, one number for counts, one COCO RLE for masks (the prediction is one too, or null where unreadable).
Question types stand in `type`; TEOChat's splits also need `task` and, where the metric is an F1, `polygon`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geotempo.eval.metrics import caption, counting, grounding, masks, temporal, teochat, vqa
from geotempo.model.errors import InputError
from geotempo.model.geometry import BoolArray

Line = Mapping[str, Any]
METEOR = {"exact-stem": "METEOR-exact-stem", "1.5": "METEOR-1.5"}


@dataclass(frozen=True)
class Family:
    """A kind of task.

    Attributes:
        score: (lines, protocol, options) to a result.
        protocols: Those allowed, the task's own is one of them.
    """

    score: Callable[[Sequence[Line], str, Mapping[str, Any]], dict[str, Any]]
    protocols: Sequence[str]


@dataclass(frozen=True)
class LineTask:
    """A task for files of predictions.

    Attributes:
        family: A key of `FAMILIES`.
        protocol: Used unless another one is asked for.
        full: Samples of the test split where they are known for certain, else 0.
    """

    family: str
    protocol: str
    full: int = 0


def score_lines(path: Path, task: str, protocol: str | None = None, **options: Any) -> dict[str, Any]:
    """Score a file of predictions.

    Args:
        path: The JSONL file.
        task: A key of `TASKS`.
        protocol: Another protocol of the task's kind.
        options: `meteor` (`exact-stem` or `1.5`) and `vocabulary` (word map) for captions.

    Returns:
        `task`, `lines` (in the file), `duplicates` (removed), `contradictions` (of them, those with another
        prediction), `full` (samples of the split, 0 where unknown), and the `result` of the metric module.

    Raises:
        InputError: An unknown task or protocol, or a line that lacks something, named by its number.
    """
    if task not in TASKS:
        raise InputError(f"unknown task {task!r} for a file of predictions; allowed: {', '.join(TASKS)}")
    chosen = TASKS[task]
    family = FAMILIES[chosen.family]
    name = protocol or chosen.protocol
    if name not in family.protocols:
        raise InputError(f"unknown protocol {name!r} for {task}; allowed: {', '.join(family.protocols)}")
    lines = read_lines(path)
    kept: dict[str, Line] = {}
    contradictions = 0
    for line in lines:
        first = kept.setdefault(str(line["id"]), line)
        contradictions += first["prediction"] != line["prediction"]
    result = family.score(list(kept.values()), name, options)
    return {"task": task, "lines": len(lines), "duplicates": len(lines) - len(kept), "contradictions": contradictions,
            "full": chosen.full, "result": result}


def read_lines(path: Path) -> list[Line]:
    """The lines of a file, each with `id`, `prediction` and `references`; blank ones are left out.

    Raises:
        InputError: The file cannot be read or is empty, or a line is no such object.
    """
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the predictions {path}: {error}") from None
    lines = [_line(text, f"{path}, line {number}") for number, text in enumerate(texts, start=1) if text.strip()]
    if not lines:
        raise InputError(f"{path} holds no predictions")
    return lines


def _line(text: str, where: str) -> Line:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"{where} is no JSON") from None
    if not isinstance(value, dict):
        raise InputError(f"{where} is no object with id, prediction and references")
    if missing := [key for key in ("id", "prediction", "references") if key not in value]:
        raise InputError(f"{where} has no {missing[0]!r}; needed: id, prediction, references")
    if not isinstance(value["id"], str | int):
        raise InputError(f"{where} has the id {value['id']!r:.40}; it must be text or a whole number")
    references = value["references"]
    if not isinstance(references, list) or not references:
        raise InputError(f"{where}: references must be a list of one or more, got {references!r:.60}")
    return value


def _text(line: Line) -> str:
    """The prediction of a task whose answers are text."""
    if not isinstance(line["prediction"], str):
        raise InputError(f"the prediction of {line['id']!r} is {line['prediction']!r:.40}; it must be text (empty text for an "
                         "answer without words)")
    return str(line["prediction"])


def _texts(line: Line) -> list[str]:
    if not all(isinstance(text, str) for text in line["references"]):
        raise InputError(f"the references of {line['id']!r} must be texts")
    return list(line["references"])


def _only(line: Line) -> Any:
    """The one reference of a task that has one."""
    if len(line["references"]) != 1:
        raise InputError(f"{line['id']!r} has {len(line['references'])} references; this task has exactly one")
    return line["references"][0]


def _captions(lines: Sequence[Line], protocol: str, options: Mapping[str, Any]) -> dict[str, Any]:
    meteor = options.get("meteor") or "exact-stem"
    if meteor not in METEOR:
        raise InputError(f"unknown METEOR {meteor!r}; allowed: {', '.join(METEOR)}")
    return caption.score([_text(line) for line in lines], [_texts(line) for line in lines], protocol,
                         vocabulary=options.get("vocabulary"), meteor=METEOR[meteor])


def _change_captions(lines: Sequence[Line], protocol: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Captions of change: with the recall of either kind of pair, split by the first reference."""
    result = _captions(lines, protocol, options)
    changed = [not caption.says_no_change(_texts(line)[0]) for line in lines]
    recall = caption.change_recall([_text(line) for line in lines], changed)
    return {**result, **{name: value for name, value in recall.items() if name != "protocol"}}


def _answers(lines: Sequence[Line], protocol: str, options: Mapping[str, Any]) -> dict[str, Any]:
    types = [line.get("type") for line in lines]
    if any(name is not None for name in types) and not all(isinstance(name, str) for name in types):
        raise InputError("some lines have a question type and some have none; give `type` in all of them or in none")
    return vqa.score([_text(line) for line in lines], [_texts(line) for line in lines],
                     None if None in types else [str(name) for name in types], protocol)


def _counts(lines: Sequence[Line], protocol: str, options: Mapping[str, Any]) -> dict[str, Any]:
    truth = [_only(line) for line in lines]
    for line, number in zip(lines, truth, strict=True):
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise InputError(f"the reference of {line['id']!r} is {number!r:.40}; it must be a number")
    return counting.score([_text(line) for line in lines], truth, protocol)


def _boxes(lines: Sequence[Line], protocol: str, options: Mapping[str, Any]) -> dict[str, Any]:
    truth = [_only(line) for line in lines]
    for line, box in zip(lines, truth, strict=True):
        if not isinstance(box, list) or not all(type(number) in (int, float) for number in box):
            raise InputError(f"the reference of {line['id']!r} is {box!r:.40}; it must be [x1, y1, x2, y2]")
    return grounding.score([_text(line) for line in lines], [tuple(box) for box in truth], protocol)


def _images(lines: Sequence[Line], protocol: str, options: Mapping[str, Any]) -> dict[str, Any]:
    return temporal.score([_text(line) for line in lines], [str(_only(line)) for line in lines], protocol=protocol)


def _masks(lines: Sequence[Line], protocol: str, options: Mapping[str, Any]) -> dict[str, Any]:
    said = [None if line["prediction"] is None else _mask(line["prediction"], line) for line in lines]
    return masks.score(said, [_mask(_only(line), line) for line in lines], protocol)


def _mask(value: Any, line: Line) -> BoolArray:
    """A mask from COCO RLE, compressed or as a list of counts.

    Decoded here and checked, since the C decoder of pycocotools believes what it is given.
    """
    wrong = InputError(f"a mask of {line['id']!r} is {value!r:.60}; it must be a COCO RLE: size [h, w] and counts that add up")
    if not isinstance(value, dict) or not isinstance(value.get("size"), list) or len(value["size"]) != 2:
        raise wrong
    height, width = value["size"]
    counts = value.get("counts")
    runs = _runs(counts) if isinstance(counts, str) else counts
    numbers = [height, width, *(runs if isinstance(runs, list) else [None])]
    if not all(type(number) is int and number >= 0 for number in numbers) or sum(numbers[2:]) != height * width:
        raise wrong
    return np.repeat(np.arange(len(numbers) - 2) % 2 == 1, numbers[2:]).reshape(width, height).T


def _runs(text: str) -> list[int] | None:
    """Run lengths from COCO's compressed form: 5 bits a letter, from the third run on as the difference to two before."""
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64 or shift > 60:
            return None
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (1 << shift) if code & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs if not shift else None


def _teochat(split: str) -> Family:
    def score(lines: Sequence[Line], protocol: str, options: Mapping[str, Any]) -> dict[str, Any]:
        outputs = [{**line, "task": line.get("task"), "response": _text(line), "ground_truth": str(_only(line))} for line in lines]
        return teochat.score(outputs, split)

    return Family(score, (teochat.PROTOCOL,))


FAMILIES = {
    "caption": Family(_captions, [name for name in caption.PROTOCOLS if name != "bpe_ids"]),
    "change_caption": Family(_change_captions, [name for name in caption.PROTOCOLS if name != "bpe_ids"]),
    "vqa": Family(_answers, list(vqa.PROTOCOLS)), "counting": Family(_counts, list(counting.PROTOCOLS)),
    "grounding": Family(_boxes, list(grounding.PROTOCOLS)), "images": Family(_images, list(temporal.PROTOCOLS)),
    "masks": Family(_masks, list(masks.PROTOCOLS)),
    **{f"teochat_{split}": _teochat(split) for split in teochat.RULES},
}

TASKS: dict[str, LineTask] = {
    "levir_cc": LineTask("change_caption", "words", 1929), "levir_mci": LineTask("change_caption", "words", 1929),
    **dict.fromkeys(("levir_cdc", "whu_cdc", "second_cc", "dubai_cc", "change_caption"), LineTask("change_caption", "words")),
    **dict.fromkeys(("caption", "vrsbench_caption"), LineTask("caption", "words")),
    "cdvqa": LineTask("vqa", "cdvqa"), "qag_360k": LineTask("vqa", "vista"),
    **dict.fromkeys(("vqa", "rsvqa", "classification"), LineTask("vqa", "short")),
    "counting": LineTask("counting", "plain"), "temporal_referring": LineTask("images", "sets"),
    "dior_rsvg": LineTask("grounding", "dior_rsvg", 7500), "vrsbench_referring": LineTask("grounding", "vrsbench"),
    "grounding": LineTask("grounding", "strict"),
    "rrsis_d": LineTask("masks", "rmsin", 3481), "refsegrs": LineTask("masks", "rmsin", 1817),
    **{f"teochat_{split}": LineTask(f"teochat_{split}", teochat.PROTOCOL) for split in teochat.RULES},
}
"""Tasks by name."""


def table(scored: Mapping[str, Any]) -> str:
    """The result of `score_lines` for the terminal: what was removed, the protocol, and one line per score."""
    result = scored["result"]
    kept = scored["lines"] - scored["duplicates"]
    lines = [f"{scored['task']}   [{result['protocol']}]   n={kept}"]
    if scored["duplicates"]:
        lines.append(f"  {scored['duplicates']} of {scored['lines']} lines have an id that was there before and are left out"
                     + (f"; {scored['contradictions']} of them with another prediction (the first one counts)"
                        if scored["contradictions"] else ""))
    if scored["full"] and kept != scored["full"]:
        lines.append(f"  partial: the test split has {scored['full']} samples; the scores do not compare with published ones")
    if "tasks" in result:
        return "\n".join([*lines, *teochat.table(result).splitlines()[1:]])
    numbers = {name: value for name, value in result.items() if isinstance(value, float)}
    width = max(map(len, numbers), default=0)
    lines += [f"  {name:{width}}  {value:8.2f}" for name, value in numbers.items()]
    lines += [f"  {name}: {result[name]}" for name in ("S*m METEOR", "references_sha256", "unparsed", "unreadable") if name in result]
    return "\n".join(lines)
