"""Building: byte identity, interruption by kill -9, refusals, the command line, and the check of the result."""

import json
import signal
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from geotempo.data_builders.build import build_store
from geotempo.data_builders.check import check_store, lossy_iou
from geotempo.data_builders.show import sample_sheet
from geotempo.data_builders.store import Store
from geotempo.data_builders.wordings import ask, wordings
from geotempo.model.answer import lossy_form
from geotempo.model.errors import ConfigError, InputError
from geotempo.model.geometry import Box, Mask, Polygon, bounds, rasterize
from geotempo.model.records import Frame, Region

# Kills its own process with SIGKILL before the n-th file of the build gets its name.
KILLED = """
import os, signal, sys
from pathlib import Path
from geotempo.data_builders import shards
from geotempo.data_builders.build import build_store
shards.BLOCK_SAMPLES = 10
names = 0
replace = os.replace
def count(*paths):
    global names
    names += 1
    if names == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*paths)
os.replace = count
build_store("levir-mci", Path(sys.argv[1]), Path(sys.argv[2]), progress=False)
"""


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "geotempo", *map(str, arguments)], capture_output=True, text=True,
                          timeout=120, check=False)


def kill_at(root, out, number):
    return subprocess.run([sys.executable, "-c", KILLED, str(root), str(out), str(number)], timeout=60,
                          check=False).returncode


@pytest.mark.parametrize("number", [1, 3, 4, 6, 9])
def test_a_killed_build_ends_with_the_same_bytes(levir, tmp_path, digest, number):
    assert kill_at(levir, tmp_path / "whole", 10**9) == 0
    assert kill_at(levir, tmp_path / "cut", number) == -signal.SIGKILL
    assert not (tmp_path / "cut").exists()
    finished = [path for path in (tmp_path / "cut.building").glob("samples/*.parquet")]
    journals = list((tmp_path / "cut.building/.journal").glob("[0-9]*.json"))
    times = {path: path.stat().st_mtime_ns for path in finished}
    assert kill_at(levir, tmp_path / "cut", 10**9) == 0
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")
    kept = [path for path, time in times.items()
            if (tmp_path / "cut/samples" / path.name).stat().st_mtime_ns == time]
    assert len(kept) >= len(journals)  # committed blocks were not written again
    assert not (tmp_path / "cut.building").exists()


def test_workers_and_repetition_do_not_change_the_bytes(levir, tmp_path, digest):
    build_store("levir-mci", levir, tmp_path / "one", progress=False)
    first = digest(tmp_path / "one")
    build_store("levir-mci", levir, tmp_path / "two", workers=2, progress=False)
    build_store("levir-mci", levir, tmp_path / "one", progress=False)
    assert digest(tmp_path / "two") == first == digest(tmp_path / "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["levir", "one", "two"]


def test_an_interrupted_build_of_other_keys_starts_afresh(levir, tmp_path, digest):
    kill_at(levir, tmp_path / "out", 6)
    path = levir / "LevirCCcaptions.json"
    value = json.loads(path.read_text())
    value["images"] = value["images"][1:]
    path.write_text(json.dumps(value))
    build_store("levir-mci", levir, tmp_path / "out", progress=False)
    build_store("levir-mci", levir, tmp_path / "fresh", progress=False)
    assert digest(tmp_path / "out") == digest(tmp_path / "fresh")


def test_too_many_rejected_items_stop_the_build(levir, tmp_path):
    (levir / "images/train/A/train_000001.png").unlink()
    done = run("build", "levir-mci", "--root", levir, "--out", tmp_path / "s")
    assert done.returncode == 2 and not (tmp_path / "s").exists()
    message = [line for line in done.stderr.splitlines() if line.startswith("geotempo: error")]
    assert len(message) == 1 and "1 of 5 items were rejected" in message[0] and "train/A/train_000001" in message[0]
    done = run("build", "levir-mci", "--root", levir, "--out", tmp_path / "s", "--max-rejected", "0.2")
    assert done.returncode == 0 and "missing image" in done.stdout
    assert Store(tmp_path / "s").manifest["rejected"]["total"] == 1


def test_command_line_from_folder_to_picture(levir, tmp_path):
    done = run("build", "levir-mci", "--root", levir, "--out", tmp_path / "s")
    assert done.returncode == 0, done.stderr
    assert "pairs/train" in done.stdout and "task change_caption" in done.stdout
    done = run("check", tmp_path / "s")
    assert done.returncode == 0 and "no fault" in done.stdout
    assert "levir-mci/val/val_000001: changeflag 1, mask pixels 0" in done.stdout
    name = "levir-mci/train/train_000001#change_segmentation:joint"
    done = run("show", tmp_path / "s", "--id", name, "--out", tmp_path / "x.png")
    assert done.returncode == 0 and Image.open(tmp_path / "x.png").width > 900
    for wrong, word in ((["show", tmp_path / "s", "--id", "none", "--out", tmp_path / "y.png"], "no id"),
                        (["show", tmp_path / "s", "--id", name, "--out", tmp_path / "no/y.png"], "does not exist"),
                        (["check", tmp_path], "no store"),
                        (["build", "levir-mci", "--root", tmp_path, "--out", tmp_path / "t"], "caption files"),
                        (["build", "levir-mci", "--out", tmp_path / "t"], "--root"),
                        (["build", "nothing", "--root", levir, "--out", tmp_path / "t"], "unknown source")):
        done = run(*wrong)
        assert done.returncode == 2 and word in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["levir", "s", "x.png"]


def test_check_finds_flipped_bytes(levir, tmp_path):
    build_store("levir-mci", levir, tmp_path / "s", progress=False)
    store = Store(tmp_path / "s")
    assert check_store(store, progress=False).faults == []
    shard = next((tmp_path / "s/images").glob("*.parquet"))
    data = bytearray(shard.read_bytes())
    place = data.find(store[0].images[0].data[-40:])
    data[place] ^= 255
    shard.write_bytes(data)
    faults = check_store(Store(tmp_path / "s"), progress=False).faults
    assert any("sha256" in fault for fault in faults) and any("other bytes than its id" in fault for fault in faults)


def test_check_finds_a_missing_image_row(levir, tmp_path):
    build_store("levir-cc", levir, tmp_path / "s", progress=False)
    shard = next((tmp_path / "s/images").glob("*.parquet"))
    pq.write_table(pq.read_table(shard).slice(1), shard)
    manifest = json.loads((tmp_path / "s/manifest.json").read_text())
    for entry in manifest["files"]:
        if entry["path"].startswith("images"):
            entry["bytes"] = shard.stat().st_size
    (tmp_path / "s/manifest.json").write_text(json.dumps(manifest))
    faults = check_store(Store(tmp_path / "s"), progress=False).faults
    assert any("is missing or of another size" in fault for fault in faults)
    assert any(fault.startswith("images:") for fault in faults)


def test_check_reports_what_each_form_costs(tmp_path, levir):
    build_store("levir-mci", levir, tmp_path / "store", progress=False)
    report = check_store(Store(tmp_path / "store"), progress=False)
    assert set(report.iou) == {"box of a mask", "grid of a mask"} and not report.faults
    assert [len(values) for values in report.iou.values()] == [6, 6]
    lines = "\n".join(report.lines())
    assert "box of a mask: 6 regions, IoU mean" in lines and "grid of a mask: 6 regions, IoU mean" in lines
    ys, xs = np.mgrid[:256, :256]
    disc = Region(1, Mask.from_array(np.hypot(xs - 120, ys - 120) < 90))
    frames = [Frame.plain(256, 256)]
    boxed, gridded = (lossy_iou(disc.geometry, lossy_form(disc, frames, grids=grids).geometry) for grids in (False, True))
    kept = rasterize(lossy_form(disc, frames, grids=True).geometry, 256, 256)
    assert boxed < 0.8 and 0.92 < gridded == pytest.approx(
        (kept & disc.geometry.to_array()).sum() / (kept | disc.geometry.to_array()).sum(), abs=0.01)


def test_lossy_iou_is_exact():
    square = Polygon(((0.0, 0.0), (10.0, 0.0), (0.0, 10.0)))
    assert lossy_iou(square, Box(0, 0, 10, 10)) == pytest.approx(0.5)

    array = np.zeros((20, 20), dtype=bool)
    array[2:6, 3:9] = True
    mask = Mask.from_array(array)
    assert lossy_iou(mask, bounds(mask)) == pytest.approx(1.0)
    assert lossy_iou(mask, Box(2.5, 2.0, 9.0, 6.0)) == pytest.approx(24 / 26)
    assert lossy_iou(mask, Box(3.5, 2.0, 9.0, 6.0)) == pytest.approx(22 / 24)


def test_wordings_depend_on_the_id_only():
    chosen = {ask("change_caption", f"sample {n}") for n in range(200)}
    assert chosen == set(wordings()["change_caption"])
    assert ask("change_caption", "x") == ask("change_caption", "x")
    with pytest.raises(ConfigError, match="no wording"):
        ask("nothing", "x")
    with pytest.raises(ConfigError, match="things"):
        ask("change_grounding", "x")


def test_another_process_at_the_same_store_is_refused(levir, tmp_path):
    from geotempo.data_builders.shards import Building

    with Building(tmp_path / "s", {"source": "x"}), pytest.raises(InputError, match="another process"):
        Building(tmp_path / "s", {"source": "x"})


def test_the_sheet_draws_the_regions(levir, tmp_path):
    build_store("levir-mci", levir, tmp_path / "s", progress=False)
    store = Store(tmp_path / "s")
    grounding = sample_sheet(store.by_id("levir-mci/train/train_000001#change_grounding:buildings"))
    empty = sample_sheet(store.by_id("levir-mci/train/train_000002#change_grounding:buildings"))
    assert grounding.size == empty.size and grounding.tobytes() != empty.tobytes()
