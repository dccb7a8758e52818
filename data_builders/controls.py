"""Control samples of pairs: the same image twice, or time turned round, with the answers that are then right.

A model that only learned that pairs have changed keeps finding changes where both images are the same (`identical`), and one
that does not look which image is which keeps saying what was built where it was demolished (`swapped`). A control is made only
where its answer is certain, which the wording of the question tells, or for CDVQA its type: other questions that are not from
`prompts.yaml` have none.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from geotempo.data_builders.label_states import INTACT, image_list
from geotempo.data_builders.levir import UNCHANGED
from geotempo.data_builders.render import TRANSITION
from geotempo.data_builders.sample import IMAGE, REGION, REGIONS, Message, Sample
from geotempo.data_builders.wordings import Asked, recognise
from geotempo.model.errors import InputError
from geotempo.model.records import ImageRecord, Region

CONTROLS: Final = ("identical", "swapped")
_DOUBTS = ("flags", "left_out", "buildings", "references", "flag_mask_disagreement")
_EMPTY = "<regions:>"
_OPPOSITE = {"built": "demolished", "demolished": "built"}
_LABELS = {"new": "demolished", "demolished": "new"}
_PHRASES = ("phrase.changed", "phrase.event", "phrase.from_to")


def _unmatched(phrase: str) -> str | None:
    """The empty list for a phrase that nothing on two equal images matches."""
    asked = recognise(phrase, (*_PHRASES, "phrase.damage"))
    return None if asked is None or asked.fields.get("level") in INTACT else _EMPTY


_IDENTICAL: Final[dict[str, Callable[[Asked], str | None]]] = {
    "change_caption": lambda asked: UNCHANGED[0],
    "change_segmentation.joint": lambda asked: f"{UNCHANGED[0]}\n{_EMPTY}",
    "referring_segmentation": lambda asked: _unmatched(asked.fields["phrase"]),
    "counting.damage": lambda asked: None if asked.fields["level"] in INTACT else "0",
    "damage.region": lambda asked: re.split(", | or ", next(iter(asked.fields.values())))[0],
    "temporal_referring.intact": lambda asked: image_list([1, 2]),
    **dict.fromkeys(("change_vqa.any", "change_vqa.things", "change_vqa.event", "change_vqa.damage"), lambda asked: "no"),
    **dict.fromkeys(("change_vqa.ratio", "change_vqa.ratio_to", "counting.changed", "counting.event"), lambda asked: "0"),
    **dict.fromkeys(("change_grounding", "change_grounding.event", "change_grounding.damage", "change_segmentation",
                     "change_segmentation.event", "semantic_change"), lambda asked: _EMPTY),
}
"""The right answer about two equal images by the name of the wording; None where it depends."""

_UNCHANGED_TYPES: Final = {"change_or_not": "no", "increase_or_not": "no", "decrease_or_not": "no", "change_ratio": "0",
                           "change_ratio_types": "0"}
"""Answers about two equal images by CDVQA's type of question, which its samples have in `meta["question_type"]`."""

_ASKS_UNCHANGED = re.compile(r"non-change|unchanged|not changed", re.IGNORECASE)

_SAME: Final = ("change_vqa.any", "change_vqa.things", "change_vqa.ratio", "change_grounding", "change_segmentation",
                "counting.changed", "semantic_change")
"""Wordings whose question and answer hold in either direction, but for the images and labels of the regions."""

_TURNED: Final = {
    "region_vqa.became": "region_vqa.was", "region_vqa.was": "region_vqa.became",
    "change_vqa.most_gained": "change_vqa.most_lost", "change_vqa.most_lost": "change_vqa.most_gained",
    **{name: name for name in ("change_vqa.event", "change_grounding.event", "change_segmentation.event", "counting.event")},
}
"""Wordings whose answer is right about the opposite question in the other direction of time."""


def with_controls(samples: Iterable[Sample], names: Sequence[str]) -> Iterator[Sample]:
    """The samples, each followed by its controls, whose ids end in `@identical` and `@swapped`.

    Args:
        samples: Of any tasks; those about one pair with one question have controls where the answer is certain.
        names: Which controls, of `CONTROLS`.

    Raises:
        InputError: An unknown control.
    """
    odd = [name for name in names if name not in CONTROLS]
    if odd:
        raise InputError(f"unknown control {odd[0]!r}; allowed: {', '.join(CONTROLS)}")
    makers = [_MAKERS[name] for name in CONTROLS if name in names]
    for sample in samples:
        yield sample
        if len(sample.images) == 2 and len(sample.messages) == 2 and "control" not in sample.meta:
            yield from (made for made in (maker(sample) for maker in makers) if made is not None)


def identical(sample: Sample) -> Sample | None:
    """The sample with the first picture in both places; the second date stays.

    Args:
        sample: Two images, one question.

    Returns:
        None where the answer would not be certain.
    """
    asked = _asked(sample, tuple(_IDENTICAL))
    answer = _IDENTICAL[asked.name](asked) if asked else _of_type(sample)
    if answer is None:
        return None
    first, second = sample.images
    meta = {key: value for key, value in sample.meta.items() if key not in _DOUBTS}
    if REGIONS.search(answer):
        meta["left_out"] = 0
    if UNCHANGED[0] in answer:
        meta["references"] = list(UNCHANGED)
    regions = sample.regions if REGION.search(sample.question) else ()
    return _control(sample, "identical", (first, _at(first, second)), sample.question, answer, regions, meta)


def swapped(sample: Sample) -> Sample | None:
    """The sample with time turned round: the pictures change places, the dates stay, and with them what happened.

    Args:
        sample: Two images, one question.

    Returns:
        None where the answer would not be certain, as for captions and damage.
    """
    asked = _asked(sample, (*_SAME, *_TURNED, "referring_segmentation"))
    question = _turned_question(sample, asked) if asked else None
    if question is None:
        return None
    first, second = sample.images
    regions = tuple(replace(region, image=3 - region.image, label=_turned_label(region)) for region in sample.regions)
    return _control(sample, "swapped", (_at(second, first), _at(first, second)), question, sample.target, regions, sample.meta)


_MAKERS: Final = {"identical": identical, "swapped": swapped}


def _asked(sample: Sample, names: Sequence[str]) -> Asked | None:
    """How the sample's question was made, where that is one of these wordings of its task."""
    return recognise(sample.question, tuple(name for name in names if name.partition(".")[0] == sample.task))


def _of_type(sample: Sample) -> str | None:
    """The answer about two equal images that the type of a question in its own words tells."""
    if sample.task != "change_vqa" or _ASKS_UNCHANGED.search(sample.question):
        return None
    return _UNCHANGED_TYPES.get(str(sample.meta.get("question_type")))


def _turned_question(sample: Sample, asked: Asked) -> str | None:
    """The question that the sample's answer answers when time is turned round."""
    if asked.name in _SAME:
        return sample.question
    if asked.name in _TURNED:
        turned = _turned(asked)
        return turned.text if turned else None
    phrase = recognise(asked.fields["phrase"], _PHRASES)
    turned = _turned(phrase) if phrase else None
    return replace(asked, fields={"phrase": turned.text}).text if turned else None


def _turned(asked: Asked) -> Asked | None:
    """The wording about the other direction of time; None where what happened has no opposite."""
    fields = dict(asked.fields)
    if "done" in fields:
        if fields["done"] not in _OPPOSITE:
            return None
        fields["done"] = _OPPOSITE[fields["done"]]
    if "before" in fields:
        fields.update(before=asked.fields["after"], after=asked.fields["before"])
    return replace(asked, name=_TURNED.get(asked.name, asked.name), fields=fields)


def _turned_label(region: Region) -> str:
    """`b -> a` for `a -> b`, `demolished` for `new` and the other way round."""
    before, arrow, after = region.label.partition(TRANSITION)
    if arrow:
        return f"{after}{TRANSITION}{before}"
    first, blank, rest = region.label.partition(" ")
    return f"{_LABELS.get(first, first)}{blank}{rest}"


def _at(picture: ImageRecord, place: ImageRecord) -> ImageRecord:
    """A picture at another picture's place in time."""
    return replace(picture, date=place.date, acquisition=place.acquisition)


def _control(sample: Sample, name: str, images: tuple[ImageRecord, ...], question: str, answer: str,
             regions: tuple[Region, ...], meta: dict[str, Any]) -> Sample:
    messages = (Message("user", IMAGE * len(images) + "\n" + question), Message("assistant", answer))
    return replace(sample, id=f"{sample.id}@{name}", images=images, messages=messages, regions=regions,
                   meta={**meta, "control": name})
