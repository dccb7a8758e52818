"""Dates keep the precision that was given."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geotempo.model.dates import AcquisitionDate
from geotempo.model.errors import InputError

moments = st.datetimes(datetime(1, 1, 2), datetime(9998, 12, 30))
EXACT = timedelta(microseconds=1)


@given(moments)
def test_a_day_spans_its_24_hours(moment):
    date = AcquisitionDate(moment.strftime("%Y-%m-%d").rjust(10, "0"))
    start, end = date.span
    assert (start.date(), end.date()) == (moment.date(), moment.date())
    assert end + EXACT - start == timedelta(days=1)


@given(moments)
def test_coarser_dates_span_finer_ones(moment):
    day = f"{moment.year:04d}-{moment.month:02d}-{moment.day:02d}"
    spans = [AcquisitionDate(text).span for text in (day[:4], day[:7], day, moment.replace(tzinfo=UTC).isoformat())]
    for outer, inner in pairwise(spans):
        assert outer[0] <= inner[0] <= inner[1] <= outer[1]
    assert spans[0][0] == datetime(moment.year, 1, 1, tzinfo=UTC)
    assert (spans[1][1] + EXACT).day == 1 and spans[3][0] == spans[3][1] == moment.replace(tzinfo=UTC)


@given(moments, moments)
def test_intervals_join_two_dates_in_order(a, b):
    first, last = sorted((a, b))
    text = f"{first.year:04d}/{last.year:04d}-{last.month:02d}"
    date = AcquisitionDate(text)
    assert date.span == (AcquisitionDate(text[:4]).span[0], AcquisitionDate(text[5:]).span[1])
    if first.year < last.year:
        with pytest.raises(InputError, match="ends before it starts"):
            AcquisitionDate(f"{last.year:04d}/{first.year:04d}")


@given(moments, st.integers(-14 * 60, 14 * 60))
def test_a_zone_offset_names_the_same_instant(moment, minutes):
    utc = moment.replace(tzinfo=UTC)
    sign, hours, rest = "-" if minutes < 0 else "+", abs(minutes) // 60, abs(minutes) % 60
    local = (moment + timedelta(minutes=minutes)).isoformat() + f"{sign}{hours:02d}:{rest:02d}"
    assert AcquisitionDate(local).sort_key == AcquisitionDate(utc.isoformat()).sort_key


def test_the_text_is_kept_as_given():
    for text in ("2021", "2021-08", "2021-08-03", "2021-08-03T10:15:00Z", "2021-05-01/2021-06-30"):
        assert str(AcquisitionDate(f" {text}\n")) == text
    assert AcquisitionDate("2024-02-29").span[1].day == 29
    assert AcquisitionDate("2021-12").span[1] == datetime(2021, 12, 31, 23, 59, 59, 999999, UTC)


@pytest.mark.parametrize("text", ["", "21", "2021-13", "2021-02-29", "03.08.2021", "2021-08-03T10:15:00", "2021-8-3", "now",
                                  "0000", "/2021", "2021-08-03T25:00:00Z", "２０２１-99"])
def test_what_is_no_date_is_refused_on_one_line(text):
    with pytest.raises(InputError) as caught:
        AcquisitionDate(text)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=25))
def test_any_text_is_a_date_or_an_input_error(text):
    try:
        start, end = AcquisitionDate(text).span
    except InputError:
        return
    assert start <= end and start.tzinfo is UTC
