r"""Conversations of instruction sets: turns under many names, image tags in many places, geometry in the texts.

LLaVA and TEOChat write `{"from": "human", "value": "<image>\n..."}`, OpenAI and ms-swift `{"role": "user", "content": "..."}`.
Here they become the messages of a `Sample`: one `<image>` per image in front of the first question, since the renderer writes
headers and dates itself; geometry as placeholders; alternating turns, none of them empty.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from geotempo.data_builders.sample import IMAGE, Message
from geotempo.data_builders.source import Rejection
from geotempo.data_builders.text_regions import Codec, extract
from geotempo.model.prompts import VIDEO
from geotempo.model.records import ImageRecord, Region

ROLES: dict[str, Literal["user", "assistant", "system"]] = {
    "human": "user", "user": "user", "gpt": "assistant", "bot": "assistant", "assistant": "assistant", "model": "assistant",
    "chatgpt": "assistant", "system": "system",
}
"""Who speaks, by the names in use (any case)."""

# The sentence with which TEOChatlas introduces the images of a record; ours are introduced by the renderer.
_INTRODUCTION = re.compile(r"\A\s*((?:This|These)\b[^<\n]*\bimages?\b[^<\n]*:)\s*<video>\s*")
_TAG = re.compile(r"<(?:image|video)>")
# A tag at the beginning or the end of a text, with the number that some sets write before it.
_LEAD = re.compile(r"\A\s*(?:(?:(?:Image|Picture|Frame)(?: ?\d+)?: ?)?<(?:image|video)>[\s,;]*)+", re.IGNORECASE)
_TRAIL = re.compile(r"(?:\s*(?:(?:Image|Picture|Frame)(?: ?\d+)?: ?)?<(?:image|video)>)+\s*\Z", re.IGNORECASE)

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
_NAMED_IMAGE = re.compile(rf"\b(?:({'|'.join(_ORDINALS)}) image|image (\d{{1,2}}))\b", re.IGNORECASE)


@dataclass(frozen=True)
class Turn:
    """One turn as it stands in a file: role user, assistant or system, and the raw text."""

    role: Literal["user", "assistant", "system"]
    text: str


@dataclass(frozen=True)
class Conversation:
    """A conversation as a sample holds it.

    Attributes:
        messages: Alternating user and assistant turns with placeholders.
        regions: What the placeholders refer to.
        facts: Entries for the sample's meta: `system` and `introduction`, texts that were taken out; `left_out`, the regions that
            the last answer's list does not name.
    """

    messages: tuple[Message, ...]
    regions: tuple[Region, ...]
    facts: dict[str, Any]


def read_turns(given: Any, where: str) -> list[Turn]:
    """The turns of a record.

    Args:
        given: A list of `{"from", "value"}`, `{"role", "content"}` or `{"role", "value"}`.
        where: Names the record in messages.

    Raises:
        Rejection: Another structure, an unknown role, or a text that is none.
    """
    if not isinstance(given, list) or not given:
        raise Rejection("no conversation", f"{where}: the turns are {_shown(given)}; expected a list of turns")
    return [_turn(entry, where) for entry in given]


def _turn(entry: Any, where: str) -> Turn:
    if not isinstance(entry, dict):
        raise Rejection("broken turn", f"{where}: a turn is {_shown(entry)}; expected an object with from and value, or role and "
                                       "content")
    name, text = entry.get("from", entry.get("role")), entry.get("value", entry.get("content"))
    role = ROLES.get(str(name).lower())
    if role is None:
        raise Rejection("unknown role", f"{where}: {name!r}; allowed: {', '.join(ROLES)}")
    if not isinstance(text, str):
        raise Rejection("broken turn", f"{where}: the text of a {name} turn is {_shown(text)}")
    return Turn(role, text)


def image_named(text: str, count: int) -> int | None:
    """The acquisition that a text names first ("in the second image", "Image 3"); None where it names none of `count`."""
    for ordinal, number in _NAMED_IMAGE.findall(text):
        found = int(number) if number else _ORDINALS.index(ordinal.lower()) + 1
        if 1 <= found <= count:
            return found
    return None


def converse(turns: Sequence[Turn], images: Sequence[ImageRecord], codecs: Sequence[Codec], where: str,
             prepare: Callable[[str], str] = str) -> Conversation:
    """Turn raw turns into messages.

    Geometry is put on the image that the question names first ("the buildings in the first image which ... in the second
    image"), else on the latest one.

    Args:
        turns: Of one record.
        images: In time order; may be empty.
        codecs: Conventions of geometry in the texts; none leaves numbers in brackets as they are.
        where: Names the record in messages.
        prepare: Applied to every question after its image tags were taken out.

    Raises:
        Rejection: Turns that do not alternate, an empty text, more or fewer image tags than images, an impossible box.
    """
    facts: dict[str, Any] = {}
    spoken = [turn for turn in turns if turn.role != "system"]
    if system := "\n".join(turn.text.strip() for turn in turns if turn.role == "system" and turn.text.strip()):
        facts["system"] = system
    roles = [turn.role for turn in spoken]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise Rejection("turn order", f"{where}: {', '.join(roles) or 'no turn'}; questions and answers must alternate, a question "
                                      "first and an answer last")
    _check_tags(spoken, len(images), where)
    messages: list[Message] = []
    regions: list[Region] = []
    number = max(1, len(images))
    shown = 0
    for turn in spoken:
        text = turn.text
        if turn.role == "user":
            text, introduction, shown = _without_tags(text, shown)
            text = prepare(text).strip()
            if introduction:
                facts["introduction"] = introduction
            number = image_named(text, len(images)) or max(1, len(images))
        if not text.strip():
            raise Rejection(f"empty {'question' if turn.role == 'user' else 'answer'}", where)
        if images:
            text, left_out = _take(text, codecs, images[number - 1], number, regions, turn.role == "assistant", where)
            facts.pop("left_out", None)
            facts.update({"left_out": left_out} if left_out else {})
        opening = "" if messages or not images else IMAGE * len(images) + "\n"
        messages.append(Message("user" if turn.role == "user" else "assistant", opening + text.strip()))
    return Conversation(tuple(messages), tuple(regions), facts)


def _take(text: str, codecs: Sequence[Codec], image: ImageRecord, number: int, regions: list[Region], lists: bool,
          where: str) -> tuple[str, int]:
    """The text without geometry, which is appended to `regions`; and how many regions its list leaves out."""
    try:
        found = extract(text, codecs, image, number, len(regions), lists=lists)
    except Rejection as error:
        raise Rejection(error.reason, f"{where}: {error.detail}") from None
    regions.extend(found.regions)
    return found.text, found.left_out


def _check_tags(turns: Sequence[Turn], count: int, where: str) -> None:
    """Tags may be missing; `<video>` stands for all images of a record."""
    tags = [tag for turn in turns for tag in _TAG.findall(turn.text)]
    if any(_TAG.search(turn.text) for turn in turns if turn.role == "assistant"):
        raise Rejection("image in an answer", f"{where}: an answer holds {IMAGE} or {VIDEO}")
    if tags and not count:
        raise Rejection("image count", f"{where}: {len(tags)} image tags, but the record names no image")
    if tags and tags.count(VIDEO) != len(tags) and len(tags) != count:
        raise Rejection("image count", f"{where}: {len(tags)} image tags for {count} images")
    if tags.count(VIDEO) > 1:
        raise Rejection("image count", f"{where}: {tags.count(VIDEO)} tags {VIDEO}; it stands for all images and occurs once")


def _without_tags(text: str, shown: int) -> tuple[str, str, int]:
    """A question without image tags, the sentence that introduced the images, and how many tags there were so far.

    Tags inside a sentence become `Image k`, or, for `<video>`, "the images".
    """
    introduction = _INTRODUCTION.match(text)
    count = shown + len(_TAG.findall(text))
    if introduction:
        return text[introduction.end() :], introduction.group(1).strip(), count
    lead = _LEAD.match(text)
    shown += len(_TAG.findall(lead.group())) if lead else 0
    text = _TRAIL.sub("", text[lead.end() :] if lead else text)

    def named(match: re.Match[str]) -> str:
        nonlocal shown
        shown += 1
        return f"Image {shown}" if match.group() == IMAGE else "the images"

    return _TAG.sub(named, text), "", count


def _shown(value: Any) -> str:
    """A value as it may stand in a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
