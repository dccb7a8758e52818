"""From a source folder to a store: items in parallel, in a fixed order, bad ones named and set aside."""

import hashlib
import multiprocessing
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from geotempo import __version__
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.shards import Building
from geotempo.data_builders.source import Rejection, Source
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
    keys = source.keys(root)
    if not keys:
        raise LayoutError(f"{root} holds no item of {name}")
    digest = hashlib.sha256("\n".join(keys).encode()).hexdigest()
    plan = {"source": name, "version": source.version, "options": options, "geotempo": __version__,
            "root": str(root.resolve()), "keys_sha256": digest}
    with Building(out, plan) as building:
        todo = keys[building.done :]
        with tqdm(total=len(keys), initial=building.done, unit="item", disable=not progress) as bar:
            for result in read_items(source, root, todo, workers, make=(name, options)):
                building.add(result.samples, result.tally, result.rejected)
                bar.update()
        building.flush()
        manifest = make_manifest(building, plan, licence=source.licence, citation=source.citation)
        refuse_excess(building, len(keys), max_rejected)
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


def read_items(source: Source, root: Path, keys: Sequence[str], workers: int,
               make: tuple[str, dict[str, Any]]) -> Iterator[ItemResult]:
    """Read items in the order of `keys`, in this process or in several.

    Args:
        source: The source, used when `workers` is 1.
        root: Its folder.
        keys: Items.
        workers: Number of processes.
        make: Name and options with which each process makes its own source.

    Raises:
        InputError: A worker process died.
    """
    if workers <= 1 or len(keys) < 2:
        for key in keys:
            yield read_item(source, root, key)
        return
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, context, _start_worker, (*make, root)) as pool:
            yield from _in_order(lambda key: pool.submit(_work, key), keys, ahead=4 * workers)
    except BrokenProcessPool:
        raise InputError("a worker process died, probably for want of memory; "
                         "run the same command with fewer --workers to go on") from None


def read_item(source: Source, root: Path, key: str) -> ItemResult:
    """The samples of one item; an `InputError` becomes an entry of the rejected list."""
    try:
        samples = list(source.samples(root, key))
        return ItemResult(key, samples, source.tally(samples))
    except InputError as error:
        reason = error.reason if isinstance(error, Rejection) else "invalid input"
        detail = error.detail if isinstance(error, Rejection) else str(error)
        return ItemResult(key, rejected={"key": key, "reason": reason, "detail": detail})


def _in_order(submit: Callable[[str], "Future[ItemResult]"], keys: Sequence[str], ahead: int) -> Iterator[ItemResult]:
    """Results in the order of the keys with at most `ahead` items under way, so that memory stays bounded."""
    waiting: deque[Future[ItemResult]] = deque()
    for key in keys:
        waiting.append(submit(key))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


_worker: dict[str, Any] = {}


def _start_worker(name: str, options: dict[str, Any], root: Path) -> None:
    _worker.update(source=make_source(name, **options), root=root)


def _work(key: str) -> ItemResult:
    return read_item(_worker["source"], _worker["root"], key)
