"""Pairs with binary change masks: layouts, lists, mask values, tiles; real LEVIR-CD crops and real lists."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from geotempo.data_builders.build import build_store
from geotempo.data_builders.change_masks import load_change
from geotempo.data_builders.check import check_store
from geotempo.data_builders.sources import change_masks as family
from geotempo.data_builders.sources import make_source
from geotempo.data_builders.store import Store
from geotempo.model.errors import InputError, LayoutError
from tests.data_builders.fixtures import change_masks as made


def built(name, root, out, **keywords):
    manifest = build_store(name, root, out, progress=False, **keywords)
    return Store(out), manifest


def by_tag(store, key):
    return {name.partition("#")[2]: store.by_id(name) for name in store.ids if name.startswith(f"{key}#")}


def union(sample):
    out = np.zeros((sample.images[0].height, sample.images[0].width), dtype=bool)
    for region in sample.regions:
        out |= region.geometry.to_array()
    return out


@pytest.mark.parametrize(("name", "write", "splits"), [
    ("levir-cd-plus", made.levir_cd_plus, {"train": 2, "test": 1}),
    ("s2looking", made.s2looking, {"train": 1, "val": 1, "test": 1}),
    ("sysu-cd", made.sysu_cd, {"train": 1, "val": 1, "test": 1}),
    ("clcd", made.clcd, {"train": 1, "val": 1, "test": 1}),
    ("dsifn", made.dsifn, {"train": 1, "test": 1}),
    ("cdd", made.cdd, {"train": 1, "test": 1}),
])
def test_every_data_set_in_the_layout_of_its_authors(tmp_path, name, write, splits):
    store, manifest = built(name, write(tmp_path / "in"), tmp_path / "out")
    assert {split: manifest["tally"][f"pairs/{split}"] for split in splits} == splits
    assert manifest["rejected"]["total"] == 0 and not check_store(store, progress=False).faults
    assert {task for task in manifest["counts"]["by_task"]} <= set(make_source(name).tasks)


@pytest.mark.parametrize("form", ["L255", "L1", "RGB", "RGBA", "P", "red", "blue", "1"])
def test_masks_in_every_form_mean_the_same(tmp_path, form):
    made.write_mask(tmp_path / "m" / "a.png", made.truth(), form)
    assert np.array_equal(load_change(tmp_path / "m" / "a.png"), made.truth())


def test_noise_of_a_jpeg_mask_is_no_change(tmp_path):
    root = made.cdd(tmp_path / "in")
    with Image.open(root / "train/OUT/00000.jpg") as picture:
        noisy = np.asarray(picture)
    assert len(np.unique(noisy)) > 2, "the fixture must have the trap"
    store, _ = built("cdd", root, tmp_path / "out")
    sample = by_tag(store, "cdd/train/00000")["change_segmentation:areas"]
    assert np.array_equal(union(sample), made.truth(made.NOISY)) and len(sample.regions) == 1


def test_ones_in_a_black_jpeg_are_noise(tmp_path):
    Image.fromarray(np.ones((16, 16), dtype=np.uint8)).save(tmp_path / "a.jpg")
    Image.fromarray(np.ones((16, 16), dtype=np.uint8)).save(tmp_path / "a.png")
    assert not load_change(tmp_path / "a.jpg").any() and load_change(tmp_path / "a.png").all()


def test_the_folder_tells_the_split_where_the_name_does_not(tmp_path):
    store, _ = built("levir-cd-plus", made.levir_cd_plus(tmp_path / "in"), tmp_path / "out")
    assert {name.partition("#")[0] for name in store.ids} == {"levir-cd-plus/test/train_638", "levir-cd-plus/train/train_1",
                                                              "levir-cd-plus/train/train_637"}
    unchanged = by_tag(store, "levir-cd-plus/train/train_637")
    assert unchanged["change_vqa:buildings"].target == "no" and unchanged["counting:buildings"].target == "0"


def test_new_and_demolished_buildings(tmp_path):
    store, _ = built("s2looking", made.s2looking(tmp_path / "in"), tmp_path / "out")
    found = by_tag(store, "s2looking/val/1")
    new, gone = found["change_segmentation:buildings_built"], found["change_segmentation:buildings_demolished"]
    assert np.array_equal(union(new), made.truth(made.BOXES[:1])) and np.array_equal(union(gone), made.truth(made.BOXES[1:]))
    assert [(region.image, region.label) for region in (*new.regions, *gone.regions)] == [(2, "new building"), (1, "demolished building")]
    assert found["counting:buildings"].target == "2" and found["counting:buildings_demolished"].target == "1"


def test_kinds_of_change_are_optional_but_belong_together(tmp_path):
    root = made.s2looking(tmp_path / "in", kinds=False)
    store, _ = built("s2looking", root, tmp_path / "out")
    assert not any("built" in name for name in store.ids)
    made.write_mask(root / "train/label1/1.png", made.truth(), "red")
    with pytest.raises(LayoutError, match="label1 alone"):
        make_source("s2looking").check_layout(root)


def test_tiles_hold_every_pixel_and_kind_once(tmp_path):
    store, manifest = built("s2looking", made.s2looking(tmp_path / "in"), tmp_path / "out", options={"tile": 16})
    assert manifest["tally"]["pairs/train"] == 4
    whole = np.block([[union(by_tag(store, f"s2looking/train/1-{row}-{column}")["change_segmentation:buildings"])
                       for column in range(2)] for row in range(2)])
    assert np.array_equal(whole, made.truth())
    assert by_tag(store, "s2looking/train/1-0-0")["counting:buildings_built"].target == "1"
    assert by_tag(store, "s2looking/train/1-0-0")["counting:buildings_demolished"].target == "0"
    assert {store.by_id(name).meta["scene"] for name in store.ids} == {"1"}
    pixels = np.asarray(Image.open(tmp_path / "in/train/Image2/1.png"))
    assert np.array_equal(np.asarray(by_tag(store, "s2looking/train/1-1-0")["change_vqa:buildings"].images[1].rgb()), pixels[16:, :16])


def test_unchanged_pairs_can_be_thinned_and_changed_ones_stay(tmp_path):
    for number in range(40):
        made.write_pair(tmp_path / "in" / "train", ("time1", "time2", "label"), f"{number}", seed=number,
                        changed=made.truth(() if number % 4 else made.BOXES))
    tallies = [built("clcd", tmp_path / "in", tmp_path / str(share), options={"unchanged": share})[1]["tally"] for share in (0.0, 0.5, 1.0)]
    assert [tally["changed pairs/train"] for tally in tallies] == [10, 10, 10]
    assert tallies[0]["pairs/train"] == 10 and 15 < tallies[1]["pairs/train"] < 35 and tallies[2]["pairs/train"] == 40
    with pytest.raises(InputError, match="unchanged is 2"):
        make_source("clcd", unchanged=2)


def test_whole_pairs_keep_their_bytes(tmp_path):
    root = made.levir_cd_plus(tmp_path / "in")
    store, _ = built("levir-cd-plus", root, tmp_path / "out")
    sample = by_tag(store, "levir-cd-plus/train/train_1")["change_vqa:buildings"]
    assert sample.images[0].data == (root / "train/A/train_1.png").read_bytes() and sample.images[0].gsd == (0.5, 0.5)


def test_numbers_that_begin_anew_and_a_list_that_names_a_missing_pair(tmp_path):
    root = made.sysu_cd(tmp_path / "in", mamba=True)
    assert make_source("sysu-cd").keys(root) == ["test/00000", "train/00000", "val/00000", "val/00001"]
    store, manifest = built("sysu-cd", root, tmp_path / "out", max_rejected=0.5)
    assert manifest["rejected"] == {"total": 1, "by_reason": {"missing image": 1}}
    assert "val/T1/00001.png" in json.loads((tmp_path / "out/rejected.jsonl").read_text())["detail"].replace("\\", "/")
    images = {store.by_id(f"sysu-cd/{split}/00000#change_vqa:areas").images[0].id for split in ("train", "val", "test")}
    assert len(images) == 3


def test_lists_give_the_split_of_a_flat_folder(tmp_path):
    store, manifest = built("whu-cd", made.whu_cd(tmp_path / "in"), tmp_path / "out", max_rejected=0.5)
    assert {"/".join(name.partition("#")[0].split("/")[1:]) for name in store.ids} == {"train/whu_0", "train/whu_1", "test/whu_2"}
    assert manifest["rejected"]["by_reason"] == {"unknown split": 1}
    assert "whu_3 stands in none of the lists test, train" in (tmp_path / "out/rejected.jsonl").read_text()


def test_a_flat_folder_without_lists_is_refused(tmp_path):
    root = made.whu_cd(tmp_path / "in")
    shutil.rmtree(root / "list")
    with pytest.raises(LayoutError, match="nothing else tells the splits of whu-cd"):
        make_source("whu-cd").check_layout(root)


@pytest.mark.parametrize("name", ["levir-cd-plus", "s2looking", "whu-cd", "sysu-cd", "clcd", "dsifn", "cdd"])
def test_other_layouts_are_refused(tmp_path, name):
    source = make_source(name)
    with pytest.raises(LayoutError, match="not a folder"):
        source.check_layout(tmp_path / "none")
    (tmp_path / "train").mkdir()
    with pytest.raises(LayoutError, match=f"has no folder {source.layout.folders[0]}; {name} expects"):
        source.check_layout(tmp_path)
    with pytest.raises(InputError, match="tile is -3"):
        make_source(name, tile=-3)


def test_bad_pairs_are_named(tmp_path):
    root = tmp_path / "in"
    for number in range(6):
        made.write_pair(root / "train", ("time1", "time2", "label"), f"{number}", seed=number)
    (root / "train/time2/1.png").unlink()
    (root / "train/label/2.png").unlink()
    (root / "train/label/3.png").write_bytes(b"no image")
    made.write_mask(root / "train/label/4.png", np.zeros((20, 32), dtype=bool))
    Image.fromarray(np.full((32, 32), 300, dtype=np.uint16)).save(root / "train/label/5.png")
    _, manifest = built("clcd", root, tmp_path / "out", max_rejected=1)
    assert manifest["rejected"]["by_reason"] == {"missing image": 1, "missing mask": 1, "broken mask": 1, "size mismatch": 1,
                                                 "unsupported mask": 1}


def test_one_and_two_workers_give_the_same_bytes(tmp_path, digest):
    root = made.s2looking(tmp_path / "in")
    for workers in (1, 2):
        build_store("s2looking", root, tmp_path / str(workers), workers=workers, progress=False)
    assert digest(tmp_path / "1") == digest(tmp_path / "2")


def test_crops_are_of_one_scene_and_have_their_part_of_its_footprint(tmp_path):
    root = made.levir_256(tmp_path / "in")
    (root / "LEVIR_CD_name_coords.json").write_text(json.dumps({"test_2.png": [10.0, 50.0, 14.0, 46.0]}))
    store, _ = built("levir-cd", root, tmp_path / "out")
    upper = store.by_id("levir-cd/test/test_2_0000_0768#change_vqa:buildings").meta
    assert upper["scene"] == "test_2" and upper["footprint"] == pytest.approx([13.0, 49.875, 13.125, 50.0])
    lower = store.by_id("levir-cd/test/test_2_0768_0000#change_vqa:buildings").meta
    assert lower["footprint"] == pytest.approx([10.0, 46.875, 10.125, 47.0])


@pytest.mark.parametrize("text", ["[]", '{"a.png": [1, 2]}', '{"a.png": [2, 1, 0, 0]}', "{"])
def test_coordinates_of_another_form_are_refused(tmp_path, text):
    root = made.levir_256(tmp_path)
    (root / "LEVIR_CD_name_coords.json").write_text(text)
    with pytest.raises(LayoutError, match="LEVIR_CD_name_coords"):
        make_source("levir-cd").check_layout(root)


def test_real_crops_are_the_real_tile_row_first(shared, tmp_path):
    root = shared("LEVIR-CD_256")
    store, manifest = built("levir-cd", root, tmp_path / "out")
    assert {store.by_id(name).meta["scene"] for name in store.ids} == {"test_2"}
    for path in sorted((root / "label").iterdir()):
        with Image.open(path) as picture:
            changed = np.asarray(picture.convert("L")) > 127
        sample = store.by_id(f"levir-cd/test/{path.stem}#change_segmentation:buildings")
        assert np.array_equal(union(sample), changed)
    assert manifest["tally"]["pairs/test"] == len(list((root / "label").iterdir()))


def test_real_coordinates_put_real_crops_in_texas(shared, tmp_path):
    crops, coordinates = shared("LEVIR-CD_samples") / "BIT_CD_256", shared("LEVIR-CD_samples") / "LEVIR_CD_spatial_info"
    root = tmp_path / "in"
    root.mkdir()
    for name in ("A", "B", "label"):
        (root / name).symlink_to(crops / name)
    (root / "LEVIR_CD_name_coords.json").symlink_to(coordinates / "LEVIR_CD_name_coords.json")
    store, _ = built("levir-cd", root, tmp_path / "out")
    known = json.loads((coordinates / "LEVIR_CD_name_coords.json").read_text())
    for name in store.ids:
        meta = store.by_id(name).meta
        west, south, east, north = meta["footprint"]
        left, top, right, bottom = known[f"{meta['scene']}.png"]
        assert left - 1e-9 <= west < east <= right + 1e-9 and bottom - 1e-9 <= south < north <= top + 1e-9
        assert (east - west) / (right - left) == pytest.approx(0.25) and -99 < west < -97 and 29 < south < 31


@pytest.mark.parametrize(("folder", "name", "counts"), [
    ("LEVIR-CD+", "levir-cd-plus", {"train": 637, "test": 348}), ("SYSU", "sysu-cd", {"train": 12000, "val": 4000, "test": 4000})])
def test_real_lists_of_mambacd_name_every_pair(shared, tmp_path, folder, name, counts):
    lists = shared("CD_split_lists") / "MambaCD" / folder
    for path in lists.iterdir():
        shutil.copy(path, tmp_path / path.name)
    source = make_source(name)
    for split in counts:
        for part in source.layout.folders:
            (tmp_path / split / part).mkdir(parents=True)
    keys = source.keys(tmp_path)
    assert {split: sum(key.startswith(f"{split}/") for key in keys) for split in counts} == counts
    if folder == "LEVIR-CD+":
        assert {key.startswith("test/") for key in keys if int(key.rpartition("_")[2]) > 637} == {True}


def test_every_class_of_the_family_is_on_the_list():
    classes = {value.name for value in vars(family).values() if isinstance(value, type) and value.__module__ == family.__name__}
    assert {type(make_source(name)).name for name in classes} == classes
