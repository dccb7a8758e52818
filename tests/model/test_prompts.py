"""Rendering of requests: time order, headers, letterbox, regions in questions."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from geotempo.model import answer
from geotempo.model.convention import GEOTEMPO, TEOCHAT
from geotempo.model.dates import AcquisitionDate
from geotempo.model.errors import InputError
from geotempo.model.geometry import Box
from geotempo.model.predictor import Request
from geotempo.model.prompts import frames_of, header, letterbox, render
from geotempo.model.records import ImageRecord, Region


def image(name: str, date: str | None = None, size: tuple[int, int] = (40, 30), **facts) -> ImageRecord:
    buffer = io.BytesIO()
    Image.new("RGB", size, (len(name) * 20 % 255, 50, 50)).save(buffer, "PNG")
    return ImageRecord(name, *size, data=buffer.getvalue(), date=AcquisitionDate(date) if date else None, **facts)


def text_of(request: Request) -> str:
    parts = render(request).messages[0]["content"]
    return "".join(part["text"] if part["type"] == "text" else "<image>" for part in parts)


def test_images_go_in_in_time_order_with_what_is_known() -> None:
    late = image("late", "2021-08-03", sensor="Sentinel-2", gsd=(10.0, 10.0))
    early = image("early", "2019", view="NIR")
    expected = "Image 1 (2019, NIR): <image>\nImage 2 (2021-08-03, Sentinel-2, 10 m): <image>\nwhat changed?"
    assert text_of(Request((late, early), "what changed?")) == expected
    assert text_of(Request((early, late), "what changed?")) == expected


def test_views_of_one_date_share_a_number_and_missing_dates_keep_the_order() -> None:
    a, b = image("a", "2020", view="VV"), image("b", "2020", view="VH")
    assert text_of(Request((a, b), "q")) == "Image 1 (2020, VV): <image>\nImage 1 (2020, VH): <image>\nq"
    prompt = render(Request((image("x", "2021"), image("y")), "q"))
    assert prompt.order.assumed
    assert prompt.order.numbers == (1, 2)


@pytest.mark.parametrize(("gsd", "words"), [((10.0, 10.0), "10 m"), ((0.5, 0.5), "0.5 m"), ((0.298, 0.302), "0.3 m")])
def test_the_gsd_is_short(gsd: tuple[float, float], words: str) -> None:
    assert header(image("a", gsd=gsd), 3) == f"Image 3 ({words}): "


def test_letterboxing_keeps_the_origin_and_every_pixel() -> None:
    picture = Image.new("RGB", (40, 30), (9, 8, 7))
    square = letterbox(picture)
    assert square.size == (40, 40)
    assert square.crop((0, 0, 40, 30)).tobytes() == picture.tobytes()
    assert square.getpixel((20, 35)) == (128, 128, 128)


@given(st.integers(1, 500), st.integers(1, 500), st.data())
def test_boxes_survive_the_letterbox(width: int, height: int, data: st.DataObject) -> None:
    x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = Box(x1, y1, data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height)))
    frames = frames_of([ImageRecord("a", width, height, data=b"")])
    (region,) = answer.parse(answer.format([Region(1, box)], frames), frames).regions or ()
    cell = max(width, height) / 1000
    assert isinstance(region.geometry, Box)
    assert all(abs(a - b) <= cell + 1e-9 for a, b in zip(region.geometry.as_tuple(), box.as_tuple(), strict=True))


def test_regions_are_written_into_the_question() -> None:
    request = Request((image("a", size=(100, 100)),), "What is at <region:0>?", (Region(1, Box(10, 20, 50, 60)),))
    assert text_of(request) == 'Image 1: <image>\nWhat is at {"image":1,"bbox_2d":[100,200,500,600]}?'


def test_a_broken_image_is_named() -> None:
    good = image("a").encoded()
    with pytest.raises(InputError, match="broken"):
        render(Request((ImageRecord("broken", 40, 30, data=good[: len(good) // 2]),), "q"))


# --- teochat mode --------------------------------------------------------------------------------------------------


def teochat_text(request: Request) -> str:
    parts = render(request, TEOCHAT).messages[0]["content"]
    return "".join(part["text"] if part["type"] == "text" else "<image>" for part in parts)


def test_teochats_words_for_one_two_and_more_images() -> None:
    a, b, c = image("a", "2019"), image("b", "2020"), image("c", "2021")
    assert teochat_text(Request((a,), "Is there a road?")) == "This is a satellite image: Image 1: <image>\nIs there a road?"
    assert teochat_text(Request((b, a), "q")) == ("These are two satellite images capturing the same location at different times in "
                                                  "chronological order: Image 1: <image>Image 2: <image>\nq")
    assert teochat_text(Request((a, b, c), "q")).startswith("This is a sequence of satellite images capturing the same location at ")
    known = tuple(image(name, date, sensor="Sentinel-2") for name, date in (("a", "2019"), ("b", "2020")))
    assert teochat_text(Request(known, "q")).startswith("These are two satellite images from Sentinel-2 capturing")


def test_a_teochatlas_question_keeps_its_own_introduction() -> None:
    asked = "These are two low-resolution, optical satellite images capturing the same location at different times: <video>\nWhat now?"
    assert teochat_text(Request((image("b", "2020"), image("a", "2019")), asked)) == (
        "These are two low-resolution, optical satellite images capturing the same location at different times in chronological order: "
        "Image 1: <image>Image 2: <image>\nWhat now?")


def test_teochat_regions_are_percent_and_pictures_are_not_padded() -> None:
    wide = image("a", "2019", size=(200, 100))
    request = Request((wide,), "What is at <region:0>?", (Region(1, Box(20, 30, 100, 60)),))
    assert teochat_text(request).endswith("What is at [10, 30, 50, 60]?")
    assert render(request, TEOCHAT).images[0].size == (200, 100)
    (region,) = answer.parse("[10, 30, 50, 60]", frames_of([wide], TEOCHAT), mode="teochat").regions or ()
    assert region.geometry == Box(20, 30, 100, 60)


def test_teochat_sees_the_centre_crop_only() -> None:
    assert TEOCHAT.seen(200, 100) == Box(50, 0, 150, 100)
    assert TEOCHAT.seen(90, 90) == Box(0, 0, 90, 90)
    assert GEOTEMPO.seen(200, 100) == Box(0, 0, 200, 100)
