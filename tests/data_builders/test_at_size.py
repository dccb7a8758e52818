"""Streams of records, shards, merged stores and images by reference, on a TEOChatlas of a few hundred records."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import cycle, islice
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from geotempo.cli import app
from geotempo.data_builders.build import add_result, build_store
from geotempo.data_builders.check import check_store
from geotempo.data_builders.digests import DigestSet
from geotempo.data_builders.merge import merge_stores
from geotempo.data_builders.reading import ItemResult, Job, read_item
from geotempo.data_builders.records import Broken, stream_records
from geotempo.data_builders.schema import prepare
from geotempo.data_builders.shards import MANIFEST, Building
from geotempo.data_builders.source import FolderSource
from geotempo.data_builders.sources import make_source
from geotempo.data_builders.store import Store, finish_store
from geotempo.model.errors import InputError, LayoutError, MissingExtraError
from tests.data_builders.fixtures import teochatlas


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    """300 records, every 50th without images."""
    records = [dict(record, number=number) for number, record in enumerate(islice(cycle(teochatlas.train_records()), 300))]
    for record in records[::50]:
        record["video"] = []
    return teochatlas.write(tmp_path_factory.mktemp("atlas") / "in", records, {})


def build(atlas, out, **more):
    return build_store("teochatlas", atlas, out, progress=False, **more)


def texts(folder):
    """Every sample of a store as stored, and the bytes of its images, by id."""
    store = Store(folder)
    return {row["id"]: (row, [store.image_bytes(use["image_id"]) for use in row["images"]])
            for row in map(store.row, range(len(store)))}


def rejected(folder):
    return [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]


def test_a_stream_gives_what_json_loads_gives(tmp_path):
    records = [{"a": [1, 2.5, "ä"], "b": None}, {"c": {"d": True}}, 7, "x", 1e300, -0.125]
    (tmp_path / "a.json").write_text(json.dumps(records))
    (tmp_path / "a.jsonl").write_text("\n\n".join(map(json.dumps, records)))
    assert list(stream_records(tmp_path / "a.json")) == list(stream_records(tmp_path / "a.jsonl")) == records
    with pytest.raises(LayoutError, match="cannot read"):
        list(stream_records(tmp_path / "none.json"))


def test_a_broken_line_is_one_record_and_a_broken_array_is_its_end(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    first, second, third = stream_records(tmp_path / "a.jsonl")
    assert (first, third) == ({"a": 1}, {"a": 3}) and isinstance(second, Broken)
    assert second.reason == "broken record" and "a.jsonl, line 2 is no JSON" in second.detail
    (tmp_path / "a.json").write_text('[{"a": 1}, {"a": 2}, {"a"')
    *whole, end = stream_records(tmp_path / "a.json")
    assert whole == [{"a": 1}, {"a": 2}] and end.reason == "broken file"


def test_rejected_records_are_named_by_file_and_number(atlas, tmp_path):
    manifest = build(atlas, tmp_path / "out")
    assert manifest["items"] == 300 and manifest["rejected"] == {"total": 6, "by_reason": {"no image": 6}}
    assert [entry["key"] for entry in rejected(tmp_path / "out")] == [f"train/instruct.json:{n}" for n in range(0, 300, 50)]


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_stream_tells_how_much_of_it_was_read(tmp_path, suffix):
    text = [json.dumps({"number": number, "text": "x" * 1000}) for number in range(1000)]
    path = tmp_path / f"a{suffix}"
    path.write_text("[" + ",".join(text) + "]" if suffix == ".json" else "\n".join(text))
    places = []
    for record in stream_records(path, places.append):
        assert abs(places[-1] / path.stat().st_size - record["number"] / 1000) < 0.1  # read in pieces of 64 KB
    assert len(places) == 1000 and places[-1] == path.stat().st_size


def test_the_progress_bar_of_a_stream_knows_how_long_it_is(atlas, tmp_path, capfd):
    build_store("teochatlas", atlas, tmp_path / "out")
    shown = capfd.readouterr().err
    assert "100%" in shown and "300/300" in shown and "rejected=6" in shown


def test_workers_do_not_change_the_bytes_of_a_stream(atlas, tmp_path, digest):
    build(atlas, tmp_path / "one")
    build(atlas, tmp_path / "two", workers=2)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_a_file_that_breaks_off_stops_the_build_and_keeps_what_was_read(atlas, tmp_path):
    root = shutil.copytree(atlas, tmp_path / "in")
    text = (root / "train/instruct.json").read_text()
    (root / "train/instruct.json").write_text(text[: len(text) // 2])
    with pytest.raises(InputError, match=r"instruct\.json is no whole JSON array.*copy it again.*--max-rejected 1 to keep the 1\d\d "):
        build(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    manifest = build(root, tmp_path / "out", max_rejected=1)
    assert manifest["rejected"]["by_reason"]["broken file"] == 1 and manifest["counts"]["samples"] > 100


def test_a_record_of_an_unforeseen_structure_is_set_aside(tmp_path):
    records = teochatlas.train_records()
    records[5]["conversations"] = [{"from": "human", "value": {"text": 1}}, {"from": "gpt", "value": "x"}]
    records[6]["timestamp"] = [[1], [2]]
    root = teochatlas.write(tmp_path / "in", records, {})
    manifest = build(root, tmp_path / "out", max_rejected=0.5)
    assert manifest["rejected"]["total"] == 2 and manifest["counts"]["samples"] >= len(records) - 2


def test_shards_merge_into_the_samples_of_the_whole_whichever_was_finished_first(atlas, tmp_path, digest):
    build(atlas, tmp_path / "whole")
    for number in (1, 2, 3):
        build(atlas, tmp_path / f"part{number}", shard=(number, 3))
    merge_stores([tmp_path / f"part{n}" for n in (1, 2, 3)], tmp_path / "a", progress=False)
    manifest = merge_stores([tmp_path / f"part{n}" for n in (3, 1, 2)], tmp_path / "b", progress=False)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") and texts(tmp_path / "a") == texts(tmp_path / "whole")
    assert sorted(map(str, rejected(tmp_path / "a"))) == sorted(map(str, rejected(tmp_path / "whole")))
    whole = Store(tmp_path / "whole").manifest
    assert {key: manifest[key] for key in ("items", "tally", "counts", "rejected")} == {
        key: whole[key] for key in ("items", "tally", "counts", "rejected")}
    assert not check_store(Store(tmp_path / "a"), progress=False).faults


@pytest.mark.parametrize(("parts", "message"), [((1, 3), "shard 2 is missing"), ((1, 2, 2), "shard 2 is missing or given twice"),
                                                ((), "nothing to merge")])
def test_shards_that_do_not_make_a_whole_are_refused(atlas, tmp_path, parts, message):
    for number in (1, 2, 3):
        build(atlas, tmp_path / f"part{number}", shard=(number, 3))
    with pytest.raises(InputError, match=message):
        merge_stores([tmp_path / f"part{number}" for number in parts], tmp_path / "out", progress=False)


def test_a_sample_in_two_stores_is_named(atlas, tmp_path):
    build(atlas, tmp_path / "a", shard=(1, 2))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    manifest = json.loads((tmp_path / "b" / MANIFEST).read_text())
    manifest["builder"]["shard"] = [2, 2]
    (tmp_path / "b" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"sample id 'teochatlas/train/instruct:2#.*' occurs twice.*it is in .*b and in a store before"):
        merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "out", progress=False)


def test_images_by_reference_stay_where_they_are(atlas, tmp_path):
    root = shutil.copytree(atlas, tmp_path / "in")
    build(root, tmp_path / "copied")
    manifest = build(root, tmp_path / "out", images="reference")
    assert manifest["images"] == {"stored": "reference", "root": str(root.resolve())}
    assert sum(path.stat().st_size for path in (tmp_path / "out/images").iterdir()) < 0.5 * sum(
        path.stat().st_size for path in (tmp_path / "copied/images").iterdir())
    assert texts(tmp_path / "out") == texts(tmp_path / "copied")
    store = Store(tmp_path / "out")
    assert not check_store(store, progress=False).faults
    where = [store.image_path(name) for name in store.image_ids]
    files = [path for path in where if path is not None]
    assert len(files) == len(where) - 5 and all(path.suffix == ".png" for path in files)  # QFabric's five TIFF files became PNG
    merged = merge_stores([tmp_path / "out"], tmp_path / "merged", progress=False)
    assert merged["images"]["stored"] == "reference" and texts(tmp_path / "merged") == texts(tmp_path / "out")
    Image.new("RGB", (32, 32)).save(files[0])
    index = next(i for i in range(len(store)) if files[0] in [store.image_path(use["image_id"]) for use in store.row(i)["images"]])
    with pytest.raises(InputError, match="has changed since; build the store again"):
        store[index]
    files[0].unlink()
    with pytest.raises(InputError, match=r"cannot be read .*put the images back"):
        store[index]
    assert any("cannot be read" in fault for fault in check_store(store, progress=False).faults)


def test_an_image_that_changes_during_the_build_is_noticed(atlas, tmp_path, monkeypatch):
    from geotempo.data_builders import shards

    root, real = shutil.copytree(atlas, tmp_path / "in"), shards._read_again

    def changed(image):
        Image.new("RGB", (32, 32), "red").save(image.path)
        return real(image)

    monkeypatch.setattr(shards, "_read_again", changed)
    with pytest.raises(InputError, match="changed while the store was built"):
        build(root, tmp_path / "out")


def test_names_take_eight_bytes_each_and_are_told_apart():
    names = DigestSet()
    assert all(names.add(f"sample/{number}") for number in range(200_000)) and len(names) == 200_000
    assert not any(names.add(f"sample/{number}") for number in range(0, 200_000, 1000))
    assert "sample/5" in names and "sample/200000" not in names
    assert names._sorted.nbytes + 100 * len(names._recent) < 10 * 200_000
    names.clear()
    assert len(names) == 0 and "sample/5" not in names


KILLED = """
import sys
from pathlib import Path
from geotempo.data_builders import shards
from geotempo.data_builders.build import build_store
if __name__ == "__main__":
    shards.BLOCK_SAMPLES = 20
    print("ready", flush=True)
    build_store("teochatlas", Path(sys.argv[1]), Path(sys.argv[2]), workers=int(sys.argv[3]), progress=False)
"""


def start(atlas, out, workers=1):
    """A build in a process of its own, as from the command line, past its imports."""
    run = subprocess.Popen([sys.executable, "-c", KILLED, atlas, out, str(workers)], stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, text=True)
    assert run.stdout.readline() == "ready\n"
    return run


def test_ten_kills_at_random_moments_end_with_the_same_bytes(atlas, tmp_path, digest):
    whole, began = start(atlas, tmp_path / "whole"), time.monotonic()
    assert whole.wait(60) == 0
    takes, rng, kills = time.monotonic() - began, random.Random(3), 0
    for _ in range(40):
        run = start(atlas, tmp_path / "cut")
        try:
            run.wait(rng.uniform(0.05, 0.5) * takes)
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
            kills += run.wait() == -signal.SIGKILL
        if kills == 10:
            break
    assert kills == 10
    assert start(atlas, tmp_path / "cut").wait(60) == 0
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")


def children(pid):
    """Processes that a process started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(path.parent)
    return found


def until(condition, seconds=60.0):
    """Wait for a condition, for so many seconds at most; whether it came."""
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return met


def interrupted(atlas, out):
    """A build with two workers that has committed a block, and its workers."""
    run = start(atlas, out, workers=2)
    assert until(lambda: list(out.with_name(f"{out.name}.building").glob(".journal/[0-9]*.json")))
    workers = [path for path in children(run.pid) if b"spawn_main" in (path / "cmdline").read_bytes()]
    assert len(workers) == 2
    return run, workers


def test_workers_end_with_a_build_that_is_killed(atlas, tmp_path):
    build(atlas, tmp_path / "whole")
    run, workers = interrupted(atlas, tmp_path / "cut")
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    assert until(lambda: not any(path.exists() for path in workers)), "workers stay behind"
    assert start(atlas, tmp_path / "cut", workers=2).wait(60) == 0
    assert texts(tmp_path / "cut") == texts(tmp_path / "whole")


def test_a_worker_that_dies_ends_the_build_with_what_to_do(atlas, tmp_path):
    run, workers = interrupted(atlas, tmp_path / "cut")
    os.kill(int(workers[0].name), signal.SIGKILL)
    message = run.communicate(timeout=60)[1].splitlines()[-1]
    assert run.returncode == 1 and "a worker process died" in message and "fewer --workers to go on" in message
    assert list((tmp_path / "cut.building/.journal").glob("[0-9]*.json")), "what was done is kept"


def test_shards_and_merge_on_the_command_line(atlas, tmp_path):
    build(atlas, tmp_path / "whole")
    parts = [str(tmp_path / f"part{number}") for number in (1, 2)]
    for number, part in enumerate(parts, 1):
        done = CliRunner().invoke(app, ["build", "teochatlas", "--root", str(atlas), "--out", part, "--shard", f"{number}/2"])
        assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["merge", *reversed(parts), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0 and re.search(r"items kept +294\nitems rejected +6\n  no image +6\n", done.output)
    assert texts(tmp_path / "out") == texts(tmp_path / "whole")
    done = CliRunner().invoke(app, ["merge", *parts, "--out", str(tmp_path / "strict"), "--max-rejected", "0.01"])
    assert isinstance(done.exception, InputError) and "6 of 300 items were rejected" in str(done.exception)


def test_stores_of_the_first_format_still_open(atlas, tmp_path):
    build(atlas, tmp_path / "new")
    manifest = json.loads((tmp_path / "new" / MANIFEST).read_text())
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    for entry in manifest["files"]:
        path = tmp_path / "old" / entry["path"]
        if entry["path"].startswith("images"):
            pq.write_table(pq.read_table(path).drop_columns(["path"]), path)
            entry["bytes"] = path.stat().st_size
    manifest["format_version"] = 1
    del manifest["images"]
    (tmp_path / "old" / MANIFEST).write_text(json.dumps(manifest))
    assert texts(tmp_path / "old") == texts(tmp_path / "new")
    merge_stores([tmp_path / "old"], tmp_path / "merged", progress=False)
    assert texts(tmp_path / "merged") == texts(tmp_path / "new")


class Faulty(FolderSource):
    """A source whose items fail in ways that it did not foresee."""

    name, licence, citation, evidence, tasks = "faulty", "unknown", "nobody", "documentation", ()

    def check_layout(self, root):
        pass

    def keys(self, root):
        return ["locked", "zero", "missing"]

    def samples(self, root, key):
        if key == "locked":
            raise PermissionError(13, "Permission denied", str(root / "images" / "a.png"))
        yield 1 // 0 if key == "zero" else {}[key]


def test_whatever_a_source_did_not_foresee_costs_one_item(tmp_path):
    source = Faulty()
    entries = [read_item(Job("faulty", tmp_path), source, item).rejected for item in source.items(tmp_path)]
    assert [(entry["key"], entry["reason"]) for entry in entries] == [
        ("locked", "unreadable file"), ("zero", "unexpected content"), ("missing", "unexpected content")]
    assert entries[0]["detail"] == "images/a.png: Permission denied"


def test_an_item_whose_id_is_taken_is_set_aside_as_a_whole(atlas, tmp_path):
    first, second, third = (list(make_source("teochatlas").read(atlas, item))
                            for item in islice(make_source("teochatlas").items(atlas), 1, 4))
    plan = {"source": "x", "version": 1, "options": {}}
    with Building(tmp_path / "s", plan) as building:
        kept = [add_result(building, ItemResult(key, prepare(samples), Counter(kept=1), Counter(seen=1)))
                for key, samples in (("a", first), ("b", second + first), ("c", third))]
        building.flush()
        manifest = finish_store(building, plan)
    assert kept == [True, False, True] and manifest["tally"] == {"kept": 2, "seen": 3}
    assert manifest["rejected"]["by_reason"] == {"duplicate id": 1}
    assert Store(tmp_path / "s").ids == [sample.id for sample in first + third]
    assert f"{first[0].id!r} occurs twice" in rejected(tmp_path / "s")[0]["detail"]


def test_a_source_without_a_usable_record_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("geotempo.data_builders.shards.BLOCK_SAMPLES", 10)
    with Building(tmp_path / "s", {"source": "x"}) as building:
        for number in range(35):
            building.add([], rejected={"key": str(number), "reason": "no image", "detail": ""})
        assert len(building.blocks) == 3 and building.done == 30 and building.reasons() == {"no image": 30}
        building.flush()
        assert [entry["key"] for entry in building.rejected()] == [str(number) for number in range(35)]


def test_ray_builds_the_same_samples_and_takes_over_finished_shards(atlas, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed; pip install 'geotempo[ray]'")
    from geotempo.data_builders.cluster import build_on_ray

    build(atlas, tmp_path / "whole")
    build(atlas, tmp_path / "out.shards" / "00002-of-00003", shard=(2, 3))  # as an interrupted call leaves it
    kept = (tmp_path / "out.shards/00002-of-00003" / MANIFEST).stat().st_mtime_ns
    seen = []

    def watch(folders, *more, **also):
        seen.append(((tmp_path / "out.shards/00002-of-00003" / MANIFEST).stat().st_mtime_ns, len(folders)))
        return merge_stores(folders, *more, **also)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geotempo.data_builders.cluster.merge_stores", watch)
        build_on_ray("teochatlas", atlas, tmp_path / "out", shards=3, progress=False)
    assert seen == [(kept, 3)] and not (tmp_path / "out.shards").exists()
    assert texts(tmp_path / "out") == texts(tmp_path / "whole")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="foreign holds something that is no store"):
        build_on_ray("teochatlas", atlas, tmp_path / "foreign", shards=2, progress=False)


def test_ray_that_is_not_there_is_named_with_its_extra(atlas, tmp_path, monkeypatch):
    from geotempo.data_builders.cluster import build_on_ray

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install \"geotempo\[ray\]\""):
        build_on_ray("teochatlas", atlas, tmp_path / "out")
