"""Which samples of a store are asked, and who holds the right answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from geotempo.data_builders.store import Store
from geotempo.eval import controls
from geotempo.eval.answerers import FixedAnswers, majority
from geotempo.eval.task import Task
from geotempo.model.errors import InputError


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


def read_ids(path: Path) -> tuple[str, ...]:
    """Ids of a text file, one a line (empty lines and lines from `# ` on left out), or a recipe's `data.images`.

    Raises:
        InputError: The file cannot be read or holds no id.
    """
    try:
        text = path.read_text(encoding="utf-8")
        lines = _recipe_images(text) if path.suffix in (".yaml", ".yml") else text.splitlines()
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read the ids of {str(path)!r}: {error!r}; give a text file, one id a line, or a recipe "
                         "with data.images") from None
    ids = tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("# "))
    if not ids:
        raise InputError(f"{str(path)!r} holds no ids; give one a line")
    return ids


def _recipe_images(text: str) -> list[str]:
    return [str(item) for item in yaml.safe_load(text)["data"]["images"]]


def majority_answers(store: Store, selection: Selection) -> FixedAnswers:
    """Each task's most frequent answer, counted over the training split, else over what is asked."""
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
        splits = ", ".join(sorted(store.manifest["counts"]["by_split"]))
        raise InputError(f"{store.path} has no samples for the task {task.task!r}{where}; it holds the tasks "
                         f"{', '.join(sorted(held))} in the splits {splits}")
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
