"""The user's own COCO files: all kinds of geometry, splits, pairs, faults."""

import json

import numpy as np
import pytest

from geotempo.data_builders.build import build_store
from geotempo.data_builders.check import check_store
from geotempo.data_builders.sources import make_source
from geotempo.data_builders.store import Store
from geotempo.model.errors import InputError, LayoutError
from geotempo.model.geometry import Box, Polygon
from tests.data_builders.fixtures import grounding as made

CATEGORIES = [{"id": 1, "name": "ship"}, {"id": 2, "name": "storage_tank"}, {"id": 5, "name": "bridge"}]
A, B, C = made.BOXES.values()


def counts(mask):
    """Uncompressed run lengths, column by column, the first of the outside."""
    flat = np.asarray(mask).flatten(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *ends, flat.size]).tolist()
    return {"size": list(np.asarray(mask).shape), "counts": lengths if not flat[0] else [0, *lengths]}


def ring(box):
    x1, y1, x2, y2 = box
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def xywh(box):
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def write(path, images, annotations, categories=CATEGORIES, folder="images"):
    """`images`: names; `annotations`: (name, category, fields)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(images):
        if folder is not None:
            made.picture(path.parent / folder / name, number + len(str(path)))
    content = {
        "info": {},
        "annotations": [
            {"id": n, "image_id": images.index(name) + 1, "category_id": category, **fields}
            for n, (name, category, fields) in enumerate(annotations)
        ],
        "images": [{"id": n, "file_name": name, "width": 40, "height": 40} for n, name in enumerate(images, 1)],
    }
    path.write_text(json.dumps(content | ({"categories": categories} if categories else {})))
    return path


def built(root, out, **keywords):
    options = {"licence": "CC-BY-4.0; mine", **keywords.pop("options", {})}
    manifest = build_store("coco", root, out, progress=False, options=options, **keywords)
    store = Store(out)
    assert not check_store(store, progress=False).faults
    return store, manifest


def test_all_kinds_of_geometry(tmp_path):
    names = [f"{n}.png" for n in range(6)]
    write(
        tmp_path / "in/data.json",
        names,
        [
            ("0.png", 1, {"segmentation": [ring(A)]}),
            ("1.png", 1, {"segmentation": [ring(A), ring(B)]}),
            ("2.png", 1, {"segmentation": counts(made.filled(C))}),
            ("3.png", 1, {"segmentation": made.runs(made.filled(B)), "iscrowd": 0}),
            ("4.png", 1, {"segmentation": [], "bbox": xywh(A)}),
        ],
    )
    store, manifest = built(tmp_path / "in", tmp_path / "out")
    assert manifest["tally"]["images/train"] == 6

    def ships(number, task="referring_segmentation"):
        return store.by_id(f"own/train/data/{number}#{task}:ship").regions

    assert isinstance(ships(0)[0].geometry, Polygon)
    for number, boxes in ((1, (A, B)), (2, (C,)), (3, (B,))):
        assert np.array_equal(ships(number)[0].geometry.to_array(), made.filled(*boxes) > 0)
    assert ships(4, "change_grounding")[0].geometry == Box(*A)
    assert [store.by_id(name).target for name in store.ids if name.startswith("own/train/data/5#vqa:")] == ["no"]
    assert any("storage_tank" in name for name in store.ids)


def test_a_class_with_a_crowd_is_not_asked_about(tmp_path):
    write(
        tmp_path / "in/data.json",
        ["a.png"],
        [
            ("a.png", 1, {"segmentation": [ring(A)]}),
            ("a.png", 2, {"segmentation": [ring(C)]}),
            ("a.png", 1, {"segmentation": counts(made.filled(B)), "iscrowd": 1}),
        ],
    )
    store, manifest = built(tmp_path / "in", tmp_path / "out")
    assert manifest["tally"]["classes of crowds, not asked about"] == 1
    assert not any(":ship" in name for name in store.ids) and any("storage_tank" in name for name in store.ids)


def test_several_files_are_splits_and_images_lie_in_folders_of_theirs(tmp_path):
    root = tmp_path / "in"
    for split in ("train", "val", "test"):
        write(
            root / f"annotations/instances_{split}2017.json",
            [f"{split}.png"],
            [(f"{split}.png", 1, {"bbox": xywh(A)})],
            folder=None,
        )
        made.picture(root / f"{split}2017/{split}.png", len(split))
    (root / "annotations/captions_train2017.json").write_text(
        json.dumps({"images": [{"id": 1, "file_name": "x"}], "annotations": [{"image_id": 1, "caption": "a"}]})
    )
    _, manifest = built(root, tmp_path / "out")
    assert {key: value for key, value in manifest["tally"].items() if value} == {
        f"images/{split}": 1 for split in ("train", "val", "test")
    }


def test_a_share_of_train_is_val_by_contents(tmp_path):
    names = [f"{n}.png" for n in range(12)]
    write(tmp_path / "in/data.json", names, [(name, 1, {"bbox": xywh(A)}) for name in names])
    _, manifest = built(tmp_path / "in", tmp_path / "out", options={"val_share": 0.5})
    assert (
        manifest["tally"]["images/train"] + manifest["tally"]["images/val"] == 12
        and manifest["tally"]["images/val"] > 1
    )


@pytest.mark.parametrize(
    ("before", "after", "name"), [("A", "B", "{side}/{n}.png"), ("{name}_pre.png", "{name}_post.png", "{n}_{side}.png")]
)
def test_pairs_by_name(tmp_path, before, after, name):
    sides = ("A", "B") if before == "A" else ("pre", "post")
    root = tmp_path / "in"
    for n in range(2):
        for side in sides:
            made.picture(root / name.format(side=side, n=n), n * 10 + len(side))
    new, gone = name.format(side=sides[1], n=0), name.format(side=sides[0], n=0)
    write(root / "data.json", [new, gone, name.format(side=sides[1], n=1)], [
        (new, 1, {"segmentation": [ring(B)]}), (gone, 1, {"segmentation": [ring(A)]})], folder=None)
    store, manifest = built(root, tmp_path / "out", options={"before": before, "after": after})
    assert manifest["tally"]["pairs/train"] == 2
    sample = store.by_id("own/train/data/0#change_segmentation:ships")
    assert len(sample.images) == 2 and [region.image for region in sample.regions] == [2, 1]
    assert [store.by_id(one).target for one in store.ids if one.startswith("own/train/data/1#change_vqa:")] == ["no"]


def test_pairs_with_boxes_only_are_not_asked_for_masks(tmp_path):
    for n in range(4):
        made.picture(tmp_path / f"in/{'AB'[n % 2]}/{n // 2}.png", n)
    write(tmp_path / "in/data.json", ["B/0.png", "B/1.png"], [("B/0.png", 1, {"bbox": xywh(A)})], folder=None)
    store, _ = built(tmp_path / "in", tmp_path / "out", options={"before": "A", "after": "B"})
    assert {store.by_id(name).task for name in store.ids} == {"change_vqa", "change_grounding", "counting"}


def test_labels_that_are_not_complete_deny_nothing(tmp_path):
    write(tmp_path / "in/data.json", ["a.png"], [("a.png", 1, {"segmentation": [ring(A)]})])
    store, _ = built(tmp_path / "in", tmp_path / "out", options={"exhaustive": False})
    assert {store.by_id(name).task for name in store.ids} == {"region_vqa"}


def test_without_categories_there_is_one_clear_line(tmp_path):
    write(tmp_path / "in/data.json", ["a.png"], [("a.png", 1, {"bbox": xywh(A)})], categories=None)
    with pytest.raises(LayoutError, match=r'lists no "categories".*thing='):
        built(tmp_path / "in", tmp_path / "out")
    store, _ = built(tmp_path / "in", tmp_path / "out", options={"thing": "tree"})
    assert store.by_id("own/train/data/a#counting:tree").target == "1"


def test_bad_annotations_are_named(tmp_path):
    names = [f"{n}.png" for n in range(9)]
    path = write(
        tmp_path / "in/data.json",
        names,
        [
            ("0.png", 7, {"bbox": xywh(A)}),
            ("1.png", 1, {"bbox": [1, 1, 0, 4]}),
            ("2.png", 1, {}),
            ("3.png", 1, {"segmentation": [[1, 2, 3]]}),
            ("4.png", 1, {"segmentation": {"size": [40, 40], "counts": [3, 4]}}),
            ("5.png", 1, {"segmentation": [ring((50, 50, 60, 60))]}),
            ("6.png", 1, {"bbox": [90, 90, 5, 5]}),
            ("7.png", 1, {"bbox": xywh(A)}),
        ],
    )
    (tmp_path / "in/images/7.png").unlink()
    content = json.loads(path.read_text())
    content["annotations"].append({"id": 99, "image_id": 77, "category_id": 1, "bbox": xywh(A)})
    path.write_text(json.dumps(content))
    _, manifest = built(tmp_path / "in", tmp_path / "out", max_rejected=1)
    assert manifest["rejected"]["by_reason"] == {
        "unknown category": 1,
        "impossible box": 2,
        "no geometry": 1,
        "broken segmentation": 2,
        "empty segmentation": 1,
        "missing image": 1,
        "image not listed": 1,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds no COCO"),
        ('{"images": [{"id": 1}], "annotations": []}', "no file_name"),
        ('{"images": [{"id": 1, "file_name": "a"}], "annotations": [', "holds no COCO"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "data.json").write_text(content)
    with pytest.raises(LayoutError, match=message):
        make_source("coco", licence="unknown").check_layout(tmp_path)


def test_options_that_do_not_fit_are_refused(tmp_path):
    for options in ({"before": "A"}, {"before": "A", "after": "{name}"}, {"val_share": 2}, {"dataset": "a b"}):
        with pytest.raises(InputError):
            make_source("coco", licence="unknown", **options)


def test_a_real_file(shared, tmp_path):
    root = shared("NWPU_VHR-10")
    path = next(root.rglob("NWPU_instances_*.json"))
    source = make_source("coco", licence="academic", images=str(next(root.rglob("imgs"))))
    items = list(source.items(path))
    assert len(items) == len(json.loads(path.read_text())["images"])
    samples = list(source.read(path, next(item for item in items if item.record["views"][0]["objects"])))
    assert {"referring_segmentation", "counting", "vqa", "region_vqa"} == {sample.task for sample in samples}
