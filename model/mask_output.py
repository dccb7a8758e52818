"""Masks as others want them: one run-length code per region, PNG, an index image; and masks of a whole sequence.

COCO run lengths go down the columns (https://github.com/cocodataset/cocoapi, `maskApi.c`). Polygons with holes are made
by `geotempo.model.geo.mask_polygons`. No torch here.
"""

import io
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from geotempo.model.errors import InputError
from geotempo.model.geometry import BoolArray, Mask
from geotempo.model.records import Region

PALETTE_REGIONS = 255
"""Most regions of an index image with 8 bits."""


class MaskMaker(Protocol):
    """What turns regions into masks; `geotempo.model.masks.Segmenter` is one."""

    def segment(self, image: Image.Image, regions: Sequence[Region]) -> list[Mask]:
        """One mask per region, of the size of the image."""


def by_image(regions: Sequence[Region], images: int) -> dict[int, list[int]]:
    """Indices of the regions on each acquisition.

    Args:
        regions: With acquisition numbers from 1.
        images: Number of acquisitions.

    Returns:
        Acquisition number, ascending -> indices into `regions`; numbers without a region are absent.

    Raises:
        InputError: A region lies on an acquisition that is not there.
    """
    found: dict[int, list[int]] = {}
    for index, region in enumerate(regions):
        if region.image > images:
            there = "there is only Image 1" if images == 1 else f"there are Image 1 to Image {images}"
            raise InputError(f"region {index + 1} of {len(regions)} lies on Image {region.image}, but {there}; "
                             "count acquisitions from 1 in time order")
        found.setdefault(region.image, []).append(index)
    return dict(sorted(found.items()))


def mask_in_window(window: BoolArray, top: int, left: int, height: int, width: int) -> Mask:
    """Encode a mask of which only a window may be non-zero, without the rest of the image.

    Equal to `Mask.from_array` of the whole mask, at a cost that does not depend on the image's size.

    Args:
        window: h x w array, True inside.
        top: Row of the image at which the window begins.
        left: Column of the image at which it begins.
        height: Rows of the image.
        width: Columns of the image.

    Raises:
        InputError: The window reaches over the image.
    """
    rows, columns = window.shape
    if top < 0 or left < 0 or top + rows > height or left + columns > width:
        raise InputError(f"a window of {columns} x {rows} pixels at ({left}, {top}) reaches over an image of "
                         f"{width} x {height}")
    framed = np.zeros((columns, rows + 2), dtype=np.bool_)
    framed[:, 1:-1] = window.T
    column, row = np.divmod(np.flatnonzero(framed[:, 1:] != framed[:, :-1]), rows + 1)
    edges = (left + column) * height + top + row  # column-major; in each column a start and an end by turns
    starts, ends = edges[::2], edges[1::2]
    if rows == height:  # a run that ends at the bottom of a column goes on at the top of the next one
        apart = starts[1:] != ends[:-1]
        starts, ends = starts[np.append(True, apart)[: len(starts)]], ends[np.append(apart, True)[: len(ends)]]
    edges = np.stack([starts, ends], axis=1).reshape(-1)
    counts = np.diff(np.concatenate([[0], edges, [height * width]]))
    if counts[-1] == 0:
        counts = counts[:-1]
    compressed: Any = coco.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return Mask(height, width, compressed["counts"].decode("ascii"))


def mask_area(mask: Mask) -> int:
    """Number of pixels inside, read off the run lengths."""
    return int(coco.area({"size": [mask.height, mask.width], "counts": mask.counts.encode("ascii")}))


def mask_png(mask: Mask) -> bytes:
    """A mask as 8-bit grey PNG of the image's size: 255 inside, 0 outside."""
    return png(Image.fromarray(mask.to_array().astype(np.uint8) * 255))


def png(picture: Image.Image) -> bytes:
    """A picture as PNG bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def index_image(masks: Sequence[Mask], height: int, width: int) -> Image.Image:
    """All masks as one picture of numbers: value 0 is nothing, value i is mask i (counted from 1).

    Where masks overlap the smaller one lies on top. Up to 255 masks give an 8-bit palette picture, more a 16-bit one.
    One mask is decoded at a time.

    Args:
        masks: Of H x W pixels each.
        height: H.
        width: W.

    Raises:
        InputError: There are more masks than 16 bits can number.
    """
    if len(masks) > np.iinfo(np.uint16).max:
        raise InputError(f"{len(masks)} masks do not fit into an index image; it numbers up to 65535")
    numbers = np.zeros((height, width), dtype=np.uint16)
    for index in sorted(range(len(masks)), key=lambda index: -mask_area(masks[index])):
        numbers[masks[index].to_array()] = index + 1
    if len(masks) > PALETTE_REGIONS:
        return Image.fromarray(numbers)
    picture = Image.fromarray(numbers.astype(np.uint8), mode="P")
    picture.putpalette(_palette())
    return picture


def _palette() -> list[int]:
    """256 colours: black, then distinct hues by golden-angle steps."""
    wheel = Image.new("HSV", (255, 1))
    wheel.putdata([(int(i * 0.618034 * 256) % 256, 200 - 60 * (i % 2), 255 - 50 * (i % 3)) for i in range(255)])
    colours = np.asarray(wheel.convert("RGB")).reshape(-1).tolist()
    return [0, 0, 0, *colours]
