"""From `predictions.jsonl` and the store to `scored.jsonl` and `results.json`; no model is needed."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from geotempo.data_builders.sample import Sample
from geotempo.data_builders.store import Store
from geotempo.eval.metrics.bootstrap import interval
from geotempo.eval.metrics.ciderd import reference_hash
from geotempo.eval.predictions import PREDICTIONS, Row, digest, key_of, read_lines
from geotempo.eval.reading import Kind, Value, read, references, true_value
from geotempo.eval.runner import RUN, data_hash
from geotempo.eval.scorers import METRICS, Case
from geotempo.model.convention import Convention
from geotempo.model.errors import InputError
from geotempo.model.files import write_text
from geotempo.model.geometry import Mask, bounds
from geotempo.model.records import Status

SCORED = "scored.jsonl"
RESULTS = "results.json"


@dataclass(frozen=True)
class Scored:
    """All cases of one task with their rows of `predictions.jsonl`."""

    task: dict[str, Any]
    cases: list[Case]
    rows: list[Row]


def score_run(run: Path, data: Path | None = None, against: Path | None = None) -> dict[str, Any]:
    """Score a finished run.

    Writes `RUN/scored.jsonl` (per sample: value, status, repairs, statistics) and `RUN/results.json`.

    Args:
        run: Folder of the run.
        data: Its store, where that has moved.
        against: Folder of an unperturbed run over the same samples, to compare a control's answers with.

    Returns:
        What `results.json` holds.

    Raises:
        InputError: No run, an unfinished one, another store, doubled or foreign lines.
    """
    record = _record(run)
    store = Store(data or Path(record["data"]))
    if data_hash(store) != record["data_sha256"]:
        raise InputError(f"{store.path} is not the store of this run (other content); name the right one with --data")
    rows = _complete(run, record)
    convention = Convention.from_json(record["convention"])
    tasks = [_cases(store, task, [row for row in rows if row["task"] == task["task"]], convention) for task in record["tasks"]]
    results = {
        "model": record["model"], "model_fingerprint": record["model_fingerprint"],
        "data": record["data"], "data_sha256": record["data_sha256"],
        "control": record["control"], "partial": record["partial"],
        "protocol": {task.task["task"]: _protocol(task, record["masks"]) for task in tasks},
        "tasks": {}, "parse_rate": {task.task["task"]: parse_rate(task.cases) for task in tasks},
    }
    lines: list[Row] = []
    for task in tasks:
        statistics = _statistics(task)
        results["tasks"][task.task["task"]] = _metrics(task, statistics)
        lines += _lines(task, statistics)
    if against is not None:
        results["against"] = {task.task["task"]: compare(task.rows, _record(against), read_lines(against / PREDICTIONS))
                              for task in tasks}
    write_text(run / SCORED, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    write_text(run / RESULTS, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    return results


def parse_rate(cases: Sequence[Case]) -> dict[str, float]:
    """Share of the answers by status, 0-1, and of all that could not be read (`unreadable`)."""
    counts = Counter(case.reading.status for case in cases)
    shares = {str(status): counts[status] / len(cases) for status in Status}
    return {**shares, "unreadable": sum(case.reading.value is None for case in cases) / len(cases)}


def compare(rows: Sequence[Row], record: dict[str, Any], plain: Sequence[Row]) -> dict[str, float]:
    """Answers under a control beside the unperturbed answers of another run.

    Args:
        rows: Lines under the control, of one task.
        record: `run.json` of the unperturbed run.
        plain: Its lines.

    Returns:
        `kept`: share of answers equal, word for word, to the unperturbed answer of the same sample; `n`. Where images
        were exchanged also `follows`: share equal to the unperturbed answer to the images shown, among the
        `informative` samples, whose two unperturbed answers differ, and `stays`: share of these that did not move.

    Raises:
        InputError: The other run is under a control itself, or lacks a sample.
    """
    if record["control"]:
        raise InputError(f"the run to compare with is under the control {record['control']!r}; name an unperturbed one")
    texts = {key_of(row): str(row["text"]) for row in plain}
    for row in rows:
        for name in (row["id"], row["truth"]):
            if (row["task"], name) not in texts:
                raise InputError(f"the run to compare with has no answer to {name!r}; run it over the same samples")
    own = [texts[row["task"], row["id"]] for row in rows]
    shown = [texts[row["task"], row["truth"]] for row in rows]
    said = [str(row["text"]) for row in rows]
    result = {"n": float(len(rows)), "kept": _share([a == b for a, b in zip(said, own, strict=True)])}
    if any(row["id"] != row["truth"] for row in rows):
        told = [(text, a, b) for text, a, b in zip(said, own, shown, strict=True) if a != b]
        result |= {"informative": float(len(told)), "follows": _share([text == b for text, _, b in told]),
                   "stays": _share([text == a for text, a, _ in told])}
    return result


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else 0.0


def _record(run: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((run / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{run} is no run: it has no readable {RUN}; make one with `geotempo eval`") from None
    return record


def _complete(run: Path, record: dict[str, Any]) -> list[Row]:
    """The lines of a run in the planned order.

    Raises:
        InputError: Some are missing, or not of this run.
    """
    rows = {key_of(row): row for row in read_lines(run / PREDICTIONS)}
    planned = {(task, asks): truth for task, asks, truth in record["requests"]}
    if foreign := [key for key, row in rows.items() if planned.get(key) != row.get("truth")]:
        raise InputError(f"{run / PREDICTIONS} holds {foreign[0][1]!r}, which this run did not plan; remove that line")
    if len(rows) < len(planned):
        raise InputError(f"{run} holds {len(rows)} of {len(planned)} answers; run the same `geotempo eval` again to "
                         "finish it")
    return [rows[key] for key in planned]


def _cases(store: Store, task: dict[str, Any], rows: list[Row], convention: Convention) -> Scored:
    cases = []
    for row in tqdm(rows, desc=f"reading {task['task']}", unit="sample", leave=False):
        sample = store.by_id(row["truth"])
        reading = read(sample, row["text"], row["finish_reason"], convention)
        cases.append(Case(sample, reading, _masks(row)))
    return Scored(task, cases, rows)


def _masks(row: Row) -> tuple[Mask, ...] | None:
    if "masks" not in row:
        return None
    return tuple(Mask(mask["size"][0], mask["size"][1], mask["counts"]) for mask in row["masks"])


def _protocol(task: Scored, segmenter: str | None) -> str:
    """The protocol's name; where pixels are compared it says what the answered pixels are."""
    protocol = str(task.task["protocol"])
    if not {"oiou", "miou", "giou"} & set(task.task["metrics"]):
        return protocol
    return f"{protocol}, masks by {segmenter}" if segmenter else f"{protocol}, box-as-mask"


def _statistics(task: Scored) -> dict[str, tuple[list[int], Any]]:
    """Per metric the indices of the cases that it counts, and their rows of sufficient statistics."""
    out: dict[str, tuple[list[int], Any]] = {}
    for name in task.task["metrics"]:
        metric = METRICS[name]
        chosen = [index for index, case in enumerate(task.cases) if metric.applies(case.sample)]
        if chosen:
            out[name] = chosen, metric.statistics([task.cases[index] for index in chosen])
    return out


def _metrics(task: Scored, statistics: dict[str, tuple[list[int], Any]]) -> dict[str, Any]:
    """Value, interval and number of samples of every metric."""
    out: dict[str, Any] = {}
    for name, (chosen, rows) in statistics.items():
        metric = METRICS[name]
        clusters = [cluster(task.cases[index].sample) for index in chosen]
        low, high = interval(rows, clusters, metric.aggregate)
        out[name] = {"title": metric.title, "value": metric.scale * float(metric.aggregate(rows.sum(axis=0))),
                     "low": metric.scale * low, "high": metric.scale * high, "n": len(chosen),
                     "clusters": len(set(clusters))}
        if metric.frozen:
            known = [references(task.cases[index].sample) for index in chosen]
            out[name] |= {"references_sha256": reference_hash(known), "interval": "idf frozen"}
    return out


def cluster(sample: Sample) -> str:
    """Name of a sample's image set; samples of equal name are drawn together."""
    return digest(sorted(image.id for image in sample.images))


def _lines(task: Scored, statistics: dict[str, tuple[list[int], Any]]) -> list[Row]:
    """One line of `scored.jsonl` per sample."""
    lines: list[Row] = []
    for case, row in zip(task.cases, task.rows, strict=True):
        reading = case.reading
        lines.append({
            "task": task.task["task"], "id": row["id"], "truth_id": row["truth"], "cluster": cluster(case.sample)[:16],
            "kind": str(reading.kind), "status": str(reading.status), "repairs": list(reading.answer.repairs),
            "value": _plain(reading.value), "truth": _truth(case.sample, reading.kind), "statistics": {},
        })
    for name, (chosen, rows) in statistics.items():
        for index, values in zip(chosen, np.asarray(rows).tolist(), strict=True):
            lines[index]["statistics"][name] = values
    return lines


def _truth(sample: Sample, kind: Kind) -> object:
    return references(sample) if kind is Kind.TEXT else _plain(true_value(sample))


def _plain(value: Value | None) -> object:
    """A value as JSON."""
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, tuple):
        return [{"image": region.image, "box": [round(x, 3) for x in bounds(region.geometry).as_tuple()],
                 "label": region.label} for region in value]
    return value
