"""From files to an outcome: numbering, marks, masks, outputs."""

import base64
import html.parser
import io
import json

import numpy as np
import pytest
import shapely
from PIL import Image

from geotempo.data_builders.sample import TASKS
from geotempo.model.convention import TEOCHAT
from geotempo.model.errors import InputError, ModelError
from geotempo.model.geometry import Mask, bounds
from geotempo.model.raster import load_stack
from geotempo.model.records import Status
from geotempo.serve.files import write_all
from geotempo.serve.geojson import feature_collection, features, to_bytes
from geotempo.serve.job import answer_question, label_image, thinned
from geotempo.serve.page import Entry, render_page
from geotempo.serve.questions import CHANGE_TASKS, MASK_TASKS, TASK_QUESTIONS, question_for
from geotempo.serve.replay import ReplayPredictor


class BrightPixels:
    """A real, if simple, mask maker: the pixels of a region's box that are brighter than 150."""

    def segment(self, image, regions):
        bright = np.asarray(image.convert("L")) > 150
        masks = []
        for region in regions:
            box, inside = bounds(region.geometry), np.zeros_like(bright)
            inside[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)] = True
            masks.append(Mask.from_array(bright & inside))
        return masks


@pytest.fixture
def ring_files(tmp_path):
    """Two plain images of 100 x 100; the second shows a bright square with a hole."""
    dark = np.full((100, 100, 3), 30, np.uint8)
    ring = dark.copy()
    ring[20:60, 30:70] = 220
    ring[35:45, 40:60] = 30
    for name, array in (("t1.png", dark), ("t2.png", ring)):
        Image.fromarray(array).save(tmp_path / name)
    return [str(tmp_path / "t1.png"), str(tmp_path / "t2.png")]


BOX = '[{"image":2,"bbox_2d":[300,200,700,600],"label":"pond"}]'


def test_tasks_are_those_of_the_samples():
    assert tuple(TASK_QUESTIONS) == TASKS
    assert set(TASKS) >= CHANGE_TASKS | MASK_TASKS


def test_the_usual_question_depends_on_the_number_of_images():
    assert question_for(None, None, 1)[0] == "caption" and question_for(None, None, 3)[0] == "change_caption"
    assert question_for(None, "Where is water?", 2) == (None, "Where is water?")
    assert question_for("counting", "How many?", 1) == ("counting", "How many?")


def test_a_thinned_sequence_keeps_its_ends_and_names_what_is_gone(ring_files):
    dates = [str(2000 + k) for k in range(10)]
    stack = load_stack([ring_files[k % 2] for k in range(10)], dates[::-1])
    short = thinned(stack, 4)
    kept = [str(image.date) for image in short.images]
    assert len(kept) == 4 and {"2000", "2009"} <= set(kept)
    assert all(date in short.notes[-1] for date in set(dates) - set(kept))
    outcome = answer_question(short, ReplayPredictor('[{"image":4,"bbox_2d":[300,200,700,600]}]'), task="change_grounding")
    (feature,) = features(outcome)
    # the last of four is 2009, which the user gave first
    assert (feature.properties["image"], feature.properties["date"], feature.properties["request_index"]) == (4, "2009", 0)
    assert thinned(stack, 10) is stack


def test_in_teochat_mode_boxes_outside_the_crop_are_not_assessable(tmp_path):
    Image.new("RGB", (200, 100), (40, 80, 40)).save(tmp_path / "wide.png")
    stack = load_stack([str(tmp_path / "wide.png")])
    reply = ReplayPredictor("[0, 10, 20, 30], [40, 40, 60, 60]", convention=TEOCHAT)
    outcome = answer_question(stack, reply, prompt="Identify all the buildings.")
    assert [region.assessable for region in outcome.regions] == [False, True]
    assert "centre crop" in (outcome.regions[0].reason or "")
    assert bounds(outcome.regions[1].geometry).as_tuple() == (80, 40, 120, 60)
    collection = feature_collection(outcome, features(outcome))
    assert any("centre crop of 100 x 100 of 200 x 100" in note for note in collection["geotempo"]["notes"])


def test_mask_becomes_polygon_with_hole_in_pixels(ring_files):
    stack = load_stack(ring_files)
    outcome = answer_question(stack, ReplayPredictor(BOX), task="change_segmentation", segmenter=BrightPixels)
    collection = json.loads(to_bytes(feature_collection(outcome, features(outcome))))
    assert collection["crs"] is None and collection["coordinates"] == "pixels"
    (feature,) = collection["features"]
    shape = shapely.geometry.shape(feature["geometry"])
    assert shape.equals(shapely.box(30, 20, 70, 60) - shapely.box(40, 35, 60, 45)) and shape.exterior.is_ccw
    properties = feature["properties"]
    assert properties["area_pixels"] == 1600 - 200 and "area_m2" not in properties
    assert properties["geometry_source"] == "mask" and properties["crs"] is None
    labels = np.asarray(label_image(outcome))
    assert (labels == 1).sum() == 1400 and (labels == 0).sum() == 8600
    assert outcome.order.assumed and collection["geotempo"]["order_assumed"]


def test_georeferenced_mask_subtracts_its_hole(ring_files, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    files = []
    for name in ring_files:
        file = str(tmp_path / (name[-6:-4] + ".tif"))
        with rasterio.open(file, "w", driver="GTiff", width=100, height=100, count=3, dtype="uint8", crs="EPSG:6933",
                           transform=rasterio.Affine(10, 0, 1e6, 0, -10, 5e6), photometric="RGB") as out:
            out.write(np.moveaxis(np.asarray(Image.open(name)), -1, 0))
        files.append(file)
    stack = load_stack(files, ["2019-04", "2021"])
    outcome = answer_question(stack, ReplayPredictor(BOX), task="change_segmentation", segmenter=BrightPixels)
    (feature,) = features(outcome)
    # EPSG:6933 is an equal-area projection: 1400 pixels of 100 m2
    assert feature.properties["area_m2"] == pytest.approx(1400 * 100, rel=1e-4)
    assert len(feature.geometry.interiors) == 1
    assert (feature.properties["after"], feature.properties["before"]) == ("2019-04", "2021")


def test_an_empty_mask_falls_back_to_the_box(ring_files):
    answer = '[{"image":1,"bbox_2d":[300,200,700,600],"label":"pond"}]'
    outcome = answer_question(load_stack(ring_files), ReplayPredictor(answer), prompt="?", segmenter=BrightPixels)
    (feature,) = features(outcome)
    assert feature.properties["geometry_source"] == "box" and feature.properties["area_pixels"] == 1600
    assert np.asarray(label_image(outcome)).sum() == 0


def test_masks_of_the_embedded_sam(geotempo, ring_files, tmp_path):
    from geotempo.model.masks import default_weights

    try:
        default_weights()
    except ModelError as error:
        pytest.skip(f"no embedded SAM: {error}")
    (tmp_path / "answer.txt").write_text(BOX)
    ran = geotempo("predict", *ring_files, "--answer", tmp_path / "answer.txt", "--masks", tmp_path / "m.png", "--geojson",
                   tmp_path / "m.geojson")
    assert ran.code == 0, ran.err
    picture = Image.open(tmp_path / "m.png")
    labels = np.asarray(picture)
    assert picture.mode == "P" and labels.shape == (100, 100) and set(np.unique(labels)) == {0, 1}
    (feature,) = json.loads((tmp_path / "m.geojson").read_text())["features"]
    assert feature["properties"]["area_pixels"] == pytest.approx((labels == 1).sum())


def test_smaller_masks_lie_on_top(ring_files):
    answer = ('[{"image":2,"bbox_2d":[300,200,400,300],"label":"corner"},'
              '{"image":2,"bbox_2d":[300,200,700,600],"label":"all"}]')
    outcome = answer_question(load_stack(ring_files), ReplayPredictor(answer), prompt="?", segmenter=BrightPixels)
    labels = np.asarray(label_image(outcome))
    assert (labels == 1).sum() == 100 and (labels == 2).sum() == 1300


@pytest.mark.parametrize(("text", "regions", "status"), [
    ("[]", 0, Status.OK), ("No change.", None, Status.OK), (BOX[:40], None, None),
])
def test_nothing_found_is_not_the_same_as_no_list(ring_files, text, regions, status):
    outcome = answer_question(load_stack(ring_files), ReplayPredictor(text), task="change_grounding")
    collection = feature_collection(outcome, features(outcome))
    if status is not None:
        assert collection["geotempo"]["regions"] == regions and outcome.answer.status is status
    else:
        assert outcome.answer.status is not Status.OK
    assert collection["geotempo"]["text"] == text


def test_regions_without_data_are_not_assessable(tmp_path):
    rgba = np.full((100, 100, 4), 200, np.uint8)
    whole, half = rgba.copy(), rgba.copy()
    whole[..., 3] = 255
    half[..., 3] = np.where(np.arange(100) < 50, 0, 255)
    Image.fromarray(half).save(tmp_path / "1.png")
    Image.fromarray(whole).save(tmp_path / "2.png")
    stack = load_stack([str(tmp_path / "1.png"), str(tmp_path / "2.png")], ["2020", "2021"])
    answer = ('[{"image":2,"bbox_2d":[100,100,300,300],"label":"west"},'
              '{"image":2,"bbox_2d":[600,100,800,300],"label":"east"}]')
    change = answer_question(stack, ReplayPredictor(answer), task="change_grounding")
    assert [region.assessable for region in change.regions] == [False, True]
    assert "Image 1" in (change.regions[0].reason or "")
    assert features(change)[0].properties["assessable"] is False
    single = answer_question(stack, ReplayPredictor(answer), prompt="Where are trees in Image 2?")
    assert all(region.assessable for region in single.regions)


def test_temporal_referring_gives_dates(ring_files):
    stack = load_stack(ring_files, ["2021", "2019"])
    outcome = answer_question(stack, ReplayPredictor("Image 2"), task="temporal_referring", prompt="When is the pond there?")
    named = feature_collection(outcome, features(outcome))["geotempo"]["images_named"]
    assert [(item["image"], item["request_index"], item["date"]) for item in named] == [(2, 0, "2021")]


class _Sources(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.sources = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href", "srcset")]


def test_page_is_self_contained_and_escapes(ring_files):
    bad = '[{"image":2,"bbox_2d":[300,200,700,600],"label":"<script>alert(1)</script>"}]'
    outcome = answer_question(load_stack(ring_files), ReplayPredictor("A <b>pond</b>.\n" + bad), prompt="<img src=x>?")
    page = render_page("A & B", [Entry("<i>", outcome, features(outcome))])
    reader = _Sources()
    reader.feed(page)
    assert not {"script", "b>", "i", "link", "iframe"} & set(reader.tags)
    assert len(reader.sources) == 2 and all(source.startswith("data:image/") for source in reader.sources)
    pictures = [Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) for source in reader.sources]
    assert [picture.size for picture in pictures] == [(100, 100)] * 2
    assert reader.tags.count("svg") == 1 and "M70,20 70,60 30,60 30,20 70,20" in page  # on the second image only
    assert "&lt;script&gt;" in page and "A &amp; B" in page


def test_terminal_text_escapes_control_characters(geotempo, ring_files, tmp_path):
    (tmp_path / "answer.txt").write_text('[{"image":1,"bbox_2d":[0,0,10,10],"label":"\\u001b[2J"}]')
    ran = geotempo("predict", *ring_files, "--answer", tmp_path / "answer.txt")
    assert ran.code == 0 and "\x1b" not in ran.out and "assumed" in ran.out and "pixels" in ran.out


def test_lone_surrogate_in_a_label_still_gives_json(geotempo, ring_files, tmp_path):
    (tmp_path / "answer.txt").write_text('[{"image":1,"bbox_2d":[0,0,10,10],"label":"\\ud800"}]')
    ran = geotempo("predict", *ring_files, "--answer", tmp_path / "answer.txt", "--geojson", tmp_path / "o.geojson",
                   "--page", tmp_path / "o.html", "--overlay", tmp_path / "o.png", "--json")
    assert ran.code == 0, ran.err
    assert len(json.loads((tmp_path / "o.geojson").read_text())["features"]) == 1
    assert json.loads(ran.out)["files"] == [str(tmp_path / name) for name in ("o.geojson", "o.png", "o.html")]


def test_all_files_or_none(tmp_path):
    (tmp_path / "old.txt").write_text("old")
    with pytest.raises(InputError):
        write_all({tmp_path / "old.txt": b"new", tmp_path / "nowhere" / "b.txt": b"new"})
    assert [path.name for path in tmp_path.iterdir()] == ["old.txt"] and (tmp_path / "old.txt").read_text() == "old"
    write_all({tmp_path / "old.txt": b"new", tmp_path / "b.txt": b"two"})
    assert (tmp_path / "old.txt").read_bytes() == b"new" and len(list(tmp_path.iterdir())) == 2


def test_same_input_gives_the_same_bytes(geotempo, ring_files, tmp_path):
    (tmp_path / "answer.txt").write_text(BOX)
    made = []
    for turn in range(2):
        names = [tmp_path / f"{turn}.{kind}" for kind in ("geojson", "html", "png")]
        ran = geotempo("predict", *ring_files, "--answer", tmp_path / "answer.txt", "--geojson", names[0], "--page", names[1],
                       "--overlay", names[2])
        assert ran.code == 0, ran.err
        made.append([name.read_bytes() for name in names])
    assert made[0] == made[1]
