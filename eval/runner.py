"""Ask and write down: `predictions.jsonl` grows until every planned request is answered. Nothing is scored here."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from geotempo.data_builders.sample import Sample
from geotempo.data_builders.store import Store
from geotempo.eval import controls
from geotempo.eval.answerers import Answerer, FixedAnswers, Item, majority, request_of
from geotempo.eval.predictions import (
    PREDICTIONS,
    Row,
    append_rows,
    digest,
    key_of,
    read_lines,
    set_aside_broken_end,
    write_whole,
)
from geotempo.eval.reading import read
from geotempo.eval.task import Task
from geotempo.model.errors import GeoTempoError, InputError
from geotempo.model.predictor import Reply
from geotempo.model.records import ImageRecord, Region, time_order
from geotempo.model.geometry import Mask

RUN = "run.json"
FAILURES = "failures.jsonl"
FORMAT_VERSION = 1


class Segmenter(Protocol):
    """Regions to masks, as `geotempo.model.masks` does."""

    @property
    def name(self) -> str:
        """For the protocol's name."""

    def segment(self, image: ImageRecord, regions: Sequence[Region]) -> list[Mask]:
        """One mask per region of one image."""


@dataclass(frozen=True)
class Selection:
    """Which samples of a store are asked, and how their inputs are changed.

    Attributes:
        tasks: Evaluation tasks.
        split: Split; None takes each task's own, or any split where `ids` are given.
        ids: Sample ids, or ids without the part from `#` on, which stand for all samples of that item.
        limit: At most so many samples per task, the first in stored order.
        control: One of `geotempo.eval.controls.CONTROLS`, or None.
    """

    tasks: tuple[Task, ...]
    split: str | None = None
    ids: tuple[str, ...] | None = None
    limit: int | None = None
    control: str | None = None


@dataclass(frozen=True)
class Planned:
    """One request to come: store rows of the sample that asks and of the sample that holds the right answer."""

    task: Task
    asks: int
    truth: int


def data_hash(store: Store) -> str:
    """Names a store's content: the manifest lists the SHA-256 of every shard."""
    return digest(store.manifest)


def plan(store: Store, selection: Selection) -> list[Planned]:
    """What will be asked, task by task in stored order.

    Raises:
        InputError: A task has no samples, an id is unknown, or an unknown control.
    """
    if selection.control is not None and selection.control not in controls.CONTROLS:
        raise InputError(f"unknown control {selection.control!r}; allowed: {', '.join(controls.CONTROLS)}")
    if selection.limit is not None and selection.limit < 1:
        raise InputError(f"--limit must be 1 or more, got {selection.limit}")
    names = [task.task for task in selection.tasks]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise InputError(f"the task {doubled[0]!r} is given twice; name each task once")
    ids = _full_ids(store, selection.ids) if selection.ids is not None else None
    planned: list[Planned] = []
    for task in selection.tasks:
        rows = _rows(store, task, selection, ids)[: selection.limit]
        truth = _partners(store, rows, task) if selection.control == "swap" else {row: row for row in rows}
        planned += [Planned(task, row, truth[row]) for row in rows if row in truth]
    return planned


def run(store: Store, selection: Selection, answerer: Answerer, out: Path, batch_size: int = 8,
        segmenter: Segmenter | None = None) -> None:
    """Answer every planned request and write the answers to `OUT/predictions.jsonl`.

    May be killed at any moment: the same call goes on after the last whole line.

    Args:
        store: The samples.
        selection: Which of them.
        answerer: Who answers.
        out: Folder of the run; new, empty, or of the same run.
        batch_size: Requests handed over at once; after each batch the file is synced.
        segmenter: Turns answered regions into masks, which are stored beside the answer.

    Raises:
        InputError: `out` belongs to another run, or some requests failed; what was answered is kept, and the failed
            ones are listed in `OUT/failures.jsonl` and asked again by the next call.
    """
    planned = plan(store, selection)
    identity = _open_run(store, selection, answerer, out, segmenter, planned)
    path = out / PREDICTIONS
    moved = set_aside_broken_end(path)
    if moved:
        tqdm.write(f"a half-written last line ({moved} bytes) of {path} was set aside; its sample is asked again")
    done = _done(path, store, planned, identity) if path.exists() else set()
    todo = [request for request in planned if (request.task.task, store.ids[request.asks]) not in done]
    failures: list[Row] = []
    with tqdm(total=len(planned), initial=len(planned) - len(todo), desc="asking", unit="sample") as progress:
        for batch in _batches(todo, batch_size):
            append_rows(path, _answer_batch(store, batch, selection.control, answerer, segmenter, identity, failures))
            progress.update(len(batch))
    _report_failures(out, failures, len(planned))


def majority_answers(store: Store, selection: Selection) -> FixedAnswers:
    """Each task's most frequent answer, counted over the training split where it has the task, else over what is asked."""
    texts, asked = {}, plan(store, selection)
    trained = {(store.row(row)["split"], store.row(row)["task"]) for row in range(len(store))}
    for task in selection.tasks:
        names = [name for name in task.tasks if ("train", name) in trained]
        rows = store.rows(split="train", tasks=names) if names else [p.asks for p in asked if p.task == task]
        texts[task.task] = majority(store[row] for row in rows)
    return FixedAnswers("majority", texts)


def _rows(store: Store, task: Task, selection: Selection, ids: list[str] | None) -> list[int]:
    """Store rows of one task."""
    held = store.manifest["counts"]["by_task"]
    split = selection.split or (None if ids is not None else task.split)
    names = [name for name in task.tasks if name in held]
    rows = store.rows(split=split, tasks=names, ids=ids) if names else []
    if not rows:
        where = f" in split {split!r}" if split else " among the given ids"
        raise InputError(f"{store.path} has no samples for the task {task.task!r}{where}; it holds the tasks "
                         f"{', '.join(sorted(held))} in the splits {', '.join(sorted(store.manifest['counts']['by_split']))}")
    return rows


def _full_ids(store: Store, given: Sequence[str]) -> list[str]:
    """Sample ids; an id without its `#tag` stands for all samples of the item."""
    items: dict[str, list[str]] = {}
    for name in store.ids:
        items.setdefault(name, []).append(name)
        if "#" in name:
            items.setdefault(name.rpartition("#")[0], []).append(name)
    if unknown := [name for name in given if name not in items]:
        raise InputError(f"{store.path} has no sample {unknown[0]!r} ({len(unknown)} of {len(given)} ids are unknown); "
                         f"ids look like {store.ids[0] if len(store) else '(the store is empty)'!r}")
    return list(dict.fromkeys(full for name in given for full in items[name]))


def _partners(store: Store, rows: Sequence[int], task: Task) -> dict[int, int]:
    """Row to the row whose images it is shown, for the control `swap`."""
    row_of = {store.ids[row]: row for row in rows}
    pairs = controls.partners([controls.asked(store[row]) for row in rows])
    if not pairs:
        raise InputError(f"no two samples of the task {task.task!r} ask the same with different answers, so none can "
                         "exchange images; give more samples or leave the task out")
    return {row_of[first]: row_of[second] for first, second in pairs.items()}


def _open_run(store: Store, selection: Selection, answerer: Answerer, out: Path, segmenter: Segmenter | None,
              planned: Sequence[Planned]) -> str:
    """Write `run.json`, or compare with the one that is there; returns the identity that every line carries."""
    fixed: dict[str, Any] = {
        "format_version": FORMAT_VERSION, "data_sha256": data_hash(store), "model": answerer.name,
        "model_fingerprint": answerer.fingerprint, "control": selection.control,
        "masks": segmenter.name if segmenter else None,
        "tasks": [task.to_json() for task in selection.tasks],
        "partial": selection.limit is not None or selection.ids is not None,
        "requests": [[p.task.task, store.ids[p.asks], store.ids[p.truth]] for p in planned],
    }
    fixed = json.loads(json.dumps(fixed))
    path = out / RUN
    if path.exists():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        if changed := [key for key in fixed if earlier.get(key) != fixed[key]]:
            raise InputError(f"{out} holds a run with another {changed[0]}; give another --out or the settings of that run")
    elif (out / PREDICTIONS).exists():
        raise InputError(f"{out} holds {PREDICTIONS} but no {RUN}; give another --out")
    else:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {str(out)!r}: {error.strerror}; give another --out") from None
        write_whole(path, json.dumps({"data": str(store.path), **fixed}, indent=1, ensure_ascii=False) + "\n")
    return digest([fixed[key] for key in ("data_sha256", "model_fingerprint", "control", "masks")])


def fingerprint(identity: str, task: Task, asks: str, truth: str) -> str:
    """Names one request exactly: data, model, control, task settings, sample."""
    return digest([identity, task.task, task.max_new_tokens, asks, truth])


def _done(path: Path, store: Store, planned: Sequence[Planned], identity: str) -> set[tuple[str, str]]:
    """Keys of the answered requests.

    Raises:
        InputError: A line belongs to another run.
    """
    known = {(p.task.task, store.ids[p.asks]): fingerprint(identity, p.task, store.ids[p.asks], store.ids[p.truth])
             for p in planned}
    rows = read_lines(path)
    for row in rows:
        if known.get(key_of(row)) != row["fingerprint"]:
            raise InputError(f"{path} holds an answer to {row['id']!r} that is not from this run; give another --out")
    return {key_of(row) for row in rows}


def _answer_batch(store: Store, batch: Sequence[Planned], control: str | None, answerer: Answerer,
                  segmenter: Segmenter | None, identity: str, failures: list[Row]) -> list[Row]:
    """Rows of a batch; what fails is added to `failures` with its reason, never answered in its place."""
    ready: list[tuple[Planned, Item]] = []
    rows: list[Row] = []

    def attempt(request: Planned, action: Callable[[], None]) -> None:
        try:
            action()
        except GeoTempoError as error:
            failures.append({"task": request.task.task, "id": store.ids[request.asks], "error": str(error)})

    def finish(request: Planned, item: Item, reply: Reply) -> None:
        rows.append(_row(store, request, item, reply, answerer, identity, segmenter))

    for request in batch:
        attempt(request, lambda request=request: ready.append((request, _item(store, request, control))))  # type: ignore[misc]
    try:
        replies = answerer.answer([item for _, item in ready])
        for (request, item), reply in zip(ready, replies, strict=True):
            finish(request, item, reply)
    except GeoTempoError:
        pass
    return rows


def _item(store: Store, request: Planned, control: str | None) -> Item:
    """Load a request, its images changed by the control."""
    sample = store[request.asks]
    truth = sample if request.truth == request.asks else store[request.truth]
    if control == "swap":
        images = controls.with_pictures_of(sample.images, truth.images)
    else:
        images = controls.perturb(sample.images, control) if control else sample.images
    return Item(request.task.task, truth, request_of(sample, images, request.task.max_new_tokens))


def _report_failures(out: Path, failures: Sequence[Row], total: int) -> None:
    path = out / FAILURES
    if not failures:
        path.unlink(missing_ok=True)
        return
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in failures))
    first = failures[0]
    raise InputError(f"{len(failures)} of {total} requests failed and nothing was scored, first {first['id']!r}: "
                     f"{first['error']}; all are listed in {path}; mend them and run the same command again")
