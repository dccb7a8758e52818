"""COCO files of a user's own: all forms of geometry, pairs, splits, and everything that strangers get wrong."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from geotempo.data_builders.build import build_store
from geotempo.data_builders.check import check_store
from geotempo.data_builders.store import Store
from geotempo.model.errors import InputError, LayoutError
from geotempo.model.geometry import Box, Mask, Polygon, bounds, rasterize

SQUARE = np.zeros((30, 40), dtype=np.uint8)
SQUARE[5:15, 10:30] = 1
RUNS = coco.encode(np.asfortranarray(SQUARE))


def picture(path, seed, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(path)


def counts(array):
    flat = array.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *edges, len(flat)]).tolist()
    return lengths if not flat[0] else [0, *lengths]


FORMS = {
    "polygon": {"segmentation": [[10, 5, 30, 5, 30, 15, 10, 15]], "bbox": [10, 5, 20, 10]},
    "two polygons": {"segmentation": [[10, 5, 20, 5, 20, 15, 10, 15], [20, 5, 30, 5, 30, 15, 20, 15]]},
    "runs": {"segmentation": {"size": [30, 40], "counts": counts(SQUARE)}, "iscrowd": 0},
    "packed runs": {"segmentation": {"size": [30, 40], "counts": RUNS["counts"].decode()}},
    "list of runs": {"segmentation": [{"size": [30, 40], "counts": RUNS["counts"].decode()}]},
    "box": {"bbox": [10, 5, 20, 10]},
}


def file(images, annotations, categories=("storage_tank", "ship", "plane")):
    return {"images": images, "annotations": annotations,
            "categories": [{"id": 7 + number, "name": name} for number, name in enumerate(categories)]}


@pytest.fixture
def folder(tmp_path):
    """An image for each form of geometry, and one without objects."""
    root, images, annotations = tmp_path / "in", [], []
    for number, form in enumerate([*FORMS, "nothing"]):
        picture(root / "images" / f"{form}.png", number)
        images.append({"id": 100 + number, "file_name": f"{form}.png", "width": 40, "height": 30})
        if form in FORMS:
            annotations.append({"id": number, "image_id": 100 + number, "category_id": 7, **FORMS[form]})
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / "instances_train.json").write_text(json.dumps(file(images, annotations)))
    return root


def edit(root, change, name="annotations/instances_train.json"):
    raw = json.loads((root / name).read_text())
    change(raw)
    (root / name).write_text(json.dumps(raw))


def build(root, out, **options):
    manifest = build_store("coco", root, out, options=options, progress=False, max_rejected=0.5)
    return Store(out), manifest


def samples(store):
    return [store[index] for index in range(len(store))]


def test_every_form_of_geometry_gives_the_same_pixels(folder, tmp_path):
    store, manifest = build(folder, tmp_path / "out")
    assert manifest["rejected"]["total"] == 0 and manifest["tally"] == {"images/train": 7} and not check_store(store, False).faults
    found = {sample.meta["scene"]: sample for sample in samples(store) if sample.id.endswith((":storage_tank",))
             and sample.task in ("referring_segmentation", "change_grounding")}
    for form in FORMS:
        [region] = found[form].regions
        assert region.label == "storage tank" and isinstance(region.geometry, Box if form == "box" else Polygon | Mask)
        assert (rasterize(region.geometry, 30, 40) == SQUARE.astype(bool)).all(), form
    assert found["box"].task == "change_grounding" and found["runs"].task == "referring_segmentation"


def test_classes_that_are_not_there_are_denied_unless_labels_are_not_exhaustive(folder, tmp_path):
    def said(store):
        return {(sample.task, sample.target) for sample in samples(store)
                if sample.meta["scene"] == "nothing" or "ship" in sample.id or "plane" in sample.id}

    assert said(build(folder, tmp_path / "a")[0]) >= {("vqa", "no"), ("counting", "0")}
    assert not said(build(folder, tmp_path / "b", negatives=False)[0])


def test_what_cannot_be_read_is_set_aside_with_its_class_and_the_rest_is_kept(folder, tmp_path):
    def spoil(raw):
        raw["annotations"] += [
            {"image_id": 100, "category_id": 8, "bbox": [50, 50, 5, 5]}, {"image_id": 101, "category_id": 8, "bbox": [1, 1, 0, 5]},
            {"image_id": 102, "category_id": 9, "segmentation": {"size": [9, 9], "counts": [81]}},
            {"image_id": 103, "category_id": 8, "bbox": [1, 1, 5, 5], "iscrowd": 1}, {"image_id": 104, "category_id": 99, "bbox": [1, 1, 5, 5]},
            {"image_id": 105, "category_id": 8, "bbox": None}]

    edit(folder, spoil)
    store, manifest = build(folder, tmp_path / "out")
    assert manifest["rejected"] == {"total": 1, "by_reason": {"unknown category": 1}}  # of which class it is nobody knows
    assert {key: count for key, count in manifest["tally"].items() if "aside" in key} == {
        "set aside/impossible box": 3, "set aside/broken segmentation": 1, "set aside/crowd": 1}
    asked = {(sample.meta["scene"], sample.id.rpartition(":")[2]) for sample in samples(store)}
    assert not {(form, "ship") for form in ("polygon", "two polygons", "packed runs", "box")} & asked
    assert not any(scene == "list of runs" for scene, _ in asked)
    assert ("polygon", "storage_tank") in asked


def test_pairs_of_two_folders_become_changes(folder, tmp_path):
    for number, form in enumerate([*FORMS, "nothing"], 50):
        picture(folder / "t1" / f"{form}.png", number)
    shutil.move(folder / "images", folder / "t2")
    store, manifest = build(folder, tmp_path / "out", before="t1", after="t2", licence="CC-BY-4.0; mine", dataset="towns")
    assert manifest["rejected"]["total"] == 0 and not check_store(store, False).faults
    changed = next(sample for sample in samples(store) if sample.meta["scene"] == "polygon" and sample.task == "change_grounding" and sample.regions)
    assert changed.id.startswith("towns/train/instances_train:100#") and len(changed.images) == 2
    assert changed.regions[0].image == 2 and bounds(changed.regions[0].geometry) == Box(10, 5, 30, 15)
    assert changed.meta["licence"] == "CC-BY-4.0; mine"
    assert {sample.target for sample in samples(store) if sample.meta["scene"] == "nothing" and sample.task == "counting"} == {"0"}


def test_a_split_is_the_files_or_a_stable_share_of_the_images(folder, tmp_path, digest):
    (folder / "annotations" / "instances_train.json").rename(folder / "labels.json")
    first, _ = build(folder, tmp_path / "a", val_share=0.8)
    build(folder, tmp_path / "b", val_share=0.8)
    splits = {sample.meta["scene"]: sample.split for sample in samples(first)}
    assert set(splits.values()) == {"train", "val"} and digest(tmp_path / "a") == digest(tmp_path / "b")
    (folder / "labels.json").rename(folder / "my-test.json")
    assert {sample.split for sample in samples(build(folder, tmp_path / "c")[0])} == {"test"}


@pytest.mark.parametrize(("change", "message"), [
    (lambda raw: raw.pop("categories"), "is no COCO annotation: it has no list 'categories'"),
    (lambda raw: raw["images"][0].pop("file_name"), "images need id and file_name"),
    (lambda raw: raw["annotations"][0].pop("image_id"), "annotations image_id"),
])
def test_a_file_that_is_no_coco_names_what_is_missing(folder, tmp_path, change, message):
    edit(folder, change)
    with pytest.raises(LayoutError) as error:
        build(folder, tmp_path / "out")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_missing_images_and_wrong_sizes_are_rejected_by_name(folder, tmp_path):
    (folder / "images" / "box.png").unlink()
    edit(folder, lambda raw: raw["images"][0].update(width=400))
    _, manifest = build(folder, tmp_path / "out")
    assert manifest["rejected"]["by_reason"] == {"missing image": 1, "size mismatch": 1}
    entries = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    assert "polygon.png is 40 x 30, its annotation says 400 x 30" in entries[0]["detail"] and "give images=FOLDER" in entries[1]["detail"]


@pytest.mark.parametrize(("options", "message"), [
    ({"before": "t1"}, "give both before=FOLDER and after=FOLDER"), ({"on": 3}, "on=1 or on=2"), ({"val_share": 2.0}, "val_share of 0 to 1"),
    ({"licence": "mine"}, "unknown licence 'mine'"),
])
def test_wrong_options_are_one_line(folder, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        build(folder, tmp_path / "out", **options)


def test_real_annotations_with_polygons_and_boxes(shared, tmp_path):
    """NWPU VHR-10's file read as anybody's: as many objects as it lists."""
    root = shared("NWPU_VHR-10")
    raw = json.loads((root / "annotations/NWPU_instances_train.json").read_text())
    raw["images"] = raw["images"][:12]
    few = {entry["id"] for entry in raw["images"]}
    raw["annotations"] = [entry for entry in raw["annotations"] if entry["image_id"] in few]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "nwpu_train.json").write_text(json.dumps(raw))
    store, manifest = build(tmp_path / "in", tmp_path / "out", images=str(root / "imgs"), licence="academic; NWPU VHR-10")
    masks = [sample for sample in samples(store) if sample.task == "referring_segmentation"]
    assert sum(len(sample.regions) for sample in masks) == len(raw["annotations"]) > 20 and manifest["rejected"]["total"] == 0
    assert not check_store(store, False).faults
