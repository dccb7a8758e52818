"""From digital numbers to what they mean: reflectance, decibels, or values of no known unit. No torch, no GDAL.

Sentinel-2 products from processing baseline 04.00 on (25 January 2022) store reflectance * 10000 + 1000, so that dark
pixels may be negative: reflectance = (DN + offset) / 10000 with offset -1000, before 0 (Sentinel-2 Products Specification
Document, BOA_ADD_OFFSET and RADIO_ADD_OFFSET). Many archives have taken the 1000 off already ("harmonised"). The offset is
applied once, by the first of these that speaks:

1. the user's `--offset`;
2. `earthsearch:boa_offset_applied: true` (or the older `sentinel:` spelling), or S2_HARMONIZED or S2_SR_HARMONIZED in a
   name: it has been taken off;
3. `raster:bands` of the STAC item with an offset, or scale and offset tags of the file: as they say;
4. the processing baseline: of the STAC item, the tags, or the product identifier in a name (`_N0400_`);
5. the date. Metadata are silent then, and a note says what was assumed.

Where the offset would make more than a tenth of a band's pixels clearly negative (below -0.02) it cannot be in the values;
it is left out and a note says so. Catalogues are known to get their flags wrong.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from geotempo.model.bands import POLARISATIONS, Role
from geotempo.model.dates import AcquisitionDate
from geotempo.model.display import Array
from geotempo.model.errors import InputError
from geotempo.model.geometry import BoolArray
from geotempo.model.metadata import BandFacts, Facts
from geotempo.model.products import Product, baseline_of, day_of

Unit = Literal["reflectance", "dB", "amplitude dB", "display", "number"]
"""`display`: 8-bit values made for looking at. `number`: values of no known unit."""

Floats = npt.NDArray[np.float32]

_OFFSET = -1000
_SHIFT_DAY = "2022-01-25"
_NEGATIVE, _MAX_NEGATIVE = -0.02, 0.1  # reflectance that no surface has, and the share of pixels that may have it
_SAMPLE = 200_000  # pixels that decide whether an offset can be right
_HARMONISED = re.compile(r"S2(_SR)?_HARMONIZED")  # collections of Earth Engine
_FLAGS = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
_BASELINES = ("s2:processing_baseline", "processing:version", "sentinel:processing_baseline")


@dataclass(frozen=True)
class Calibration:
    """How the values of one image become physical: value = DN * scale + offset, or decibels.

    Attributes:
        unit: What the result is.
        scale: Factor of each layer, by its index; 1 where a layer is missing.
        offset: Summand of each layer, by its index.
        decibels: 10 or 20 where values are linear power or amplitude, 0 where no logarithm is taken.
        nodata: Digital number without data, besides what the file declares.
        notes: What was decided and why, one sentence each.
    """

    unit: Unit
    scale: Mapping[int, float]
    offset: Mapping[int, float]
    decibels: int = 0
    nodata: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def as_is(self) -> bool:
        """Whether the values stay as they are."""
        return self.unit in ("display", "number") and not self.scale and not self.decibels

    def apply(self, layer: int, values: Array) -> Floats:
        """Values of a layer in the unit; NaN where there are none."""
        scale, offset = np.float32(self.scale.get(layer, 1.0)), np.float32(self.offset.get(layer, 0.0))
        scaled = values.astype(np.float32) * scale + offset
        if self.decibels:
            with np.errstate(divide="ignore", invalid="ignore"):
                scaled = np.float32(self.decibels) * np.log10(scaled)
        if self.nodata is not None:
            scaled[values == self.nodata] = np.nan
        return np.where(np.isfinite(scaled), scaled, np.float32(np.nan))


@dataclass(frozen=True)
class _Offset:
    """An offset in digital numbers, the reason for it, and whether the user or metadata state it."""

    number: int
    reason: str
    stated: bool = True


@dataclass(frozen=True)
class Evidence:
    """What `calibrate` decides by.

    Attributes:
        file: Name for messages.
        product: What the file is, None where that is not known.
        facts: Its metadata.
        said: Metadata of each layer that was read, by its index.
        roles: Role of each of these layers.
        values: (H, W) digital numbers of each.
        valid: (H, W) pixels with data.
        date: Acquisition date as the user gave it.
        offset: The user's `--offset`, in digital numbers.
    """

    file: str
    product: Product | None
    facts: Facts
    said: Mapping[int, BandFacts]
    roles: Mapping[int, Role | None]
    values: Mapping[int, Array]
    valid: BoolArray
    date: AcquisitionDate | None = None
    offset: int | None = None


def calibrate(known: Evidence) -> Calibration:
    """How the values of one image become physical.

    Raises:
        InputError: An `--offset` was given for something that is not Sentinel-2.
    """
    if known.offset is not None and (known.product is None or known.product.sensor != "Sentinel-2"):
        raise InputError(f"--offset is the offset of Sentinel-2's digital numbers, but {known.file!r} is not known to "
                         "be Sentinel-2; add --product sentinel-2-l2a or sentinel-2-l1c")
    kinds = {values.dtype for values in known.values.values()}
    if kinds == {np.dtype(np.uint8)}:
        return Calibration("display", {}, {})
    if any(role in POLARISATIONS for role in known.roles.values()):
        return _backscatter(known)
    if known.product is None or known.product.scale is None:
        return _as_tagged(known)
    nodata = known.product.nodata
    if all(np.issubdtype(kind, np.floating) for kind in kinds) and _upper(known) < 10:
        note = f"{known.file}: decimal values below 10 are taken as reflectance as they stand"
        return Calibration("reflectance", {}, {}, nodata=nodata, notes=(note,))
    if known.product.sensor == "Sentinel-2":
        return _sentinel2(known, known.product)
    tagged = _as_tagged(known)
    scale = {i: tagged.scale.get(i, known.product.scale) for i in known.values}
    offset = {i: tagged.offset.get(i, known.product.offset) for i in known.values}
    return Calibration("reflectance", scale, offset, nodata=nodata)


def _as_tagged(known: Evidence) -> Calibration:
    """Scale and offset as metadata state them, in no known unit."""
    stated = {i: band for i, band in known.said.items() if band.scale is not None}
    return Calibration("number", {i: band.scale or 1.0 for i, band in stated.items()},
                       {i: band.offset or 0.0 for i, band in stated.items()})


def _sample(known: Evidence, layer: int) -> npt.NDArray[np.float64]:
    """Some of the valid digital numbers of a layer."""
    picked = known.values[layer][known.valid]
    if known.product is not None and known.product.nodata is not None:
        picked = picked[picked != known.product.nodata]
    picked = picked[:: max(1, len(picked) // _SAMPLE)].astype(np.float64)
    return picked[np.isfinite(picked)]


def _upper(known: Evidence) -> float:
    """99th percentile of all valid digital numbers."""
    pool = np.concatenate([_sample(known, layer) for layer in known.values])
    return float(np.percentile(pool, 99)) if len(pool) else 0.0


def _backscatter(known: Evidence) -> Calibration:
    """Radar values in decibels."""
    if not all(np.issubdtype(values.dtype, np.floating) for values in known.values.values()):
        note = (f"{known.file} holds whole numbers, so they are taken as uncalibrated amplitudes and shown as 20 log10(DN)"
                "; calibrate to sigma0 for values that compare between dates")
        return Calibration("amplitude dB", {}, {}, decibels=20, nodata=0, notes=(note,))
    unit: Unit = "dB" if known.product is not None else "number"
    pool = np.concatenate([_sample(known, layer) for layer in known.values])
    if len(pool) and np.median(pool) < 0:
        note = f"{known.file}: most values are negative, so they are decibels already"
        return Calibration(unit, {}, {}, notes=(note,))
    note = f"{known.file}: values are positive, so they are linear power, shown as 10 log10(value)"
    return Calibration(unit, {}, {}, decibels=10, nodata=0, notes=(note,))


def _sentinel2(known: Evidence, product: Product) -> Calibration:
    """Reflectance of Sentinel-2 with the offset applied once."""
    scale = product.scale or 1e-4
    offset = _offset(known)
    number = offset.number
    formula = f"(DN {number:+d}) / 10000" if number else "DN / 10000"
    notes = [f"{known.file}: reflectance = {formula}; {offset.reason}"] if number or not offset.stated else []
    if number < 0 and known.offset is None:
        share = _negative_share(known, scale, number)
        if share > _MAX_NEGATIVE:
            contrary = f" although {offset.reason}:" if offset.stated else ""
            notes = [(f"{known.file}: Sentinel-2's offset {number} is not applied,{contrary} it would make "
                      f"{100 * share:.0f} % of a band's values negative, so they do not hold it (harmonised data); "
                      f"--offset {number} applies it all the same")]
            number = 0
    return Calibration("reflectance", dict.fromkeys(known.values, scale), dict.fromkeys(known.values, number * scale),
                       nodata=product.nodata, notes=tuple(notes))


def _negative_share(known: Evidence, scale: float, number: int) -> float:
    """Largest share, over the layers, of pixels that the offset makes clearly negative."""
    samples = [sample for sample in (_sample(known, layer) for layer in known.values) if len(sample)]
    return max((float(((sample + number) * scale < _NEGATIVE).mean()) for sample in samples), default=0.0)


def _offset(known: Evidence) -> _Offset:
    """The offset by the first authority that speaks."""
    facts = known.facts
    if known.offset is not None:
        return _Offset(known.offset, "--offset says so")
    if any(facts.properties.get(flag) is True for flag in _FLAGS):
        return _Offset(0, "boa_offset_applied says that it has been taken off")
    if any(_HARMONISED.search(text) for text in facts.texts):
        return _Offset(0, "the name says that the data are harmonised")
    stated = [band for band in known.said.values() if band.scale and band.offset is not None]
    if stated and len(stated) == len(known.said):
        number = round((stated[0].offset or 0.0) / (stated[0].scale or 1e-4))
        return _Offset(number, "scale and offset of the metadata say so")
    baseline = _baseline(facts)
    if baseline is not None:
        reason = f"processing baseline {baseline[0]:02d}.{baseline[1]:02d}"
        return _Offset(_OFFSET if baseline >= (4, 0) else 0, reason)
    return _by_date(known)


def _baseline(facts: Facts) -> tuple[int, int] | None:
    """Processing baseline that metadata state."""
    stated = [facts.properties.get(key) for key in _BASELINES]
    for value in (*stated, facts.tags.get("PROCESSING_BASELINE")):
        if match := re.match(r"\s*(\d{1,2})\.(\d{2})\s*\Z", str(value)):
            return int(match[1]), int(match[2])
    if any("_OPER_MSI_" in text for text in facts.texts):
        return 2, 4  # the naming that ended with baseline 02.04 in December 2016
    return baseline_of(facts.texts)


def _by_date(known: Evidence) -> _Offset:
    """What is assumed where metadata are silent."""
    stated = known.facts.properties.get("datetime")
    day = known.date or _date(stated) or _date(day_of(known.facts.texts))
    if day is None:
        return _Offset(0, "the date and the processing baseline are not known; ASSUMED to need no offset. --offset -1000 "
                          "applies it", False)
    silent = f"metadata do not state the processing baseline; ASSUMED from the date {day}:"
    if day.span[1] < AcquisitionDate(_SHIFT_DAY).span[0]:
        return _Offset(0, f"{silent} before 04.00, no offset. Data that ESA reprocessed since (baseline 05.00) need "
                          "--offset -1000", False)
    return _Offset(_OFFSET, f"{silent} 04.00 or later, not harmonised. --offset 0 for harmonised data", False)


def _date(text: object) -> AcquisitionDate | None:
    """A date that metadata state; None for what is none."""
    try:
        return AcquisitionDate(text) if isinstance(text, str) else None
    except InputError:
        return None
