"""Geometry that instruction sets write inside their texts, taken out of them and kept as regions.

Every set has its own convention; a `Codec` is one of them. `extract` replaces what a codec recognises by placeholders
and gives the regions in pixels, so that a stored sample trains any convention:

| codec | text | numbers |
|---|---|---|
| `TEOCHAT` | `[x_min, y_min, x_max, y_max]` | 0-100 of width and height (Irvin et al. 2024, arXiv:2410.06234) |
| `GEOCHAT` | `<p>phrase</p> {<x1><y1><x2><y2>|<theta>}<delim>{...}` | 0-100, degrees (arXiv:2311.15826) |
| `VRSBENCH` | `<p>phrase</p> {<x1><y1><x2><y2>}` | 0-100 (Li et al. 2024, arXiv:2406.12384) |
| `GRID_1000` | `[x1, y1, x2, y2]` | 0-1000 of width and height |
| `PIXELS` | `[x1, y1, x2, y2]` | pixels |
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite

from geotempo.data_builders.sample import REGION, REGIONS, Message
from geotempo.data_builders.source import MAX_REGIONS, Rejection, listing
from geotempo.model.geometry import Box, Geometry, RotatedBox, area
from geotempo.model.records import ImageRecord, Region

NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+|nan|inf)"
"""A number, or what stands where one is missing; for the patterns of codecs."""

_FORM = re.compile(r"\s*\b(?:of|in|using|with) the (?:form|format):? ?\[\s*x_?(?:min|1|left)\b[^\[\]]*\]",
                   re.IGNORECASE)

# What may stand between the boxes of an answer that is nothing but a list of them, and after the last one.
_BETWEEN = re.compile(r"(?:[\s,;.]|<delim>|\band\b)*")

Found = tuple[Geometry, str]


@dataclass(frozen=True)
class Codec:
    """A way in which texts hold geometry.

    Attributes:
        name: For messages.
        pattern: Matches one geometry, or several that belong together. A group named `label` holds words that name what
            is there; they stay in the text, in front of the placeholders.
        read: From a match and the image that its numbers refer to: (geometry in pixels, label or "") of each geometry.
            Raises `Rejection` where a geometry is impossible.
    """

    name: str
    pattern: re.Pattern[str]
    read: Callable[[re.Match[str], ImageRecord], list[Found]]


@dataclass(frozen=True)
class Extracted:
    """A text whose geometry was taken out.

    Attributes:
        text: With `<region:i>` or `<regions:i,j,...>` instead of geometry.
        regions: In the order of the text; the first of them is region `start` of the sample.
        left_out: Regions beyond the largest `MAX_REGIONS`, which a list does not name.
    """

    text: str
    regions: tuple[Region, ...]
    left_out: int = 0


def extract(text: str, codecs: Sequence[Codec], image: ImageRecord, number: int, start: int = 0, *,
            lists: bool = True) -> Extracted:
    """Take the geometry out of a text.

    Args:
        text: A question or an answer.
        codecs: Conventions that may occur; of two that match at one place the first counts.
        image: What the numbers refer to.
        number: Acquisition (from 1) on which the regions are put.
        start: Regions that the sample has already.
        lists: Whether a text that is nothing but boxes, with their labels, commas, semicolons, `<delim>`, "and" or
            newlines between, becomes one `<regions:...>`; False for questions.

    Raises:
        Rejection: A box is impossible, or the text holds a placeholder of ours.
    """
    if REGION.search(text) or REGIONS.search(text):
        raise Rejection("reserved placeholder", f"{text[:80]!r} holds <region:...>, which stands for geometry in a "
                                                "sample")
    pieces: list[str] = []
    regions: list[Region] = []
    position, bare = 0, True
    while (found := _next(text, codecs, position)) is not None:
        codec, match = found
        pieces.append(text[position : match.start()])
        bare = bare and _BETWEEN.fullmatch(pieces[-1]) is not None
        items = codec.read(match, image)
        words = (match.groupdict().get("label") or "").strip()
        indices = range(start + len(regions), start + len(regions) + len(items))
        pieces.append(" ".join([*([words] if words else []), *(f"<region:{index}>" for index in indices)]))
        regions += [Region(number, geometry, label) for geometry, label in items]
        bare = bare and bool(items)
        position = match.end()
    rest = text[position:]
    if not regions or not lists or not bare or not _BETWEEN.fullmatch(rest):
        return Extracted("".join([*pieces, rest]), tuple(regions))
    order = sorted(range(len(regions)), key=lambda index: -area(regions[index].geometry))
    kept = sorted(order[:MAX_REGIONS])
    return Extracted(listing([start + index for index in kept])[0], tuple(regions), len(regions) - len(kept))


def _next(text: str, codecs: Sequence[Codec], position: int) -> tuple[Codec, re.Match[str]] | None:
    """The earliest match from a position on, and whose it is."""
    matches = [(codec, match) for codec in codecs if (match := codec.pattern.search(text, position)) is not None]
    return min(matches, key=lambda entry: entry[1].start(), default=None)


def extract_turns(messages: Sequence[Message], codecs: Sequence[Codec], images: Sequence[ImageRecord],
                  number: Callable[[str], int]) -> tuple[tuple[Message, ...], tuple[Region, ...], int]:
    """Take the geometry out of a conversation.

    What a question says about the notation ("of the form [x_min, y_min, x_max, y_max]") is left out: each model has its
    own. So is the box of the question where its answer begins by repeating it, as those of region captions do.

    Args:
        messages: Alternating user and assistant turns.
        codecs: Conventions that may occur.
        images: In time order.
        number: From a question to the image, from 1, that boxes in it and in its answer lie on.

    Returns:
        (messages with placeholders, regions, how many regions the lists do not name).

    Raises:
        Rejection: See `extract`; or a turn has no words beside its notation.
    """
    done: list[Message] = []
    regions: list[Region] = []
    left_out, on, asked = 0, 1, ""
    for message in messages:
        asks = message.role == "user"
        if asks:
            on, asked = number(message.text), message.text
        words = _FORM.sub("", message.text) if asks else _unrepeated(asked, message.text, codecs)
        part = extract(words, codecs, images[on - 1], on, len(regions), lists=not asks)
        if not part.text.strip():
            raise Rejection("empty text", f"nothing is left of {message.text[:80]!r} without its notation of boxes")
        done.append(replace(message, text=part.text.strip()))
        regions += part.regions
        left_out += part.left_out
    return tuple(done), tuple(regions), left_out


def _unrepeated(question: str, answer: str, codecs: Sequence[Codec]) -> str:
    """The answer without a geometry of the question at its beginning, where only words come after it."""
    for codec in codecs:
        match = codec.pattern.match(answer)
        rest = answer[match.end() :].lstrip(" \n,:;.") if match else ""
        if match is None or not rest or any(other.pattern.search(rest) for other in codecs):
            continue
        if match.group() in {other.group() for other in codec.pattern.finditer(question)}:
            return rest
    return answer


def as_list(text: str) -> str:
    """An answer to a request for boxes, so that it can be scored as one.

    A sentence without any region says that nothing matches: the empty list is put after it. Any other answer stays.
    """
    return text if REGION.search(text) or REGIONS.search(text) else f"{text}\n<regions:>"


def scaled_box(numbers: Sequence[str | float], image: ImageRecord, end: float | None) -> Box:
    """A box from two corners as texts give them.

    Args:
        numbers: x1, y1, x2, y2.
        image: What they refer to.
        end: What stands for its right and its lower edge; None for pixels.

    Returns:
        In pixels.

    Raises:
        Rejection: A number is missing, beyond the range, or the box has no width or height.
    """
    values = [float(number) for number in numbers]
    limits = (end, end) if end is not None else (image.width, image.height)
    shown = "[" + ", ".join(str(number) for number in numbers) + "]"
    if len(values) != 4:
        raise Rejection("impossible box", f"{shown} has {len(values)} numbers; a box has 4")
    x1, y1, x2, y2 = values
    if not all(isfinite(value) and 0 <= value <= limits[place % 2] for place, value in enumerate(values)):
        raise Rejection("impossible box", f"{shown} reaches beyond 0-{limits[0]:g} across or 0-{limits[1]:g} down")
    if x2 <= x1 or y2 <= y1:
        raise Rejection("impossible box", f"{shown} has no width or no height; the order is x_min, y_min, x_max, y_max")
    return Box(x1 * image.width / limits[0], y1 * image.height / limits[1],
               x2 * image.width / limits[0], y2 * image.height / limits[1])


def bracket_codec(name: str, end: float | None) -> Codec:
    """Boxes `[x1, y1, x2, y2]` of a convention.

    Eight numbers, twelve and so on are several boxes in one bracket. Any other bracket of two or more numbers is an
    impossible box; `[x_min, y_min, x_max, y_max]` is prose.

    Args:
        name: For messages.
        end: What stands for the right and the lower edge; None for pixels.
    """
    pattern = re.compile(rf"\[\s*({NUMBER}(?:\s*,\s*{NUMBER})+)\s*\]", re.IGNORECASE)

    def read(match: re.Match[str], image: ImageRecord) -> list[Found]:
        numbers = [part.strip() for part in match.group(1).split(",")]
        step = 4 if len(numbers) % 4 == 0 else len(numbers)
        return [(scaled_box(numbers[start : start + step], image, end), "") for start in range(0, len(numbers), step)]

    return Codec(name, pattern, read)


_ANGLED = rf"\{{((?:\s*<\s*{NUMBER}\s*>)+)\s*(?:\|\s*<\s*({NUMBER})\s*>\s*)?\}}"
_ONE_ANGLED = re.compile(_ANGLED, re.IGNORECASE)
_NUMBER = re.compile(NUMBER, re.IGNORECASE)


def _angled_pattern() -> re.Pattern[str]:
    """A phrase with the boxes after it, a phrase without boxes, or boxes without a phrase."""
    one = _ANGLED.replace("((?:", "(?:(?:").replace(f"({NUMBER})", NUMBER)  # without groups
    boxes = rf"{one}(?:\s*(?:<delim>)?\s*{one})*"
    return re.compile(rf"<p>(?P<label>(?:(?!</p>).)*)</p>(?:\s*(?P<named>{boxes}))?|(?P<boxes>{boxes})",
                      re.IGNORECASE | re.DOTALL)


def _read_angled(match: re.Match[str], image: ImageRecord) -> list[Found]:
    """The boxes of a group in angle brackets, labelled with the phrase before them."""
    label = (match.group("label") or "").strip()
    found: list[Found] = []
    for one in _ONE_ANGLED.finditer(match.group("named") or match.group("boxes") or ""):
        box = scaled_box(_NUMBER.findall(one.group(1)), image, 100)
        found.append((turned(box, float(one.group(2))) if one.group(2) else box, label))
    return found


def turned(box: Box, angle: float) -> Box | RotatedBox:
    """A box turned about its centre.

    Args:
        box: As it lies before it is turned.
        angle: Degrees, clockwise on the screen; 0 leaves the box as it is.

    Raises:
        Rejection: The angle is no finite number.
    """
    if not isfinite(angle):
        raise Rejection("impossible box", f"its angle is {angle}")
    if angle == 0:
        return box
    return RotatedBox((box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2, box.x2 - box.x1, box.y2 - box.y1, angle)


TEOCHAT = bracket_codec("TEOChat", 100)
GRID_1000 = bracket_codec("0-1000", 1000)
PIXELS = bracket_codec("pixels", None)
GEOCHAT = Codec("GeoChat", _angled_pattern(), _read_angled)
VRSBENCH = Codec("VRSBench", _angled_pattern(), _read_angled)
