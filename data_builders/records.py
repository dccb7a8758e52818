"""Annotation files as streams of records: a JSON array, or JSON lines, of any length, in bounded memory."""

import json
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ijson

from geotempo.model.errors import LayoutError

LINES = (".jsonl", ".ndjson")
BROKEN_FILE = "broken file"
"""Reason under which the rest of an annotation file is set aside that breaks off."""


class Broken(NamedTuple):
    """Stands in the stream where a record should be.

    Attributes:
        reason: `BROKEN_FILE`, after which nothing can be read, or `broken record`, one line among others.
        detail: What is wrong where.
    """

    reason: str
    detail: str


def stream_records(path: Path, passed: Callable[[int], None] | None = None) -> Iterator[Any]:
    """Records of an annotation file, one after the other.

    Args:
        path: `.jsonl` or `.ndjson` (a record per line, empty lines left out); anything else is one JSON array.
        passed: Told before each record how many bytes of the file were read.

    Returns:
        Records as `json.loads` would give them, and a `Broken` for a line that is no JSON and, last, for an array that
        ends too early.

    Raises:
        LayoutError: The file cannot be read.
    """
    try:
        if path.suffix.lower() in LINES:
            yield from _lines(path, passed)
            return
        yield from _parsed(path, "item", "array", passed)
    except OSError as error:
        raise LayoutError(f"cannot read {path}: {error.strerror}") from None


def stream_list(path: Path, name: str) -> Iterator[Any]:
    """Entries of a list inside the one object that an annotation file holds, `{"questions": [...]}`, one after the other.

    Args:
        path: The file.
        name: Key of the list.

    Returns:
        Entries, none where there is no such list, and last a `Broken` where the file ends too early.

    Raises:
        LayoutError: The file cannot be read.
    """
    try:
        yield from _parsed(path, f"{name}.item", "object")
    except OSError as error:
        raise LayoutError(f"cannot read {path}: {error.strerror}") from None


def _parsed(path: Path, prefix: str, kind: str, passed: Callable[[int], None] | None = None) -> Iterator[Any]:
    """What stands at a prefix of ijson; last a `Broken` where the file breaks off."""
    try:
        with path.open("rb") as handle:
            if handle.read(len(BOM_UTF8)) != BOM_UTF8:  # which some editors put in front, and ijson does not take
                handle.seek(0)
            for record in ijson.items(handle, prefix, use_float=True):
                if passed is not None:
                    passed(handle.tell())
                yield record
    except (ijson.JSONError, ValueError) as error:
        what = " ".join(str(error).split())
        yield Broken(BROKEN_FILE, f"{path.name} is no whole JSON {kind} ({what}); copy it again")


def _lines(path: Path, passed: Callable[[int], None] | None) -> Iterator[Any]:
    read = 0
    with path.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            read += len(line)
            if not line.strip():
                continue
            if passed is not None:
                passed(read)
            try:
                yield json.loads(line)
            except ValueError as error:
                yield Broken("broken record", f"{path.name}, line {number} is no JSON ({error})")
