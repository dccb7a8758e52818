"""Annotation files as streams of records: a JSON array, or JSON lines, of any length, in bounded memory."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ijson

from geotempo.model.errors import LayoutError

LINES = (".jsonl", ".ndjson")


def stream_records(path: Path) -> Iterator[Any]:
    """Records of an annotation file, one after the other.

    Args:
        path: `.jsonl` or `.ndjson` (a record per line, empty lines left out); anything else is one JSON array.

    Raises:
        LayoutError: The file cannot be read, is no JSON, or ends too early; records before the fault were given.
    """
    try:
        if path.suffix.lower() in LINES:
            yield from _lines(path)
            return
        with path.open("rb") as handle:
            yield from ijson.items(handle, "item", use_float=True)
    except OSError as error:
        raise LayoutError(f"cannot read {path}: {error.strerror}") from None
    except (ijson.JSONError, ValueError) as error:
        raise LayoutError(f"{path} is no whole JSON file ({error}); copy it again") from None


def _lines(path: Path) -> Iterator[Any]:
    with path.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except ValueError as error:
                raise LayoutError(f"{path}, line {number} is no JSON ({error}); mend or remove the line") from None
