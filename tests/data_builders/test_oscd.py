"""OSCD: bands or quick looks, change maps in both codings, tiles."""

import numpy as np
import pytest
from PIL import Image

from geotempo.data_builders.build import build_store
from geotempo.data_builders.check import check_store
from geotempo.data_builders.sources import make_source
from geotempo.data_builders.store import Store
from geotempo.model.errors import InputError, LayoutError

PREFIX = "Onera Satellite Change Detection dataset - "
CHANGE = np.zeros((60, 100), dtype=bool)
CHANGE[5:15, 10:30] = CHANGE[40:58, 70:99] = True
BRIGHTEST = 3000


def city(root, name="toulouse", split="Train", *, bands=("imgs_1_rect", "imgs_2_rect"), pair=False, size=(100, 60), dated=True):
    """A city whose second date is brighter everywhere, and brightest where it changed."""
    folder = root / f"{PREFIX}Images" / name
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, sub in enumerate(bands):
        (folder / sub).mkdir()
        for band in ("B02", "B03", "B04", "B08"):
            values = rng.integers(500, 1500, (size[1], size[0])).astype(np.uint16) + 300 * number
            if number and size == (100, 60):
                values[CHANGE] = BRIGHTEST
            prefix = "" if sub.endswith("rect") else "T31TCJ_20170829T105019_"
            Image.fromarray(values).save(folder / sub / f"{prefix}{band}.tif")
    if pair:
        (folder / "pair").mkdir()
        for number in (1, 2):
            Image.new("RGB", size, (40 * number, 60, 70)).save(folder / "pair" / f"img{number}.png")
    if dated:
        (folder / "dates.txt").write_text("date_1: 20161130\ndate_2: 20170829\n")
    labels = root / f"{PREFIX}{split} Labels" / name / "cm"
    labels.mkdir(parents=True)
    grey = (CHANGE * 255).astype(np.uint8)
    Image.fromarray(np.dstack([grey] * 3 + [np.full_like(grey, 255)])).save(labels / "cm.png")
    return labels


def samples(root, key="train/toulouse", **options):
    source = make_source("oscd", **options)
    source.check_layout(root)
    return list(source.samples(root, key))


def union(found):
    out = np.zeros((found.images[0].height, found.images[0].width), dtype=int)
    for region in found.regions:
        out += region.geometry.to_array()
    return out


def test_a_city_becomes_two_samples_with_one_stretch_for_both_dates(tmp_path):
    city(tmp_path)
    found = samples(tmp_path)
    assert [sample.task for sample in found] == ["change_grounding", "change_segmentation"]
    first = found[0]
    assert np.array_equal(union(first), CHANGE.astype(int)) and {region.label for region in first.regions} == {"urban change"}
    assert [str(image.date) for image in first.images] == ["2016-11-30", "2017-08-29"]
    assert {(image.sensor, image.gsd) for image in first.images} == {("Sentinel-2", (10.0, 10.0))}
    before, after = (np.asarray(image.rgb()) for image in first.images)
    assert after[~CHANGE].mean() - before[~CHANGE].mean() > 15, "a stretch per date would hide that one is brighter"
    assert (after[CHANGE] == 255).all()


def test_cut_out_bands_and_quick_looks_stand_in(tmp_path):
    city(tmp_path / "raw", bands=("imgs_1", "imgs_2"), pair=True)
    raw = samples(tmp_path / "raw")[0]
    assert (np.asarray(raw.images[1].rgb())[CHANGE] == 255).all(), "bands are preferred to quick looks"
    city(tmp_path / "quick", bands=(), pair=True, dated=False)
    quick = samples(tmp_path / "quick")[0]
    assert np.asarray(quick.images[1].rgb())[0, 0].tolist() == [80, 60, 70] and quick.images[0].date is None


@pytest.mark.parametrize(("low", "high"), [(1, 2), (0, 1)])
def test_both_codings_of_the_change_raster(tmp_path, low, high):
    labels = city(tmp_path)
    (labels / "cm.png").unlink()
    Image.fromarray(np.where(CHANGE, high, low).astype(np.uint8)).save(labels / "toulouse-cm.tif")
    assert np.array_equal(union(samples(tmp_path)[0]), CHANGE.astype(int))


@pytest.mark.parametrize("value", [3, 255])
def test_other_values_are_not_guessed(tmp_path, value):
    labels = city(tmp_path)
    (labels / "cm.png").unlink()
    Image.fromarray(np.where(CHANGE, value, 1).astype(np.uint8)).save(labels / "toulouse-cm.tif")
    with pytest.raises(InputError, match="unknown mask value"):
        samples(tmp_path)


def test_an_unchanged_raster_of_ones_could_mean_both(tmp_path):
    labels = city(tmp_path)
    (labels / "cm.png").unlink()
    Image.new("L", (100, 60), 1).save(labels / "toulouse-cm.tif")
    with pytest.raises(InputError, match="unknown mask value"):
        samples(tmp_path)


@pytest.mark.parametrize(("tile", "names"), [(0, [""]), (100, [""]), (50, ["-0-0", "-0-1", "-1-0", "-1-1"])])
def test_tiles_hold_every_pixel_once(tmp_path, tile, names):
    city(tmp_path)
    found = [sample for sample in samples(tmp_path, tile=tile) if sample.task == "change_grounding"]
    assert [sample.id for sample in found] == [f"oscd/train/toulouse{name}#change_grounding" for name in names]
    assert {sample.meta["scene"] for sample in found} == {"toulouse"}
    assert max(max(sample.images[0].width, sample.images[0].height) for sample in found) <= (tile or 100)
    assert sum(sample.images[0].width * sample.images[0].height for sample in found) == CHANGE.size
    assert sum(union(sample).sum() for sample in found) == CHANGE.sum()


def test_the_store_is_sound_and_bad_cities_are_named(tmp_path):
    city(tmp_path / "oscd", "a"), city(tmp_path / "oscd", "b", "Test")
    city(tmp_path / "oscd", "c", bands=())
    city(tmp_path / "oscd", "d", size=(90, 60))
    (city(tmp_path / "oscd", "e") / "cm.png").unlink()
    broken = tmp_path / "oscd" / f"{PREFIX}Images" / "f" / "imgs_1_rect" / "B03.tif"
    city(tmp_path / "oscd", "f")
    broken.write_bytes(broken.read_bytes()[:50])
    city(tmp_path / "oscd", "g")
    (broken.parents[2] / "g" / "imgs_2_rect" / "B02.tif").unlink()
    manifest = build_store("oscd", tmp_path / "oscd", tmp_path / "store", progress=False, max_rejected=1)
    assert manifest["rejected"] == {"total": 5, "by_reason": {"broken image": 1, "missing image": 2, "missing mask": 1, "size mismatch": 1}}
    assert manifest["tally"] == {"tiles/train": 1, "changed tiles/train": 1, "changes/train": 2, "tiles/test": 1,
                                 "changed tiles/test": 1, "changes/test": 2}
    assert not check_store(Store(tmp_path / "store"), progress=False).faults


def test_other_layouts_are_refused(tmp_path):
    with pytest.raises(LayoutError, match="not a folder"):
        make_source("oscd").check_layout(tmp_path / "none")
    with pytest.raises(LayoutError, match="no images or no labels"):
        make_source("oscd").check_layout(tmp_path)
    with pytest.raises(InputError, match="tile is -1"):
        make_source("oscd", tile=-1)


def test_real_cities(shared, tmp_path):
    root = shared("OSCD")
    store = Store(tmp_path / "store") if build_store("oscd", root, tmp_path / "store", progress=False) else None
    assert store.manifest["tally"] == {"tiles/train": 14, "changed tiles/train": 14, "changes/train": 134}
    total = sum(union(store[row]).sum() for row in store.rows(tasks=["change_segmentation"]))
    maps = [np.asarray(Image.open(path))[..., 0] > 127 for path in sorted(root.glob("*Labels/*/cm/cm.png"))]
    assert len(maps) == 3 and total == sum(int(changed.sum()) for changed in maps)
    assert not check_store(store, progress=False).faults


def test_synthetic_layout_of_torchgeo(shared, tmp_path):
    root = shared("_synthetic_torchgeo_fixtures") / "oscd"
    tally = build_store("oscd", root, tmp_path / "store", progress=False)["tally"]
    assert (tally["tiles/train"], tally["tiles/test"]) == (2, 1)
