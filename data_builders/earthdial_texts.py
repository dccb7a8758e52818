r"""Texts of EarthDial: tags, a notation of boxes, and what their way through JSON left in them.

`[changedet] [hr_rgb_temp_0.5] <image> <image> \n question`: the first tag names a task, the second a kind of image. Phrases stand in
`<ref>...</ref>`, boxes are `[[x1, y1, x2, y2, angle]]`, 0-100 of width and height and degrees, alone, one after the other
(`[[...]][[...]]`) or in `<box>...</box>` with one more bracket. Line ends are often the two characters `\n`, some texts stand in quotation
marks, one of which may be left over in the middle (`."Answer in single word.`), and a reference may be a list of texts written as JSON.

Soni et al. 2025, "EarthDial: Turning Multi-sensory Earth Observations to Interactive Dialogues", CVPR, arXiv 2412.15190. Which way
boxes are turned is not documented; it is read as in GeoChat, whose boxes are part of the set.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

from geotempo.data_builders.conversations import ROLES
from geotempo.data_builders.instructions import image_named, task_by_form
from geotempo.data_builders.source import Rejection
from geotempo.data_builders.text_regions import Codec, Found, scaled_box, turned
from geotempo.model.records import ImageRecord

TASKS: Final = ("caption", "changedet", "refer", "identify", "grounding", "treeclassify", "uhi", "vqa", "classify")
"""Tags that name a task; any other tag in front names a kind of image."""

SENSORS: Final[dict[str, dict[str, Any]]] = {
    "s1": {"sensor": "Sentinel-1", "modality": "sar"}, "s2": {"sensor": "Sentinel-2", "gsd": (10.0, 10.0)},
    "l8": {"sensor": "Landsat 8", "gsd": (30.0, 30.0)}}
"""Facts about images by the first part of the tag of their kind.

The number at its end names a class of resolution: all aerial images are `0.5`, those of NWPU VHR-10 (0.08 to 2 m) too, and thermal ones and
Sentinel-1 are `1`. Only where a satellite has one resolution is it taken for a fact.
"""

TURNS: Final = ("conversations", "conversations_internlm", "conversations_about_localization")
"""Columns that may hold a conversation, LLaVA's turns as JSON text."""

ANSWERS: Final = ("groundtruth", *(f"groundtruth{number}" for number in range(5)))
"""Columns that may hold answers to `question`."""

FACTS: Final = {"ttype": "question_type", "size_group": "size_group"}
"""Columns of test parts by which the authors report their results, and their names in the meta."""

_SPLIT = re.compile(r"(?:^|(?<=[_/-]))(test|val|valid|validation)(?=[_/-]|$)", re.IGNORECASE)
_TAGS = re.compile(r"\s*\[([A-Za-z]\w*(?:\.\d+)?)\]")
_IMAGES = re.compile(r"\s*<image>")
_STRAY = re.compile(r"\"\s*(?=Answer in)")
_BOXES = r"(?:<box>\s*)?\[\s*\[[\s\[\],]*[-+]?[\d.][\s\[\]\d.,+-]*\]\s*\](?:\s*</box>)?"
_PATTERN = re.compile(rf"<ref>(?P<label>(?:(?!</ref>).)*)</ref>(?:\s*(?P<named>{_BOXES}))?|(?P<boxes>{_BOXES})", re.DOTALL)
_ONE = re.compile(r"\[([^\[\]]*)\]")
_CHOICE = re.compile(r"\b(?:classes|options)\s*:", re.IGNORECASE)
_LATER = re.compile(r"\bpost-(?:disaster|event|change)\b", re.IGNORECASE)
_EARLIER = re.compile(r"\bpre-(?:disaster|event|change)\b", re.IGNORECASE)


def _read(match: re.Match[str], image: ImageRecord) -> list[Found]:
    """The boxes of a match, labelled with the phrase before them."""
    label = (match.group("label") or "").strip()
    found: list[Found] = []
    for one in _ONE.finditer(match.group("named") or match.group("boxes") or ""):
        numbers = [part.strip() for part in one.group(1).split(",")]
        try:
            values = [float(number) for number in numbers]
        except ValueError:
            raise Rejection("impossible box", f"[{one.group(1)}] holds something that is no number") from None
        if len(values) not in (4, 5) or not all(map(isfinite, values)):
            raise Rejection("impossible box", f"[{one.group(1)}] has {len(values)} numbers; a box has 4, or 5 with its angle")
        found.append((turned(scaled_box(numbers[:4], image, 100), values[4] if len(values) == 5 else 0.0), label))
    return found


EARTHDIAL: Final = Codec("EarthDial", _PATTERN, _read)


@dataclass(frozen=True)
class Asked:
    """A question without what stands in front of it.

    Attributes:
        text: The question.
        task: The tag of its task, empty where there is none.
        kind: The tag of its kind of image, likewise.
        images: How many image tags it had, which need not be the number of its images.
    """

    text: str
    task: str
    kind: str
    images: int

    @property
    def facts(self) -> dict[str, Any]:
        """What the kind of image says about images, for `ImageRecord`."""
        return SENSORS.get(self.kind.partition("_")[0].lower(), {})


def plain(text: str) -> str:
    r"""A text without quotation marks around it and with real line ends in the place of the two characters `\n`."""
    bare = text.strip()
    if len(bare) > 1 and bare[0] == bare[-1] == '"':
        bare = bare[1:-1]
    return _STRAY.sub(" ", bare.replace("\\n", "\n")).strip()


def read_question(text: str) -> Asked:
    """A question of EarthDial.

    Args:
        text: As stored: tags of task and kind of image, tags of the images, then the question.
    """
    rest, task, kind, images = plain(text), "", "", 0
    while (match := _TAGS.match(rest) or _IMAGES.match(rest)) is not None:
        rest = rest[match.end() :]
        name = match.group(1) if match.re is _TAGS else None
        if name is None:
            images += 1
        elif name.lower() in TASKS:
            task = name.lower()
        else:
            kind = name
    return Asked(rest.strip(), task, kind, images)


def read_references(text: Any) -> list[str]:
    """The texts of an answer: itself, or the members of a list that was written as JSON; empty ones are left out."""
    if not isinstance(text, str):
        return []
    bare = text.strip()
    if bare == "[]" or bare.startswith('["'):
        try:
            members = json.loads(bare)
        except ValueError:
            members = None
        if isinstance(members, list) and all(isinstance(member, str) for member in members):
            return [plain(member) for member in members if member.strip()]
    found = plain(text)
    return [found] if found else []


def row_turns(row: Mapping[str, Any]) -> tuple[list[dict[str, str]], list[str]]:
    """Turns of a row, and the references of its last answer.

    Raises:
        Rejection: It has neither a conversation nor a question with an answer.
    """
    text = next((row[name] for name in TURNS if row.get(name)), None)
    if text is not None:
        turns = _turns(text)
        references = read_references(turns[-1]["value"])
        if not references:
            raise Rejection("empty answer", f"the last turn is {turns[-1]['value']!r}, without words")
        return turns, references
    references = [reference for name in ANSWERS for reference in read_references(row.get(name))]
    if not isinstance(row.get("question"), str) or not references:
        raise Rejection("empty answer" if row.get("question") else "no conversation", "the row has no conversation, and no question with an answer")
    return [{"from": "human", "value": row["question"]}, {"from": "gpt", "value": references[0]}], list(dict.fromkeys(references))


def _turns(text: Any) -> list[dict[str, str]]:
    """The turns of a `conversations` column: JSON text, or as they are; a list, or an object that has it inside."""
    try:
        found = json.loads(text) if isinstance(text, str) else text
    except ValueError as error:
        raise Rejection("broken record", f"conversations is no JSON ({error})") from None
    found = found.get("conversations") if isinstance(found, Mapping) else found
    if not isinstance(found, list) or not found or not all(
            isinstance(turn, Mapping) and isinstance(turn.get("from"), str) and isinstance(turn.get("value"), str) for turn in found):
        raise Rejection("no conversation", f"conversations is {str(found)[:60]!r}; expected a list of objects with from and value")
    return [dict(turn) for turn in found]


def row_facts(row: Mapping[str, Any]) -> dict[str, str]:
    """What a row says about its question, under the names of the meta."""
    texts = {ours: plain(row[name]) for name, ours in FACTS.items() if isinstance(row.get(name), str)}
    return {name: text for name, text in texts.items() if text}


def split_of(part: str) -> str:
    """Split of a part by its path: test or val where a folder's name says so, test if both do, else train."""
    found = {match.lower() for match in _SPLIT.findall(part)}
    return "test" if "test" in found else "val" if found else "train"


def asks(turn: Mapping[str, str]) -> bool:
    """Whether a turn is a question; a system turn may stand in front, so that its place does not tell."""
    return ROLES.get(turn["from"].strip().lower()) == "user"


def boxes_on(question: str, count: int) -> int:
    """The image, from 1, that boxes of a question and its answer lie on: the one after the event, unless it names another."""
    if _LATER.search(question):
        return count
    return 1 if _EARLIER.search(question) else image_named(question, count)


def earthdial_task(asked: Asked, answer: str, images: int) -> str:
    """Our task of a question and its answer.

    Args:
        asked: The question.
        answer: As stored.
        images: Number of images.
    """
    several = images > 1
    if asked.task == "refer":
        return "change_grounding"
    if asked.task == "caption" or (asked.task == "changedet" and "semantic change" in asked.text):
        return "change_caption" if several else "caption"
    if asked.task == "identify":
        return task_by_form(f"{asked.text} <region:0>", "", images)
    if _CHOICE.search(asked.text) or asked.task in ("treeclassify", "classify"):
        return "temporal_classification" if several else "classification"
    return task_by_form(_shape(asked.text), _shape(answer), images)


def _shape(text: str) -> str:
    """A text with a placeholder for boxes, which is how `task_by_form` knows them."""
    return _PATTERN.sub(lambda match: "<region:0>" if match.group("named") or match.group("boxes") else match.group("label"), text)
