"""LEVIR-CC, -MCI, -CD: what becomes of captions, flags and masks."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from geotempo.data_builders.build import build_store
from geotempo.data_builders.captions import clean_caption
from geotempo.data_builders.instances import components, flags, instances
from geotempo.data_builders.levir import read_captions
from geotempo.data_builders.sources import make_source
from geotempo.data_builders.store import Store
from geotempo.model.errors import InputError, LayoutError


def built(name, root, out, **keywords):
    build_store(name, root, out, progress=False, **keywords)
    return Store(out)


@pytest.fixture(scope="module")
def real(shared, tmp_path_factory):
    """The store of the real LEVIR-MCI subset."""
    root = shared("LEVIR-MCI_subset")
    return root, built("levir-mci", root, tmp_path_factory.mktemp("b") / "mci", workers=2)


def test_real_subset_counts(real):
    _, store = real
    tally = store.manifest["tally"]
    assert (tally["pairs/train"], tally["pairs/val"]) == (540, 109)
    assert (tally["changed pairs/train"], tally["changed pairs/val"]) == (340, 61)
    captions = [store.row(i) for i in store.rows(tasks=["change_caption"])]
    assert Counter(row["split"] for row in captions) == {"train": 540, "val": 109}
    assert {len(json.loads(row["meta"])["references"]) for row in captions} == {5}
    assert store.manifest["rejected"]["total"] == 0


def test_real_instances_rasterise_to_the_label_pixel_for_pixel(real):
    root, store = real
    rows = store.rows(tasks=["referring_segmentation"])
    assert len(rows) == 649
    for index in rows:
        sample = store[index]
        stem = sample.id.split("/")[2].partition("#")[0]
        label = np.asarray(Image.open(root / "images" / sample.split / "label" / f"{stem}.png")) == 255
        total = np.zeros(label.shape, dtype=int)
        for region in sample.regions:
            part = region.geometry.to_array()
            total += part
            assert all(part[int(y), int(x)] for x, y in region.points)
        assert np.array_equal(total, label.astype(int)), sample.id  # equal, and no pixel in two instances


def test_real_first_caption_is_the_answer(real):
    root, store = real
    records = read_captions(root)
    for index in store.rows(tasks=["change_caption"])[:50]:
        sample = store[index]
        record = records[sample.id.removeprefix("levir-mci/").partition("#")[0]]
        assert sample.target == record.captions[0] and not sample.target.endswith((".", " "))
        assert sample.meta["references"] == list(record.captions)


def test_real_images_keep_their_bytes(real):
    root, store = real
    sample = store.by_id("levir-mci/train/test_000004#change_caption")
    for image, folder in zip(sample.images, "AB", strict=True):
        assert image.data == (root / "images/train" / folder / "test_000004.jpg").read_bytes()


def test_joint_samples_only_where_flag_and_mask_agree(levir, tmp_path):
    store = built("levir-mci", levir, tmp_path / "s")
    joint = {name.partition("#")[0].rpartition("/")[2] for name in store.ids if name.endswith(":joint")}
    assert joint == {"train_000001", "train_000002", "train_000003"}
    doubt = store.by_id("levir-mci/train/train_000004#change_caption").meta["flag_mask_disagreement"]
    assert doubt == {"changeflag": 0, "mask_pixels": 100}
    assert store.by_id("levir-mci/train/train_000001#change_segmentation:joint").target == (
        "two houses appear\n<regions:0,1,2>")
    assert store.by_id("levir-mci/train/train_000002#change_segmentation:joint").target == (
        "there is no difference\n<regions:>")


def test_yes_no_comes_from_the_flag_and_counts_from_the_mask(levir, tmp_path):
    store = built("levir-mci", levir, tmp_path / "s")
    answers = {i.split("/")[2].partition("#")[0]: store.by_id(i).target for i in store.ids if i.endswith("change_vqa")}
    assert answers == {"train_000001": "yes", "train_000002": "no", "train_000003": "yes", "train_000004": "no",
                       "val_000001": "yes"}
    assert store.by_id("levir-mci/train/train_000001#counting:buildings").target == "3"


def test_classes_are_named_and_flags_given(levir, tmp_path):
    store = built("levir-mci", levir, tmp_path / "s")
    buildings = store.by_id("levir-mci/train/train_000001#change_grounding:buildings")
    assert [region.label for region in buildings.regions] == ["building"] * 3 and "buildings" in buildings.question
    assert all(region.image == 2 for region in buildings.regions)
    assert buildings.meta["flags"] == {"2": ["small"]}  # 3 x 3 pixels
    roads = store.by_id("levir-mci/train/train_000003#change_grounding:roads")
    assert [region.label for region in roads.regions] == ["road"] and roads.meta["flags"] == {"0": ["border"]}
    empty = store.by_id("levir-mci/train/train_000002#change_grounding:buildings")
    assert empty.target == "<regions:>" and empty.target_regions == ()
    assert "levir-mci/train/train_000002#change_grounding:roads" not in store.ids


def test_more_than_32_instances_name_the_largest(levir, tmp_path):
    array = np.zeros((64, 64), dtype=np.uint8)
    for n in range(40):
        row, column = divmod(n, 8)
        array[row * 8 : row * 8 + 1 + n % 5, column * 8 : column * 8 + 4] = 255
    Image.fromarray(array).save(levir / "images/train/label/train_000001.png")
    sample = built("levir-mci", levir, tmp_path / "s").by_id("levir-mci/train/train_000001#change_grounding:buildings")
    sizes = [int(region.geometry.to_array().sum()) for region in sample.regions]
    named = [int(region.geometry.to_array().sum()) for region in sample.target_regions]
    assert len(sizes) == 40 and named == sorted(sizes, reverse=True)[:32] and sample.meta["left_out"] == 8


def test_missing_optional_keys_are_derived(levir, tmp_path):
    """ForestChat writes the same file without imgid, changeflag and sentids."""
    path = levir / "LevirCCcaptions.json"
    value = json.loads(path.read_text())
    for entry in value["images"]:
        del entry["changeflag"], entry["imgid"]
    (levir / "ForestChatcaptions.json").write_text(json.dumps(value))
    path.unlink()
    store = built("levir-cc", levir, tmp_path / "s")
    assert store.manifest["tally"]["changed pairs/train"] == 2 and store.manifest["tally"]["changed pairs/val"] == 1


def test_bad_items_are_named_and_the_rest_is_kept(levir, tmp_path):
    images = levir / "images/train"
    broken = images / "A/train_000001.png"
    broken.write_bytes(broken.read_bytes()[:200])
    (images / "B/train_000002.png").unlink()
    (images / "label/train_000003.png").unlink()
    Image.new("L", (32, 32)).save(images / "label/train_000004.png")
    store = built("levir-mci", levir, tmp_path / "s", max_rejected=0.9)
    rejected = {entry["key"]: entry["reason"]
                for entry in map(json.loads, (tmp_path / "s/rejected.jsonl").read_text().splitlines())}
    assert rejected == {"train/train_000001": "broken image", "train/train_000002": "missing image",
                        "train/train_000003": "missing mask", "train/train_000004": "size mismatch"}
    assert {name.split("/")[2].partition("#")[0] for name in store.ids} == {"val_000001"}


def test_jpeg_noise_in_a_label_is_refused_by_value(levir, tmp_path):
    Image.new("L", (64, 64), 97).save(levir / "images/train/label/train_000001.png")
    store = built("levir-mci", levir, tmp_path / "s", max_rejected=0.5)
    assert store.manifest["rejected"]["by_reason"] == {"unknown mask value": 1}


def test_names_come_from_the_json_and_not_from_the_folder(levir, tmp_path):
    """The official folder holds more pairs than the file annotates; copies may have another extension."""
    extra = levir / "images/train/A/train_000009.png"
    extra.write_bytes((levir / "images/train/A/train_000001.png").read_bytes())
    for folder in "AB":
        png = levir / "images/train" / folder / "train_000002.png"
        Image.open(png).save(png.with_suffix(".jpg"))
        png.unlink()
    store = built("levir-cc", levir, tmp_path / "s")
    assert store.manifest["tally"]["pairs/train"] == 4 and store.manifest["items"] == 5


@pytest.mark.parametrize("raw", [" a road appears .", "a road appears.", "a road appears", " a road appears . "])
def test_captions_lose_blanks_and_period(raw):
    assert clean_caption(raw) == "a road appears"


def test_real_captions_of_four_pairs(shared, tmp_path):
    """The folder holds 4 of the 10,077 annotated pairs, the others are named as missing."""
    root = shared("LEVIR-CC")
    source = make_source("levir-cc")
    source.check_layout(root)
    assert len(source.keys(root)) == 10077
    with pytest.raises(InputError, match="were rejected"):
        built("levir-cc", root, tmp_path / "s")
    assert not (tmp_path / "s").exists()
    store = built("levir-cc", root, tmp_path / "s", max_rejected=1.0)
    assert len(store) == 8 and store.manifest["rejected"] == {"by_reason": {"missing image": 10073}, "total": 10073}


@pytest.mark.parametrize("name", ["LEVIR-CD", "LEVIR-CD_256"])
def test_real_levir_cd(shared, tmp_path, name):
    root = shared(name)
    store = built("levir-cd", root, tmp_path / "s")
    folder = root / "test" if (root / "test").is_dir() else root
    labels = {path.stem: np.asarray(Image.open(path)) > 127 for path in folder.glob("label/*.png")}
    assert store.manifest["tally"]["pairs/test"] == len(labels) > 0
    assert store.manifest["tally"]["changed pairs/test"] == sum(bool(label.any()) for label in labels.values()) > 0
    for index in store.rows(tasks=["change_segmentation"]):
        sample = store[index]
        label = labels[sample.id.split("/")[2].partition("#")[0]]
        union = np.zeros(label.shape, dtype=bool)
        for region in sample.regions:
            union |= region.geometry.to_array()
        assert np.array_equal(union, label)


def test_levir_cd_split_lists(levir, tmp_path):
    root = tmp_path / "crops"
    (levir / "images/train").rename(root)
    (root / "list").mkdir()
    (root / "list/val.txt").write_text("train_000001.png\n\n")
    keys = make_source("levir-cd").keys(root)
    assert keys == ["train/train_000002", "train/train_000003", "train/train_000004", "val/train_000001"]


@pytest.mark.parametrize(("name", "remove", "message"), [
    ("levir-cc", "LevirCCcaptions.json", "expected LevirCCcaptions.json"),
    ("levir-cc", "images/train/B", "no folder images/train/B"),
    ("levir-mci", "images/val/label", "no folder images/val/label"),
])
def test_wrong_layout_says_what_is_missing(levir, tmp_path, name, remove, message):
    path = levir / remove
    path.rename(tmp_path / "away")
    with pytest.raises(LayoutError, match=message):
        built(name, levir, tmp_path / "s")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["away", "levir"]


def test_components_are_disjoint_and_sorted():
    mask = np.zeros((20, 20), dtype=bool)
    mask[0, 0] = mask[1, 1] = True  # touch at a corner: one component
    mask[5:9, 5:9] = True
    mask[15, 3:6] = True
    parts = components(mask)
    assert [int(part.sum()) for part in parts] == [16, 3, 2]
    assert np.array_equal(np.sum(parts, axis=0), mask)
    found = instances(mask, 2, "building")
    assert flags(found, 20, 20) == {"1": ["small"], "2": ["small", "border"]}
