"""What the sources of instruction sets share: finding images, time order, conversations as samples."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from geotempo.data_builders.conversations import Conversation, in_front
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Draft, Rejection
from geotempo.data_builders.text_regions import Codec, extract_turns
from geotempo.model.dates import AcquisitionDate
from geotempo.model.errors import InputError
from geotempo.model.records import Region

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
_NAMED = re.compile(rf"\b(?:(?:image|picture|frame)s? #?(\d{{1,3}})|({'|'.join(_ORDINALS)}|last|latest|later|earlier) "
                    r"(?:satellite )?(?:image|picture|frame|acquisition))\b", re.IGNORECASE)


def locate(name: Any, places: Sequence[Path]) -> Path:
    """The file of an image that a record names.

    A record's path may begin with folders of the machine where it was written, so that leading folders are left out one by one
    until the rest is found below one of the places; a file name alone is looked for only where the record has no more. Nothing
    outside the places is ever read.

    Args:
        name: Relative or absolute path, of either kind of slash.
        places: Folders, the first one that has it wins.

    Raises:
        Rejection: There is no such file, or the path climbs with `..`.
    """
    if not isinstance(name, str) or not name.strip():
        raise Rejection("no image", f"an image is named {name!r}; expected a path")
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part != "/"]
    if ".." in parts:
        raise Rejection("missing image", f"{name} leads out of its folder")
    for start in range(max(1, len(parts) - 1)):
        rest = Path(*parts[start:])
        for place in places:
            if (place / rest).is_file():
                return place / rest
    raise Rejection("missing image", f"{name} is below none of {', '.join(place.name or str(place) for place in places)}")


def read_date(text: Any) -> AcquisitionDate | None:
    """A date at the precision given; None for an empty one.

    Raises:
        Rejection: It is no date.
    """
    if text is None or not str(text).strip():
        return None
    try:
        return AcquisitionDate(str(text))
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
    word = (match[2] or "").lower()
    number = int(match[1]) if match[1] else {"earlier": 1, "last": count, "latest": count, "later": count}.get(word, 0)
    number = number or _ORDINALS.index(word) + 1
    if not 1 <= number <= count:
        raise Rejection("no such image", f"the question names {match[0]!r} and the record has {count} images")
    return number


def conversation_sample(draft: Draft, task: str, conversation: Conversation, codecs: Sequence[Codec], *,
                        number: Callable[[str], int] | None = None, extra: Iterable[Region] = (),
                        begin: Callable[[str], str] = str, finish: Callable[[str], str] = str, **meta: Any) -> Sample:
    """A conversation as one sample.

    Args:
        draft: The record.
        task: One of `TASKS`; also the tag of the id.
        conversation: From `read_conversation`.
        codecs: How its texts write geometry.
        number: From a question to the image that its boxes lie on; `image_named` where left out.
        extra: Regions that no text names; their indices stand in the meta as `polygons`.
        begin: What is still done to the first question, placeholders in place.
        finish: What is still done to the last answer.
        **meta: Further facts.

    Raises:
        Rejection: A box is impossible.
    """
    count = len(draft.images)
    messages, regions, left_out = extract_turns(conversation.messages, codecs, draft.images,
                                                number or (lambda question: image_named(question, count)))
    first, *turns, last = messages
    turns = [replace(first, text=begin(first.text)), *turns, replace(last, text=finish(last.text))]
    outlines = tuple(extra)
    facts = {"system": conversation.system, "introduction": conversation.introduction, "left_out": left_out,
             "polygons": list(range(len(regions), len(regions) + len(outlines)))}
    return Sample(draft.id(task), draft.dataset, draft.split, task, draft.images, in_front(turns, count), (*regions, *outlines),
                  {"licence": draft.licence, **draft.meta, **{name: fact for name, fact in facts.items() if fact}, **meta})

