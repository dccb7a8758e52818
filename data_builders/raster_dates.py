"""When a raster was acquired, from what stands beside it, in its name or in its tags."""

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from geotempo.model.dates import AcquisitionDate
from geotempo.model.errors import InputError, LayoutError
from geotempo.model.metadata import Facts

TAGS = (
    "ACQUISITION_DATE",
    "ACQUISITIONDATETIME",
    "ACQUISITIONDATE",
    "DATE_ACQUIRED",
    "SENSING_TIME",
    "DATETIME",
    "TIFFTAG_DATETIME",
)
"""Tags of GeoTIFFs that hold a date, the most telling first; the last is often when the file was written."""

_IN_NAMES = (
    re.compile(r"(?<!\d)(\d{4})[-_.]?(\d{2})[-_.]?(\d{2})(?!\d)"),
    re.compile(r"(?<!\d)(\d{4})[-_.](\d{2})(?!\d)"),
    re.compile(r"(?<!\d)((?:19|20)\d{2})(?!\d)"),
)
_WRITTEN = re.compile(r"(\d{4})[-:/.]?(\d{2})?[-:/.]?(\d{2})?(?:[T ].*)?")


def read_day(value: Any) -> AcquisitionDate | None:
    """A date as people and tags write it: ISO 8601, `20210503`, `2021/05/03`, `2021:05:03 10:00:00`, or a year.

    A time without a zone is left out.

    Returns:
        None where it is no date.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
    with suppress(InputError):
        return AcquisitionDate(text)
    match = _WRITTEN.fullmatch(text)
    with suppress(InputError):
        return AcquisitionDate("-".join(part for part in match.groups() if part)) if match else None
    return None


def stac_date(properties: Mapping[str, Any]) -> AcquisitionDate | None:
    """Date of a STAC item: `datetime`, else the interval from `start_datetime` to `end_datetime`."""
    found = read_day(properties.get("datetime"))
    if found is not None:
        return found
    start, end = properties.get("start_datetime"), properties.get("end_datetime")
    with suppress(InputError):
        return AcquisitionDate(f"{start}/{end}") if start and end else read_day(start or end)
    return None


def raster_date(path: Path, facts: Facts, pattern: str = "") -> AcquisitionDate:
    """Date of a raster: by the pattern, its STAC item, its name, its tags, in this order.

    Args:
        path: The file.
        facts: What is known of it.
        pattern: Regular expression for names whose groups, one to three, are year, month and day, or one whole date.

    Raises:
        LayoutError: None tells a date.
    """
    if pattern:
        match = re.search(pattern, path.name)
        found = read_day("-".join(part for part in match.groups() if part)) if match else None
    else:
        found = stac_date(facts.properties) or _in_name(path.stem) or _in_tags(facts.tags)
    if found is None:
        where = (
            f"its name does not fit date_pattern={pattern}"
            if pattern
            else "neither its name, its tags nor a STAC item beside it"
        )
        raise LayoutError(
            f"{path.name} has no date: {where}; put it into the name (2021-05-03), or say where it stands with "
            "date_pattern"
        )
    return found


def _in_name(stem: str) -> AcquisitionDate | None:
    for form in _IN_NAMES:
        for match in form.finditer(stem):
            if match[1][:2] in ("19", "20") and (found := read_day("-".join(match.groups()))) is not None:
                return found
    return None


def _in_tags(tags: Mapping[str, str]) -> AcquisitionDate | None:
    known = {name.upper(): value for name, value in tags.items()}
    return next((found for name in TAGS if name in known and (found := read_day(known[name])) is not None), None)
