"""Local STAC catalogues with labels: links, assets, dates, clouds, what is missing."""

import json

import numpy as np
import pytest

pytest.importorskip("rasterio")
pytest.importorskip("pyproj")

from geotempo.data_builders.build import build_store
from geotempo.data_builders.check import check_store
from geotempo.data_builders.sources import make_source
from geotempo.data_builders.stac_items import StacItem, raster_of
from geotempo.data_builders.store import Store
from geotempo.model.errors import InputError, LayoutError
from geotempo.model.geo import Georeference
from geotempo.model.geometry import bounds
from tests.data_builders.fixtures import geo as made


def built(root, out, **keywords):
    options = {"licence": "CC-BY-4.0; mine", **keywords.pop("options", {})}
    manifest = build_store("stac", root, out, progress=False, options=options, **keywords)
    store = Store(out)
    assert not check_store(store, progress=False).faults
    return store, manifest


def item(path, assets, properties, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    body = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": path.stem,
        "geometry": None,
        "properties": properties,
        "assets": assets,
        "links": [],
    }
    path.write_text(json.dumps(body | more))


def catalogue(root, *, label_item=True):
    """A catalogue with a collection of three dates, the second an interval, and an item of the label extension."""
    moments = (
        {"datetime": "2019-05-01T10:00:00Z", "eo:cloud_cover": 3},
        {
            "datetime": None,
            "start_datetime": "2020-05-01T00:00:00Z",
            "end_datetime": "2020-05-31T00:00:00Z",
            "eo:cloud_cover": 12,
        },
        {"datetime": "2021-05-01T10:00:00Z", "eo:cloud_cover": 1},
    )
    for number, properties in enumerate(moments):
        made.raster(root / f"s2/item{number}/image.tif", seed=number)
        item(
            root / f"s2/item{number}/item{number}.json",
            {
                "thumb": {"href": "./t.png", "roles": ["thumbnail"]},
                "image": {"href": "./image.tif", "roles": ["data"], "type": "image/tiff; application=geotiff"},
            },
            properties,
            collection="s2",
        )
    links = [{"rel": "item", "href": f"./item{number}/item{number}.json"} for number in range(3)] + [
        {"rel": "root", "href": "../catalog.json"}
    ]
    (root / "s2/collection.json").write_text(
        json.dumps({"type": "Collection", "stac_version": "1.0.0", "id": "s2", "links": links})
    )
    links = [{"rel": "child", "href": "./s2/collection.json"}]
    if label_item:
        features = [
            made.feature(made.SQUARES["house"], "x", "2020-01-01"),
            made.feature(made.SQUARES["pond"], "y", "2000-01-01"),
        ]
        for one, kind in zip(features, ("house", "pond"), strict=True):
            one["properties"] = {"kind": kind, "date": one["properties"]["date"]}
        (root / "labels").mkdir()
        made.labels(root / "labels/polygons.geojson", features)
        item(root / "labels/labels.json", {"labels": {"href": "./polygons.geojson", "type": "application/geo+json"}},
             {"datetime": "2021-05-01T00:00:00Z", "label:properties": ["kind"], "label:type": "vector"})
        links.append({"rel": "item", "href": "./labels/labels.json"})
    (root / "catalog.json").write_text(
        json.dumps({"type": "Catalog", "stac_version": "1.0.0", "id": "c", "links": links})
    )
    return root


def test_a_catalogue_with_a_label_item(tmp_path):
    store, manifest = built(catalogue(tmp_path / "in"), tmp_path / "out")
    sample = store.by_id("own/train/item0#temporal_referring:house-0")
    assert sample.target == "Image 2" and sample.images[1].date.text == "2020-05-01T00:00:00Z/2020-05-31T00:00:00Z"
    assert np.allclose(bounds(sample.regions[0].geometry).as_tuple(), made.SQUARES["house"], atol=0.01)
    assert manifest["tally"] == {"tiles/train": 1}


def test_cloudy_items_are_left_out_and_counted(tmp_path):
    store, manifest = built(catalogue(tmp_path / "in"), tmp_path / "out", options={"max_cloud": 10})
    assert manifest["tally"]["items with too much cloud"] == 1
    assert len(store.by_id("own/train/item0#temporal_referring:house-0").images) == 2
    with pytest.raises(LayoutError, match="more cloud than 0 %"):
        make_source("stac", licence="unknown", max_cloud=0).check_layout(tmp_path / "in")


def test_without_labels_the_build_is_refused_and_says_what_to_do(tmp_path):
    root = catalogue(tmp_path / "in", label_item=False)
    with pytest.raises(LayoutError, match=r"a sample needs an answer.*labels=FILE\.geojson"):
        built(root, tmp_path / "out")
    made.labels(root / "mine.geojson", [made.feature(made.SQUARES["house"], "house", "2020-01-01")])
    store, _ = built(root, tmp_path / "out", options={"labels": "mine.geojson"})
    assert store.by_id("own/train/item0#temporal_referring:house-0").target == "Image 2"


def test_items_that_cannot_be_used_are_named(tmp_path):
    root = catalogue(tmp_path / "in")
    links = []
    for name, (assets, properties) in {
        "remote": ({"image": {"href": "https://example.org/a.tif"}}, {"datetime": "2018-01-01T00:00:00Z"}),
        "gone": ({"image": {"href": "./a.tif"}}, {"datetime": "2018-01-01T00:00:00Z"}),
        "undated": ({"image": {"href": "../item0/image.tif"}}, {"datetime": None}),
        "two": ({"a": {"href": "./a.tif"}, "b": {"href": "./b.tif"}}, {"datetime": "2018-01-01T00:00:00Z"}),
    }.items():
        item(root / f"s2/more/{name}.json", assets, properties)
        links.append({"rel": "item", "href": f"./s2/more/{name}.json"})
    body = json.loads((root / "catalog.json").read_text())
    (root / "catalog.json").write_text(json.dumps({**body, "links": body["links"] + links}))
    _, manifest = built(root, tmp_path / "out", max_rejected=1)
    assert manifest["rejected"]["by_reason"] == {
        "remote asset": 1,
        "missing asset": 1,
        "no date": 1,
        "asset unclear": 1,
    }


def test_the_asset_is_chosen_by_role_bands_and_common_names(tmp_path):
    bands = {name: {"href": f"./{name}.tif", "roles": ["data"], "eo:bands": [{"name": name, "common_name": common}]}
             for name, common in (("B04", "red"), ("B03", "green"), ("B02", "blue"), ("B08", "nir"))}
    for name in (*bands, "tci", "many"):
        (tmp_path / f"{name}.tif").touch()

    def chosen(assets, key=""):
        return raster_of(StacItem(tmp_path / "i.json", {"id": "i", "assets": assets}), key).name

    assert chosen(bands) == tmp_path.name
    assert chosen(bands | {"visual": {"href": "./tci.tif"}}) == "tci.tif"
    assert chosen(bands | {"all": {"href": "./many.tif", "roles": ["data"], "bands": [{}, {}, {}]}}) == "many.tif"
    assert chosen(bands, "B08") == "B08.tif"
    with pytest.raises(LayoutError, match="no raster asset 'B99'"):
        chosen(bands, "B99")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{}", "holds no STAC item"),
        ("{", "cannot be read"),
        ('{"links": [{"rel": "item", "href": "https://x/y.json"}]}', "not on this machine"),
        ('{"links": [{"rel": "child", "href": "./catalog.json"}]}', "holds no STAC item"),
    ],
)
def test_catalogues_that_lead_nowhere(tmp_path, body, message):
    (tmp_path / "catalog.json").write_text(body)
    with pytest.raises(LayoutError, match=message):
        make_source("stac", licence="unknown", labels="x").check_layout(tmp_path)


def test_options_are_checked():
    with pytest.raises(InputError, match="max_cloud"):
        make_source("stac", licence="unknown", max_cloud=120)


def test_a_real_catalogue_of_sentinel_2(shared, tmp_path):
    root = shared("timeseries") / "openeo_stac_s2"
    place = Georeference("EPSG:32631", (10.0, 0.0, 644550.0, 0.0, -10.0, 5676350.0))
    square = place.lonlat(np.array([(20, 10), (40, 10), (40, 30), (20, 30), (20, 10)], float)).tolist()
    label = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [square]},
        "properties": {"class": "crane", "date": "2023-06-02"},
    }
    file = made.labels(tmp_path / "l.geojson", [label])
    store, manifest = built(root, tmp_path / "out", options={"labels": str(file)})
    name = next(name for name in store.ids if "#temporal_referring" in name)
    sample = store.by_id(name)
    assert sample.target == "Image 2" and len(sample.images) == 3 and sample.images[0].bands == ("B04", "B03", "B02")
    assert np.allclose(bounds(sample.regions[0].geometry).as_tuple(), (20, 10, 40, 30), atol=0.01)
    assert manifest["rejected"]["total"] == 0
