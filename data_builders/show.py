"""A sample as a picture."""

from PIL import Image

from geotempo.data_builders.sample import IMAGE, REGION, REGIONS, Message, Sample, region_indices
from geotempo.model.draw import PANEL_MAX, sheet
from geotempo.model.records import ImageRecord, time_order


def sample_sheet(sample: Sample, largest: int = PANEL_MAX) -> Image.Image:
    """Draw a sample as a person wants to see it.

    Regions that a message names are drawn on the acquisition they belong to (all regions where none is named, for
    example with `counting`); placeholders are put into words.

    Args:
        sample: Its images carry their bytes.
        largest: Longest side of an image on the sheet, in pixels.

    Raises:
        InputError: An image cannot be decoded.
    """
    numbers = time_order(sample.images).numbers
    named = sorted({i for message in sample.messages for i in region_indices(message.text)})
    regions = [sample.regions[i] for i in named] or list(sample.regions)
    # Views of one acquisition share its number; its regions are drawn on the first of them.
    first = {number: index for index, number in reversed(list(enumerate(numbers)))}
    by_image = [[region for region in regions if first.get(region.image) == index] for index in range(len(numbers))]
    pictures = [(image.rgb(), caption(number, image)) for number, image in zip(numbers, sample.images, strict=True)]
    references = [text for text in sample.meta.get("references", []) if text not in sample.target]
    turns = [*sample.messages]
    question = "\n".join(_words(message, sample) for message in turns[:-1])
    return sheet(pictures, by_image, question, _words(turns[-1], sample), "\n".join(references) or None, largest=largest)


def caption(number: int, image: ImageRecord) -> str:
    """`Image k · date · sensor · GSD`, as far as known."""
    parts = [f"Image {number}", str(image.date) if image.date else "no date", image.view, image.sensor]
    if image.gsd:
        parts.append(f"{sum(image.gsd) / 2:.2g} m")
    return " · ".join(part for part in parts if part)


def _words(message: Message, sample: Sample) -> str:
    """A message with its placeholders in words."""
    text = message.text.replace(IMAGE, "").strip()
    text = REGION.sub(lambda match: f"[the region drawn on Image {sample.regions[int(match[1])].image}]", text)
    return REGIONS.sub(lambda match: _list_words(match[1], sample), text)


def _list_words(indices: str, sample: Sample) -> str:
    count = len([i for i in indices.split(",") if i])
    left_out = sample.meta.get("left_out") or 0
    more = f", {left_out} more left out" if left_out else ""
    return f"[{count} region{'' if count == 1 else 's'} drawn{more}]" if count else "[none: an empty list]"
