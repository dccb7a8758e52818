"""xBD: label JSON and target masks."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from geotempo.data_builders.build import build_store
from geotempo.data_builders.store import Store
from geotempo.data_builders.xbd_labels import CLASSES, fit_transform, image_facts, pixel_size, simple_polygon
from geotempo.model.errors import InputError, LayoutError
from geotempo.model.geometry import Mask, rasterize


def built(root, out, **keywords):
    build_store("xbd", root, out, progress=False, **keywords)
    return Store(out)


@pytest.fixture(scope="module")
def real(shared, tmp_path_factory):
    root = shared("xBD/tier3")
    return root, built(root, tmp_path_factory.mktemp("b") / "xbd")


def counted(root):
    found = Counter()
    for path in root.glob("labels/*_post_disaster.json"):
        found.update(feature["properties"]["subtype"] for feature in json.loads(path.read_text())["features"]["xy"])
    return found


def test_real_building_counts_equal_the_json(real):
    root, store = real
    expected = counted(root)
    assert sum(expected.values()) == 486
    tally = store.manifest["tally"]
    assert {name: tally[f"buildings/{name}"] for name in expected} == expected
    assert not any(name.startswith("set aside") for name in tally)
    regions = Counter(region.label for i in store.rows(tasks=["damage"]) if store.ids[i].endswith("#damage")
                      for region in store[i].regions)
    assert regions == expected


def test_real_counting_answers(real):
    root, store = real
    for level in CLASSES:
        answers = [int(store.by_id(i).target) for i in store.ids if i.endswith(f"#counting:{level}")]
        assert sum(answers) == counted(root)[level]


def test_real_metadata(real):
    root, store = real
    before, after = store.by_id("xbd/train/joplin-tornado_00000000#damage").images
    assert (str(before.date), before.sensor) == ("2009-08-08T17:16:20.445Z", "QUICKBIRD02")
    assert str(after.date) == "2011-05-29T17:29:25.433Z" and after.crs == "EPSG:4326"
    # The metadata's gsd (2.35 m) is that of the multispectral sensor; the pixels measure 0.45 m.
    assert after.gsd == pytest.approx((0.451, 0.451), abs=0.01)
    label = json.loads((root / "labels/joplin-tornado_00000000_post_disaster.json").read_text())
    a, b, c, d, e, f = after.transform
    for xy, place in zip(label["features"]["xy"], label["features"]["lng_lat"], strict=True):
        x, y = map(float, xy["wkt"].split("((")[1].split(",")[0].split())
        lon, lat = map(float, place["wkt"].split("((")[1].split(",")[0].split())
        assert a * x + b * y + c == pytest.approx(lon, abs=5e-7) and d * x + e * y + f == pytest.approx(lat, abs=5e-7)


def test_gsd_agrees_with_the_geodesic(real):
    pyproj = pytest.importorskip("pyproj")
    _, store = real
    image = store[0].images[1]
    a, b, c, d, e, f = image.transform
    geod = pyproj.Geod(ellps="WGS84")

    def place(x, y):
        return a * x + b * y + c, d * x + e * y + f

    east = geod.inv(*place(511.5, 512), *place(512.5, 512))[2]
    south = geod.inv(*place(512, 511.5), *place(512, 512.5))[2]
    assert image.gsd == pytest.approx((east, south), abs=1e-3)


def test_real_questions_about_one_building(real):
    _, store = real
    singles = [store[i] for i in store.rows(tasks=["damage"]) if "#damage:" in store.ids[i]]
    assert {sample.target for sample in singles} == set(CLASSES)
    for sample in singles:
        assert "<region:0>" in sample.question and len(sample.regions) == 1
        assert sample.regions[0].label == "building"  # the label must not tell the answer
    every = {region.geometry: region.label for i in store.rows(tasks=["damage"]) for region in store[i].regions
             if store.ids[i].endswith("#damage")}
    assert all(every[sample.regions[0].geometry] == sample.target for sample in singles)
    for index in store.rows(tasks=["temporal_referring"]):
        sample = store[index]
        damaged = every[sample.regions[0].geometry] != "no-damage"
        expected = "Image 2" if ":damaged:" in sample.id else "Image 1" if damaged else "Image 1, Image 2"
        assert sample.target == expected and damaged >= (":damaged:" in sample.id)


def test_real_answer_lists_the_largest_assessed_buildings(real):
    _, store = real
    sample = store.by_id("xbd/train/joplin-tornado_00000001#damage")
    assert len(sample.regions) == 198 and len(sample.target_regions) == 32
    assert sample.meta["left_out"] == 198 - 8 - 32
    assert all(region.assessable for region in sample.target_regions)
    assert sum(not region.assessable for region in sample.regions) == 8
    for region in sample.regions:
        mask = rasterize(region.geometry, 1024, 1024)
        assert all(mask[int(y), int(x)] for x, y in region.points)


@pytest.fixture
def folder(tmp_path):
    """One pair with official target names, one with the names of a copy, one without its post image."""
    root = tmp_path / "xbd" / "hold"
    for name in ("images", "targets", "labels"):
        (root / name).mkdir(parents=True)
    for stem in ("quake_00000001", "quake_00000002", "quake_00000003"):
        for end in ("pre", "post"):
            Image.effect_noise((40, 40), 60).convert("RGB").save(root / f"images/{stem}_{end}_disaster.png")
    array = np.zeros((40, 40), dtype=np.uint8)
    array[2:10, 2:10], array[2:10, 20:30], array[20:30, 20:30] = 1, 4, 4
    Image.fromarray(array).save(root / "targets/quake_00000001_post_disaster_target.png")
    Image.fromarray(array).save(root / "targets/quake_00000002_post_disaster.png")
    (root / "images/quake_00000003_post_disaster.png").unlink()
    return root


def test_target_masks_of_both_spellings(folder, tmp_path):
    store = built(folder.parent, tmp_path / "s", max_rejected=0.5)
    assert store.manifest["rejected"]["by_reason"] == {"missing image": 1}
    assert store.manifest["tally"] == {"buildings/destroyed": 4, "buildings/major-damage": 0,
                                       "buildings/minor-damage": 0, "buildings/no-damage": 2,
                                       "buildings/un-classified": 0, "pairs/val": 2}
    sample = store.by_id("xbd/val/quake_00000001#damage")
    assert [region.label for region in sample.regions] == ["destroyed", "destroyed", "no-damage"]
    assert all(isinstance(region.geometry, Mask) for region in sample.regions)
    assert store.by_id("xbd/val/quake_00000001#change_vqa:damage").target == "yes"


def test_real_target_masks(shared, tmp_path):
    root = shared("xBD/train")
    store = built(root, tmp_path / "s", max_rejected=0.5)
    assert store.manifest["rejected"]["by_reason"] == {"missing mask": 1}  # mexico-earthquake has no label here
    for stem in ("hurricane-harvey_00000000", "hurricane-harvey_00000001"):
        target = np.asarray(Image.open(root / f"targets/{stem}_post_disaster.png"))
        sample = store.by_id(f"xbd/train/{stem}#damage")
        for value, name in enumerate(CLASSES, start=1):
            union = np.zeros(target.shape, dtype=bool)
            for region in sample.regions:
                if region.label == name:
                    union |= region.geometry.to_array()
            assert np.array_equal(union, target == value)


def feature(wkt, subtype="destroyed", uid="u"):
    return {"properties": {"feature_type": "building", "subtype": subtype, "uid": uid}, "wkt": wkt}


def test_unusable_polygons_are_counted_not_lost(folder, tmp_path):
    wkts = ["POLYGON ((2 2, 12 2, 12 12, 2 12, 2 2), (5 5, 8 5, 8 8, 5 8, 5 5))", "POLYGON ((1 1, 5 1, 1 1))",
            "MULTIPOLYGON (((0 0, 3 0, 3 3, 0 0)), ((10 10, 13 10, 13 13, 10 10)))", "POLYGON ((", "POLYGON EMPTY",
            "POLYGON ((50 50, 60 50, 60 60, 50 50))", "MULTIPOLYGON (((20 20, 30 20, 30 30, 20 20)))",
            "POLYGON ((30 -5, 36 -5, 36 5, 30 5, 30 -5))", "POLYGON ((1 30, 5 34, 5 30, 1 34, 1 30))"]
    label = {"features": {"xy": [feature(wkt, uid=str(n)) for n, wkt in enumerate(wkts)], "lng_lat": []},
             "metadata": {"gsd": 0, "capture_date": "", "sensor": "", "disaster_type": ""}}
    for end in ("pre", "post"):
        (folder / f"labels/quake_00000001_{end}_disaster.json").write_text(json.dumps(label))
    store = built(folder, tmp_path / "s", max_rejected=0.5)
    sample = store.by_id("xbd/val/quake_00000001#damage")
    assert sample.meta["set_aside"] == {"empty geometry": 1, "no area": 1, "outside the image": 1, "several parts": 1,
                                        "self-intersecting": 1, "unreadable WKT": 1}
    assert sample.meta["buildings"]["destroyed"] == 3 == len(sample.regions)
    assert any(region.geometry.holes for region in sample.regions)
    assert all(0 <= y <= 40 for region in sample.regions for _, y in region.geometry.exterior)
    assert sample.images[0].date is None and sample.images[0].gsd is None and sample.images[0].crs is None


@pytest.mark.parametrize(("label", "reason"), [
    ("[]", "broken annotation"), ("{not json", "broken annotation"), ('{"features": {}}', "broken annotation"),
    (json.dumps({"features": {"xy": [feature("POLYGON ((0 0, 9 0, 9 9, 0 0))", "burnt")]}}), "unknown damage class"),
])
def test_broken_labels_reject_the_pair(folder, tmp_path, label, reason):
    for end in ("pre", "post"):
        (folder / f"labels/quake_00000001_{end}_disaster.json").write_text(label)
    store = built(folder, tmp_path / "s", max_rejected=0.9)
    rejected = [json.loads(line) for line in (tmp_path / "s/rejected.jsonl").read_text().splitlines()]
    assert {entry["key"]: entry["reason"] for entry in rejected}["hold/quake_00000001"] == reason
    assert "xbd/val/quake_00000002#damage" in store.ids


def test_wrong_layouts(tmp_path):
    with pytest.raises(LayoutError, match="not a folder"):
        built(tmp_path / "none", tmp_path / "s")
    with pytest.raises(LayoutError, match="no folder images"):
        built(tmp_path, tmp_path / "s")
    (tmp_path / "images").mkdir()
    with pytest.raises(LayoutError, match="neither labels nor targets"):
        built(tmp_path, tmp_path / "s")
    (tmp_path / "labels").mkdir()
    with pytest.raises(LayoutError, match="has no"):
        built(tmp_path, tmp_path / "s")
    assert not (tmp_path / "s").exists() and not list(tmp_path.glob("*.building"))


def test_transform_is_refused_when_vertices_do_not_fit():
    rng = np.random.default_rng(0)
    rings = [rng.uniform(0, 100, (4, 2)) for _ in range(5)]

    def wkt(points):
        return "POLYGON ((" + ", ".join(f"{x} {y}" for x, y in [*points, points[0]]) + "))"

    def label(place):
        return {"features": {"xy": [feature(wkt(ring), uid=str(n)) for n, ring in enumerate(rings)],
                             "lng_lat": [feature(wkt(place(ring)), uid=str(n)) for n, ring in enumerate(rings)]}}

    exact = fit_transform(label(lambda ring: ring * [1e-5, -2e-5] + [7.0, 50.0]))
    assert exact == pytest.approx((1e-5, 0, 7.0, 0, -2e-5, 50.0), abs=1e-9)
    assert fit_transform(label(lambda ring: ring * 1e-5 + rng.normal(0, 1e-4, ring.shape))) is None
    assert image_facts({"features": {"xy": [], "lng_lat": []}}, 10, 10) == {}
    # One degree of the equator and of the meridian at the equator, in metres (WGS 84).
    assert pixel_size((1.0, 0, 0.0, 0, -1.0, 0.5), 1, 1) == pytest.approx((111319.491, 110574.276), abs=0.01)


def test_self_touching_polygon_is_mended():
    bow = simple_polygon("POLYGON ((0 0, 10 0, 10 10, 5 10, 5 5, 5 10, 0 10, 0 0))", 20, 20)  # a spike inside
    assert bow.is_valid and bow.area == pytest.approx(100)
    with pytest.raises(InputError, match="outside"):
        simple_polygon("POLYGON ((30 30, 40 30, 40 40, 30 30))", 20, 20)
