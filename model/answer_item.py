"""Reading one written region: from the text of an object to an `Item`, mending and noting what departs.

The part of `geotempo.model.answer_parse` below the list: JSON with its usual slips, numbers, boxes, points, labels.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any

from geotempo.model.answer_cells import COLUMNS, GRID_CELLS, Cells, Run, from_runs, to_cells
from geotempo.model.answer_grid import FUZZ, Item, ends, limits
from geotempo.model.geometry import Box, GridMask, Point
from geotempo.model.records import Frame

_DECIMAL = re.compile(r"[+-]?(?:\d{1,400}\.?\d{0,400}|\.\d{1,400})(?:[eE][+-]?\d{1,4})?", re.ASCII)

_KEYS = ("image", "bbox_2d", "points", "grid", "label")
_FAR = 1e6  # cells; far beyond every image
_MAX_NOTES = 16  # kinds of repair that are spelled out; hostile text can hold any number

UNREADABLE = "a region could not be read and is left out"
_FLOATS = "a coordinate was no plain integer"


@dataclass
class Notes:
    """What was mended: sentences in order of appearance, each with how often."""

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, sentence: str) -> None:
        """Note one repair."""
        self.counts[sentence] = self.counts.get(sentence, 0) + 1

    def update(self, other: "Notes") -> None:
        """Take over all notes of another reading."""
        for sentence, count in other.counts.items():
            self.counts[sentence] = self.counts.get(sentence, 0) + count

    def sentences(self) -> tuple[str, ...]:
        """Each kind once; beyond a limit only their number."""
        out = [text if count == 1 else f"{text} ({count} times)" for text, count in self.counts.items()]
        more = len(out) - _MAX_NOTES
        return tuple(out) if more <= 0 else (*out[:_MAX_NOTES], f"and {more} other kinds of repair")


def read_fields(source: str, tokens: list[str], notes: Notes) -> dict[str, Any] | None:
    """The key-value pairs of an object, mended where needed; None where it cannot be read."""
    for attempt in range(2):
        try:
            pairs = json.loads(source if attempt == 0 else _mend(tokens, notes), strict=False, parse_int=_integer,
                               object_pairs_hook=_Pairs)
        except (ValueError, RecursionError):
            continue
        return _unique(pairs, notes)
    notes.add(UNREADABLE)
    return None


class _Pairs(list[tuple[str, Any]]):
    """The pairs of a JSON object, repeated keys included."""


def _unique(pairs: Any, notes: Notes) -> dict[str, Any]:
    """Known keys with their last value; notes repeated and unknown ones."""
    fields: dict[str, Any] = {}
    for key, value in pairs:
        if key not in _KEYS:
            notes.add(f"the unknown key {key[:24]!a} is left out")
            continue
        if key in fields:
            notes.add(f"the key {key!r} stood twice; the last one counts")
        fields[key] = value
    return fields


def _integer(digits: str) -> int | float:
    """An integer of any length; Python refuses to build very long ones."""
    return int(digits) if len(digits) < 300 else (-inf if digits.startswith("-") else inf)


def _mend(tokens: list[str], notes: Notes) -> str:
    """The tokens as JSON: single quotes become double, surplus commas go. Blanks stay between tokens: "1 2" is not 12."""
    out: list[str] = []
    for token in tokens:
        if token == "," and (not out or out[-1] in ("{", "[", ",", ":")):
            notes.add("a surplus comma is left out")
            continue
        if token in ("}", "]") and out and out[-1] == ",":
            notes.add("a surplus comma is left out")
            out.pop()
        if token[0] == "'":
            notes.add("single quotes were read as double ones")
            token = json.dumps(token[1:-1].replace("\\'", "'"))
        out.append(token)
    return " ".join(out)


def read_item(fields: dict[str, Any], frames: Sequence[Frame], notes: Notes) -> Item | None:
    """A region from the pairs of its object; None, and a note, where image or box cannot be used."""
    image = _image(fields, len(frames), notes)
    if image is None:
        return None
    frame = frames[image - 1]
    numbers = read_numbers(fields.get("bbox_2d"), 4, notes)
    if numbers is None:
        notes.add("a region without a readable box is left out")
        return None
    box = read_box(numbers, frame, notes)
    if box is None:
        return None
    return Item(image, box, _label(fields, notes), _points(fields, box, notes), _grid(fields, numbers, box, notes))


def _image(fields: dict[str, Any], count: int, notes: Notes) -> int | None:
    """The image number; where it is missing and there is one image, that one."""
    if "image" not in fields and count == 1:
        notes.add("a region without image number is put on the only image")
        return 1
    number = _number(fields.get("image"), notes, "an image number was no plain integer")
    if number is None or number != number // 1 or not 1 <= number <= count:
        notes.add("a region on an image that is not there is left out")
        return None
    return int(number)


def _number(value: Any, notes: Notes, sentence: str = _FLOATS) -> float | None:
    """A finite number; notes one that is not written as an integer. Numbers in quotes are read."""
    if isinstance(value, str) and _DECIMAL.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    if not isinstance(value, int):
        notes.add(sentence)
        return int(value) if value.is_integer() else value
    return value


def read_numbers(value: Any, count: int, notes: Notes) -> list[float] | None:
    """A list of so many finite numbers."""
    if not isinstance(value, list) or isinstance(value, _Pairs) or len(value) != count:
        return None
    numbers = [_number(entry, notes) for entry in value]
    kept = [number for number in numbers if number is not None]
    return kept if len(kept) == count else None


def read_box(numbers: list[float], frame: Frame, notes: Notes) -> tuple[float, float, float, float] | None:
    """A box in cells from four numbers: corners put in order, clipped to the image, one cell wide and high at least."""
    x1, y1, x2, y2 = numbers
    limit, end = limits(frame), ends(frame)
    if x1 > x2 or y1 > y2:
        notes.add("swapped corners of a box were put in order")
        x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
    if x2 - x1 < FUZZ or y2 - y1 < FUZZ:
        notes.add("a box without width or height was made one cell wide or high")
        x1, x2 = _widen(x1, x2, frame.grid)
        y1, y2 = _widen(y1, y2, frame.grid)
    if x2 < FUZZ or y2 < FUZZ or x1 > end[0] - FUZZ or y1 > end[1] - FUZZ:
        notes.add("a box outside its image is left out")
        return None
    if x1 < 0 or y1 < 0 or x2 > limit[0] or y2 > limit[1]:
        notes.add("a box was clipped to its image")
        x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, limit[0]), min(y2, limit[1])
    return x1, y1, x2, y2


def _widen(low: float, high: float, grid: int) -> tuple[float, float]:
    """One axis of a box, a cell long where it had no length, within the grid if it began there."""
    if high - low >= FUZZ:
        return low, high
    return (low - 1, low) if low > grid - FUZZ else (low, low + 1)


def _points(fields: dict[str, Any], box: tuple[float, float, float, float], notes: Notes) -> tuple[Point, Point] | None:
    """Two points inside the box; None, and a note, where they cannot be used."""
    if "points" not in fields:
        return None
    value = fields["points"]
    pairs = [read_numbers(pair, 2, notes) for pair in value] if isinstance(value, list) and len(value) == 2 else []
    points = [(pair[0], pair[1]) for pair in pairs if pair is not None]
    if len(points) != 2:
        notes.add("points that are not two pairs of numbers are left out")
        return None
    if not all(box[0] <= x <= box[2] and box[1] <= y <= box[3] for x, y in points):
        notes.add("points outside their box are left out")
        return None
    return points[0], points[1]


def _grid(fields: dict[str, Any], written: list[float], box: tuple[float, float, float, float], notes: Notes) -> Cells | None:
    """The cells of a grid inside the box as it was read; None, and a note, where there are none."""
    if "grid" not in fields:
        return None
    if not isinstance(fields["grid"], str):
        notes.add("a grid that is no text is left out")
        return None
    cells = _recut(_cells(fields["grid"], notes), written, box)
    if cells is None or not any(map(any, cells)):
        notes.add("a grid without a full cell is left out")
        return None
    return cells


def _cells(text: str, notes: Notes) -> Cells:
    """The sixteen rows of a grid; missing ones are empty, surplus ones are left out."""
    rows = text.split("/", GRID_CELLS)
    if len(rows) != GRID_CELLS:
        few = len(rows) < GRID_CELLS
        notes.add("a grid of too few rows was filled up with empty ones" if few else "surplus rows of a grid are left out")
    return from_runs([_row(row, notes) for row in rows[:GRID_CELLS]])


def _row(text: str, notes: Notes) -> list[Run]:
    """The runs of a row; letters beyond the last column are taken for the last one."""
    letters = [letter for letter in text.lower() if "a" <= letter <= "z"]
    if len(letters) != len(text) or len(letters) % 2:
        notes.add("something that is no run of cells stood in a grid and is left out")
    if any(letter > COLUMNS[-1] for letter in letters):
        notes.add("a run of cells beyond the last column was cut there")
    places = [min(ord(letter) - ord("a"), GRID_CELLS - 1) for letter in letters]
    runs = list(zip(places[::2], places[1::2], strict=False))
    if any(first > last for first, last in runs):
        notes.add("a run of cells was put in order")
    return [(min(run), max(run)) for run in runs]


def _recut(cells: Cells, written: list[float], box: tuple[float, float, float, float]) -> Cells | None:
    """The cells of a box that was clipped to its image; as they are where the box is the one written."""
    x1, x2, y1, y2 = *sorted((written[0], written[2])), *sorted((written[1], written[3]))
    if (x1, y1, x2, y2) == box or x2 - x1 < FUZZ or y2 - y1 < FUZZ:
        return cells
    if max(map(abs, written)) > _FAR:
        return None  # a cell of it is larger than any image
    return to_cells(GridMask(Box(x1, y1, x2, y2), cells), Box(*box)) if any(map(any, cells)) else None


def _label(fields: dict[str, Any], notes: Notes) -> str:
    """The label; a number is taken as its text, anything else is left out."""
    label = fields.get("label", "")
    if isinstance(label, str):
        return label
    notes.add("a label that is no text was mended or left out")
    return str(label) if isinstance(label, int | float) else ""
