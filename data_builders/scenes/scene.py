"""What a procedural scene is: options, objects, changes over time, and the finished sequence.

All masks live in the pixel grid of the image they belong to, after the misregistration of that image.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from geotempo.model.dates import AcquisitionDate
from geotempo.model.errors import InputError
from geotempo.model.geometry import BoolArray

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

COVER: Final = ("grass", "bare ground", "field", "forest", "water", "road", "building", "debris")
"""Land-cover classes; the index is the value in `Scene.land_cover`."""
GRASS, BARE, FIELD, FOREST, WATER, ROAD, BUILDING, DEBRIS = range(len(COVER))

GRADES: Final = ("no-damage", "minor-damage", "major-damage", "destroyed")
"""The four grades of the Joint Damage Scale, spelled as in xBD (Gupta et al., 2019)."""

ChangeKind = Literal["built", "demolished", "damaged", "flooded", "cleared", "road added"]
CHANGE_KINDS: Final[tuple[ChangeKind, ...]] = ("built", "demolished", "damaged", "flooded", "cleared", "road added")

APPEARS: Final[dict[str, ChangeKind]] = {"building": "built", "new road": "road added", "flood": "flooded",
                                         "clearing": "cleared"}
"""Kind of change when an object of this kind appears."""

SceneKind = Literal["single", "identical", "nuisance", "changed"]

MIN_SIZE, MAX_DATES = 48, 8
CLOUD_LIMIT: Final = 0.6
"""An object is assessable on a date when at least this share of it is free of cloud."""


@dataclass(frozen=True)
class SceneOptions:
    """What may happen in a scene.

    Attributes:
        nuisance: Strength 0..1 of everything that differs between dates without being a change (light, season, sun,
            haze, noise, misregistration, traffic). 0 renders all dates alike.
        clouds: Probability 0..1 that an image has clouds.
        unchanged: Probability 0..1 that a sequence holds no change (a quarter of these are identical images).
        kinds: Kinds of change that may occur.
        max_changes: Most changes in a sequence.
        buildings: Fewest and most buildings asked for; a crowded or small scene may hold fewer.
        building_px: Shortest and longest side of a building in pixels at 256 px image size.
        pair_share: Share of two-image sequences when the number of dates is left open; 1 means pairs only.
    """

    nuisance: float = 1.0
    clouds: float = 0.1
    unchanged: float = 0.15
    kinds: tuple[ChangeKind, ...] = CHANGE_KINDS
    max_changes: int = 6
    buildings: tuple[int, int] = (3, 12)
    building_px: tuple[int, int] = (10, 48)
    pair_share: float = 0.7

    def __post_init__(self) -> None:
        shares = {"nuisance": self.nuisance, "clouds": self.clouds, "unchanged": self.unchanged,
                  "pair_share": self.pair_share}
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise InputError(f"scene option {name} must lie in 0..1, got {value}")
        unknown = set(self.kinds) - set(CHANGE_KINDS)
        if unknown or not self.kinds:
            raise InputError(f"scene option kinds: got {self.kinds}, allowed is a choice of {CHANGE_KINDS}")
        if not (0 < self.buildings[0] <= self.buildings[1] and 6 <= self.building_px[0] <= self.building_px[1]):
            raise InputError(f"scene options need 1 <= fewest <= most buildings and 6 <= shortest <= longest side, "
                             f"got {self.buildings} and {self.building_px}")
        if self.max_changes < 1:
            raise InputError(f"scene option max_changes must be 1 or more, got {self.max_changes}")


EASY: Final = SceneOptions(nuisance=0.3, clouds=0.0, max_changes=3, buildings=(3, 5), building_px=(24, 48),
                           pair_share=1.0)
"""Few large buildings, mild nuisance, pairs only: the first step of a curriculum, and tests of a training loop."""


@dataclass(frozen=True)
class Nuisance:
    """Acquisition conditions of one image; none of them is a change.

    Attributes:
        azimuth: Sun azimuth in radians, clockwise from north (up).
        elevation: Sun elevation in radians.
        greenness: Season, 0 dry to 1 lush.
        gain: Brightness factor.
        gamma: Exponent on reflectance 0..1.
        tint: Factors on red, green, blue.
        haze: Share 0..1 of white veil.
        noise: Standard deviation of sensor noise, reflectance 0..1.
        shift: Misregistration (x, y) in pixels.
        clouds: True when clouds cover a part.
        seed: Seed of noise, traffic and clouds.
    """

    azimuth: float
    elevation: float
    greenness: float = 0.6
    gain: float = 1.0
    gamma: float = 1.0
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    haze: float = 0.0
    noise: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    clouds: bool = False
    seed: int = 0

    def names(self, other: "Nuisance") -> list[str]:
        """What differs visibly from another image's conditions, as words."""
        tests = {
            "sun direction": abs(self.azimuth - other.azimuth) > 0.2 or abs(self.elevation - other.elevation) > 0.1,
            "season": abs(self.greenness - other.greenness) > 0.1,
            "light": abs(self.gain - other.gain) > 0.04 or abs(self.gamma - other.gamma) > 0.04,
            "haze": abs(self.haze - other.haze) > 0.04,
            "noise": self.seed != other.seed and max(self.noise, other.noise) > 0,
            "misregistration": max(abs(a - b) for a, b in zip(self.shift, other.shift, strict=True)) > 0.25,
            "clouds": self.clouds or other.clouds,
        }
        return [name for name, differs in tests.items() if differs]


@dataclass(frozen=True)
class SceneObject:
    """One object over time.

    Attributes:
        id: Index in `Scene.objects`.
        kind: building, road, water, forest, field, or the area of a change: new road, flood, clearing.
        masks: Per date the H x W footprint in that image, None where the object is not there.
        grades: Per date the index into `GRADES`; 0 for everything but buildings.
        colour: Words for the roof colour; empty for other kinds.
        visible: Per date the share 0..1 of the place (present or not) that is free of cloud.
    """

    id: int
    kind: str
    masks: tuple[BoolArray | None, ...]
    grades: tuple[int, ...]
    colour: str
    visible: tuple[float, ...]

    def there(self, date: int) -> bool:
        """Whether the object exists on a date (index from 0)."""
        return self.masks[date] is not None

    def assessable(self, *dates: int) -> bool:
        """Whether clouds leave enough of the place to judge it on all these dates (indices from 0)."""
        return all(self.visible[date] >= CLOUD_LIMIT for date in dates)


@dataclass(frozen=True)
class ChangeEvent:
    """A change of one object.

    Attributes:
        kind: What happened.
        object: Index into `Scene.objects`.
        after: Number (from 1) of the last image before the change.
        before: Number of the first image that shows it; `after + 1`.
        grade: Index into `GRADES` for damage, else 0.
    """

    kind: ChangeKind
    object: int
    after: int
    before: int
    grade: int = 0


@dataclass(frozen=True)
class Scene:
    """A dated sequence of images with its whole ground truth.

    Attributes:
        seed: Seed given to `generate`.
        index: Index given to `generate`.
        size: Side of the square images in pixels.
        gsd: Ground sampling distance in metres, equal for all dates.
        kind: single, identical (all images equal), nuisance (nothing but nuisance differs) or changed.
        setting: residential, industrial, farmland, forest or waterside.
        images: Per date H x W x 3, uint8.
        dates: Per date, strictly in time order, at varying precision.
        objects: All objects that exist on some date.
        events: All changes in time order.
        land_cover: Per date H x W, uint8, index into `COVER`. Single trees count as the ground that they stand on,
            clouds do not show.
        clouds: Per date H x W, True under cloud.
        nuisance: Per date.
        options: As given.
    """

    seed: int
    index: int
    size: int
    gsd: float
    kind: SceneKind
    setting: str
    images: tuple[ByteArray, ...]
    dates: tuple[AcquisitionDate, ...]
    objects: tuple[SceneObject, ...]
    events: tuple[ChangeEvent, ...]
    land_cover: tuple[ByteArray, ...]
    clouds: tuple[BoolArray, ...]
    nuisance: tuple[Nuisance, ...]
    options: SceneOptions

    def of_kind(self, kind: str) -> list[SceneObject]:
        """Objects of one kind, in order of id."""
        return [item for item in self.objects if item.kind == kind]


def without_nuisance(options: SceneOptions) -> SceneOptions:
    """The same options with every nuisance off, so that images differ by changes only."""
    return replace(options, nuisance=0.0, clouds=0.0)
