"""`Sample`: one question about an image sequence with its answer, geometry kept structured.

A sample becomes text only when a prompt is rendered (`geotempo.model.prompts`), so one stored dataset trains any
coordinate convention. Message texts may hold placeholders:

- `<image>`: the next image, in the order of `images`; the renderer puts `Image k (date, sensor, gsd): ` before it.
- `<region:i>`: region i (index into `regions`) inside a sentence, for questions about a place.
- `<regions:i,j,...>`: the list of these regions as an answer; `<regions:>` is the empty list, "nothing matches".
"""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from geotempo.model.errors import InputError
from geotempo.model.records import ImageRecord, Region

Role = Literal["user", "assistant"]

TASKS = (
    "caption", "change_caption", "vqa", "change_vqa", "region_vqa", "region_caption", "change_grounding",
    "referring_segmentation", "change_segmentation", "semantic_change", "damage", "temporal_referring",
    "temporal_classification", "classification", "counting",
)

IMAGE = "<image>"
REGION = re.compile(r"<region:(\d+)>")
REGIONS = re.compile(r"<regions:((?:\d+(?:,\d+)*)?)>")


@dataclass(frozen=True)
class Message:
    """One turn: role and text with placeholders."""

    role: Role
    text: str


@dataclass(frozen=True)
class Sample:
    """One training or evaluation sample.

    Attributes:
        id: Stable and unique in the store: `dataset/split/original-id#task`.
        dataset: Name of the source.
        split: train, val or test.
        task: One of `TASKS`.
        images: 1 or more images in time order.
        messages: Alternating user and assistant turns, user first.
        regions: Structured geometry that the messages and scorers refer to, in pixels.
        meta: JSON-serialisable facts: `licence` always; `references` (list of str) where several answers are right;
            `left_out` where a cap dropped regions; flags of the builder.
    """

    id: str
    dataset: str
    split: str
    task: str
    images: tuple[ImageRecord, ...]
    messages: tuple[Message, ...]
    regions: tuple[Region, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise InputError(f"sample {self.id!r}: unknown task {self.task!r}; allowed: {', '.join(TASKS)}")
        roles = [message.role for message in self.messages]
        if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
            raise InputError(f"sample {self.id!r}: turns must alternate user, assistant; got {roles}")
        count = sum(message.text.count(IMAGE) for message in self.messages)
        if count != len(self.images):
            raise InputError(f"sample {self.id!r}: {count} {IMAGE} placeholders for {len(self.images)} images")
        named = [int(i) for message in self.messages for i in region_indices(message.text)]
        if any(i >= len(self.regions) for i in named):
            raise InputError(f"sample {self.id!r}: a placeholder names region {max(named)} of {len(self.regions)}")

    @property
    def question(self) -> str:
        """Text of the last user turn, without image placeholders."""
        return self.messages[-2].text.replace(IMAGE, "").strip()

    @property
    def target(self) -> str:
        """Text of the last assistant turn, placeholders in place."""
        return self.messages[-1].text

    @property
    def target_regions(self) -> tuple[Region, ...] | None:
        """Regions that the last assistant turn lists; None when it lists none at all (not even an empty list)."""
        match = REGIONS.search(self.target)
        if match is None:
            return None
        return tuple(self.regions[int(i)] for i in match.group(1).split(",") if i)


def region_indices(text: str) -> list[int]:
    """Indices of all regions that a message text names."""
    singles = [int(i) for i in REGION.findall(text)]
    return singles + [int(i) for group in REGIONS.findall(text) for i in group.split(",") if i]


def without_regions(text: str) -> str:
    """The words of a text, without placeholders of regions and the blanks before them."""
    return re.sub(rf"[ \t]*(?:{REGION.pattern}|{REGIONS.pattern})", "", text).strip()
