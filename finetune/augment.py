"""Changes of an image that are no change on the ground: light, compression, and which side is up.

All images of a sample get the same gain and the same turn, so that augmentation never invents a difference between dates
beyond the small per-date `flicker`. Light and compression leave geometry alone; a turn takes the sample's regions with it, and
samples whose words tell a direction are not turned.
"""

import io
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from PIL import Image, ImageEnhance

from geotempo.data_builders.sample import Sample
from geotempo.model.errors import ConfigError
from geotempo.model.geometry import BoolArray, Box, Geometry, GridMask, Mask, Point, Polygon, RotatedBox
from geotempo.model.records import Region, time_order

MID_GREY = (128, 128, 128)

_DIRECTION = re.compile(
    r"\b(?:(?:north|south|east|west)\w*|top\w*|bottom\w*|left\w*|right\w*|upper\w*|lower\w*|uppermost|above|below|under|beneath"
    r"|horizontal\w*|vertical\w*|clockwise|anticlockwise|upwards?|downwards?|landscape|portrait)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Augment:
    """Strengths of the augmentation; the default does nothing.

    Attributes:
        brightness: Gain of all images of a sample, drawn from 1 - b to 1 + b.
        flicker: Gain of each image on top of it, drawn from 1 - f to 1 + f.
        contrast: Contrast of all images of a sample, drawn from 1 - c to 1 + c.
        jpeg: Lowest and highest JPEG quality (1-95), drawn for half of the samples; None switches it off.
        turns: Show samples of square images in one of the eight turns and mirrorings, drawn anew each time; overhead images
            have no upright.
        blank: Show mid-grey in place of every picture: what a model learns then it learns from the texts alone.
    """

    brightness: float = 0.0
    flicker: float = 0.0
    contrast: float = 0.0
    jpeg: tuple[int, int] | None = None
    turns: bool = False
    blank: bool = False

    def __post_init__(self) -> None:
        for name in ("brightness", "flicker", "contrast"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"data.augment.{name} must be from 0 to below 1, got {getattr(self, name)}")
        if self.jpeg is not None and not (len(self.jpeg) == 2 and 1 <= self.jpeg[0] <= self.jpeg[1] <= 95):
            raise ConfigError(f"data.augment.jpeg must be [lowest, highest] within 1 to 95, got {self.jpeg}")
        for name in ("turns", "blank"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"data.augment.{name} must be true or false, got {getattr(self, name)!r}")

    def turns_of(self, sample: Sample) -> "tuple[Turn, ...]":
        """The turns in which a sample may be shown.

        Only as it is, where `turns` is off, the words tell a direction, or an image is not square (its padding would turn too).
        """
        square = all(image.width == image.height for image in sample.images)
        if not self.turns or not square or any(_DIRECTION.search(text) for text in _texts(sample)):
            return (Turn(),)
        return tuple(Turn(*choice) for choice in product((False, True), repeat=3))

    def draw_turn(self, sample: Sample, rng: random.Random) -> "Turn":
        """One of `turns_of`; where there is no choice, `rng` is left alone."""
        allowed = self.turns_of(sample)
        return allowed[0] if len(allowed) == 1 else rng.choice(allowed)

    def __call__(self, pictures: Sequence[Image.Image], rng: random.Random) -> list[Image.Image]:
        """Augment the RGB pictures of one sample alike.

        Args:
            pictures: RGB pictures of one sample.
            rng: Source of randomness; the same state gives the same bytes.
        """
        if self.blank:
            return [Image.new("RGB", picture.size, MID_GREY) for picture in pictures]
        gain, contrast = self._draw(rng, self.brightness), self._draw(rng, self.contrast)
        quality = rng.randint(*self.jpeg) if self.jpeg and rng.random() < 0.5 else None
        out = []
        for picture in pictures:
            brightness = gain * self._draw(rng, self.flicker)
            if brightness != 1:
                picture = ImageEnhance.Brightness(picture).enhance(brightness)
            if contrast != 1:
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


def _texts(sample: Sample) -> list[str]:
    """All that is said in a sample: turns and labels of regions."""
    return [message.text for message in sample.messages] + [region.label for region in sample.regions]


@dataclass(frozen=True)
class Turn:
    """One of the eight turns and mirrorings of the square: left and right exchanged, then top and bottom, then x and y.

    Attributes:
        mirror: Exchange left and right.
        flip: Exchange top and bottom.
        transpose: Exchange x and y.
    """

    mirror: bool = False
    flip: bool = False
    transpose: bool = False

    def picture(self, picture: Image.Image) -> Image.Image:
        """The turned picture."""
        for wanted, operation in ((self.mirror, Image.Transpose.FLIP_LEFT_RIGHT), (self.flip, Image.Transpose.FLIP_TOP_BOTTOM),
                                  (self.transpose, Image.Transpose.TRANSPOSE)):
            if wanted:
                picture = picture.transpose(operation)
        return picture

    def sample(self, sample: Sample) -> Sample:
        """The sample, of square images, with its regions where `picture` puts what they show; the images stay as they are stored."""
        if self == Turn():
            return sample
        numbers = time_order(sample.images).numbers
        sides = {number: image.width for number, image in zip(numbers, sample.images, strict=True)}
        return replace(sample, regions=tuple(self.region(region, sides[region.image]) for region in sample.regions))

    def region(self, region: Region, side: int) -> Region:
        """A turned region on an image of `side` x `side` pixels."""
        points = None if region.points is None else (self._point(region.points[0], side), self._point(region.points[1], side))
        return replace(region, geometry=self.geometry(region.geometry, side), points=points)

    def geometry(self, geometry: Geometry, side: int) -> Geometry:
        """A turned geometry on an image of `side` x `side` pixels."""
        match geometry:
            case Box():
                return self._box(geometry, side)
            case RotatedBox():
                cx, cy = self._point((geometry.cx, geometry.cy), side)
                angle = -geometry.angle if self.mirror != self.flip else geometry.angle  # both together are half a turn
                return RotatedBox(cx, cy, geometry.width, geometry.height, 90 - angle if self.transpose else angle)
            case Polygon():
                exterior, *holes = (tuple(self._point(point, side) for point in ring) for ring in (geometry.exterior, *geometry.holes))
                return Polygon(exterior, tuple(holes))
            case Mask():
                return Mask.from_array(self._array(geometry.to_array()))
            case GridMask():
                return GridMask.from_array(self._box(geometry.box, side), self._array(geometry.to_array()))

    def _point(self, point: Point, side: int) -> Point:
        x, y = side - point[0] if self.mirror else point[0], side - point[1] if self.flip else point[1]
        return (y, x) if self.transpose else (x, y)

    def _box(self, box: Box, side: int) -> Box:
        (x1, y1), (x2, y2) = self._point((box.x1, box.y1), side), self._point((box.x2, box.y2), side)
        return Box(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))

    def _array(self, array: BoolArray) -> BoolArray:
        turned = array[:: -1 if self.flip else 1, :: -1 if self.mirror else 1]
        return turned.T if self.transpose else turned
