"""How a model counts coordinates and is asked: the convention that it was trained with.

Everything outside sees pixels of the user's image; a `Convention` says what a model's numbers mean on it. Two modes:

- `geotempo`: images are padded to a square, answers follow the grammar of `geotempo.model.answer`. Numbers run 0-1000
  over the square, or, for models that natively count pixels of the picture they see (Qwen2.5-VL), over its side.
- `teochat`: TEOChat's own convention (Irvin et al., arXiv 2410.06234): 0-100 of the whole image, while the model sees
  only the centre crop of an image that is not square. What lies outside the crop it cannot know.

No torch here.
"""

from dataclasses import asdict, dataclass
from math import ceil, floor, sqrt
from typing import Any, Self

from geotempo.model.answer_grid import TEOCHAT_GRID, Mode
from geotempo.model.geometry import Box
from geotempo.model.records import GRID, Frame


@dataclass(frozen=True)
class PixelGrid:
    """Numbers are pixels of the resized picture, as Qwen2.5-VL counts (Bai et al., arXiv 2502.13923, section 2.1).

    Attributes:
        factor: The resized side is a multiple of it, in pixels (patch size times merge size).
        min_pixels: A picture of fewer pixels is enlarged.
        max_pixels: A picture of more pixels is reduced.
    """

    factor: int
    min_pixels: int
    max_pixels: int

    def side(self, side: int) -> int:
        """Side, in pixels, that the processor gives a square picture of `side` pixels."""
        out = max(self.factor, round(side / self.factor) * self.factor)
        if out * out > self.max_pixels:
            return max(self.factor, floor(side / sqrt(side * side / self.max_pixels) / self.factor) * self.factor)
        if out * out < self.min_pixels:
            return ceil(side * sqrt(self.min_pixels / (side * side)) / self.factor) * self.factor
        return out


@dataclass(frozen=True)
class Convention:
    """The convention of a model.

    Attributes:
        mode: Wording of the prompt and grammar of the answer.
        pixels: Given where the model counts pixels of the picture that it sees; else numbers run to a fixed end.
    """

    mode: Mode = "geotempo"
    pixels: PixelGrid | None = None

    def frame(self, width: int, height: int) -> Frame:
        """What a model's numbers span on an image of width x height pixels."""
        if self.mode == "teochat":
            return Frame.plain(width, height, TEOCHAT_GRID)
        grid = self.pixels.side(max(width, height)) if self.pixels else GRID
        return Frame.letterboxed(width, height, grid)

    def seen(self, width: int, height: int) -> Box:
        """The part of an image that the model sees, in pixels: all of it, but for TEOChat's centre crop."""
        if self.mode != "teochat":
            return Box(0, 0, width, height)
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return Box(left, top, left + side, top + side)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> Self:
        """From the dictionary of `to_json`."""
        pixels = given.get("pixels")
        return cls(given["mode"], PixelGrid(**pixels) if pixels else None)


GEOTEMPO = Convention()
"""The convention of every model that GeoTempo composes."""

TEOCHAT = Convention("teochat")
"""The convention of an imported TEOChat checkpoint."""
