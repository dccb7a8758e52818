"""Regions and masks on images, and the sheet that shows a whole sample or answer. PIL only.

Shapes are drawn by supersampling at the image's own scale: outlines keep a dark rim, so that they stand out from bright
roofs and from dark forest alike.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from geotempo.model.errors import InputError
from geotempo.model.files import write_atomic
from geotempo.model.geometry import BoolArray, Box, GridMask, Mask, Polygon, RotatedBox, bounds, rasterize
from geotempo.model.records import Region

Colour = tuple[int, int, int]

# Paul Tol's bright scheme, brightened: distinct for colour-blind readers and on imagery, which is green, grey and brown.
PALETTE: tuple[Colour, ...] = (
    (255, 80, 110), (60, 190, 255), (255, 215, 40), (200, 110, 255), (70, 240, 150), (255, 150, 40),
    (110, 130, 255), (255, 140, 220), (0, 225, 215), (190, 235, 60),
)
# Damage has a meaning that readers know from maps.
MEANINGS: dict[str, Colour] = {
    "no-damage": (70, 220, 110), "minor-damage": (255, 225, 50), "major-damage": (255, 145, 30),
    "destroyed": (255, 50, 70), "un-classified": (190, 190, 200),
}
INK, PAPER, FAINT = (25, 28, 33), (255, 255, 255), (105, 112, 122)
TAG_LIMIT = 16   # more labels than that hide the image; the legend names the colours instead
PANEL = 480      # side of a small image on a sheet, about
PANEL_MAX = 800  # side of a large one, at most
PER_ROW = 4


def colours(regions: Sequence[Region]) -> list[Colour]:
    """One colour per region: by label where labels differ, else by position."""
    labels = list(dict.fromkeys(region.label for region in regions))
    if len(labels) > 1 or any(label in MEANINGS for label in labels):
        free = iter(PALETTE * (len(labels) // len(PALETTE) + 1))
        by_label = {label: MEANINGS.get(label) or next(free) for label in labels}
        return [by_label[region.label] for region in regions]
    return [PALETTE[index % len(PALETTE)] for index in range(len(regions))]


def draw_regions(image: Image.Image, regions: Sequence[Region], masks: Sequence[BoolArray | None] | None = None, *,
                 scale: int = 1, palette: Sequence[Colour] | None = None, tags: bool = True) -> Image.Image:
    """Draw regions on a copy of an image: translucent fill, outline, label.

    Args:
        image: W x H picture on which the regions lie.
        regions: Those of this image; their geometry is in its pixels.
        masks: One H x W mask per region (or None), for example from SAM; drawn as the fill, the region as the outline.
        scale: Enlarge the result so many times; outlines and labels keep their size.
        palette: One colour per region; `colours(regions)` where left out.
        tags: Write labels beside the regions, unless there are more than 16 regions.

    Returns:
        RGB picture of W*scale x H*scale.
    """
    picked = list(palette) if palette is not None else colours(regions)
    resample = Image.Resampling.BICUBIC
    canvas = image.convert("RGB").resize((image.width * scale, image.height * scale), resample)
    fills = list(masks) if masks is not None else [None] * len(regions)
    for region, colour, mask in zip(regions, picked, fills, strict=True):
        canvas = _fill(canvas, _area(region, mask, image.size), colour, scale)
    pen = ImageDraw.Draw(canvas)
    width = max(1, round(min(canvas.size) / 280))
    for region, colour in zip(regions, picked, strict=True):
        _outline(pen, region, colour, scale, width)
    if tags and len(regions) <= TAG_LIMIT:
        taken: list[Box] = []
        for region, colour in zip(regions, picked, strict=True):
            _tag(pen, canvas.size, region, colour, scale, taken)
    return canvas


@dataclass(frozen=True)
class _Text:
    """A paragraph of the sheet: heading, words, colour of the words."""

    heading: str
    words: str
    colour: Colour = INK


def sheet(images: Sequence[tuple[Image.Image, str]], regions_by_image: Sequence[Sequence[Region]], question: str,
          answer: str, reference: str | None = None, *,
          masks_by_image: Sequence[Sequence[BoolArray | None] | None] | None = None, largest: int = PANEL_MAX) -> Image.Image:
    """A sample or answer as a person wants to see it: images side by side with captions, question and answer below.

    Args:
        images: Pictures in time order with a caption each ("Image 1 · 2021-08-03"), four to a row; there may be none.
        regions_by_image: Regions of each image.
        question: Text under the images.
        answer: Text under the question.
        reference: Text under the answer, for the right answer beside a predicted one.
        masks_by_image: For each image the masks of its regions, or None.
        largest: Longest side of an image on the sheet, in pixels.

    Returns:
        RGB picture.
    """
    everything = [region for regions in regions_by_image for region in regions]
    palette, start, panels = colours(everything), 0, []
    masks = masks_by_image or [None] * len(images)
    for (picture, caption), regions, fills in zip(images, regions_by_image, masks, strict=True):
        scale = max(1, round(PANEL / max(picture.size)))
        drawn = draw_regions(picture, regions, fills, scale=scale, palette=palette[start : start + len(regions)],
                             tags=len({region.label for region in everything}) > 1)
        start += len(regions)
        drawn.thumbnail((largest, largest), Image.Resampling.LANCZOS)
        panels.append(_panel(drawn, caption))
    parts = [_grid(panels)] if panels else []
    width = max([560, *(part.width for part in parts)])
    legend = _legend(everything, palette, width)
    parts += [legend] if legend else []
    texts = [_Text("Question", question), _Text("Answer", answer)]
    texts += [_Text("Reference", reference, FAINT)] if reference else []
    parts += [_paragraph(text, width) for text in texts]
    return _stack(parts, width)


def wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> list[str]:
    """Break text into lines of at most `width` pixels; words longer than a line are broken inside."""
    lines = []
    for paragraph in text.splitlines() or [""]:
        line = ""
        for word in paragraph.split(" "):
            candidate = f"{line} {word}" if line else word
            if font.getlength(candidate) <= width:
                line = candidate
                continue
            lines += [line] if line else []
            line = word
            while font.getlength(line) > width and len(line) > 1:
                cut = max(1, bisect_right(range(1, len(line)), width, key=lambda n: font.getlength(line[:n])))
                lines.append(line[:cut])
                line = line[cut:]
        lines.append(line)
    return lines


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _area(region: Region, mask: BoolArray | None, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Pixels to fill: the mask, else the geometry; nothing for a box, whose inside is mostly not the object."""
    if mask is not None:
        return mask.astype(np.bool_)
    if isinstance(region.geometry, Box):
        return np.zeros((size[1], size[0]), dtype=np.bool_)
    return rasterize(region.geometry, size[1], size[0])


def _fill(canvas: Image.Image, area: npt.NDArray[np.bool_], colour: Colour, scale: int) -> Image.Image:
    """Lay a translucent colour over an area, with a crisp edge of one source pixel."""
    if not area.any():
        return canvas
    edge = area & ~ndimage.binary_erosion(area, border_value=0)
    alpha = np.where(edge, 215, np.where(area, 85, 0)).astype(np.uint8)
    cover = Image.fromarray(alpha).resize((area.shape[1] * scale, area.shape[0] * scale), Image.Resampling.NEAREST)
    canvas.paste(Image.new("RGB", canvas.size, colour), mask=cover)
    return canvas


def _outline(pen: ImageDraw.ImageDraw, region: Region, colour: Colour, scale: int, width: int) -> None:
    """Outline of a box, rotated box or polygon; a mask or grid shows its own edge."""
    match region.geometry:
        case Mask() | GridMask():
            return
        case Box():
            x1, y1, x2, y2 = region.geometry.as_tuple()
            rings: tuple[tuple[tuple[float, float], ...], ...] = (((x1, y1), (x2, y1), (x2, y2), (x1, y2)),)
        case RotatedBox():
            rings = (region.geometry.corners(),)
        case Polygon():
            rings = (region.geometry.exterior, *region.geometry.holes)
    for ring in rings:
        # The last pixel of a half-open box is one before its edge.
        points = [(min(x * scale, _last(pen)[0]), min(y * scale, _last(pen)[1])) for x, y in ring]
        closed = [*points, points[0], points[1]]
        if isinstance(region.geometry, Box):
            pen.line(closed, fill=(0, 0, 0), width=width + 2, joint="curve")
        pen.line(closed, fill=colour, width=width, joint="curve")


def _last(pen: ImageDraw.ImageDraw) -> tuple[int, int]:
    width, height = pen.im.size
    return width - 1, height - 1


def _tag(pen: ImageDraw.ImageDraw, size: tuple[int, int], region: Region, colour: Colour, scale: int,
         taken: list[Box]) -> None:
    """Label above the region, or below where there is no room; left out where it would cover another label."""
    if not region.label:
        return
    font = _font(max(11, min(size) // 40))
    text = _short(region.label, 28)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 6, bottom - top + 5
    box = bounds(region.geometry)
    x = min(max(0.0, box.x1 * scale), size[0] - width)
    for y in (box.y1 * scale - height - 2, box.y2 * scale + 2):
        spot = Box(x, y, x + width, y + height)
        if y >= 0 and y + height <= size[1] and not any(_overlap(spot, other) for other in taken):
            taken.append(spot)
            pen.rectangle(spot.as_tuple(), fill=INK)
            pen.text((x + 3 - left, y + 2 - top), text, font=font, fill=colour)
            return


def _short(label: str, limit: int) -> str:
    """A label on one line and of limited length."""
    line = " ".join(label.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _overlap(first: Box, second: Box) -> bool:
    return first.x1 < second.x2 and second.x1 < first.x2 and first.y1 < second.y2 and second.y1 < first.y2


def _panel(picture: Image.Image, caption: str) -> Image.Image:
    font = _font(17)
    lines = wrap(caption, font, picture.width)
    panel = Image.new("RGB", (picture.width, picture.height + 8 + 23 * len(lines)), PAPER)
    ImageDraw.Draw(panel).multiline_text((1, 1), "\n".join(lines), font=font, fill=INK, spacing=5)
    panel.paste(picture, (0, panel.height - picture.height))
    return panel


def _grid(panels: Sequence[Image.Image]) -> Image.Image:
    """Panels side by side, four to a row; several rows where there are more."""
    columns = min(PER_ROW, len(panels))
    gap, cell = 14, max(panel.width for panel in panels)
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    heights = [max(panel.height for panel in row) for row in rows]
    grid = Image.new("RGB", (columns * cell + (columns - 1) * gap, sum(heights) + gap * (len(rows) - 1)), PAPER)
    y = 0
    for row, height in zip(rows, heights, strict=True):
        for column, panel in enumerate(row):
            grid.paste(panel, (column * (cell + gap), y + height - panel.height))
        y += height + gap
    return grid


def _legend(regions: Sequence[Region], palette: Sequence[Colour], width: int) -> Image.Image | None:
    """Swatches of the labels with their number of regions, where labels differ or are hidden by their number."""
    shown: dict[str, tuple[Colour, int]] = {}
    for region, colour in zip(regions, palette, strict=True):
        shown[region.label] = (colour, shown.get(region.label, (colour, 0))[1] + 1)
    if len(shown) < 2:
        return None
    font, x, y, row = _font(15), 0.0, 0, 26
    places = []
    order = [*MEANINGS, *shown]
    for label, (colour, count) in sorted(shown.items(), key=lambda entry: order.index(entry[0])):
        text = f"{_short(label, 60) or 'no label'} ({count})"
        need = 22 + font.getlength(text) + 18
        if x and x + need > width:
            x, y = 0.0, y + row
        places.append((x, y, colour, text))
        x += need
    legend = Image.new("RGB", (width, y + row), PAPER)
    pen = ImageDraw.Draw(legend)
    for left, top, colour, text in places:
        pen.rectangle((left, top + 4, left + 14, top + 18), fill=colour, outline=INK)
        pen.text((left + 21, top + 2), text, font=font, fill=INK)
    return legend


def _paragraph(text: _Text, width: int) -> Image.Image:
    body, small, indent = _font(18), _font(14), 92
    lines = wrap(text.words, body, width - indent)
    part = Image.new("RGB", (width, max(1, len(lines)) * 25 + 4), PAPER)
    pen = ImageDraw.Draw(part)
    pen.text((1, 5), text.heading, font=small, fill=FAINT)
    for number, line in enumerate(lines):
        pen.text((indent, number * 25 + 1), line, font=body, fill=text.colour)
    return part


def _stack(parts: Sequence[Image.Image], width: int) -> Image.Image:
    margin, gap = 20, 12
    height = sum(part.height for part in parts) + gap * (len(parts) - 1) + 2 * margin
    page = Image.new("RGB", (width + 2 * margin, height), PAPER)
    y = margin
    for part in parts:
        page.paste(part, (margin, y))
        y += part.height + gap
    return page


def save_png(picture: Image.Image, path: Path) -> None:
    """Write a PNG under a temporary name beside `path`, then give it its name.

    Raises:
        InputError: The folder is missing or cannot be written.
    """
    if not path.parent.is_dir():
        raise InputError(f"the folder {str(path.parent)!r} does not exist; make it first: mkdir -p {path.parent}")
    try:
        write_atomic(path, lambda temporary: picture.save(temporary, format="PNG"))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose another --out") from None
