"""NWPU VHR-10: masks from polygons and run lengths, splits, and what cannot be used."""

import json
from collections import Counter

import numpy as np
import pytest

from geotempo.data_builders.build import build_store
from geotempo.data_builders.sources import make_source
from geotempo.data_builders.store import Store
from geotempo.model.errors import InputError, LayoutError
from geotempo.model.geometry import bounds
from tests.data_builders.conftest import picture

CLASSES = ("airplane", "ship", "storage_tank")
SQUARE = [[10, 20, 19, 20, 19, 24, 10, 24]]  # columns 10 to 19, rows 20 to 24, both ends included
RUNS = {"size": [64, 64], "counts": [64 * 30 + 5, 4, 60, 4, 64 * 64 - 64 * 30 - 5 - 68]}


def annotations(root, split, images):
    """Write `NWPU_instances_<split>.json` for {stem: [(class number, segmentation)]} and the images."""
    objects = []
    for number, stem in enumerate(images):
        picture(root / "imgs" / f"{stem}.jpg", number)
        objects += [{"image_id": number, "category_id": kind, "segmentation": shape, "bbox": [0, 0, 1, 1]}
                    for kind, shape in images[stem]]
    path = root / "annotations" / f"NWPU_instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({
        "images": [{"id": number, "file_name": f"{stem}.jpg", "width": 64, "height": 64} for number, stem in enumerate(images)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)], "annotations": objects}))


def built(root, out, **keywords):
    build_store("nwpu-vhr10", root, out, progress=False, **keywords)
    return Store(out)


@pytest.fixture
def root(tmp_path):
    annotations(tmp_path / "nwpu", "train", {"001": [(1, SQUARE), (1, RUNS), (3, SQUARE)], "002": [(2, SQUARE)]})
    annotations(tmp_path / "nwpu", "val", {"100": [(3, RUNS)]})
    return tmp_path / "nwpu"


def test_vertices_are_pixels_of_the_object(root, tmp_path):
    sample = built(root, tmp_path / "s").by_id("nwpu-vhr10/train/001#referring_segmentation:airplane")
    square, runs = sample.regions
    array = square.geometry.to_array()
    assert array[20:25, 10:20].all() and array.sum() == 50 and bounds(square.geometry).as_tuple() == (10, 20, 20, 25)
    assert np.argwhere(runs.geometry.to_array()).tolist() == [[r, c] for r in range(5, 9) for c in (30, 31)]
    assert all(region.geometry.to_array()[int(y), int(x)] for region in sample.regions for x, y in region.points)
    assert sample.target == "<regions:0,1>" and {region.label for region in sample.regions} == {"airplane"}


def test_classes_on_the_image_and_one_that_is_not(root, tmp_path):
    store = built(root, tmp_path / "s")
    of = {name.partition("#")[2]: store.by_id(name) for name in store.ids if "/001#" in name}
    assert Counter(tag.partition(":")[0] for tag in of) == {"referring_segmentation": 3, "counting": 3, "vqa": 3}
    assert [of[f"counting:{name}"].target for name in CLASSES] == ["2", "0", "1"]
    assert [of[f"vqa:{name}"].target for name in CLASSES] == ["yes", "no", "yes"]
    assert of["referring_segmentation:ship"].target == "<regions:>"
    assert "storage tanks" in of["counting:storage_tank"].question
    assert store.manifest["tally"] == {"images/train": 2, "images/val": 1, "airplane/train": 2, "ship/train": 1,
                                       "storage tank/train": 1, "storage tank/val": 1}


def test_without_a_file_for_val_a_fifth_of_the_images_is_held_out(tmp_path):
    annotations(tmp_path / "nwpu", "train", {f"{number:03d}": [(1, SQUARE)] for number in range(200)})
    keys = make_source("nwpu-vhr10").keys(tmp_path / "nwpu")
    count = Counter(key.partition("/")[0] for key in keys)
    assert sum(count.values()) == 200 and 20 <= count["val"] <= 60
    assert keys == make_source("nwpu-vhr10").keys(tmp_path / "nwpu")


@pytest.mark.parametrize(("shape", "reason"), [
    ([], "empty"), ("polygon", "no readable segmentation"), ([[1, 2, 3]], "no readable segmentation"), ([[5, 5]], "no readable"),
    ({"size": [3, 3], "counts": [9]}, "run lengths of size"), ({"counts": [9]}, "no readable segmentation"),
])
def test_an_unreadable_segmentation_sets_the_image_aside(root, tmp_path, shape, reason):
    annotations(root, "train", {"001": [(1, SQUARE)], "002": [(2, shape)]})
    store = built(root, tmp_path / "s", max_rejected=0.9)
    assert not any("/002#" in name for name in store.ids) and any("/001#" in name for name in store.ids)
    rejected = (tmp_path / "s" / "rejected.jsonl").read_text()
    assert "broken annotation" in rejected and reason in rejected and "002" in rejected


def test_broken_missing_and_resized_images_are_set_aside(root, tmp_path):
    (root / "imgs" / "001.jpg").write_bytes((root / "imgs" / "001.jpg").read_bytes()[:300])
    (root / "imgs" / "002.jpg").unlink()
    picture(root / "imgs" / "100.jpg", 5, size=(32, 64))
    with pytest.raises(InputError):
        built(root, tmp_path / "s")
    annotations(root, "train", {"000": [(1, SQUARE)], "001": [(1, SQUARE)], "002": [(1, SQUARE)]})
    (root / "imgs" / "001.jpg").write_bytes((root / "imgs" / "001.jpg").read_bytes()[:300])
    (root / "imgs" / "002.jpg").unlink()
    store = built(root, tmp_path / "t", max_rejected=0.9)
    rejected = (tmp_path / "t" / "rejected.jsonl").read_text()
    assert store.manifest["rejected"]["total"] == 3
    assert all(text in rejected for text in ("broken image", "missing image", "32 x 64"))


@pytest.mark.parametrize("content", ["{", "[]", '{"images": []}', '{"images": [], "categories": [{"id": 1}], "annotations": []}'])
def test_a_file_that_is_no_coco_annotation_stops_the_build(root, content, tmp_path):
    (root / "annotations" / "NWPU_instances_train.json").write_text(content)
    with pytest.raises(LayoutError, match=r"NWPU_instances_train.json is no COCO annotation"):
        built(root, tmp_path / "s")


def test_other_layouts_are_refused(tmp_path):
    with pytest.raises(LayoutError, match="not a folder"):
        built(tmp_path / "none", tmp_path / "s")
    (tmp_path / "nwpu" / "imgs").mkdir(parents=True)
    with pytest.raises(LayoutError, match=r"no annotations/NWPU_instances_\*\.json"):
        built(tmp_path / "nwpu", tmp_path / "s")


def test_every_real_mask_has_the_box_of_its_annotation(shared):
    root = shared("NWPU_VHR-10")
    raw = json.loads((root / "annotations" / "NWPU_instances_train.json").read_text())
    source, checked = make_source("nwpu-vhr10"), 0
    by_name = {entry["file_name"]: entry["id"] for entry in raw["images"]}
    for key in source.keys(root)[::10]:
        image = by_name[key.partition("/")[2] + ".jpg"]
        expected = Counter(tuple(entry["bbox"]) for entry in raw["annotations"] if entry["image_id"] == image)
        found = Counter()
        for sample in source.samples(root, key):
            for region in sample.regions:
                x1, y1, x2, y2 = bounds(region.geometry).as_tuple()
                found[(x1, y1, x2 - x1, y2 - y1)] += 1
        assert found == expected, key
        checked += sum(expected.values())
    assert checked > 100
