"""Which part of an image SAM looks at for which region."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geotempo.model.crops import CONTEXT, SMALL, SMALLEST_CROP, Window, looks
from geotempo.model.geometry import Box

SIDE = 256


def scale_of(width, height):
    return (SIDE / max(width, height),) * 2


@st.composite
def scenes(draw):
    width, height = draw(st.integers(10, 4096)), draw(st.integers(10, 4096))
    boxes = []
    for _ in range(draw(st.integers(1, 12))):
        x1, y1 = draw(st.floats(0, width - 1)), draw(st.floats(0, height - 1))
        boxes.append(Box(x1, y1, min(width, x1 + draw(st.floats(0.5, width))), min(height, y1 + draw(st.floats(0.5, height)))))
    return boxes, width, height


@settings(max_examples=200, deadline=None)
@given(scenes())
def test_every_region_has_one_look_that_holds_it(scene):
    boxes, width, height = scene
    found = looks(boxes, width, height, SIDE, scale_of(width, height))
    assert sorted(i for look in found for i in look.members) == list(range(len(boxes)))
    for look in found:
        window = look.window
        assert 0 <= window.x1 < window.x2 <= width and 0 <= window.y1 < window.y2 <= height
        for i in look.members:
            assert window.x1 <= boxes[i].x1 + 1e-6 and boxes[i].x2 <= window.x2 + 1e-6
            assert window.y1 <= boxes[i].y1 + 1e-6 and boxes[i].y2 <= window.y2 + 1e-6


@settings(max_examples=200, deadline=None)
@given(scenes())
def test_a_crop_enlarges(scene):
    boxes, width, height = scene
    for look in looks(boxes, width, height, SIDE, scale_of(width, height)):
        if look.window != Window(0, 0, width, height):
            side = max(look.window.x2 - look.window.x1, look.window.y2 - look.window.y1)
            assert side <= max(width, height)
            smallest = min(min(boxes[i].x2 - boxes[i].x1, boxes[i].y2 - boxes[i].y1) for i in look.members)
            assert smallest * scale_of(width, height)[0] < SMALL


def test_a_large_object_is_seen_on_the_whole_image_and_a_small_one_on_a_crop_that_makes_it_large():
    boxes = [Box(100, 100, 200, 180), Box(20, 30, 28, 42)]
    whole, crop = looks(boxes, 256, 256, SIDE, (1.0, 1.0))
    assert (whole.window, whole.members) == (Window(0, 0, 256, 256), (0,))
    side = crop.window.x2 - crop.window.x1
    assert crop.members == (1,) and side == crop.window.y2 - crop.window.y1 == 8 * SIDE // SMALL
    assert 8 * SIDE / side == SMALL


@pytest.mark.parametrize(("box", "side"), [(Box(100, 100, 150, 102), 50 * CONTEXT), (Box(100, 100, 101, 101), SMALLEST_CROP)])
def test_a_crop_keeps_some_context(box, side):
    [crop] = looks([box], 1000, 1000, SIDE, scale_of(1000, 1000))
    assert crop.window.x2 - crop.window.x1 == side


def test_neighbours_share_a_crop_and_distant_objects_do_not():
    near = [Box(20, 20, 30, 30), Box(40, 22, 50, 32), Box(25, 45, 36, 56)]
    far = [Box(400, 400, 410, 410)]
    found = looks(near + far, 512, 512, SIDE, (0.5, 0.5))
    assert sorted(look.members for look in found) == [(0, 1, 2), (3,)]


def test_a_crop_at_the_border_is_moved_inside():
    [crop] = looks([Box(0, 250, 8, 256)], 256, 256, SIDE, (1.0, 1.0))
    assert (crop.window.x1, crop.window.y2) == (0, 256) and crop.window.y1 == 256 - 6 * SIDE // SMALL


def test_without_a_scale_there_are_no_crops():
    [only] = looks([Box(0, 0, 2, 2), Box(5, 5, 9, 9)], 100, 100, SIDE, None)
    assert only.members == (0, 1) and only.window == Window(0, 0, 100, 100)
