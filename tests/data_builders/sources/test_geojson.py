"""Dated GeoTIFFs with GeoJSON labels: from the ground to pixels, dates, tiles, doubts, faults."""

import json
import sys

import numpy as np
import pytest

pytest.importorskip("rasterio")
pytest.importorskip("pyproj")

from hypothesis import given, settings
from hypothesis import strategies as st

from geotempo.data_builders.build import build_store
from geotempo.data_builders.check import check_store
from geotempo.data_builders.geo_labels import Label
from geotempo.data_builders.raster_dates import read_day
from geotempo.data_builders.sources import make_source
from geotempo.data_builders.store import Store
from geotempo.model.dates import AcquisitionDate
from geotempo.model.errors import InputError, LayoutError, MissingExtraError
from geotempo.model.geo import Georeference
from geotempo.model.geometry import Mask, Polygon, area, bounds, rasterize
from tests.data_builders.fixtures import geo as made


def built(root, out, name="geojson", **keywords):
    options = {"licence": "CC-BY-4.0; mine", "end_field": "gone", **keywords.pop("options", {})}
    manifest = build_store(name, root, out, progress=False, options=options, **keywords)
    store = Store(out)
    assert not check_store(store, progress=False).faults
    return store, manifest


def targets(store, task, end=""):
    return {
        name.split("/", 2)[2]: store.by_id(name).target
        for name in store.ids
        if f"#{task}" in name and name.endswith(end)
    }


@pytest.mark.parametrize("crs", made.GRIDS)
def test_squares_come_back_within_half_a_pixel(tmp_path, crs):
    store, _ = built(made.series(tmp_path / "in", crs), tmp_path / "out")
    for thing, box in made.SQUARES.items():
        region = store.by_id(f"own/train/scene_2019-05-01/{'2020-05-01' if thing != 'pond' else '2019-05-01'}"
                             f"#referring_segmentation:{thing}").regions[0]
        assert np.abs(np.subtract(bounds(region.geometry).as_tuple(), box)).max() < 0.5
        expected = np.zeros((made.HEIGHT, made.WIDTH), bool)
        expected[box[1] : box[3], box[0] : box[2]] = True
        assert np.array_equal(rasterize(region.geometry, made.HEIGHT, made.WIDTH), expected)
        assert expected[int(region.points[0][1]), int(region.points[0][0])]


def test_dates_tell_what_is_there_what_came_and_what_went(tmp_path):
    store, manifest = built(made.series(tmp_path / "in"), tmp_path / "out")
    assert manifest["tally"] == {"tiles/train": 1}
    place = "scene_2019-05-01"
    assert store.by_id(f"own/train/{place}/2021-05-01#counting:house").target == "1"
    for date, classes in (
        ("2019-05-01", {"pond", "shed"}),
        ("2020-05-01", {"pond", "shed", "house"}),
        ("2021-05-01", {"pond", "house"}),
    ):
        found = {
            name.rsplit(":", 1)[1]
            for name, target in targets(store, "vqa:").items()
            if f"/{date}#" in name and target == "yes"
        }
        assert found == classes
    came = store.by_id(f"own/train/{place}/2019-05-01_2020-05-01#change_segmentation:houses_added")
    assert [region.image for region in came.regions] == [2] and len(came.images) == 2
    went = store.by_id(f"own/train/{place}/2020-05-01_2021-05-01#change_grounding:sheds_removed")
    assert [region.image for region in went.regions] == [1]
    assert targets(store, "temporal_referring") == {
        f"{place}#temporal_referring:house-1": "Image 2",
        f"{place}#temporal_referring:pond-0": "Image 1",
        f"{place}#temporal_referring:shed-2": "Image 1",
    }
    assert all(store.by_id(name).regions[0].image == 3 for name in store.ids if "#temporal" in name)
    first = store.by_id(f"own/train/{place}#temporal_referring:house-1").images
    assert [image.date.text for image in first] == ["2019-05-01", "2020-05-01", "2021-05-01"]
    assert first[0].crs == "EPSG:32631" and first[0].gsd[0] == pytest.approx(10, rel=1e-2)


def test_records_carry_the_ground_of_their_tile(tmp_path):
    store, _ = built(made.series(tmp_path / "in"), tmp_path / "out", options={"tile": 20, "empty": 1})
    for name in store.ids:
        sample = store.by_id(name)
        image = sample.images[0]
        place = Georeference(image.crs, image.transform)
        corners = place.lonlat(np.array([(0, 0), (image.width, image.height)], float))
        west, south, east, north = sample.meta["footprint"]
        assert (
            west <= corners[:, 0].min()
            and corners[:, 0].max() <= east
            and south <= corners[:, 1].min()
            and corners[:, 1].max() <= north
        )
    shed = store.by_id("own/train/scene_2019-05-01-1-2/2019-05-01#referring_segmentation:shed")
    lonlat = Georeference(shed.images[0].crs, shed.images[0].transform).lonlat(
        np.array([bounds(shed.regions[0].geometry).as_tuple()[:2]])
    )
    assert np.allclose(lonlat, made.ring(made.SQUARES["shed"])[0], atol=1e-6)


def test_tiles_cut_polygons_and_keep_holes(tmp_path):
    root = tmp_path / "in"
    made.raster(root / "a_2020.tif")
    made.labels(root / "l.geojson", [made.feature((4, 4, 50, 36), "lake", "2010", holes=[(10, 8, 16, 14)]),
                                     made.feature((29, 0, 40, 3), "road", "2010")])
    store, manifest = built(root, tmp_path / "out", options={"tile": 30, "end_field": ""})
    left = store.by_id("own/train/a_2020-0-0/2020#referring_segmentation:lake").regions[0]
    assert isinstance(left.geometry, Polygon) and len(left.geometry.holes) == 1
    assert area(left.geometry) == pytest.approx(26 * 16 - 36, abs=1)
    assert manifest["tally"]["slivers of labels"] == 1  # three pixels of the road on the left tile
    assert not any("a_2020-0-0" in name and ":road" in name for name in store.ids), (
        "nothing is said about roads where one is a sliver"
    )
    assert any("a_2020-0-1" in name and ":road" in name for name in store.ids)


def test_an_object_in_pieces_on_a_tile_is_one_region(tmp_path):
    root = tmp_path / "in"
    made.raster(root / "a_2020.tif")
    horseshoe = {"type": "MultiPolygon", "coordinates": [[made.ring((2, 2, 12, 12))], [made.ring((20, 20, 30, 30))]]}
    made.labels(root / "l.geojson", [{**made.feature((0, 0, 1, 1), "farm", "2010"), "geometry": horseshoe}])
    store, _ = built(root, tmp_path / "out", options={"end_field": ""})
    sample = store.by_id("own/train/a_2020/2020#referring_segmentation:farm")
    assert (
        len(sample.regions) == 1
        and isinstance(sample.regions[0].geometry, Mask)
        and area(sample.regions[0].geometry) == 200
    )


def test_tiles_overlap_where_wanted(tmp_path):
    source = make_source("geojson", licence="unknown", tile=30, overlap=10)
    specs = [item.record[0] for item in source.items(made.series(tmp_path / "in"))]
    assert max(spec.columns[1] - spec.columns[0] for spec in specs) <= 30
    assert specs[0].columns[1] - specs[1].columns[0] == 10


def test_tiles_and_views_without_data_are_counted(tmp_path):
    root = made.series(tmp_path / "in")
    made.raster(root / "scene_2020-05-01.tif", seed=7, empty=40)
    store, manifest = built(root, tmp_path / "out", options={"tile": 20, "empty": 1})
    assert manifest["tally"]["views without data"] == 4 and not any("-0-0/2020-05-01#" in name for name in store.ids)
    for date in ("2019-05-01", "2020-05-01", "2021-05-01"):
        made.raster(root / f"scene_{date}.tif", seed=7, empty=20)
    _, manifest = built(root, tmp_path / "out2", options={"tile": 20})
    assert manifest["tally"]["tiles without data"] == 2


def test_tiles_without_labels_are_mostly_left_out(tmp_path):
    root, left = made.series(tmp_path / "in"), {}
    for empty in (0.0, 0.5):
        source = make_source("geojson", licence="unknown", tile=5, empty=empty)
        tallies = [source.tally_item(item) for item in source.items(root)]
        left[empty] = sum(tally["tiles without labels, left out"] for tally in tallies)
    assert 0.3 * left[0.0] < left[0.5] < 0.7 * left[0.0]


def test_rasters_of_other_grids_are_laid_on_the_latest(tmp_path):
    root = tmp_path / "in"
    made.raster(root / "late_2021.tif")
    a, _, c, _, e, f = made.GRIDS["EPSG:32631"]
    made.raster(root / "early_2019.tif", transform=(a / 2, 0, c, 0, e / 2, f), size=(120, 80), seed=3)
    made.labels(root / "l.geojson", [made.feature(made.SQUARES["house"], "house", "2020")])
    store, _ = built(root, tmp_path / "out", options={"end_field": ""})
    sample = store.by_id("own/train/early_2019#temporal_referring:house-0")
    assert sample.target == "Image 2" and {image.width for image in sample.images} == {made.WIDTH}


def test_places_apart_are_apart(tmp_path):
    root = made.series(tmp_path / "in")
    a, _, c, _, e, f = made.GRIDS["EPSG:32631"]
    for n in range(8):
        made.raster(root / f"far{n}_2020.tif", transform=(a, 0, c + 10_000 * (n + 1), 0, e, f), seed=n)
    store, manifest = built(root, tmp_path / "out", options={"empty": 1, "val_share": 0.5})
    assert 1 < manifest["tally"]["tiles/val"] < 8
    assert not {store.by_id(name).meta["scene"] for name in store.ids if "/val/" in name} & \
        {store.by_id(name).meta["scene"] for name in store.ids if "/train/" in name}
    with pytest.raises(LayoutError, match="val would show what train shows"):
        make_source("geojson", licence="unknown", tile=20, overlap=4, val_share=0.2).check_layout(
            made.series(tmp_path / "one")
        )


def test_labels_of_another_system_say_so(tmp_path):
    root = made.series(tmp_path / "in")
    x, y = 644550 + 10 * 4, 5676350 - 10 * 6
    square = {"type": "Polygon", "coordinates": [[[x, y], [x + 100, y], [x + 100, y - 140], [x, y - 140], [x, y]]]}
    features = [{"type": "Feature", "geometry": square, "properties": {"class": "house", "date": "2010"}}]
    made.labels(root / "labels.geojson", features)
    with pytest.raises(LayoutError, match="no degrees; give the file's coordinate system with labels_crs"):
        built(root, tmp_path / "no", options={"end_field": ""})
    made.labels(
        root / "labels.geojson", features, crs={"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32631"}}
    )
    store, _ = built(root, tmp_path / "member", options={"end_field": ""})
    region = store.by_id("own/train/scene_2019-05-01/2019-05-01#referring_segmentation:house").regions[0]
    assert np.allclose(bounds(region.geometry).as_tuple(), made.SQUARES["house"], atol=0.01)
    made.labels(root / "labels.geojson", features)
    assert built(root, tmp_path / "option", options={"end_field": "", "labels_crs": "EPSG:32631"})[0].ids


def test_labels_elsewhere_are_refused(tmp_path):
    root = made.series(tmp_path / "in")
    made.labels(
        root / "labels.geojson",
        [made.feature((0, 0, 9, 9), "house", "2010", transform=(10, 0, 744550, 0, -10, 5676350))],
    )
    with pytest.raises(LayoutError, match=r"no label of labels.geojson lies on a raster.*longitude"):
        built(root, tmp_path / "out")


def test_labels_that_cannot_be_used_are_named_and_their_class_is_in_doubt(tmp_path):
    root = made.series(tmp_path / "in")
    file = json.loads((root / "labels.geojson").read_text())
    spot = made.feature((56, 2, 59, 9), "house", "soon")
    file["features"] += [
        spot,
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [5, 51]},
            "properties": {"class": "x", "date": "2000"},
        },
        made.feature((56, 2, 59, 9), "", "2000", transform=(10, 0, 944550, 0, -10, 5676350)),
        {"type": "Feature", "geometry": None, "properties": None},
    ]
    made.labels(root / "labels.geojson", file["features"])
    store, manifest = built(root, tmp_path / "out", max_rejected=1)
    assert manifest["rejected"]["by_reason"] == {"unknown date": 1, "no polygon": 2, "no class": 1}
    assert "feature 3: date is \"soon\"" in (tmp_path / "out/rejected.jsonl").read_text().replace("\\", "")
    assert not any(":house" in name and "region_vqa" not in name and "temporal" not in name for name in store.ids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_field": "kind"}, "class_field=kind.*they have: class, date, gone"),
        ({"labels": "x.geojson"}, "labels=x.geojson is no file"),
        ({"date_pattern": r"(\d+)km"}, "has no date"),
    ],
)
def test_options_that_do_not_fit_the_files(tmp_path, options, message):
    with pytest.raises(LayoutError, match=message):
        built(made.series(tmp_path / "in"), tmp_path / "out", options=options)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_rasters_without_date_or_georeference_are_named(tmp_path):
    root = made.series(tmp_path / "in")
    made.raster(root / "mosaic.tif", seed=8)
    with pytest.raises(LayoutError, match=r"mosaic\.tif has no date"):
        built(root, tmp_path / "out")
    (root / "mosaic.tif").unlink()
    made.raster(root / "scan_2018.tif", crs=None, seed=8)
    with pytest.raises(LayoutError, match=r"scan_2018\.tif has no georeference"):
        built(root, tmp_path / "out")
    (root / "scan_2018.tif").unlink()
    made.raster(root / "again_20190501.tif", seed=8)
    made.raster(root / "again_2019-05-01.tif", seed=8)
    with pytest.raises(LayoutError, match="show one place on one date"):
        built(root, tmp_path / "out")


def test_dates_in_tags_and_items_count(tmp_path):
    root = tmp_path / "in"
    made.raster(root / "a.tif", tags={"TIFFTAG_DATETIME": "2019:06:07 10:00:00"})
    made.raster(root / "b.tif", seed=1)
    (root / "b.tif.json").write_text(
        json.dumps(
            {
                "type": "Feature",
                "stac_version": "1.0.0",
                "id": "b",
                "assets": {"x": {"href": "./b.tif"}},
                "properties": {
                    "datetime": None,
                    "start_datetime": "2020-01-01T00:00:00Z",
                    "end_datetime": "2020-01-31T00:00:00Z",
                },
            }
        )
    )
    shots = [(shot.date.text) for shot in make_source("geojson", licence="unknown").rasters(root)]
    assert shots == ["2019-06-07", "2020-01-01T00:00:00Z/2020-01-31T00:00:00Z"]


@pytest.mark.parametrize(
    ("start", "end", "image", "seen"),
    [
        ("2020", None, "2021-05-01", True),
        ("2022", None, "2021-05-01", False),
        ("2021", None, "2021-05-01", None),
        ("2021", None, "2021", True),
        ("2021-05-01", None, "2021-05-01T10:00:00Z", True),
        ("2021-05-02", None, "2021-05-01", False),
        ("2010", "2020", "2021-05-01", False),
        ("2010", "2021", "2021-05-01", None),
        ("2010", "2022", "2021-05-01", True),
        (None, None, "1990", True),
        ("2021-06-01", None, "2021", None),
    ],
)
def test_what_can_be_told_about_a_date(start, end, image, seen):
    dates = [AcquisitionDate(text) if text else None for text in (start, end)]
    assert Label(0, "x", None, *dates).seen(AcquisitionDate(image)) is seen


@pytest.mark.parametrize(
    ("value", "date"),
    [
        (2021, "2021"),
        (2021.0, "2021"),
        ("20210503", "2021-05-03"),
        ("2021/05/03", "2021-05-03"),
        ("2021:05:03 10:11:12", "2021-05-03"),
        ("2021-05-03T10:00:00", "2021-05-03"),
        ("soon", None),
        (None, None),
        (True, None),
        ("2021-13-40", None),
    ],
)
def test_dates_as_people_write_them(value, date):
    found = read_day(value)
    assert (found.text if found else None) == date


@settings(max_examples=30, deadline=None)
@given(st.dates())
def test_every_day_is_read_in_three_forms(day):
    for text in (day.isoformat(), day.isoformat().replace("-", ""), day.isoformat().replace("-", "/")):
        assert read_day(text).text == day.isoformat()


def test_options_are_checked():
    for options in (
        {"overlap": 300},
        {"tile": -1},
        {"empty": 2},
        {"end_field": "x", "date_field": ""},
        {"dataset": "a b"},
    ):
        with pytest.raises(InputError):
            make_source("geojson", licence="unknown", **options)


def test_labels_without_dates_hold_on_every_image(tmp_path):
    root = made.series(tmp_path / "in")
    made.labels(root / "labels.geojson", [made.feature(made.SQUARES["pond"], "pond")])
    store, _ = built(root, tmp_path / "out", options={"date_field": "", "end_field": ""})
    assert len(targets(store, "counting:")) == 3 and not any(
        "change" in name or "temporal" in name for name in store.ids
    )


def test_two_workers_give_the_same_bytes(tmp_path, digest):
    root = made.series(tmp_path / "in")
    for workers in (1, 2):
        built(root, tmp_path / str(workers), options={"tile": 20, "empty": 0.5}, workers=workers)
    assert digest(tmp_path / "1") == digest(tmp_path / "2")


def test_a_real_series_of_landsat(shared, tmp_path):
    root = shared("timeseries") / "landsat_1985_2020"
    place = Georeference(
        "EPSG:4326", (0.0008084837557075694, 0.0, -74.72249415376068, 0.0, -0.0008084837557075694, -8.282107593468341)
    )
    square = place.lonlat(np.array([(300, 100), (400, 100), (400, 150), (300, 150), (300, 100)], float)).tolist()
    label = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [square]},
        "properties": {"class": "clearing", "date": 2003},
    }
    file = made.labels(tmp_path / "l.geojson", [label])
    store, _ = built(
        root, tmp_path / "out", options={"labels": str(file), "bands": "3,2,1", "end_field": "", "tile": 0}
    )
    sample = store.by_id("own/train/1985#temporal_referring:clearing-0")
    assert sample.target == "Image 5" and [image.date.text for image in sample.images] == [
        str(year) for year in range(1985, 2021, 5)
    ]
    assert np.allclose(bounds(sample.regions[0].geometry).as_tuple(), (300, 100, 400, 150), atol=0.01)


@pytest.mark.parametrize("package", ["rasterio", "pyproj"])
def test_a_missing_extra_says_how_to_get_it(tmp_path, monkeypatch, package):
    root = made.series(tmp_path / "in")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r'pip install "geotempo\[geo\]"'):
        make_source("geojson", licence="unknown").check_layout(root)
