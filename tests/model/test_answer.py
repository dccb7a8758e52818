"""The answer grammar: what is written is read back, what is mended is said, and nothing raises."""

import time

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geotempo.model import answer
from geotempo.model.errors import InputError
from geotempo.model.geometry import Box, Mask, Polygon, RotatedBox, bounds, interior_points, rasterize, to_shape
from geotempo.model.records import Answer, Frame, Region, Status

PLAIN = [Frame.plain(256, 256), Frame.plain(256, 256)]
GOOD = '[{"image":1,"bbox_2d":[100,200,300,400],"label":"road"},{"image":2,"bbox_2d":[10,20,30,40],"label":"new building"}]'

any_text = st.text(st.characters(), max_size=30)  # lone surrogates included
grids_st = st.sampled_from([1000, 100, 448, 1036, 9999]) | st.integers(1, 9999)
frames_st = st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 5000), st.booleans(), grids_st), min_size=1, max_size=4).map(
    lambda sizes: [Frame.letterboxed(w, h, grid) if boxed else Frame.plain(w, h, grid) for w, h, boxed, grid in sizes])


def whole(label: str) -> str:
    """Two surrogates that form a pair are one character to every JSON reader."""
    return label.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


@st.composite
def side(draw: st.DrawFn, size: int) -> tuple[float, float]:
    a, b = draw(st.floats(0, size)), draw(st.floats(0, size))
    low, high = min(a, b), max(a, b)
    return (low, high) if low < high else ((low, float(size)) if low < size else (0.0, high))


@st.composite
def box_regions(draw: st.DrawFn, frames: list[Frame]) -> Region:
    image = draw(st.integers(1, len(frames)))
    (x1, x2), (y1, y2) = draw(side(frames[image - 1].width)), draw(side(frames[image - 1].height))
    return Region(image, Box(x1, y1, x2, y2), draw(any_text))


@st.composite
def sequences(draw: st.DrawFn) -> tuple[list[Frame], list[Region]]:
    frames = draw(frames_st)
    return frames, draw(st.lists(box_regions(frames), max_size=8))


def close(read: Region, given_: Region, frame: Frame, grid: int | None = None) -> bool:
    """Within one cell, and never smaller than the box given."""
    grid = grid or frame.grid
    cell_x, cell_y = frame.span[0] / grid, frame.span[1] / grid
    a, b = bounds(read.geometry), bounds(given_.geometry)
    slack = 1e-5
    return (-slack <= (b.x1 - a.x1) / cell_x <= 1 + slack and -slack <= (a.x2 - b.x2) / cell_x <= 1 + slack
            and -slack <= (b.y1 - a.y1) / cell_y <= 1 + slack and -slack <= (a.y2 - b.y2) / cell_y <= 1 + slack)


# --- round trips -----------------------------------------------------------------------------------------------------


@given(sequences(), st.sampled_from(["", "Two houses were built.", "Zeile 1\nZeile 2 ", "\u2028é漢\ud800"]))
@settings(max_examples=200, deadline=None)
def test_boxes_come_back_within_one_cell(case, prose):
    frames, regions = case
    text = answer.format(regions, frames, prose=prose)
    read = answer.parse(text, frames)
    assert (read.status, read.repairs, read.prose, read.text) == (Status.OK, (), prose, text)
    lossy = [answer.lossy_form(region, frames) for region in regions]
    assert sorted(map(repr, read.regions)) == sorted(map(repr, lossy))
    for region, kept in zip(regions, lossy, strict=True):
        assert close(kept, region, frames[region.image - 1])
        assert (kept.image, kept.label) == (region.image, whole(region.label))
        assert 0 <= kept.geometry.x1 < kept.geometry.x2 <= frames[region.image - 1].width
    assert answer.format(read.regions, frames, prose=prose) == text, "what was read is written again in the same words"
    assert answer.format(regions, frames).encode("utf-8").isascii() or regions, "any list can be stored as UTF-8"


@given(sequences(), st.sampled_from(["", "Gone."]))
@settings(max_examples=100, deadline=None)
def test_teochat_boxes_come_back_on_the_latest_image(case, prose):
    frames, regions = case
    frames = [frames[-1]] * len(frames)
    regions = [Region(region.image, region.geometry) for region in regions
               if bounds(region.geometry).x1 < frames[-1].width and bounds(region.geometry).y1 < frames[-1].height]
    read = answer.parse(answer.format(regions, frames, prose=prose, mode="teochat"), frames, mode="teochat")
    assert (read.status, read.repairs, read.prose) == (Status.OK, (), prose)
    lossy = [answer.lossy_form(region, frames, mode="teochat") for region in regions]
    assert sorted(map(repr, read.regions or ())) == sorted(map(repr, lossy))
    assert all(region.image == len(frames) for region in lossy)
    inside = [r for r in regions if bounds(r.geometry).x2 <= frames[-1].width and bounds(r.geometry).y2 <= frames[-1].height]
    assert all(close(answer.lossy_form(r, frames, mode="teochat"), r, frames[-1], answer.TEOCHAT_GRID) for r in inside)


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    array = rng.random((height, width)) < draw(st.sampled_from([0.02, 0.5, 0.98]))
    array[draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))] = True
    return Mask.from_array(array)


@given(masks())
@settings(max_examples=150, deadline=None)
def test_masks_come_back_as_box_and_interior_points(mask):
    frames = [Frame.plain(mask.width, mask.height)]
    read = answer.parse(answer.format([Region(1, mask, "field")], frames, points=True), frames)
    assert (read.status, read.regions) == (Status.OK, (answer.lossy_form(Region(1, mask, "field"), frames),))
    (region,) = read.regions
    assert close(region, Region(1, mask), frames[0])
    array = mask.to_array()
    assert region.points is not None, "the grid is finer than the pixels, so there is a node in every pixel"
    assert all(array[int(y), int(x)] for x, y in region.points)


@given(st.floats(30, 70), st.floats(30, 70), st.floats(2, 40), st.floats(2, 40), st.floats(-180, 180))
@settings(max_examples=60, deadline=None)
def test_rotated_boxes_and_polygons_come_back_as_their_bounds(cx, cy, width, height, angle):
    rotated = RotatedBox(cx, cy, width, height, angle)
    frames = [Frame.letterboxed(100, 90)]
    for geometry in (rotated, Polygon(rotated.corners())):
        region = Region(1, geometry, "hall")
        read = answer.parse(answer.format([region], frames, points=True), frames)
        assert (read.status, read.regions) == (Status.OK, (answer.lossy_form(region, frames),))
        mask = rasterize(geometry, 90, 100)
        clipped = bounds(geometry)
        assert read.regions[0].geometry.x1 <= max(0, clipped.x1) + 1e-5
        if mask.any():
            assert read.regions[0].points is not None
            assert all(to_shape(geometry).contains(shapely.Point(p)) for p in read.regions[0].points)


def test_points_move_to_a_node_inside_or_are_left_out():
    array = np.zeros((4000, 4000), dtype=bool)  # one cell is 4 px
    array[1:3, 1:3] = True  # no node: nodes lie at 0, 4, 8, ...
    array[2000:2004, 3:2000] = True
    small = array.copy()
    small[2000:] = False
    frames = [Frame.plain(4000, 4000)]
    assert '"points"' not in answer.format([Region(1, Mask.from_array(small))], frames, points=True)
    array[1:3, 1:3] = False
    text = answer.format([Region(1, Mask.from_array(array), points=((5.0, 2003.5), (9.0, 2003.9)))], frames, points=True)
    assert '"points":[[1,500],[2,500]]' in text, "the nearest nodes, 2004, are outside"
    assert '"points"' not in answer.format([Region(1, Mask.from_array(array))], frames), "only when asked for"


def test_points_of_a_box():
    region = Region(1, Box(10, 10, 20, 20), points=((12.0, 13.0), (15.6, 16.0)))
    assert answer.format([region], [Frame.plain(1000, 1000)], points=True) == (
        '[{"image":1,"bbox_2d":[10,10,20,20],"points":[[12,13],[16,16]]}]')
    far = Region(1, Box(10, 10, 20, 20), points=((12.0, 13.0), (50.0, 16.0)))
    assert answer.format([far], [Frame.plain(1000, 1000)], points=True) == '[{"image":1,"bbox_2d":[10,10,20,20]}]'
    assert '"points"' not in answer.format([Region(1, Box(1, 1, 2, 2))], PLAIN, points=True), "a box is no mask"


# --- exact forms -----------------------------------------------------------------------------------------------------


def test_the_text_is_the_documented_one():
    regions = [Region(2, Box(25.6, 51.2, 76.8, 102.4), "new building"), Region(1, Box(0, 0, 256, 256), ""),
               Region(2, Box(128, 25.6, 153.6, 51.2), 'a "b" </s>\n')]
    assert answer.format(regions, PLAIN, prose="Built.") == (
        'Built.\n[{"image":1,"bbox_2d":[0,0,1000,1000]},'
        '{"image":2,"bbox_2d":[500,100,600,200],"label":"a \\"b\\" \\u003c/s>\\n"},'
        '{"image":2,"bbox_2d":[100,200,300,400],"label":"new building"}]')
    assert answer.format([], PLAIN) == "[]"
    assert answer.format(regions, PLAIN, mode="teochat") == "[0, 0, 100, 100], [50, 10, 60, 20], [10, 20, 30, 40]"
    assert answer.format([], PLAIN, prose="No change.", mode="teochat") == "No change."
    assert answer.format_region(regions[0], PLAIN) == '{"image":2,"bbox_2d":[100,200,300,400]}'
    assert answer.format_region(regions[0], PLAIN, "teochat") == "[10, 20, 30, 40]"


def test_each_frame_is_counted_in_its_own_cells():
    """Qwen2.5-VL counts pixels of its resized input; TEOChat counts percent whatever else is said."""
    frames = [Frame.plain(500, 250, 504), Frame.letterboxed(500, 250, 504), Frame.plain(500, 250)]
    regions = [Region(k, Box(100, 100, 250, 250), points=((125.0, 125.0), (200.0, 200.0))) for k in (1, 2, 3)]
    text = ('[{"image":1,"bbox_2d":[100,201,252,504],"points":[[126,252],[202,403]]},'
            '{"image":2,"bbox_2d":[100,100,252,252],"points":[[126,126],[202,202]]},'
            '{"image":3,"bbox_2d":[200,400,500,1000],"points":[[250,500],[400,800]]}]')
    assert answer.format(regions, frames, points=True) == text
    read = answer.parse(text, frames)
    assert (read.status, read.regions) == (Status.OK, tuple(answer.lossy_form(r, frames) for r in regions))
    assert answer.format_region(regions[0], frames) == '{"image":1,"bbox_2d":[100,201,252,504]}'
    beyond = answer.parse('[{"image":1,"bbox_2d":[0,0,505,504]},{"image":3,"bbox_2d":[0,0,505,504]}]', frames)
    assert beyond.repairs == ("a box was clipped to its image",), "505 is beyond the first grid only"
    assert answer.format_region(regions[0], frames, "teochat") == "[20, 40, 50, 100]"
    assert answer.lossy_form(regions[0], frames, mode="teochat").geometry == Box(100, 100, 250, 250)
    assert answer.parse("[20, 40, 50, 100]", frames[:1], mode="teochat").regions[0].geometry == Box(100, 100, 250, 250)


def test_letterboxed_frames_count_over_the_padded_square():
    frames = [Frame.letterboxed(500, 250)]
    assert answer.format([Region(1, Box(0, 0, 500, 250))], frames) == '[{"image":1,"bbox_2d":[0,0,1000,500]}]'
    read = answer.parse('[{"image":1,"bbox_2d":[0,400,1000,600]}]', frames)
    assert read.status is Status.REPAIRED and read.regions[0].geometry == Box(0, 200, 500, 250)
    odd = [Frame.letterboxed(1000, 333)]  # 333 px end within a cell: rounding outward to it is no repair
    assert answer.parse(answer.format([Region(1, Box(0, 0.5, 1000, 333))], odd), odd).status is Status.OK


@pytest.mark.parametrize(("region", "message"), [
    (Region(3, Box(0, 0, 1, 1)), "there are 2 images"),
    (Region(1, Box(300, 0, 301, 1)), "outside image 1"),
    (Region(1, Mask.from_array(np.ones((3, 3)))), "resample the mask"),
    (Region(1, Box(0, 0, 1, 1), assessable=False, reason="cloud"), "not assessable"),
])
def test_what_cannot_be_written_is_named(region, message):
    with pytest.raises(InputError, match=message):
        answer.format([region], PLAIN)


@pytest.mark.parametrize("prose", ["[]", "see [{", "[[1", "ends with [", '{"image":1}', "[12, 3]"])
def test_prose_that_looks_like_a_list_is_refused(prose):
    with pytest.raises(InputError, match="brackets"):
        answer.format([], PLAIN, prose=prose)


def test_select_keeps_the_largest_in_the_order_given():
    sizes = [3, 9, 1, 9, 5]
    regions = [Region(1, Box(i, 0, i + size, 1)) for i, size in enumerate(sizes)]
    kept, left_out = answer.select(regions, 3)
    assert ([sizes[regions.index(r)] for r in kept], left_out) == ([9, 9, 5], 2)
    assert answer.select(regions[:2]) == (tuple(regions[:2]), 0)
    assert answer.select([regions[1], regions[3]], 1)[0] == (regions[1],), "equal sizes: the more left one"
    mask = Region(1, Mask.from_array(np.eye(8)))  # 8 px in a box of 64
    assert answer.select([mask, regions[1]], 1)[0] == (regions[1],)


# --- tolerance -------------------------------------------------------------------------------------------------------

ROAD, HOUSE = Region(1, Box(25.6, 51.2, 76.8, 102.4), "road"), Region(2, Box(2.56, 5.12, 7.68, 10.24), "new building")
BOTH = (ROAD, HOUSE)

MUTATIONS = {
    "swapped corners": (GOOD.replace("100,200,300,400", "300,200,100,400"), "repaired", BOTH, "swapped"),
    "outside": (GOOD.replace("[10,20,30,40]", "[-5,20,30,4000]"), "repaired",
                (ROAD, Region(2, Box(0, 5.12, 7.68, 256), "new building")), "clipped"),
    "far outside": (GOOD.replace("[10,20,30,40]", "[1000,20,1100,40]"), "repaired", (ROAD,), "outside"),
    "float": (GOOD.replace("[10,", "[10.5,"), "repaired", (ROAD, Region(2, Box(2.688, 5.12, 7.68, 10.24), "new building")),
              "integer"),
    "whole float": (GOOD.replace("[10,", "[10.0,"), "repaired", BOTH, "integer"),
    "number in quotes": (GOOD.replace("[10,", '["10",'), "repaired", BOTH, "integer"),
    "no width": (GOOD.replace("10,20,30,40", "10,20,10,40"), "repaired",
                 (ROAD, Region(2, Box(2.56, 5.12, 2.816, 10.24), "new building")), "one cell"),
    "hardly any width": (GOOD.replace("10,20,30,40", "10,20,10.0000000001,40"), "repaired",
                         (ROAD, Region(2, Box(2.56, 5.12, 2.816, 10.24), "new building")), "one cell"),
    "trailing text": (GOOD + " Hope this helps!", "repaired", BOTH, "after the list"),
    "trailing blank": (GOOD + "\n", "repaired", BOTH, "exactly"),
    "blanks": (GOOD.replace(",", ", "), "repaired", BOTH, "exactly"),
    "key order": ('[{"bbox_2d":[100,200,300,400],"image":1,"label":"road"}]', "repaired", (ROAD,), "exactly"),
    "other escapes": (GOOD.replace("road", "r\\u006fad"), "repaired", BOTH, "exactly"),
    "leading zero blank": ("\n" + GOOD, "repaired", BOTH, "exactly"),
    "order": (f"[{GOOD[1:-1].replace('},{', '}~{').split('~')[1]},{GOOD[1:-1].replace('},{', '}~{').split('~')[0]}]",
              "repaired", (HOUSE, ROAD), "order"),
    "cut in the second": (GOOD[:-20], "truncated", (ROAD,), "cut off"),
    "cut before the bracket": (GOOD[:-1], "truncated", BOTH, "cut off"),
    "cut in the first": (GOOD[:20], "truncated", None, "cut off"),
    "unknown key": (GOOD.replace('"label":"road"', '"label":"road","score":0.9'), "repaired", BOTH, "unknown key 'score'"),
    "repeated key": (GOOD.replace('"label":"road"', '"label":"x","label":"road"'), "repaired", BOTH, "twice"),
    "wrong image": (GOOD.replace('"image":2', '"image":3'), "repaired", (ROAD,), "not there"),
    "image zero": (GOOD.replace('"image":2', '"image":0'), "repaired", (ROAD,), "not there"),
    "image true": (GOOD.replace('"image":1', '"image":true'), "repaired", (HOUSE,), "not there"),
    "image in quotes": (GOOD.replace('"image":2', '"image":"2"'), "repaired", BOTH, "image number"),
    "duplicate commas": (GOOD.replace("},{", "},,{"), "repaired", BOTH, "commas"),
    "missing comma": (GOOD.replace("},{", "}{"), "repaired", BOTH, "commas"),
    "trailing comma": (GOOD.replace("}]", "},]"), "repaired", BOTH, "commas"),
    "comma inside": (GOOD.replace("400]", "400,]"), "repaired", BOTH, "surplus comma"),
    "double comma inside": (GOOD.replace("100,200", "100,,200"), "repaired", BOTH, "surplus comma"),
    "code fence": (f"```json\n{GOOD}\n```", "repaired", BOTH, "code fence"),
    "single object": (GOOD[1:GOOD.index("},") + 1], "repaired", (ROAD,), "alone"),
    "single quotes": (GOOD.replace('"', "'"), "repaired", BOTH, "single quotes"),
    "NaN": (GOOD.replace("[10,", "[NaN,"), "repaired", (ROAD,), "without a readable box"),
    "infinite": (GOOD.replace("[10,", "[1e999,"), "repaired", (ROAD,), "without a readable box"),
    "5000 digits": (GOOD.replace("40]", "9" * 5000 + "]"), "repaired", (ROAD,), "without a readable box"),
    "huge": (GOOD.replace("30,40]", "30,1" + "0" * 250 + "]"), "repaired",
             (ROAD, Region(2, Box(2.56, 5.12, 7.68, 256), "new building")), "clipped"),
    "three numbers": (GOOD.replace("10,20,30,40", "10,20,30"), "repaired", (ROAD,), "without a readable box"),
    "no commas": (GOOD.replace("10,20,30,40", "10 20 30 40"), "repaired", (ROAD,), "could not be read"),
    "quote in a label": (GOOD.replace("road", 'the "old" road'), "repaired", (HOUSE,), "could not be read"),
    "quote left open": (GOOD.replace('"road"', '"road'), "repaired", (HOUSE,), "could not be read"),
    "label is a number": (GOOD.replace('"road"', "7"), "repaired", (Region(1, ROAD.geometry, "7"), HOUSE), "label"),
    "label is empty": (GOOD.replace('"road"', '""'), "repaired", (Region(1, ROAD.geometry), HOUSE), "exactly"),
    "one point": (GOOD.replace('"label":"road"', '"points":[[150,250]],"label":"road"'), "repaired", BOTH, "points"),
    "three coordinates": (GOOD.replace('"label":"road"', '"points":[[150,250,1],[1,2]],"label":"road"'), "repaired", BOTH,
                          "points"),
    "point outside": (GOOD.replace('"label":"road"', '"points":[[150,250],[1,2]],"label":"road"'), "repaired", BOTH,
                      "outside their box"),
    "text in the list": (GOOD.replace("},{", '},"and",{'), "repaired", BOTH, "no region"),
    "two lists": (GOOD + "\n" + GOOD, "repaired", BOTH, "after the list"),
    "empty list first": ("[] or rather\n" + GOOD, "repaired", BOTH, "before the list"),
    "all unreadable": ('[{"image":1,"bbox_2d":"?"}]', "invalid", None, "without a readable box"),
    "all elsewhere": ('[{"image":9,"bbox_2d":[1,2,3,4]}]', "invalid", None, "not there"),
    "other keys": ('[{"x":1}]', "invalid", None, "not there"),
    "bare boxes": ("[[100,200,300,400]]", "invalid", None, "no region"),
    "numbers": ("[100, 200, 300, 400]", "invalid", None, "no region"),
    "empty": ("", "invalid", None, "empty"),
    "blank": (" \n ", "invalid", None, "empty"),
    "not UTF-8": (GOOD.replace("road", "ro\xffd").encode("latin-1"), "repaired",
                  (Region(1, ROAD.geometry, "ro\ufffdd"), HOUSE), "UTF-8"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_repair_is_marked(name):
    text, status, regions, sentence = MUTATIONS[name]
    read = answer.parse(text, PLAIN)
    assert read.status == status and sentence in "; ".join(read.repairs), read
    assert read.regions is None if regions is None else len(read.regions) == len(regions)
    for got, expected in zip(read.regions or (), regions or (), strict=True):
        assert (got.image, got.label) == (expected.image, expected.label)
        assert got.geometry.as_tuple() == pytest.approx(expected.geometry.as_tuple())


def test_the_unmutated_text_needs_no_repair():
    assert answer.parse(GOOD, PLAIN) == Answer(GOOD, "", answer.parse(GOOD.encode(), PLAIN).regions, Status.OK, ())
    assert [r.label for r in answer.parse(GOOD, PLAIN).regions] == ["road", "new building"]


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_no_change_of_a_character_goes_unmarked(data):
    """One character of the list changed, removed or added: the values differ, or the reader says what it mended."""
    at = data.draw(st.integers(0, len(GOOD) - 1))
    char = data.draw(st.sampled_from(list('0159[]{},:"\' .-xé\\\n\t')))
    text = data.draw(st.sampled_from([GOOD[:at] + char + GOOD[at + 1:], GOOD[:at] + GOOD[at + 1:], GOOD[:at] + char + GOOD[at:]]))
    read = answer.parse(text, PLAIN)
    assert (read.status is Status.OK) == (not read.repairs)
    if read.status is Status.OK and read.regions is not None:
        assert answer.format(read.regions, PLAIN, prose=read.prose) == text
    elif read.status is Status.OK:
        assert read.prose == text.strip() and not text.startswith("[{")


def test_length_limit_is_truncation_even_when_the_list_is_whole():
    read = answer.parse(GOOD, PLAIN, finish_reason="length")
    assert (read.status, len(read.regions)) == (Status.TRUNCATED, 2) and "length limit" in read.repairs[0]
    assert answer.parse("A long senten", PLAIN, finish_reason="length").status is Status.TRUNCATED
    assert answer.parse("[]", PLAIN).regions == () and answer.parse("[", PLAIN).regions is None


def test_a_missing_image_number_is_taken_for_granted_only_where_there_is_one_image():
    text = '[{"bbox_2d":[1,2,3,4]}]'
    assert answer.parse(text, PLAIN[:1]).status is Status.REPAIRED
    assert answer.parse(text, PLAIN).status is Status.INVALID


@pytest.mark.parametrize("text", [
    "I cannot help with that.", "I'm sorry, the image is missing.", "The area is not assessable.",
    "Image 2 is covered by cloud and cannot be assessed.\n[]", "I can’t tell.", "As an AI, I have no eyes.",
])
def test_refusals(text):
    read = answer.parse(text, PLAIN)
    assert (read.status, read.regions) == (Status.REFUSED, None)


@pytest.mark.parametrize("text", ["I cannot see any change.", "I can't find new buildings.", "No change.", "Candidates [1] remain.",
                                  "Yes", "12", "Image 2", "a [note] on {x}"])
def test_prose_is_no_refusal_and_no_list(text):
    read = answer.parse(text, PLAIN)
    assert (read.status, read.prose, read.regions, read.repairs) == (Status.OK, text, None, ())


def test_a_refusing_sentence_does_not_hide_regions():
    assert answer.parse("I cannot be sure.\n" + GOOD, PLAIN).status is Status.OK


@pytest.mark.parametrize(("text", "status", "count", "sentence"), [
    ("[10, 20, 30, 40], [1, 2, 3, 4]", "ok", 2, ""),
    ("Built here.\n[10, 20, 30, 40]", "ok", 1, ""),
    ("No building was built.", "ok", None, ""),
    ("[]", "ok", 0, ""),
    ("[10,20,30,40]", "repaired", 1, "exactly"),
    ("[30, 20, 10, 40]", "repaired", 1, "swapped"),
    ("[10, 20, 30, 400]", "repaired", 1, "clipped"),
    ("[10.5, 20, 30, 40]", "repaired", 1, "integer"),
    ("The house at [10, 20, 30, 40] is gone.", "repaired", 1, "inside the prose"),
    ("[10, 20, 30, 40], [1, 2, 3]", "repaired", 1, "not four"),
    ("[1, 2, 3]", "invalid", None, "not four"),
    ("[10, 20, 30, 40], [1, 2", "truncated", 1, "cut off"),
    ("[bbox]", "ok", None, ""),
])
def test_teochat_is_read_as_tolerantly(text, status, count, sentence):
    read = answer.parse(text, PLAIN, mode="teochat")
    assert read.status == status and sentence in "; ".join(read.repairs), read
    assert (None if read.regions is None else len(read.regions)) == count


@given(st.lists(st.sampled_from([0, 5e-324, 1e-300, 1e-7, 149, 149.2, 149.5, 150, 150.5, 448, 999.9999999999, 1000, 1e9]) | st.floats(),
                min_size=4, max_size=4), frames_st)
@settings(max_examples=300, deadline=None)
def test_any_numbers_become_a_box_or_a_note(numbers, frames):
    """Boxes that end where a letterboxed image ends within a cell, that are thinner than a float can tell, or far away."""
    frames = [*frames[:1], Frame.letterboxed(1000, 333, 448)]
    for image in (1, 2):
        read = answer.parse(f'[{{"image":{image},"bbox_2d":{numbers}}}]', frames)
        assert read.regions or read.repairs, read


@given(st.binary(max_size=200) | st.text(max_size=100) | st.text('[]{},:"\'\\ 0123.-imagebox_2dlabelpoints\n`', max_size=120),
       st.sampled_from(["geotempo", "teochat"]), st.sampled_from(["stop", "length", ""]), st.integers(0, 3))
@settings(max_examples=400, deadline=None)
def test_any_text_and_bytes_become_an_answer(text, mode, reason, count):
    read = answer.parse(text, PLAIN[:1] * count, mode=mode, finish_reason=reason)
    assert isinstance(read.status, Status)
    assert read.text == text or isinstance(text, bytes)
    assert not (read.status is Status.OK and read.repairs)
    assert read.repairs or read.status in (Status.OK, Status.REFUSED)
    for region in read.regions or ():
        assert 0 <= region.geometry.x1 < region.geometry.x2 <= 256 and 1 <= region.image <= count


@pytest.mark.parametrize("unit", ["[", "{", "[{", "[{},", '{"image":', '[{"image":1},', '"', "'", "[ ", '[{"a":"\\"', "[]", "```",
                                  "[1", "[1,2,3,4]", "{'image'", '[{"a":['])
def test_hostile_text_takes_linear_time(unit):
    text = unit * (200_000 // len(unit))
    start = time.perf_counter()
    read = answer.parse(text, PLAIN)
    answer.parse(text, PLAIN, mode="teochat")
    assert time.perf_counter() - start < 5, "quadratic time would be minutes; the margin is for a busy machine"
    assert len(read.repairs) < 20


# --- short answers ---------------------------------------------------------------------------------------------------


@given(st.sets(st.integers(1, 9)))
def test_image_lists_come_back(numbers):
    assert answer.parse_images(answer.format_images(numbers), 9) == tuple(sorted(numbers))


@pytest.mark.parametrize(("text", "expected"), [
    ("Image 4, Image 5", (4, 5)), ("images 5 and 4", (4, 5)), ("Images 2-4", (2, 3, 4)), ("4, 5", (4, 5)), ("3", (3,)),
    ("It was finished in Image 4.", (4,)), ("Image 2, view NIR", (2,)), ("No image", ()), ("None of the images.", ()),
    ("Image 9", None), ("Image 0", None), ("not in Image 3", None), ("Image 2 to Image 4", None), ("", None),
    ("the second one", None), ("Image 4.5", None), ("Images 4-2", None), ("Image 99999999999999", None),
    ("2019-02-31", None), ("Images 1-2-3", None), ("IMAGES 1 AND 2", (1, 2)), ("images 1, 2, and 3", (1, 2, 3)),
])
def test_parse_images(text, expected):
    assert answer.parse_images(text, 8) == expected


def test_format_images():
    assert answer.format_images([5, 4, 5]) == "Image 4, Image 5" and answer.format_images([]) == "No image"


@pytest.mark.parametrize(("text", "expected"), [
    ("12", 12), ("There are 12 new buildings.", 12), ("1,234", 1234), ("-3.5", -3.5), ("twelve", 12), ("Zero.", 0), ("12%", 12),
    ("about 250 m2", 250), ("In Image 2 there are 5.", 5), ("5 buildings (5)", 5), ("1e3", 1000.0), ("(7)", 7),
    ("3 or 4", None), ("2021-08-03", None), ("5-6", None), ("B12", None), ("none", None), ("", None), ("3,5", None),
    ("1.2.3", None), ("someone", None), ("5/6", None), ("9" * 400, None), ("٣", None),
])
def test_parse_number(text, expected):
    got = answer.parse_number(text)
    assert got == expected and type(got) is type(expected)


@pytest.mark.parametrize(("text", "expected"), [
    ("Yes", True), ("no.", False), ("Yes, there are no trees left.", True), ("No, yes would be wrong here", False),
    ("The answer is yes.", True), ("The answer is: no", False), ("No buildings were built.", False), ("**Yes**", True),
    ("Yes and no", None), ("yes/no", None), ("nothing", None), ("Yesterday", None), ("", None), ("There is no change", None),
    ("No doubt, yes.", None),
])
def test_parse_yes_no(text, expected):
    assert answer.parse_yes_no(text) is expected


@given(st.text(max_size=60))
def test_short_answers_never_raise(text):
    assert answer.parse_yes_no(text) in (True, False, None)
    assert answer.parse_number(text) is None or isinstance(answer.parse_number(text), int | float)
    assert answer.parse_images(text, 3) is None or set(answer.parse_images(text, 3)) <= {1, 2, 3}


def test_lossy_points_are_the_regions_own_where_it_has_them():
    array = np.zeros((100, 100), dtype=bool)
    array[10:50, 10:50] = True
    own = Region(1, Mask.from_array(array), points=((11.5, 11.5), (48.5, 48.5)))
    frames = [Frame.plain(100, 100)]
    assert answer.lossy_form(own, frames).points == own.points
    assert answer.lossy_form(Region(1, own.geometry), frames).points == interior_points(array)
    assert answer.lossy_form(own, frames, points=False).points is None
