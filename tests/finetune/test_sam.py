"""Training SAM: batches, learning, exact resume after kill -9, and what the embedded sam_tiny is worth."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from geotempo.data_builders.sample import Message, Sample
from geotempo.data_builders.store import write_store
from geotempo.finetune import sam, sam_eval
from geotempo.finetune.sam_data import Batches, BatchShape, BoxLessons, SceneViews, StoreViews, jitter_box, views_of
from geotempo.model.errors import ConfigError, InputError, ModelError
from geotempo.model.geometry import Box, Mask, interior_points
from geotempo.model.masks import Segmenter, default_weights
from geotempo.model.records import ImageRecord, Region
from geotempo.model.sam import Padded, load_sam, to_canvas

TINY = {"image_size": 64, "patch_size": 4, "hidden_size": 32, "layers": 2, "heads": 2, "window_size": 8,
        "decoder_size": 32, "decoder_heads": 2, "frequency": 2.0}
WIDTH, HEIGHT = 96, 60  # not square, and larger than the model's input
ROOFS = (((10, 10), (38, 18), (33, 35), (5, 27)), ((60, 20), (84, 30), (74, 54), (50, 44)))


def roofs():
    """A picture of two turned rectangles and their exact masks."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), (70, 110, 60))
    masks = []
    for corners, colour in zip(ROOFS, ((200, 60, 50), (210, 210, 220)), strict=True):
        ImageDraw.Draw(picture).polygon(corners, fill=colour)
        shape = Image.new("1", (WIDTH, HEIGHT))
        ImageDraw.Draw(shape).polygon(corners, fill=1)
        masks.append(np.asarray(shape))
    return picture, masks


@pytest.fixture
def store(tmp_path):
    """A store of one sample: two roofs to segment, one cloudy region and one box without a mask."""
    picture, masks = roofs()
    picture.save(tmp_path / "roofs.png")
    image = ImageRecord("roofs", WIDTH, HEIGHT, data=(tmp_path / "roofs.png").read_bytes())
    regions = [Region(1, Mask.from_array(mask), "building", interior_points(mask)) for mask in masks]
    regions.append(Region(1, Mask.from_array(masks[0] & (np.arange(WIDTH) < 15)), assessable=False, reason="cloud"))
    regions.append(Region(1, Box(1, 1, 5, 5)))
    text = Message("user", "<image>Segment all buildings."), Message("assistant", "<regions:0,1>")
    sample = Sample("t/train/0#r", "t", "train", "referring_segmentation", (image,), text, tuple(regions),
                    {"licence": "CC0"})
    write_store([sample], tmp_path / "store")
    return tmp_path / "store"


def recipe(tmp_path, store, **training):
    plan = {"output_dir": str(tmp_path / "run"), "steps": 6, "images": 2, "regions": 2, "warmup": 3, "save_every": 2,
            "learning_rate": 0.003, "held_out": None} | training
    return {"model": dict(TINY), "data": {"store": str(store)}, "train": plan}


def losses(path):
    return json.loads((path / sam.LOSSES).read_text())


def test_views_hold_each_assessable_mask_once(store):
    [view] = StoreViews(store)[0]
    assert [region.label for region in view.regions] == ["building", "building"]
    sample = StoreViews(store).store[0]
    assert [len(view.regions) for view in views_of([sample, sample])] == [2]


def test_scene_views_are_deterministic_and_splits_differ():
    first, again = SceneViews(5, 2, 64)[1], SceneViews(5, 2, 64)[1]
    assert first == again
    assert SceneViews(5, 2, 64, split="val")[1] != first


def test_batches_depend_on_seed_and_step_only(store):
    shape = BatchShape(2, 3, 0.1, 0)
    batches = Batches(StoreViews(store), shape, Padded.of(64))
    _ = batches[0]
    late, fresh = batches[7], Batches(StoreViews(store), shape, Padded.of(64))[7]
    assert all(torch.equal(late[key], fresh[key]) for key in late)
    assert not torch.equal(late["input_boxes"], batches[8]["input_boxes"])
    other = Batches(StoreViews(store), BatchShape(2, 3, 0.1, 1), Padded.of(64))[7]
    assert not torch.equal(late["input_boxes"], other["input_boxes"])


@pytest.mark.parametrize("zoom", [0.0, 1.0])
def test_prompts_lie_on_their_target_in_every_turn_and_crop(store, zoom):
    """Image, mask, box and points are turned, cropped and scaled alike: the target is where image and prompts say it is."""
    batches = Batches(StoreViews(store), BatchShape(2, 2, 0.1, 0, zoom=zoom), Padded.of(64))
    turns = set()
    for step in range(12):
        batch = batches[step]
        for pixels, targets, boxes, points, focus in zip(*(batch[key] for key in (
                "pixel_values", "targets", "input_boxes", "input_points", "focus")), strict=True):
            turns.add(tuple(targets.sum((1, 2)).tolist()))
            redness = pixels[0] - pixels[1]
            for target, box, pair, near in zip(targets.bool(), boxes, points, focus.bool(), strict=True):
                rows, columns = torch.nonzero(target).T
                extent = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) - 0.5
                size = torch.stack([extent[2] - extent[0], extent[3] - extent[1]]).repeat(2)
                assert (abs(box - extent) <= 0.1 * size + 1).all()
                assert not (target & ~near).any()
                hits = [target[int(y + 0.5), int(x + 0.5)] for x, y in pair.tolist()]
                assert sum(hits) >= 1  # a point next to the border may be rounded off the target by scaling
                spread = redness[target].std() if target.sum() else 0
                assert spread < redness[near].std() + 0.5
    assert len(turns) > 1


def test_a_crop_shows_its_objects_larger(store):
    """On the whole image of 96 px the two roofs take 9 % of the input; around one of them a crop shows more of it."""
    shares = [np.mean([Batches(StoreViews(store), BatchShape(2, 1, 0.0, 0, zoom=zoom), Padded.of(64))[step]["targets"].float().mean()
                       for step in range(20)]) for zoom in (0.0, 1.0)]
    assert shares[1] > 1.5 * shares[0]


def test_box_lessons_ask_for_the_box_on_noise():
    lessons = BoxLessons(BatchShape(2, 5, 0.0, 3), 64, [(8, 4, 4)])
    batch, again = lessons[4], BoxLessons(BatchShape(2, 5, 0.0, 3), 64, [(8, 4, 4)])[4]
    assert all(torch.equal(batch[key], again[key]) for key in batch)
    assert batch["embedding_0"].shape == (2, 8, 4, 4) and batch["targets"].shape == (2, 5, 64, 64)
    for target, (x1, y1, x2, y2) in zip(batch["targets"].flatten(0, 1), (batch["input_boxes"] + 0.5).flatten(0, 1).tolist(), strict=True):
        rows, columns = slice(int(y1), int(y2)), slice(int(x1), int(x2))
        assert target[rows, columns].all() and target.sum() == (x2 - x1) * (y2 - y1) >= 9
    assert not torch.equal(batch["input_boxes"], lessons[5]["input_boxes"])


def test_a_sam_from_scratch_learns_to_listen_to_its_prompts(tmp_path, store):
    """After box lessons alone, logits of different prompts on one picture have little in common."""
    plan = recipe(tmp_path, store, steps=401, box_steps=400, images=2, regions=4, warmup=10, save_every=500, learning_rate=0.002)
    plan["model"] |= {"frequency": 0.5, "layers": 1}
    model, preprocessing = load_sam(str(sam.train(plan)))
    batch = BoxLessons(BatchShape(1, 6, 0.0, 99), 64, [(32, 16, 16)])[0]
    with torch.no_grad():
        logits, _ = sam.predict(model, batch)
    targets = torch.nn.functional.interpolate(batch["targets"].float(), size=logits.shape[-2:])[0] > 0.5
    inside = torch.stack([(guess > 0)[target].float().mean() for guess, target in zip(logits[0], targets, strict=True)])
    outside = torch.stack([(guess > 0)[~target].float().mean() for guess, target in zip(logits[0], targets, strict=True)])
    assert preprocessing.side == 64 and inside.mean() > 0.6 and outside.mean() < 0.15


def test_jitter_stays_within_its_share():
    rng = np.random.default_rng(0)
    boxes = [jitter_box(Box(100, 50, 140, 60), 0.1, rng).as_tuple() for _ in range(200)]
    off = abs(np.array(boxes) - [100, 50, 140, 60]).max(axis=0)
    assert (off <= [4, 1, 4, 1]).all() and (off > [3, 0.7, 3, 0.7]).all()


def test_it_learns_the_shape_inside_the_box_on_an_image_that_is_not_square(tmp_path, store):
    final = sam.train(recipe(tmp_path, store, steps=90, warmup=10, save_every=45))
    history = losses(tmp_path / "run")
    assert len(history) == 90 and np.mean(history[-10:]) < 0.4 * np.mean(history[:10])
    weights = load_file(final / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    picture, masks = roofs()
    regions = [Region(1, Box(5, 10, 38, 35), points=interior_points(masks[0])), Region(1, Box(50, 20, 84, 54))]
    found = [mask.to_array() for mask in Segmenter.load(final).segment(picture, regions)]
    for region, guess, truth in zip(regions, found, masks, strict=True):
        iou = (guess & truth).sum() / (guess | truth).sum()
        box = truth.sum() / region.geometry.area
        assert iou > 0.85 > box + 0.1


def test_a_killed_run_goes_on_with_the_losses_of_an_unbroken_one(tmp_path, store):
    plan = recipe(tmp_path, store, steps=20)
    (tmp_path / "sam.yaml").write_text(yaml.safe_dump({"kind": "sam", **plan}))
    code = ("import sys, yaml; from geotempo.finetune import sam; raw = yaml.safe_load(open(sys.argv[1])); "
            "raw.pop('kind'); sam.train(raw)")
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "sam.yaml")], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    checkpoint, patience = tmp_path / "run" / sam.CHECKPOINT, time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < patience:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(torch.load(checkpoint, weights_only=True)["losses"])
    assert 2 <= done < 20 and not (tmp_path / "run" / "final").exists()
    sam.train(plan)
    unbroken = recipe(tmp_path, store, steps=20, output_dir=str(tmp_path / "unbroken"))
    sam.train(unbroken)
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "unbroken"), rel=1e-5)
    a, b = (load_file(tmp_path / run / "final" / "model.safetensors") for run in ("run", "unbroken"))
    assert all(torch.allclose(a[key].float(), b[key].float(), atol=1e-3) for key in a)


def test_a_finished_run_trains_no_further_and_a_base_can_be_trained_on(tmp_path, store):
    plan = recipe(tmp_path, store, steps=2)
    final = sam.train(plan)
    before = (final / "model.safetensors").read_bytes()
    sam.train(plan)
    assert (final / "model.safetensors").read_bytes() == before and len(losses(tmp_path / "run")) == 2
    further = recipe(tmp_path, store, steps=1, learning_rate=1e-9, output_dir=str(tmp_path / "further"))
    further["model"] = {"base": str(final)}
    after = load_file(sam.train(further) / "model.safetensors")
    assert all(torch.allclose(tensor.float(), load_file(final / "model.safetensors")[key].float(), atol=1e-3)
               for key, tensor in after.items())


def test_the_checkpoint_of_another_recipe_is_refused(tmp_path, store):
    sam.train(recipe(tmp_path, store, steps=2))
    with pytest.raises(ConfigError, match="another recipe"):
        sam.train(recipe(tmp_path, store, steps=3))


@pytest.mark.parametrize(("section", "key", "value", "message"), [
    ("model", "hiden_size", 32, "did you mean 'hidden_size'"),
    ("model", "decoder_heads", 5, "describes no SAM"),
    ("model", "decoder_size", 20, "multiple of 8"),
    ("model", "patch_size", 7, "multiple of patch_size"),
    ("data", "stor", "x", "did you mean 'store'"),
    ("data", "scenes", {"seed": 1, "count": 2}, "exactly one of scenes"),
    ("train", "step", 3, "did you mean 'steps'"),
    ("train", "steps", 0, "train.steps must be"),
    ("train", "steps", "many", "train.steps must be of type int"),
    ("train", "learning_rate", "1e-3", "train.learning_rate must be of type float"),
    ("train", "warmup", 1.5, "train.warmup must be of type int"),
    ("train", "jitter", 0.7, "train.jitter must lie in"),
    ("train", "box_steps", 6, "train.box_steps must lie in 0..5"),
    ("train", "zoom", 1.5, "train.zoom must lie in 0..1"),
    ("train", "held_out", {"sed": 1}, "did you mean 'seed'"),
])
def test_a_wrong_recipe_is_one_line(tmp_path, store, section, key, value, message):
    plan = recipe(tmp_path, store)
    plan[section][key] = value
    with pytest.raises(ConfigError) as error:
        sam.train(plan)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_device_that_is_not_there_is_one_line(tmp_path, store):
    with pytest.raises(ModelError, match="no-such-device") as error:
        sam.train(recipe(tmp_path, store, device="no-such-device"))
    assert "\n" not in str(error.value)


def test_a_store_without_masks_is_refused(tmp_path, store):
    [only] = [StoreViews(store).store[0]]
    bare = Sample(only.id, "t", "train", "referring_segmentation", only.images, only.messages,
                  (Region(1, Box(1, 1, 9, 9)), Region(1, Box(2, 2, 9, 9))), {"licence": "CC0"})
    write_store([bare], tmp_path / "boxes")
    with pytest.raises(InputError, match="none of the training samples holds a mask"):
        sam.train(recipe(tmp_path, tmp_path / "boxes"))


def test_a_canvas_batch_has_the_models_input(store):
    picture, _ = roofs()
    batches = Batches(StoreViews(store), BatchShape(1, 1, 0.0, 0), Padded.of(64))
    pixels, canvas = to_canvas(picture, batches.preprocessing)
    assert batches[0]["pixel_values"].shape[1:] == pixels.shape and canvas.resized == (64, 40)


def test_the_embedded_sam_tiny_listens_to_its_prompts():
    """Two prompts far apart on one picture: each finds its own object, before anything is clipped to a box."""
    model, preprocessing = load_sam(str(default_weights()))
    batches = Batches(SceneViews(77, 6, 256, split="val"), BatchShape(1, 6, 0.0, 0), preprocessing)
    shares = []
    for step in range(6):
        batch = batches[step]
        with torch.no_grad():
            logits, _ = sam.predict(model, batch)
        near = torch.nn.functional.interpolate(batch["focus"].float(), size=logits.shape[-2:])[0] > 0.5
        shares += [float((found & spot).sum() / found.sum().clamp(min=1)) for found, spot in zip(logits[0] > 0, near, strict=True)]
    assert np.mean(shares) > 0.5  # of what it finds, where it was asked to look: a few per cent of the picture


def test_the_embedded_sam_tiny_beats_the_box_on_scenes_it_never_saw(tmp_path):
    try:
        weights = default_weights()
    except ModelError as error:
        pytest.skip(str(error))
    assert (weights / "model.safetensors").stat().st_size <= 4 * 2**20
    assert sum(p.numel() for p in Segmenter.load().model.parameters()) <= 2_000_000
    results = sam_eval.evaluate(shutil.copytree(weights, tmp_path / "copy"), seed=77, count=12)
    scores = results["mean_iou"]["all"]
    assert results["regions"]["all"] > 40
    assert scores["sam"] > scores["box"]
    assert scores["sam_off_by_10_percent"] > scores["box_off_by_10_percent"] + 5
    assert json.loads((tmp_path / "copy" / sam_eval.RESULTS).read_text()) == results
