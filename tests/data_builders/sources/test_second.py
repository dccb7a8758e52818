"""SECOND: coloured labels, splits, doubts."""

import numpy as np
import pytest
from PIL import Image

from geotempo.data_builders.build import build_store
from geotempo.data_builders.check import check_store
from geotempo.data_builders.sources import make_source
from geotempo.data_builders.store import Store
from geotempo.model.errors import LayoutError
from tests.data_builders.fixtures import second as made


def built(root, out, **keywords):
    manifest = build_store("second", root, out, progress=False, **keywords)
    return Store(out), manifest


def splits(store):
    return {name.split("#")[0].split("/")[2]: name.split("/")[1] for name in store.ids}


def test_a_store_of_transitions(tmp_path):
    store, manifest = built(made.second(tmp_path / "in"), tmp_path / "out")
    assert manifest["tally"] == {"pairs/train": 3, "changed pairs/train": 2, "pairs/test": 1, "changed pairs/test": 1, "tree -> building": 3}
    sample = store.by_id("second/train/00003#semantic_change")
    assert np.array_equal(sample.regions[0].geometry.to_array(), made.maps()[0] > 0) and sample.meta["scene"] == "00003"
    assert store.by_id("second/train/00013#change_vqa").target == "no"
    assert not check_store(store, progress=False).faults
    assert set(manifest["counts"]["by_task"]) == set(make_source("second").tasks)


def test_the_second_official_folder_is_the_test_set_under_either_name(tmp_path):
    assert splits(built(made.second(tmp_path / "a", "test"), tmp_path / "1")[0])["00005"] == "test"
    assert splits(built(made.second(tmp_path / "b", "val"), tmp_path / "2")[0])["00005"] == "test"


def test_lists_of_scannet_part_the_train_folder(tmp_path):
    root = made.second(tmp_path / "in")
    (root / "train_info.txt").write_text("/media/x/ST/train/im1/00003.png\n")
    (root / "val_info.txt").write_text("/media/x/ST/val/im1/00011.png\n\n")
    store, manifest = built(root, tmp_path / "out", max_rejected=0.5)
    assert splits(store) == {"00003": "train", "00011": "val", "00005": "test"}
    assert manifest["rejected"]["by_reason"] == {"unknown split": 1}


def test_a_val_folder_beside_lists_is_val(tmp_path):
    root = made.second(tmp_path / "in", "val")
    for name, stems in (("train_info.txt", ("00003", "00013", "00011")), ("val_info.txt", ("00005",))):
        (root / name).write_text("".join(f"/x/im1/{stem}.png\n" for stem in stems))
    assert splits(built(root, tmp_path / "out")[0])["00005"] == "val"


def test_real_lists_of_scannet(shared, tmp_path):
    lists = shared("SECOND") / "SCanNet_lists"
    root = made.second(tmp_path / "in")
    for name in ("train_info.txt", "val_info.txt"):
        (root / name).write_bytes((lists / name).read_bytes())
    store, _ = built(root, tmp_path / "out")
    assert splits(store) == {"00003": "train", "00013": "train", "00011": "val", "00005": "test"}


def test_doubtful_pixels_are_counted_and_are_no_change(tmp_path):
    root = made.second(tmp_path / "in")
    before, after = made.maps()
    before[20, 0:3] = made.WATER  # on one date only
    before[22, 0:5] = after[22, 0:5] = made.WATER
    made.write_pair(root / "train", "00020", before, after)
    sample = built(root, tmp_path / "out")[0].by_id("second/train/00020#semantic_change")
    assert sample.meta["one_sided_pixels"] == 3 and sample.meta["same_class_pixels"] == 5
    assert [region.label for region in sample.regions] == ["tree -> building"]


def test_bad_pairs_are_named(tmp_path):
    root = made.second(tmp_path / "in")
    for number in range(4):
        made.write_pair(root / "train", f"bad{number}", *made.maps(), number)
    Image.effect_noise((24, 24), 90).convert("RGB").save(root / "train/label1/bad0.png")
    (root / "train/label2/bad1.png").unlink()
    (root / "train/im2/bad2.png").unlink()
    Image.new("RGB", (20, 24), "white").save(root / "train/label2/bad3.png")
    _, manifest = built(root, tmp_path / "out", max_rejected=1)
    assert manifest["rejected"]["by_reason"] == {"unknown colour": 1, "missing mask": 1, "missing image": 1, "size mismatch": 1}


def test_other_layouts_are_refused(tmp_path):
    with pytest.raises(LayoutError, match="none of the folders"):
        make_source("second").check_layout(tmp_path)
    (tmp_path / "train" / "im1").mkdir(parents=True)
    with pytest.raises(LayoutError, match="no folder im2"):
        make_source("second").check_layout(tmp_path)
