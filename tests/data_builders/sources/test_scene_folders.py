"""Scenes: UC Merced, NWPU-RESISC45, AID, EuroSAT, any folder of folders."""

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from geotempo.data_builders.build import build_store
from geotempo.data_builders.check import check_store
from geotempo.data_builders.options import read_options
from geotempo.data_builders.render import to_request
from geotempo.data_builders.scene_folders import balanced_split, readable, same_name
from geotempo.data_builders.sources import make_source, source_class
from geotempo.data_builders.sources.scene_folders import Aid, NwpuResisc45, UcMerced
from geotempo.data_builders.store import Store
from geotempo.model.errors import InputError, LayoutError
from geotempo.model.prompts import render
from geotempo.model.records import time_order
from tests.data_builders.fixtures import scene_folders as made

MS = {"bands": "ms", "val_share": 0}


def built(name, root, out, **keywords):
    manifest = build_store(name, root, out, progress=False, **keywords)
    return Store(out), manifest


def splits(store):
    return Counter((name.split("/")[1], name.split("/")[2]) for name in store.ids if name.endswith("#classification"))


def rejected(out):
    return {entry["key"]: (entry["reason"], entry["detail"])
            for entry in map(json.loads, (out / "rejected.jsonl").read_text().splitlines())}


def test_two_questions_about_each_image_one_of_which_names_the_classes(tmp_path):
    store, _ = built("uc-merced", made.uc_merced(tmp_path / "in"), tmp_path / "out")
    closed = store.by_id(next(name for name in store.ids if name.endswith("tenniscourt00#classification")))
    opened = store.by_id(closed.id + ":open")
    assert closed.target == opened.target == "tennis court" and closed.task == opened.task == "classification"
    assert all(name in closed.question for name in UcMerced.classes) and len(UcMerced.classes) == 21
    assert not any(name in opened.question for name in UcMerced.classes)
    assert closed.images[0].gsd == (0.3, 0.3) and not check_store(store, progress=False).faults


def test_equal_files_are_stored_once_and_never_in_two_splits(tmp_path):
    root = made.uc_merced(tmp_path / "in")
    for share in (0.1, 0.2, 0.5):
        store, manifest = built("uc-merced", root, tmp_path / f"{share}", options={"val_share": share})
        assert manifest["counts"]["images"] == 19 and len(store) == 40
        ends = ("airplane01#classification", "airplane02#classification")
        twins = [name for name in store.ids if name.endswith(ends)]
        assert len({name.split("/")[1] for name in twins}) == 1 and len(twins) == 2
        assert len({store.by_id(name).images[0].id for name in twins}) == 1


def test_tiff_becomes_png_and_other_sizes_stay(tmp_path):
    root = made.uc_merced(tmp_path / "in")
    store, _ = built("uc-merced", root, tmp_path / "out")
    name = next(name for name in store.ids if name.endswith("airplane05#classification"))
    image = store.by_id(name).images[0]
    assert (image.width, image.height) == (made.SIDE - 1, made.SIDE)
    path = root / "Images/airplane/airplane05.tif"
    with Image.open(io.BytesIO(image.encoded())) as picture, Image.open(path) as original:
        assert picture.format == "PNG" and np.array_equal(np.asarray(picture), np.asarray(original))


def test_tiff_is_kept_in_the_store_where_other_images_are_paths(tmp_path):
    root = made.uc_merced(tmp_path / "in", each=2)
    made.picture(root / "Images/river/river00.jpg", 5)
    store, _ = built("uc-merced", root, tmp_path / "out", images="reference", options={"val_share": 0})
    assert not check_store(store, progress=False).faults
    for name, path in (("airplane/airplane00", "airplane/airplane00.tif"), ("river/river00", "river/river00.jpg")):
        image = store.by_id(f"uc-merced/train/{name}#classification").images[0]
        with Image.open(root / "Images" / path) as original:
            assert np.array_equal(np.asarray(image.rgb()), np.asarray(original))


def test_building_twice_gives_the_same_bytes(tmp_path, digest):
    root = made.uc_merced(tmp_path / "in", each=6)
    built("uc-merced", root, tmp_path / "one")
    built("uc-merced", root, tmp_path / "two")
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_the_user_names_data_set_and_licence(tmp_path):
    root = made.folders(tmp_path / "in", each=2)
    options = {"licence": "CC-BY-4.0; me", "dataset": "mine"}
    store, manifest = built("scene-folders", root, tmp_path / "out", options=options)
    assert store.ids[0].startswith("mine/") and manifest["licence"] == "CC-BY-4.0; me"
    assert store.by_id(store.ids[0]).meta["licence"] == "CC-BY-4.0; me"
    with pytest.raises(InputError, match="unknown licence 'free'"):
        make_source("scene-folders", licence="free")


@pytest.mark.parametrize(("present", "expected"), [
    (["train"], {"train": 8, "val": 2}), (["train", "val"], {"train": 10, "val": 10}),
    (["Training", "validation", "testing"], {"train": 10, "val": 10, "test": 10}),
    (["train", "test"], {"train": 10, "test": 10}),
])
def test_folders_of_splits_are_believed_and_only_a_train_folder_alone_is_divided(tmp_path, present, expected):
    for split in present:
        made.folders(tmp_path / "in" / split, each=5)
    store, _ = built("scene-folders", tmp_path / "in", tmp_path / "out")
    assert Counter(name.split("/")[1] for name in store.ids if name.endswith("#classification")) == expected


def test_a_name_that_comes_in_every_split_means_the_picture_of_its_split(tmp_path):
    for number, split in enumerate(("train", "val", "test")):
        made.picture(tmp_path / "in" / split / "pond/1.png", number)
    store, _ = built("scene-folders", tmp_path / "in", tmp_path / "out")
    for split in ("train", "val", "test"):
        image = store.by_id(f"scene-folders/{split}/pond/1#classification").images[0]
        assert image.encoded() == (tmp_path / "in" / split / "pond/1.png").read_bytes()


def test_any_folder_of_folders_with_its_own_class_names(tmp_path):
    root = made.folders(tmp_path / "in", ("baseball_diamond", "SeaLake", "solar farm"), extension="png")
    made.picture(root / "SeaLake/2019/deep.bmp", 7)
    store, manifest = built("scene-folders", root, tmp_path / "out", options={"val_share": 0})
    assert splits(store) == {("train", "baseball_diamond"): 5, ("train", "SeaLake"): 6, ("train", "solar_farm"): 5}
    sample = store.by_id("scene-folders/train/SeaLake/2019/deep#classification")
    assert sample.target == "sea lake" and "baseball diamond, sea lake, solar farm" in sample.question
    assert manifest["tally"]["solar farm/train"] == 5


def test_what_is_no_image_is_named_and_litter_is_not(tmp_path):
    root = made.folders(tmp_path / "in")
    (root / "SeaLake/notes.txt").write_text("hello")
    for name in ("SeaLake/Thumbs.db", "SeaLake/.DS_Store", ".git/x.jpg", "__MACOSX/y.jpg"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("x")
    made.picture(root / "overview.png", 1)
    truncated = root / "SeaLake/SeaLake_0.jpg"
    truncated.write_bytes(truncated.read_bytes()[:100])
    built("scene-folders", root, tmp_path / "out", max_rejected=0.3, options={"val_share": 0})
    assert {key: reason for key, (reason, _) in rejected(tmp_path / "out").items()} == {
        "train/SeaLake/SeaLake_0.jpg": "broken image", "train/SeaLake/notes.txt": "broken image",
        "train/overview.png": "no class"}


def test_files_that_differ_in_their_extension_alone_are_two_samples(tmp_path):
    root = made.folders(tmp_path / "in", ("pond",), each=1)
    made.picture(root / "pond/pond_0.png", 9)
    store, _ = built("scene-folders", root, tmp_path / "out")
    assert {name for name in store.ids if name.endswith("#classification")} == {
        "scene-folders/train/pond/pond_0.jpg#classification", "scene-folders/train/pond/pond_0.png#classification"}


@pytest.mark.parametrize(("name", "folder", "label"), [
    ("nwpu-resisc45", "baseball_diamond", "baseball diamond"), ("aid", "StorageTanks", "storage tanks"),
    ("uc-merced", "Mobile Home-Park", "mobile home park"), ("eurosat", "HerbaceousVegetation", "herbaceous vegetation"),
])
def test_unknown_folders_are_named_and_known_ones_recognised_however_they_are_written(tmp_path, name, folder, label):
    root = made.folders(tmp_path / "in", (folder, "volcano"), each=3)
    store, manifest = built(name, root, tmp_path / "out", max_rejected=0.5)
    assert {store.by_id(one).target for one in store.ids} == {label}
    assert manifest["rejected"] == {"total": 3, "by_reason": {"unknown class": 3}}
    assert all("volcano is none of the" in detail for _, detail in rejected(tmp_path / "out").values())


def test_the_classes_are_complete():
    assert [len(set(kind.classes)) for kind in (NwpuResisc45, UcMerced, Aid)] == [45, 21, 30]
    assert len({same_name(label) for label in NwpuResisc45.classes}) == 45


def test_many_classes_are_not_listed(tmp_path):
    root = made.folders(tmp_path / "in", [f"kind {number}" for number in range(101)], each=1)
    store, _ = built("scene-folders", root, tmp_path / "out")
    assert len(store) == 101 and all(name.endswith(":open") for name in store.ids)


@pytest.mark.parametrize(("other", "message"), [
    ("forest", "holds train and beside them images in forest; move one or the other away"),
    ("more/forest", "beside them images in more;"),
    ("Training/forest", "holds Training, train, of which two mean one split"),
])
def test_folders_whose_images_would_be_lost_are_refused(tmp_path, other, message):
    made.folders(tmp_path / "in/train")
    made.folders(tmp_path / "in", (other,), each=0)
    made.picture(tmp_path / "in" / other / "a.jpg", 0)
    with pytest.raises(LayoutError, match=message):
        make_source("scene-folders").check_layout(tmp_path / "in")


@pytest.mark.parametrize("name", ["uc-merced", "scene-folders", "eurosat"])
def test_a_folder_without_folders_is_refused(tmp_path, name):
    with pytest.raises(LayoutError, match="has no folders of classes"):
        make_source(name).check_layout(tmp_path)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_shares_that_make_no_sense_are_refused(share):
    with pytest.raises(InputError, match="from 0"):
        make_source("scene-folders", val_share=share)


@given(count=st.integers(1, 40), share=st.floats(0, 0.99), twins=st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_the_share_is_kept_in_every_class(tmp_path_factory, count, share, twins):
    folder = tmp_path_factory.mktemp("s")
    for number in range(count):
        (folder / f"{number:02d}").write_bytes(b"same" if number < twins else f"{number:04d}".encode())
    paths = [folder / f"{number:02d}" for number in range(count)]
    chosen = balanced_split(paths, share)
    wanted = round(share * count)
    assert len(chosen) <= wanted and (twins > 1 or len(chosen) == wanted)
    assert len({path in chosen for path in paths[:twins]}) <= 1, "equal files stay together"
    assert chosen == balanced_split(paths[::-1], share), "the order of the listing does not matter"


def test_a_new_image_moves_few_of_the_others(tmp_path):
    for number in range(50):
        made.picture(tmp_path / f"{number}.png", number, (4, 4))
    paths = sorted(tmp_path.iterdir())
    before, after = balanced_split(paths[1:], 0.2), balanced_split(paths, 0.2)
    assert len(before ^ after) <= 2


@pytest.mark.parametrize(("folder", "words"), [
    ("SparseResidential", "sparse residential"), ("ground_track_field", "ground track field"),
    ("USGS Map2", "usgs map 2"), ("лес", "лес"), ("__", "__"), ("bare-land", "bare land"),
])
def test_folder_names_as_words(folder, words):
    assert readable(folder) == words


def test_eurosat_bands_become_views_of_one_acquisition(tmp_path, caplog):
    store, _ = built("eurosat", made.eurosat_ms(tmp_path / "in"), tmp_path / "out", options=MS)
    sample = store.by_id("eurosat/train/AnnualCrop/AnnualCrop_1#classification")
    assert [image.view for image in sample.images] == ["true colour", "false colour", "NDVI"]
    assert time_order(sample.images).numbers == (1, 1, 1)
    assert {(image.sensor, image.modality) for image in sample.images} == {("Sentinel-2", "multispectral")}
    assert sample.images[0].gsd == pytest.approx((10, 10), rel=0.01)
    assert not check_store(store, progress=False).faults and not caplog.records
    text = "".join(part.get("text", "") for part in render(to_request(sample)).messages[0]["content"])
    assert text.count("Image 1") == 3 and "NDVI" in text and "Image 2" not in text


def test_eurosat_views_show_the_right_bands_though_b8a_is_last(tmp_path):
    """Digital numbers / 10000 are reflectance; true colour shows 0 to 0.3, false colour 0 to 0.4, NDVI -1 to 1."""
    store, _ = built("eurosat", made.eurosat_ms(tmp_path / "in"), tmp_path / "out", options=MS)
    true, false, ndvi = (np.asarray(image.rgb())[5, 5].tolist()
                         for image in store.by_id("eurosat/train/AnnualCrop/AnnualCrop_1#classification").images)
    assert true == pytest.approx([255 * value / 0.3 for value in (0.06, 0.09, 0.03)], abs=0.51)
    assert false == pytest.approx([255 * value / 0.4 for value in (0.24, 0.06, 0.09)], abs=0.51)
    assert ndvi == pytest.approx([255 * (0.18 / 0.30 + 1) / 2] * 3, abs=0.51)


def test_options_on_the_command_line():
    given = read_options(source_class("eurosat"), ["bands=ms", "views=[NDVI, SWIR]", "val_share=0.1"])
    source = make_source("eurosat", **given)
    assert (source.bands, source.views, source.val_share) == ("ms", ("NDVI", "SWIR"), 0.1)
    with pytest.raises(InputError, match="unknown view 'NVDI'"):
        make_source("eurosat", views=("NVDI",))


def test_eurosat_takes_other_views_and_names_files_with_other_bands(tmp_path):
    root = made.eurosat_ms(tmp_path / "in")
    base = root / "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"
    made.bands(base / "SeaLake/SeaLake_3.tif", names=made.NAMES[:12])
    store, manifest = built("eurosat", root, tmp_path / "out", max_rejected=0.5,
                            options={"bands": "ms", "views": ("SWIR", "ndwi"), "val_share": 0})
    sample = store.by_id("eurosat/train/SeaLake/SeaLake_1#classification")
    assert [image.view for image in sample.images] == ["SWIR", "NDWI"]
    assert manifest["rejected"]["by_reason"] == {"unsupported image": 1}
    detail = rejected(tmp_path / "out")["train/SeaLake/SeaLake_3.tif"][1]
    assert "'SeaLake/SeaLake_3.tif' has 12 bands" in detail and str(tmp_path) not in detail


def test_eurosat_pictures(tmp_path):
    root = made.folders(tmp_path / "in/2750", ("AnnualCrop", "SeaLake"), each=5)
    store, manifest = built("eurosat", root.parent, tmp_path / "out")
    assert manifest["counts"]["by_split"] == {"train": 16, "val": 4}
    sample = store.by_id(next(name for name in store.ids if "SeaLake" in name))
    assert sample.target == "sea lake" and sample.images[0].sensor == "Sentinel-2"
    with pytest.raises(InputError, match="bands is 'all'; allowed: rgb, ms"):
        make_source("eurosat", bands="all")


def test_real_uc_merced(shared, tmp_path):
    """1,050 JPEGs, 50 of each class; airplane01 and airplane02 are one file."""
    root = shared("UCMerced_LandUse")
    store, manifest = built("uc-merced", root, tmp_path / "out")
    assert (len(store), manifest["counts"]["images"], manifest["rejected"]["total"]) == (2100, 1049, 0)
    counted = splits(store)
    assert Counter(counted.values()) == {40: 21, 10: 21} and len({thing for _, thing in counted}) == 21
    first, second = (store.by_id(next(name for name in store.ids if name.endswith(f"airplane0{number}#classification")))
                     for number in (1, 2))
    assert first.images[0].id == second.images[0].id and first.split == second.split
    assert first.images[0].encoded() == (root / "train/airplane/airplane01.jpg").read_bytes()


@pytest.mark.parametrize("name", ["nwpu-resisc45", "scene-folders"])
def test_real_nwpu_resisc45(shared, tmp_path, name):
    """150 images of ten classes; as a folder of folders the classes are the same words."""
    store, manifest = built(name, shared("NWPU-RESISC45"), tmp_path / "out")
    assert manifest["counts"]["images"] == 150 and manifest["rejected"]["total"] == 0
    assert Counter(splits(store).values()) == {12: 10, 3: 10}
    folders = {path.name for path in Path(shared("NWPU-RESISC45")).iterdir() if path.is_dir()}
    assert {store.by_id(one).target for one in store.ids} == {folder.replace("_", " ") for folder in folders}
    closed = store.by_id(next(one for one in store.ids if one.endswith("#classification")))
    assert closed.question.count(",") == (44 if name == "nwpu-resisc45" else 9)
