"""From one of a user's own records to a sample: its conversation, boxes and task, and what it says about its images."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from geotempo.data_builders.conversations import read_conversation
from geotempo.data_builders.instructions import conversation_sample, task_by_form
from geotempo.data_builders.own_boxes import bare_list, is_number, swift_codec
from geotempo.data_builders.own_records import OwnRecord
from geotempo.data_builders.sample import TASKS, Sample
from geotempo.data_builders.source import Draft, Rejection
from geotempo.data_builders.teochat_records import task_of
from geotempo.data_builders.text_regions import Codec
from geotempo.model.records import ImageRecord


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


def scene_of(images: Sequence[ImageRecord], own: OwnRecord) -> str:
    """A name for the place where the record has none: the same for all records about the same images (or the same words)."""
    text = "\n".join(sorted({image.id for image in images})) or repr(own.turns)
    return f"images-{hashlib.sha256(text.encode(errors='backslashreplace')).hexdigest()[:16]}"


def facts_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says for evaluation and for finding leaks, as entries of the meta.

    Returns:
        `references` (list of texts), `scene` and `event` (text), `footprint` ([west, south, east, north] in degrees) and
        `record_id`, each where it is there.

    Raises:
        Rejection: A footprint is none, or references are no texts.
    """
    facts: dict[str, Any] = {name: str(record[name]) for name in ("scene", "event") if record.get(name) not in (None, "")}
    if record.get("id") is not None:
        facts["record_id"] = record["id"]
    if given := record.get("references"):
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
            raise Rejection("broken references", f"references is {str(given)[:60]}; expected a list of texts")
        facts["references"] = texts
    if (corners := record.get("footprint")) is not None:
        numbers = corners if isinstance(corners, list) and all(map(is_number, corners)) else []
        if len(numbers) != 4 or not (numbers[0] < numbers[2] and -90 <= numbers[1] < numbers[3] <= 90):
            raise Rejection("broken footprint", f"footprint is {str(corners)[:60]}; expected [west, south, east, north] in degrees")
        facts["footprint"] = numbers
    return facts


def _of_image(record: Mapping[str, Any], field: str, index: int, count: int) -> Any:
    """The value of a field for one image: its own, or the one for all; None where there is none."""
    value = record.get(field)
    if isinstance(value, list):
        return value[index] if len(value) == count else None
    return value


def image_facts(record: Mapping[str, Any], index: int, count: int) -> dict[str, Any]:
    """`sensor` and `gsd` (metres) of one image as fields of `ImageRecord`.

    Raises:
        Rejection: A sensor is no text, or a sampling distance no number above 0.
    """
    sensor, gsd = _of_image(record, "sensor", index, count), _of_image(record, "gsd", index, count)
    if not isinstance(sensor, str | None):
        raise Rejection("broken sensor", f"sensor is {str(sensor)[:60]}; expected a name, or one per image")
    if gsd is not None and not (is_number(gsd) and 0 < gsd < 1e6):
        raise Rejection("broken gsd", f"gsd is {str(gsd)[:60]}; expected metres, or metres per image")
    return {"sensor": sensor or None, "gsd": None if gsd is None else (float(gsd), float(gsd))}
