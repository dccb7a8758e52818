"""Annotation files as streams of records: a JSON array, or JSON lines, of any length, in bounded memory."""

import json
from codecs import BOM_UTF8
from collections.abc import Iterator
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


def stream_records(path: Path) -> Iterator[Any]:
    """Records of an annotation file, one after the other.

    Args:
        path: `.jsonl` or `.ndjson` (a record per line, empty lines left out); anything else is one JSON array.

    Returns:
        Records as `json.loads` would give them, and a `Broken` for a line that is no JSON and, last, for an array that
        ends too early.

    Raises:
        LayoutError: The file cannot be read.
    """
    try:
        if path.suffix.lower() in LINES:
            yield from _lines(path)
            return
        with path.open("rb") as handle:
            if handle.read(len(BOM_UTF8)) != BOM_UTF8:  # which some editors put in front, and ijson does not take
                handle.seek(0)
            yield from ijson.items(handle, "item", use_float=True)
    except OSError as error:
        raise LayoutError(f"cannot read {path}: {error.strerror}") from None
    except (ijson.JSONError, ValueError) as error:
        what = " ".join(str(error).split())
        yield Broken(BROKEN_FILE, f"{path.name} is no whole JSON array ({what}); copy it again")


def _lines(path: Path) -> Iterator[Any]:
    with path.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except ValueError as error:
                yield Broken("broken record", f"{path.name}, line {number} is no JSON ({error})")
