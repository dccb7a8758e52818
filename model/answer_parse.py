"""Reading what a model wrote: tolerant, never raising, never guessing in silence.

The text is scanned once from left to right; no step looks back, so that hostile text costs linear time. Whatever
departs from the grammar leaves one short sentence in `Answer.repairs`. At the end the items read are written again:
text that differs from that was not canonical, even where nothing else was noticed.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from geotempo.model.answer_grid import Item, Mode, in_mode, to_region, write_list
from geotempo.model.answer_item import UNREADABLE, Notes, read_box, read_fields, read_item, read_numbers
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


_NOT_CANONICAL = "the answer was not written exactly as the grammar says (blanks, order of keys, escapes or numbers)"
_CUT = "the list was cut off; what was incomplete is left out"


@dataclass
class _Reading:
    """A list found in a text: `text[start:end]`."""

    start: int
    end: int = 0
    items: list[Item] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)
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
    frames = in_mode(frames, mode)
    notes = Notes()
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
        regions = tuple(to_region(item, frames[item.image - 1]) for item in reading.items)
    return Answer(raw, prose, regions, status, notes.sentences())


def holds_regions(prose: str, mode: Mode) -> bool:
    """Whether prose written before a list would itself be taken for one."""
    if mode == "teochat":
        return bool(_groups(prose)) or _OPEN_GROUP.search(prose) is not None
    match = _START.search(prose + "\n[]")
    return match is None or match.start() != len(prose) + 1


def _decode(text: str | bytes, notes: Notes) -> str:
    """Text as it is, or bytes as UTF-8."""
    if isinstance(text, str):
        return text
    try:
        return bytes(text).decode("utf-8")
    except UnicodeDecodeError:
        notes.add("bytes that are not UTF-8 were replaced by U+FFFD")
        return bytes(text).decode("utf-8", errors="replace")


def _status(raw: str, prose: str, reading: _Reading | None, notes: Notes, finish_reason: str) -> Status:
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
    reading.notes.add(UNREADABLE)
    return stop


def _append(source: str, tokens: list[str], reading: _Reading, frames: Sequence[Frame]) -> None:
    """Add one whole object to the list, if it can be read."""
    fields = read_fields(source, tokens, reading.notes)
    item = read_item(fields, frames, reading.notes) if fields is not None else None
    if item is None:
        return
    if reading.items and item.order < reading.items[-1].order:
        reading.notes.add("the regions are not in the order image, top, left; their order is kept")
    reading.items.append(item)


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


def _teochat_item(inner: str, frames: Sequence[Frame], notes: Notes) -> Item | None:
    """A box from the inside of a group; None, and a note, where it is none."""
    if not frames:
        notes.add("a box without an image is left out")
        return None
    parts = [part.strip() for part in inner.split(",")]
    values: list[Any] = [int(p) if p.isdecimal() and p.isascii() and len(p) < 300 else p for p in parts]
    numbers = read_numbers(values, 4, notes)
    if numbers is None:
        notes.add("a box that is not four numbers is left out")
        return None
    box = read_box(numbers, frames[-1], notes)
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
