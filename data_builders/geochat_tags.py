"""Task tags before the questions of GeoChat and VRSBench: `[refer]`, `[identify]`, `[grounding]`, `[vqa]`, `[caption]`.

A tag tells one model what kind of answer is expected. Ours is told in words, so tags are taken off, and the bare phrase
that may be left after `[refer]` or `[identify]` gets the words of a question (MiniGPT-v2, arXiv 2310.09478, whose
wordings GeoChat took over, has such bare forms).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from geotempo.data_builders.instructions import task_by_form
from geotempo.data_builders.sample import Message
from geotempo.data_builders.wordings import ask

TAGS = {"refer": "change_grounding", "identify": "region_caption", "grounding": "caption", "caption": "caption",
        "vqa": "vqa"}
"""Our task by tag."""
ASKING = ("human", "user")
_TAG = re.compile(r"^((?:\s|<image>|<video>)*)\[(refer|identify|grounding|caption|vqa)\]\s*", re.IGNORECASE)
_VERBS = "where|what|which|locate|find|give|tell|show|identify|describe|detect|provide|output|return|point"
_ASKS = re.compile(rf"\?|\blocation (?:of|for)\b|\bbounding box|^(?:please |can you |could you )?(?:{_VERBS})\b",
                   re.IGNORECASE)


def untagged(turns: Any) -> tuple[Any, list[str]]:
    """Turns without the tags of their questions; image tags in front stay.

    Args:
        turns: `{"from", "value"}` or `{"role", "content"}`, as `read_conversation` takes them; anything else stays as
            it is.

    Returns:
        (turns, the tag of every question in small letters without brackets, empty where it has none).
    """
    if not isinstance(turns, list):
        return turns, []
    done: list[Any] = []
    tags: list[str] = []
    for turn in turns:
        asks = isinstance(turn, Mapping) and str(turn.get("from", turn.get("role"))).lower() in ASKING
        key = next((key for key in ("value", "content") if asks and isinstance(turn.get(key), str)), None)
        match = _TAG.match(turn[key]) if key else None
        done.append({**turn, key: match[1] + turn[key][match.end():]} if match else turn)
        if asks:
            tags.append(match[2].lower() if match else "")
    return done, tags


def geochat_task(messages: Sequence[Message], tags: Sequence[str]) -> str:
    """Our task of a conversation about one image: by its last question's tag, else by the looks of question and answer.

    Args:
        messages: Raw, or with placeholders; a question and an answer at the end.
        tags: From `untagged`.
    """
    question, answer = messages[-2:]
    return TAGS[tags[-1]] if tags and tags[-1] else task_by_form(question.text, answer.text, 1)


def in_words(question: str, tag: str, sample_id: str) -> str:
    """A question that is one without its tag.

    Args:
        question: Without tag, placeholders in place.
        tag: Its tag, from `untagged`.
        sample_id: Chooses the wording.
    """
    bare = question.strip().rstrip(".")
    if tag == "refer" and not _ASKS.search(bare):
        return ask("grounding", sample_id, phrase=bare)
    if tag == "identify" and re.fullmatch(r"<region:\d+>", bare):
        return ask("region_caption", sample_id).replace("<region:0>", bare)
    return question
