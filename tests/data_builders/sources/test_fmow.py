"""fMoW: order of time, boxes, choices, thinning, cutting."""

import json

import numpy as np
import pytest
from PIL import Image

from geotempo.data_builders.build import build_store
from geotempo.data_builders.check import check_store
from geotempo.data_builders.sources import make_source
from geotempo.data_builders.sources.fmow import thinned
from geotempo.data_builders.store import Store
from geotempo.model.errors import InputError, LayoutError
from geotempo.model.geometry import Box
from tests.data_builders.fixtures import fmow as made


def built(root, out, **keywords):
    manifest = build_store("fmow", root, out, progress=False, **keywords)
    return Store(out), manifest


def test_images_stand_in_the_order_of_time(tmp_path):
    root = made.fmow(tmp_path / "in")
    store, manifest = built(root, tmp_path / "out")
    sample = store.by_id("fmow/train/lake_or_pond_3#temporal_classification")
    assert [str(image.date)[:4] for image in sample.images] == ["2014", "2015", "2016"]
    assert [image.gsd[0] for image in sample.images] == pytest.approx([0.6, 0.7, 0.5])
    first = root / "train/lake_or_pond/lake_or_pond_3/lake_or_pond_3_1_rgb.jpg"
    assert sample.images[0].data == first.read_bytes() and sample.images[0].sensor == "WORLDVIEW02"
    assert manifest["tally"]["images/train"] == 4 and not check_store(store, progress=False).faults
    assert set(manifest["counts"]["by_task"]) == set(make_source("fmow").tasks)


def test_boxes_become_pixels_of_the_image_that_is_asked_about(tmp_path):
    store, _ = built(made.fmow(tmp_path / "in"), tmp_path / "out")
    sample = store.by_id("fmow/train/lake_or_pond_3#temporal_classification")
    assert sample.regions[0].geometry == Box(5, 6, 25, 16) and sample.regions[0].image == 3 and sample.regions[0].label == ""
    single = store.by_id("fmow/train/lake_or_pond_3#region_vqa")
    assert len(single.images) == 1 and single.regions[0].image == 1 and single.target == "lake or pond"
    assert sample.meta["footprint"] == [8.1, 47.1, 8.2, 47.3] and sample.meta["scene"] == "lake_or_pond_3"
    assert [view["cloud_cover"] for view in sample.meta["views"]] == [1, 2, 0]


def test_the_right_answer_is_among_the_choices_and_not_always_first(tmp_path):
    root = tmp_path / "in"
    for number, category in enumerate(("zoo", "dam", "port", "park", "barn", "tower")):
        made.place(root, category=category, number=number, images=1, seed=number)
    store, _ = built(root, tmp_path / "out", options={"choices": 3})
    places = []
    for name in store.ids:
        if name.endswith("#classification"):
            sample = store.by_id(name)
            offered = sample.question[:-1].split(" as one of: " if " as one of: " in sample.question else "Choose: ")[1].split(", ")
            assert len(set(offered)) == 3
            places.append(offered.index(sample.target))
    assert len(places) == 6 and len(set(places)) > 1
    every, _ = built(root, tmp_path / "all", options={"choices": 0})
    assert all(word in every.by_id("fmow/train/zoo_0#classification").question for word in ("dam", "port", "park", "barn", "tower"))


def test_the_last_folders_are_test(tmp_path):
    store, _ = built(made.fmow(tmp_path / "in"), tmp_path / "out")
    assert {name.split("#")[0] for name in store.ids} == {"fmow/train/lake_or_pond_3", "fmow/train/airport_0",
                                                          "fmow/val/multi-unit_residential_12", "fmow/test/zoo_1"}
    assert "fmow/train/airport_0#temporal_classification" not in store.ids, "one image is no sequence"


def test_long_sequences_are_thinned_and_say_so(tmp_path):
    store, _ = built(made.fmow(tmp_path / "in"), tmp_path / "out", options={"max_images": 2})
    sample = store.by_id("fmow/train/lake_or_pond_3#temporal_classification")
    assert [str(image.date)[:4] for image in sample.images] == ["2014", "2016"] and sample.meta["thinned"] == 1
    assert thinned(range(10), 4) == [0, 3, 6, 9] and thinned(range(3), 1) == [2] and thinned(range(2), 5) == [0, 1]


def test_images_can_be_cut_to_the_place(tmp_path):
    root = made.fmow(tmp_path / "in")
    store, _ = built(root, tmp_path / "out", options={"margin": 0.1})
    sample = store.by_id("fmow/train/lake_or_pond_3#region_vqa")
    assert (sample.images[0].width, sample.images[0].height) == (24, 14) and sample.regions[0].geometry == Box(2, 2, 22, 12)
    with Image.open(root / "train/lake_or_pond/lake_or_pond_3/lake_or_pond_3_0_rgb.jpg") as picture:
        assert np.array_equal(np.asarray(sample.images[0].rgb()), np.asarray(picture)[4:18, 3:27])


def test_one_bad_image_is_set_aside_and_a_place_without_any_is_named(tmp_path):
    root = made.fmow(tmp_path / "in")
    folder = root / "train/lake_or_pond/lake_or_pond_3"
    (folder / "lake_or_pond_3_0_rgb.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "lake_or_pond_3_2_rgb.json").write_text(json.dumps({**made.record(2), "timestamp": "yesterday"}))
    (root / "seq/zoo/zoo_1/zoo_1_1_rgb.json").write_text(json.dumps(made.record(1, "zoo", box=(60, 0, 5, 5))))
    for path in (root / "train/airport/airport_0").glob("*.jpg"):
        path.unlink()
    store, manifest = built(root, tmp_path / "out", max_rejected=0.5)
    sample = store.by_id("fmow/train/lake_or_pond_3#classification")
    assert sample.meta["set_aside"] == {"broken annotation": 1, "broken image": 1} and len(sample.meta["views"]) == 1
    assert manifest["tally"]["set aside/impossible box"] == 1
    assert manifest["rejected"]["by_reason"] == {"no usable image": 1}


@pytest.mark.parametrize("content", [{}, {"bounding_boxes": []}, {"bounding_boxes": [{"category": "zoo", "box": [1, 2]}]},
                                     {"bounding_boxes": [{"box": [1, 2, 3, 4]}]}, {"bounding_boxes": {"0": {}}}])
def test_the_assumption_that_fails_is_named_first(tmp_path, content):
    folder = made.place(tmp_path, images=1)
    (folder / "lake_or_pond_3_0_rgb.json").write_text(json.dumps(content))
    with pytest.raises(LayoutError, match="bounding"):
        make_source("fmow").check_layout(tmp_path)


def test_other_layouts_and_options_are_refused(tmp_path):
    with pytest.raises(LayoutError, match="no folder of a place"):
        make_source("fmow").check_layout(tmp_path)
    for options in ({"max_images": 0}, {"choices": 1}, {"margin": -1}):
        with pytest.raises(InputError, match="fmow needs"):
            make_source("fmow", **options)

