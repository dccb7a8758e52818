"""Writing a store: blocks of samples and their images become Parquet shards, each block committed by its journal.

A store is built in `<out>.building` and takes its final name only when it is whole. A block is committed when its
journal file appears, which is written last; whatever a killed run left without a journal is written again. Blocks
close after a number of samples or image bytes, both functions of the input alone, so that an interrupted and an
uninterrupted build give the same bytes.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from geotempo.data_builders.sample import Sample
from geotempo.data_builders.schema import IMAGE_SCHEMA, SAMPLE_SCHEMA, Row, content_id, dumps, sample_to_row
from geotempo.model.errors import InputError
from geotempo.model.files import sync_folder, write_atomic, write_text

MANIFEST = "manifest.json"
REJECTED = "rejected.jsonl"
FORMAT = "geotempo-store"
FORMAT_VERSION = 1
BLOCK_SAMPLES = 4096
BLOCK_BYTES = 128 * 2**20
SAMPLE_GROUP = 64            # rows decoded together for one random access
IMAGE_GROUP_BYTES = 256 * 1024


def file_entry(folder: Path, path: Path, rows: int) -> dict[str, Any]:
    """What the manifest says about a shard: path, bytes, rows, sha256."""
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    return {"path": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "rows": rows, "sha256": digest}


class Building:
    """A store under construction: collects samples, writes blocks, resumes, and moves the result into place.

    Args:
        out: Final folder; the work happens in `<out>.building` beside it.
        plan: What is built (source, options, keys, versions). Blocks of another plan are thrown away.

    Raises:
        InputError: `out` holds something else, or another process builds the same store.
    """

    def __init__(self, out: Path, plan: dict[str, Any]) -> None:
        self.out = out
        self.folder = out.with_name(out.name + ".building")
        refuse_foreign(out, plan)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise InputError(f"another process is building {out}; wait for it or choose another folder") from None
        self.blocks: list[dict[str, Any]] = []
        self._ids: set[str] = set()
        self._images: set[str] = set()
        self._shards: Counter[str] = Counter()
        self._resume(plan)
        self._clear()

    def restart(self) -> None:
        """Throw away what an interrupted run left, where its input cannot be compared with the present one."""
        self.blocks, self._shards = [], Counter()
        self._ids.clear()
        self._images.clear()
        for name in (".journal", "images", "samples"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    @property
    def done(self) -> int:
        """Items whose samples are on disk already."""
        return sum(block["items"] for block in self.blocks)

    def add(self, samples: Iterable[Sample], tally: Counter[str] | None = None,
            rejected: dict[str, str] | None = None) -> None:
        """Take the samples of one item, or its entry for `rejected.jsonl`.

        Raises:
            InputError: A sample id occurs twice.
        """
        for sample in samples:
            self._take(sample)
        self._items += 1
        self._tally.update(tally or {})
        if rejected:
            self._rejected.append(rejected)
        if self._count >= BLOCK_SAMPLES or self._bytes >= BLOCK_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the collected items as one block and commit it."""
        if not self._items:
            return
        number, files = len(self.blocks), []
        if self._pictures:
            path = self.folder / "images" / f"{number:05d}.parquet"
            write_atomic(path, lambda temporary: write_images(temporary, self._pictures))
            files.append(file_entry(self.folder, path, len(self._pictures)))
        for split, rows in sorted(self._rows.items()):
            files.append(self._write_samples(split, rows))
        block = {"items": self._items, "files": files, "tally": dict(sorted(self._tally.items())),
                 "rejected": self._rejected, "splits": sorted(self._rows), "counts": self._counts()}
        journal = dumps(block)
        write_text(self._journal(number), journal)
        self.blocks.append(json.loads(journal))  # as a resumed run reads it: the order of keys goes into the manifest
        self._clear()

    def finish(self, manifest: dict[str, Any]) -> None:
        """Write the rejected list and the manifest, and give the folder its final name."""
        rejected = [entry for block in self.blocks for entry in block["rejected"]]
        write_text(self.folder / REJECTED, "".join(dumps(entry) + "\n" for entry in rejected))
        shutil.rmtree(self.folder / ".journal", ignore_errors=True)
        (self.folder / ".plan.json").unlink(missing_ok=True)
        write_text(self.folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
        (self.folder / ".lock").unlink(missing_ok=True)
        old = self.out.with_name(self.out.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if self.out.exists():
            os.replace(self.out, old)
        os.replace(self.folder, self.out)
        sync_folder(self.out.parent)
        shutil.rmtree(old, ignore_errors=True)

    def files(self) -> list[dict[str, Any]]:
        """Manifest entries of all shards, sorted by path."""
        return sorted((entry for block in self.blocks for entry in block["files"]), key=lambda entry: entry["path"])

    def counts(self, kind: str) -> dict[str, int]:
        """Samples per split, task or dataset, over all blocks."""
        total: Counter[str] = Counter()
        for block in self.blocks:
            total.update(block["counts"][kind])
        return dict(sorted(total.items()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._lock.close()

    def _take(self, sample: Sample) -> None:
        if sample.id in self._ids:
            raise InputError(f"the sample id {sample.id!r} occurs twice; ids must be unique in a store")
        self._ids.add(sample.id)
        self._rows.setdefault(sample.split, []).append(sample_to_row(sample))
        self._count += 1
        for image in sample.images:
            data = image.encoded()
            name = content_id(data)
            if name not in self._images:
                self._images.add(name)
                self._bytes += len(data)
                self._pictures.append({"id": name, "width": image.width, "height": image.height,
                                       "n_bytes": len(data), "data": data})

    def _write_samples(self, split: str, rows: list[Row]) -> dict[str, Any]:
        path = self.folder / "samples" / f"{split}-{self._shards[split]:05d}.parquet"
        self._shards[split] += 1
        write_atomic(path, lambda temporary: write_samples(temporary, rows))
        return file_entry(self.folder, path, len(rows))

    def _counts(self) -> dict[str, dict[str, int]]:
        rows = [row for split in sorted(self._rows) for row in self._rows[split]]
        return {kind: dict(Counter(row[kind] for row in rows)) for kind in ("split", "task", "dataset")}

    def _journal(self, number: int) -> Path:
        return self.folder / ".journal" / f"{number:05d}.json"

    def _clear(self) -> None:
        self._rows: dict[str, list[Row]] = {}
        self._pictures: list[Row] = []
        self._rejected: list[dict[str, str]] = []
        self._tally: Counter[str] = Counter()
        self._count = self._bytes = self._items = 0

    def _resume(self, plan: dict[str, Any]) -> None:
        """Take over the committed blocks of an interrupted run with the same plan; start afresh otherwise."""
        written = self.folder / ".plan.json"
        if not written.is_file() or written.read_text(encoding="utf-8") != dumps(plan):
            for path in self.folder.iterdir():
                if path.name != ".lock":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            write_text(written, dumps(plan))
        while (journal := self._journal(len(self.blocks))).is_file():
            block = json.loads(journal.read_text(encoding="utf-8"))
            if not all(_intact(self.folder, entry) for entry in block["files"]):
                break
            self._adopt(block)
        self._sweep()

    def _sweep(self) -> None:
        """Remove what the committed blocks do not name: shards without journal, temporary files."""
        kept = {entry["path"] for block in self.blocks for entry in block["files"]}
        for path in [*self.folder.glob("samples/*"), *self.folder.glob("images/*")]:
            if path.relative_to(self.folder).as_posix() not in kept:
                path.unlink()
        for path in self.folder.glob(".journal/*"):
            if not path.stem.isdigit() or int(path.stem) >= len(self.blocks):
                path.unlink()

    def _adopt(self, block: dict[str, Any]) -> None:
        self.blocks.append(block)
        self._shards.update(block["splits"])
        for entry in block["files"]:
            kind = entry["path"].split("/")[0]
            ids = pq.read_table(self.folder / entry["path"], columns=["id"]).column("id").to_pylist()
            (self._images if kind == "images" else self._ids).update(ids)


def refuse_foreign(out: Path, plan: dict[str, Any]) -> None:
    """Only a missing or empty folder, or an earlier store of the same source, may be replaced.

    Raises:
        InputError: `out` is anything else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        source = manifest["builder"]["source"] if manifest["format"] == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError):
        source = None
    if source != plan["source"]:
        held = f"a store of {source!r}" if source else "something that is no store"
        raise InputError(f"{out} holds {held}; choose another --out or remove it first")


def write_samples(path: Path, rows: list[Row]) -> None:
    """Write rows of `SAMPLE_SCHEMA` to one Parquet file."""
    table = pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA)
    pq.write_table(table, path, row_group_size=SAMPLE_GROUP, compression="zstd", use_dictionary=["dataset", "split",
                                                                                                   "task"])


def write_images(path: Path, rows: list[Row]) -> None:
    """Write rows of `IMAGE_SCHEMA` to one Parquet file, uncompressed, in row groups of about 256 KB."""
    with pq.ParquetWriter(path, IMAGE_SCHEMA, compression="none", use_dictionary=False,
                          write_statistics=False) as writer:
        group: list[Row] = []
        for row in rows:
            group.append(row)
            if sum(member["n_bytes"] for member in group) >= IMAGE_GROUP_BYTES:
                writer.write_table(pa.Table.from_pylist(group, schema=IMAGE_SCHEMA))
                group = []
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema=IMAGE_SCHEMA))


def _intact(folder: Path, entry: dict[str, Any]) -> bool:
    path = folder / entry["path"]
    return path.is_file() and file_entry(folder, path, entry["rows"]) == entry
