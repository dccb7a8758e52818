"""Drawing: regions land where they are, sheets wrap, any text is drawn."""

import numpy as np
import pytest
from PIL import Image

from geotempo.model.draw import MEANINGS, colours, draw_regions, save_png, sheet, wrap
from geotempo.model.errors import InputError
from geotempo.model.geometry import Box, Mask, Polygon, RotatedBox
from geotempo.model.records import Region

GREY = Image.new("RGB", (200, 160), (128, 128, 128))


def changed(picture, base=GREY):
    """Bounding box (x1, y1, x2, y2) of the pixels that differ from the base."""
    difference = np.any(np.asarray(picture) != np.asarray(base), axis=2)
    rows, columns = np.flatnonzero(difference.any(1)), np.flatnonzero(difference.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


@pytest.mark.parametrize("geometry", [
    Box(40, 50, 90, 100), Polygon(((40.0, 50.0), (90.0, 50.0), (90.0, 100.0), (40.0, 100.0))),
    RotatedBox(65, 75, 50, 50, 0), RotatedBox(65, 75, 50, 50, 90),
])
def test_regions_are_drawn_where_they_are(geometry):
    assert np.abs(np.subtract(changed(draw_regions(GREY, [Region(1, geometry)])), (40, 50, 90, 100))).max() <= 3


def test_a_mask_colours_exactly_its_pixels():
    array = np.zeros((160, 200), dtype=bool)
    array[20:50, 30:80] = array[60:62, 100:103] = True
    difference = np.any(np.asarray(draw_regions(GREY, [Region(1, Mask.from_array(array))])) != 128, axis=2)
    assert np.array_equal(difference, array)
    given = np.asarray(draw_regions(GREY, [Region(1, Box(30, 20, 31, 21))], [array]))
    assert np.any(given[30, 50] != 128)


def test_the_image_itself_is_not_changed_and_scale_enlarges():
    before = GREY.tobytes()
    assert draw_regions(GREY, [Region(1, Box(0, 0, 200, 160), "x")], scale=3).size == (600, 480)
    assert GREY.tobytes() == before


def test_edge_of_the_image_stays_visible():
    drawn = np.asarray(draw_regions(GREY, [Region(1, Box(0, 0, 200, 160))]))
    assert all(np.any(side != 128) for side in (drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]))


def test_colours_follow_labels():
    named = [Region(1, Box(0, 0, 1, 1), label) for label in ("destroyed", "no-damage", "destroyed", "other")]
    found = colours(named)
    assert found[0] == found[2] == MEANINGS["destroyed"] and len(set(found)) == 3
    assert len(set(colours([Region(1, Box(0, 0, 1, 1), "building")] * 8))) == 8
    assert colours([]) == [] and len(colours([Region(1, Box(0, 0, 1, 1), str(n)) for n in range(50)])) == 50


def test_regions_are_drawn_on_the_acquisition_they_name():
    pictures = [(GREY, f"Image {n + 1}") for n in range(2)]
    region = [Region(2, Box(50, 50, 150, 100))]
    plain = np.asarray(sheet(pictures, [[], []], "q", "a"))
    second = np.asarray(sheet(pictures, [[], region], "q", "a"))
    columns = np.flatnonzero(np.any(plain != second, axis=(0, 2)))
    assert columns.min() > plain.shape[1] / 2


@pytest.mark.parametrize("count", [1, 2, 4, 5, 8])
def test_sheets_wrap_at_four(count):
    page = sheet([(GREY, "2021")] * count, [[]] * count, "question", "answer")
    one = sheet([(GREY, "2021")], [[]], "question", "answer")
    rows = (count + 3) // 4
    assert page.height - one.height == pytest.approx((rows - 1) * 340, rel=0.1) and page.width <= 4 * one.width


def test_any_text_is_drawn():
    strange = "建物 🏠 \x00\t\n\u202eabc " + "w" * 4000
    page = sheet([(GREY, strange)], [[Region(1, Box(1, 1, 9, 9), strange), Region(1, Box(1, 1, 9, 9), "b")]], strange,
                 strange, strange)
    assert page.height > 1000
    assert sheet([(GREY, "")], [[]], "", "").width > 0


def test_wrap_keeps_every_word():
    from PIL import ImageFont

    font = ImageFont.load_default(18)
    text = "how many buildings changed between the two images " * 5 + "x" * 300
    lines = wrap(text, font, 200)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert max(font.getlength(line) for line in lines) <= 200
    assert wrap("a\n\nb", font, 200) == ["a", "", "b"]


def test_save_png_leaves_nothing_half_written(tmp_path):
    save_png(GREY, tmp_path / "x.png")
    assert Image.open(tmp_path / "x.png").size == GREY.size
    with pytest.raises(InputError, match="does not exist"):
        save_png(GREY, tmp_path / "none" / "x.png")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
