"""Referring expressions: RRSIS-D, DIOR-RSVG, RefSegRS, RSVG."""

import json
import pickle

import numpy as np
import pytest

from geotempo.data_builders.build import build_store
from geotempo.data_builders.check import check_store
from geotempo.data_builders.sources import make_source
from geotempo.data_builders.sources.dior_rsvg import read_lists
from geotempo.data_builders.store import Store
from geotempo.model.errors import LayoutError
from geotempo.model.geometry import Box, Polygon
from tests.data_builders.fixtures import grounding as made


def built(name, root, out, **keywords):
    manifest = build_store(name, root, out, progress=False, **keywords)
    store = Store(out)
    assert not check_store(store, progress=False).faults
    return store, manifest


@pytest.mark.parametrize("convention", ["xywh", "xyxy"])
def test_rrsis_d_decides_how_boxes_are_written(tmp_path, convention):
    store, manifest = built("rrsis-d", made.rrsis_d(tmp_path / "in", convention), tmp_path / "out")
    assert manifest["tally"] == {"objects/train": 2, "objects/test": 1, "expressions/train": 3, "expressions/test": 1,
                                 f"boxes read as {convention}": 3}
    sample = store.by_id("rrsis-d/train/00005-11#referring_segmentation:0")
    assert sample.meta["box"] == list(made.BOXES[1]) and sample.meta["scene"] == "00005"
    assert isinstance(sample.regions[0].geometry, Polygon) and sample.regions[0].label == "house"
    union = store.by_id("rrsis-d/train/00005-12#referring_segmentation:0").regions[0]
    assert np.array_equal(union.geometry.to_array(), made.filled(made.BOXES[2]) > 0) and union.label == "cargo ship"
    assert store.by_id("rrsis-d/train/00005-11#region_caption:0").target == "The red house"


def test_rrsis_d_names_boxes_that_contradict_their_masks(tmp_path):
    boxes = {n: [x1, y1, x2 - x1, y2 - y1] for n, (x1, y1, x2, y2) in made.BOXES.items()} | {2: list(made.BOXES[2])}
    _, manifest = built("rrsis-d", made.rrsis_d(tmp_path / "in", boxes=boxes), tmp_path / "out", max_rejected=0.5)
    assert manifest["rejected"]["by_reason"] == {"box and mask differ": 1}
    line = json.loads((tmp_path / "out/rejected.jsonl").read_text())
    assert "annotation 2" in line["detail"] and "as xyxy it would fit" in line["detail"]


def test_rrsis_d_refuses_boxes_of_neither_kind(tmp_path):
    root = made.rrsis_d(tmp_path / "in", boxes={n: [0.1, 0.2, 0.3, 0.4] for n in made.BOXES})
    with pytest.raises(LayoutError, match="assumption that they are one of these"):
        make_source("rrsis-d").check_layout(root)


def test_rrsis_d_does_not_run_its_pickle(tmp_path):
    root, marker = made.rrsis_d(tmp_path / "in"), tmp_path / "it_ran"

    class Bomb:
        def __reduce__(self):
            return open, (str(marker), "w")

    (root / "rrsisd/refs(unc).p").write_bytes(pickle.dumps([*made.refs(), Bomb()]))
    with pytest.raises(LayoutError, match=r"names _?io\.open"):
        build_store("rrsis-d", root, tmp_path / "out", progress=False)
    assert not marker.exists()


def test_rrsis_d_sets_aside_what_does_not_fit(tmp_path):
    root, records = made.rrsis_d(tmp_path / "in"), made.refs()
    records += [{**records[0], "ref_id": 90, "ann_id": 99}, {**records[0], "ref_id": 91, "sentences": [{"raw": " "}]},
                {**records[0], "ref_id": 92, "split": "testA"}]
    (root / "rrsisd/refs(unc).p").write_bytes(pickle.dumps(records))
    (root / "images/rrsisd/JPEGImages/00006.jpg").unlink()
    _, manifest = built("rrsis-d", root, tmp_path / "out", max_rejected=1)
    assert manifest["rejected"]["by_reason"] == {
        "missing annotation": 1,
        "empty expression": 1,
        "unknown split": 1,
        "missing image": 1,
    }


def test_rrsis_d_names_a_missing_field(tmp_path):
    root = made.rrsis_d(tmp_path / "in")
    (root / "rrsisd/refs(unc).p").write_bytes(pickle.dumps([{"ref_id": 1, "split": "train"}]))
    with pytest.raises(LayoutError, match="has no ann_id, image_id, sentences"):
        make_source("rrsis-d").check_layout(root)


def test_dior_rsvg_counts_objects_over_sorted_files(tmp_path):
    store, manifest = built("dior-rsvg", made.dior_rsvg(tmp_path / "in"), tmp_path / "out")
    assert manifest["tally"] == {"expressions/train": 3, "expressions/val": 1, "expressions/test": 1}
    sample = store.by_id("dior-rsvg/test/00002-1#change_grounding:0")
    assert "the large ship" in sample.question and sample.regions[0].geometry == Box(*made.BOXES[2])
    assert store.by_id("dior-rsvg/train/00010-0#region_caption:0").target == "The dam in the north"
    assert store.by_id("dior-rsvg/train/00002-0#region_caption:0").meta["scene"] == sample.meta["scene"] == "00002"


def test_dior_rsvg_with_two_workers_is_the_same_to_the_byte(tmp_path, digest):
    root = made.dior_rsvg(tmp_path / "in")
    for number in (1, 2):
        build_store("dior-rsvg", root, tmp_path / str(number), workers=number, progress=False)
    assert digest(tmp_path / "1") == digest(tmp_path / "2")


def test_dior_rsvg_refuses_what_would_shift_the_numbers(tmp_path):
    root = made.dior_rsvg(tmp_path / "in")
    source, path = make_source("dior-rsvg"), root / "Annotations/00003.xml"
    whole = path.read_text()
    path.write_text(whole[:100])
    with pytest.raises(LayoutError, match=r"00003.xml.*cannot be counted"):
        source.check_layout(root)
    path.unlink()
    with pytest.raises(LayoutError, match="lists number 5 objects and Annotations holds 3"):
        source.check_layout(root)


def test_dior_rsvg_refuses_entities(tmp_path):
    root = made.dior_rsvg(tmp_path / "in")
    path = root / "Annotations/00003.xml"
    bomb = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'
    path.write_text(bomb + path.read_text().replace("A bridge", "&b;"))
    with pytest.raises(LayoutError, match="document type"):
        make_source("dior-rsvg").check_layout(root)


def test_dior_rsvg_sets_aside_bad_objects(tmp_path):
    root = made.dior_rsvg(tmp_path / "in")
    (root / "Annotations/00010.xml").write_text(made.voc("00010.jpg", [("dam", (9, 9, 9, 12), "a dam")]))
    (root / "Annotations/00003.xml").write_text(
        made.voc("00003.jpg", [("x", (1, 1, 5, 5), " "), ("x", ("", 1, 5, 5), "a thing")])
    )
    _, manifest = built("dior-rsvg", root, tmp_path / "out", max_rejected=1)
    assert manifest["rejected"]["by_reason"] == {"impossible box": 2, "empty expression": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [("7\n", "numbers up to 7"), ("0\n", "expected each number once"), ("00010.jpg\n", "number of an object")],
)
def test_dior_rsvg_lists_that_are_no_numbering(tmp_path, change, message):
    root = made.dior_rsvg(tmp_path / "in")
    (root / "val.txt").write_text(change)
    with pytest.raises(LayoutError, match=message):
        make_source("dior-rsvg").check_layout(root)


def test_real_lists_of_dior_rsvg(shared):
    splits = read_lists(shared("DIOR-RSVG") / "DIOR_RSVG_splits")
    assert len(splits) == 38_320 and sum(split == "test" for split in splits.values()) == 7500


def test_refsegrs(tmp_path):
    store, manifest = built("refsegrs", made.refsegrs(tmp_path / "in"), tmp_path / "out")
    assert manifest["tally"] == {"expressions/train": 2, "expressions/test": 1}
    name = next(name for name in store.ids if "/1-0-" in name and "referring" in name)
    assert len(store.by_id(name).regions) == 2 and "vehicles in the parking area" in store.by_id(name).question


def test_refsegrs_sets_aside_what_its_description_does_not_allow(tmp_path):
    root = made.refsegrs(tmp_path / "in")
    made.Image.fromarray(made.filled(made.BOXES[1]) * 77).save(root / "masks/2.tif")
    made.picture(root / "images/2.tif", 2)
    made.Image.fromarray(made.filled()).save(root / "masks/22.tif")
    with (root / "output_phrase_train.txt").open("a") as handle:
        handle.write("phrase without number\n2 the trees\n3 a phrase without files\n")
    _, manifest = built("refsegrs", root, tmp_path / "out", max_rejected=1)
    assert manifest["rejected"]["by_reason"] == {
        "unknown mask values": 1,
        "empty mask": 1,
        "broken line": 1,
        "missing image": 1,
    }


@pytest.mark.parametrize("convention", ["xyxy", "xywh"])
def test_rsvg_finds_out_how_boxes_are_written(tmp_path, convention):
    root = made.rsvg(tmp_path / "in", convention, ("image_name", "expression", "box"))
    store, manifest = built("rsvg", root, tmp_path / "out")
    assert manifest["tally"] == {
        "expressions/train": 1,
        "expressions/val": 1,
        "expressions/test": 1,
        f"boxes read as {convention}": 3,
    }
    assert store.by_id("rsvg/train/1-0#change_grounding:0").regions[0].geometry == Box(600, 700, 900, 800)


def test_rsvg_asks_where_boxes_do_not_tell(tmp_path):
    root = made.rsvg(tmp_path / "in")
    for path in root.glob("*.json"):
        path.write_text(json.dumps([{"image": "1.jpg", "question": "it", "bbox": [10, 20, 300, 400]}]))
    with pytest.raises(LayoutError, match="boxes=xyxy or boxes=xywh"):
        make_source("rsvg").check_layout(root)
    _, manifest = built("rsvg", root, tmp_path / "out", options={"boxes": "xywh"})
    assert manifest["tally"]["boxes read as xywh"] == 3


def test_rsvg_names_the_assumption_that_fails(tmp_path):
    with pytest.raises(LayoutError, match="one of question, expression"):
        make_source("rsvg").check_layout(made.rsvg(tmp_path / "in", names=("image", "words", "bbox")))
