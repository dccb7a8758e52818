r"""Turns of instruction sets as messages: `{"from", "value"}` (LLaVA) and `{"role", "content"}` (OpenAI, ms-swift).

Tags of images are normalised to one `<image>` per image in front of the first question. Where a tag stands inside a
sentence, "Image k" takes its place, the name that the prompt gives to the image. Introductions that our renderer writes
itself are recognised and left out: "Image 1: " before a tag, and TEOChat's "These are two satellite images ... :
<video>".
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from geotempo.data_builders.sample import IMAGE, Message, Role
from geotempo.data_builders.source import Rejection

ROLES: dict[str, Role] = {"human": "user", "user": "user", "gpt": "assistant", "bot": "assistant",
                          "assistant": "assistant"}
SYSTEM = "system"
KEYS = (("from", "value"), ("role", "content"), ("role", "value"), ("from", "content"))
VIDEO = "<video>"

_TAG = re.compile(r"<(?:image|video)>")
_NAME = r"(?:(?:image|picture|frame)[ -]?\d+ ?: ?)?"
_EDGE = rf"(?:{_NAME}<(?:image|video)>[ \t\n,;]*)"
_LEADING = re.compile(rf"\s*{_EDGE}+", re.IGNORECASE)
_TRAILING = re.compile(rf"(?:\A|(?<=[.?!:\n]))\s*{_EDGE}+\Z", re.IGNORECASE)
_INTRODUCTION = re.compile(r"\s*((?:This|These|Here)\b[^<>\n]*?\bimages?\b[^<>\n]*:)\s*"
                           r"(?=(?:image \d+: ?)?<(?:video|image)>)", re.IGNORECASE)


@dataclass(frozen=True)
class Conversation:
    """A conversation without tags.

    Attributes:
        messages: Alternating user and assistant turns; no `<image>` yet, see `in_front`.
        system: Text of the system turn, empty where there is none.
        introduction: The sentence before the images that was left out, empty where there is none.
    """

    messages: tuple[Message, ...]
    system: str = ""
    introduction: str = ""


def read_conversation(turns: Any, images: int, numbers: Sequence[int] | None = None) -> Conversation:
    """Read the turns of a record.

    Args:
        turns: A list of objects with `from` and `value`, or `role` and `content`, both text.
        images: How many images the record has.
        numbers: Acquisition number, from 1, of the image that each tag stands for, in the order of the tags; their own
            order where left out.

    Raises:
        Rejection: The turns are no such list, do not alternate, have no words; or the tags do not fit the images.
    """
    if not isinstance(turns, Sequence) or isinstance(turns, str | bytes) or not turns:
        raise Rejection("no conversation", f"the turns are {_short(turns)}; expected a list of objects with from and "
                                           "value, or role and content")
    pairs = [_turn(turn, number) for number, turn in enumerate(turns)]
    system = "\n".join(text for role, text in pairs if role == SYSTEM)
    if any(role == SYSTEM for role, _ in pairs[1:]):
        raise Rejection("system turn inside", "a system turn stands after the first turn; it must be the first")
    spoken = [Message(ROLES[role], text) for role, text in pairs if role != SYSTEM]
    _check_turns(spoken)
    texts, introduction = _untagged(spoken, images, numbers)
    if not all(texts):
        number = texts.index("")
        raise Rejection("empty question", f"turn {number} says nothing beside its image tags")
    messages = tuple(Message(turn.role, text) for turn, text in zip(spoken, texts, strict=True))
    return Conversation(messages, system, introduction)


def in_front(messages: Sequence[Message], images: int) -> tuple[Message, ...]:
    """The messages with one `<image>` per image and a newline before the first question, as samples have them."""
    first, *others = messages
    return Message(first.role, IMAGE * images + "\n" + first.text), *others


def _turn(turn: Any, number: int) -> tuple[str, str]:
    """Role and text of a turn."""
    if not isinstance(turn, Mapping):
        raise Rejection("no conversation", f"turn {number} is {_short(turn)}, no object")
    for role_key, text_key in KEYS:
        if role_key in turn and text_key in turn:
            break
    else:
        raise Rejection("no conversation", f"turn {number} has the keys {', '.join(map(str, turn))}; expected from and "
                                           "value, or role and content")
    role, text = turn[role_key], turn[text_key]
    name = str(role).strip().lower()
    if name != SYSTEM and name not in ROLES:
        raise Rejection("unknown role", f"turn {number} is by {role!r}; allowed: {', '.join((*ROLES, SYSTEM))}")
    if not isinstance(text, str):
        raise Rejection("no conversation", f"the text of turn {number} is {_short(text)}, no text")
    return name, text


def _check_turns(turns: Sequence[Message]) -> None:
    """Questions and answers in turn, each with words."""
    expected: list[Role] = ["user", "assistant"] * (len(turns) // 2)
    roles = [turn.role for turn in turns]
    if not roles or roles != expected:
        raise Rejection("turns do not alternate", f"the turns are by {', '.join(roles) or 'nobody'}; expected user, "
                                                  "assistant, user, ..., and an answer at the end")
    for number, turn in enumerate(turns):
        if not turn.text.strip():
            what = "question" if turn.role == "user" else "answer"
            raise Rejection(f"empty {what}", f"turn {number} has no words")
        if turn.role == "assistant" and _TAG.search(turn.text):
            raise Rejection("image tag in an answer", f"turn {number} holds {_TAG.findall(turn.text)[0]}")


def _untagged(turns: Sequence[Message], images: int, numbers: Sequence[int] | None) -> tuple[list[str], str]:
    """Texts without tags, and the introduction that was left out."""
    tags = [tag for turn in turns for tag in _TAG.findall(turn.text)]
    if tags and len(tags) != images and tags != [VIDEO]:
        listed = ", ".join(tags[:4]) + (", ..." if len(tags) > 4 else "")
        raise Rejection("tags and images differ", f"the questions hold {len(tags)} image tags ({listed}) and the "
                                                  f"record has {images} images")
    names = [_all(images)] if tags == [VIDEO] else [f"Image {number}" for number in numbers or range(1, images + 1)]
    first, introduction, (lead, tail) = _bare(turns[0].text)
    texts, names = [_named(first, names[lead:])], names[lead + len(_TAG.findall(first)) + tail:]
    for turn in turns[1:]:
        opening = _LEADING.match(turn.text)
        text = f"{opening[0].strip()}: {turn.text[opening.end():]}" if opening else turn.text
        texts.append(_named(text, names))
        names = names[len(_TAG.findall(turn.text)):]
    return texts, introduction


def _bare(text: str) -> tuple[str, str, tuple[int, int]]:
    """The first question without introduction and tags at its ends; the introduction; tags left out (front, end)."""
    opening = _INTRODUCTION.match(text)
    rest = text[opening.end():] if opening else text
    lead = _LEADING.match(rest)
    rest = rest[lead.end():] if lead else rest
    tail = _TRAILING.search(rest)
    counts = len(_TAG.findall(lead[0])) if lead else 0, len(_TAG.findall(tail[0])) if tail else 0
    return (rest[:tail.start()] if tail else rest).strip(), opening[1] if opening else "", counts


def _named(text: str, names: Sequence[str]) -> str:
    """The text with a name in the place of each tag."""
    for name in names[:len(_TAG.findall(text))]:
        text = _TAG.sub(name, text, count=1)
    return text.strip()


def _all(images: int) -> str:
    """What a `<video>` tag inside a sentence stands for."""
    return "Image 1" if images == 1 else f"Images 1 to {images}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
