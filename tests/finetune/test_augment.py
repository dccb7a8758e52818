"""Augmentation: light and compression leave geometry alone, turns take it along, blank leaves nothing to see."""

import io
import random
from itertools import product

import numpy as np
import pytest
from PIL import Image

from geotempo.data_builders.sample import Message, Sample
from geotempo.data_builders.store import Store
from geotempo.finetune.augment import MID_GREY, Augment, Turn
from geotempo.finetune.dataset import IGNORE, StoreDataset, select
from geotempo.finetune.recipe import DataSection
from geotempo.model import answer
from geotempo.model.checkpoints import load_processor
from geotempo.model.errors import ConfigError
from geotempo.model.geometry import Box, GridMask, Mask, Polygon, RotatedBox, rasterize
from geotempo.model.records import Frame, ImageRecord, Region

SIDE = 40
TURNS = [Turn(*choice) for choice in product((False, True), repeat=3)]
BLOB = np.zeros((SIDE, SIDE), dtype=bool)
BLOB[3:9, 5:30] = BLOB[9:20, 5:12] = True

GEOMETRIES = {
    "box": Box(3, 5, 17, 33),
    "rotated box": RotatedBox(15, 22, 20, 8, 27),
    "polygon with a hole": Polygon(((2, 3), (30, 5), (26, 33), (8, 28)), (((10, 10), (18, 10), (15, 20)),)),
    "mask": Mask.from_array(BLOB),
    "grid": GridMask.from_array(Box(4, 8, 36, 24), np.array([[1, 0, 0, 1], [1, 1, 0, 0]])),
}


def picture(array):
    return Image.fromarray(np.asarray(array, dtype=np.uint8)).convert("RGB")


def record(name, size=(SIDE, SIDE)):
    target = io.BytesIO()
    Image.new("RGB", size).save(target, "PNG")
    return ImageRecord(name, *size, data=target.getvalue())


def sample(*texts, regions=(), size=(SIDE, SIDE)):
    turns = [Message("user" if i % 2 == 0 else "assistant", ("<image><image>" if i == 0 else "") + text) for i, text in enumerate(texts)]
    return Sample("d/train/1#change_caption", "d", "train", "change_caption", (record("a", size), record("b", size)), tuple(turns),
                  tuple(regions), {"licence": "CC0-1.0"})


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_turned_geometry_covers_what_the_turned_picture_shows(turn, name):
    geometry = GEOMETRIES[name]
    shown = np.asarray(turn.picture(picture(255 * rasterize(geometry, SIDE, SIDE))))[..., 0] > 0
    turned = rasterize(turn.geometry(geometry, SIDE), SIDE, SIDE)
    # pixel centres that lie exactly on an edge may fall to either side of it
    assert (shown != turned).sum() <= (0 if name in ("box", "mask", "grid") else 2)
    assert type(turn.geometry(geometry, SIDE)) is type(geometry)


def test_the_turns_are_eight_different_ones():
    array = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 251
    assert len({turn.picture(picture(array)).tobytes() for turn in TURNS}) == 8


@pytest.mark.parametrize("turn", TURNS)
def test_points_stay_inside_their_object(turn):
    region = Region(2, Mask.from_array(BLOB), "building", points=((20.5, 5.5), (8.5, 18.5)))
    turned = turn.sample(sample("Where?", "<regions:0>", regions=[region])).regions[0]
    mask = rasterize(turned.geometry, SIDE, SIDE)
    assert all(mask[int(y), int(x)] for x, y in turned.points)


@pytest.mark.parametrize(("text", "turned"), [
    ("a house is built at the top", False), ("a house is built in the lower left corner", False), ("the north-eastern field", False),
    ("trees below the road", False), ("a road appears to the RIGHT", False), ("a house is built on the bare land", True),
    ("stop signs and brightness remain", True),
])
def test_samples_whose_words_tell_a_direction_are_not_turned(text, turned):
    augment, found = Augment(turns=True), sample("Describe the change.", text)
    drawn = {augment.draw_turn(found, random.Random(seed)) for seed in range(60)}
    assert drawn == (set(TURNS) if turned else {Turn()})


def test_labels_tell_directions_too_and_oblong_images_are_not_turned():
    augment = Augment(turns=True)
    labelled = sample("Where?", "<regions:0>", regions=[Region(1, Box(1, 1, 5, 5), "leftmost house")])
    for still in (labelled, sample("What?", "a house", size=(30, 40))):
        assert {augment.draw_turn(still, random.Random(seed)) for seed in range(20)} == {Turn()}


def test_without_turns_the_randomness_is_left_alone():
    rng = random.Random(5)
    state = rng.getstate()
    assert Augment(brightness=0.1).draw_turn(sample("What?", "a house"), rng) == Turn()
    assert rng.getstate() == state


def test_light_is_one_for_all_dates_but_for_the_flicker():
    grey = picture(np.full((SIDE, SIDE), 100))
    first, second = Augment(brightness=0.3)([grey, grey], random.Random(1))
    assert first.tobytes() == second.tobytes() != grey.tobytes()
    first, second = Augment(flicker=0.3)([grey, grey], random.Random(1))
    assert first.tobytes() != second.tobytes()


def test_blank_pictures_are_all_the_same_whatever_was_on_them():
    noise = picture(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE)))
    shown = Augment(blank=True, brightness=0.3, flicker=0.2, jpeg=(50, 60))([noise, picture(BLOB)], random.Random(3))
    assert [image.getcolors() for image in shown] == [[(SIDE * SIDE, MID_GREY)]] * 2


def test_what_a_turned_sample_answers_is_what_its_turned_picture_shows(store, base):
    """Through the whole way to tensors: the answered box is where the pixels are bright."""
    opened, processor = Store(store), load_processor(base)[1]
    section = DataSection(str(store), tasks=("change_grounding",), augment={"turns": True})
    dataset = StoreDataset(opened, [row for row in select(opened, section) if opened.facts(row).regions], processor, section)
    answers = set()
    for epoch in range(12):
        dataset.epoch = epoch
        item = dataset[0]
        text = processor.tokenizer.decode(item["input_ids"][item["labels"] != IGNORE], skip_special_tokens=True)
        found = answer.parse(text, [Frame.plain(64, 64)] * 2).regions
        inside = rasterize(found[0].geometry, 64, 64)
        pixels = item["images"]["pixel_values"][1].mean(dim=0).numpy()
        assert pixels[inside].min() > pixels[~inside].max()
        assert dataset.length(0) >= len(item["input_ids"])
        answers.add(text)
    assert len(answers) > 3


@pytest.mark.parametrize(("given", "message"), [
    ({"turns": 1}, "turns must be true or false"), ({"blank": "yes"}, "blank must be true or false"),
    ({"brightness": 1.5}, "brightness must be from 0"), ({"jpeg": (90, 50)}, "lowest, highest"),
])
def test_wrong_strengths_are_named(given, message):
    with pytest.raises(ConfigError, match=message):
        Augment(**given)
