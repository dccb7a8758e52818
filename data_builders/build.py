"""From a source folder to a store: items in parallel, in a fixed order, bad ones named and set aside."""

import multiprocessing
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from geotempo import __version__
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.shards import Building
from geotempo.data_builders.source import Item, Rejection, Source
from geotempo.data_builders.sources import make_source
from geotempo.data_builders.store import make_manifest
from geotempo.model.errors import InputError, LayoutError

MAX_REJECTED = 0.05


@dataclass(frozen=True)
class ItemResult:
    """What became of one item: its samples, or why there are none."""

    key: str
    samples: list[Sample] = field(default_factory=list)
    tally: Counter[str] = field(default_factory=Counter)
    rejected: dict[str, str] | None = None


def build_store(name: str, root: Path, out: Path, *, options: dict[str, Any] | None = None, workers: int = 1,
                max_rejected: float = MAX_REJECTED, progress: bool = True) -> dict[str, Any]:
    """Build the store of a source.

    A killed build goes on where it stopped when it is started again with the same arguments; the result's bytes depend
    neither on that nor on the number of workers.

    Args:
        name: Source, see `geotempo.data_builders.sources.SOURCES`.
        root: Its folder in the original layout (unused by `scenes`).
        out: Folder of the store; it appears when the store is whole.
        options: Keyword arguments of the source's class.
        workers: Processes that read items.
        max_rejected: Highest allowed share of rejected items, 0 to 1.
        progress: Show a progress bar on stderr.

    Returns:
        The manifest.

    Raises:
        LayoutError: `root` has another layout; nothing is written.
        InputError: Too many items were rejected, or `out` holds something else.
    """
    options = options or {}
    source = make_source(name, **options)
    source.check_layout(root)
    plan = {"source": name, "version": source.version, "options": options, "geotempo": __version__,
            "root": str(root.resolve()), "fingerprint": source.fingerprint(root)}
    with Building(out, plan) as building:
        todo = islice(source.items(root), building.done, None)
        with tqdm(total=source.total(root), initial=building.done, unit="item", disable=not progress) as bar:
            for result in read_items(source, root, todo, workers, make=(name, options)):
                building.add(result.samples, result.tally, result.rejected)
                bar.update()
        building.flush()
        if not building.done:
            raise LayoutError(f"{root} holds no item of {name}")
        manifest = make_manifest(building, plan, licence=source.licence, citation=source.citation)
        refuse_excess(building, building.done, max_rejected)
        building.finish(manifest)
    return manifest


def refuse_excess(building: Building, total: int, max_rejected: float) -> None:
    """Stop before the store gets its name when too much was set aside; the work done is kept.

    Raises:
        InputError: More than the share `max_rejected` of the items was rejected, or all of them.
    """
    rejected = [entry for block in building.blocks for entry in block["rejected"]]
    if len(rejected) < total and len(rejected) <= max_rejected * total:
        return
    reasons = Counter(entry["reason"] for entry in rejected)
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    first = rejected[0]
    raise_it = "" if len(rejected) == total else ", or raise --max-rejected and run again to keep what could be read"
    todo = f"mend the source, remove {building.folder} and run again{raise_it}"
    raise InputError(f"{len(rejected)} of {total} items were rejected (allowed: {max_rejected:.0%}): {listed}; "
                     f"the first: {first['key']}: {first['detail']}; {todo}")


def read_items(source: Source, root: Path, items: Iterable[Item], workers: int,
               make: tuple[str, dict[str, Any]]) -> Iterator[ItemResult]:
    """Read items in their order, in this process or in several.

    Args:
        source: The source, used when `workers` is 1.
        root: Its folder.
        items: What to read.
        workers: Number of processes.
        make: Name and options with which each process makes its own source.

    Raises:
        InputError: A worker process died.
    """
    if workers <= 1:
        for item in items:
            yield read_item(source, root, item)
        return
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, context, _start_worker, (*make, root)) as pool:
            yield from _in_order(lambda item: pool.submit(_work, item), items, ahead=4 * workers)
    except BrokenProcessPool:
        raise InputError("a worker process died, probably for want of memory; "
                         "run the same command with fewer --workers to go on") from None


def read_item(source: Source, root: Path, item: Item) -> ItemResult:
    """The samples of one item; an `InputError` becomes an entry of the rejected list."""
    try:
        samples = list(source.read(root, item))
        return ItemResult(item.key, samples, source.tally(samples))
    except InputError as error:
        reason = error.reason if isinstance(error, Rejection) else "invalid input"
        detail = error.detail if isinstance(error, Rejection) else str(error)
        return ItemResult(item.key, rejected={"key": item.key, "reason": reason, "detail": detail})


def _in_order(submit: Callable[[Item], "Future[ItemResult]"], items: Iterable[Item], ahead: int) -> Iterator[ItemResult]:
    """Results in the order of the items with at most `ahead` items under way, so that memory stays bounded."""
    waiting: deque[Future[ItemResult]] = deque()
    for item in items:
        waiting.append(submit(item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


_worker: dict[str, Any] = {}


def _start_worker(name: str, options: dict[str, Any], root: Path) -> None:
    _worker.update(source=make_source(name, **options), root=root)


def _work(item: Item) -> ItemResult:
    return read_item(_worker["source"], _worker["root"], item)
