"""`predictions.jsonl`: one line per answered request, appended and synced, safe against a kill at any moment."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from geotempo.model.errors import InputError

PREDICTIONS = "predictions.jsonl"
SET_ASIDE = "predictions.broken.txt"
Row = dict[str, Any]
Key = tuple[str, str]


def digest(value: object) -> str:
    """SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def key_of(row: Row) -> Key:
    """(task, sample id) of a line."""
    return str(row["task"]), str(row["id"])


def read_lines(path: Path) -> list[Row]:
    """All lines of a predictions file.

    Raises:
        InputError: The file is missing, a line is broken, or a sample is there twice (padding of a distributed
            sampler, two runs into one folder): its score would count double.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}; name a folder of `geotempo eval`") from None
    if lines[-1]:
        raise InputError(f"the last line of {path} is half written; run the same `geotempo eval` again to finish it")
    rows = [_row(line, path, number) for number, line in enumerate(lines[:-1], start=1)]
    seen: set[Key] = set()
    for row in rows:
        if key_of(row) in seen:
            raise InputError(f"{path} holds sample {row['id']!r} of task {row['task']!r} twice; remove one line")
        seen.add(key_of(row))
    return rows


def set_aside_broken_end(path: Path) -> int:
    """Move a half-written last line, left by a killed run, out of a predictions file.

    Args:
        path: The file; it need not exist.

    Returns:
        Bytes moved to `predictions.broken.txt` beside it; 0 where the file was whole.
    """
    if not path.exists():
        return 0
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end == len(data):
        return 0
    append(path.with_name(SET_ASIDE), [data[end:] + b"\n"])
    with path.open("r+b") as file:
        file.truncate(end)
        os.fsync(file.fileno())
    return len(data) - end


def append_rows(path: Path, rows: Iterable[Row]) -> None:
    """Append lines and return when they are on the disk."""
    append(path, [json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows])


def append(path: Path, lines: Iterable[bytes]) -> None:
    """Append bytes in one write and sync."""
    with path.open("ab") as file:
        file.write(b"".join(lines))
        file.flush()
        os.fsync(file.fileno())


def _row(line: bytes, path: Path, number: int) -> Row:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not {"task", "id", "text", "finish_reason", "fingerprint"} <= row.keys():
        raise InputError(f"line {number} of {path} is no prediction; remove the line and run `geotempo eval` again")
    return row
