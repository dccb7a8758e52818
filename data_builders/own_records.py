"""Records of a user's own conversations in four formats, told apart by their keys and brought to one form.

| format | turns | images |
|---|---|---|
| `llava` | `conversations: [{"from", "value"}]` | `image`: a path or a list (also `images`) |
| `teochat` | the same | `video`: a list of image paths, with `timestamp` |
| `swift` | `messages`, or `query`, `response`, `history`, `system` | `images`: paths; boxes in `objects`, `<bbox>` in the text |
| `openai` | `messages: [{"role", "content": text or parts}]` | parts `image_url`: a data URL or a path |

ms-swift: Zhao et al. 2024, arXiv:2408.05517, and its "Custom dataset" page; OpenAI: the chat format of fine-tuning files.
"""

import base64
import binascii
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image

from geotempo.data_builders.instructions import locate
from geotempo.data_builders.own_boxes import Objects, read_objects, with_names
from geotempo.data_builders.records import LINES, Broken, stream_records
from geotempo.data_builders.sample import IMAGE
from geotempo.data_builders.schema import content_id
from geotempo.data_builders.source import FORMATS, Rejection, load_image
from geotempo.model.errors import LayoutError
from geotempo.model.records import ImageRecord

Format = Literal["llava", "teochat", "swift", "openai"]
KEYS = ("conversations", "messages", "query")
"""One of them is in every record."""

_TEXT_PARTS, _IMAGE_PARTS = ("text", "input_text", "output_text"), ("image_url", "image", "input_image")
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)


@dataclass(frozen=True)
class OwnRecord:
    """A record in one form.

    Attributes:
        turns: `{"role", "content"}`, text with image tags.
        images: Paths, or data URLs, in the order of the record.
        objects: Boxes beside the text.
    """

    turns: list[dict[str, Any]]
    images: tuple[str, ...]
    objects: Objects = field(default_factory=Objects)


def formats_of(record: Any) -> tuple[Format, ...]:
    """The formats that a record may be written in, the likeliest first; none where its keys fit no format."""
    if not isinstance(record, Mapping):
        return ()
    if "conversations" in record:
        if "video" in record:
            return ("teochat",)
        return ("llava",) if "image" in record or "images" in record else ("llava", "teochat")
    if "query" in record or "response" in record:
        return ("swift",)
    if not isinstance(record.get("messages"), list):
        return ()
    if any(isinstance(turn, Mapping) and isinstance(turn.get("content"), list) for turn in record["messages"]):
        return ("openai",)
    return ("swift",) if {"images", "image", "objects", "videos"} & set(record) else ("openai", "swift")


def shared_format(files: Sequence[Path], said: Format | None = None) -> Format:
    """The format that the first records of all files share.

    Args:
        files: Annotation files.
        said: The format that the user names.

    Raises:
        LayoutError: A file holds no record, or one of another format than the records before it.
    """
    shared: tuple[Format, ...] = (said,) if said else get_args(Format)
    for where, record in first_records(files):
        possible = formats_of(record)
        if not possible:
            raise LayoutError(f"{where}: {keys_of(record)}; a record has one of {', '.join(KEYS)}")
        both = tuple(kind for kind in possible if kind in shared)
        if not both:
            raise LayoutError(f"{where} is a {possible[0]} record, where {' or '.join(shared)} is expected; keep the formats in "
                              "folders of their own")
        shared = both
    return shared[0]


def first_records(files: Sequence[Path], count: int = 100) -> Iterator[tuple[str, Any]]:
    """(file and number for messages, record) of the first records of each file.

    Raises:
        LayoutError: A file holds no record, or something that is no JSON among the first ones.
    """
    for path in files:
        lines = path.suffix.lower() in LINES
        found = False
        for number, record in enumerate(islice(stream_records(path), count), 1):
            if isinstance(record, Broken):
                hint = "" if lines or not _opens_object(path) else "; a file with a record per line is named .jsonl"
                raise LayoutError(f"{record.detail}{hint}")
            found = True
            yield f"{path.name}, {'line' if lines else 'record'} {number}", record
        if not found:
            raise LayoutError(f"{path} holds no record; expected a JSON array of them, or one per line in a file named .jsonl")


def keys_of(record: Any) -> str:
    """What a record looks like, for messages."""
    if isinstance(record, Mapping):
        return f"a record has the keys {', '.join(map(str, record))}"
    return f"a record is {str(record)[:60]!r}"


def _opens_object(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(64).lstrip().startswith(b"{")


def read_record(record: Mapping[str, Any], kind: Format) -> OwnRecord:
    """A record in one form.

    Args:
        record: As parsed from JSON.
        kind: Its format.

    Raises:
        Rejection: It is not written in this format, or holds a video or sound file.
    """
    if kind not in formats_of(record):
        raise Rejection("mixed formats", f"a record has the keys {', '.join(map(str, record))} and is no {kind} record, as the others "
                                         "are; put it into a file of its own folder")
    if record.get("videos") or record.get("audios") or isinstance(record.get("video"), str):
        raise Rejection("no image", "the record names a video or sound file; give its frames as images")
    if kind == "openai":
        return _from_parts(record["messages"])
    if kind == "swift":
        objects = read_objects(record.get("objects"))
        return OwnRecord(with_names(_swift_turns(record), objects.names), _paths(record.get("images", record.get("image"))), objects)
    images = record.get("video") if kind == "teochat" else record.get("image", record.get("images"))
    return OwnRecord(record["conversations"], _paths(images))


def open_image(name: str, places: Sequence[Path], **facts: Any) -> ImageRecord:
    """The image that a record names.

    Args:
        name: Path (absolute, below one of the places, or with leading folders of another machine), `file://` or data URL. A path
            whose first folder is there is never shortened: what is left may be another image.
        places: Folders.
        **facts: Further fields of `ImageRecord`.

    Raises:
        Rejection: It is missing, remote or broken.
    """
    if _DATA_URL.match(name):
        return _decoded(name, **facts)
    if re.match(r"(?:https?|s3|gs|ftp)://", name, re.IGNORECASE):
        raise Rejection("remote image", f"{name[:80]} is not on this machine; download it and give its path")
    path = name.removeprefix("file://")
    if os.path.isabs(path) and os.path.isfile(path):
        return load_image(Path(path), **facts)
    first = path.replace("\\", "/").split("/")[0]
    there = any(os.path.isdir(place / first) for place in places) if first else False
    if there and not any(os.path.isfile(place / path) for place in places):
        raise Rejection("missing image", f"{path} is not below {', '.join(map(str, places))}, although {first} is")
    return load_image(locate(path, places), **facts)


def _paths(given: Any) -> tuple[str, ...]:
    """Image names of a record: one, several, or objects with a path."""
    entries = [] if given is None else given if isinstance(given, list) else [given]
    found = [entry.get("path") or entry.get("url") if isinstance(entry, Mapping) else entry for entry in entries]
    names = tuple(name for name in found if isinstance(name, str) and name.strip())
    if len(names) < len(found):
        raise Rejection("no image", f"the images are {str(entries)[:60]}; expected a path for each")
    return names


def _swift_turns(record: Mapping[str, Any]) -> list[Any]:
    """Turns from `messages`, or from `system`, `history`, `query` and `response`."""
    if isinstance(record.get("messages"), list):
        return list(record["messages"])
    turns = [{"role": "system", "content": record["system"]}] if record.get("system") else []
    history = record.get("history") or []
    for pair in history if isinstance(history, list) else [history]:
        if not isinstance(pair, list) or len(pair) != 2:
            raise Rejection("broken record", f"an entry of history is {str(pair)[:60]!r}; expected [question, answer]")
        turns += [{"role": role, "content": text} for role, text in zip(("user", "assistant"), pair, strict=True)]
    texts = (record.get("query"), record.get("response"))
    return turns + [{"role": role, "content": text} for role, text in zip(("user", "assistant"), texts, strict=True)]


def _from_parts(messages: Sequence[Any]) -> OwnRecord:
    """OpenAI messages: text parts are joined by newlines, an image part becomes a tag in its place."""
    turns: list[dict[str, Any]] = []
    images: list[str] = []
    for turn in messages:
        content = turn.get("content") if isinstance(turn, Mapping) else None
        role = turn.get("role") if isinstance(turn, Mapping) else None
        role = "system" if role == "developer" else role
        if not isinstance(content, list):
            turns.append({"role": role, "content": content})
            continue
        texts: list[str] = []
        for part in content:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind in _TEXT_PARTS:
                texts.append(str(part.get("text", "")))
            elif kind in _IMAGE_PARTS:
                texts.append(IMAGE)
                images.append(_part_image(part))
            else:
                raise Rejection("unknown content part", f"{str(part)[:60]!r}; allowed types: {', '.join(_TEXT_PARTS + _IMAGE_PARTS)}")
        turns.append({"role": role, "content": "\n".join(texts)})
    return OwnRecord(turns, tuple(images))


def _part_image(part: Mapping[str, Any]) -> str:
    """Path or URL of an image part: `{"image_url": {"url": ...}}`, `{"image_url": ...}` or `{"image": ...}`."""
    given = part.get("image_url", part.get("image"))
    name = given.get("url") if isinstance(given, Mapping) else given
    if not isinstance(name, str) or not name.strip():
        raise Rejection("no image", f"an image part is {str(part)[:60]!r}; expected image_url with a url")
    return name


def _decoded(url: str, **facts: Any) -> ImageRecord:
    """The image of a data URL."""
    head, _, text = url.partition(",")
    try:
        data = base64.b64decode(text, validate=True)
        with Image.open(io.BytesIO(data)) as picture:
            kind, mode, (width, height) = picture.format, picture.mode, picture.size
            picture.load()
    except (binascii.Error, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise Rejection("broken image", f"a data URL {head}, of {len(text)} characters is no whole image") from None
    if kind not in FORMATS or mode.startswith(("I", "F")):
        raise Rejection("unsupported image", f"a data URL is {kind} {mode}; allowed: 8-bit {', '.join(FORMATS)}")
    return ImageRecord(id=content_id(data), width=width, height=height, data=data, **facts)
