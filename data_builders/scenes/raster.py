"""Small raster helpers: value noise, sub-pixel shift, point-spread blur, smooth thick lines.

The world is drawn on a canvas `MARGIN` pixels larger than the image on every side, so that a shifted image needs no
invented border.
"""

from collections.abc import Sequence
from math import ceil, floor

import numpy as np
from PIL import Image, ImageDraw

from geotempo.data_builders.scenes.scene import FloatArray
from geotempo.model.geometry import BoolArray, Point

MARGIN = 4
_SCALE = 3


def smooth_noise(rng: np.random.Generator, side: int, cell: float) -> FloatArray:
    """Value noise with features of about `cell` pixels.

    Args:
        rng: Source of randomness.
        side: Rows and columns.
        cell: Distance of independent values in pixels, 1 or more.

    Returns:
        side x side, about zero mean and unit variance.
    """
    coarse = rng.standard_normal((ceil(side / cell) + 3,) * 2).astype(np.float32)
    extent = side / cell
    start = float(rng.random())
    picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC,
                                             box=(start + 0.5, start + 0.5, start + 0.5 + extent, start + 0.5 + extent))
    values = np.asarray(picture, dtype=np.float32)
    return np.asarray((values - values.mean()) / max(float(values.std()), 1e-6), dtype=np.float32)


def take(canvas: FloatArray, shift: tuple[float, float], size: int) -> FloatArray:
    """The image window of a canvas whose content is moved by `shift` (x right, y down), bilinear.

    Args:
        canvas: (size + 2 MARGIN) squared, optionally with channels.
        shift: Pixels, each within +-2.
        size: Side of the image.
    """
    column, row = MARGIN - shift[0], MARGIN - shift[1]
    x, y = floor(column), floor(row)
    fx, fy = column - x, row - y
    rows = canvas[y : y + size] if fy == 0 else canvas[y : y + size] * (1 - fy) + canvas[y + 1 : y + 1 + size] * fy
    if fx == 0:
        return rows[:, x : x + size].copy()
    return np.asarray(rows[:, x : x + size] * (1 - fx) + rows[:, x + 1 : x + 1 + size] * fx, dtype=np.float32)


def window(shift: tuple[float, float], size: int) -> tuple[slice, slice]:
    """The canvas window whose pixels fall on the image after the shift, rounded to whole pixels (ties down)."""
    x, y = (MARGIN - ceil(value - 0.5) for value in shift)
    return slice(y, y + size), slice(x, x + size)


def blur(image: FloatArray) -> FloatArray:
    """Point-spread function of the sensor: separable [1, 6, 1] / 8, edges repeated."""
    for axis in (0, 1):
        moved = np.moveaxis(image, axis, 0)
        out = 0.75 * moved
        out[1:] += 0.125 * moved[:-1]
        out[:-1] += 0.125 * moved[1:]
        out[0] += 0.125 * moved[0]
        out[-1] += 0.125 * moved[-1]
        image = np.moveaxis(out, 0, axis)
    return image


def stroke(side: int, points: Sequence[Point], width: float) -> FloatArray:
    """Coverage 0..1 of a thick line with round joints and ends, side x side."""
    picture = Image.new("L", (side * _SCALE, side * _SCALE))
    draw = ImageDraw.Draw(picture)
    scaled = [(x * _SCALE, y * _SCALE) for x, y in points]
    draw.line(scaled, fill=255, width=max(1, round(width * _SCALE)), joint="curve")
    radius = width * _SCALE / 2
    for x, y in (scaled[0], scaled[-1]):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return np.asarray(picture.reduce(_SCALE), dtype=np.float32) / np.float32(255)


def grow(mask: BoolArray, radius: int) -> BoolArray:
    """Dilation by a square of side 2 * radius + 1."""
    out = mask.copy()
    for _ in range(radius):
        wide = out.copy()
        wide[1:] |= out[:-1]
        wide[:-1] |= out[1:]
        out = wide.copy()
        out[:, 1:] |= wide[:, :-1]
        out[:, :-1] |= wide[:, 1:]
    return out


def move(array: FloatArray, x: int, y: int) -> FloatArray:
    """Content moved by whole pixels, wrapping round; meant for canvases whose border is cut off later."""
    return np.roll(array, (y, x), axis=(0, 1))
