"""Items of a source to rows of a store, in this process or in several, in a fixed order; bad ones named and set aside."""

import multiprocessing
import os
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from itertools import islice
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from geotempo.data_builders.controls import CONTROLS, with_controls
from geotempo.data_builders.schema import Prepared, prepare
from geotempo.data_builders.source import Item, Rejection, Source
from geotempo.data_builders.sources import make_source
from geotempo.model.errors import InputError

AHEAD = 4
"""Chunks under way per worker process, which bounds memory."""
UNFORESEEN = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
"""What a source's code raises on a record that has not the structure it expects."""


@dataclass(frozen=True)
class Job:
    """What is built, as every process that takes part needs to know it.

    Attributes:
        name: Source, see `geotempo.data_builders.sources.SOURCES`.
        root: Its folder in the original layout.
        options: Keyword arguments of the source's class.
        controls: Control samples to add, see `geotempo.data_builders.controls`.
        shard: (i, n): only every n-th item, beginning with the i-th (from 1).
    """

    name: str
    root: Path
    options: dict[str, Any] = field(default_factory=dict)
    controls: tuple[str, ...] = ()
    shard: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        number, total = self.shard
        if not 1 <= number <= total:
            raise InputError(f"a shard is i/n with i in 1..n, got {number}/{total}")
        wrong = [name for name in self.controls if name not in CONTROLS]
        if wrong:
            raise InputError(f"there are no control samples {wrong[0]!r}; allowed: {', '.join(CONTROLS)}")

    def source(self) -> Source:
        """The source, made anew."""
        return make_source(self.name, **self.options)

    def items(self, source: Source, done: int) -> Iterator[Item]:
        """The shard's items without the first `done`."""
        number, total = self.shard
        return islice(source.items(self.root), number - 1 + done * total, None, total)


@dataclass(frozen=True)
class ItemResult:
    """What became of one item.

    Attributes:
        key: Its name.
        prepared: Its rows and images.
        tally: What its samples count for.
        always: What it counts for whether or not it can be used.
        rejected: Why there are none, as an entry of `rejected.jsonl`.
    """

    key: str
    prepared: Prepared = field(default_factory=lambda: Prepared([], []))
    tally: Counter[str] = field(default_factory=Counter)
    always: Counter[str] = field(default_factory=Counter)
    rejected: dict[str, str] | None = None

    def set_aside(self, reason: str, detail: str) -> "ItemResult":
        """The same item, rejected."""
        entry = {"key": self.key, "reason": reason, "detail": detail}
        # Half of a surrogate pair, which a broken JSON escape leaves, is written as its escape: no file can hold it.
        safe = {name: text.encode(errors="backslashreplace").decode() for name, text in entry.items()}
        return ItemResult(self.key, always=self.always, rejected=safe)


def read_items(job: Job, source: Source, done: int, workers: int) -> Iterator[ItemResult]:
    """Read the items of a job in their order.

    Args:
        job: What is built.
        source: Its source, used for the list of items and, where `workers` is 1, to read them.
        done: Items to skip.
        workers: Number of processes.

    Raises:
        InputError: A worker process died.
    """
    items = job.items(source, done)
    if workers <= 1:
        for item in items:
            yield read_item(job, source, item)
        return
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, context, _start_worker, (job,)) as pool:
            yield from _in_order(pool, _chunks(items, source.chunk), AHEAD * workers)
    except BrokenProcessPool:
        raise InputError("a worker process died, probably for want of memory; "
                         "run the same command with fewer --workers to go on") from None


def read_item(job: Job, source: Source, item: Item) -> ItemResult:
    """The rows of one item; what is wrong with it becomes an entry of the rejected list."""
    result = ItemResult(item.key, always=source.tally_item(item))
    try:
        samples = list(source.read(job.root, item))
        tally = source.tally(samples)
        if job.controls:
            samples = list(with_controls(samples, job.controls))
        return replace(result, prepared=prepare(samples), tally=tally)
    except Rejection as error:
        return result.set_aside(error.reason, error.detail)
    except InputError as error:
        return result.set_aside("invalid input", str(error))
    except OSError as error:
        where = "/".join(Path(error.filename).parts[-2:]) + ": " if isinstance(error.filename, str) else ""
        return result.set_aside("unreadable file", where + (error.strerror or str(error)))
    except UNFORESEEN as error:
        return result.set_aside("unexpected content", repr(error))


def _chunks(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    while chunk := list(islice(items, size)):
        yield chunk


def _in_order(pool: ProcessPoolExecutor, chunks: Iterable[list[Item]], ahead: int) -> Iterator[ItemResult]:
    """Results in the order of the items, with at most `ahead` chunks under way."""
    waiting: deque[Future[list[ItemResult]]] = deque()
    for chunk in chunks:
        waiting.append(pool.submit(_work, chunk))
        if len(waiting) >= ahead:
            yield from waiting.popleft().result()
    while waiting:
        yield from waiting.popleft().result()


_worker: dict[str, Any] = {}


def _start_worker(job: Job) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker.update(job=job, source=job.source())


def _end_with_parent() -> None:
    """End this worker with the build: a build that is killed cannot end its workers, which would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _work(chunk: list[Item]) -> list[ItemResult]:
    return [read_item(_worker["job"], _worker["source"], item) for item in chunk]
