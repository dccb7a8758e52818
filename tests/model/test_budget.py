"""Token budgets: what does not fit is refused with numbers; dates are thinned by seed, ends kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geotempo.model.budget import Budget, thin_dates
from geotempo.model.dates import AcquisitionDate
from geotempo.model.errors import InputError
from geotempo.model.records import ImageRecord


def image(date: str | None, view: str | None = None, name: str = "a") -> ImageRecord:
    return ImageRecord(name, 10, 10, data=b"", date=AcquisitionDate(date) if date else None, view=view)


def test_a_budget_that_fits_is_silent_and_one_over_names_everything() -> None:
    Budget(100, (64,) * 8, 388, 1000).require()
    with pytest.raises(InputError) as caught:
        Budget(101, (64,) * 8, 388, 1000).require()
    words = str(caught.value)
    for said in ("8 images of 64 tokens", "101 tokens of text", "388 for the answer", "1001 tokens", "takes 1000", "--max-dates 7",
                 "--max-pixels", "--max-new-tokens 387"):
        assert said in words
    with pytest.raises(InputError, match="64 to 90 tokens"):
        Budget(10, (64, 90), 0, 100).require()
    with pytest.raises(InputError, match="1 image of 900 tokens") as caught:
        Budget(10, (900,), 0, 100).require()
    assert "--max-dates" not in str(caught.value) and "--max-new-tokens" not in str(caught.value)  # neither would help


@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 5), st.randoms())
def test_ends_stay_and_the_draw_does_not_depend_on_the_order_given(count: int, keep: int, seed: int, rng) -> None:
    images = [image(str(1980 + k)) for k in range(count)]
    kept, left = thin_dates(images, keep, seed)
    assert sorted((*kept, *left)) == list(range(count))
    assert len(kept) == min(count, keep)
    assert {0, count - 1} <= set(kept)
    shuffled = list(images)
    rng.shuffle(shuffled)
    again, _ = thin_dates(shuffled, keep, seed)
    assert {str(shuffled[index].date) for index in again} == {str(images[index].date) for index in kept}


def test_views_of_one_acquisition_stay_together() -> None:
    images = [image(str(2000 + k), view) for k in range(6) for view in ("true colour", "NIR")]
    kept, _ = thin_dates(images, 3)
    assert len(kept) == 6
    assert all(index % 2 or index + 1 in kept for index in kept)


def test_one_date_is_no_sequence() -> None:
    with pytest.raises(InputError, match="--max-dates 1 leaves no sequence"):
        thin_dates([image("2000"), image("2001")], 1)
    assert thin_dates([image("2000")], 1) == ((0,), ())
