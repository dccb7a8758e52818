"""What samples say about where and when their images were taken, gathered for many samples in little memory."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from geotempo.data_builders.families import event_name, place_name
from geotempo.data_builders.store import Store, reading_shard
from geotempo.model.errors import GeoTempoError

BATCH = 4096
COLUMNS = ("id", "dataset", "split", "meta", *(f"images.list.element.{name}" for name in ("image_id", "width", "height", "crs", "transform")))

Corners = tuple[float, float, float, float]


class Fact(NamedTuple):
    """A sample without its texts and regions: its row in the store, id, data set, split, images (as stored) and meta."""

    row: int
    id: str
    dataset: str
    split: str
    images: list[dict[str, Any]]
    meta: dict[str, Any]


def facts(store: Store) -> Iterator[Fact]:
    """All samples of a store, streamed in stored order."""
    row = 0
    for entry in store.manifest["files"]:
        if not entry["path"].startswith("samples/"):
            continue
        path = store.path / entry["path"]
        with reading_shard(path), pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH, columns=list(COLUMNS), use_threads=False):
                for found in batch.to_pylist():
                    yield Fact(row, found["id"], found["dataset"], found["split"], found["images"] or [], json.loads(found["meta"]))
                    row += 1


@dataclass
class Numbering:
    """Names and the number of each, in the order in which they were first seen."""

    numbers: dict[Any, int] = field(default_factory=dict)

    def number(self, name: Any) -> int:
        """Number of a name, -1 for None."""
        return -1 if name is None else self.numbers.setdefault(name, len(self.numbers))


class Census:
    """Places, events, footprints and images of chosen samples of one or more stores.

    Args:
        chosen: Stores, each with the rows to look at.

    Attributes:
        datasets: Names of their data sets.
        licences: Samples by licence.
        places, events, footprints, images: Distinct ones, see `Numbering`. A footprint is (lon_min, lat_min, lon_max, lat_max).
        place, event, footprint: Number of each sample's, (N,) arrays, -1 where it is unknown.
        use_sample, use_image: Which sample uses which image, two (M,) arrays.
        holder: By image the number of a store that holds it.
    """

    def __init__(self, chosen: Sequence[tuple[Store, Sequence[int]]]) -> None:
        self.stores = [store for store, _ in chosen]
        self.datasets: set[str] = set()
        self.licences: Counter[str] = Counter()
        self.places, self.events, self.footprints, self.images = Numbering(), Numbering(), Numbering(), Numbering()
        self.holder: list[int] = []
        self._where: list[tuple[int, int]] = []
        columns: tuple[list[int], list[int], list[int], list[int], list[int]] = ([], [], [], [], [])
        for number, (store, rows) in enumerate(chosen):
            wanted = np.zeros(len(store), dtype=np.bool_)
            wanted[np.asarray(rows, dtype=np.int64)] = True
            for fact in facts(store):
                if wanted[fact.row]:
                    self._take(number, fact, columns)
        self.place, self.event, self.footprint, self.use_sample, self.use_image = (
            np.array(column, dtype=np.int64) for column in columns)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._where)

    def name(self, sample: int) -> str:
        """Id of the n-th chosen sample."""
        store, row = self._where[sample]
        return self.stores[store].ids[row]

    def of_store(self, number: int) -> list[str]:
        """Images that are to be read from a store."""
        return [image for image, holder in zip(self.images.numbers, self.holder, strict=True) if holder == number]

    def first(self, column: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
        """The first sample of each of `count` numbers in a column of this census."""
        found = np.full(count, -1, dtype=np.int64)
        samples = np.flatnonzero(column >= 0)[::-1]
        found[column[samples]] = samples
        return found

    def _take(self, number: int, fact: Fact, columns: tuple[list[int], ...]) -> None:
        key = fact.id.partition("#")[0].removeprefix(f"{fact.dataset}/{fact.split}/")
        self.datasets.add(fact.dataset)
        self.licences[str(fact.meta.get("licence") or "unknown")] += 1
        values = (self.places.number(place_name(fact.dataset, fact.split, key, fact.meta)), self.events.number(event_name(fact.meta)),
                  self.footprints.number(footprint_of(fact.meta, fact.images)))
        for column, value in zip(columns[:3], values, strict=True):
            column.append(value)
        for image in fact.images:
            columns[3].append(len(self._where))
            columns[4].append(self.images.number(image["image_id"]))
            if len(self.images.numbers) > len(self.holder):
                self.holder.append(number)
        self._where.append((number, fact.row))


def footprint_of(meta: Mapping[str, Any], images: Sequence[Mapping[str, Any]]) -> Corners | None:
    """Where a sample's images lie: what its meta says, else the georeference of the last image that has one."""
    given = meta.get("footprint")
    if isinstance(given, list) and len(given) == 4 and all(isinstance(value, int | float) and math.isfinite(value) for value in given):
        west, south, east, north = (round(float(value), 7) for value in given)
        return (west, south, east, north) if west < east and south < north else None
    for image in reversed(images):
        if image["crs"] and image["transform"]:
            return _corners(image["crs"], tuple(image["transform"]), image["width"], image["height"])
    return None


@lru_cache(maxsize=65536)
def _corners(crs: str, transform: tuple[float, ...], width: int, height: int) -> Corners | None:
    """Corners of a georeferenced image in degrees; None where its coordinates cannot be converted here."""
    from geotempo.model.geo import Georeference

    a, b, c, d, e, f = transform
    corners = np.array([(x, y) for x in (0.0, width) for y in (0.0, height)])
    try:
        lonlat = Georeference(crs, (a, b, c, d, e, f)).lonlat(corners)
    except GeoTempoError:  # pyproj is an extra, and not every system has a way to WGS 84; names and pictures remain
        return None
    west, south, east, north = (round(float(value), 7) for value in (*lonlat.min(axis=0), *lonlat.max(axis=0)))
    return (west, south, east, north) if west < east and south < north else None
