"""Wrong input ends in one line that says what to do, exit code 2, and no new file."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

GOOD = '[{"image":1,"bbox_2d":[100,100,300,300],"label":"x"}]'


def png(path, width=64, height=64, seed=0):
    array = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(array).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    png(tmp_path / "a.png")
    png(tmp_path / "b.png", seed=1)
    png(tmp_path / "wide.png", 80, 64)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "head.png").write_bytes(whole[:20])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "answer.txt").write_text(GOOD)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    return tmp_path


def four_bands(path, **profile):
    rasterio = pytest.importorskip("rasterio")
    with rasterio.open(path, "w", driver="GTiff", width=40, height=30, count=4, dtype="uint16", crs="EPSG:32633",
                       transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6), **profile) as out:
        out.write(np.arange(4 * 1200, dtype="uint16").reshape(4, 30, 40))
    return path


CASES = {
    "missing file": (["none.png"], ["none.png", "no such file"]),
    "missing tif": (["none.tif"], ["none.tif", "no such file"]),
    "folder": (["."], ["folder"]),
    "truncated": (["cut.png"], ["cut.png", "not a readable image"]),
    "truncated header": (["head.png"], ["head.png", "not a readable image"]),
    "empty file": (["empty.png"], ["empty.png", "not a readable image"]),
    "text": (["text.png"], ["text.png", "not a readable image"]),
    "two sizes": (["a.png", "wide.png"], ["64 x 64", "80 x 64", "crop or resize"]),
    "impossible date": (["a.png", "--date", "2021-02-30"], ["2021-02-30"]),
    "too few dates": (["a.png", "b.png", "--date", "2021"], ["2 images and 1 dates", "--date"]),
    "too many dates": (["a.png", "--date", "2020", "--date", "2021"], ["1 images and 2 dates"]),
    "unknown task": (["a.png", "--task", "guess"], ["'guess'", "change_caption"]),
    "change of one image": (["a.png", "--task", "change_caption"], ["two or more"]),
    "task without question": (["a.png", "--task", "vqa"], ["--prompt"]),
    "region of 0 x 0": (["a.png", "--region", "1:10,10,10,10"], ["'1:10,10,10,10' is no region", "x1 < x2"]),
    "region on image 9": (["a.png", "b.png", "--region", "9:1,1,5,5"], ["Image 9", "Image 1 to Image 2"]),
    "region outside": (["a.png", "--region", "1:70,1,90,9"], ["(70.0, 1.0, 90.0, 9.0)", "64 x 64"]),
    "unknown stretch": (["a.png", "--stretch", "lots"], ["'lots'", "minmax"]),
    "upside-down stretch": (["a.png", "--stretch", "9:1"], ["below"]),
    "two bands": (["a.png", "--bands", "1,2"], ["one (grey) or three"]),
    "band that is not there": (["a.png", "--bands", "nir"], ["'nir'", "bands 1 to 3"]),
    "foreign reference": (["a.png", "--reference", "b.png"], ["--reference"]),
    "answer missing": (["a.png", "--answer", "none.txt"], ["none.txt"]),
    "answer no UTF-8": (["a.png", "--answer", "latin.txt"], ["UTF-8"]),
    "output folder missing": (["a.png", "--page", "nowhere/o.html"], ["nowhere", "mkdir"]),
    "output over input": (["a.png", "--overlay", "a.png"], ["a.png", "input"]),
    "outputs of one name": (["a.png", "--page", "geo.json"], ["named twice"]),
    "masks as jpeg": (["a.png", "--masks", "m.jpg"], [".png"]),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_nothing_written(name, folder, geotempo, monkeypatch):
    arguments, parts = CASES[name]
    monkeypatch.chdir(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    answer = [] if "--answer" in arguments else ["--answer", "answer.txt"]
    ran = geotempo("predict", *arguments, *answer, "--geojson", "geo.json")
    assert ran.code == 2
    assert ran.err.startswith("geotempo: error: ") and ran.err.count("\n") == 1
    assert all(part in ran.err for part in parts), ran.err
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_four_unnamed_bands_say_what_to_write(folder, geotempo, monkeypatch):
    monkeypatch.chdir(folder)
    four_bands(folder / "four.tif")
    ran = geotempo("predict", "four.tif", "--answer", "answer.txt", "--geojson", "o.geojson")
    assert ran.code == 2 and all(part in ran.err for part in ("four.tif", "4 bands", "--bands 3,2,1"))
    assert not (folder / "o.geojson").exists()
    ran = geotempo("predict", "four.tif", "--answer", "answer.txt", "--geojson", "o.geojson", "--bands", "3,2,1")
    assert ran.code == 0, ran.err
    assert "band 3, band 2, band 1" in ran.out and "percentiles 2-98" in ran.out


@pytest.mark.parametrize("name", ["nothing", "./nothing", "/no/such/folder", ""])
def test_missing_model_folder(folder, geotempo, name):
    ran = geotempo("predict", folder / "a.png", "--model", name)
    assert ran.code == 2 and "no such folder" in ran.err and ran.err.count("\n") == 1


def test_truncated_geotiff(folder, geotempo):
    whole = four_bands(folder / "four.tif").read_bytes()
    (folder / "cut.tif").write_bytes(whole[:3000])
    ran = geotempo("predict", folder / "cut.tif", "--bands", "1,2,3", "--answer", folder / "answer.txt", "--geojson",
                   folder / "o.geojson")
    assert ran.code == 2 and "cut.tif" in ran.err and ran.err.count("\n") == 1
    assert not (folder / "o.geojson").exists()


def test_plain_and_georeferenced_do_not_mix(folder, geotempo):
    four_bands(folder / "four.tif")
    ran = geotempo("predict", folder / "four.tif", folder / "a.png", "--bands", "1,2,3", "--answer", folder / "answer.txt")
    assert ran.code == 2 and "a.png" in ran.err and "no georeference" in ran.err


def test_rasters_that_do_not_overlap(folder, geotempo):
    rasterio = pytest.importorskip("rasterio")
    four_bands(folder / "near.tif")
    four_bands(folder / "far.tif")
    with rasterio.open(folder / "far.tif", "r+") as data:
        data.transform = rasterio.Affine(10, 0, 7e5, 0, -10, 5.5e6)
    ran = geotempo("predict", folder / "far.tif", folder / "near.tif", "--bands", "1,2,3", "--answer", folder / "answer.txt")
    assert ran.code == 2 and "does not overlap" in ran.err and "far.tif" in ran.err


def test_console_script_prints_one_line(folder):
    done = subprocess.run([sys.executable, "-m", "geotempo", "predict", str(folder / "cut.png"), "--answer",
                           str(folder / "answer.txt")], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1


def test_a_huge_image_is_refused_before_it_is_decoded(folder, geotempo):
    out = io.BytesIO()
    Image.new("1", (16_000, 16_000)).save(out, format="PNG")
    Path(folder / "huge.png").write_bytes(out.getvalue())
    ran = geotempo("predict", folder / "huge.png", "--answer", folder / "answer.txt")
    assert ran.code == 2 and "huge.png" in ran.err and "tiles" in ran.err
