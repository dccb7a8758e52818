"""What of a raster is shown: which bands, and by which stretch their values become 8 bits. No torch, no GDAL."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geotempo.model.bands import QUALITY, Role, identify, role_of_name, with_colours
from geotempo.model.errors import InputError
from geotempo.model.geometry import BoolArray

Array = npt.NDArray[Any]
ByteArray = npt.NDArray[np.uint8]

_COLOURS = ("red", "green", "blue")
_MAX_NAME = 24  # characters; ENVI puts whole file names into band names
_MAX_SAMPLES = 1_000_000  # values per band and image that percentiles are taken from
_PERCENTILES = re.compile(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)\Z")
_FIXED = re.compile(r"(-?[\d.]+(?:[eE][-+]?\d+)?):(-?[\d.]+(?:[eE][-+]?\d+)?)\Z")


@dataclass(frozen=True)
class BandTable:
    """The bands of one file.

    Attributes:
        file: Name for messages.
        names: Name of each band, None where the file gives none.
        colours: Colour interpretation of each band as GDAL names it ("red", "gray", "undefined", "alpha").
        roles: Role of each band (`geotempo.model.bands`); by default what names and colours tell.
    """

    file: str
    names: tuple[str | None, ...]
    colours: tuple[str, ...]
    roles: tuple[Role | None, ...] = ()

    def __post_init__(self) -> None:
        if not self.roles:
            object.__setattr__(self, "roles", with_colours(identify(self.names), self.colours))

    @property
    def data(self) -> tuple[int, ...]:
        """Band numbers, from 1, that are not alpha."""
        return tuple(i + 1 for i, colour in enumerate(self.colours) if colour != "alpha")

    def label(self, number: int) -> str:
        """Name of a band for people: its own name if it is short, its role, its colour, or its number."""
        name, role, colour = self.names[number - 1], self.roles[number - 1], self.colours[number - 1]
        if name and (len(name) <= _MAX_NAME or not role):
            return name
        return role or (colour if colour in _COLOURS else f"band {number}")


@dataclass(frozen=True)
class Stretch:
    """A linear stretch to 0-255 per band, the same for all images of a sequence.

    Attributes:
        method: "none" (8-bit values as they are), "percentiles P-Q", "minmax", "fixed", or "fixed, " and a unit.
        low: Value shown as 0, per band.
        high: Value shown as 255, per band.
    """

    method: str
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def describe(self, bands: Sequence[str]) -> str:
        """One line for people: method and limits."""
        if self.method == "none":
            return "none (8-bit values as they are)"
        limits = ", ".join(f"{b} {lo:g} to {hi:g}" for b, lo, hi in zip(bands, self.low, self.high, strict=True))
        return f"{self.method}, one for the whole sequence: {limits}"

    def apply(self, values: Array, valid: BoolArray) -> ByteArray:
        """Values as 8 bits; pixels without data become 0.

        Args:
            values: (bands, H, W) of any real type.
            valid: (H, W), False where there is no data.

        Returns:
            (bands, H, W) of uint8.
        """
        if self.method == "none":
            return np.where(valid, values, 0).astype(np.uint8)
        low = np.array(self.low, dtype=np.float64)[:, None, None]
        high = np.array(self.high, dtype=np.float64)[:, None, None]
        with np.errstate(invalid="ignore", over="ignore"):
            scaled = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * 255
        return np.where(valid & np.isfinite(scaled), np.rint(scaled), 0).astype(np.uint8)


def choose_bands(table: BandTable, wanted: str | None) -> tuple[int, ...]:
    """The one or three bands to show.

    Args:
        table: The file's bands.
        wanted: `--bands`: one or three band numbers (from 1), names or roles ("nir"), separated by commas; None chooses
            red, green and blue by role, then takes 1, 3 or 3+alpha bands as they stand.

    Returns:
        Band numbers from 1, in the order red, green, blue, or one band for grey.

    Raises:
        InputError: The choice is not clear, or names a band that is not there.
    """
    if wanted is not None:
        return _wanted_bands(table, wanted)
    found = [_find(table, role) for role in _COLOURS]
    if all(found):
        return tuple(number for number in found if number)
    pictures = tuple(number for number in table.data if table.roles[number - 1] not in QUALITY)
    if len(pictures) in (1, 3):
        return pictures
    count = len(table.colours)
    listed = ", ".join(f"{i}={name}" for i, name in enumerate(table.names, 1) if name) or "unnamed"
    raise InputError(f"{table.file!r} has {count} bands ({listed}) and does not say which are red, green and blue; "
                     f"write e.g. --bands {'3,2,1' if count > 2 else '1'} (numbers from 1 to {count}, or band names)")


def _find(table: BandTable, role: Role) -> int | None:
    """Number of the only band with a role."""
    hits = [i for i, own in enumerate(table.roles, 1) if own == role]
    return hits[0] if len(hits) == 1 else None


def _wanted_bands(table: BandTable, wanted: str) -> tuple[int, ...]:
    """Band numbers of `--bands`."""
    items = [item.strip() for item in wanted.split(",")]
    if len(items) not in (1, 3):
        raise InputError(f"--bands {wanted} names {len(items)} bands; give one (grey) or three: red,green,blue")
    numbers = [_wanted_band(table, item) for item in items]
    return tuple(numbers)


def _wanted_band(table: BandTable, item: str) -> int:
    """Number of one band that was asked for by number or name."""
    count = len(table.names)
    if item.isdecimal() and 1 <= int(item) <= count:
        return int(item)
    exact = [i for i, name in enumerate(table.names, 1) if name and name.strip().lower() == item.lower()]
    number = exact[0] if len(exact) == 1 else _find(table, role_of_name(item) or "")
    if number is None:
        named = ", ".join(name for name in table.names if name) or "none"
        raise InputError(f"--bands: {table.file!r} has no band {item!r}; it has bands 1 to {count}, named: {named}")
    return number


def find_stretch(images: Sequence[tuple[Array, BoolArray]], wanted: str | None, files: Sequence[str]) -> Stretch:
    """One stretch for a whole sequence.

    Args:
        images: (bands, H, W) values and (H, W) valid pixels of each image.
        wanted: "none", "minmax", percentiles "P-Q", or values "LOW:HIGH"; None means none for 8-bit images and the
            percentiles 2-98 over the valid pixels of all dates, per band, for all others.
        files: Names for messages.

    Raises:
        InputError: The text is none of these, or the images' types or band counts do not go together.
    """
    eight = [values.dtype == np.uint8 for values, _ in images]
    if wanted is None and any(eight) and not all(eight):
        odd = files[eight.index(True)]
        raise InputError(f"{odd!r} holds 8-bit values and {files[eight.index(False)]!r} does not; one stretch cannot fit "
                         "both: give images of one type, or --stretch LOW:HIGH")
    if wanted == "none" or (wanted is None and all(eight)):
        if not all(eight):
            raise InputError(f"--stretch none needs 8-bit values, {files[eight.index(False)]!r} has others; "
                             "leave it out or write --stretch 2-98")
        return Stretch("none")
    counts = {len(values) for values, _ in images}
    if len(counts) > 1:
        raise InputError(f"the images show {' and '.join(map(str, sorted(counts)))} bands; one stretch needs the same "
                         "bands in all: choose with --bands")
    bands = counts.pop()
    if match := _FIXED.match(wanted or ""):
        return _fixed(float(match[1]), float(match[2]), bands, wanted or "")
    return _from_values(images, _percentiles(wanted or "2-98"), bands, files)


def _percentiles(text: str) -> tuple[float, float]:
    """Lower and upper percentile of a stretch's text."""
    if text == "minmax":
        return 0.0, 100.0
    match = _PERCENTILES.match(text)
    if match and 0 <= float(match[1]) < float(match[2]) <= 100:
        return float(match[1]), float(match[2])
    raise InputError(f"--stretch {text!r} is not known; allowed: none, minmax, percentiles such as 2-98, "
                     "values such as 0:3000")


def _fixed(low: float, high: float, bands: int, text: str) -> Stretch:
    """A stretch between two values that the user gave."""
    if not low < high:
        raise InputError(f"--stretch {text}: the first value must be below the second")
    return Stretch("fixed", (low,) * bands, (high,) * bands)


def _from_values(images: Sequence[tuple[Array, BoolArray]], percentiles: tuple[float, float], bands: int,
                 files: Sequence[str]) -> Stretch:
    """A stretch between percentiles of the valid values of all images."""
    low, high = [], []
    for band in range(bands):
        pool = np.concatenate([_sample(values[band], valid) for values, valid in images])
        if not len(pool):
            raise InputError(f"no pixel of {', '.join(map(repr, files))} holds data; check the files and their nodata")
        first, last = (float(value) for value in np.percentile(pool, percentiles))
        low.append(first)
        high.append(last if last > first else first + 1.0)  # a flat band
    method = "minmax" if percentiles == (0.0, 100.0) else f"percentiles {percentiles[0]:g}-{percentiles[1]:g}"
    return Stretch(method, tuple(low), tuple(high))


def _sample(values: Array, valid: BoolArray) -> npt.NDArray[np.float64]:
    """Valid finite values, thinned regularly where there are very many."""
    picked = values[valid]
    picked = picked[:: max(1, len(picked) // _MAX_SAMPLES)].astype(np.float64)
    return picked[np.isfinite(picked)]
