"""Fixed samples, answered again and again while a model learns: what it says, beside what it should say.

    choose() --> Watch: before the first step, at each evaluation, at the end --> OUT/watch/answers.jsonl --> OUT/watch.html

Watching leaves no trace in training: answers are greedy, every module's mode and all random generators are as before. In
a distributed run the processes share the samples; where parameters are sharded (ZeRO-3, FSDP) every process answers all of them
in step with the others, since each forward pass gathers parameters from all. Only the first process writes.
"""

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather_object
from transformers import ProcessorMixin, Trainer, TrainerCallback
from transformers.integrations import is_deepspeed_zero3_enabled

from geotempo.data_builders.render import target_text
from geotempo.data_builders.sample import TASKS, Sample
from geotempo.data_builders.store import Store
from geotempo.eval.answerers import request_of
from geotempo.eval.predictions import append_rows, digest, set_aside_broken_end
from geotempo.eval.reading import read
from geotempo.eval.scorers import METRICS, Case
from geotempo.eval.task import load_task, task_names
from geotempo.finetune.dataset import item_of, select
from geotempo.finetune.recipe import DataSection
from geotempo.finetune.watch_page import Row, Watched, render_page
from geotempo.model.convention import Convention
from geotempo.model.errors import GeoTempoError
from geotempo.model.files import write_text
from geotempo.serve.hf import generate_reply

ANSWERS = "watch/answers.jsonl"
PAGE = "watch.html"
_METRICS = ("box_f1_labels", "box_f1", "images_accuracy", "accuracy", "bleu4", "caption_exact_any")
"""Metrics that say something of a single answer, the most telling first."""


@dataclass(frozen=True)
class Choice:
    """The samples that are watched.

    Attributes:
        samples: With their images.
        split: Where they are from: val, or train where there is no val.
    """

    samples: tuple[Sample, ...]
    split: str


def choose(section: DataSection, count: int, seed: int) -> Choice:
    """Choose the samples to watch: in turn one of each task, each of other images as long as there are any.

    Args:
        section: The recipe's data section: split val of `evaluate`, else of the stores; what is held out nowhere is taken from
            what is trained on.
        count: How many.
        seed: Of the choice; equal data and seed give equal samples.
    """
    held = section.stores if section.evaluate is None else section.evaluate
    for folders, wanted in ((held, replace(section, split="val", images=None)), (section.stores, section)):
        stores = [Store(folder) for folder in folders]
        found = [(store, row) for store in stores for row in select(store, wanted)]
        if found:
            return Choice(tuple(store[row] for store, row in _spread(found, count, seed)), wanted.split)
    return Choice((), section.split)


def _spread(found: Sequence[tuple[Store, int]], count: int, seed: int) -> list[tuple[Store, int]]:
    """`count` of the samples, in turn one of each task."""
    queues: dict[str, list[tuple[Store, int]]] = {task: [] for task in TASKS}
    for store, row in sorted(found, key=lambda entry: digest([seed, entry[0].ids[entry[1]]])):
        queues[store.facts(row).task].append((store, row))
    for queue in filter(None, queues.values()):  # of each task first one where there is something to find
        queue.insert(0, queue.pop(next((place for place, (store, row) in enumerate(queue) if store.facts(row).regions), 0)))
    chosen: list[tuple[Store, int]] = []
    shown: set[str] = set()
    while len(chosen) < count and any(queues.values()):
        for queue in filter(None, queues.values()):
            fresh = (place for place, (store, row) in enumerate(queue) if item_of(store.ids[row]) not in shown)
            store, row = queue.pop(next(fresh, 0))
            shown.add(item_of(store.ids[row]))
            chosen.append((store, row))
    return chosen[:count]


class Journal:
    """The answers so far, one JSON line each, safe against a kill at any moment.

    Args:
        path: Its file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, list[Row]()

    def go_back_to(self, step: int) -> None:
        """Forget what was answered after a step, as the run that goes on from there will answer it again.

        Args:
            step: Optimizer step of the checkpoint; 0 forgets everything, since another run may begin.
        """
        set_aside_broken_end(self.path)
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        self.rows = [row for number, line in enumerate(lines, 1) if (row := self._read(line, number)) and step and row["step"] <= step]
        if len(self.rows) < len(lines):
            write_text(self.path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows))

    def _read(self, line: str, number: int) -> Row | None:
        """A row; None, and a word about it, for a line that is none."""
        try:
            row: Row = json.loads(line)
            return row if row["step"] >= 0 and row["id"] else None
        except (ValueError, KeyError, TypeError):
            print(f"{self.path}, line {number} is no watched answer and is left out")
            return None

    def add(self, rows: Sequence[Row]) -> None:
        """Append answers and return when they are on the disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        append_rows(self.path, rows)
        self.rows += rows

    def answered(self, step: int) -> set[str]:
        """Ids of the samples that were answered at a step."""
        return {row["id"] for row in self.rows if row["step"] == step}


@dataclass(frozen=True)
class Answerer:
    """Asks the model in training.

    Attributes:
        trainer: Holds the model.
        processor: Of the model.
        convention: How the model is asked.
        section: Says in which form regions are learned.
    """

    trainer: Trainer
    processor: ProcessorMixin
    convention: Convention
    section: DataSection

    def reference(self, sample: Sample) -> str:
        """The answer that training teaches."""
        return target_text(sample, points=self.section.points, grids=self.section.grids, convention=self.convention)

    def answer_all(self, samples: Sequence[Sample], step: int) -> list[Row]:
        """Rows of all samples, in their order, on every process."""
        accelerator, world = self.trainer.accelerator, self.trainer.args.world_size
        together = world == 1 or is_deepspeed_zero3_enabled() or self.trainer.is_fsdp_enabled
        mine = samples if together else samples[accelerator.process_index :: world]
        with undisturbed(self.trainer.model), accelerator.autocast():
            rows = [self._answer(sample, step) for sample in mine]
        if together:
            return rows
        by_id = {row["id"]: row for row in gather_object(rows)}
        return [by_id[sample.id] for sample in samples]

    def _answer(self, sample: Sample, step: int) -> Row:
        row: Row = {"step": step, "id": sample.id, "task": sample.task}
        reference = self.processor.tokenizer(self.reference(sample), add_special_tokens=False)["input_ids"]
        # Twice the room of the right answer shows how a wrong one goes on, and an untrained model does not hold up the run.
        request = request_of(sample, sample.images, 2 * len(reference) + 16)
        try:
            reply = generate_reply(self.trainer.model, self.processor, self.convention, request)
        except (GeoTempoError, torch.OutOfMemoryError) as error:
            return {**row, "error": str(error).splitlines()[0]}
        metric, value = score(sample, reply.text, reply.finish_reason, self.convention)
        return {**row, "text": reply.text, "finish_reason": reply.finish_reason, "metric": metric, "score": value}


def score(sample: Sample, text: str, finish_reason: str, convention: Convention) -> tuple[str | None, float | None]:
    """What `geotempo eval` would make of one answer.

    Returns:
        Title of the metric and value, 0 to 100; None for both where no metric applies to one answer.
    """
    for name in metrics_of(sample.task):
        metric = METRICS[name]
        if metric.applies(sample):
            sums = metric.statistics([Case(sample, read(sample, text, finish_reason, convention))]).sum(axis=0)
            return metric.title, round(metric.scale * float(metric.aggregate(sums)), 1)
    return None, None


@cache
def metrics_of(task: str) -> tuple[str, ...]:
    """Names of the metrics that the shipped evaluation of a sample task scores single answers with, the most telling first."""
    used = {name for shipped in map(load_task, task_names()) if task in shipped.tasks for name in shipped.metrics}
    return tuple(name for name in _METRICS if name in used)


@contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Inside, the model is in evaluation mode and nothing is differentiated; afterwards all is as it was before.

    That is the mode of every module, and Python's, NumPy's and torch's random generators, those of the GPU included.
    """
    modes = [(module, module.training) for module in model.modules()]
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            model.eval()
            yield
    finally:
        for module, training in modes:
            module.training = training
        random.setstate(python)
        np.random.set_state(numpy)


class Watch(TrainerCallback):  # type: ignore[misc]  # transformers is Any to mypy
    """Answers the watched samples and writes the page.

    Args:
        answerer: Asks the model.
        choice: The samples; not empty.
        out: The run's folder.
    """

    def __init__(self, answerer: Answerer, choice: Choice, out: Path) -> None:
        self.answerer, self.choice, self.out = answerer, choice, out
        self.journal = Journal(out / ANSWERS)
        self._shown = [Watched(sample, answerer.reference(sample)) for sample in choice.samples]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """What the model says before the first step; of a resumed run, only the page is written."""
        if state.is_world_process_zero:
            self.journal.go_back_to(state.global_step)
            where = "" if self.choice.split == "val" else " (no split val is held out, so these are trained on)"
            print(f"watching {len(self.choice.samples)} samples of split {self.choice.split}{where}: {self.out / PAGE}")
        if state.global_step == 0:
            self.look(state)
        elif state.is_world_process_zero:
            self._write(state)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """What it says now."""
        if self.answerer.trainer.is_in_train:
            self.look(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """What it says in the end, unless the last evaluation has just shown it."""
        self.look(state)

    def look(self, state: Any) -> None:
        """Answer what is not answered at this step yet, and write the page; to be called on all processes."""
        step = int(state.global_step)
        known = [self.journal.answered(step)]
        broadcast_object_list(known)  # only the first process has read the journal
        missing = [sample for sample in self.choice.samples if sample.id not in known[0]]
        if missing:
            rows = self.answerer.answer_all(missing, step)
            if state.is_world_process_zero:
                self.journal.add(rows)
        if state.is_world_process_zero:
            self._write(state)

    def _write(self, state: Any) -> None:
        page = render_page(self.out.resolve().name, self._shown, self.journal.rows, state.log_history,
                           self.answerer.convention, self.choice.split)
        write_text(self.out / PAGE, page)
