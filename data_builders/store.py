"""Reading a store, and writing one from samples at hand.

```
DIR/manifest.json              format and builder versions, counts, sha256 of every shard
DIR/rejected.jsonl             what the source held but could not be used, with the reason
DIR/samples/<split>-NNNNN.parquet   one row per sample
DIR/images/NNNNN.parquet       one row per distinct image: id (sha256), size, original bytes
```
"""

import json
import os
import sys
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from geotempo import __version__
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.schema import Row, content_id, sample_from_row
from geotempo.data_builders.shards import FORMAT, FORMAT_VERSION, MANIFEST, Building
from geotempo.model.errors import InputError, LayoutError

CACHED_GROUPS = 64


class Facts(NamedTuple):
    """What a store knows of a sample without reading it."""

    id: str
    split: str
    task: str
    regions: int
    images: int


class Store:
    """Samples on disk, read at random.

    Opening reads the manifest and the small columns (id, split, task, number of regions); images are read when a
    sample is asked for. An object may be used in forked or spawned workers: file handles are opened per process.

    Args:
        path: Folder of the store.

    Raises:
        LayoutError: The folder is no store.
        InputError: A shard is missing or of another size than the manifest says, or the format is a newer one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        self._open: dict[tuple[int, str], pq.ParquetFile] = {}
        self._cache: OrderedDict[tuple[str, int], list[Row]] = OrderedDict()
        self.ids: list[str] = []
        self._splits: list[str] = []
        self._tasks: list[str] = []
        self._n_regions, self._n_images = array("i"), array("i")
        self._groups, self._image_groups = _Groups(), _Groups()
        self._image_row_of: dict[str, int] = {}
        for entry in self.manifest["files"]:
            with reading_shard(self.path / entry["path"]):
                self._index(entry["path"])

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.ids)

    def rows(self, split: str | None = None, tasks: Collection[str] | None = None, ids: Collection[str] | None = None,
             max_regions: int | None = None) -> list[int]:
        """Indices of the samples that match all conditions, in stored order.

        Args:
            split: train, val or test.
            tasks: Names of tasks.
            ids: Sample ids.
            max_regions: Samples with at most so many regions.

        Raises:
            InputError: The store has no such split, task or id.
        """
        _known("split", [split] if split is not None else [], set(self._splits), self.path)
        _known("task", tasks or [], set(self._tasks), self.path)
        _known("id", ids or [], self._row_of.keys(), self.path)
        wanted = range(len(self)) if ids is None else sorted(self._row_of[name] for name in set(ids))
        return [row for row in wanted
                if (split is None or self._splits[row] == split)
                and (tasks is None or self._tasks[row] in tasks)
                and (max_regions is None or self._n_regions[row] <= max_regions)]

    def facts(self, index: int) -> Facts:
        """Id, split, task and numbers of regions and images of a sample, without reading it."""
        return Facts(self.ids[index], self._splits[index], self._tasks[index], self._n_regions[index], self._n_images[index])

    def __getitem__(self, index: int) -> Sample:
        """The sample at an index, its images with their bytes.

        Raises:
            IndexError: No such index.
        """
        return sample_from_row(self.row(index), self.image_bytes)

    def without_pixels(self, index: int) -> Sample:
        """The sample at an index with empty image bytes: quick, for its texts and geometry."""
        return sample_from_row(self.row(index), lambda image_id: b"")

    def by_id(self, sample_id: str) -> Sample:
        """The sample of that id.

        Raises:
            InputError: There is none.
        """
        _known("id", [sample_id], self._row_of.keys(), self.path)
        return self[self._row_of[sample_id]]

    def row(self, index: int) -> Row:
        """The stored row at an index, without image bytes."""
        shard, group, offset = self._groups.place(range(len(self))[index])
        key = (shard, group)
        if key not in self._cache:
            with reading_shard(self.path / shard):
                self._cache[key] = self._file(shard).read_row_group(group, use_threads=False).to_pylist()
            if len(self._cache) > CACHED_GROUPS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key][offset]

    @property
    def image_ids(self) -> list[str]:
        """Ids of all images, in stored order."""
        return list(self._image_row_of)

    def image_bytes(self, image_id: str) -> bytes:
        """Original bytes of an image.

        Raises:
            InputError: The store has no such image, or refers to a file that is gone or changed.
        """
        row = self._image_row(image_id)
        data: bytes = row["data"] if row["data"] is not None else self._referenced(row)
        return data

    def _image_row(self, image_id: str) -> Row:
        if image_id not in self._image_row_of:
            raise InputError(f"{self.path} has no image {image_id}; build the store again")
        shard, group, offset = self._image_groups.place(self._image_row_of[image_id])
        with reading_shard(self.path / shard):
            row: Row = self._file(shard).read_row_group(group, use_threads=False).slice(offset, 1).to_pylist()[0]
        return row if "path" in row else {**row, "path": None}

    def image_path(self, image_id: str) -> Path | None:
        """File of an image of which the store holds the path only; None where it holds the bytes.

        Raises:
            InputError: The store has no such image.
        """
        row = self._image_row(image_id)
        return None if row["path"] is None else Path(self.manifest["images"]["root"] or ".") / row["path"]

    def _referenced(self, row: Row) -> bytes:
        """Bytes of an image of which the store holds the path only."""
        path: Path = Path(self.manifest["images"]["root"] or ".") / row["path"]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{self.path} refers to {path}, which cannot be read ({error.strerror}); put the images back or "
                             "build the store again with --images copy") from None
        if content_id(data) != row["id"]:
            raise InputError(f"{self.path} refers to {path}, which has changed since; build the store again")
        return data

    def __getstate__(self) -> dict[str, Any]:
        """Without open files, for workers started by spawn."""
        return {**self.__dict__, "_open": {}, "_cache": OrderedDict()}

    def _file(self, shard: str) -> pq.ParquetFile:
        key = (os.getpid(), shard)
        if key not in self._open:
            self._open[key] = pq.ParquetFile(self.path / shard, memory_map=True)
        return self._open[key]

    def _index(self, shard: str) -> None:
        """Take the small columns of a shard into memory."""
        file = pq.ParquetFile(self.path / shard, memory_map=True)
        images = shard.startswith("images/")
        names = ["id"] if images else ["id", "split", "task", "n_regions"]
        start = (self._image_groups if images else self._groups).extend(shard, file.metadata)
        columns = file.read(columns=names, use_threads=False)
        found = columns.column("id").to_pylist()
        if images:
            self._image_row_of.update(zip(found, range(start, start + len(found)), strict=True))
            return
        self.ids += found
        # One string for each split and task, however many samples have it.
        self._splits += map(sys.intern, columns.column("split").to_pylist())
        self._tasks += map(sys.intern, columns.column("task").to_pylist())
        self._n_regions.extend(columns.column("n_regions").to_pylist())
        widths = file.read(columns=["images.list.element.width"], use_threads=False).column("images")
        self._n_images.extend(pc.list_value_length(widths).to_pylist())

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.ids)}


@contextmanager
def reading_shard(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises on a damaged shard into an error that names it.

    Raises:
        InputError: Bytes of the shard are not what was written.
    """
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        what = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"{path} is damaged ({what}); copy or build the store again") from None


class _Groups:
    """Where rows lie: the row groups of several files, one after the other."""

    def __init__(self) -> None:
        self._files: list[str] = []
        self._first = array("q")  # of every file, the number of its first group
        self._starts = array("q", [0])  # of every group, the number of its first row; then the number of rows

    def extend(self, shard: str, metadata: pq.FileMetaData) -> int:
        """Append the groups of a file; the number of its first row."""
        start = self._starts[-1]
        self._files.append(shard)
        self._first.append(len(self._starts) - 1)
        for group in range(metadata.num_row_groups):
            self._starts.append(self._starts[-1] + metadata.row_group(group).num_rows)
        return start

    def place(self, row: int) -> tuple[str, int, int]:
        """File, group in the file and offset in the group of a row."""
        group = bisect_right(self._starts, row) - 1
        file = bisect_right(self._first, group) - 1
        return self._files[file], group - self._first[file], row - self._starts[group]


def read_manifest(path: Path) -> dict[str, Any]:
    """Read and check the manifest of a store; the shards' sizes are compared, their hashes are not (see `check`).

    Raises:
        LayoutError: No manifest, or one of another format.
        InputError: A newer format version, or shards that are missing or of another size.
    """
    try:
        manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise LayoutError(f"{path / MANIFEST} says {manifest['format']!r}, a store says {FORMAT!r}")
        version, files = manifest["format_version"], manifest["files"]
        expected = {str(entry["path"]): int(entry["bytes"]) for entry in files if len(entry["sha256"]) == 64}
    except OSError:
        raise LayoutError(f"{path} is no store: it has no {MANIFEST}; make one with `geotempo build`") from None
    except (ValueError, KeyError, TypeError) as error:
        raise LayoutError(f"{path / MANIFEST} is no manifest of a store ({error!r}); build it again") from None
    if version > FORMAT_VERSION:
        raise InputError(f"{path} has store format {version}, this geotempo reads up to {FORMAT_VERSION}; update it")
    if len(expected) != len(files):
        raise LayoutError(f"{path / MANIFEST} lists shards without sha256; build the store again")
    for name, size in expected.items():
        if not (path / name).is_file() or (path / name).stat().st_size != size:
            raise InputError(f"{path / name} is missing or not {size} bytes long; copy or build the store again")
    return manifest


def write_store(samples: Iterable[Sample], out: str | Path, *, source: str = "samples",
                options: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write samples to a new store, streaming; the same samples always give the same bytes.

    Args:
        samples: Any samples with distinct ids.
        out: Folder; it appears only when everything is written. An earlier store of the same `source` is replaced.
        source: Name for the manifest.
        options: What else tells how the samples were made.

    Returns:
        The manifest.

    Raises:
        InputError: An id occurs twice, or `out` holds something else.
    """
    plan = {"source": source, "options": options or {}, "version": 1, "geotempo": __version__}
    with Building(Path(out), plan) as building:
        building.restart()
        for sample in samples:
            building.add([sample])
        building.flush()
        return finish_store(building, plan)


def finish_store(building: Building, plan: dict[str, Any], *, card: bool = False, **facts: Any) -> dict[str, Any]:
    """Write the manifest of a `Building` whose blocks are all flushed, and give the store its name.

    Args:
        building: With all blocks flushed.
        plan: `source`, `version` and `options` of the builder, and whatever else its bytes depend on.
        card: Also write the dataset card and the contact sheet, which takes some seconds.
        **facts: Further entries of the manifest (licence, citation).

    Returns:
        The manifest.
    """
    from geotempo.data_builders.card import write_card  # which reads stores itself

    manifest = make_manifest(building, plan, **facts)
    building.finish(manifest, write_card if card else None)
    return manifest


def make_manifest(building: Building, plan: dict[str, Any], **facts: Any) -> dict[str, Any]:
    """The manifest of what a `Building` holds.

    Args:
        building: With all blocks flushed.
        plan: `source`, `version` and `options` of the builder.
        **facts: Further entries (licence, citation), or other values than the building's own.
    """
    reasons = building.reasons()
    tally: dict[str, int] = {}
    for block in building.blocks:
        for name, count in block["tally"].items():
            tally[name] = tally.get(name, 0) + count
    files = building.files()
    rows = {kind: sum(entry["rows"] for entry in files if entry["path"].startswith(kind))
            for kind in ("samples", "images")}
    return {
        "format": FORMAT, "format_version": FORMAT_VERSION, "geotempo": __version__,
        "builder": {name: plan[name] for name in _BUILDER if name in plan},
        "counts": {**rows, "by_split": building.counts("split"), "by_task": building.counts("task"),
                   "by_source": building.counts("dataset"), "by_licence": building.counts("licence")},
        "items": building.done, "tally": dict(sorted(tally.items())),
        "rejected": {"total": sum(reasons.values()), "by_reason": reasons},
        "images": {"stored": building.images, "root": str(building.root) if building.images == "reference" else None},
        **facts, "files": files,
    }


_BUILDER = ("source", "version", "options", "controls", "shard", "fingerprint")
"""What the manifest repeats of a plan; the root would make stores of equal data differ."""


def _known(what: str, asked: Collection[str], known: Collection[str], path: Path) -> None:
    """Raise an `InputError` that names what the store has when something else is asked for."""
    missing = [name for name in asked if name not in known]
    if missing:
        listed = ", ".join(sorted(known)[:12]) + (", ..." if len(known) > 12 else "")
        raise InputError(f"{path} has no {what} {missing[0]!r}; it has: {listed or 'none'}")
