"""Mixtures: one YAML file says which samples of which stores become one store.

```yaml
seed: 0                  # draws the same samples every time
samples: 100000          # of train, left out: all, or as many as the weights allow; or {train: 100000, val: 2000}
temperature: 1           # a task with n samples counts as n ** temperature: 1 as they are, 0 all tasks alike
splits: [train, val]     # left out: all
licence: commercial      # refuse sources that do not allow it; left out: any
events: held_out         # an event is in one split only (the default); or {val: [joplin-tornado], test: [...]}; or mixed
stores:
  - store: data/levir-mci
    weight: 2            # two samples of this store for each of one with weight 1
    tasks: [change_caption, change_grounding]
    splits: [train]      # of the store; left out: all
    cap: 50000           # most samples of a split
    cap_per_task: 10000
    temperature: 0.5
```
No sample is drawn twice. Which ones are drawn depends on the seed and their ids only. The mixture is an ordinary store: it holds
each image once, as bytes, or as a path where all its sources do, so it can be moved and trained on without them.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from geotempo import __version__
from geotempo.data_builders.census import facts
from geotempo.data_builders.events import assign_events
from geotempo.data_builders.families import event_name, place_name
from geotempo.data_builders.licences import combine, known_licence, terms_of
from geotempo.data_builders.merge import add_row
from geotempo.data_builders.mixture import Mixture, Part, read_mixture
from geotempo.data_builders.quotas import fill, thin
from geotempo.data_builders.shards import MANIFEST, Building
from geotempo.data_builders.store import Store, finish_store
from geotempo.model.errors import InputError

Group = tuple[str, str]
"""Split and task."""
SHOWN = 5
"""Places that a message lists."""


@dataclass
class Offer:
    """What a part of a mixture has to offer.

    Attributes:
        part: The part.
        store: Its store.
        rows: Rows by split of the mixture and task.
        splits: Split by row, where an event puts it into another than its own.
        licences: Samples by licence.
        places: Place by row.
    """

    part: Part
    store: Store
    rows: dict[Group, list[int]]
    splits: dict[int, str]
    licences: Counter[str]
    places: dict[int, str]


@dataclass(frozen=True)
class Drawn:
    """Samples drawn of what was there, for the table.

    Attributes:
        store: Folder.
        split: Of the mixture.
        task: Task.
        there: Samples on offer.
        drawn: Samples taken.
    """

    store: str
    split: str
    task: str
    there: int
    drawn: int


def mix_stores(recipe: Path, out: Path, *, commercial: bool = False, progress: bool = True,
               card: bool = True) -> tuple[dict[str, Any], list[Drawn]]:
    """Write the store that a mixture file describes; a killed run goes on where it stopped.

    Args:
        recipe: The YAML file.
        out: Folder of the new store.
        commercial: Refuse sources that do not allow commercial use, as `licence: commercial` in the file does.
        progress: Show a progress bar on stderr.
        card: Also write the dataset card and the contact sheet.

    Returns:
        (the manifest, what was drawn).

    Raises:
        ConfigError: The file has a wrong key or value.
        InputError: A licence does not allow it, nothing is left, or `out` holds something else.
    """
    mixture = read_mixture(recipe)
    stores = [Store(part.store) for part in mixture.stores]
    events = _events(mixture, stores)
    offers = [_offer(mixture, part, store, events) for part, store in zip(mixture.stores, stores, strict=True)]
    _check_licences(offers, commercial or mixture.licence == "commercial")
    chosen, table = draw(mixture, offers)
    total = sum(map(len, chosen))
    if not total:
        raise InputError(f"{recipe} draws no sample; geotempo check shows what the stores hold")
    digests = [sha256((store.path / MANIFEST).read_bytes()).hexdigest() for store in stores]
    plan = {"source": "mix", "version": 1, "options": mixture.to_dict(), "parts": digests, "geotempo": __version__}
    references = all(store.manifest.get("images", {}).get("stored") == "reference" for store in stores)
    with Building(out, plan, "reference" if references else "copy") as building:
        pairs = ((offer, row) for offer, rows in zip(offers, chosen, strict=True) for row in rows)
        with tqdm(total=total, initial=building.done, unit="sample", disable=not progress) as bar:
            for offer, row in islice(pairs, building.done, None):
                stored = offer.store.row(row)
                add_row(building, offer.store, {**stored, "split": offer.splits.get(row, stored["split"])})
                bar.update()
        building.flush()
        licence = combine(list(building.counts("licence")))
        citations = sorted({str(store.manifest["citation"]) for store in stores if store.manifest.get("citation")})
        manifest = finish_store(building, plan, card=card, licence=licence.text, citation="; ".join(citations), drawn=[
            vars(entry) for entry in table], events=dict(sorted(events.items())), straddling=_straddling(offers, chosen))
    return manifest, table


def draw(mixture: Mixture, offers: Sequence[Offer]) -> tuple[list[list[int]], list[Drawn]]:
    """Choose rows, in stored order, of each part, and say what was there."""
    chosen: list[list[int]] = [[] for _ in offers]
    table = []
    for split in mixture.splits:
        there = [{task: len(rows) for (of, task), rows in offer.rows.items() if of == split} for offer in offers]
        for number, (offer, quota) in enumerate(zip(offers, _quotas(mixture, split, there), strict=True)):
            for task, count in quota.items():
                rows = offer.rows[split, task]
                chosen[number] += rows if count >= len(rows) else sorted(rows, key=lambda row, ids=offer.store.ids: _rank(  # type: ignore[misc]
                    mixture.seed, ids[row]))[:count]
                table.append(Drawn(offer.part.store, split, task, len(rows), count))
    return [sorted(rows) for rows in chosen], table


def _quotas(mixture: Mixture, split: str, there: Sequence[Mapping[str, int]]) -> list[dict[str, int]]:
    """Samples by task that each part gives to a split."""
    limits = []
    for part, tasks in zip(mixture.stores, there, strict=True):
        capped = {task: min(count, part.cap_per_task or count) for task, count in tasks.items()}
        limits.append((capped, min(sum(capped.values()), part.cap or sum(capped.values()))))
    most = [limit for _, limit in limits]
    wanted = mixture.wanted(split)
    if wanted is not None:
        shares = fill(wanted, [part.weight or 1.0 for part in mixture.stores], most)
    elif split == "train" and mixture.weighted:
        shares = thin([part.weight or 1.0 for part in mixture.stores], most)
    else:
        shares = most
    quotas = []
    for part, (capped, _), share in zip(mixture.stores, limits, shares, strict=True):
        heat = mixture.temperature if part.temperature is None else part.temperature
        names = sorted(capped)
        counts = fill(share, [float(capped[name]) ** heat for name in names], [capped[name] for name in names])
        quotas.append(dict(zip(names, counts, strict=True)))
    return quotas


def _rank(seed: int, sample: str) -> bytes:
    """Samples with the smallest are drawn, so that what is drawn does not depend on the order of a store."""
    return blake2b(f"{seed}:{sample}".encode(), digest_size=8).digest()


def _events(mixture: Mixture, stores: Sequence[Store]) -> dict[str, str]:
    """The split of each event; empty where events may be in several splits, or where there is none."""
    if mixture.events == "mixed":
        return {}
    found = {name for part, store in zip(mixture.stores, stores, strict=True) for fact in facts(store)
             if part.takes(fact.split, store.facts(fact.row).task) and (name := event_name(fact.meta)) is not None}
    named = mixture.events if isinstance(mixture.events, Mapping) else None
    return assign_events(found, named, mixture.seed, mixture.splits)


def _offer(mixture: Mixture, part: Part, store: Store, events: Mapping[str, str]) -> Offer:
    """What a part has to offer, in one pass over its store."""
    rows: dict[Group, list[int]] = defaultdict(list)
    offer = Offer(part, store, rows, {}, Counter(), {})
    for fact in facts(store):
        task = store.facts(fact.row).task
        event = event_name(fact.meta)
        split = events.get(event, fact.split) if event else fact.split
        if not part.takes(fact.split, task) or split not in mixture.splits:
            continue
        rows[split, task].append(fact.row)
        if split != fact.split:
            offer.splits[fact.row] = split
        offer.licences[str(fact.meta.get("licence") or "unknown")] += 1
        key = fact.id.partition("#")[0].removeprefix(f"{fact.dataset}/{fact.split}/")
        offer.places[fact.row] = sys.intern(place_name(fact.dataset, fact.split, key, fact.meta))
    return offer


def _check_licences(offers: Sequence[Offer], commercial: bool) -> None:
    """Refuse what may not be used to earn money, where that is wanted.

    Raises:
        InputError: Names the stores and their licences.
    """
    if not commercial:
        return
    wrong = []
    for offer in offers:
        names = [text for text in sorted(offer.licences) if not _free(text)]
        if names:
            wrong.append(f"{offer.part.store} ({', '.join(names)})")
    if wrong:
        raise InputError(f"licence: commercial allows no source that forbids commercial use or derivatives or whose terms are unknown: "
                         f"{'; '.join(wrong)}; leave them out")


def _free(licence: str) -> bool:
    terms = terms_of(known_licence(licence))
    return terms.commercial and terms.derivatives and terms.known


def _straddling(offers: Sequence[Offer], chosen: Sequence[Sequence[int]]) -> list[str]:
    """Places with samples in more than one split, sorted."""
    first: dict[str, str] = {}
    found = set()
    for offer, rows in zip(offers, chosen, strict=True):
        for row in rows:
            place, split = offer.places[row], offer.splits.get(row) or offer.store.facts(row).split
            if first.setdefault(place, split) != split:
                found.add(place)
    return sorted(found)


def summary(manifest: Mapping[str, Any], table: Sequence[Drawn]) -> Iterator[str]:
    """The table of what was drawn, and what to know about the mixture."""
    width = max([len("store"), *(len(entry.store) for entry in table)])
    yield f"{'store':<{width}}  {'split':<6} {'task':<24} {'there':>9} {'drawn':>9}"
    for entry in table:
        yield f"{entry.store:<{width}}  {entry.split:<6} {entry.task:<24} {entry.there:>9,} {entry.drawn:>9,}"
    counts = manifest["counts"]
    yield f"{counts['samples']:,} samples, {counts['images']:,} images; licence: {manifest['licence']}"
    held = defaultdict(list)
    for event, split in manifest["events"].items():
        held[split].append(event)
    yield from (f"events in {split} only: {', '.join(names)}" for split, names in sorted(held.items()) if split != "train")
    places = manifest["straddling"]
    if places:
        yield (f"{len(places):,} places are in more than one split, e.g. {', '.join(places[:SHOWN])}; "
               "geotempo leaks lists them, geotempo train refuses them")
