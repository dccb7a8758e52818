"""From a request to what the model reads.

Images go in in time order, each after a header that says what is known of it: `Image 2 (2021-08-03, Sentinel-2, 10 m): `.
Unknown facts are left out. The result is a list of chat messages in the form that OpenAI clients, vLLM and
transformers share, so every engine renders the same prompt.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from geotempo.model import answer
from geotempo.model.predictor import Request
from geotempo.model.records import Frame, ImageRecord, Region, TimeOrder, time_order

_REGION = re.compile(r"<region:(\d+)>")


@dataclass(frozen=True)
class Prompt:
    """A rendered request.

    Attributes:
        messages: Chat messages; a user turn's content is a list of `{"type": "text"|"image", ...}` parts.
        images: Square RGB pictures in the order of the image parts (time order).
        frames: What 0-1000 spans on the first image of each acquisition, for the answer grammar.
        order: How the request's images are numbered.
    """

    messages: list[dict[str, Any]]
    images: list[Image.Image]
    frames: tuple[Frame, ...]
    order: TimeOrder


def frames_of(images: Sequence[ImageRecord]) -> tuple[Frame, ...]:
    """Frame of each acquisition, in time order; `frames[k - 1]` belongs to `Image k`."""
    order = time_order(images)
    count = max(order.numbers, default=0)
    first = [images[order.index_of(number)] for number in range(1, count + 1)]
    return tuple(Frame.letterboxed(image.width, image.height) for image in first)


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


def fill_regions(text: str, regions: Sequence[Region], frames: Sequence[Frame]) -> str:
    """Replace each `<region:i>` by the text form of region i."""
    return _REGION.sub(lambda match: answer.format_region(regions[int(match.group(1))], frames), text)


def render(request: Request, *, pictures: bool = True) -> Prompt:
    """Render a request.

    Args:
        request: Images in any order, question, regions named in it.
        pictures: Decode and letterbox the images; False where only the text is needed.

    Raises:
        InputError: An image cannot be read.
    """
    order, frames = time_order(request.images), frames_of(request.images)
    parts: list[dict[str, Any]] = []
    for position, index in enumerate(order.order):
        text = ("\n" if position else "") + header(request.images[index], order.numbers[index])
        parts += [{"type": "text", "text": text}, {"type": "image"}]
    lead = "\n" if parts else ""
    parts.append({"type": "text", "text": lead + fill_regions(request.question, request.regions, frames)})
    shown = [letterbox(request.images[index].rgb()) for index in order.order] if pictures else []
    return Prompt([{"role": "user", "content": parts}], shown, frames, order)
