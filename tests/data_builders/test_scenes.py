"""The world of the procedural scenes: determinism, exact masks, dates, nuisance."""

import hashlib
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from geotempo.data_builders.scenes import language
from geotempo.data_builders.scenes.calendar import acquisition_days, as_dates
from geotempo.data_builders.scenes.facts import aligned, changes_between
from geotempo.data_builders.scenes.raster import grow, take, window
from geotempo.data_builders.scenes.scene import (
    BARE,
    BUILDING,
    DEBRIS,
    EASY,
    FOREST,
    MAX_DATES,
    ROAD,
    WATER,
    Scene,
    SceneOptions,
    without_nuisance,
)
from geotempo.data_builders.scenes.world import generate
from geotempo.model.errors import InputError

_SHADOW, _CROWNS = 26, 8  # pixels that a building's shadow, a felled tree's shade reach beyond a change mask


def digest(scene: Scene) -> str:
    """Hash of everything that a scene shows and claims."""
    parts = [image.tobytes() for image in scene.images] + [cover.tobytes() for cover in scene.land_cover]
    parts += [mask.tobytes() for item in scene.objects for mask in item.masks if mask is not None]
    return hashlib.sha256(b"".join(parts) + repr((scene.dates, scene.events, scene.nuisance)).encode()).hexdigest()


def test_same_arguments_give_same_bytes_in_another_process() -> None:
    program = ("from geotempo.data_builders.scenes.world import generate; import hashlib;"
               "s = generate(3, 17, size=96, dates=3); print(hashlib.sha256(b''.join(i.tobytes() for i in s.images))"
               ".hexdigest())")
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    scene = generate(3, 17, size=96, dates=3)
    assert out == hashlib.sha256(b"".join(image.tobytes() for image in scene.images)).hexdigest()
    assert digest(scene) == digest(generate(3, 17, size=96, dates=3))
    assert digest(scene) != digest(generate(3, 18, size=96, dates=3))


@pytest.mark.parametrize(("size", "dates"), [(64, 1), (64, 8), (97, 3), (256, 2), (200, 5), (512, 2)])
def test_any_size_and_number_of_dates(size: int, dates: int) -> None:
    for index in range(4):
        scene = generate(1, index, size=size, dates=dates)
        assert len(scene.images) == len(scene.dates) == len(scene.land_cover) == len(scene.clouds) == dates
        assert all(image.shape == (size, size, 3) and image.dtype == np.uint8 for image in scene.images)
        assert 0.5 <= scene.gsd <= 2.0
        for item in scene.objects:
            assert all(mask is None or (mask.shape == (size, size) and mask.any()) for mask in item.masks)
        keys = [date.sort_key for date in scene.dates]
        assert keys == sorted(keys) and len(set(keys)) == dates


def test_arguments_out_of_range_are_refused() -> None:
    for call in (lambda: generate(-1, 0), lambda: generate(0, -1), lambda: generate(0, 0, size=20),
                 lambda: generate(0, 0, dates=0), lambda: generate(0, 0, dates=MAX_DATES + 1),
                 lambda: SceneOptions(nuisance=2), lambda: SceneOptions(kinds=()), lambda: SceneOptions(max_changes=0),
                 lambda: SceneOptions(building_px=(2, 8))):
        with pytest.raises(InputError):
            call()


def test_without_nuisance_images_differ_only_at_changes_and_do_differ_there() -> None:
    options, kinds = without_nuisance(SceneOptions(unchanged=0.0)), set()
    for index in range(40):
        scene = generate(5, index, size=160, dates=2, options=options)
        differs = (scene.images[0] != scene.images[1]).any(axis=2)
        union = np.zeros((160, 160), dtype=bool)
        changes = changes_between(scene, 0, 1)
        for change in changes:
            mask = change.item.masks[change.date]
            assert mask is not None
            kinds.add(change.kind)
            reach = _CROWNS if change.kind in ("flooded", "cleared", "road added") else _SHADOW
            union |= grow(mask, reach)
            least = 0.05 if change.kind == "damaged" else 0.9
            assert differs[mask].mean() > least, (index, change.kind, change.grade)
        rim = np.pad(np.zeros((144, 144), dtype=bool), 8, constant_values=True)  # shade of changes beyond the border
        assert not (differs & ~union & ~rim).any(), index
        assert bool(changes) == bool(differs.any())
    assert kinds == set(options.kinds)


def test_nuisance_leaves_the_world_as_it_is() -> None:
    for index in range(6):
        noisy, plain = generate(2, index, size=128, dates=2), \
            generate(2, index, size=128, dates=2, options=without_nuisance(SceneOptions()))
        assert noisy.events == plain.events
        assert np.array_equal(noisy.land_cover[0], plain.land_cover[0])  # the first date is the reference grid
        moved = aligned(noisy, noisy.land_cover[1], 1, 0)[4:-4, 4:-4]
        assert np.array_equal(moved, plain.land_cover[1][4:-4, 4:-4])


def test_footprints_are_the_building_pixels_of_the_land_cover() -> None:
    for index in range(12):
        scene = generate(4, index, size=192, dates=3)
        for date, cover in enumerate(scene.land_cover):
            standing = [item for item in scene.of_kind("building") if item.there(date)]
            union = np.zeros(cover.shape, dtype=int)
            for item in standing:
                assert item.masks[date] is not None
                union += item.masks[date]
                expected = DEBRIS if item.grades[date] == 3 else BUILDING
                assert (cover[item.masks[date]] == expected).all()
            assert union.max(initial=0) <= 1
            assert np.array_equal(union == 1, np.isin(cover, (BUILDING, DEBRIS)))
            # Buildings keep their distance, so connected components count them independently.
            assert ndimage.label(union)[1] == len(standing)


def test_area_masks_have_the_land_cover_that_they_stand_for() -> None:
    values = {"flood": WATER, "clearing": BARE, "new road": ROAD, "road": ROAD, "water": WATER, "forest": FOREST}
    seen = set()
    for index in range(40):
        scene = generate(6, index, size=128, dates=2)
        for item in scene.objects:
            for mask, cover in zip(item.masks, scene.land_cover, strict=True):
                if mask is not None and item.kind in values:
                    seen.add(item.kind)
                    assert (cover[mask] == values[item.kind]).all()
    assert seen == set(values)


def test_masks_sit_on_the_edges_that_the_image_shows() -> None:
    """Moved by any whole pixel, a roof outline lies on weaker edges than where the ground truth puts it."""
    moves = [(x, y) for x in range(-2, 3) for y in range(-2, 3)]
    score = np.zeros(len(moves))
    for index in range(10):
        scene = generate(7, index, dates=2, options=SceneOptions(clouds=0.0))
        light = scene.images[1].astype(float).mean(axis=2)
        edges = np.hypot(ndimage.sobel(light, 0), ndimage.sobel(light, 1))
        for item in scene.of_kind("building"):
            mask = item.masks[1]
            if mask is not None and item.grades[1] == 0:
                rim = ndimage.binary_dilation(mask) & ~ndimage.binary_erosion(mask)
                score += [edges[np.roll(rim, (y, x), (0, 1))].mean() for x, y in moves]
    assert moves[int(score.argmax())] == (0, 0)


def test_events_are_the_steps_of_the_masks() -> None:
    for index in range(10):
        scene = generate(8, index, size=96, dates=5)
        for event in scene.events:
            item = scene.objects[event.object]
            assert event.before == event.after + 1
            was, now = item.there(event.after - 1), item.there(event.before - 1)
            if event.kind == "demolished":
                assert was and not now
            elif event.kind == "damaged":
                assert was and now and item.grades[event.before - 1] == event.grade > item.grades[event.after - 1]
            else:
                assert now and not was
        assert len(scene.events) <= scene.options.max_changes


def test_distribution_of_sequences() -> None:
    kinds, counts, buildings, sides = [], [], [], []
    for index in range(160):
        scene = generate(9, index, size=48)
        kinds.append(scene.kind)
        counts.append(len(scene.images))
        if index < 30:
            large = generate(9, index, dates=1)
            buildings.append(len(large.of_kind("building")))
            for item in large.of_kind("building"):
                assert item.masks[0] is not None
                box = ndimage.find_objects(item.masks[0].astype(int))[0]
                sides.append(min(box[0].stop - box[0].start, box[1].stop - box[1].start))
    several = [kind for kind, count in zip(kinds, counts, strict=True) if count > 1]
    unchanged = (several.count("identical") + several.count("nuisance")) / len(several)
    assert 0.08 < unchanged < 0.28 and several.count("identical") > 0
    assert set(counts) == set(range(1, 9)) and counts.count(2) > len(counts) / 2
    assert np.mean([3 <= count <= 12 for count in buildings]) > 0.95
    assert np.mean(np.array(sides) >= 10) > 0.9 and max(sides) <= 70


def test_identical_and_nuisance_pairs() -> None:
    options = SceneOptions(unchanged=1.0)
    kinds = set()
    for index in range(16):
        scene = generate(10, index, size=64, dates=2, options=options)
        kinds.add(scene.kind)
        assert not scene.events and not changes_between(scene, 0, 1)
        assert np.array_equal(*scene.images) == (scene.kind == "identical")
    assert kinds == {"identical", "nuisance"}


def test_clouds_hide_and_say_so() -> None:
    scene = next(s for s in (generate(11, i, size=128, dates=2, options=SceneOptions(clouds=1.0)) for i in range(50))
                 if any(not item.assessable(1) for item in s.of_kind("building")))
    assert all(0.02 < cloud.mean() < 0.6 for cloud in scene.clouds)
    hidden = next(item for item in scene.of_kind("building") if not item.assessable(1))
    if hidden.masks[1] is not None:
        assert (scene.clouds[1] & hidden.masks[1]).sum() / hidden.masks[1].sum() == pytest.approx(1 - hidden.visible[1])
    bright = scene.images[1][scene.clouds[1]].mean()
    assert bright > scene.images[1][~scene.clouds[1]].mean() + 40


def test_easy_scenes_are_easy() -> None:
    for index in range(10):
        scene = generate(12, index, options=EASY)
        assert len(scene.images) == 2 and len(scene.events) <= 3 and not any(cloud.any() for cloud in scene.clouds)
        assert len(scene.of_kind("building")) <= 5


@given(st.integers(0, 10**6), st.integers(1, 8))
def test_dates_are_strictly_in_order(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    keys = [date.sort_key for date in as_dates(rng, acquisition_days(rng, count))]
    assert all(first < second for first, second in pairwise(keys))


@given(st.floats(-2, 2), st.floats(-2, 2))
def test_window_is_the_nearest_whole_pixel_of_the_bilinear_shift(x: float, y: float) -> None:
    size = 16
    canvas = np.zeros((size + 8, size + 8), dtype=np.float32)
    canvas[8:16, 8:16] = 1
    soft, hard = take(canvas, (x, y), size), canvas[window((x, y), size)]
    assert np.abs(soft - hard).max() <= 0.75 + 1e-4  # half a pixel each way at a corner


def test_places() -> None:
    assert language.place([(10, 10), (40, 20)], 256) == " in the upper left"
    assert language.place([(128, 10)], 256) == " at the top"
    assert language.place([(10, 10), (10, 250)], 256) == " in the left half"
    assert language.place([(10, 10), (250, 250)], 256) == ""
    assert language.joined(["a"]) == "a" and language.joined(["a", "b", "c"]) == "a, b and c"
