"""Training SAM's mask decoder with the image encoder frozen, for SAM and SAM 2, and on real masks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from geotempo.data_builders.build import build_store
from geotempo.data_builders.sample import Message, Sample
from geotempo.data_builders.store import write_store
from geotempo.finetune import sam
from geotempo.finetune.sam_data import Batches, BatchShape, JoinedViews, StoreViews
from geotempo.finetune.sam_eval import evaluate_store, table
from geotempo.model.errors import ConfigError, InputError
from geotempo.model.geometry import Mask, bounds, interior_points
from geotempo.model.masks import Segmenter, default_weights
from geotempo.model.records import ImageRecord, Region
from geotempo.model.sam import decode, encode, load_sam
from tests.tiny_sam import write

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
WIDTH, HEIGHT = 96, 60
ROOFS = (((10, 10), (58, 22), (50, 52), (4, 40)), ((70, 8), (80, 12), (76, 22), (66, 18)))  # large, and small: on a crop


@pytest.fixture
def store(tmp_path):
    """One image of two turned roofs with their masks."""
    picture, masks = Image.new("RGB", (WIDTH, HEIGHT), (70, 110, 60)), []
    for corners in ROOFS:
        ImageDraw.Draw(picture).polygon(corners, fill=(210, 90, 80))
        shape = Image.new("1", (WIDTH, HEIGHT))
        ImageDraw.Draw(shape).polygon(corners, fill=1)
        masks.append(np.asarray(shape))
    picture.save(tmp_path / "roofs.png")
    image = ImageRecord("roofs", WIDTH, HEIGHT, data=(tmp_path / "roofs.png").read_bytes())
    regions = tuple(Region(1, Mask.from_array(mask), "building", interior_points(mask)) for mask in masks)
    text = Message("user", "<image>Segment all buildings."), Message("assistant", "<regions:0,1>")
    write_store([Sample("t/train/0#r", "t", "train", "referring_segmentation", (image,), text, regions, {"licence": "CC0"})],
                tmp_path / "store")
    return tmp_path / "store"


def recipe(tmp_path, store, base, freeze=("image_encoder",), **training):
    plan = {"output_dir": str(tmp_path / "run"), "steps": 6, "images": 2, "regions": 2, "warmup": 3, "save_every": 2,
            "learning_rate": 0.003, "turns": 2, "held_out": None} | training
    return {"model": {"base": str(base), "freeze": list(freeze)}, "data": {"store": str(store)}, "train": plan}


@pytest.fixture(params=["sam", "sam2", "sam2_video"])
def base(request, tmp_path):
    return write(request.param, tmp_path / "base")


def test_only_what_is_not_frozen_learns(tmp_path, store, base):
    final = sam.train(recipe(tmp_path, store, base, ("image_encoder", "prompt_encoder"), steps=3))
    before, after = load_file(base / "model.safetensors"), load_file(final / "model.safetensors")
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name].half())}
    assert moved and all(name.startswith("mask_decoder.") for name in moved)
    assert "mask_decoder.iou_token.weight" in moved and not any(".conv_s" in name for name in moved)
    assert Segmenter.load(final).segment(Image.new("RGB", (30, 20)), [Region(1, bounds(Mask.from_array(np.eye(9))))])


def test_the_least_score_asked_for_goes_into_the_checkpoint_and_not_on_to_those_tuned_from_it(tmp_path, store, base):
    asked = recipe(tmp_path, store, base, steps=1)
    asked["model"]["least_score"] = 0.25
    final = sam.train(asked)
    assert Segmenter.load(final).least_score == 0.25
    again = sam.train(recipe(tmp_path, store, final, steps=1, output_dir=str(tmp_path / "again")))
    assert Segmenter.load(again).least_score == 0
    asked["model"]["least_score"] = 1.5
    with pytest.raises(ConfigError, match=r"least_score must lie in 0\.\.1, got 1\.5"):
        sam.train(asked)


def test_all_of_it_learns_without_freezing(tmp_path, store, base):
    final = sam.train(recipe(tmp_path, store, base, (), steps=2))
    before, after = load_file(base / "model.safetensors"), load_file(final / "model.safetensors")
    still = {name for name, tensor in after.items() if torch.equal(tensor, before[name].half())}
    assert not any(name.startswith("vision_encoder.") and name.endswith("qkv.weight") for name in still)


def test_it_learns_the_roofs_with_kept_embeddings(tmp_path, store, base):
    sam.train(recipe(tmp_path, store, base, steps=120, warmup=10, save_every=60))
    losses = json.loads((tmp_path / "run" / sam.LOSSES).read_text())
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])


def test_each_picture_is_embedded_once_and_like_its_pixels(store, base):
    model, preprocessing = load_sam(str(base))
    runs, embed = [], sam._embedder(model)

    def counted(key, pixels):
        def made():
            runs.append(key)
            return pixels()
        return embed(key, made)

    shape = BatchShape(2, 2, 0.1, 0, turns=2)
    batches = Batches(StoreViews(store), shape, preprocessing, counted)
    made = [batches[step] for step in range(12)]
    windows = {key[1] for key in runs}
    assert len(runs) == len(set(runs)) == 4 and len(windows) >= 2  # two turns of the whole image and of the crop
    again = Batches(StoreViews(store), shape, preprocessing, counted)[11]
    assert all(torch.equal(made[11][key], again[key]) for key in again)
    prompts = {key: made[0][key][:1] for key in sam.PROMPTS}
    levels = tuple(made[0][key][:1] for key in sorted(made[0]) if key.startswith("embedding_"))
    assert len(levels) == len(encode(model, torch.zeros(1, 3, 64, 64)))
    with torch.no_grad():
        torch.testing.assert_close(sam.predict(model, {key: value[:1] for key, value in made[0].items()})[0],
                                   decode(model, levels, prompts)[0])


def test_a_stopped_run_goes_on_with_the_losses_of_an_unbroken_one(tmp_path, store, monkeypatch):
    base = write("sam2", tmp_path / "base")
    real, calls = sam.loss_of, []

    def stopping(model, batch):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return real(model, batch)

    monkeypatch.setattr(sam, "loss_of", stopping)
    with pytest.raises(KeyboardInterrupt):
        sam.train(recipe(tmp_path, store, base, steps=12, save_every=3))
    monkeypatch.setattr(sam, "loss_of", real)
    final = sam.train(recipe(tmp_path, store, base, steps=12, save_every=3))
    whole = sam.train(recipe(tmp_path, store, base, steps=12, output_dir=str(tmp_path / "whole")))
    assert json.loads((tmp_path / "run" / sam.LOSSES).read_text()) == pytest.approx(
        json.loads((tmp_path / "whole" / sam.LOSSES).read_text()), rel=1e-5)
    a, b = (load_file(folder / "model.safetensors") for folder in (final, whole))
    assert all(torch.allclose(a[key].float(), b[key].float(), atol=1e-3) for key in a)


@pytest.mark.parametrize(("model", "train", "message"), [
    ({"freeze": ["imag_encoder"]}, {}, "did you mean 'image_encoder'"),
    ({"freeze": ["image_encoder", "prompt_encoder", "mask_decoder"]}, {}, "nothing would be trained"),
    ({"base": None}, {}, "freeze needs model.base"),
    ({}, {"zoom": 0.5}, "train.zoom is 0.5"),
    ({}, {"workers": 2}, "train.workers is 2"),
    ({}, {"turns": 9}, "turns must lie in 1..8"),
])
def test_a_wrong_recipe_is_one_line(tmp_path, store, model, train, message):
    plan = recipe(tmp_path, store, tmp_path / "nothing", **train)
    plan["model"] |= model
    with pytest.raises(ConfigError) as error:
        sam.train(plan)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_views_of_several_stores_follow_one_another(store):
    joined = JoinedViews([StoreViews(store), StoreViews(store)])
    assert len(joined) == 2 and joined[0] == joined[1]


def test_a_stores_table_holds_the_box_and_each_segmenter(store, base):
    segmenters = {"a": Segmenter.load(base), "b": Segmenter.load(base, crops=False)}
    result = evaluate_store(segmenters, store, "train", ("referring_segmentation",))
    [region, small] = StoreViews(store)[0][0].regions
    shares = [100 * region.geometry.to_array().sum() / bounds(region.geometry).area for region in (region, small)]
    assert result["all"]["box"] == pytest.approx(np.mean(shares), abs=0.01) and result["images"] == 1
    assert result["small"]["objects"] == 1 and result["small"]["box"] == pytest.approx(shares[1], abs=0.01)
    assert result["large"] == {"objects": 0, "box": None, "a": None, "b": None}
    lines = table([result]).splitlines()
    assert len(lines) == 5 and lines[0].endswith("| box | a | b |") and "| - | - | - |" in lines[4]
    with pytest.raises(InputError, match="no split 'val'"):
        evaluate_store(segmenters, store, "val", ("referring_segmentation",))


def real_subset(tmp_path, name):
    """A store of a few real images: the first of NWPU VHR-10 with small annotations, or the crops of LEVIR-CD."""
    root = SHARED / {"nwpu-vhr10": "NWPU_VHR-10", "levir-cd": "LEVIR-CD_256"}[name]
    if not root.is_dir():
        pytest.skip(f"no shared data {root.name} on this machine")
    if name == "nwpu-vhr10":
        raw = json.loads((root / "annotations" / "NWPU_instances_train.json").read_text())
        raw["images"] = sorted(raw["images"], key=lambda entry: entry["file_name"])[5:60:5]
        few = {entry["id"] for entry in raw["images"]}
        raw["annotations"] = [entry for entry in raw["annotations"] if entry["image_id"] in few]
        (tmp_path / "nwpu" / "annotations").mkdir(parents=True)
        (tmp_path / "nwpu" / "imgs").symlink_to(root / "imgs")
        (tmp_path / "nwpu" / "annotations" / "NWPU_instances_train.json").write_text(json.dumps(raw))
        root = tmp_path / "nwpu"
    build_store(name, root, tmp_path / name, progress=False)
    return tmp_path / name


@pytest.mark.parametrize("name", ["nwpu-vhr10", "levir-cd"])
def test_the_decoder_learns_real_masks(tmp_path, name):
    store = real_subset(tmp_path, name)
    plan = recipe(tmp_path, store, default_weights(), steps=80, images=2, regions=4, warmup=10, learning_rate=0.001, turns=1,
                  save_every=60)
    plan["data"] |= {"tasks": ["referring_segmentation"], "split": "train" if name == "nwpu-vhr10" else "test"}
    final = sam.train(plan)
    segmenters = {"before": Segmenter.load(least_score=0), "after": Segmenter.load(final, least_score=0)}
    scores = evaluate_store(segmenters, store, plan["data"]["split"], ("referring_segmentation",))["all"]
    assert scores["objects"] > 20
    assert scores["after"] > scores["before"] + 2, scores  # 5 points on VHR-10, 7 on LEVIR-CD
