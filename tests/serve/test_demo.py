"""The demo on the embedded model: files whole, GeoJSON readable, the shipped sequence reproducible."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from PIL import Image
from shapely.geometry import shape

from geotempo.data_builders.scenes.scene import EASY
from geotempo.data_builders.scenes.world import generate
from geotempo.serve.demo import ASKS, sequence


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "made" / "here"
    done = subprocess.run([sys.executable, "-m", "geotempo", "demo", "--out", str(folder)], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    assert "index.html" in done.stdout
    return folder


def test_every_question_has_a_picture_and_the_page_shows_all(out: Path) -> None:
    page = (out / "index.html").read_text()
    for ask in ASKS:
        with Image.open(out / f"{ask.name}.png") as picture:
            assert min(picture.size) > 200
        assert ask.title in page
    assert page.count("data:image/jpeg;base64,") == sum(len(ask.images) for ask in ASKS)
    assert "Expect wrong answers" in page


def test_geojson_lies_on_the_sequence(out: Path) -> None:
    collection = json.loads((out / "grounding.geojson").read_text())
    assert collection["type"] == "FeatureCollection"
    assert collection["features"]
    with rasterio.open(sequence()[-1]) as file:
        frame = shapely.box(*rasterio.warp.transform_bounds(file.crs, "EPSG:4326", *file.bounds)).buffer(1e-5)
    for feature in collection["features"]:
        assert shape(feature["geometry"]).within(frame)
        assert feature["properties"]["area_m2"] > 0
        assert feature["properties"]["label"]


def test_masks_number_the_regions(out: Path) -> None:
    with Image.open(out / "grounding_masks.png") as picture:
        values = set(np.unique(np.asarray(picture)).tolist())
    count = len(json.loads((out / "grounding.geojson").read_text())["features"])
    assert values - {0} <= set(range(1, count + 1))
    assert values - {0}


def test_the_shipped_sequence_is_the_scene_it_says_it_is() -> None:
    scene = generate(77, 3, size=256, dates=4, options=EASY)
    assert [path.stem for path in sequence()] == [str(date) for date in scene.dates]
    for path, pixels in zip(sequence(), scene.images, strict=True):
        with rasterio.open(path) as file:
            assert np.array_equal(file.read().transpose(1, 2, 0), pixels)


def test_the_temporal_question_points_at_the_building_of_the_last_date() -> None:
    scene = generate(77, 3, size=256, dates=4, options=EASY)
    (region,) = next(ask for ask in ASKS if ask.name == "temporal").regions
    box = region.geometry
    inside = np.zeros((256, 256), bool)
    inside[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)] = True
    hits = [item for item in scene.of_kind("building") if item.masks[3] is not None
            and (item.masks[3] & inside).sum() > 0.9 * item.masks[3].sum()]
    assert len(hits) == 1
    assert [hits[0].there(date) for date in range(4)] == [False, False, False, True]
