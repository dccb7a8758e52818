"""From a source folder to a store: items in a fixed order, resumable, in shards where that is wanted."""

from pathlib import Path
from typing import Any

from tqdm import tqdm

from geotempo import __version__
from geotempo.data_builders.reading import ItemResult, Job, read_items
from geotempo.data_builders.shards import Building, DuplicateIdError, Images, refuse_excess
from geotempo.data_builders.source import Source
from geotempo.data_builders.store import finish_store
from geotempo.model.errors import LayoutError

MAX_REJECTED = 0.05


def build_store(name: str, root: Path, out: Path, *, options: dict[str, Any] | None = None, workers: int = 1,
                max_rejected: float = MAX_REJECTED, progress: bool = True, images: Images = "copy",
                controls: tuple[str, ...] = (), shard: tuple[int, int] = (1, 1), card: bool = False) -> dict[str, Any]:
    """Build the store of a source.

    A killed build goes on where it stopped when it is started again with the same arguments; the result's bytes depend
    neither on that nor on the number of workers.

    Args:
        name: Source, see `geotempo.data_builders.sources.SOURCES`.
        root: Its folder in the original layout (unused by `scenes`).
        out: Folder of the store; it appears when the store is whole.
        options: Keyword arguments of the source's class.
        workers: Processes that read items.
        max_rejected: Highest allowed share of rejected items, 0 to 1; of a shard any share is allowed until it is merged.
        progress: Show a progress bar on stderr.
        images: `copy` stores the images' bytes; `reference` stores paths, and bytes only of images that no file holds.
        controls: Control samples to add, see `geotempo.data_builders.controls`.
        shard: (i, n): only every n-th item, beginning with the i-th (from 1); `geotempo.data_builders.merge` joins shards.
        card: Also write the dataset card and the contact sheet.

    Returns:
        The manifest.

    Raises:
        LayoutError: `root` has another layout; nothing is written.
        InputError: Too many items were rejected, or `out` holds something else.
    """
    job = Job(name, root, options or {}, controls, shard)
    source = job.source()
    source.check_layout(root)
    plan = plan_of(job, source, images)
    with Building(out, plan, images, root) as building:
        _read(building, job, source, workers, progress)
        if shard[1] == 1:
            if not building.done:
                raise LayoutError(f"{root} holds no item of {name}")
            refuse_excess(building, building.done, max_rejected)
        return finish_store(building, plan, card=card, licence=source.licence, citation=source.citation)


def plan_of(job: Job, source: Source, images: Images) -> dict[str, Any]:
    """Everything that the bytes of a job's store depend on."""
    return {"source": job.name, "version": source.version, "options": job.options, "geotempo": __version__,
            "root": str(job.root.resolve()), "fingerprint": source.fingerprint(job.root), "images": images,
            "controls": list(job.controls), "shard": list(job.shard)}


def _read(building: Building, job: Job, source: Source, workers: int, progress: bool) -> None:
    """Read what is not on disk yet."""
    number, shards = job.shard
    total = source.total(job.root)
    mine = None if total is None else max(0, (total - number) // shards + 1)
    rejected = sum(building.reasons().values())
    with tqdm(total=mine, initial=building.done, unit="item", disable=not progress) as bar:
        for result in read_items(job, source, building.done, workers):
            if not add_result(building, result):
                rejected += 1
                bar.set_postfix(rejected=rejected, refresh=False)
            bar.update()
            share = source.passed() if mine is None else None
            if share:
                bar.total = round(bar.n / share)  # of a stream, as long as its records are alike
        bar.total = bar.n
    building.flush()


def add_result(building: Building, result: ItemResult) -> bool:
    """Add an item to the store, or to what is set aside; whether it was kept."""
    if result.rejected is None:
        tally = result.always.copy()
        tally.update(result.tally)
        try:
            building.add_prepared(result.prepared, tally)
            return True
        except DuplicateIdError as error:
            result = result.set_aside("duplicate id", str(error))
    building.add([], result.always, result.rejected)
    return False
