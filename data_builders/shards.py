"""Writing a store: blocks of samples and their images become Parquet shards, each block committed by its journal.

A store is built in `<out>.building` and takes its final name only when it is whole. A block is committed when its
journal file appears, which is written last; whatever a killed run left without a journal is written again. Blocks
close after a number of samples or image bytes, both functions of the input alone, so that an interrupted and an
uninterrupted build give the same bytes.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq

from geotempo.data_builders import under_way
from geotempo.data_builders.digests import DigestSet
from geotempo.data_builders.records import BROKEN_FILE
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.schema import (
    IMAGE_SCHEMA,
    SAMPLE_SCHEMA,
    Prepared,
    Row,
    StoredImage,
    content_id,
    dumps,
    prepare,
)
from geotempo.model.errors import InputError
from geotempo.model.files import write_atomic, write_text

MANIFEST = "manifest.json"
REJECTED = "rejected.jsonl"
FORMAT = "geotempo-store"
FORMAT_VERSION = 2  # 2: images may be paths
BLOCK_SAMPLES = 4096
BLOCK_BYTES = 128 * 2**20
Images = Literal["copy", "reference"]
SAMPLE_GROUP = 64            # rows decoded together for one random access
IMAGE_GROUP_BYTES = 256 * 1024


class DuplicateIdError(InputError):
    """A sample has the id of another one."""


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
        images: `copy` stores the bytes of images; `reference` stores the paths of those that are files.
        root: Folder to which stored paths are relative, if they lie in it.

    Raises:
        InputError: `out` holds something else, or another process builds the same store.
    """

    def __init__(self, out: Path, plan: dict[str, Any], images: Images = "copy", root: Path | None = None) -> None:
        self.out = out
        self.images, self.root = images, root.resolve() if root else None
        self.folder = under_way.beside(out)
        refuse_foreign(out, plan)
        under_way.take_back(out)
        self._lock = under_way.hold(out)
        self.blocks: list[dict[str, Any]] = []
        self._ids, self._images = DigestSet(), DigestSet()
        self._shards: Counter[str] = Counter()
        self._resume(plan)
        self._clear()

    def restart(self) -> None:
        """Throw away what an interrupted run left, where its input cannot be compared with the present one."""
        self.blocks, self._shards = [], Counter()
        self._ids.clear()
        self._images.clear()
        for path in [*self.folder.glob("samples/*"), *self.folder.glob("images/*"), *self.folder.glob(".journal/[0-9]*")]:
            path.unlink()

    @property
    def done(self) -> int:
        """Items whose samples are on disk already."""
        return sum(block["items"] for block in self.blocks)

    def add(self, samples: Iterable[Sample], tally: Counter[str] | None = None,
            rejected: dict[str, str] | None = None) -> None:
        """Take the samples of one item, or its entry for `rejected.jsonl`, see `add_prepared`."""
        self.add_prepared(prepare(samples), tally, rejected)

    def add_prepared(self, item: Prepared, tally: Counter[str] | None = None,
                     rejected: dict[str, str] | None = None) -> None:
        """Take the rows and images of one item, or its entry for `rejected.jsonl`.

        Raises:
            DuplicateIdError: A sample id occurs twice; nothing of the item was taken.
            InputError: An image changed since it was looked at.
        """
        seen: set[str] = set()
        for row in item.rows:
            if row["id"] in self._ids or row["id"] in seen:
                raise DuplicateIdError(f"the sample id {row['id']!r} occurs twice; ids must be unique in a store")
            seen.add(row["id"])
        for row in item.rows:
            self._ids.add(row["id"])
            self._rows.setdefault(row["split"], []).append(row)
            self._count += 1
        for image in item.images:
            if self._images.add(image.id):
                self._keep(image)
        self._items += 1
        self._tally.update(tally or {})
        if rejected:
            self._rejected.append(rejected)
        if self._count + len(self._rejected) >= BLOCK_SAMPLES or self._bytes >= BLOCK_BYTES:
            self.flush()

    def holds(self, image_id: str) -> bool:
        """Whether the store has an image already."""
        return image_id in self._images

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
        self.blocks.append(_slim(json.loads(journal)))  # as a resumed run reads it: the order of keys goes into the manifest
        self._clear()

    def finish(self, manifest: dict[str, Any], describe: Callable[[Path], None] | None = None) -> None:
        """Write the rejected list and the manifest, and give the folder its final name.

        Killed on the way, the next run finds all its blocks again: the journal is moved out of the folder in one step, just
        before the folder gets its name.

        Args:
            manifest: What the store holds.
            describe: Writes further files into the whole store (its card).
        """
        write_atomic(self.folder / REJECTED, self._write_rejected)
        write_text(self.folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
        if describe is not None:
            describe(self.folder)
        under_way.put_in_place(self.out)

    def files(self) -> list[dict[str, Any]]:
        """Manifest entries of all shards, sorted by path."""
        return sorted((entry for block in self.blocks for entry in block["files"]), key=lambda entry: entry["path"])

    def rejected(self) -> Iterator[dict[str, str]]:
        """Entries for `rejected.jsonl`, read from the journals of the committed blocks."""
        for number in range(len(self.blocks)):
            yield from json.loads(self._journal(number).read_text(encoding="utf-8"))["rejected"]

    def reasons(self) -> dict[str, int]:
        """Rejected items by reason."""
        total: Counter[str] = Counter()
        for block in self.blocks:
            total.update(block["rejected"])
        return dict(sorted(total.items()))

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

    def _keep(self, image: StoredImage) -> None:
        """Take a new image: its bytes, or its path."""
        data = image.data if image.data is not None else _read_again(image)
        row = {"id": image.id, "width": image.width, "height": image.height, "n_bytes": len(data), "data": data, "path": None}
        if self.images == "reference" and image.path is not None:
            row |= {"data": None, "path": self._relative(Path(image.path).resolve())}
        else:
            self._bytes += len(data)
        self._pictures.append(row)

    def _relative(self, path: Path) -> str:
        inside = self.root is not None and path.is_relative_to(self.root)
        return path.relative_to(self.root).as_posix() if inside and self.root else path.as_posix()

    def _write_rejected(self, path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="\n") as handle:
            handle.writelines(dumps(entry) + "\n" for entry in self.rejected())

    def _write_samples(self, split: str, rows: list[Row]) -> dict[str, Any]:
        path = self.folder / "samples" / f"{split}-{self._shards[split]:05d}.parquet"
        self._shards[split] += 1
        write_atomic(path, lambda temporary: write_samples(temporary, rows))
        return file_entry(self.folder, path, len(rows))

    def _counts(self) -> dict[str, dict[str, int]]:
        rows = [row for split in sorted(self._rows) for row in self._rows[split]]
        counts = {kind: dict(Counter(row[kind] for row in rows)) for kind in ("split", "task", "dataset")}
        return counts | {"licence": dict(Counter(str(json.loads(row["meta"]).get("licence", "unknown")) for row in rows))}

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
        under_way.begin(self.folder, plan)
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
            if path.name != "plan.json" and (not path.stem.isdigit() or int(path.stem) >= len(self.blocks)):
                path.unlink()

    def _adopt(self, block: dict[str, Any]) -> None:
        self.blocks.append(_slim(block))
        self._shards.update(block["splits"])
        for entry in block["files"]:
            kind = entry["path"].split("/")[0]
            ids = pq.read_table(self.folder / entry["path"], columns=["id"]).column("id").to_pylist()
            (self._images if kind == "images" else self._ids).update(ids)


def refuse_excess(building: Building, total: int, max_rejected: float) -> None:
    """Stop before the store gets its name when too much was set aside; the work done is kept.

    Raises:
        InputError: More than the share `max_rejected` of the items was rejected, or all of them, or an annotation file
            breaks off, unless everything is allowed.
    """
    reasons = building.reasons()
    rejected = sum(reasons.values())
    if rejected < total and rejected <= max_rejected * total and (max_rejected >= 1 or BROKEN_FILE not in reasons):
        return
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items(), key=lambda pair: -pair[1]))
    first = next(entry for entry in building.rejected() if BROKEN_FILE not in reasons or entry["reason"] == BROKEN_FILE)
    raise_it = "" if rejected == total else ", or run again with a higher --max-rejected to keep what could be read"
    if BROKEN_FILE in reasons and rejected < total:
        raise_it = f", or run again with --max-rejected 1 to keep the {total - rejected} that could be read"
    todo = f"mend the source, remove {building.folder} and run again{raise_it}"
    raise InputError(f"{rejected} of {total} items were rejected (allowed: {max_rejected:.0%}): {listed}; "
                     f"the first: {first['key']}: {first['detail']}; {todo}")


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


def _slim(block: dict[str, Any]) -> dict[str, Any]:
    """A block without its rejected entries, which may be many, but for their number by reason."""
    return block | {"rejected": dict(Counter(entry["reason"] for entry in block["rejected"]))}


def _read_again(image: StoredImage) -> bytes:
    """Bytes of an image that was looked at before, here or in another process."""
    assert image.path is not None
    try:
        data = Path(image.path).read_bytes()
    except OSError as error:
        raise InputError(f"{image.path} cannot be read any more: {error.strerror}; build again") from None
    if content_id(data) != image.id:
        raise InputError(f"{image.path} changed while the store was built; build again when nothing writes to it")
    return data


def _intact(folder: Path, entry: dict[str, Any]) -> bool:
    path = folder / entry["path"]
    return path.is_file() and file_entry(folder, path, entry["rows"]) == entry
