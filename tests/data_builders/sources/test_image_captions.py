"""Captions of single images: RSICD, UCM-Captions, Sydney-Captions, in Karpathy's form and in that of CLIP-rsicd."""

import io
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from geotempo.data_builders.build import build_store
from geotempo.data_builders.captions import usable
from geotempo.data_builders.check import check_store
from geotempo.data_builders.sources import make_source
from geotempo.data_builders.store import Store
from geotempo.model.errors import LayoutError
from tests.data_builders.fixtures import captions as made


def built(name, root, out, **keywords):
    manifest = build_store(name, root, out, progress=False, **keywords)
    return Store(out), manifest


@pytest.mark.parametrize(("name", "file", "folder", "extension"), [
    ("rsicd", "dataset_rsicd.json", "RSICD_images", "jpg"), ("ucm-captions", "dataset.json", "imgs", "tif"),
    ("sydney-captions", "dataset_sydney.json", "imgs", "tif"), ("rsicd", "dataset_rsicd_modified.json", "", "jpg"),
    ("rsicd", "annotations_rsicd/dataset_rsicd.json", "images", "jpg"),
])
def test_the_official_form(tmp_path, name, file, folder, extension):
    store, manifest = built(name, made.rsicd(tmp_path / "in", file, folder, extension), tmp_path / "out")
    assert not check_store(store, progress=False).faults
    sample = store.by_id(f"{name}/val/airport_1#caption")
    assert sample.target == "two planes val appear" and len(sample.meta["references"]) == 5 and sample.task == "caption"
    assert manifest["tally"] == {f"{what}/{split}": 1 if what == "images" else 5
                                 for what in ("captions", "images") for split in ("test", "train", "val")}


def test_tiff_images_are_stored_as_png_without_loss(tmp_path):
    root = made.rsicd(tmp_path / "in", "dataset.json", "imgs", "tif")
    store, _ = built("ucm-captions", root, tmp_path / "out")
    image = store.by_id("ucm-captions/train/airport_0#caption").images[0]
    with Image.open(io.BytesIO(image.encoded())) as picture, Image.open(root / "imgs/airport_0.tif") as original:
        assert picture.format == "PNG" and np.array_equal(np.asarray(picture), np.asarray(original))


@pytest.mark.parametrize(("variants", "expected"), [
    (False, ["next to it is green grass", "the airport is very large"]),
    (True, ["The airport is very large", "next to it is the green grass", "next to it is green grass",
            "The airport is huge", "the airport is very large"]),
])
def test_translations_are_no_references_unless_asked_for(tmp_path, variants, expected):
    store, _ = built("rsicd", made.rsicd_lines(tmp_path / "in"), tmp_path / "out", options={"variants": variants})
    assert Counter(name.split("/")[1] for name in store.ids) == {"train": 1, "val": 1, "test": 1}
    assert store.by_id("rsicd/val/airport_1#caption").meta["references"] == expected


def test_the_official_file_goes_before_the_lines(tmp_path):
    made.rsicd_lines(tmp_path / "in")
    store, _ = built("rsicd", made.rsicd(tmp_path / "in"), tmp_path / "out")
    assert store.by_id("rsicd/train/airport_0#caption").target == "two planes train appear"


def test_several_caption_files_are_not_chosen_from(tmp_path):
    root = made.rsicd(tmp_path / "in", "dataset_a.json")
    made.rsicd(root, "dataset_b.json")
    with pytest.raises(LayoutError, match=r"has dataset_a\.json, dataset_b\.json; leave one of them, or call it dataset_rs"):
        make_source("rsicd").check_layout(root)


def test_bad_lines_are_named_and_the_rest_is_kept(tmp_path):
    root = made.rsicd_lines(tmp_path / "in")
    path = root / "textaug_train_rsicd.jsonl"
    good = path.read_text()
    lines = [{"filename": "rsicd_images/none.jpg", "captions": ["a plane ."]}, {"filename": "x.jpg"},
             {"filename": "rsicd_images/airport_1.jpg", "captions": [" . "]}]
    path.write_text(good + "".join(json.dumps(line) + "\n" for line in lines) + good)
    _, manifest = built("rsicd", root, tmp_path / "out", max_rejected=0.6)
    assert manifest["rejected"]["by_reason"] == {
        "broken annotation": 1, "missing caption": 1, "missing image": 1, "repeated item": 1}
    assert "rsicd_images/none.jpg in none of in/, RSICD_images/" in (tmp_path / "out/rejected.jsonl").read_text()


@pytest.mark.parametrize(("text", "message"), [
    (None, "has no caption file; rsicd expects dataset_rsicd.json or dataset.json"),
    ('{"image": "a.jpg"}\n', "has no filename or no captions"),
])
def test_another_folder_is_refused(tmp_path, text, message):
    if text:
        (tmp_path / "a_train_b.jsonl").write_text(text)
    with pytest.raises(LayoutError, match=message):
        make_source("rsicd").check_layout(tmp_path)


def test_real_rsicd_captions(shared):
    """10,921 images in the official splits, and no image without an original sentence."""
    records = make_source("rsicd").records(shared("RSICD") / "CLIP-rsicd_data")
    assert Counter(usable(record).split for record in records.values()) == {"train": 8734, "val": 1094, "test": 1093}
    every = make_source("rsicd", variants=True).records(shared("RSICD") / "CLIP-rsicd_data")
    assert {len(record.captions) + record.empty for record in every.values()} == {5}
    gaps = {key for key, record in records.items() if record.gaps}
    assert gaps == {"train/bridge_218", "train/parking_211", "val/bridge_59"}
    kept = sum(len(record.captions) for record in records.values())
    assert kept < 3 * len(records), "most of the five are translations"


def test_what_is_kept_of_real_test_captions_is_the_ground_truth_of_others(shared):
    """EarthDial's results quote the original sentences of the 1,093 test images, without their names."""
    lines = (shared("EarthDial_results") / "rs_image_caption/RSICD_Captions.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    quoted = Counter(frozenset(row[f"caption{n}"].removesuffix(".").strip() for n in range(5)) for row in rows)
    records = make_source("rsicd").records(shared("RSICD") / "CLIP-rsicd_data").values()
    kept = Counter(frozenset(record.captions) for record in records if record.split == "test")
    assert kept == quoted and kept.total() == 1093


def test_the_one_real_image_is_kept_and_the_others_are_named(shared, tmp_path):
    root = shared("RSICD") / "CLIP-rsicd_data"
    store, manifest = built("rsicd", root, tmp_path / "out", max_rejected=1.0)
    assert store.ids == ["rsicd/train/stadium_1#caption"]
    assert manifest["rejected"] == {"total": 10920, "by_reason": {"missing image": 10920}}
    sample = store.by_id(store.ids[0])
    assert sample.images[0].encoded() == (root / "stadium_1.jpg").read_bytes()
    assert sample.meta["references"] == ["the stadium is very beautiful",
                                         "some green trees are around a stadium with a baseball field"]
