"""Training SAM from a recipe of `kind: sam`, and measuring it on held-out scenes.

A plain loop: each batch is a function of (seed, step), the learning rate a function of the step, and nothing else is
random, so that a run killed at any moment goes on from its last checkpoint with the losses it would have had.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import SamConfig, SamModel

from geotempo.finetune.recipe import check_keys, read_section
from geotempo.finetune.sam_data import TASKS, Batches, BatchShape, SceneViews, StoreViews, View, Views, jitter_box
from geotempo.finetune.schedule import warmup_cosine
from geotempo.model.checkpoints import write_folder
from geotempo.model.errors import ConfigError
from geotempo.model.files import write_atomic, write_text
from geotempo.model.geometry import BoolArray, Mask, bounds
from geotempo.model.masks import Segmenter, box_pixels, image_processor, to_device
from geotempo.model.records import Region

CHECKPOINT = "checkpoint.pt"
LOSSES = "losses.json"
RESULTS = "results.json"
OUTSIDE = 0.1
"""Weight of the pixels far from the object, which a mask clipped to its box never shows."""
SMALL = 32
"""Objects whose box has a side shorter than this many pixels count as small."""

BETAS = (0.9, 0.95)
"""AdamW's decay rates; a short second memory suits a short run."""


@dataclass(frozen=True)
class SamShape:
    """Architecture of a SAM from scratch, or `base`, a SAM to go on from.

    Attributes:
        base: Folder or hub name; the other keys are then unused.
        image_size: Side of the square input in pixels.
        patch_size: Side of a patch; masks come out at image_size / patch_size * 4 pixels a side.
        hidden_size: Width of the image encoder.
        layers: Its depth.
        heads: Its attention heads.
        mlp_ratio: Width of its MLPs over hidden_size.
        window_size: Side of the attention windows in patches.
        global_layers: Layers (from 0) that attend to the whole image.
        decoder_size: Width of prompt encoder and mask decoder, a multiple of 8.
        decoder_heads: Attention heads of the mask decoder.
        frequency: Standard deviation of the random frequencies that encode positions (SAM: 1).
    """

    base: str | None = None
    image_size: int = 256
    patch_size: int = 8
    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    mlp_ratio: float = 2.0
    window_size: int = 16
    global_layers: tuple[int, ...] = ()
    decoder_size: int = 64
    decoder_heads: int = 4
    frequency: float = 1.0

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ConfigError(f"model.image_size {self.image_size} must be a multiple of patch_size {self.patch_size}")
        if self.decoder_size % 8:
            raise ConfigError(f"model.decoder_size must be a multiple of 8, got {self.decoder_size}")


@dataclass(frozen=True)
class SamData:
    """What SAM learns from: exactly one of a series of scenes and a store.

    Attributes:
        scenes: seed, count and size of procedural scenes.
        store: Folder written by `geotempo build`.
        split: Split of the store.
        tasks: Tasks of the store whose regions lie on the image that shows the object.
    """

    scenes: dict[str, int] | None = None
    store: str | None = None
    split: str = "train"
    tasks: tuple[str, ...] = TASKS

    def __post_init__(self) -> None:
        if (self.scenes is None) == (self.store is None):
            raise ConfigError("section 'data' needs exactly one of scenes (seed, count, size) and store (a folder)")
        if self.scenes is not None:
            read_section(Scenes, self.scenes, "data.scenes")

    def views(self) -> Views:
        """The training views."""
        if self.store is not None:
            return StoreViews(self.store, self.split, self.tasks)
        assert self.scenes is not None
        return SceneViews(**dataclasses.asdict(read_section(Scenes, self.scenes, "data.scenes")))


@dataclass(frozen=True)
class Scenes:
    """A series of procedural scenes: `count` scenes of `size` pixels a side from series `seed`."""

    seed: int
    count: int
    size: int = 256


@dataclass(frozen=True)
class SamTraining:
    """How it learns.

    Attributes:
        output_dir: Folder for the checkpoint and, at the end, `final/`.
        steps: Number of optimiser steps.
        images: Images per step.
        regions: Prompts per image.
        learning_rate: Highest learning rate of AdamW; linear warmup, then cosine to 0.
        warmup: Steps of warmup.
        weight_decay: Of AdamW.
        jitter: Box edges move by up to this share of the box.
        area_exponent: Images with many objects prefer one by its area to this power; 0 prefers none.
        seed: Of weights, order and prompts.
        save_every: Steps between checkpoints.
        workers: Processes that prepare batches; 0 prepares them in the training process.
        device: torch device.
        held_out: seed, count and size of the scenes for `results.json`; null measures nothing.
    """

    output_dir: str
    steps: int
    images: int = 4
    regions: int = 6
    learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.01
    jitter: float = 0.1
    area_exponent: float = 0.0
    seed: int = 0
    save_every: int = 100
    workers: int = 0
    device: str = "cpu"
    held_out: dict[str, int] | None = field(default_factory=lambda: {"seed": 1, "count": 100, "size": 256})

    def __post_init__(self) -> None:
        for name in ("steps", "images", "regions", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name} must be 1 or more, got {getattr(self, name)!r}")
        if not self.learning_rate > 0:
            raise ConfigError(f"train.learning_rate must be above 0, got {self.learning_rate!r}")
        if not 0 <= self.jitter < 0.5:
            raise ConfigError(f"train.jitter must lie in 0..0.5, got {self.jitter!r}")
        if self.held_out is not None:
            read_section(Scenes, self.held_out, "train.held_out")


def train(recipe: dict[str, Any], *, restart: bool = False) -> Path:
    """Run a recipe of `kind: sam`, going on from the checkpoint in its `output_dir` if there is one.

    Args:
        recipe: Sections `model` (keys of `SamShape`), `data` (`SamData`) and `train` (`SamTraining`).
        restart: Forget that checkpoint.

    Returns:
        Folder `output_dir/final` with config.json, float16 model.safetensors, preprocessor_config.json and results.json,
        which `geotempo.model.masks.Segmenter.load` and transformers' `SamModel` open.

    Raises:
        ConfigError: A key or value is wrong, or the checkpoint is of another recipe.
        InputError: The store has no masks.
        ModelError: `model.base` cannot be loaded.
    """
    check_keys(recipe, ("kind", "model", "data", "train"), "the recipe")
    shape = read_section(SamShape, recipe.get("model") or {}, "model")
    data = read_section(SamData, recipe.get("data") or {}, "data")
    plan = read_section(SamTraining, recipe.get("train") or {}, "train")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        model = to_device(build(shape), plan.device).train()
    if restart:
        (Path(plan.output_dir) / CHECKPOINT).unlink(missing_ok=True)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"training a SAM of {parameters / 1e6:.2f} M parameters for {plan.steps} steps")
    side = int(model.config.vision_config.image_size)
    batches = Batches(data.views(), BatchShape(plan.images, plan.regions, side, plan.jitter, plan.seed,
                                               plan.area_exponent))
    _loop(model, batches, plan, _fingerprint(shape, data, plan))
    final = Path(plan.output_dir) / "final"
    save(model, final)
    if plan.held_out is not None:
        evaluate(final, **plan.held_out)
    return final


def build(shape: SamShape) -> SamModel:
    """A SAM with random weights, or `shape.base`.

    Raises:
        ConfigError: The sizes do not fit together.
        ModelError: The base cannot be loaded.
    """
    if shape.base is not None:
        return Segmenter.load(shape.base).model
    side, width = shape.image_size, shape.decoder_size
    # transformers' own defaults would start the encoder at (almost) zero and encode positions with frequencies of
    # deviation hidden_size / 2, next to which two neighbouring pixels have nothing in common; SAM itself uses 1.
    try:
        model = SamModel(SamConfig(
            vision_config={
                "hidden_size": shape.hidden_size, "num_hidden_layers": shape.layers, "image_size": side,
                "num_attention_heads": shape.heads, "patch_size": shape.patch_size, "mlp_ratio": float(shape.mlp_ratio),
                "window_size": shape.window_size, "global_attn_indexes": list(shape.global_layers),
                "output_channels": width, "num_pos_feats": width // 2, "initializer_range": 0.02},
            prompt_encoder_config={"hidden_size": width, "image_size": side, "patch_size": shape.patch_size},
            mask_decoder_config={
                "hidden_size": width, "mlp_dim": 2 * width, "num_hidden_layers": 2, "iou_head_hidden_dim": width,
                "num_attention_heads": shape.decoder_heads, "num_multimask_outputs": 1}))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"section 'model' describes no SAM: {str(error).splitlines()[0]}") from None
    embedding = model.shared_image_embedding.positional_embedding
    with torch.no_grad():
        embedding.mul_(shape.frequency / embedding.std())
    return model


def loss_of(model: SamModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Binary cross-entropy + Dice on the masks, and squared error of the predicted IoU (SAM, section A, with BCE for focal).

    Args:
        model: In training mode.
        batch: As `Batches` makes it.

    Returns:
        Scalar.
    """
    out = model(**{key: batch[key] for key in ("pixel_values", "input_boxes", "input_points", "input_labels")},
                multimask_output=False)
    target, focus = batch["targets"].float(), batch["focus"].float()
    logits = functional.interpolate(out.pred_masks[:, :, 0], size=target.shape[-2:], mode="bilinear")
    pixels = (-2, -1)
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    near = (entropy * focus).sum(pixels) / focus.sum(pixels).clamp(min=1)
    far = (entropy * (1 - focus)).sum(pixels) / (1 - focus).sum(pixels).clamp(min=1)
    guess = logits.sigmoid() * focus
    dice = 1 - (2 * (guess * target).sum(pixels) + 1) / (guess.sum(pixels) + target.sum(pixels) + 1)
    hard = ((logits > 0) * focus).detach()
    both = (hard * target).sum(pixels)
    iou = both / (hard.sum(pixels) + target.sum(pixels) - both).clamp(min=1)
    loss: torch.Tensor = (near + OUTSIDE * far + dice + (out.iou_scores[:, :, 0] - iou) ** 2).mean()
    return loss


def evaluate(folder: str | Path, seed: int, count: int, size: int = 256) -> dict[str, Any]:
    """Mean mask IoU on held-out scenes, printed and written to `folder/results.json`.

    Held-out scenes are of split `val`, which shares no scene with training. Compared are the box itself as the mask,
    SAM with the true box and two points, SAM with the true box only, and both with boxes whose edges are off by up to
    10 % (uniform).

    Args:
        folder: A SAM checkpoint.
        seed: Series of scenes.
        count: Number of scenes.
        size: Side of the images in pixels.

    Returns:
        Counts, and scores times 100.
    """
    segmenter = Segmenter.load(folder)
    rng = np.random.default_rng([seed, count, size])
    scores: dict[str, list[float]] = {}
    small: list[bool] = []
    scenes, fallbacks = SceneViews(seed, count, size, split="val"), 0
    for index in tqdm(range(count), desc="held-out scenes"):
        for view in scenes[index]:
            found, left = _measure(segmenter, view, rng)
            fallbacks += left
            for name, values in found.items():
                scores.setdefault(name, []).extend(values)
            small += [_is_small(region) for region in view.regions]
    if not small:
        raise ConfigError(f"the {count} held-out scenes of series {seed} hold no masks; take more scenes")
    chosen = np.array(small)
    results: dict[str, Any] = {
        "scenes": {"seed": seed, "count": count, "size": size, "split": "val"},
        "regions": len(small), f"regions_under_{SMALL}_px": int(chosen.sum()), "fallbacks": fallbacks,
        "mean_iou": {name: _percent(np.array(values)) for name, values in scores.items()},
        f"mean_iou_under_{SMALL}_px": {name: _percent(np.array(values)[chosen]) for name, values in scores.items()},
    }
    print(json.dumps(results, indent=1))
    write_text(Path(folder) / RESULTS, json.dumps(results, indent=1) + "\n")
    return results


def save(model: SamModel, out: Path) -> None:
    """Write a SAM as one folder, weights in float16 (SAM computes in float32 again after loading)."""
    def fill(folder: Path) -> None:
        half = SamModel(model.config)
        half.load_state_dict(model.state_dict())
        half.half().save_pretrained(folder)
        image_processor(int(model.config.vision_config.image_size)).save_pretrained(folder)

    write_folder(out, fill)


def _loop(model: SamModel, batches: Batches, plan: SamTraining, fingerprint: str) -> None:
    """Train from the checkpoint's step, or 0, to the last one."""
    out = Path(plan.output_dir)
    out.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, betas=BETAS,
                                  weight_decay=plan.weight_decay)
    losses = _resume(out / CHECKPOINT, model, optimizer, fingerprint, plan.device)
    start = len(losses)
    loader = DataLoader(batches, batch_size=None, sampler=range(start, plan.steps), num_workers=plan.workers)
    with tqdm(total=plan.steps, initial=start, desc="steps", mininterval=2) as bar:
        for step, batch in enumerate(loader, start):
            for group in optimizer.param_groups:
                group["lr"] = plan.learning_rate * warmup_cosine(step, plan.warmup, plan.steps)
            loss = loss_of(model, {key: value.to(plan.device) for key, value in batch.items()})
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            bar.update()
            bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}", refresh=False)
            if (step + 1) % plan.save_every == 0 or step + 1 == plan.steps:
                _checkpoint(out, model, optimizer, losses, fingerprint)


def _checkpoint(out: Path, model: SamModel, optimizer: torch.optim.Optimizer, losses: list[float],
                fingerprint: str) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses, "recipe": fingerprint}
    write_atomic(out / CHECKPOINT, lambda file: torch.save(state, file))
    write_text(out / LOSSES, json.dumps(losses))


def _resume(path: Path, model: SamModel, optimizer: torch.optim.Optimizer, fingerprint: str, device: str) -> list[float]:
    """Load a checkpoint into model and optimiser; returns the losses so far, one per step done."""
    if not path.exists():
        return []
    state = torch.load(path, map_location=device, weights_only=True)
    if state["recipe"] != fingerprint:
        raise ConfigError(f"{path} was made by another recipe; set another train.output_dir, or give --restart")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    losses: list[float] = state["losses"]
    return losses


def _fingerprint(shape: SamShape, data: SamData, plan: SamTraining) -> str:
    """What a checkpoint depends on; where it is written, how often and on what device does not matter."""
    free = ("output_dir", "save_every", "workers", "device", "held_out")
    training = {key: value for key, value in dataclasses.asdict(plan).items() if key not in free}
    return json.dumps([dataclasses.asdict(shape), dataclasses.asdict(data), training], sort_keys=True)


def _measure(segmenter: Segmenter, view: View, rng: np.random.Generator) -> tuple[dict[str, list[float]], int]:
    """IoU of every object of a view under each kind of prompt, and how often SAM found nothing in a true box."""
    picture = view.image.rgb()
    truth = [region.geometry.to_array() for region in view.regions if isinstance(region.geometry, Mask)]
    true = [dataclasses.replace(region, geometry=bounds(region.geometry)) for region in view.regions]
    off = [dataclasses.replace(region, geometry=jitter_box(bounds(region.geometry), 0.1, rng)) for region in true]
    bare = [dataclasses.replace(region, points=None) for region in true]
    found = segmenter.segment_with_source(picture, true)
    arrays = {
        "box": [box_pixels(bounds(region.geometry), *truth[0].shape) for region in true],
        "sam": [item.mask.to_array() for item in found],
        "sam_box_only": [mask.to_array() for mask in segmenter.segment(picture, bare)],
        "box_off_by_10_percent": [box_pixels(bounds(region.geometry), *truth[0].shape) for region in off],
        "sam_off_by_10_percent": [mask.to_array() for mask in segmenter.segment(picture, off)],
    }
    scores = {name: [_iou(a, b) for a, b in zip(masks, truth, strict=True)] for name, masks in arrays.items()}
    return scores, sum(item.fallback for item in found)


def _iou(a: BoolArray, b: BoolArray) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


def _is_small(region: Region) -> bool:
    box = bounds(region.geometry)
    return min(box.x2 - box.x1, box.y2 - box.y1) < SMALL


def _percent(values: np.ndarray[Any, Any]) -> float | None:
    return round(100 * float(values.mean()), 2) if values.size else None
