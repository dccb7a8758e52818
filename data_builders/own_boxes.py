"""Boxes in a user's own records: beside the text (ms-swift's `objects`), or in it, in one of the conventions in use.

ms-swift: a `<ref-object>` of the texts stands for the next name of `objects.ref`, a `<bbox>` for the next box of `objects.bbox`.
Qwen2-VL: `<|object_ref_start|>name<|object_ref_end|><|box_start|>(x1,y1),(x2,y2)<|box_end|>`, 0-1000; Qwen2.5-VL and later:
`[{"bbox_2d": [x1, y1, x2, y2], "label": "name"}]`, pixels or 0-1000.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from geotempo.data_builders.source import Rejection
from geotempo.data_builders.text_regions import GEOCHAT, GRID_1000, NUMBER, PIXELS, TEOCHAT, Codec, Found, scaled_box
from geotempo.model.records import ImageRecord

Boxes = Literal["none", "teochat", "geochat", "0-1000", "pixels"]
"""How the texts of a user's records write boxes."""

_LABEL = r'"label"\s*:\s*"(?P<{name}>[^"]*)"'
_IN_JSON = (rf'\{{{{\s*(?:{_LABEL.format(name="first")}\s*,\s*)?"bbox(?:_2d)?"\s*:\s*{{box}}\s*'
            rf'(?:,\s*{_LABEL.format(name="last")}\s*)?\}}}}')
_BBOX = re.compile(rf"{_IN_JSON.format(box='<bbox>')}|(?:<name>(?P<label>[^<]*)</name>\s*)?<bbox>(?:\s*<bbox>)*")
_JSON_BOX = re.compile(_IN_JSON.format(box=rf"\[(?P<box>\s*{NUMBER}(?:\s*,\s*{NUMBER})*\s*)\]"), re.IGNORECASE)
_JSON_LIST = re.compile(r'\s*(?:```(?:json)?\s*)?\[\s*(\{\s*"(?:bbox|label).*\})\s*\]\s*(?:```)?\s*', re.DOTALL)
_CORNER = rf"\(\s*{NUMBER}\s*,\s*{NUMBER}\s*\)"
_QWEN_BOX = rf"<\|box_start\|>\s*{_CORNER}\s*,\s*{_CORNER}\s*<\|box_end\|>"
_QWEN = re.compile(rf"<\|object_ref_start\|>(?P<label>[^<]*)<\|object_ref_end\|>(?P<named>(?:\s*{_QWEN_BOX})*)"
                   rf"|(?P<boxes>{_QWEN_BOX}(?:\s*{_QWEN_BOX})*)", re.IGNORECASE)
_ONE_QWEN = re.compile(_QWEN_BOX, re.IGNORECASE)
_NUMBER = re.compile(NUMBER, re.IGNORECASE)


@dataclass(frozen=True)
class Objects:
    """The `objects` of an ms-swift record.

    Attributes:
        names: For each `<ref-object>` of the texts, in order.
        boxes: For each `<bbox>`: x1, y1, x2, y2.
        end: What stands for the right and lower edge: 1 for `norm1`, None for pixels (`real`).
        images: Index of the image, in the record's order, of each box; empty where the record does not say.
    """

    names: tuple[str, ...] = ()
    boxes: tuple[tuple[float, ...], ...] = ()
    end: float | None = None
    images: tuple[int, ...] = ()


def read_objects(given: Any) -> Objects:
    """The boxes of an ms-swift record, from the present form (an object of lists) or the former one (a list of objects).

    Raises:
        Rejection: Another structure, or points instead of boxes.
    """
    if not given:
        return Objects()
    if isinstance(given, list) and all(isinstance(entry, Mapping) for entry in given):
        given = {"ref": [entry.get("caption", "") for entry in given], "bbox": [entry.get("bbox") for entry in given],
                 "bbox_type": given[0].get("bbox_type", "real"), "image_id": [entry.get("image", 0) for entry in given]}
    if not isinstance(given, Mapping) or not all(isinstance(given.get(name) or [], list) for name in ("ref", "bbox", "image_id")):
        raise Rejection("broken record", f"objects is {str(given)[:60]}; expected an object with lists ref and bbox")
    boxes, kind, images = given.get("bbox") or [], given.get("bbox_type", "real"), given.get("image_id") or []
    if kind not in ("real", "norm1"):
        raise Rejection("unknown box type", f"objects.bbox_type is {kind!r}; allowed: real (pixels), norm1 (0-1)")
    for box in boxes:
        if not isinstance(box, list) or len(box) != 4 or not all(is_number(value) for value in box):
            raise Rejection("impossible box", f"objects.bbox holds {str(box)[:60]}; a box is [x1, y1, x2, y2]")
    if images and (len(images) != len(boxes) or not all(isinstance(index, int) for index in images)):
        raise Rejection("boxes and images differ", f"objects.image_id is {str(images)[:60]} for {len(boxes)} boxes; expected the index of "
                                                   "an image for each")
    return Objects(tuple(map(str, given.get("ref") or ())), tuple(map(tuple, boxes)), 1 if kind == "norm1" else None, tuple(images))


def with_names(turns: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """The turns with each `<ref-object>` replaced by its name, in `<name>` tags where boxes follow it directly.

    Args:
        turns: `{"role", "content"}`; whatever else stands among them stays.
        names: `Objects.names`.

    Raises:
        Rejection: There are more or fewer tags than names.
    """
    rest = iter(names)
    texts = [turn["content"] if isinstance(turn, Mapping) and isinstance(turn.get("content"), str) else None for turn in turns]
    tags = sum(text.count("<ref-object>") for text in texts if text)
    if tags != len(names):
        raise Rejection("names and tags differ", f"the texts hold {tags} <ref-object> and objects.ref has {len(names)} names")

    def named(match: re.Match[str]) -> str:
        name = next(rest).replace("<", "")
        return f"<name>{name}</name>{match[1]}" if match[1] else name

    return [turn if text is None else {**turn, "content": re.sub(r"<ref-object>(\s*<bbox>)?", named, text)}
            for turn, text in zip(turns, texts, strict=True)]


def swift_codec(objects: Objects, images: Sequence[ImageRecord]) -> Codec:
    """Reads each `<bbox>` of a record's texts as its next box; one codec serves one record.

    Args:
        objects: Of the record.
        images: In the order of the record.
    """
    boxes = iter(enumerate(objects.boxes))

    def read(match: re.Match[str], image: ImageRecord) -> list[Found]:
        found: list[Found] = []
        for _ in range(match[0].count("<bbox>")):
            number, box = next(boxes, (0, None))
            if box is None:
                raise Rejection("boxes and tags differ", f"the texts hold more <bbox> than the {len(objects.boxes)} boxes of objects")
            on = objects.images[number] if objects.images else None
            if on is not None and not 0 <= on < len(images):
                raise Rejection("no such image", f"objects.image_id holds {on}; the record has {len(images)} images, counted from 0")
            found.append((scaled_box(box, image if on is None else images[on], objects.end), match["label"] or _label(match)))
        return found

    return Codec("ms-swift", _BBOX, read)


def codecs_of(boxes: Boxes) -> tuple[Codec, ...]:
    """The codecs of a convention; those of numbers in brackets also read what Qwen-VL writes, see the top of the file."""
    if boxes == "none":
        return ()
    if boxes == "geochat":
        return (GEOCHAT,)
    plain, end = {"teochat": (TEOCHAT, 100.0), "0-1000": (GRID_1000, 1000.0), "pixels": (PIXELS, None)}[boxes]

    def in_json(match: re.Match[str], image: ImageRecord) -> list[Found]:
        return [(scaled_box([part.strip() for part in match["box"].split(",")], image, end), _label(match))]

    def in_tags(match: re.Match[str], image: ImageRecord) -> list[Found]:
        return [(scaled_box(_NUMBER.findall(one), image, end), (match["label"] or "").strip())
                for one in _ONE_QWEN.findall(match["named"] or match["boxes"] or "")]

    return Codec(f"{boxes} in JSON", _JSON_BOX, in_json), Codec(f"{boxes} in tags", _QWEN, in_tags), plain


def bare_list(text: str) -> str:
    """An answer that is a JSON list of objects with a box each, without its outer brackets, so that it is read as a list."""
    match = _JSON_LIST.fullmatch(text)
    return match.group(1) if match else text


def _label(match: re.Match[str]) -> str:
    return match["last"] or match["first"] or ""


def is_number(value: Any) -> bool:
    """Whether a value of a record is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)
