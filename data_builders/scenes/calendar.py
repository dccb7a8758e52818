"""Acquisition dates of a scene and the season that belongs to them."""

from datetime import UTC, date, datetime, timedelta
from math import cos, pi

import numpy as np

from geotempo.model.dates import AcquisitionDate

_FIRST_YEAR, _LAST_YEAR = 2004, 2020
_PRECISIONS = ("day", "month", "year", "time", "interval")
_ODDS = (0.6, 0.14, 0.1, 0.1, 0.06)


def acquisition_days(rng: np.random.Generator, count: int) -> list[int]:
    """Days (proleptic ordinals) of `count` acquisitions, at least five days apart."""
    start = date(int(rng.integers(_FIRST_YEAR, _LAST_YEAR + 1)), 1, 1).toordinal() + int(rng.integers(0, 365))
    typical = float(rng.choice([12, 60, 200, 500]))
    gaps = (5 + rng.exponential(typical, count)).astype(int)
    return [start + int(total) for total in np.cumsum(gaps)]


def greenness(day: int) -> float:
    """Season of a day on the northern hemisphere: 0 in mid January, 1 in mid July."""
    return 0.5 - 0.5 * cos(2 * pi * (date.fromordinal(day).timetuple().tm_yday - 15) / 365.25)


def as_dates(rng: np.random.Generator, days: list[int]) -> tuple[AcquisitionDate, ...]:
    """Write days as dates, mostly all at one precision; each sorts strictly after the one before."""
    common = str(rng.choice(_PRECISIONS, p=_ODDS))
    mixed = rng.random() < 0.2
    out: list[AcquisitionDate] = []
    for day in days:
        precision = str(rng.choice(_PRECISIONS, p=_ODDS)) if mixed else common
        value = _written(day, precision, int(rng.integers(9 * 60, 14 * 60)))
        # A coarse date may start before its predecessor; the plain day never does.
        out.append(value if not out or value.sort_key > out[-1].sort_key else _written(day, "day", 0))
    return tuple(out)


def _written(day: int, precision: str, minute: int) -> AcquisitionDate:
    """A day at the given precision."""
    value = date.fromordinal(day)
    match precision:
        case "year":
            return AcquisitionDate(f"{value.year}")
        case "month":
            return AcquisitionDate(f"{value:%Y-%m}")
        case "time":
            moment = datetime(value.year, value.month, value.day, tzinfo=UTC) + timedelta(minutes=minute)
            return AcquisitionDate(f"{moment:%Y-%m-%dT%H:%M:%SZ}")
        case "interval":
            return AcquisitionDate(f"{value.isoformat()}/{(value + timedelta(days=4)).isoformat()}")
    return AcquisitionDate(value.isoformat())
