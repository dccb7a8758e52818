"""From a request to what the model reads.

Images go in in time order, each after a header that says what is known of it: `Image 2 (2021-08-03, Sentinel-2, 10 m): `.
Unknown facts are left out. The result is a list of chat messages in the form that OpenAI clients, vLLM and
transformers share, so every engine renders the same prompt.

A TEOChat checkpoint is asked in the words that it was trained with: a sentence that introduces the sequence, then
`Image 1: <image>Image 2: <image>` without blanks between, no dates (they only sort), boxes as 0-100 of the image.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from geotempo.model import answer
from geotempo.model.convention import GEOTEMPO, Convention
from geotempo.model.predictor import Request
from geotempo.model.records import Frame, ImageRecord, Region, TimeOrder, time_order

_REGION = re.compile(r"<region:(\d+)>")

VIDEO = "<video>"
"""Where TEOChatlas puts the images of a record into its question."""


@dataclass(frozen=True)
class Prompt:
    """A rendered request.

    Attributes:
        messages: Chat messages; a user turn's content is a list of `{"type": "text"|"image", ...}` parts.
        images: RGB pictures in the order of the image parts (time order), padded to squares but in `teochat` mode.
        frames: What 0-1000 spans on the first image of each acquisition, for the answer grammar.
        order: How the request's images are numbered.
    """

    messages: list[dict[str, Any]]
    images: list[Image.Image]
    frames: tuple[Frame, ...]
    order: TimeOrder


def frames_of(images: Sequence[ImageRecord], convention: Convention = GEOTEMPO) -> tuple[Frame, ...]:
    """Frame of each acquisition, in time order; `frames[k - 1]` belongs to `Image k`.

    Args:
        images: Of one request, in any order.
        convention: How the model that answers counts coordinates.
    """
    order = time_order(images)
    count = max(order.numbers, default=0)
    first = [images[order.index_of(number)] for number in range(1, count + 1)]
    return tuple(convention.frame(image.width, image.height) for image in first)


def header(image: ImageRecord, number: int) -> str:
    """`Image k (date, sensor, view, gsd): ` with the unknown left out.

    The GSD is written in metres with at most two decimals, the mean of x and y.
    """
    gsd = f"{sum(image.gsd) / 2:.2f}".rstrip("0").rstrip(".") + " m" if image.gsd else None
    facts = [str(fact) for fact in (image.date, image.sensor, image.view, gsd) if fact]
    return f"Image {number} ({', '.join(facts)}): " if facts else f"Image {number}: "


def letterbox(picture: Image.Image) -> Image.Image:
    """Pad a picture at the right or bottom with mid-grey to a square; the origin stays where it is."""
    side = max(picture.size)
    if picture.size == (side, side):
        return picture
    square = Image.new("RGB", (side, side), (128, 128, 128))
    square.paste(picture, (0, 0))
    return square


def shown_sizes(images: Sequence[ImageRecord], convention: Convention = GEOTEMPO) -> list[tuple[int, int]]:
    """(width, height) in pixels of the pictures that `render` makes of these images, in its order, without decoding any."""
    ordered = [images[index] for index in time_order(images).order]
    if convention.mode == "geotempo":  # letterboxed
        return [(max(image.width, image.height),) * 2 for image in ordered]
    return [(image.width, image.height) for image in ordered]


def fill_regions(text: str, regions: Sequence[Region], frames: Sequence[Frame], mode: answer.Mode = "geotempo") -> str:
    """Replace each `<region:i>` by the text form of region i."""
    return _REGION.sub(lambda match: answer.format_region(regions[int(match.group(1))], frames, mode), text)


def render(request: Request, convention: Convention = GEOTEMPO, *, pictures: bool = True) -> Prompt:
    """Render a request.

    Args:
        request: Images in any order, question, regions named in it.
        convention: How the model that answers is asked.
        pictures: Decode the images and bring them to the shape the model expects; False where only the text is needed.

    Raises:
        InputError: An image cannot be read, or a region lies on an image that is not there.
    """
    order, frames = time_order(request.images), frames_of(request.images, convention)
    question = fill_regions(request.question, request.regions, frames, convention.mode)
    if convention.mode == "teochat":
        parts = _teochat_parts(request.images, order, question)
    else:
        parts = _parts(request.images, order, question)
    shown = [request.images[index].rgb() for index in order.order] if pictures else []
    if convention.mode == "geotempo":
        shown = [letterbox(picture) for picture in shown]
    return Prompt([{"role": "user", "content": parts}], shown, frames, order)


def _parts(images: Sequence[ImageRecord], order: TimeOrder, question: str) -> list[dict[str, Any]]:
    """A header and an image, line by line, then the question."""
    parts: list[dict[str, Any]] = []
    for position, index in enumerate(order.order):
        text = ("\n" if position else "") + header(images[index], order.numbers[index])
        parts += [{"type": "text", "text": text}, {"type": "image"}]
    parts.append({"type": "text", "text": ("\n" if parts else "") + question})
    return parts


def _teochat_parts(images: Sequence[ImageRecord], order: TimeOrder, question: str) -> list[dict[str, Any]]:
    """TEOChat's prompt (its `run_inference_single` with `prompt_strategy="interleave"` and `chronological_prefix`).

    A question that holds `<video>`, as the records of TEOChatlas do, keeps its own introduction; any other one gets
    the sentence that TEOChatlas has for that number of images.
    """
    if VIDEO not in question:
        question = f"{_teochat_introduction(images)} {VIDEO}\n{question}" if images else question
    before, _, after = question.replace("times:", "times in chronological order:").partition(VIDEO)
    parts: list[dict[str, Any]] = []
    for position in range(len(order.order)):
        text = ("" if position else before) + f"Image {position + 1}: "
        parts += [{"type": "text", "text": text}, {"type": "image"}]
    return [*parts, {"type": "text", "text": after if parts else before + after}]


def _teochat_introduction(images: Sequence[ImageRecord]) -> str:
    """The sentence before the images; names the sensor where all images share one."""
    sensors = {image.sensor for image in images}
    sensor = next(iter(sensors)) if len(sensors) == 1 else None
    origin = f" from {sensor}" if sensor else ""
    if len(images) == 1:
        return f"This is a satellite image{origin}:"
    kind = "These are two satellite images" if len(images) == 2 else "This is a sequence of satellite images"
    return f"{kind}{origin} capturing the same location at different times:"
