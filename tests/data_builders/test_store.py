"""The store: exact round trip, foreign readers, selection, workers, refusal of damage."""

import dataclasses
import hashlib
import io
import json
import multiprocessing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from geotempo.data_builders.sample import Message, Sample
from geotempo.data_builders.schema import geometry_from_json, geometry_to_json
from geotempo.data_builders.store import Store, write_store
from geotempo.model.dates import AcquisitionDate
from geotempo.model.errors import InputError, LayoutError
from geotempo.model.geometry import Box, GridMask, Mask, Polygon, RotatedBox
from geotempo.model.records import ImageRecord, Region


def png(value, size=(8, 6)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (value % 256, 10, 20)).save(buffer, "PNG")
    return buffer.getvalue()


def image(value, **facts):
    data = png(value)
    return ImageRecord(hashlib.sha256(data).hexdigest(), 8, 6, data=data, **facts)


MASK = Mask.from_array(np.eye(6, 8, dtype=bool))
REGIONS = (
    Region(1, Box(0.1, 0.2, 7.3, 5.9), "new “building” 建物"),
    Region(2, RotatedBox(3.0, 3.0, 2.0, 1.0, 33.3), "", ((3.0, 3.0), (3.5, 3.1))),
    Region(2, Polygon(((0.0, 0.0), (6.0, 0.0), (6.0, 5.0)), (((3.0, 1.0), (4.0, 1.0), (4.0, 2.0)),)), "a"),
    Region(1, GridMask(Box(0.5, 1.0, 7.5, 5.0), ((True, False, True), (False, False, True))), "flooded area"),
    Region(2, MASK, "hidden", assessable=False, reason="cloud"),
)


def sample(number, split="train", task="change_grounding", regions=REGIONS):
    images = (
        image(number, date=AcquisitionDate("2021"), sensor="Sentinel-2", gsd=(10.0, 9.5), bands=("B4", "B3", "B2"),
              crs="EPSG:32615", transform=(10.0, 0.0, 5.5, 0.0, -10.0, 7.25), modality="optical", view="true colour",
              acquisition="a",
              valid=MASK),
        image(number + 1, date=AcquisitionDate("2021-08-03T10:15:00Z")),
    )
    return Sample(f"toy/{split}/{number}#{task}", "toy", split, task, images,
                  (Message("user", "<image><image>\nWhat?"), Message("assistant", "<regions:0,1>" if regions else "no")),
                  regions, {"licence": "none", "references": ["a", "ü"], "nested": {"1": ["small"]}})


@pytest.fixture
def store(tmp_path):
    write_store([sample(n) for n in range(5)] + [sample(7, "val", "change_vqa", ())], tmp_path / "store")
    return Store(tmp_path / "store")


def test_a_sample_comes_back_exactly(store):
    for n in range(5):
        assert store.by_id(f"toy/train/{n}#change_grounding") == sample(n)
    assert store[5].images[0].data == png(7)
    assert [store[i].id for i in range(len(store))] == store.ids


def test_each_image_is_stored_once_with_its_bytes(store):
    # Samples 0..4 and 7 use images n and n + 1: 0..5, 7, 8.
    assert len(store.image_ids) == 8 == store.manifest["counts"]["images"]
    for name in store.image_ids:
        assert hashlib.sha256(store.image_bytes(name)).hexdigest() == name


def test_datasets_and_pandas_open_it_without_our_code(store, tmp_path):
    import datasets
    import pandas as pd

    files = {split: str(store.path / "samples" / f"{split}-*.parquet") for split in ("train", "val")}
    table = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert table["train"].num_rows == 5 and table["val"].num_rows == 1
    row = table["train"][0]
    assert row["regions"][0]["label"] == REGIONS[0].label and row["images"][0]["date"] == "2021"
    pictures = datasets.load_dataset("parquet", data_files=str(store.path / "images" / "*.parquet"),
                                     cache_dir=str(tmp_path / "cache"))["train"]
    by_id = dict(zip(pictures["id"], pictures["data"], strict=True))
    assert by_id[row["images"][0]["image_id"]] == png(0)
    frame = pd.read_parquet(store.path / "samples" / "train-00000.parquet")
    assert json.loads(frame.regions[0][2]["geometry"])["type"] == "polygon" and frame.regions[0][0]["x2"] == 7.3


def test_rows_select_in_stored_order(store):
    assert store.rows() == list(range(6))
    assert store.rows(split="val") == [5]
    assert store.rows(tasks={"change_grounding"}, ids=[store.ids[3], store.ids[1]]) == [1, 3]
    assert store.rows(max_regions=3) == [5]
    for wrong in ({"split": "test"}, {"tasks": ["damage"]}, {"ids": ["toy/none"]}):
        with pytest.raises(InputError, match="it has"):
            store.rows(**wrong)


def test_a_forked_worker_reads_through_its_own_files(store):
    expected = [store[i].images[0].data for i in range(len(store))]  # opens files before the fork
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=lambda: queue.put([store[i].images[0].data for i in range(len(store))]))
    worker.start()
    assert queue.get(timeout=30) == expected
    worker.join(timeout=30)


def test_a_spawned_worker_gets_the_store_by_pickle(store):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map_async(store.by_id, store.ids).get(timeout=60) == [store[i] for i in range(len(store))]


def test_same_samples_same_bytes(tmp_path, digest):
    for name in "ab":
        write_store((sample(n) for n in range(4)), tmp_path / name)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_manifest_hashes_are_those_of_the_files(store):
    for entry in store.manifest["files"]:
        data = (store.path / entry["path"]).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (entry["sha256"], entry["bytes"])


def test_duplicate_ids_and_foreign_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="occurs twice"):
        write_store([sample(1), sample(1)], tmp_path / "twice")
    assert not (tmp_path / "twice").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep me")
    with pytest.raises(InputError, match="no store"):
        write_store([sample(1)], tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "keep me"
    write_store([sample(1)], tmp_path / "a", source="one")
    with pytest.raises(InputError, match="holds a store of 'one'"):
        write_store([sample(1)], tmp_path / "a", source="two")


def test_what_is_no_store_is_named(store, tmp_path):
    with pytest.raises(LayoutError, match="no store"):
        Store(tmp_path)
    manifest = store.path / "manifest.json"
    good = json.loads(manifest.read_text())
    shard = store.path / good["files"][0]["path"]
    for change, message in (({"format": "other"}, "a store says"), ({"format_version": 99}, "update"),
                            ({"files": [{"path": "x", "bytes": 1, "sha256": ""}]}, "without sha256"),
                            ({"files": [{"path": "x"}]}, "build it again")):
        manifest.write_text(json.dumps(good | change))
        with pytest.raises(InputError, match=message):
            Store(store.path)
    manifest.write_text(json.dumps(good))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(InputError, match="missing or not"):
        Store(store.path)


number = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: value + 0.0)
point = st.tuples(number, number)
ring = st.lists(point, min_size=3, max_size=6).map(tuple)
geometries = st.one_of(
    st.tuples(number, number, st.floats(0.5, 1e3), st.floats(0.5, 1e3)).map(
        lambda v: Box(v[0], v[1], v[0] + v[2], v[1] + v[3])),
    st.builds(RotatedBox, number, number, st.floats(0.01, 1e4), st.floats(0.01, 1e4), number),
    st.builds(Polygon, ring, st.lists(ring, max_size=2).map(tuple)),
    st.lists(st.booleans(), min_size=12, max_size=12).map(lambda bits: Mask.from_array(np.array(bits).reshape(3, 4))),
)


@given(geometries)
def test_every_geometry_survives_json_exactly(geometry):
    assert geometry_from_json(geometry_to_json(geometry)) == geometry


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"type":"circle"}', '{"type":"box","bbox":[1,2]}', "null"])
def test_broken_geometry_is_an_input_error(text):
    with pytest.raises(InputError):
        geometry_from_json(text)


def test_an_image_given_by_path_is_stored_with_its_bytes(tmp_path):
    (tmp_path / "x.png").write_bytes(png(9))
    given_by_path = dataclasses.replace(sample(1), images=(ImageRecord("x", 8, 6, path=str(tmp_path / "x.png")), image(2)))
    write_store([given_by_path], tmp_path / "store")
    stored = Store(tmp_path / "store")[0].images[0]
    assert stored.data == png(9) and stored.id == hashlib.sha256(png(9)).hexdigest()


@pytest.mark.parametrize("kind", ["samples", "images"])
def test_a_shard_with_flipped_bytes_is_named_in_one_line(store, tmp_path, kind):
    """Flipped anywhere: no traceback, whatever is read, and the other shards stay readable."""
    import shutil

    from geotempo.data_builders.census import facts
    from geotempo.data_builders.check import check_store

    for place in (4, 60, 200, -200, -30):
        folder = shutil.copytree(store.path, tmp_path / f"{kind}{place}")
        shard = next((folder / kind).glob("*.parquet"))
        data = bytearray(shard.read_bytes())
        for offset in range(12):
            data[place + offset] ^= 0xFF
        shard.write_bytes(data)
        try:
            opened = Store(folder)
            assert any("has another sha256" in fault for fault in check_store(opened, progress=False).faults)
            for index in range(len(opened)):
                opened[index]
            assert len(list(facts(opened))) == len(opened)
        except InputError as error:
            assert f"{kind}/" in str(error) and "copy or build the store again" in str(error)
