"""What the sources of instruction sets share: finding images, time order, conversations as samples."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from geotempo.data_builders.conversations import Conversation, in_front
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Draft, Rejection
from geotempo.data_builders.text_regions import Codec, extract_turns
from geotempo.model.dates import AcquisitionDate
from geotempo.model.errors import InputError, LayoutError
from geotempo.model.records import Region

LOOKED_AT = 64
CACHED = 100_000
"""Images and dates that many records name are looked up once."""
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
_NAMED = re.compile(rf"\b(?:(?:image|picture|frame)s? #?(\d{{1,3}})|({'|'.join(_ORDINALS)}|last|latest|later|earlier) "
                    r"(?:satellite )?(?:image|picture|frame|acquisition))\b", re.IGNORECASE)

_BOX = re.compile(r"\{\s*<[\d.]+>|\[\s*\d[\d.]*(?:\s*,\s*\d[\d.]*){3}\s*\]|<regions?:")
_DESCRIBES = re.compile(r"\b(?:describ\w*|caption|depict|summari[sz]e|description)\b", re.IGNORECASE)
_CLASSIFIES = re.compile(r"\bclassif|\b(?:which|what) (?:\w+ )?(?:class|category|scene)\b"
                         r"|\bfollowing (?:classes|scenes|categories)", re.IGNORECASE)


def locate(name: Any, places: Sequence[Path]) -> Path:
    """The file of an image that a record names.

    A record's path may begin with folders of the machine where it was written, so that leading folders are left out one
    by one until the rest is found below one of the places; a file name alone is looked for only where the record has no
    more. Nothing outside the places is ever read.

    Args:
        name: Relative or absolute path, of either kind of slash.
        places: Folders, the first one that has it wins.

    Raises:
        Rejection: There is no such file, or the path climbs with `..`.
    """
    if not isinstance(name, str) or not name.strip():
        raise Rejection("no image", f"an image is named {name!r}; expected a path")
    return _located(name, tuple(places))


@lru_cache(maxsize=CACHED)
def _located(name: str, places: tuple[Path, ...]) -> Path:
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Rejection("missing image", f"{name} leads out of its folder")
    for start in range(max(1, len(parts) - 1)):
        rest = "/".join(parts[start:])
        for place in places:
            if os.path.isfile(f"{place}/{rest}"):  # tried millions of times; Path.is_file takes three times as long
                return place / rest
    listed = ", ".join(place.name or str(place) for place in places)
    raise Rejection("missing image", f"{name} is below none of {listed}")


def folders(tops: Sequence[Path]) -> list[Path]:
    """Places to look for images below: folders that are there, and the folders directly in them, for `locate`."""
    there = [top for top in tops if top.is_dir()]
    below = [folder for top in there for folder in sorted(top.iterdir()) if folder.is_dir()]
    return list(dict.fromkeys([*there, *below]))


def check_images(names: Iterable[str], places: Sequence[Path], file: str, advice: str) -> None:
    """That not every image of the first records is missing, before hours are spent on a folder without images.

    Args:
        names: An image of each of the first records.
        places: See `locate`.
        file: Annotation file, for messages.
        advice: What to do, for messages.

    Raises:
        LayoutError: None is there.
    """
    missing = None
    for name in islice(names, LOOKED_AT):
        try:
            locate(name, places)
            return
        except Rejection:
            missing = missing or name
    if missing:
        raise LayoutError(f"none of the images of the first records of {file} is there, e.g. {missing}; {advice}")


def read_date(text: Any) -> AcquisitionDate | None:
    """A date at the precision given; None for an empty one.

    Raises:
        Rejection: It is no date.
    """
    return None if text is None or not str(text).strip() else _date(str(text))


@lru_cache(maxsize=CACHED)
def _date(text: str) -> AcquisitionDate:
    try:
        return AcquisitionDate(text)
    except InputError as error:
        raise Rejection("broken date", str(error)) from None


def in_time(dates: Sequence[AcquisitionDate | None]) -> tuple[list[int], list[int]]:
    """How images are sorted.

    Args:
        dates: Of the images in the order of the record.

    Returns:
        (indices in time order, position of each image from 1). Where a date is missing the order stays.
    """
    order = list(range(len(dates)))
    known = [date for date in dates if date is not None]
    if len(known) == len(dates):
        order.sort(key=lambda index: known[index].sort_key)
    return order, [order.index(index) + 1 for index in range(len(dates))]


def image_named(question: str, count: int) -> int:
    """The image that a question about boxes speaks of: the first that it names, else the latest.

    Args:
        question: With "image 2", "the first image", "the later image".
        count: Images of the sample.

    Returns:
        Number from 1.

    Raises:
        Rejection: It names one that is not there.
    """
    match = _NAMED.search(question)
    if match is None:
        return count
    ordinals = {word: place for place, word in enumerate(_ORDINALS, 1)}
    words = {**ordinals, "earlier": 1, "later": count, "last": count, "latest": count}
    number = int(match[1]) if match[1] else words[match[2].lower()]
    if not 1 <= number <= count:
        raise Rejection("no such image", f"the question names {match[0]!r} and the record has {count} images")
    return number


def task_by_form(question: str, answer: str, images: int) -> str:
    """Our task of a question and its answer where nothing else tells it.

    Args:
        question: Raw, or with placeholders.
        answer: Likewise.
        images: How many there are.
    """
    several = images > 1
    describes = _DESCRIBES.search(question) is not None
    if _BOX.search(answer):
        return "caption" if describes and not several else "change_grounding"
    if _BOX.search(question):
        return "region_caption" if describes and not several else "region_vqa"
    if describes:
        return "change_caption" if several else "caption"
    if _CLASSIFIES.search(question):
        return "temporal_classification" if several else "classification"
    return "change_vqa" if several else "vqa"


def conversation_sample(draft: Draft, task: str, conversation: Conversation, codecs: Sequence[Codec], *,
                        number: Callable[[str], int] | None = None, extra: Iterable[Region] = (),
                        begin: Callable[[int, str], str] | None = None, finish: Callable[[str], str] = str,
                        **meta: Any) -> Sample:
    """A conversation as one sample.

    Args:
        draft: The record.
        task: One of `TASKS`; also the tag of the id.
        conversation: From `read_conversation`.
        codecs: How its texts write geometry.
        number: From a question to the image that its boxes lie on; `image_named` where left out.
        extra: Regions that no text names; their indices stand in the meta as `polygons`.
        begin: What is still done to a question, of which it is given the number from 0 and the text with placeholders.
        finish: What is still done to the last answer.
        **meta: Further facts.

    Raises:
        Rejection: A box is impossible.
    """
    count = len(draft.images)
    messages, regions, left_out = extract_turns(conversation.messages, codecs, draft.images,
                                                number or (lambda question: image_named(question, count)))
    turns = [*messages[:-1], replace(messages[-1], text=finish(messages[-1].text))]
    if begin is not None:
        turns[::2] = [replace(turn, text=begin(place, turn.text)) for place, turn in enumerate(turns[::2])]
    outlines = tuple(extra)
    facts = {"system": conversation.system, "introduction": conversation.introduction, "left_out": left_out,
             "polygons": list(range(len(regions), len(regions) + len(outlines)))}
    known = {name: fact for name, fact in facts.items() if fact}
    return Sample(draft.id(task), draft.dataset, draft.split, task, draft.images, in_front(turns, count),
                  (*regions, *outlines), {"licence": draft.licence, **draft.meta, **known, **meta})

