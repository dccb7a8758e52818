"""Images, regions and the numbering of a dated sequence."""

import io
import itertools
import shutil
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from geotempo.model.dates import AcquisitionDate
from geotempo.model.errors import InputError
from geotempo.model.geometry import Box, Mask
from geotempo.model.records import Frame, ImageRecord, Region, time_order


def png(width: int = 8, height: int = 6, mode: str = "RGB") -> bytes:
    rng = np.random.default_rng(3)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def record(date: str | None = None, view: str | None = None, name: str = "a") -> ImageRecord:
    return ImageRecord(name, 8, 6, data=b"", date=AcquisitionDate(date) if date else None, view=view)


dates_st = st.sampled_from(["1999", "2020", "2020-05", "2020-05-01", "2021-01-01T00:00:00Z", "2019-12-31/2020-02-01"])


# --- images ----------------------------------------------------------------------------------------------------------


def test_bytes_and_file_give_the_same_picture(tmp_path):
    data = png()
    path = tmp_path / "image.png"
    path.write_bytes(data)
    by_path, by_bytes = ImageRecord("a", 8, 6, path=str(path)), ImageRecord("a", 8, 6, data=data)
    assert by_path.encoded() == by_bytes.encoded() == data
    assert np.array_equal(np.asarray(by_path.rgb()), np.asarray(by_bytes.rgb()))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_any_mode_is_shown_as_rgb(mode):
    picture = ImageRecord("a", 8, 6, data=png(mode=mode)).rgb()
    assert (picture.mode, picture.size) == ("RGB", (8, 6))


@pytest.mark.parametrize("data", [png()[:60], png()[:-30], b"", b"GIF89a", b"no image at all"])
def test_a_broken_image_is_an_input_error_on_one_line(data):
    with pytest.raises(InputError, match="not a readable image") as caught:
        ImageRecord("tile_7", 8, 6, data=data).rgb()
    assert "tile_7" in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_records_are_named(tmp_path):
    shutil.copy(__file__, tmp_path / "x.png")
    with pytest.raises(InputError, match="exactly one of data and path"):
        ImageRecord("a", 8, 6)
    with pytest.raises(InputError, match="exactly one of data and path"):
        ImageRecord("a", 8, 6, data=b"", path="x")
    with pytest.raises(InputError, match="0 x 6"):
        ImageRecord("a", 0, 6, data=b"")
    with pytest.raises(InputError, match="valid mask"):
        ImageRecord("a", 8, 6, data=b"", valid=Mask.from_array(np.ones((8, 6))))
    with pytest.raises(InputError, match="recorded 9 x 6"):
        ImageRecord("a", 9, 6, data=png()).rgb()
    with pytest.raises(InputError, match="No such file"):
        ImageRecord("a", 8, 6, path=str(tmp_path / "missing.png")).encoded()
    with pytest.raises(InputError, match="not a readable image"):
        ImageRecord("a", 8, 6, path=str(tmp_path / "x.png")).rgb()


def test_regions_are_validated_and_frozen():
    region = Region(1, Box(0, 0, 1, 1), "x")
    with pytest.raises(FrozenInstanceError):
        region.label = "y"  # type: ignore[misc]
    with pytest.raises(InputError, match="counts from 1"):
        replace(region, image=0)
    with pytest.raises(InputError, match="needs a reason"):
        replace(region, assessable=False)
    assert replace(region, assessable=False, reason="cloud").reason == "cloud"


@given(st.integers(1, 9000), st.integers(1, 9000))
def test_frames_span_the_image_or_its_square(width, height):
    assert Frame.plain(width, height).span == (width, height)
    boxed = Frame.letterboxed(width, height)
    assert boxed.span == (max(width, height),) * 2 and (boxed.width, boxed.height) == (width, height)
    assert (boxed == Frame.plain(width, height)) == (width == height)
    assert boxed.grid == 1000 and Frame.letterboxed(width, height, 504).grid == Frame.plain(width, height, 504).grid == 504


@pytest.mark.parametrize("grid", [0, -1, 10000])
def test_frames_have_four_digit_cells_at_most(grid):
    with pytest.raises(InputError, match=f"1 to 9999 cells per side, got {grid}"):
        Frame.plain(3, 3, grid)


# --- time order ------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.none() | dates_st, st.sampled_from([None, "VV", "VH", "NIR"])), max_size=8))
def test_numbers_count_acquisitions_in_the_order_of_time(images):
    records = [record(date, view) for date, view in images]
    result = time_order(records)
    assert sorted(result.order) == list(range(len(records)))
    numbers = [result.numbers[i] for i in result.order]
    assert numbers == sorted(numbers) and sorted(set(numbers)) == list(range(1, len(set(numbers)) + 1)), "no gaps, from 1"
    undated = any(image.date is None for image in records)
    assert result.assumed == (undated and len(records) > 1)
    if undated:
        assert result.order == tuple(range(len(records)))
    else:
        keys = [records[i].date.sort_key for i in result.order]
        assert keys == sorted(keys)
    for number in set(numbers):
        members = [records[i] for i in result.order if result.numbers[i] == number]
        assert result.index_of(number) == min(i for i, n in enumerate(result.numbers) if n == number)
        if len(members) > 1:
            assert len({m.view for m in members}) == len(members) and None not in {m.view for m in members}
            assert len({m.date for m in members}) == 1


@given(st.lists(dates_st, min_size=1, max_size=8))
def test_images_without_views_have_numbers_of_their_own(dates):
    result = time_order([record(date) for date in dates])
    assert sorted(result.numbers) == list(range(1, len(dates) + 1))
    for a, b in zip(result.order, result.order[1:], strict=False):
        assert dates[a] != dates[b] or a < b, "equal dates keep the request's order"


@given(st.lists(st.tuples(st.none() | dates_st, st.sampled_from([None, "VV", "VH"]), st.sampled_from([None, "a", "b"])), max_size=8))
def test_images_of_one_named_acquisition_share_its_number_and_no_others_do(images):
    records = [replace(record(date, view), acquisition=name) for date, view, name in images]
    result = time_order(records)
    numbers = [result.numbers[i] for i in result.order]
    assert numbers == sorted(numbers) and sorted(set(numbers)) == list(range(1, len(set(numbers)) + 1))
    for one, other in itertools.combinations(range(len(records)), 2):
        names = {records[one].acquisition, records[other].acquisition}
        if names != {None}:
            assert (result.numbers[one] == result.numbers[other]) == (len(names) == 1)


def test_views_of_one_acquisition_share_its_number():
    images = [record("2021", "true colour"), record("2020", "VV"), record("2020", "VH"), record("2021", "NIR")]
    result = time_order(images)
    assert (result.order, result.numbers, result.assumed) == ((1, 2, 0, 3), (2, 1, 1, 2), False)
    assert (result.index_of(1), result.index_of(2)) == (1, 0)
    twice = time_order([record("2020", "VV"), record("2020", "VV")])
    assert twice.numbers == (1, 2), "the same view twice is two acquisitions"
    assert time_order([record("2020", "VV"), record("2020")]).numbers == (1, 2), "an unnamed view is no view of another"
    assert time_order([record()]).assumed is False and time_order([]).order == ()
