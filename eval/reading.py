"""From a raw answer to the value that is scored. What a question asks for is read off the sample's true answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from geotempo.data_builders.sample import Sample, region_indices, without_regions
from geotempo.eval.metrics.text import normalise_short
from geotempo.model import answer, prompts
from geotempo.model.convention import GEOTEMPO, Convention
from geotempo.model.records import Answer, Frame, Region, Status

Value = str | float | bool | frozenset[int] | tuple[Region, ...]
UNREADABLE = (Status.REFUSED, Status.INVALID)


class Kind(StrEnum):
    """What a question asks for."""

    TEXT = "text"
    YES_NO = "yes_no"
    NUMBER = "number"
    IMAGES = "images"
    REGIONS = "regions"


@dataclass(frozen=True)
class Reading:
    """A raw answer, read.

    Attributes:
        kind: What the question asks for.
        answer: The answer as the grammar reads it.
        status: The answer's status; `invalid` also where the grammar reads it but the kind of value asked for is not
            there (a question for boxes answered by prose).
        value: Text, a number, yes as True, image numbers, regions; None where there is nothing to score, whatever the
            status (a list cut off inside its first region is `truncated` and has no value).
    """

    kind: Kind
    answer: Answer
    status: Status
    value: Value | None


def prose_of(sample: Sample) -> str:
    """The true answer's words, without its regions."""
    return without_regions(sample.target)


def references(sample: Sample) -> list[str]:
    """All right answers in words, the first one first."""
    known = [str(text) for text in sample.meta.get("references", ())]
    prose = prose_of(sample)
    return known if prose in known or not prose else [prose, *known]


def true_regions(sample: Sample) -> tuple[Region, ...]:
    """The regions that a complete answer would list.

    An answer lists a limited number of regions, and the builder counts what it left out in `left_out`. Scores are
    measured against everything that is there, so the limit costs what it costs. Outlines that stand beside the boxes (meta
    `polygons`) and regions that only a question names are no part of an answer.
    """
    named = sample.target_regions or ()
    asked = {index for message in sample.messages[:-1] for index in region_indices(message.text)}
    aside = {*sample.meta.get("polygons", ()), *asked.difference(region_indices(sample.target))}
    every = tuple(region for index, region in enumerate(sample.regions) if region.assessable and index not in aside)
    left_out = sample.meta.get("left_out", 0)
    return every if left_out and len(named) + left_out == len(every) else named


def hidden_regions(sample: Sample) -> tuple[Region, ...]:
    """Places of which the images cannot tell (cloud, no data): what is answered there is neither right nor wrong."""
    return tuple(region for region in sample.regions if not region.assessable)


def kind_of(sample: Sample) -> Kind:
    """What the sample's question asks for."""
    if sample.target_regions is not None:
        return Kind.REGIONS
    if sample.task == "temporal_referring":
        return Kind.IMAGES
    truth = normalise_short(sample.target)
    if sample.task == "counting" or (sample.task.endswith("vqa") and truth.isdecimal()):
        return Kind.NUMBER
    return Kind.YES_NO if truth in ("yes", "no") else Kind.TEXT


def frames_of(sample: Sample) -> Sequence[Frame]:
    """What the coordinates of an answer span on each acquisition of the sample."""
    return prompts.frames_of(sample.images)


def read(sample: Sample, text: str, finish_reason: str = "stop", convention: Convention = GEOTEMPO) -> Reading:
    """Read a raw answer to a sample's question.

    Args:
        sample: The sample.
        text: What the model wrote.
        finish_reason: Why it ended, `stop` or `length`.
        convention: How the model counts coordinates.

    Returns:
        A reading; never raises on any text.
    """
    kind, frames = kind_of(sample), prompts.frames_of(sample.images, convention)
    parsed = answer.parse(text, frames, mode=convention.mode, finish_reason=finish_reason)
    value = None if parsed.status in UNREADABLE else _value(kind, parsed, len(frames))
    status = Status.INVALID if value is None and parsed.status in (Status.OK, Status.REPAIRED) else parsed.status
    return Reading(kind, parsed, status, value)


def true_value(sample: Sample) -> Value | None:
    """The true answer in the form in which `read` gives an answer; None where the sample's own target is unreadable."""
    kind = kind_of(sample)
    if kind is Kind.REGIONS:
        return true_regions(sample)
    if kind is Kind.TEXT:
        return prose_of(sample)
    return _typed(kind, sample.target, len(frames_of(sample)))


def _value(kind: Kind, parsed: Answer, count: int) -> Value | None:
    if kind is Kind.REGIONS:
        return parsed.regions
    if kind is Kind.TEXT:
        return parsed.prose.strip() or None
    return _typed(kind, parsed.prose, count)


def _typed(kind: Kind, text: str, count: int) -> Value | None:
    """A number, yes or no, or image numbers from words; None where they do not say."""
    if kind is Kind.NUMBER:
        return answer.parse_number(text)
    if kind is Kind.YES_NO:
        return answer.parse_yes_no(text)
    images = answer.parse_images(text, count)
    return None if images is None else frozenset(images)
