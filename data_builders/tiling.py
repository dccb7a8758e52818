"""Large images in tiles: the windows, and pixels as an image of their own."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from geotempo.data_builders.schema import content_id
from geotempo.model.errors import InputError
from geotempo.model.records import ImageRecord

Window = tuple[slice, slice]


def check_tile(tile: int) -> int:
    """The `tile` option of a source.

    Raises:
        InputError: It is negative.
    """
    if tile < 0:
        raise InputError(f"tile is {tile}; give the longest side in pixels, or 0 for whole images")
    return tile


def windows(height: int, width: int, side: int) -> Iterator[tuple[str, Window]]:
    """Names and windows of tiles no longer than `side`, equal but for a pixel, row by row.

    Args:
        height: Rows of the image.
        width: Columns.
        side: Longest side of a tile; 0 for one tile.

    Yields:
        (`-<row>-<column>`, window); the name is empty where one tile is enough.
    """
    rows, columns = (1 if side == 0 else -(-length // side) for length in (height, width))
    for row in range(rows):
        for column in range(columns):
            name = f"-{row}-{column}" if rows * columns > 1 else ""
            yield name, (slice(row * height // rows, (row + 1) * height // rows),
                         slice(column * width // columns, (column + 1) * width // columns))


def as_record(pixels: npt.NDArray[np.uint8], **facts: Any) -> ImageRecord:
    """Pixels as a PNG of their own.

    Args:
        pixels: (H, W, 3) RGB or (H, W) grey.
        **facts: Further fields of `ImageRecord`.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    data = buffer.getvalue()
    return ImageRecord(content_id(data), pixels.shape[1], pixels.shape[0], data=data, **facts)


class Tiles:
    """Images of equal size in tiles; each image is decoded once, and not at all where one tile is enough.

    Args:
        images: Of one item.
        side: Longest side of a tile; 0 for one tile.
    """

    def __init__(self, images: Sequence[ImageRecord], side: int) -> None:
        self._images, self._side = tuple(images), side

    def __iter__(self) -> Iterator[tuple[str, Window]]:
        """See `windows`."""
        return windows(self._images[0].height, self._images[0].width, self._side)

    def at(self, window: Window) -> tuple[ImageRecord, ...]:
        """The images' parts in a window."""
        if _whole(self._images[0], window):
            return self._images
        return tuple(_part(image, pixels, window) for image, pixels in zip(self._images, self._pixels, strict=True))

    @cached_property
    def _pixels(self) -> list[npt.NDArray[np.uint8]]:
        return [np.asarray(image.rgb()) for image in self._images]


def cut(image: ImageRecord, window: Window) -> ImageRecord:
    """A window of an image; the image itself, with its own bytes, where the window is all of it.

    Date, sensor and sampling distance stay; the transform moves to the window's corner.
    """
    return image if _whole(image, window) else _part(image, np.asarray(image.rgb()), window)


def _whole(image: ImageRecord, window: Window) -> bool:
    rows, columns = window
    return (rows.start, columns.start, rows.stop, columns.stop) == (0, 0, image.height, image.width)


def _part(image: ImageRecord, pixels: npt.NDArray[np.uint8], window: Window) -> ImageRecord:
    """A window of an image whose pixels are decoded."""
    part, transform = as_record(pixels[window]), image.transform
    if transform is not None:
        a, b, c, d, e, f = transform
        x, y = window[1].start, window[0].start
        transform = (a, b, a * x + b * y + c, d, e, d * x + e * y + f)
    return replace(image, id=part.id, width=part.width, height=part.height, data=part.data, path=None, transform=transform,
                   valid=None)
