r"""Geometry that instruction sets write inside their texts, taken out of them as structured regions.

A `Codec` knows one way of writing: TEOChat `[x_min, y_min, x_max, y_max]` (Irvin et al., arXiv 2410.06234), GeoChat
`{<x1><y1><x2><y2>|<theta>}` with `<p>phrase</p>` and `<delim>` (Kuckreja et al., arXiv 2311.15826), VRSBench
`{<x1><y1><x2><y2>}` (Li et al., arXiv 2406.12384), all of them percent of the image's width and height, and brackets that
count to another end or in pixels. `extract` puts `<region:i>` in the place of each geometry, so that a stored text is free
of any convention.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from geotempo.data_builders.sample import REGION, REGIONS, Message
from geotempo.data_builders.source import MAX_REGIONS, Rejection, listing
from geotempo.model.errors import InputError
from geotempo.model.geometry import Box, Geometry, RotatedBox, area
from geotempo.model.records import ImageRecord, Region

Found = list[tuple[Geometry, str]]

PERCENT = 100
MAX_ANGLE = 180.0
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+|nan|inf(?:inity)?)"
_BRACKET = re.compile(rf"\[\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\]", re.IGNORECASE)
_BRACE = rf"\{{\s*<({_NUMBER})>\s*<({_NUMBER})>\s*<({_NUMBER})>\s*<({_NUMBER})>\s*(?:\|\s*<({_NUMBER})>)?\s*\}}"
_BRACES = re.compile(_BRACE, re.IGNORECASE)
_PHRASED = re.compile(rf"(?:<p>(?P<phrase>[^<]*)</p>\s*)?(?P<boxes>{_BRACE}(?:\s*(?:<delim>|,|;)?\s*{_BRACE})*)", re.IGNORECASE)
_TAGS = re.compile(r"</?p>|<delim>")
_FORM = re.compile(r"\s*\b(?:of|in|using|with) the (?:form|format):? ?\[\s*x_?(?:min|1|left)\b[^\[\]]*\]", re.IGNORECASE)
_BETWEEN = re.compile(r"(?:[\s,;.\[\]()]|<delim>|\band\b)*", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"<regions?:")
_INSIDE = "\x00"


@dataclass(frozen=True)
class Codec:
    """One way of writing geometry in a text.

    Attributes:
        name: For messages and options.
        pattern: Finds a geometry or several together. A group `phrase` is the words that they belong to; it stays in the text.
        read: From a match and the image that it lies on to geometries in pixels with their labels. Raises `Rejection`.
        noise: What else belongs to this way of writing and is left out of the text.
    """

    name: str
    pattern: re.Pattern[str]
    read: Callable[[re.Match[str], ImageRecord], Found]
    noise: re.Pattern[str] | None = None


@dataclass(frozen=True)
class Extracted:
    """A text without its geometry.

    Attributes:
        text: With `<region:i>` and `<regions:i,j,...>` in the place of geometry.
        regions: The regions, in the order of the text.
        left_out: How many regions of a list the cap leaves out of the text; they are in `regions` all the same.
    """

    text: str
    regions: tuple[Region, ...]
    left_out: int = 0


def extract(text: str, codecs: Sequence[Codec], image: ImageRecord, number: int, start: int = 0, *,
            answer: bool = True) -> Extracted:
    """Take the geometry out of a text.

    Args:
        text: As the dataset has it.
        codecs: Tried one after the other; later ones see what earlier ones left.
        image: The image that the geometry lies on; percents are of its width and height.
        number: Its acquisition number, from 1.
        start: Index that the first region will have in the sample.
        answer: Whether the text is an answer: one that holds nothing but boxes (separated by commas, semicolons, `<delim>`,
            "and" or newlines) becomes one list, of which the grammar names the `MAX_REGIONS` largest.

    Returns:
        The text and its regions.

    Raises:
        Rejection: A box is impossible: beyond the declared range, without width or height, not a number; or the text
            already holds a placeholder.
    """
    if _PLACEHOLDER.search(text) or _INSIDE in text:
        raise Rejection("reserved words", f"the text holds a region placeholder or a NUL of its own: {text[:80]!r}")
    found: list[tuple[Found, str]] = []
    for codec in codecs:
        text = _marked(text, codec, image, found)
    order = [int(mark) for mark in re.findall(rf"{_INSIDE}(\d+){_INSIDE}", text)]
    regions: list[Region] = []
    words: dict[str, str] = {}
    for index in order:
        geometries, phrase = found[index]
        names = [f"<region:{start + len(regions) + offset}>" for offset in range(len(geometries))]
        words[f"{_INSIDE}{index}{_INSIDE}"] = " ".join(part for part in (phrase, ", ".join(names)) if part)
        regions += [Region(number, geometry, label) for geometry, label in geometries]
    if answer and regions and _BETWEEN.fullmatch(re.sub(rf"{_INSIDE}\d+{_INSIDE}", " ", text)):
        by_size = sorted(range(len(regions)), key=lambda index: -area(regions[index].geometry))
        kept = sorted(by_size[:MAX_REGIONS])
        return Extracted(listing([start + index for index in kept])[0], tuple(regions), len(regions) - len(kept))
    written = re.sub(rf"{_INSIDE}\d+{_INSIDE}", lambda match: words[match.group()], text)
    return Extracted(_tidy(written), tuple(regions))


def extract_turns(messages: Sequence[Message], codecs: Sequence[Codec], images: Sequence[ImageRecord],
                  number: Callable[[str], int]) -> tuple[tuple[Message, ...], tuple[Region, ...], int]:
    """Take the geometry out of a conversation.

    Args:
        messages: Alternating user and assistant turns.
        codecs: How the dataset writes geometry.
        images: In time order.
        number: From a question to the number, from 1, of the image that boxes in it and in its answer lie on.

    Returns:
        (messages with placeholders, regions, how many regions the cap leaves out of answers).

    Raises:
        Rejection: See `extract`.
    """
    done: list[Message] = []
    regions: list[Region] = []
    left_out, on = 0, 1
    for message in messages:
        if message.role == "user":
            on = number(message.text)
        part = extract(message.text, codecs, images[on - 1], on, len(regions), answer=message.role == "assistant")
        if not part.text:
            raise Rejection("empty text", f"nothing is left of {message.text[:80]!r} without its notation of boxes")
        done.append(replace(message, text=part.text))
        regions += part.regions
        left_out += part.left_out
    return tuple(done), tuple(regions), left_out


def as_list(text: str) -> str:
    """An answer to a request for boxes, so that it can be scored as one.

    A sentence without any region says that nothing matches: the empty list is put after it. Any other answer stays.
    """
    return text if REGION.search(text) or REGIONS.search(text) else f"{text}\n<regions:>"


def bracket_codec(name: str, grid: float | None) -> Codec:
    """`[x1, y1, x2, y2]`.

    Args:
        name: For messages.
        grid: The number that stands for the image's right and lower edge; None for pixels.
    """

    def read(match: re.Match[str], image: ImageRecord) -> Found:
        return [(scaled_box(match.groups(), grid, image, match.group()), "")]

    return Codec(name, _BRACKET, read, _FORM)


def scaled_box(numbers: Sequence[str | float], grid: float | None, image: ImageRecord, written: str) -> Box:
    """A box in pixels from x1, y1, x2, y2 of 0 to `grid` over the image.

    Args:
        numbers: Four numbers, or their text.
        grid: What stands for the right and lower edge; None for pixels.
        image: For its size.
        written: The text, for messages.

    Raises:
        Rejection: The box is impossible.
    """
    values = [float(number) for number in numbers]
    ends = (grid or image.width, grid or image.height)
    if not all(map(math.isfinite, values)):
        raise Rejection("impossible box", f"{written} holds something that is no number")
    if any(not 0 <= value <= ends[axis % 2] for axis, value in enumerate(values)):
        raise Rejection("impossible box", f"{written} reaches beyond 0 to {ends[0]:g} (x), {ends[1]:g} (y)")
    x1, y1, x2, y2 = values
    if x2 <= x1 or y2 <= y1:
        raise Rejection("impossible box", f"{written} has no width or no height; its corners must be x1 < x2 and y1 < y2")
    across, down = image.width / ends[0], image.height / ends[1]
    return Box(x1 * across, y1 * down, x2 * across, y2 * down)


def _read_braces(match: re.Match[str], image: ImageRecord) -> Found:
    label = " ".join((match["phrase"] or "").split())
    return [(_turned(box.groups(), image, box.group()), label) for box in _BRACES.finditer(match["boxes"])]


def _turned(numbers: Sequence[str | None], image: ImageRecord, written: str) -> Geometry:
    """A box turned around its centre, clockwise on the screen, as GeoChat's `bbox_and_angle_to_polygon` does it."""
    *corners, theta = numbers
    box = scaled_box([corner or "nan" for corner in corners], PERCENT, image, written)
    angle = float(theta or 0)
    if not -MAX_ANGLE <= angle <= MAX_ANGLE:
        raise Rejection("impossible box", f"{written} is turned by {theta} degrees; allowed: -180 to 180")
    if angle == 0:
        return box
    return RotatedBox((box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2, box.x2 - box.x1, box.y2 - box.y1, angle)


def _marked(text: str, codec: Codec, image: ImageRecord, found: list[tuple[Found, str]]) -> str:
    """The text with a mark for each match, whose geometries are appended to `found`."""

    def mark(match: re.Match[str]) -> str:
        try:
            geometries = codec.read(match, image)
        except Rejection:
            raise
        except (InputError, ValueError) as error:
            raise Rejection("impossible box", f"{match.group()[:80]} ({codec.name}): {error}") from None
        phrase = match["phrase"] if "phrase" in match.re.groupindex else None
        found.append((geometries, " ".join((phrase or "").split())))
        return f"{_INSIDE}{len(found) - 1}{_INSIDE}"

    marked = codec.pattern.sub(mark, text)
    return codec.noise.sub("", marked) if codec.noise else marked


def _tidy(text: str) -> str:
    """The text without the blanks that something taken out left behind; line breaks stay."""
    text = re.sub(r"[ \t]{2,}", " ", text)
    return re.sub(r" +([.,;:?!])(?=\s|$)", r"\1", text).strip()


TEOCHAT = bracket_codec("teochat", PERCENT)
"""Integers 0-100. The request "of the form [x_min, y_min, x_max, y_max]" is left out: each model has its own."""

GEOCHAT = Codec("geochat", _PHRASED, _read_braces, _TAGS)
"""Integers 0-100 and degrees; the phrase is the label of its boxes."""

VRSBENCH = replace(GEOCHAT, name="vrsbench")
"""As GeoChat, without angle."""
