"""Reading what a model wrote: tolerant, never raising, never guessing in silence.

The text is scanned once from left to right; no step looks back, so that hostile text costs linear time. Whatever
departs from the grammar leaves one short sentence in `Answer.repairs`. At the end the items read are written again:
text that differs from that was not canonical, even where nothing else was noticed.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any

from geotempo.model.answer_grid import GRID, TEOCHAT_GRID, Item, Mode, grid_of, limits, to_region, write_list
from geotempo.model.geometry import Point
from geotempo.model.records import Answer, Frame, Status

REFUSALS = (
    r"\bnot assessable\b",
    r"\b(?:cannot|can not|can't|could not) be (?:assessed|determined|answered|judged)\b",
    r"\b(?:unable|not able) to (?:assess|answer|determine|tell|judge|help|assist|comply|process|view|see the image)\b",
    # "I cannot see any change" is an answer, "I cannot see the image" is none.
    (r"\bI (?:cannot|can not|can't|could not|couldn't|won't|will not)\b"
     r"(?! (?:see|find|detect|identify|observe|spot|locate|make out) (?:any|a|an|no|new|changes?)\b)"),
    r"\bI(?:'m| am) sorry\b",
    r"\bas an AI\b",
)
"""Phrases (any case) by which prose without regions is taken as a refusal."""

_REFUSAL = re.compile("|".join(REFUSALS), re.IGNORECASE)

# Where a list of regions may begin: "[" before an object, a closing or another bracket or the end; a lone object; at
# the very start of the text also "[" before a number with a comma, or before a string.
_START = re.compile(r"""\[\s*(?:[\[{\],]|\Z)|\{\s*["']?(?:image|bbox)|\A\s*\[\s*(?:["']|-?[0-9.]+\s*,)""")
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|' r"'[^'\\]*(?:\\.[^'\\]*)*'|" r"""[{}\[\],:"']|[^\s"'{}\[\],:]+""", re.DOTALL)
# Quotes inside a string are escaped, so this can only be the start of an object, however broken the one before is.
_OBJECT = re.compile(r'\{\s*"image"')
_GAP = re.compile(r"[\s,]*")
_NEXT = re.compile(r"[{\]]")
_FENCE = re.compile(r"```[A-Za-z]*\s*\Z")
_FENCE_END = re.compile(r"\s*```")
_GROUP = re.compile(r"\[([^\[\]]*)\]")
_COORDINATES = re.compile(r"[\s0-9.,;eE+-]*")
_OPEN_GROUP = re.compile(r"\[[\s\d.,-]*\Z")
_DECIMAL = re.compile(r"[+-]?(?:\d{1,400}\.?\d{0,400}|\.\d{1,400})(?:[eE][+-]?\d{1,4})?", re.ASCII)

_KEYS = ("image", "bbox_2d", "points", "label")
_MAX_NOTES = 16  # kinds of repair that are spelled out; hostile text can hold any number

_NOT_CANONICAL = "the answer was not written exactly as the grammar says (blanks, order of keys, escapes or numbers)"
_CUT = "the list was cut off; what was incomplete is left out"
_UNREADABLE = "a region could not be read and is left out"
_FLOATS = "a coordinate was no plain integer"


@dataclass
class _Notes:
    """What was mended: sentences in order of appearance, each with how often."""

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, sentence: str) -> None:
        """Note one repair."""
        self.counts[sentence] = self.counts.get(sentence, 0) + 1

    def update(self, other: "_Notes") -> None:
        """Take over all notes of another reading."""
        for sentence, count in other.counts.items():
            self.counts[sentence] = self.counts.get(sentence, 0) + count

    def sentences(self) -> tuple[str, ...]:
        """Each kind once; beyond a limit only their number."""
        out = [text if count == 1 else f"{text} ({count} times)" for text, count in self.counts.items()]
        more = len(out) - _MAX_NOTES
        return tuple(out) if more <= 0 else (*out[:_MAX_NOTES], f"and {more} other kinds of repair")


@dataclass
class _Reading:
    """A list found in a text: `text[start:end]`."""

    start: int
    end: int = 0
    items: list[Item] = field(default_factory=list)
    notes: _Notes = field(default_factory=_Notes)
    empty: bool = True  # nothing but brackets
    cut: bool = False
    following: int = 0  # where the next object starts, as far as it was looked for


def parse(text: str | bytes, frames: Sequence[Frame], *, mode: Mode = "geotempo", finish_reason: str = "stop") -> Answer:
    """Read an answer. Never raises on any text or bytes.

    Status, the first that holds:

    - `truncated`: `finish_reason` is `length`, or the list is cut off; complete regions are kept.
    - `invalid`: the text is empty, or holds a list that is not empty and of which no region can be read.
    - `refused`: a phrase of `REFUSALS` and no region.
    - `repaired`: something was mended; each kind of mending is one sentence in `repairs`.
    - `ok`: exactly what the grammar says (`format` writes), or prose without any list.

    `repairs` is empty exactly when the status is `ok` or a plain refusal; for `invalid` it holds the reasons. A region
    that is dropped (wrong image number, outside the image, unreadable) is always named there. `regions` is None where
    the text holds no list, and also where it holds one of which nothing could be read: () means "nothing found".

    Args:
        text: What the model wrote. Bytes that are not UTF-8 become U+FFFD, and that is a repair.
        frames: `frames[k - 1]` belongs to acquisition k.
        mode: Which grammar. Boxes of `teochat` name no image; they are put on the latest one (`frames[-1]`), the
            reference grid.
        finish_reason: As vLLM and OpenAI say it: `stop` or `length`.

    Returns:
        The answer; boxes and points in pixels of the user's images, clipped to them.
    """
    grid = grid_of(mode)
    notes = _Notes()
    raw = _decode(text, notes)
    reading = _read_list(raw, frames) if mode == "geotempo" else _read_teochat(raw, frames)
    prose = raw.strip()
    if reading is not None:
        prose = _around(raw, reading, mode)
        notes.update(reading.notes)
        if not notes.counts and raw != (prose + "\n" if prose else "") + write_list(reading.items, mode):
            notes.add(_NOT_CANONICAL)
    status = _status(raw, prose, reading, notes, finish_reason)
    regions = None
    nothing_found = reading is not None and reading.empty and not reading.cut and status is not Status.REFUSED
    if reading is not None and (reading.items or nothing_found):
        regions = tuple(to_region(item, frames[item.image - 1], grid) for item in reading.items)
    return Answer(raw, prose, regions, status, notes.sentences())


def holds_regions(prose: str, mode: Mode) -> bool:
    """Whether prose written before a list would itself be taken for one."""
    if mode == "teochat":
        return bool(_groups(prose)) or _OPEN_GROUP.search(prose) is not None
    match = _START.search(prose + "\n[]")
    return match is None or match.start() != len(prose) + 1


def _decode(text: str | bytes, notes: _Notes) -> str:
    """Text as it is, or bytes as UTF-8."""
    if isinstance(text, str):
        return text
    try:
        return bytes(text).decode("utf-8")
    except UnicodeDecodeError:
        notes.add("bytes that are not UTF-8 were replaced by U+FFFD")
        return bytes(text).decode("utf-8", errors="replace")


def _status(raw: str, prose: str, reading: _Reading | None, notes: _Notes, finish_reason: str) -> Status:
    """The first status that holds; adds the reasons of `truncated` and `invalid` to the notes."""
    if finish_reason == "length":
        notes.add("the answer was cut at the length limit")
    if finish_reason == "length" or (reading and reading.cut):
        return Status.TRUNCATED
    if not raw.strip():
        notes.add("the answer is empty")
        return Status.INVALID
    if reading and not reading.items and not reading.empty:
        return Status.INVALID
    if not (reading and reading.items) and _REFUSAL.search(prose.replace("’", "'")):
        return Status.REFUSED
    return Status.REPAIRED if notes.counts else Status.OK


# --- geotempo mode -------------------------------------------------------------------------------------------------


def _read_list(text: str, frames: Sequence[Frame]) -> _Reading | None:
    """The first list that holds a readable region, else the first list, else None."""
    first: _Reading | None = None
    position = 0
    while match := _START.search(text, position):
        start = match.start() + len(match.group()) - len(match.group().lstrip())
        reading = _scan(text, start, frames)
        if reading.items:
            if first is not None:
                reading.notes.add("brackets before the list held no readable region and are left out")
            return reading
        first = first or reading
        position = max(reading.end, match.end())
    return first


def _around(text: str, reading: _Reading, mode: Mode) -> str:
    """The prose before a list; notes a code fence and whatever follows the list."""
    if mode == "teochat":
        return _teochat_prose(text, reading)
    before, after = text[: reading.start], text[reading.end :]
    if fence := _FENCE.search(before):
        before = before[: fence.start()]
        closing = _FENCE_END.match(after)
        after = after[closing.end() :] if closing else after
        reading.notes.add("the list stood in a code fence")
    if after.strip():
        reading.notes.add("text after the list is left out")
    if not reading.notes.counts and before.endswith("\n") and not after:
        return before[:-1]
    return before.strip()


def _scan(text: str, start: int, frames: Sequence[Frame]) -> _Reading:
    """Read a list that starts at "[", or objects without a list that start at "{"."""
    reading = _Reading(start)
    bare = text[start] == "{"
    if bare:
        reading.notes.add("an object stood alone instead of in a list")
    position = start if bare else start + 1
    while True:
        gap = _GAP.match(text, position)
        assert gap is not None  # it matches the empty string
        at = gap.end()
        following = at < len(text) and text[at] == "{"
        if bare and not following:
            reading.end = position
            return reading
        if gap.group().count(",") != (1 if following and not reading.empty else 0):
            reading.notes.add("commas between regions were missing or too many")
        if at == len(text):
            return _cut(reading, at)
        if text[at] == "]":
            reading.end = at + 1
            return reading
        reading.empty = False
        stop = _read_object(text, at, reading, frames) if following else _skip(text, at, reading)
        if stop is None:
            return _cut(reading, len(text))
        position = stop


def _cut(reading: _Reading, end: int) -> _Reading:
    """Mark a list that has no end."""
    reading.cut, reading.end = True, end
    reading.notes.add(_CUT)
    return reading


def _skip(text: str, start: int, reading: _Reading) -> int | None:
    """Step over what is no region, up to the next object or the end of the list."""
    reading.notes.add("something that is no region stood in the list and is left out")
    match = _NEXT.search(text, start)
    return match.start() if match else None


def _read_object(text: str, start: int, reading: _Reading, frames: Sequence[Frame]) -> int | None:
    """Read one object into the list; its end, or None where the text ends first."""
    if reading.following <= start:  # looked for once per object, or a text without any would cost quadratic time
        following = _OBJECT.search(text, start + 1)
        reading.following = following.start() if following else len(text)
    stop = reading.following
    tokens: list[str] = []
    depth = 0
    for match in _TOKEN.finditer(text, start, stop):
        token = match.group()
        if token in ('"', "'"):
            break  # a string without an end
        tokens.append(token)
        depth += (token in "{[") - (token in "}]")
        if depth == 0:
            _append(text[start : match.end()], tokens, reading, frames)
            return match.end()
    if stop == len(text):
        return None
    reading.notes.add(_UNREADABLE)
    return stop


def _append(source: str, tokens: list[str], reading: _Reading, frames: Sequence[Frame]) -> None:
    """Add one whole object to the list, if it can be read."""
    fields = _fields(source, tokens, reading.notes)
    item = _item(fields, frames, reading.notes) if fields is not None else None
    if item is None:
        return
    if reading.items and item.order < reading.items[-1].order:
        reading.notes.add("the regions are not in the order image, top, left; their order is kept")
    reading.items.append(item)


def _fields(source: str, tokens: list[str], notes: _Notes) -> dict[str, Any] | None:
    """The key-value pairs of an object, mended where needed; None where it cannot be read."""
    for attempt in range(2):
        try:
            pairs = json.loads(source if attempt == 0 else _mend(tokens, notes), strict=False, parse_int=_integer,
                               object_pairs_hook=_Pairs)
        except (ValueError, RecursionError):
            continue
        return _unique(pairs, notes)
    notes.add(_UNREADABLE)
    return None


class _Pairs(list[tuple[str, Any]]):
    """The pairs of a JSON object, repeated keys included."""


def _unique(pairs: Any, notes: _Notes) -> dict[str, Any]:
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


def _mend(tokens: list[str], notes: _Notes) -> str:
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


def _item(fields: dict[str, Any], frames: Sequence[Frame], notes: _Notes) -> Item | None:
    """A region from the pairs of its object; None, and a note, where image or box cannot be used."""
    image = _image(fields, len(frames), notes)
    if image is None:
        return None
    frame = frames[image - 1]
    numbers = _numbers(fields.get("bbox_2d"), 4, notes)
    if numbers is None:
        notes.add("a region without a readable box is left out")
        return None
    box = _box(numbers, limits(frame, GRID), GRID, notes)
    if box is None:
        return None
    return Item(image, box, _label(fields, notes), _points(fields, box, notes))


def _image(fields: dict[str, Any], count: int, notes: _Notes) -> int | None:
    """The image number; where it is missing and there is one image, that one."""
    if "image" not in fields and count == 1:
        notes.add("a region without image number is put on the only image")
        return 1
    number = _number(fields.get("image"), notes, "an image number was no plain integer")
    if number is None or number != number // 1 or not 1 <= number <= count:
        notes.add("a region on an image that is not there is left out")
        return None
    return int(number)


def _number(value: Any, notes: _Notes, sentence: str = _FLOATS) -> float | None:
    """A finite number; notes one that is not written as an integer. Numbers in quotes are read."""
    if isinstance(value, str) and _DECIMAL.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    if not isinstance(value, int):
        notes.add(sentence)
        return int(value) if value.is_integer() else value
    return value


def _numbers(value: Any, count: int, notes: _Notes) -> list[float] | None:
    """A list of so many finite numbers."""
    if not isinstance(value, list) or isinstance(value, _Pairs) or len(value) != count:
        return None
    numbers = [_number(entry, notes) for entry in value]
    kept = [number for number in numbers if number is not None]
    return kept if len(kept) == count else None


def _box(numbers: list[float], limit: tuple[int, int], grid: int, notes: _Notes) -> tuple[float, float, float, float] | None:
    """A box in cells from four numbers: corners put in order, clipped to the image, one cell wide and high at least."""
    x1, y1, x2, y2 = numbers
    if x1 > x2 or y1 > y2:
        notes.add("swapped corners of a box were put in order")
        x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
    if x1 == x2 or y1 == y2:
        notes.add("a box without width or height was made one cell wide or high")
        x1, x2 = _widen(x1, x2, grid)
        y1, y2 = _widen(y1, y2, grid)
    if x1 < 0 or y1 < 0 or x2 > limit[0] or y2 > limit[1]:
        if x2 <= 0 or y2 <= 0 or x1 >= limit[0] or y1 >= limit[1]:
            notes.add("a box outside its image is left out")
            return None
        notes.add("a box was clipped to its image")
        x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, limit[0]), min(y2, limit[1])
    return x1, y1, x2, y2


def _widen(low: float, high: float, grid: int) -> tuple[float, float]:
    """One axis of a box, a cell long where it had no length, within the grid if it began there."""
    if low != high:
        return low, high
    return (low - 1, low) if low == grid else (low, low + 1)


def _points(fields: dict[str, Any], box: tuple[float, float, float, float], notes: _Notes) -> tuple[Point, Point] | None:
    """Two points inside the box; None, and a note, where they cannot be used."""
    if "points" not in fields:
        return None
    value = fields["points"]
    pairs = [_numbers(pair, 2, notes) for pair in value] if isinstance(value, list) and len(value) == 2 else []
    points = [(pair[0], pair[1]) for pair in pairs if pair is not None]
    if len(points) != 2:
        notes.add("points that are not two pairs of numbers are left out")
        return None
    if not all(box[0] <= x <= box[2] and box[1] <= y <= box[3] for x, y in points):
        notes.add("points outside their box are left out")
        return None
    return points[0], points[1]


def _label(fields: dict[str, Any], notes: _Notes) -> str:
    """The label; a number is taken as its text, anything else is left out."""
    label = fields.get("label", "")
    if isinstance(label, str):
        return label
    notes.add("a label that is no text was mended or left out")
    return str(label) if isinstance(label, int | float) else ""


# --- teochat mode --------------------------------------------------------------------------------------------------


def _read_teochat(text: str, frames: Sequence[Frame]) -> _Reading | None:
    """All groups `[x1, y1, x2, y2]` of a text; other brackets are prose. None where there are none."""
    groups = _groups(text)
    opened = _OPEN_GROUP.search(text)
    first = groups[0] if groups else opened
    if first is None:
        return None
    reading = _Reading(first.start(), groups[-1].end() if groups else len(text))
    for group in groups:
        if not group.group(1).strip():
            continue  # "[]": nothing found
        reading.empty = False
        item = _teochat_item(group.group(1), frames, reading.notes)
        if item is not None:
            reading.items.append(item)
    if opened:
        reading.empty = False
        _cut(reading, len(text))
    return reading


def _teochat_item(inner: str, frames: Sequence[Frame], notes: _Notes) -> Item | None:
    """A box from the inside of a group; None, and a note, where it is none."""
    if not frames:
        notes.add("a box without an image is left out")
        return None
    parts = [part.strip() for part in inner.split(",")]
    values: list[Any] = [int(p) if p.isdecimal() and p.isascii() and len(p) < 300 else p for p in parts]
    numbers = _numbers(values, 4, notes)
    if numbers is None:
        notes.add("a box that is not four numbers is left out")
        return None
    box = _box(numbers, limits(frames[-1], TEOCHAT_GRID), TEOCHAT_GRID, notes)
    return Item(len(frames), box) if box else None


def _teochat_prose(text: str, reading: _Reading) -> str:
    """The prose around the boxes; notes where boxes stood inside it."""
    before, after = text[: reading.start], text[reading.end :]
    between = list(_between(text, reading))
    if after.strip() or any(gap.strip(" ,\n") for gap in between):
        reading.notes.add("boxes stood inside the prose")
        return " ".join(" ".join([before, *between, after]).split())
    if not reading.notes.counts and before.endswith("\n"):
        return before[:-1]
    return before.strip()


def _between(text: str, reading: _Reading) -> Iterator[str]:
    """What stands between the boxes of a list."""
    position = reading.start
    for match in _groups(text[: reading.end]):
        yield text[position : match.start()]
        position = match.end()


def _groups(text: str) -> list[re.Match[str]]:
    """The bracketed groups of a text that hold coordinates, or nothing; "[bbox]" is a word of the prose."""
    inner = ((match, match.group(1)) for match in _GROUP.finditer(text))
    return [match for match, part in inner
            if not part.strip() or (_COORDINATES.fullmatch(part) and any(char.isdecimal() for char in part))]
