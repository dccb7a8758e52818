"""A known place on the ground is drawn into a raster, named by an oracle answer, and must come back as GeoJSON.

Everything expected is computed without GeoTempo and without pyproj: places by GDAL's own transformations
(`rasterio.warp.transform`), areas in a local equal-area projection.
"""

import json
import math
import shutil
import subprocess

import numpy as np
import pytest
import shapely

rasterio = pytest.importorskip("rasterio")
import itertools

from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.transform import Affine
from rasterio.warp import transform as gdal_transform

WIDTH, HEIGHT = 250, 200  # 1000 cells of the grammar span 250 pixels: whole pixels are whole cells
BOX = (40, 50, 160, 120)

CASES = {
    "EPSG:4326": (4326, Affine(0.01, 0, 10, 0, -0.01, 50)),
    "UTM": (32633, Affine(10, 0, 500000, 0, -10, 5400000)),
    "3857": (3857, Affine(50, 0, 1.2e6, 0, -50, 8.4e6)),
    "polar north": (3413, Affine(1000, 0, 300000, 0, -1000, -500000)),
    "polar south": (3031, Affine(500, 0, -900000, 0, -500, 1200000)),
    "around the pole": (3413, Affine(20000, 0, -100 * 20000, 0, -20000, 85 * 20000)),
    "rotated": (32633, Affine.translation(500000, 5400000) @ Affine.rotation(33) @ Affine.scale(10, -10)),
    "rotated degrees": (4326, Affine.translation(10, 50) @ Affine.rotation(-20) @ Affine.scale(0.002, -0.001)),
    "south-up": (32633, Affine(10, 0, 500000, 0, 10, 5400000)),
    "mirrored": (32633, Affine(-10, 0, 500000, 0, -10, 5400000)),
    "unequal sides": (32615, Affine(0.6, 0, 366676.67, 0, -0.674, 4104256.85)),
    "antimeridian 4326": (4326, Affine(0.01, 0, 179, 0, -0.01, -16)),
    "antimeridian UTM 1": (32701, Affine(100, 0, 168000, 0, -100, 8.1e6)),
    "antimeridian UTM 60": (32760, Affine(100, 0, 815000, 0, -100, 8.1e6)),
    "antimeridian 3832": (3832, Affine(500, 0, 3339584.7 - 100 * 500, 0, -500, -1.5e6)),
    "feet": (2263, Affine(3, 0, 980000, 0, -3, 200000)),
    "other datum": (4267, Affine(0.001, 0, -100, 0, -0.001, 40)),
}


def edge_points(box, steps=200):
    """Points along the four edges of a pixel box, clockwise on the screen, not closed."""
    x1, y1, x2, y2 = box
    corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)]
    share = np.arange(steps)[:, None] / steps
    return np.concatenate([np.array(a) + share * (np.array(b) - np.array(a))
                           for a, b in itertools.pairwise(corners)])


def project(crs, affine, points):
    """Pixels to lon/lat by GDAL."""
    xs, ys = affine @ points.T
    lon, lat = gdal_transform(CRS.from_epsg(crs), CRS.from_epsg(4326), list(xs), list(ys))
    return np.stack([lon, lat], axis=1)


def unproject(crs, affine, lonlat):
    """Lon/lat to pixels by GDAL; a raster that counts longitudes beyond 180 gets them that way."""
    lon = np.where(lonlat[:, 0] < 0, lonlat[:, 0] + 360, lonlat[:, 0]) if affine.c > 170 and crs == 4326 else lonlat[:, 0]
    xs, ys = gdal_transform(CRS.from_epsg(4326), CRS.from_epsg(crs), list(lon), list(lonlat[:, 1]))
    return np.stack(~affine @ (np.array(xs), np.array(ys)), axis=1)


def equal_area(lonlat):
    """Area in m2 of a ring in a Lambert azimuthal equal-area projection centred on it."""
    angles = np.radians(lonlat)
    x, y, z = (np.cos(angles[:, 1]) * np.cos(angles[:, 0])).mean(), (np.cos(angles[:, 1]) * np.sin(angles[:, 0])).mean(), \
        np.sin(angles[:, 1]).mean()
    lon0, lat0 = math.degrees(math.atan2(y, x)), math.degrees(math.atan2(z, math.hypot(x, y)))
    local = CRS.from_proj4(f"+proj=laea +lat_0={lat0} +lon_0={lon0} +datum=WGS84 +units=m")
    return shapely.Polygon(zip(*gdal_transform(CRS.from_epsg(4326), local, *lonlat.T.tolist()), strict=True)).area


def write(path, crs, affine, burned, dtype="uint8", **profile):
    """A three-band raster, dark with a bright place."""
    picture = np.where(burned, 200, 40).astype(dtype)
    with rasterio.open(path, "w", driver="GTiff", width=WIDTH, height=HEIGHT, count=3, dtype=dtype,
                       crs=crs and CRS.from_epsg(crs), transform=affine, photometric="RGB", **profile) as out:
        out.write(np.stack([picture] * 3))


def answer_for(burned, path):
    """The oracle's answer: the box of what was drawn, in cells of the grammar."""
    rows, columns = np.flatnonzero(burned.any(1)), np.flatnonzero(burned.any(0))
    cells = [round(v * 1000 / WIDTH) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]
    text = json.dumps([{"image": 1, "bbox_2d": cells, "label": "lake"}], separators=(",", ":"))
    path.write_text(text + "\n", encoding="utf-8")
    return path


def burn(crs, affine, lonlat):
    """Draw a lon/lat ring onto the pixel grid."""
    pixels = unproject(crs, affine, lonlat)
    return rasterize([shapely.Polygon(pixels)], (HEIGHT, WIDTH), dtype="uint8") > 0


def check_rfc7946(geometry):
    """Independent reader: valid, counter-clockwise, inside the world, and no part across the antimeridian."""
    shape = shapely.geometry.shape(geometry)
    assert shape.is_valid and not shape.is_empty
    for part in shapely.get_parts(shape):
        assert part.exterior.is_ccw and not any(ring.is_ccw for ring in part.interiors)
        west, south, east, north = part.bounds
        assert -180 <= west <= east <= 180 and -90 <= south <= north <= 90
    return shape


def check_outline(shape, crs, affine, box):
    """Every point of the returned outline lies on the box and every point of the box on the outline, within a pixel."""
    rim = shapely.LineString([*edge_points(box, 1), edge_points(box, 1)[0]])
    for part in shapely.get_parts(shape):
        line = shapely.segmentize(part.exterior, part.exterior.length / 2000)
        coords = np.asarray(line.coords)
        inner = coords[(np.abs(coords[:, 0]) < 180 - 1e-6) & (np.abs(coords[:, 1]) < 90 - 1e-6)]
        pixels = unproject(crs, affine, inner)
        assert max(rim.distance(shapely.Point(p)) for p in pixels) < 0.1
    outline = shapely.MultiLineString([part.exterior for part in shapely.get_parts(shape)])
    lonlat = project(crs, affine, edge_points(box, 20))
    lonlat[:, 0] = (lonlat[:, 0] + 180) % 360 - 180
    nearest = np.array([shapely.get_coordinates(shapely.shortest_line(outline, shapely.Point(p)))[0] for p in lonlat])
    off = unproject(crs, affine, nearest) - unproject(crs, affine, lonlat)
    assert np.hypot(*off.T).max() < 1


@pytest.mark.parametrize("name", CASES)
def test_known_place_comes_back(name, geotempo, tmp_path):
    epsg, affine = CASES[name]
    lonlat = project(epsg, affine, edge_points(BOX))
    burned = burn(epsg, affine, lonlat)
    write(tmp_path / "a.tif", epsg, affine, burned)
    answer = answer_for(burned, tmp_path / "answer.txt")
    ran = geotempo("predict", tmp_path / "a.tif", "--answer", answer, "--geojson", tmp_path / "a.geojson")
    assert ran.code == 0, ran.err
    collection = json.loads((tmp_path / "a.geojson").read_text())
    (feature,) = collection["features"]
    shape = check_rfc7946(feature["geometry"])
    check_outline(shape, epsg, affine, BOX)
    expected = equal_area(lonlat)
    assert feature["properties"]["area_m2"] == pytest.approx(expected, rel=1e-3)
    assert feature["properties"]["bbox_pixels"] == list(BOX)
    assert "crs" not in collection and collection["geotempo"]["status"] == "ok"
    if name.startswith("antimeridian"):
        assert feature["geometry"]["type"] == "MultiPolygon" and len(feature["geometry"]["coordinates"]) == 2
        assert {round(x, 6) for part in shapely.get_parts(shape) for x in (part.bounds[0], part.bounds[2])} >= {180, -180}
    if name == "around the pole":
        assert shape.contains(shapely.Point(33, 89.9)) and shape.contains(shapely.Point(-150, 89.9))


def test_area_of_a_degree_cell_is_the_closed_form(geotempo, tmp_path):
    """Area between two parallels and meridians on the ellipsoid (Snyder 1987, eq. 3-12 and 7-19)."""
    epsg, affine = CASES["EPSG:4326"]
    burned = burn(epsg, affine, project(epsg, affine, edge_points(BOX)))
    write(tmp_path / "a.tif", epsg, affine, burned)
    answer = answer_for(burned, tmp_path / "answer.txt")
    assert geotempo("predict", tmp_path / "a.tif", "--answer", answer, "--geojson", tmp_path / "a.geojson").code == 0
    (feature,) = json.loads((tmp_path / "a.geojson").read_text())["features"]
    a, f = 6378137.0, 1 / 298.257223563
    e = math.sqrt(f * (2 - f))

    def q(lat):
        s = math.sin(math.radians(lat))
        return (1 - e * e) * (s / (1 - e * e * s * s) - math.log((1 - e * s) / (1 + e * s)) / (2 * e))

    north, south, degrees = 50 - 0.01 * BOX[1], 50 - 0.01 * BOX[3], 0.01 * (BOX[2] - BOX[0])
    expected = a * a * math.radians(degrees) * (q(north) - q(south)) / 2
    assert feature["properties"]["area_m2"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_gcp_only_file_is_warped_and_said_so(geotempo, tmp_path):
    epsg, affine = CASES["UTM"]
    lonlat = project(epsg, affine, edge_points(BOX))
    burned = burn(epsg, affine, lonlat)
    points = [GroundControlPoint(row=r, col=c, x=(affine @ (c, r))[0], y=(affine @ (c, r))[1])
              for r in (0, 100, HEIGHT) for c in (0, 125, WIDTH)]
    picture = np.where(burned, 200, 40).astype("uint8")
    with rasterio.open(tmp_path / "g.tif", "w", driver="GTiff", width=WIDTH, height=HEIGHT, count=3, dtype="uint8",
                       photometric="RGB") as out:
        out.write(np.stack([picture] * 3))
        out.gcps = (points, CRS.from_epsg(epsg))
    answer = answer_for(burned, tmp_path / "answer.txt")
    ran = geotempo("predict", tmp_path / "g.tif", "--answer", answer, "--geojson", tmp_path / "g.geojson")
    assert ran.code == 0, ran.err
    assert "ground control points" in ran.out
    collection = json.loads((tmp_path / "g.geojson").read_text())
    assert any("ground control points" in note for note in collection["geotempo"]["notes"])
    (feature,) = collection["features"]
    check_outline(check_rfc7946(feature["geometry"]), epsg, affine, BOX)
    assert feature["properties"]["area_m2"] == pytest.approx(equal_area(lonlat), rel=5e-3)


def test_rpc_only_file_is_refused_by_name(geotempo, tmp_path):
    from rasterio.rpc import RPC

    rpc = RPC(height_off=0, height_scale=500, lat_off=50, lat_scale=1, line_off=100, line_scale=100, long_off=10,
              long_scale=1, samp_off=125, samp_scale=125, line_den_coeff=[1, *[0] * 19], line_num_coeff=[0, 0, -1, *[0] * 17],
              samp_den_coeff=[1, *[0] * 19], samp_num_coeff=[0, 1, *[0] * 18])
    with rasterio.open(tmp_path / "rpc.tif", "w", driver="GTiff", width=WIDTH, height=HEIGHT, count=3, dtype="uint8",
                       rpcs=rpc) as out:
        out.write(np.zeros((3, HEIGHT, WIDTH), "uint8"))
    (tmp_path / "answer.txt").write_text("[]")
    ran = geotempo("predict", tmp_path / "rpc.tif", "--answer", tmp_path / "answer.txt")
    assert ran.code == 2 and "rpc.tif" in ran.err and "RPC" in ran.err


def test_other_grid_is_warped_onto_the_latest(geotempo, tmp_path):
    """Image 1 lies in 3857, image 2 in UTM: a place burned into both must come back at the same ground."""
    epsg, affine = CASES["UTM"]
    lonlat = project(epsg, affine, edge_points(BOX))
    write(tmp_path / "late.tif", epsg, affine, burn(epsg, affine, lonlat))
    xs, ys = gdal_transform(CRS.from_epsg(4326), CRS.from_epsg(3857), *lonlat.T.tolist())
    other = Affine(20, 0, min(xs) - 1000, 0, -20, max(ys) + 1000)
    write(tmp_path / "early.tif", 3857, other, burn(3857, other, lonlat))
    (tmp_path / "answer.txt").write_text('[{"image":1,"bbox_2d":[160,200,640,480],"label":""}]')
    ran = geotempo("predict", tmp_path / "late.tif", tmp_path / "early.tif", "--date", "2021", "--date", "2019",
                   "--answer", tmp_path / "answer.txt", "--geojson", tmp_path / "o.geojson", "--json")
    assert ran.code == 0, ran.err
    facts = json.loads(ran.out)
    assert [a["file"].endswith("early.tif") for a in facts["acquisitions"]] == [True, False]
    assert any("early.tif was warped onto the grid of" in note for note in facts["notes"])
    region = facts["regions"][0]
    assert (region["image"], region["request_index"], region["date"]) == (1, 1, "2019")
    from geotempo.model.raster import load_stack

    stack = load_stack([str(tmp_path / "late.tif"), str(tmp_path / "early.tif")], ["2021", "2019"])
    seen = np.asarray(stack.images[1].rgb())[..., 0] > 120
    assert np.abs(np.flatnonzero(seen.any(0))[[0, -1]] - [BOX[0], BOX[2] - 1]).max() <= 2
    assert np.abs(np.flatnonzero(seen.any(1))[[0, -1]] - [BOX[1], BOX[3] - 1]).max() <= 2


def test_xview2_pair_with_unequal_pixel_sides(geotempo, shared, tmp_path):
    folder = shared / "data/xView2-deploy_geotiff_pairs"
    if not folder.is_dir():
        pytest.skip("the xView2 pairs are absent")
    post = folder / "post/0_post.tif"
    with rasterio.open(post) as data:
        affine, epsg, width = data.transform, data.crs.to_epsg(), data.width
    assert affine.a != -affine.e and width == 1024
    (tmp_path / "answer.txt").write_text('[{"image":2,"bbox_2d":[125,250,500,375],"label":"destroyed"}]')
    ran = geotempo("predict", folder / "pre/0_pre.tif", post, "--date", "2011-05-01", "--date", "2011-05-24", "--task",
                   "damage", "--answer", tmp_path / "answer.txt", "--geojson", tmp_path / "o.geojson")
    assert ran.code == 0, ran.err
    (feature,) = json.loads((tmp_path / "o.geojson").read_text())["features"]
    box = (128, 256, 512, 384)
    assert feature["properties"]["bbox_pixels"] == list(box)
    check_outline(check_rfc7946(feature["geometry"]), epsg, affine, box)
    expected = equal_area(project(epsg, affine, edge_points(box)))
    assert feature["properties"]["area_m2"] == pytest.approx(expected, rel=1e-3)
    assert (feature["properties"]["after"], feature["properties"]["before"]) == ("2011-05-01", "2011-05-24")


def test_landsat_sequence_of_eight_dates(geotempo, shared, tmp_path):
    files = sorted((shared / "data/timeseries/landsat_1985_2020").glob("*.tif"))
    if len(files) != 8:
        pytest.skip("the Landsat sequence is absent")
    shuffled = files[::-1]
    dates = [part for file in shuffled for part in ("--date", file.stem)]
    (tmp_path / "answer.txt").write_text('A bend was cut off.\n[{"image":3,"bbox_2d":[100,100,300,300],"label":"bend"}]')
    outputs = ["--geojson", tmp_path / "o.geojson", "--overlay", tmp_path / "o.png", "--page", tmp_path / "o.html"]
    refused = geotempo("predict", *shuffled, *dates, "--answer", tmp_path / "answer.txt", *outputs)
    assert refused.code == 2 and "--bands" in refused.err and "4 bands" in refused.err
    ran = geotempo("predict", *shuffled, *dates, "--bands", "1,2,3", "--task", "change_grounding", "--answer",
                   tmp_path / "answer.txt", *outputs)
    assert ran.code == 0, ran.err
    collection = json.loads((tmp_path / "o.geojson").read_text())
    assert [a["date"] for a in collection["geotempo"]["acquisitions"]] == [file.stem for file in files]
    (feature,) = collection["features"]
    properties = feature["properties"]
    assert (properties["image"], properties["request_index"], properties["date"]) == (3, 5, "1995")
    assert (properties["after"], properties["before"]) == ("1990", "1995")
    assert properties["bands"] == ["band 1", "band 2", "band 3"] and "8-bit values as they are" in properties["stretch"]
    side = 0.0008084837557075694 * 69.7
    west, north = -74.72249415376068 + side, -8.282107593468341 - side
    expected = shapely.box(west, north - 2 * side, west + 2 * side, north)
    assert shapely.hausdorff_distance(check_rfc7946(feature["geometry"]), expected) < 1e-8
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("o.png", "o.html"))


@pytest.mark.skipif(shutil.which("ogrinfo") is None, reason="ogrinfo is not installed")
def test_ogrinfo_opens_it(geotempo, tmp_path):
    epsg, affine = CASES["antimeridian 4326"]
    burned = burn(epsg, affine, project(epsg, affine, edge_points(BOX)))
    write(tmp_path / "a.tif", epsg, affine, burned)
    answer = answer_for(burned, tmp_path / "answer.txt")
    assert geotempo("predict", tmp_path / "a.tif", "--answer", answer, "--geojson", tmp_path / "a.geojson").code == 0
    said = subprocess.run(["ogrinfo", "-al", str(tmp_path / "a.geojson")], capture_output=True, text=True, check=True)
    assert "Feature Count: 1" in said.stdout and "MULTIPOLYGON" in said.stdout


