"""Grids in answers: what is written is read back, and no broken grid costs the box."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geotempo.model import answer
from geotempo.model.answer_cells import ROW, to_cells, write_cells
from geotempo.model.geometry import Box, GridMask, Mask, Polygon, RotatedBox, area, bounds, coverage, rasterize
from geotempo.model.records import Frame, Region, Status

PLAIN = [Frame.plain(256, 256)]
EMPTY = "/" * 15
ROWS = "ap/ap/bo" + "/" * 13
WRITTEN = f'[{{"image":1,"bbox_2d":[0,0,1000,500],"grid":"{ROWS}","label":"flooded area"}}]'

cells_st = st.lists(st.lists(st.booleans(), min_size=16, max_size=16), min_size=16, max_size=16).filter(
    lambda rows: any(map(any, rows)))
frames_st = st.builds(lambda width, height, boxed, grid: (Frame.letterboxed if boxed else Frame.plain)(width, height, grid),
                      st.integers(1, 300), st.integers(1, 300), st.booleans(), st.sampled_from([100, 448, 1000, 9999])).filter(
                          # on an image narrower than a cell a point has no place to come back to
                          lambda frame: frame.width * frame.grid >= frame.span[0] and frame.height * frame.grid >= frame.span[1])


@st.composite
def shapes(draw: st.DrawFn) -> tuple[Frame, Region]:
    """A frame and a blob, scatter, rotated box or polygon that overlaps it."""
    frame = draw(frames_st)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["blob", "scatter", "rotated", "polygon"]))
    if kind in ("blob", "scatter"):
        ys, xs = np.mgrid[: frame.height, : frame.width]
        cx, cy, radius = rng.uniform(0, frame.width), rng.uniform(0, frame.height), rng.uniform(1, 150)
        array = np.hypot(xs - cx, ys - cy) < radius if kind == "blob" else rng.random((frame.height, frame.width)) < 0.4
        array[min(int(cy), frame.height - 1), min(int(cx), frame.width - 1)] = True
        return frame, Region(1, Mask.from_array(array), "area")
    rotated = RotatedBox(rng.uniform(0, frame.width), rng.uniform(0, frame.height), *rng.uniform(0.5, 100, 2), rng.uniform(0, 90))
    return frame, Region(1, rotated if kind == "rotated" else Polygon(rotated.corners()), "area")


@given(shapes(), st.booleans())
@settings(max_examples=200, deadline=None)
def test_grids_come_back_as_their_lossy_form(case, points):
    frame, region = case
    text = answer.format([region], [frame], points=points, grids=True)
    read = answer.parse(text, [frame])
    assert (read.status, read.repairs) == (Status.OK, ())
    assert read.regions == (answer.lossy_form(region, [frame], points=points, grids=True),)
    assert answer.format(read.regions, [frame], points=points, grids=True) == text, "written again in the same words"
    boxed = answer.lossy_form(region, [frame], points=points)
    kept = read.regions[0]
    assert (bounds(kept.geometry), kept.points, kept.label) == (boxed.geometry, boxed.points, "area")
    assert answer.format(read.regions, [frame]) == answer.format([region], [frame])


@given(shapes())
@settings(max_examples=100, deadline=None)
def test_a_cell_is_full_when_half_of_it_is_inside(case):
    frame, region = case
    kept = answer.lossy_form(region, [frame], grids=True).geometry
    share = coverage(region.geometry, bounds(kept), (16, 16))
    if isinstance(kept, GridMask):
        cells = kept.to_array()
        assert share[cells].min() >= 0.5 - 1e-6 and (cells.all() or share[~cells].max() < 0.5 + 1e-6)
    else:
        assert share.max() < 0.5 + 1e-6, "a grid is left out only where it would be empty"


def test_a_disc_in_a_grid_is_much_nearer_than_its_box():
    ys, xs = np.mgrid[:256, :256] + 0.5
    disc = np.hypot(xs - 128, ys - 128) < 100
    region = Region(1, Mask.from_array(disc))
    boxed, kept = (rasterize(answer.lossy_form(region, PLAIN, grids=grids).geometry, 256, 256) for grids in (False, True))
    iou = [(mask & disc).sum() / (mask | disc).sum() for mask in (boxed, kept)]
    assert iou[0] < 0.79 and iou[1] > 0.93


@given(cells_st)
def test_cells_are_written_in_the_rows_of_the_expression(rows):
    cells = tuple(map(tuple, rows))
    text = write_cells(cells)
    assert re.fullmatch(f"{ROW}(?:/{ROW}){{15}}", text)
    assert to_cells(GridMask(Box(3, 4, 19, 40), cells), Box(3, 4, 19, 40)) == cells
    (region,) = answer.parse(f'[{{"image":1,"bbox_2d":[10,10,200,300],"grid":"{text}"}}]', PLAIN).regions
    assert region.geometry.cells == cells


def test_the_text_is_the_documented_one():
    array = np.zeros((256, 256), dtype=bool)
    array[0:16] = True
    array[16:24, 16:64] = array[16:24, 96:112] = True
    array[127, 255] = True
    text = answer.format([Region(1, Mask.from_array(array), "flooded area", ((8.0, 8.0), (250.0, 9.0)))], PLAIN, points=True, grids=True)
    assert text == ('[{"image":1,"bbox_2d":[0,0,1000,500],"points":[[31,31],[977,35]],'
                    '"grid":"ap/ap/bdgg/////////////","label":"flooded area"}]')


def test_a_box_has_no_grid_and_neither_has_teochat():
    assert '"grid"' not in answer.format([Region(1, Box(0, 0, 9, 9))], PLAIN, grids=True)
    mask = Region(1, Mask.from_array(np.eye(256)))
    assert answer.format([mask], PLAIN, grids=True, mode="teochat") == "[0, 0, 100, 100]"
    assert '"grid"' not in answer.format([mask], PLAIN), "only when asked for"
    assert '"grid"' not in answer.format_region(mask, PLAIN)


def test_what_fills_no_cell_by_half_is_written_as_a_box():
    thin = np.zeros((256, 256), dtype=bool)
    np.fill_diagonal(thin, True)
    region = Region(1, Mask.from_array(thin))
    assert answer.format([region], PLAIN, grids=True) == '[{"image":1,"bbox_2d":[0,0,1000,1000]}]'
    assert isinstance(answer.lossy_form(region, PLAIN, grids=True).geometry, Box)


def test_select_compares_areas_of_grids():
    half = GridMask(Box(0, 0, 100, 100), ((True, False),))
    regions = [Region(1, half), Region(1, Box(0, 0, 60, 100)), Region(1, Box(0, 0, 40, 100))]
    assert area(half) == 5000 and answer.select(regions, 2)[0] == tuple(regions[:2])


BROKEN = {
    "too few rows": ("ap/ap/bo", ROWS, "too few rows"),
    "one row too many": (ROWS + "/ap", ROWS, "surplus rows"),
    "capitals": (ROWS.upper(), ROWS, "exactly"),
    "blank": (ROWS + " ", ROWS, "no run of cells"),
    "digits": (ROWS.replace("bo", "b1o"), ROWS, "no run of cells"),
    "half a run": (ROWS.replace("bo", "boc"), ROWS, "no run of cells"),
    "beyond the last column": (ROWS.replace("ap", "az", 1), ROWS, "beyond the last column"),
    "other letters": (ROWS.replace("bo", "b\u0131o\u00e9"), ROWS, "no run of cells"),
    "run backwards": (ROWS.replace("bo", "ob"), ROWS, "put in order"),
    "runs that touch": (ROWS.replace("bo", "bhio"), ROWS, "exactly"),
    "runs that overlap": (ROWS.replace("bo", "bkco"), ROWS, "exactly"),
    "runs out of order": (ROWS.replace("bo", "iobh"), ROWS, "exactly"),
    "empty": (EMPTY, None, "without a full cell"),
    "no text": ("", None, "without a full cell"),
    "words": ("a flooded field", None, "too few rows"),
    "very long": ("ap" * 50_000 + "/" * 50_000, "ap" + EMPTY, "surplus rows"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_grid_is_mended_and_never_costs_the_box(name):
    grid, mended, sentence = BROKEN[name]
    read = answer.parse(WRITTEN.replace(ROWS, grid), PLAIN)
    assert read.status is Status.REPAIRED and sentence in "; ".join(read.repairs), read.repairs
    (region,) = read.regions
    assert (bounds(region.geometry), region.label) == (Box(0, 0, 256, 128), "flooded area")
    if mended is not None:
        assert region == answer.parse(WRITTEN.replace(ROWS, mended), PLAIN).regions[0]
    elif name != "words":
        assert isinstance(region.geometry, Box)


@pytest.mark.parametrize("value", ["7", "null", '["ap"]', '{"a":1}', "true"])
def test_a_grid_that_is_no_text_is_left_out(value):
    read = answer.parse(WRITTEN.replace(f'"{ROWS}"', value), PLAIN)
    assert read.status is Status.REPAIRED and "a grid that is no text is left out" in read.repairs
    assert read.regions[0].geometry == Box(0, 0, 256, 128)


def test_a_grid_is_cut_with_its_box():
    """The box written reaches as far beyond the image as into it: the cells left are those that lie on the image."""
    text = '[{"image":1,"bbox_2d":[-1000,0,1000,1000],"grid":"' + "/".join(["aaip"] * 16) + '"}]'
    (region,) = answer.parse(text, PLAIN).regions
    assert region.geometry == GridMask(Box(0, 0, 256, 256), ((True,) * 16,) * 16)
    left = answer.parse(text.replace("aaip", "ah"), PLAIN)
    assert left.regions[0].geometry == Box(0, 0, 256, 256) and "a grid without a full cell is left out" in left.repairs
    swapped = answer.parse(text.replace("-1000,0,1000", "1000,0,-1000"), PLAIN).regions
    assert swapped == (region,), "swapped corners are the same box, and a grid is never mirrored"


@given(st.text(max_size=60) | st.text("abop/ Z", max_size=60), st.lists(st.integers(-10**300, 10**300) | st.floats(), min_size=4, max_size=4),
       st.text('"abp/{}[],:\\', max_size=8))
@settings(max_examples=200, deadline=None)
def test_any_grid_becomes_an_answer(grid, numbers, after):
    text = f'[{{"image":1,"bbox_2d":{numbers},"grid":{json.dumps(grid)}{after}}}]'
    read = answer.parse(text, PLAIN)
    assert read.regions or read.repairs
    for region in read.regions or ():
        assert answer.parse(answer.format([region], PLAIN, grids=True), PLAIN).status is Status.OK


@given(st.integers(0, len(WRITTEN) - 1), st.sampled_from(list('abop/"q, \\')), st.sampled_from(["change", "remove", "add"]))
@settings(max_examples=200, deadline=None)
def test_no_change_of_a_character_goes_unmarked(at, char, how):
    text = WRITTEN[:at] + ("" if how == "remove" else char) + WRITTEN[at + (how != "add"):]
    read = answer.parse(text, PLAIN)
    if read.status is Status.OK and read.regions is not None:
        assert answer.format(read.regions, PLAIN, grids=True, prose=read.prose) == text
    else:
        assert read.repairs or read.prose == text
