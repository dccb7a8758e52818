"""The task tags of GeoChat and VRSBench: `[refer]`, `[identify]`, `[grounding]`, `[vqa]`, `[caption]` before a question.

A tag tells one model what kind of answer is expected. Ours is told in words, so tags are taken off, and the bare phrase that
may be left after `[refer]` or `[identify]` gets the words of a question (MiniGPT-v2, arXiv 2310.09478, whose wordings GeoChat
took over, has such bare forms).
"""

import re
from typing import Any

from geotempo.data_builders.wordings import ask

TAGS = {"refer": "change_grounding", "identify": "region_caption", "grounding": "caption", "caption": "caption", "vqa": "vqa"}
"""Our task by tag."""
_TAG = re.compile(r"^((?:\s|<image>|<video>)*)\[(refer|identify|grounding|caption|vqa)\]\s*", re.IGNORECASE)
_BOX = re.compile(r"\{\s*<[\d.]+>|\[\d+, ?\d+, ?\d+, ?\d+\]|<regions?:")
_DESCRIBES = re.compile(r"\b(?:describe|caption|depict|summari[sz]e|description)\b", re.IGNORECASE)
_CLASSIFIES = re.compile(r"\bclassif|\b(?:which|what) (?:scene |land )?(?:class|category|scene)\b|\bfollowing (?:classes|scenes|categories)",
                         re.IGNORECASE)
_ASKS = re.compile(r"\?|\b(?:where|what|which|locat\w+|find|give|tell|show|box(?:es)?|identify|describe|detect)\b", re.IGNORECASE)


def split_tag(text: str) -> tuple[str, str]:
    """A question without its tag.

    Returns:
        (text, tag in small letters without brackets, empty where there is none); image tags in front stay.
    """
    match = _TAG.match(text)
    return (match[1] + text[match.end():], match[2].lower()) if match else (text, "")


def geochat_task(turns: Any) -> str:
    """Our task of a conversation: that of its tag, else what its first question and answer look like."""
    texts = [str(turn.get("value", turn.get("content", ""))) for turn in turns or () if isinstance(turn, dict)]
    question, answer = (*texts, "", "")[:2]
    text, tag = split_tag(question)
    if tag:
        return TAGS[tag]
    if _BOX.search(answer):
        return "caption" if _DESCRIBES.search(text) else "change_grounding"
    if _BOX.search(text):
        return "region_caption" if _DESCRIBES.search(text) else "region_vqa"
    if _DESCRIBES.search(text):
        return "caption"
    return "classification" if _CLASSIFIES.search(text) else "vqa"


def in_words(question: str, tag: str, sample_id: str) -> str:
    """A question that is one without its tag.

    Args:
        question: Without tag, placeholders in place.
        tag: From `split_tag`.
        sample_id: Chooses the wording.
    """
    bare = question.strip().rstrip(".")
    if tag == "refer" and not _ASKS.search(bare):
        return ask("grounding", sample_id, phrase=bare)
    if tag == "identify" and re.fullmatch(r"<region:\d+>", bare):
        return ask("region_caption", sample_id).replace("<region:0>", bare)
    return question
