"""Acquisition dates at the precision that was given.

A year stays a year: nothing is padded to 1 January. The accepted forms are the ISO 8601 ones that STAC and
catalogues use: `2021`, `2021-08`, `2021-08-03`, `2021-08-03T10:15:00Z` (or with an offset) and intervals of two
of these, `2021-05-01/2021-06-30`.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

from geotempo.model.errors import InputError

_DAY = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?\Z")
_ALLOWED = "YYYY, YYYY-MM, YYYY-MM-DD, an RFC 3339 time with zone, or two of these joined by '/'"


@dataclass(frozen=True)
class AcquisitionDate:
    """A date, time or interval of acquisition.

    Attributes:
        text: The date as it was given, whitespace removed.

    Raises:
        InputError: The text is none of the accepted forms, is no real date, or ends before it starts.
    """

    text: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", self.text.strip())
        if self.span[0] > self.span[1]:
            raise InputError(f"the interval {self.text!r} ends before it starts; give it as earlier/later")

    @cached_property
    def span(self) -> tuple[datetime, datetime]:
        """First instant and last instant (inclusive, UTC) that the text can mean."""
        first, _, last = self.text.partition("/")
        start = _instants(first, self.text)
        return (start[0], _instants(last, self.text)[1]) if last else start

    @property
    def sort_key(self) -> tuple[datetime, datetime]:
        """Key for time order: start first, then end."""
        return self.span

    def __str__(self) -> str:
        return self.text


def _instants(part: str, whole: str) -> tuple[datetime, datetime]:
    """First and last instant of one date without '/'."""
    try:
        match = _DAY.match(part)
        if match is None:
            moment = datetime.fromisoformat(part)
            if moment.tzinfo is None:
                raise InputError(f"the time {whole!r} has no zone; write e.g. {part}Z")
            moment = moment.astimezone(UTC)
            return moment, moment
        year, month, day = (int(g) if g else None for g in match.groups())
        assert year is not None
        start = datetime(year, month or 1, day or 1, tzinfo=UTC)
        if day:
            after = start + timedelta(days=1)
        elif month:
            after = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
        else:
            after = datetime(year + 1, 1, 1, tzinfo=UTC)
        return start, after - timedelta(microseconds=1)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{whole!r} is not a date: {error}; allowed: {_ALLOWED}") from None
