"""Perturbed inputs that show whether a model looked at the images.

A model that answers from the question alone keeps its answers on `blank` images and does not follow the images on
`swap`; one that memorised pixels loses them on `jpeg85` or `brighter`.
"""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from PIL import Image, ImageChops

from geotempo.data_builders import render
from geotempo.data_builders.sample import REGION, Sample
from geotempo.model.errors import InputError
from geotempo.model.records import ImageRecord

JPEG_QUALITY = 85
BRIGHTER = 0.05
MID_GREY = (128, 128, 128)
CONTROLS = ("blank", "jpeg85", "brighter", "reversed", "swap")

_FURTHER = re.compile(r"-\d+$")

# Tasks whose first question about one or two images asks for everything, in one wording or another, so that the
# images alone decide the answer. Further questions (`#task-2`) and those about longer sequences may name a kind of
# change or a span of dates; they are paired only where they read the same.
_SAME_QUESTION = frozenset({"caption", "change_caption", "change_grounding", "change_segmentation", "semantic_change",
                            "classification", "temporal_classification"})


@dataclass(frozen=True)
class Asked:
    """What decides with whom a sample may exchange its images.

    Attributes:
        id: Sample id.
        group: Samples of equal group may be paired.
        target: The right answer as text; only samples with different ones are paired.
    """

    id: str
    group: tuple[object, ...]
    target: str


def perturb(images: Sequence[ImageRecord], control: str) -> tuple[ImageRecord, ...]:
    """The same acquisitions with other pixels; sizes, dates and every other fact stay.

    Args:
        images: In time order.
        control: `blank` (mid-grey), `jpeg85` (re-encoded as JPEG of quality 85), `brighter` (5 % of the range added),
            `reversed` (the pictures in the opposite order, the dates in place).

    Raises:
        InputError: An unknown control, or an image that cannot be read.
    """
    if control == "reversed":
        return with_pictures_of(images, images[::-1], control)
    if control not in _PIXELS:
        raise InputError(f"unknown control {control!r}; allowed: {', '.join(CONTROLS)}")
    return tuple(_changed(image, control) for image in images)


def with_pictures_of(images: Sequence[ImageRecord], others: Sequence[ImageRecord],
                     control: str = "swap") -> tuple[ImageRecord, ...]:
    """The acquisitions `images` (dates, sensor, ...) showing the pictures of `others`, one for one.

    What belongs to the pixel grid (size, georeference, valid pixels) comes with the pictures.

    Raises:
        InputError: The numbers of images differ.
    """
    if len(images) != len(others):
        raise InputError(f"cannot exchange the pictures of {len(images)} and {len(others)} images; the counts must "
                         "agree")
    return tuple(
        replace(image, id=f"{other.id}#{control}", width=other.width, height=other.height, data=other.data,
                path=other.path, valid=other.valid, crs=other.crs, transform=other.transform)
        for image, other in zip(images, others, strict=True)
    )


def asked(sample: Sample) -> Asked:
    """What `partners` needs to know of a sample."""
    tag = sample.id.rpartition("#")[2] if "#" in sample.id else ""
    pooled = sample.task in _SAME_QUESTION and len(sample.images) <= 2 and tag and not _FURTHER.search(tag)
    question = tag if pooled else sample.question
    places = tuple(sample.regions[int(index)] for index in REGION.findall(sample.question))
    return Asked(sample.id, (sample.dataset, sample.task, len(sample.images), question, places),
                 render.target_text(sample))


def partners(samples: Sequence[Asked]) -> dict[str, str]:
    """Pairs of samples that can exchange their images: the same question, different right answers.

    Args:
        samples: Of one task.

    Returns:
        Sample id to the id of its partner, in both directions; samples without a partner are left out. Each sample,
        in the order of ids, takes the next free one.
    """
    groups: dict[tuple[object, ...], list[Asked]] = {}
    for sample in sorted(samples, key=lambda sample: sample.id):
        groups.setdefault(sample.group, []).append(sample)
    pairs: dict[str, str] = {}
    for free in groups.values():
        while free:
            first = free.pop(0)
            place = next((i for i, other in enumerate(free) if other.target != first.target), None)
            if place is not None:
                second = free.pop(place)
                pairs[first.id], pairs[second.id] = second.id, first.id
    return pairs


def _changed(image: ImageRecord, control: str) -> ImageRecord:
    """The image with its pixels changed and encoded anew."""
    picture, target = _PIXELS[control](image.rgb()), io.BytesIO()
    if control == "jpeg85":
        picture.save(target, "JPEG", quality=JPEG_QUALITY)
    else:
        picture.save(target, "PNG")
    return replace(image, id=f"{image.id}#{control}", data=target.getvalue(), path=None)


def _blank(picture: Image.Image) -> Image.Image:
    return Image.new("RGB", picture.size, MID_GREY)


def _brighter(picture: Image.Image) -> Image.Image:
    step = round(255 * BRIGHTER)
    return ImageChops.add(picture, Image.new("RGB", picture.size, (step, step, step)))


_PIXELS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "blank": _blank, "jpeg85": lambda picture: picture, "brighter": _brighter,
}
