"""Changes of an image that are no change on the ground: light and compression.

All images of a sample get the same gain, so that augmentation never invents a difference between dates beyond the
small per-date `flicker`. Geometry is never touched: the answer's coordinates stay true.
"""

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageEnhance

from geotempo.model.errors import ConfigError


@dataclass(frozen=True)
class Augment:
    """Strengths of the augmentation; the default does nothing.

    Attributes:
        brightness: Gain of all images of a sample, drawn from 1 - b to 1 + b.
        flicker: Gain of each image on top of it, drawn from 1 - f to 1 + f.
        contrast: Contrast of all images of a sample, drawn from 1 - c to 1 + c.
        jpeg: Lowest and highest JPEG quality (1-95), drawn for half of the samples; None switches it off.
    """

    brightness: float = 0.0
    flicker: float = 0.0
    contrast: float = 0.0
    jpeg: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("brightness", "flicker", "contrast"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"data.augment.{name} must be from 0 to below 1, got {getattr(self, name)}")
        if self.jpeg is not None and not (len(self.jpeg) == 2 and 1 <= self.jpeg[0] <= self.jpeg[1] <= 95):
            raise ConfigError(f"data.augment.jpeg must be [lowest, highest] within 1 to 95, got {self.jpeg}")

    def __call__(self, pictures: Sequence[Image.Image], rng: random.Random) -> list[Image.Image]:
        """Augment the RGB pictures of one sample alike.

        Args:
            pictures: RGB pictures of one sample.
            rng: Source of randomness; the same state gives the same bytes.
        """
        gain, contrast = self._draw(rng, self.brightness), self._draw(rng, self.contrast)
        quality = rng.randint(*self.jpeg) if self.jpeg and rng.random() < 0.5 else None
        out = []
        for picture in pictures:
            picture = ImageEnhance.Brightness(picture).enhance(gain * self._draw(rng, self.flicker))
            picture = ImageEnhance.Contrast(picture).enhance(contrast)
            out.append(_recompress(picture, quality) if quality else picture)
        return out

    @staticmethod
    def _draw(rng: random.Random, strength: float) -> float:
        return rng.uniform(1 - strength, 1 + strength)


def _recompress(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")
