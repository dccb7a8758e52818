"""GeoLLaVA and UniRS: pairs of fMoW, frames of videos, sheets; the one original file of them that is here."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from geotempo.data_builders.build import build_store
from geotempo.data_builders.check import check_store
from geotempo.data_builders.sheets import read_sheet
from geotempo.data_builders.source import Rejection
from geotempo.data_builders.sources import make_source
from geotempo.data_builders.sources.geollava import read_pairs
from geotempo.data_builders.store import Store
from geotempo.data_builders.videos import read_frames
from geotempo.model.errors import InputError, LayoutError, MissingExtraError
from geotempo.model.geometry import RotatedBox
from tests.data_builders.fixtures import instruct as made


def built(name, root, out, **options):
    workers = options.pop("workers", 1)
    manifest = build_store(name, root, out, options=options, workers=workers, max_rejected=0.6, progress=False)
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    return Store(out), manifest, {entry["key"]: entry["reason"] for entry in rejected}


# --- GeoLLaVA ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sheet", ["xlsx", "csv"])
def test_pairs_take_the_images_of_fmow_and_the_dates_of_the_sheet(tmp_path, sheet):
    store, manifest, rejected = built("geollava", made.geollava(tmp_path / "in", sheet=sheet), tmp_path / "out")
    assert store.ids == ["geollava/train/updated_train_annotations:0#change_caption",
                         "geollava/train/updated_train_annotations:1#change_caption",
                         "geollava/val/updated_val_annotations:0#change_caption"]
    assert rejected == {"annotations/updated_val_annotations.json:1": "order unclear",
                        "annotations/updated_val_annotations.json:2": "unknown name"}
    sample = store.by_id("geollava/val/updated_val_annotations:0#change_caption")
    assert [str(image.date) for image in sample.images] == ["2012-09-08T16:07:23Z", "2016-05-19T07:34:13Z"]
    assert [image.width for image in sample.images] == [20, 21], "image 4 is the earlier one"
    assert (sample.question, sample.target) == ("Describe the changes.", "A hangar was built.")
    assert manifest["tally"] == {"pairs with dates": 3, "pairs/train": 2, "pairs/val": 1}
    assert not check_store(store, progress=False).faults


def test_without_a_sheet_the_dates_come_from_fmow(tmp_path):
    store, _, _ = built("geollava", made.geollava(tmp_path / "in"), tmp_path / "out")
    sample = store[0]
    assert [str(image.date)[:4] for image in sample.images] == ["2013", "2015"]
    assert [(image.sensor, image.gsd) for image in sample.images] == [("WORLDVIEW02", (0.5, 0.5))] * 2


def test_places_of_the_same_name_in_train_and_val_are_two_scenes(tmp_path):
    store, _, _ = built("geollava", made.geollava(tmp_path / "in"), tmp_path / "out")
    assert {store[index].meta["scene"] for index in range(len(store))} == {"fmow/train/airport_hangar_0", "fmow/val/airport_hangar_0"}


@pytest.mark.parametrize("images", ["", "fmow"])
def test_a_missing_image_is_not_that_of_a_place_of_the_same_name_in_train(tmp_path, images):
    root = made.geollava(tmp_path / "in")
    (root / "fmow/val/airport_hangar/airport_hangar_0/airport_hangar_0_4_rgb.jpg").unlink()
    made.save(root / "fmow/train/airport_hangar/airport_hangar_0/airport_hangar_0_4_rgb.jpg", 9)
    _, _, rejected = built("geollava", root, tmp_path / "out", images=str(root / images) if images else "")
    assert rejected["annotations/updated_val_annotations.json:0"] == "missing image"


def test_videos_serve_where_fmow_is_not_there(tmp_path):
    store, _, rejected = built("geollava", made.geollava(tmp_path / "in", "video"), tmp_path / "out")
    sample = store.by_id("geollava/val/updated_val_annotations:0#change_caption")
    assert [np.asarray(image.rgb()).mean() for image in sample.images] == pytest.approx([20, 220], abs=4)
    assert [str(image.date)[:4] for image in sample.images] == ["2012", "2016"]
    assert not any(image.date for image in store[0].images), "nothing dates the videos of train"
    assert rejected["annotations/updated_val_annotations.json:1"] == "another number of frames"


def test_the_images_may_lie_elsewhere_and_the_small_set_may_be_taken(tmp_path):
    root = made.geollava(tmp_path / "in")
    (root / "fmow").rename(tmp_path / "fmow")
    store, manifest, _ = built("geollava", root, tmp_path / "out", images=str(tmp_path / "fmow"), sample=True)
    assert store.ids[0] == "geollava/train/sample_annotations:0#change_caption" and manifest["tally"]["pairs/train"] == 1
    _, _, rejected = built("geollava", made.geollava(tmp_path / "in"), tmp_path / "out2")
    assert "missing image" not in rejected.values()


def test_one_and_two_workers_write_the_same_bytes(tmp_path, digest):
    root = made.geollava(tmp_path / "in", "video")
    built("geollava", root, tmp_path / "one")
    built("geollava", root, tmp_path / "two", workers=2)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_layouts_that_are_none(tmp_path):
    source = make_source("geollava")
    with pytest.raises(LayoutError, match="no annotation file"):
        source.check_layout(tmp_path)
    root = made.geollava(tmp_path / "in")
    with pytest.raises(LayoutError, match="images=/nowhere is no folder"):
        make_source("geollava", images="/nowhere").check_layout(root)
    made.write(root / "annotations/updated_val_annotations.json", [{"image": "a.png", "conversations": []}])
    with pytest.raises(LayoutError, match=r"updated_val_annotations.json, record 0: video is 'None'"):
        make_source("geollava").check_layout(root)
    made.write(root / "annotations/updated_val_annotations.json", [])
    with pytest.raises(LayoutError, match="record 0: there is none"):
        make_source("geollava").check_layout(root)


def test_the_original_sheet_with_images_in_the_place_of_one_pair(shared, tmp_path):
    root = tmp_path / "in"
    (root / "annotations").mkdir(parents=True)
    sheet = shared("GeoLLaVA") / "annotations/updated_val_pairs_sheet.xlsx"
    (root / "annotations" / sheet.name).symlink_to(sheet)
    record = {"video": "airport_hangar_0_4-airport_hangar_0_1.mp4", "conversations": made.llava("<video>\nWhat changed?", "Nothing.")}
    made.write(root / "annotations/updated_val_annotations.json", [record])
    for number in (4, 1):
        made.save(root / f"fmow/val/airport_hangar/airport_hangar_0/airport_hangar_0_{number}_rgb.jpg", number)
    source = make_source("geollava")
    source.check_layout(root)
    pairs = source.pairs(root)
    assert len(pairs) == 6042 and len({place for _, place, _, _ in pairs}) == 4714
    assert all(pair.date1 < pair.date2 for pair in pairs.values())
    assert Counter(first < second for _, _, first, second in pairs) == {True: 3009, False: 3033}, "numbers are not in time order"
    (sample,) = source.record_samples(root, "annotations/updated_val_annotations.json:0", record)
    assert [str(image.date) for image in sample.images] == ["2012-09-08T16:07:23Z", "2016-05-19T07:34:13Z"]


# --- sheets and videos ---------------------------------------------------------------------------------------------


def test_sheets_that_cannot_be_read(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_text("category,image1\nx,1\n")
    with pytest.raises(LayoutError, match="no column 'b'; expected category, b, it has category, image1"):
        list(read_sheet(path, ("category", "b")))
    path.write_text("")
    with pytest.raises(LayoutError, match="it has none"):
        list(read_sheet(path, ("a",)))
    (tmp_path / "a.xlsx").write_text("no zip")
    with pytest.raises(LayoutError, match="is no Excel sheet"):
        list(read_sheet(tmp_path / "a.xlsx", ("a",)))
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(MissingExtraError, match=r"geotempo\[xlsx\]"):
        list(read_sheet(tmp_path / "a.xlsx", ("a",)))


@pytest.mark.parametrize("row, words", [
    (["a", "x", 1, "", "", 2, "", ""], "could not convert"), (["a", 0, 1, "", "/a/a_0/a_0_2_rgb.jpg", 2, "", ""], "names image 1"),
])
def test_rows_that_contradict_themselves(tmp_path, row, words):
    path = tmp_path / "a.csv"
    path.write_text("\n".join(",".join(map(str, line)) for line in (made.PAIRS_HEADER, row)))
    with pytest.raises(LayoutError, match=words):
        list(read_pairs(path, "val"))


@pytest.mark.parametrize("count, shades", [(1, [20]), (2, [20, 220]), (3, [20, 120, 220]), (40, None)])
def test_frames_are_spread_over_the_video(tmp_path, count, shades):
    frames, total = read_frames(made.video(tmp_path / "a.mp4", 21), count)
    assert total == 21 and len(frames) == min(count, 21)
    found = [np.asarray(frame.rgb()).mean() for frame in frames]
    assert found == sorted(found) and (shades is None or found == pytest.approx(shades, abs=6))


def test_broken_videos_are_set_aside(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    with pytest.raises(Rejection, match="broken video"):
        read_frames(tmp_path / "a.mp4", 2)
    with pytest.raises(Rejection, match="missing video"):
        read_frames(tmp_path / "b.mp4", 2)
    root = made.geollava(tmp_path / "in", "video")
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"GeoLLaVA's videos, without fMoW's images, needs.*geotempo\[video\]"):
        make_source("geollava").check_layout(root)


# --- UniRS ---------------------------------------------------------------------------------------------------------


def test_images_pairs_and_videos(tmp_path):
    store, manifest, rejected = built("unirs", made.unirs(tmp_path / "in"), tmp_path / "out", frames=4)
    assert manifest["tally"] == {"records/era": 2, "records/geochat": 1, "records/levir": 2, "regions": 1} and not rejected
    assert not check_store(store, progress=False).faults
    samples = {name.split("/")[2].split("#")[0]: store.by_id(name) for name in store.ids}
    ship = samples["GeoChat_Instruct_Plus:0"]
    assert ship.task == "change_grounding" and "the ship" in ship.question and ship.target == "<regions:0>"
    assert ship.regions[0].geometry == RotatedBox(20, 30, 20, 20, 90)
    assert [samples[f"LEVIR_CC_Train_Plus:{number}"].question for number in range(2)] == ["What changed?"] * 2
    assert {len(samples[f"LEVIR_CC_Train_Plus:{number}"].images) for number in range(2)} == {2}
    fire, flood = samples["ERA_Train_Plus:0"], samples["ERA_Train_Plus:1"]
    assert (len(fire.images), len(flood.images), fire.task) == (4, 3, "temporal_classification")
    assert (flood.question, flood.target, flood.meta["scene"]) == ("Which event is this?", "Flood", "Flood_002")
    assert {sample.meta["licence"].split(";")[0] for sample in samples.values()} == {"academic"}


def test_layouts_and_records_that_are_none(tmp_path):
    with pytest.raises(LayoutError, match="no annotation file"):
        make_source("unirs").check_layout(tmp_path)
    with pytest.raises(InputError, match="frames is 9"):
        make_source("unirs", frames=9)
    root = made.unirs(tmp_path / "in")
    made.write(root / "LEVIR_CC_Train_Plus.json", [{"images": ["a"], "conversations": []}])
    with pytest.raises(LayoutError, match=r"LEVIR_CC_Train_Plus.json, record 0: it has the keys images, conversations"):
        make_source("unirs").check_layout(root)
    talk = made.llava("q", "a")
    for record, reason in (({"image": ["a", "b", "c"], "conversations": talk}, "broken record"),
                           ({"image": "A/none.png", "conversations": talk}, "missing image"),
                           ({"video_id": "Fire/none", "conversations": talk}, "missing image"),
                           ({"image": "P0003_0002.png", "conversations": None}, "broken record"),
                           ({"image": "P0003_0002.png", "conversations": made.llava("<image>", "a")}, "empty question")):
        with pytest.raises(Rejection) as error:
            list(make_source("unirs").record_samples(root, "LEVIR_CC_Train_Plus.json:0", record))
        assert error.value.reason == reason


def test_frames_are_whole_pictures(tmp_path):
    frames, _ = read_frames(made.video(tmp_path / "a.mp4", 3, (48, 32)), 3)
    assert {Image.open(__import__("io").BytesIO(frame.data)).size for frame in frames} == {(48, 32)}
