"""GeoPixelD: on the real example, and on small records with every trap."""

import json

import numpy as np
import pytest

from geotempo.data_builders.build import build_store
from geotempo.data_builders.check import check_store
from geotempo.data_builders.sources import make_source
from geotempo.data_builders.sources.geopixeld import outlined, split_of
from geotempo.data_builders.store import Store
from geotempo.model.errors import LayoutError
from geotempo.model.geometry import bounds, rasterize
from tests.data_builders.fixtures.instruct import save, write

BOX = [[2, 3], [2, 4], [2, 5], [3, 5], [4, 5], [4, 4], [4, 3], [3, 3]]


def record(answer, name="a", **fields):
    return {"id": 0, "image": f"data/GeoPixelD/train/{name}.png", "polygons": f"data/GeoPixelD/train/{name}.json",
            "conversations": [{"from": "human", "value": "Describe it with masks."}, {"from": "bot", "value": answer}], **fields}


def folder(root, records, outlines):
    save(root / "train" / "a.png", 1, (16, 8))
    (root / "train" / "a.json").write_text(json.dumps({"id": 0, "img": "a.png", "polygons": outlines}))
    write(root / "GeoPixelD.json", records)
    return root


def test_the_real_example(shared, tmp_path):
    manifest = build_store("geopixeld", shared("GeoPixelD"), tmp_path / "out", progress=False)
    store = Store(tmp_path / "out")
    assert manifest["tally"] == {"descriptions/train": 1, "masks": 4} and not check_store(store, progress=False).faults
    sample = store.by_id("geopixeld/train/GeoPixelD:0#caption")
    assert "The tennis court-1 <region:0> at right is a standard hard court" in sample.target
    assert "The tennis court-2 <region:1>, tennis court-3 <region:2>, and tennis court-4 <region:3> features" in sample.target
    assert [region.label for region in sample.regions] == [f"tennis court-{number}" for number in range(1, 5)]
    assert bounds(sample.regions[0].geometry).as_tuple() == (688, 380, 786, 577)  # vertices are 688..785 and 380..576, inclusive
    assert bounds(sample.regions[1].geometry).as_tuple() == (581, 767, 674, 800)
    assert sample.meta["scene"] == "P0224"
    courts = store.by_id("geopixeld/train/GeoPixelD:0#referring_segmentation:tennis_court")
    assert "the tennis courts" in courts.question and len(courts.target_regions) == 4


def test_an_outline_belongs_to_the_object_and_parts_are_united():
    mask = outlined([BOX, [[10, 1]], [[12, 1], [13, 1]]], 8, 16)
    expected = np.zeros((8, 16), dtype=bool)
    expected[3:6, 2:5] = expected[1, 10] = expected[1, 12:14] = True
    assert np.array_equal(mask, expected)


def test_names_are_asked_for_without_their_numbers(tmp_path):
    answer = "A <p> ship-1 </p> [SEG] and <p>ship-2</p> [SEG] at <p> a pier </p> [SEG] near <p>woods</p>."
    build_store("geopixeld", folder(tmp_path / "in", [record(answer)], [[BOX], [[[10, 1], [12, 1]]], [[[0, 7], [15, 7]]]]),
                tmp_path / "out", progress=False)
    store = Store(tmp_path / "out")
    caption = store.by_id("geopixeld/train/GeoPixelD:0#caption")
    assert caption.target == "A ship-1 <region:0> and ship-2 <region:1> at a pier <region:2> near woods."
    ships = store.by_id("geopixeld/train/GeoPixelD:0#referring_segmentation:ship")
    assert [int(rasterize(region.geometry, 8, 16).sum()) for region in ships.target_regions] == [9, 3]
    assert len(store) == 3 and not check_store(store, progress=False).faults


@pytest.mark.parametrize(("answer", "outlines", "reason"), [
    ("A <p>ship</p> [SEG] and [SEG].", [[BOX]], "masks and phrases differ"),
    ("A <p>ship</p> [SEG].", [[[1, 2, 3]]], "broken annotation"),
    ("A <p>ship</p> [SEG].", [[[[100, 100], [110, 100]]]], "broken annotation"),
    ("A <p>ship</p> [SEG].", [[[[0, 0], [1e30, 0], [1e30, 5]]]], "broken annotation"),
    ("A <p>ship</p> [SEG].", None, "broken annotation"),
    ("", [], "empty answer"),
])
def test_what_cannot_be_used_is_named(tmp_path, answer, outlines, reason):
    records = [record(answer), record("Nothing.", "b")]
    root = folder(tmp_path / "in", records, outlines)
    save(root / "train" / "b.png", 2, (16, 8))
    (root / "train" / "b.json").write_text('{"polygons": []}')
    manifest = build_store("geopixeld", root, tmp_path / "out", progress=False, max_rejected=0.9)
    assert manifest["rejected"]["by_reason"] == {reason: 1} and manifest["counts"]["samples"] == 1


def test_the_layout_is_checked(tmp_path):
    with pytest.raises(LayoutError, match=r"has no GeoPixelD\*.json"):
        make_source("geopixeld").check_layout(tmp_path)
    write(tmp_path / "GeoPixelD.json", [{"image": "a.png", "conversations": []}])
    with pytest.raises(LayoutError, match="record 0: polygons is 'None'"):
        make_source("geopixeld").check_layout(tmp_path)


def test_the_split_stands_in_the_path():
    assert [split_of(path) for path in ("data/GeoPixelD/train/a.png", "test/a.png", "a.png", "data\\val\\a.png")] == [
        "train", "test", "train", "val"]
