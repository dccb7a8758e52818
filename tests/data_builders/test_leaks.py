"""Leaks: the same bytes, the same picture written anew or cut out, the same place in another data set, the same event."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from typer.testing import CliRunner

from geotempo.cli import app
from geotempo.data_builders.build import build_store
from geotempo.data_builders.census import footprint_of
from geotempo.data_builders.families import FAMILIES, event_name, levir_crop, place_name, unnamed_overlaps
from geotempo.data_builders.leaks import find_leaks, same_looks
from geotempo.data_builders.looks import CACHE, Looks, look_at, looks_of, unseen
from geotempo.data_builders.sample import Message, Sample
from geotempo.data_builders.sources import SOURCES
from geotempo.data_builders.store import Store, write_store
from geotempo.model.errors import InputError
from geotempo.model.records import ImageRecord


def landscape(seed, size=256):
    """A picture with structure at all scales, as satellite images have."""
    rng = np.random.default_rng(seed)
    noise = Image.fromarray(rng.integers(0, 255, (size, size, 3), dtype=np.uint8)).filter(ImageFilter.GaussianBlur(size / 24))
    low, high = np.asarray(noise).min(), np.asarray(noise).max()
    return Image.fromarray(((np.asarray(noise).astype(float) - low) * 255 / (high - low)).astype(np.uint8))


def encoded(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def record(picture, kind="PNG", **options):
    return ImageRecord("", picture.width, picture.height, data=encoded(picture, kind, **options))


def sample(name, images, dataset="toy", split="train", **meta):
    return Sample(f"{dataset}/{split}/{name}#vqa", dataset, split, "vqa", tuple(images),
                  (Message("user", "<image>" * len(images) + "What?"), Message("assistant", "fields")), (), {"licence": "MIT", **meta})


def compare(tmp_path, train, evaluation, **options):
    sides = []
    for name, samples in (("train", train), ("eval", evaluation)):
        write_store(samples, tmp_path / name)
        store = Store(tmp_path / name)
        sides.append([(store, range(len(store)))])
    return find_leaks(*sides, **options)


def kinds(report):
    return sorted({(shared.kind, shared.train.split("#")[0], shared.evaluation.split("#")[0]) for shared in report.shared})


def test_the_same_bytes_are_found_whatever_they_are_called(tmp_path):
    report = compare(tmp_path, [sample("a", [record(landscape(0))]), sample("b", [record(landscape(1))])],
                     [sample("x", [record(landscape(1))], "other", "test"), sample("y", [record(landscape(2))], "other", "test")])
    assert kinds(report) == [("bytes", "toy/train/b", "other/test/x")] and report.touched["any"] == 1


@pytest.mark.parametrize("options", [{"quality": 90}, {"quality": 30}, {"quality": 75, "scale": 0.5}])
def test_a_picture_is_found_after_encoding_and_scaling(tmp_path, options):
    scale = options.pop("scale", 1)
    pictures = [landscape(seed) for seed in range(12)]
    copies = [picture.resize((int(256 * scale),) * 2, Image.Resampling.BICUBIC) for picture in pictures[::3]]
    report = compare(tmp_path, [sample(n, [record(picture)]) for n, picture in enumerate(pictures)],
                     [sample(n, [record(copy, "JPEG", **options)], "copies", "test") for n, copy in enumerate(copies)])
    assert kinds(report) == sorted(("picture", f"toy/train/{3 * n}", f"copies/test/{n}") for n in range(4))


def test_a_crop_is_found_in_its_tile_and_a_tile_by_its_crop(tmp_path):
    tile = landscape(7, 1024)
    crop = record(tile.crop((512, 256, 768, 512)), "JPEG", quality=85)
    other = record(landscape(8))
    report = compare(tmp_path, [sample("tile", [record(tile)])], [sample("crop", [crop, other], split="val"), sample("o", [other], split="val")])
    assert kinds(report) == [("picture", "toy/train/tile", "toy/val/crop")]
    assert kinds(compare(tmp_path, [sample("crop", [crop])], [sample("tile", [record(tile)], split="val")]))[0][0] == "picture"


def test_plain_pictures_are_counted_and_not_held_to_be_the_same(tmp_path):
    blue = [record(Image.new("RGB", (64, 64), (0, 0, shade))) for shade in (90, 91)]
    report = compare(tmp_path, [sample("a", blue[:1])], [sample("b", blue[1:], split="val")])
    assert not report.shared and report.without_contrast == 2 and "too plain" in "\n".join(report.lines())


def test_places_are_compared_across_a_family(tmp_path):
    picture = iter(range(100))
    new = lambda: [record(landscape(next(picture), 32))]
    report = compare(tmp_path, [
        sample("test_000020", new(), "levir-mci"), sample("00012", new(), "second", scene="00012"), sample("9", new(), "dior-rsvg", scene="00317"),
        sample("m_00000001", new(), "xbd", scene="mexico-earthquake_00000001", event="mexico-earthquake"),
    ], [
        sample("test_2_0256_0768", new(), "levir-cd", "test", scene="test_2"), sample("3", new(), "cdvqa", "val", scene="00012"),
        sample("00318", new(), "rrsis-d", "val"), sample("7", new(), "rscc", "test", scene="mexico-earthquake_00000099", event="Mexico_Earthquake"),
    ])
    assert kinds(report) == [("event", "xbd/train/m_00000001", "rscc/test/7"), ("place", "levir-mci/train/test_000020", "levir-cd/test/test_2_0256_0768"),
                             ("place", "second/train/00012", "cdvqa/val/3")]
    assert report.touched == {"place": 2, "event": 1, "footprint": 0, "bytes": 0, "picture": 0, "any": 3}


@pytest.mark.parametrize(("dataset", "split", "key", "meta", "name"), [
    ("levir-cc", "train", "train_000016", {}, "LEVIR/train_1"),
    ("levir-cc", "train", "train_000017", {"scene": "train_000017"}, "LEVIR/train_2"),
    ("levir-cc", "val", "val_001438", {}, "LEVIR/crop val_001438"),  # LEVIR-CD has 64 tiles in val
    ("levir-cd", "test", "test_102_0512_0000", {"scene": "test_102"}, "LEVIR/test_102"),
    ("second-cc", "train", "00001_0_0", {"scene": "00001"}, "SECOND/00001"),
    ("fmow", "train", "airport_3", {"scene": "airport_3"}, "fMoW/train/airport_3"),
    ("geollava", "val", "val:9", {"scene": "fmow/val/airport_3"}, "fMoW/val/airport_3"),
    ("teochatlas", "test", "x:1", {"scene": "airport_3", "origin": "fmow"}, "fMoW/val/airport_3"),
    ("teochatlas", "train", "x:1", {"scene": "Joplin-Tornado_00000004", "origin": "xbd"}, "xBD/joplin-tornado_00000004"),
    ("teochatlas", "train", "instruct:1", {"origin": "geochat"}, "teochatlas/train/instruct:1"),
    ("sysu-cc", "test", "sysu_test_00003", {"scene": "00003"}, "SYSU-CD/test/00003"),
    ("sysu-cd", "train", "00003", {"scene": "00003"}, "SYSU-CD/train/00003"),
    ("clcd", "val", "00001", {"scene": "00001"}, "clcd/val/00001"),  # its splits count from the beginning each
    ("mine", "val", "7", {"scene": "farm"}, "mine/farm"),
])
def test_names_of_places(dataset, split, key, meta, name):
    assert place_name(dataset, split, key, meta) == name


@given(st.sampled_from([("train", 445), ("val", 64), ("test", 128)]), st.data())
def test_the_sixteen_crops_of_a_tile_have_its_name(split, data):
    tile, crop = data.draw(st.integers(1, split[1])), data.draw(st.integers(0, 15))
    assert levir_crop(f"{split[0]}_{16 * (tile - 1) + crop + 1:06d}", "", "") == f"{split[0]}_{tile}"


def test_data_sets_whose_names_cannot_be_compared_are_said():
    assert unnamed_overlaps({"levir-mci"}, {"levir-cd-plus", "second"}) == ["LEVIR: levir-mci and levir-cd-plus"]
    assert unnamed_overlaps({"levir-mci"}, {"levir-cd"}) == [] and event_name({"event": " Hurricane Harvey"}) == "hurricane-harvey"
    assert unnamed_overlaps({"earthdial"}, {"levir-cc", "xbd", "rsvqa-lr"}) == [
        "LEVIR: earthdial and levir-cc", "RSVQA-LR: earthdial and rsvqa-lr", "xBD: earthdial and xbd"]


def test_families_are_of_sources_that_exist():
    named = {name for family in FAMILIES for name in (*family.namers, *family.unnamed)}
    assert named - set(SOURCES) == {"dior"}  # whose own boxes no source reads


def test_footprints_that_overlap_are_one_place_and_neighbours_are_not(tmp_path):
    report = compare(tmp_path, [sample("a", [record(landscape(0, 32))], footprint=[10, 50, 11, 51])],
                     [sample("same", [record(landscape(1, 32))], split="val", footprint=[10.4, 50.2, 11.4, 51.2]),
                      sample("inside", [record(landscape(2, 32))], split="val", footprint=[10.1, 50.1, 10.2, 50.2]),
                      sample("beside", [record(landscape(3, 32))], split="val", footprint=[10.99, 50, 12, 51]),
                      sample("broken", [record(landscape(4, 32))], split="val", footprint=[11, 50, 10, 51])])
    assert kinds(report) == [("footprint", "toy/train/a", "toy/val/inside"), ("footprint", "toy/train/a", "toy/val/same")]


def test_a_georeferenced_image_tells_its_footprint():
    pytest.importorskip("pyproj")
    image = {"crs": "EPSG:32633", "transform": [10.0, 0.0, 500000.0, 0.0, -10.0, 5000000.0], "width": 100, "height": 100}
    west, south, east, north = footprint_of({}, [image])
    assert west == pytest.approx(15.0) and 15.01 < east < 15.02 and 45.14 < south < north < 45.16
    assert footprint_of({}, [{**image, "crs": "EPSG:999999"}]) is None


def test_looks_are_remembered_beside_the_store(tmp_path):
    write_store([sample(n, [record(landscape(n, 64))]) for n in range(3)], tmp_path / "store")
    store = Store(tmp_path / "store")
    assert unseen(store, store.image_ids) == 3
    first = look_at(store, store.image_ids[:2])
    assert (store.path / CACHE).is_file() and unseen(store, store.image_ids) == 1
    assert len(look_at(store, store.image_ids, decode=False).owner) == 2
    whole = look_at(store, store.image_ids, workers=2)
    assert unseen(store, store.image_ids) == 0 and (whole.bits[:2] == first.bits).all()
    (store.path / CACHE).write_bytes(b"half a file")
    assert unseen(store, store.image_ids) == 3
    with pytest.raises(InputError, match="cannot be decoded"):
        looks_of("x", b"no picture")


@given(st.integers(0, 2**32 - 1), st.integers(0, 7))
def test_every_pair_of_up_to_seven_flips_is_found(seed, flips):
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, 128, dtype=np.uint8)
    other = bits.copy()
    other[rng.choice(128, flips, replace=False)] ^= 1
    thumb = rng.integers(0, 255, (1, 256), dtype=np.uint8)
    one, two = (Looks(["a"], np.array([0]), np.packbits(values)[None], thumb) for values in (bits, other))
    assert same_looks(one, two) == [(0, 0)]


def test_the_command_says_what_is_shared_and_fails(tmp_path):
    scene = [record(landscape(0, 64))]
    write_store([sample("a", scene), sample("b", scene, split="val"), sample("c", [record(landscape(5, 64))], split="test")], tmp_path / "store")
    done = CliRunner().invoke(app, ["leaks", str(tmp_path / "store"), str(tmp_path / "store"), "--out", str(tmp_path / "found.json")])
    assert done.exit_code == 1 and "1 of 2 evaluation samples (50.0%) show what training shows" in done.output
    found = json.loads((tmp_path / "found.json").read_text())
    assert [shared["kind"] for shared in found["shared"]] == ["bytes"] and found["touched"]["any"] == 1
    clean = CliRunner().invoke(app, ["leaks", str(tmp_path / "store"), str(tmp_path / "store"), "--eval-split", "test"])
    assert clean.exit_code == 0, clean.output


def test_crops_of_levir_cd_are_found_in_levir_mci(shared, tmp_path):
    """By name and by look; the JPEG pictures of the one are PNG crops in the other, and no other place is named."""
    build_store("levir-cd", shared("LEVIR-CD_256"), tmp_path / "cd", progress=False)
    root = shared("LEVIR-MCI_subset")
    few = tmp_path / "mci"
    captions = json.loads((root / "LevirCCcaptions.json").read_text())
    names = {f"test_{number:06d}.png" for number in (*range(17, 25), *range(600, 602))}
    captions["images"] = [entry for entry in captions["images"] if entry["filename"].rpartition(".")[0] + ".png" in names]
    few.mkdir()
    (few / "images").symlink_to(root / "images")
    (few / "LevirCCcaptions.json").write_text(json.dumps(captions))
    build_store("levir-mci", few, tmp_path / "few", progress=False)
    mci, crops = Store(tmp_path / "few"), Store(tmp_path / "cd")
    found = find_leaks([(mci, mci.rows())], [(crops, crops.rows())])
    assert {shared.name for shared in found.shared if shared.kind == "place"} == {"LEVIR/test_2"}
    assert found.touched["picture"] == found.touched["place"] == len(crops)
    pairs = {(shared.train.split("#")[0][-6:], shared.evaluation.split("#")[0][-9:]) for shared in found.shared if shared.kind == "picture"}
    assert pairs == {(f"{16 + 4 * row + column + 1:06d}", f"{256 * row:04d}_{256 * column:04d}") for row in range(2) for column in range(4)}


def test_the_one_picture_that_uc_merced_has_twice_is_the_only_one_found(shared):
    folder = shared("UCMerced_LandUse")
    paths = [path for path in sorted(folder.rglob("airplane/*")) if path.suffix in (".jpg", ".png", ".tif")]
    looks = [looks_of(path.stem, path.read_bytes())[0] for path in paths]
    bits = np.frombuffer(b"".join(look.bits for look in looks), np.uint8).reshape(-1, 16)
    thumbs = np.frombuffer(b"".join(look.thumb for look in looks), np.uint8).reshape(-1, 256)
    owners = Looks([look.id for look in looks], np.arange(len(looks)), bits, thumbs)
    assert {(owners.ids[one], owners.ids[two]) for one, two in same_looks(owners, owners) if one < two} == {("airplane01", "airplane02")}
