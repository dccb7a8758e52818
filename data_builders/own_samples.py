"""From one of a user's own records to a sample: its conversation, boxes and task, and what it says about its images."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from geotempo.data_builders.conversations import read_conversation
from geotempo.data_builders.instructions import conversation_sample, task_by_form
from geotempo.data_builders.own_boxes import bare_list, swift_codec
from geotempo.data_builders.own_records import OwnRecord
from geotempo.data_builders.sample import TASKS, Sample
from geotempo.data_builders.source import Draft, Rejection
from geotempo.data_builders.teochat_records import task_of
from geotempo.data_builders.text_regions import Codec


def own_sample(draft: Draft, own: OwnRecord, codecs: Sequence[Codec], numbers: Sequence[int]) -> Sample:
    """The record's conversation as a sample of no particular task.

    Args:
        draft: Of the record; `format` stands in its meta.
        own: The record.
        codecs: How its texts write boxes; where it has `objects`, the boxes are there and nowhere else.
        numbers: Acquisition of each of its images, in the order of the record.

    Raises:
        Rejection: The turns are broken, a box is impossible, or `<bbox>` and boxes differ in number.
    """
    objects = own.objects
    if objects.boxes:
        codecs = (swift_codec(objects, [draft.images[number - 1] for number in numbers]),)
    talk = read_conversation(own.turns, len(draft.images), numbers)
    tags = sum(turn.text.count("<bbox>") for turn in talk.messages)
    if tags != len(objects.boxes) and (objects.boxes or draft.meta["format"] == "swift"):
        raise Rejection("boxes and tags differ", f"the texts hold {tags} <bbox> for {len(objects.boxes)} boxes of objects")
    if codecs:
        talk = replace(talk, messages=tuple(turn if turn.role == "user" else replace(turn, text=bare_list(turn.text))
                                            for turn in talk.messages))
    sample = conversation_sample(draft, "vqa", talk, codecs)
    if not objects.images:
        return sample
    placed = (replace(region, image=numbers[index]) for region, index in zip(sample.regions, objects.images, strict=True))
    return replace(sample, regions=tuple(placed))


def words_alone(draft: Draft, own: OwnRecord) -> Sample:
    """A conversation without images as a sample of no particular task; numbers in brackets stay words.

    Raises:
        Rejection: The turns are broken, or hold image tags.
    """
    talk = read_conversation(own.turns, 0)
    facts = {"system": talk.system} if talk.system else {}
    return Sample(draft.id("vqa"), draft.dataset, draft.split, "vqa", (), talk.messages, (),
                  {"licence": draft.licence, **draft.meta, **facts})


def task_like(sample: Sample, said: Any = None) -> str:
    """The task of a sample by its record, or by what its last question and answer look like.

    Args:
        sample: Of any task.
        said: The record's own word: one of `TASKS` or of TEOChatlas's names counts.
    """
    several = len(sample.images) > 1
    if said in TASKS:
        return str(said)
    if said:
        with suppress(Rejection):
            return task_of(said, len(sample.images))
    if several and re.fullmatch(r"Image \d+(?:, Image \d+)*\.?", sample.target):
        return "temporal_referring"
    if sample.target.isdecimal() and re.search(r"\bhow many\b|\bnumber of\b", sample.question, re.IGNORECASE):
        return "counting"
    if sample.target_regions is not None and not several:
        return "referring_segmentation"
    return task_by_form(sample.question, sample.target, len(sample.images))


def of_image(record: Mapping[str, Any], field: str, index: int, count: int) -> Any:
    """The value of a field for one image: its own, or the one for all; None where there is none."""
    value = record.get(field)
    if isinstance(value, list):
        return value[index] if len(value) == count else None
    return value


def gsd_of(record: Mapping[str, Any], index: int, count: int) -> tuple[float, float] | None:
    """Ground sampling distance in metres, where the record has a number."""
    value = of_image(record, "gsd", index, count)
    return (float(value), float(value)) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None
