"""Several stores into one: the shards of a build, or any stores of different samples."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from geotempo import __version__
from geotempo.data_builders.schema import Prepared, Row, StoredImage, content_id
from geotempo.data_builders.shards import MANIFEST, REJECTED, Building, refuse_excess
from geotempo.data_builders.store import Store, finish_store
from geotempo.model.errors import InputError


def merge_stores(folders: Sequence[Path], out: Path, max_rejected: float = 1.0, progress: bool = True, *,
                 card: bool = False) -> dict[str, Any]:
    """Write all samples of several stores into a new one, each image once; resumable like a build.

    Shards of one build are put in the order of their numbers, other stores stay in the order given, so the result does
    not depend on which shard was finished first. It holds the samples of the build in one go, shard after shard.

    Args:
        folders: Stores, at least one.
        out: Folder of the new store.
        max_rejected: Highest allowed share of items that the builds set aside, 0 to 1.
        progress: Show a progress bar on stderr.
        card: Also write the dataset card and the contact sheet.

    Returns:
        The manifest.

    Raises:
        InputError: A sample id occurs in two stores, a shard is missing or given twice, too many items were rejected, or
            `out` holds something else.
    """
    stores = _ordered([Store(folder) for folder in folders])
    digests = [content_id((store.path / MANIFEST).read_bytes()) for store in stores]
    builders = [store.manifest["builder"] for store in stores]
    same = all(_whole(builder) == _whole(builders[0]) for builder in builders)
    plan = {**(_whole(builders[0]) if same else {"source": "merge", "version": 1, "options": {}}), "parts": digests,
            "geotempo": __version__}
    references = all(store.manifest.get("images", {}).get("stored") == "reference" for store in stores)
    with Building(out, plan, "reference" if references else "copy") as building:
        total = sum(len(store) + store.manifest["rejected"]["total"] for store in stores)
        with tqdm(total=total, initial=building.done, unit="sample", disable=not progress) as bar:
            for store, row, rejected in islice(_entries(stores), building.done, None):
                if rejected is None:
                    add_row(building, store, row)
                else:
                    building.add([], rejected=rejected)
                bar.update()
        building.flush()
        facts = _facts(stores)
        refuse_excess(building, facts["items"], max_rejected)
        return finish_store(building, plan, card=card, **facts)


def _whole(builder: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in builder.items() if key != "shard"}


def _ordered(stores: list[Store]) -> list[Store]:
    """Shards of one build by their number."""
    if not stores:
        raise InputError("nothing to merge; name at least one store")
    builders = [store.manifest["builder"] for store in stores]
    numbers = [builder.get("shard", [1, 1])[0] for builder in builders]
    totals = {builder.get("shard", [1, 1])[1] for builder in builders}
    total = max(totals)
    if total == 1 or any(_whole(builder) != _whole(builders[0]) for builder in builders):
        return stores
    wrong = sorted({number for number in numbers if numbers.count(number) > 1} | (set(range(1, total + 1)) ^ set(numbers)))
    if wrong or len(totals) > 1:
        raise InputError(f"these are the shards {sorted(numbers)} of {total}: shard {wrong[0] if wrong else total} is missing or "
                         "given twice; name each shard of one build once")
    return [store for _, store in sorted(zip(numbers, stores, strict=True), key=lambda pair: pair[0])]


def _entries(stores: Sequence[Store]) -> Iterator[tuple[Store, Row, dict[str, str] | None]]:
    """Of each store its samples' rows, then what was set aside when it was built."""
    for store in stores:
        for index in range(len(store)):
            yield store, store.row(index), None
        with (store.path / REJECTED).open(encoding="utf-8") as handle:
            for line in handle:
                yield store, {}, json.loads(line)


def add_row(building: Building, store: Store, row: Row) -> None:
    """Add a sample's row to a store under construction, with those of its images that are not there yet.

    Args:
        building: The new store.
        store: Where the row comes from.
        row: As `Store.row` gives it.

    Raises:
        InputError: The new store has a sample of that id.
    """
    images = {}
    for use in row["images"]:
        name = use["image_id"]
        if name not in images and not building.holds(name):
            path = store.image_path(name)
            images[name] = StoredImage(name, use["width"], use["height"], store.image_bytes(name), str(path) if path else None)
    try:
        building.add_prepared(Prepared([row], list(images.values())))
    except InputError as error:
        raise InputError(f"{error}; it is in {store.path} and in a store before it") from None


def _facts(stores: Sequence[Store]) -> dict[str, Any]:
    """What the manifests of the parts say together."""
    tally: Counter[str] = Counter()
    for store in stores:
        tally.update(store.manifest["tally"])
    licences = sorted({str(store.manifest.get("licence")) for store in stores} - {"None"})
    citations = sorted({str(store.manifest.get("citation")) for store in stores} - {"None"})
    return {"items": sum(store.manifest["items"] for store in stores), "tally": dict(sorted(tally.items())),
            **({"licence": " + ".join(licences)} if licences else {}),
            **({"citation": " + ".join(citations)} if citations else {})}

