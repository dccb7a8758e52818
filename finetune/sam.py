"""Training SAM or SAM 2 from a recipe of `kind: sam`.

A plain loop: each batch is a function of (seed, step), the learning rate a function of the step, and nothing else is
random, so that a run killed at any moment goes on from its last checkpoint with the losses it would have had.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import Sam2Model, SamConfig, SamModel

from geotempo.finetune.recipe import check_keys, read_section
from geotempo.finetune.sam_data import Batches, BatchShape, BoxLessons, Embed
from geotempo.finetune.sam_eval import evaluate
from geotempo.finetune.sam_recipe import SamData, SamShape, SamTraining
from geotempo.finetune.schedule import warmup_cosine
from geotempo.model.checkpoints import write_folder
from geotempo.model.errors import ConfigError
from geotempo.model.files import write_atomic, write_text
from geotempo.model.masks import EmbeddingCache
from geotempo.model.sam import (
    Preprocessing,
    SamLike,
    decode,
    default_preprocessing,
    encode,
    load_sam,
    to_device,
)

CHECKPOINT = "checkpoint.pt"
LOSSES = "losses.json"
OUTSIDE = 0.1
"""Weight of the pixels far from the object, which a mask clipped to its box never shows."""
KEPT_BYTES = 4 * 2**30
"""Embeddings of a frozen image encoder that are kept in memory."""
PROMPTS = ("input_boxes", "input_points", "input_labels")

BETAS = (0.9, 0.95)
"""AdamW's decay rates; a short second memory suits a short run."""


def train(recipe: dict[str, Any], *, restart: bool = False) -> Path:
    """Run a recipe of `kind: sam`, going on from the checkpoint in its `output_dir` if there is one.

    Args:
        recipe: Sections `model` (keys of `SamShape`), `data` (`SamData`) and `train` (`SamTraining`).
        restart: Forget that checkpoint.

    Returns:
        Folder `output_dir/final` with config.json, float16 model.safetensors, preprocessor_config.json and, where scenes are
        held out, results.json, which `geotempo.model.masks.Segmenter.load` and transformers open.

    Raises:
        ConfigError: A key or value is wrong, or the checkpoint is of another recipe.
        InputError: The store has no masks.
        ModelError: `model.base` cannot be loaded.
    """
    check_keys(recipe, ("kind", "model", "data", "train"), "the recipe")
    shape = read_section(SamShape, recipe.get("model") or {}, "model")
    data = read_section(SamData, recipe.get("data") or {}, "data")
    plan = read_section(SamTraining, recipe.get("train") or {}, "train")
    frozen = "image_encoder" in shape.freeze
    _check_frozen(frozen, plan)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        model, preprocessing = build(shape)
    model.config.least_score = shape.least_score
    freeze(to_device(model, plan.device).train(), shape.freeze)
    if restart:
        (Path(plan.output_dir) / CHECKPOINT).unlink(missing_ok=True)
    batches = Batches(data.views(), BatchShape.of(plan), preprocessing, _embedder(model) if frozen else None)
    _loop(model, Course(_lessons(model, preprocessing.side, plan), plan.box_steps, batches), plan, _fingerprint(shape, data, plan))
    final = Path(plan.output_dir) / "final"
    save(model, preprocessing, final)
    if plan.held_out is not None:
        evaluate(final, **plan.held_out)
    return final


class Course(Dataset[dict[str, torch.Tensor]]):
    """Box lessons for the first steps, batches of pictures from then on."""

    def __init__(self, lessons: BoxLessons, count: int, batches: Batches) -> None:
        self.lessons, self.count, self.batches = lessons, count, batches

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        """Batch of a step (from 0)."""
        return self.lessons[step] if step < self.count else self.batches[step - self.count]


def _lessons(model: SamLike, side: int, plan: SamTraining) -> BoxLessons:
    """Box lessons with embeddings of the model's shape, learnt from a blank picture."""
    blank = encode(model, torch.zeros(1, 3, side, side, device=model.device)) if plan.box_steps else ()
    return BoxLessons(BatchShape.of(plan), side, [tuple(level.shape[1:]) for level in blank])


def _check_frozen(frozen: bool, plan: SamTraining) -> None:
    if frozen and plan.zoom:
        raise ConfigError(f"train.zoom is {plan.zoom}, but with a frozen image encoder images are embedded once, so random "
                          "crops are not possible; set train.zoom to 0 (crops that small objects need are shown anyway)")
    if frozen and plan.workers:
        raise ConfigError(f"train.workers is {plan.workers}, but the embeddings of a frozen image encoder are kept in the "
                          "training process; set train.workers to 0")


def freeze(model: SamLike, parts: tuple[str, ...]) -> None:
    """Take parts of a model out of the training.

    Args:
        model: SAM or SAM 2.
        parts: Of `geotempo.finetune.sam_recipe.PARTS`.
    """
    modules: list[nn.Module] = []
    if "image_encoder" in parts:
        modules.append(model.vision_encoder)
        if isinstance(model, Sam2Model):  # what SAM 2 counts to the decoder but applies when it embeds an image
            modules += [model.mask_decoder.conv_s0, model.mask_decoder.conv_s1]
            model.no_memory_embedding.requires_grad_(False)
    modules += [getattr(model, part) for part in ("prompt_encoder", "mask_decoder") if part in parts]
    for module in modules:
        module.requires_grad_(False).eval()


def _embedder(model: SamLike) -> Embed:
    """Embed a picture, or take the embedding kept under its key."""
    kept = EmbeddingCache(KEPT_BYTES)

    def embed(key: Any, pixels: Any) -> tuple[torch.Tensor, ...]:
        return kept.get(key, lambda: tuple(level[0] for level in encode(model, pixels()[None].to(model.device))))

    return embed


def build(shape: SamShape) -> tuple[SamLike, Preprocessing]:
    """A SAM with random weights, or `shape.base`, and its preprocessing.

    Raises:
        ConfigError: The sizes do not fit together.
        ModelError: The base cannot be loaded.
    """
    if shape.base is not None:
        return load_sam(shape.base)
    side, width = shape.image_size, shape.decoder_size
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
    _initialise(model, shape.frequency)
    return model, default_preprocessing(model)


@torch.no_grad()
def _initialise(model: SamModel, frequency: float) -> None:
    """Start a SAM so that its prompts count from the first step.

    transformers' own defaults encode positions with frequencies of deviation hidden_size / 2, next to which two
    neighbouring pixels have nothing in common, and start every weight at deviation 0.02, which leaves a prompt without
    effect. SAM itself starts its prompt encoder and mask decoder as PyTorch does. Beyond that, queries and keys of the
    attention between prompts and image start with one common projection, so that each attends to what lies next to it.
    """
    embedding = model.shared_image_embedding.positional_embedding
    embedding.mul_(frequency / embedding.std())
    for part in (model.prompt_encoder, model.mask_decoder):
        for module in part.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    transformer = model.mask_decoder.transformer
    crossing = [attention for layer in transformer.layers
                for attention in (layer.cross_attn_token_to_image, layer.cross_attn_image_to_token)]
    for attention in [*crossing, transformer.final_attn_token_to_image]:
        nn.init.orthogonal_(attention.q_proj.weight)
        attention.k_proj.weight.copy_(attention.q_proj.weight)


def predict(model: SamLike, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, P, m, m) and estimated IoU (B, P) of a batch, from its pixels or from its kept embeddings."""
    prompts = {key: batch[key] for key in PROMPTS}
    levels = sorted(key for key in batch if key.startswith("embedding_"))
    if levels:
        return decode(model, tuple(batch[key] for key in levels), prompts)
    out = model(pixel_values=batch["pixel_values"], multimask_output=False, **prompts)
    return out.pred_masks[:, :, 0], out.iou_scores[:, :, 0]


def loss_of(model: SamLike, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Binary cross-entropy + Dice on the masks, and squared error of the predicted IoU (SAM, section A, with BCE for focal).

    Args:
        model: In training mode.
        batch: As `Batches` makes it.

    Returns:
        Scalar.
    """
    masks, scores = predict(model, batch)
    target, focus = batch["targets"].float(), batch["focus"].float()
    logits = functional.interpolate(masks, size=target.shape[-2:], mode="bilinear")
    pixels = (-2, -1)
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    near = (entropy * focus).sum(pixels) / focus.sum(pixels).clamp(min=1)
    far = (entropy * (1 - focus)).sum(pixels) / (1 - focus).sum(pixels).clamp(min=1)
    guess = logits.sigmoid()  # Dice over the whole picture: what is found elsewhere, though clipped later, was not asked for
    dice = 1 - (2 * (guess * target).sum(pixels) + 1) / (guess.sum(pixels) + target.sum(pixels) + 1)
    hard = ((logits > 0) * focus).detach()
    both = (hard * target).sum(pixels)
    iou = both / (hard.sum(pixels) + target.sum(pixels) - both).clamp(min=1)
    loss: torch.Tensor = (near + OUTSIDE * far + dice + (scores - iou) ** 2).mean()
    return loss


def save(model: SamLike, preprocessing: Preprocessing, out: Path) -> None:
    """Write a SAM as one folder, weights in float16 (SAM computes in float32 again after loading)."""
    def fill(folder: Path) -> None:
        half = type(model)(model.config)
        half.load_state_dict(model.state_dict())
        half.half().save_pretrained(folder)
        preprocessing.save(folder)

    write_folder(out, fill)


def _trained(model: SamLike) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _loop(model: SamLike, batches: Dataset[dict[str, torch.Tensor]], plan: SamTraining, fingerprint: str) -> None:
    """Train from the checkpoint's step, or 0, to the last one."""
    out = Path(plan.output_dir)
    out.mkdir(parents=True, exist_ok=True)
    trained = _trained(model)
    total, learning = (sum(p.numel() for p in group) for group in (model.parameters(), trained.values()))
    print(f"training {learning / 1e6:.2f} M of the {total / 1e6:.2f} M parameters of a SAM for {plan.steps} steps")
    optimizer = torch.optim.AdamW(trained.values(), lr=plan.learning_rate, betas=BETAS,
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
            torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            bar.update()
            bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}", refresh=False)
            if (step + 1) % plan.save_every == 0 or step + 1 == plan.steps:
                _checkpoint(out, model, optimizer, losses, fingerprint)


def _checkpoint(out: Path, model: SamLike, optimizer: torch.optim.Optimizer, losses: list[float],
                fingerprint: str) -> None:
    state = {"model": {name: parameter.detach() for name, parameter in _trained(model).items()},
             "optimizer": optimizer.state_dict(), "losses": losses, "recipe": fingerprint}
    write_atomic(out / CHECKPOINT, lambda file: torch.save(state, file))
    write_text(out / LOSSES, json.dumps(losses))


def _resume(path: Path, model: SamLike, optimizer: torch.optim.Optimizer, fingerprint: str, device: str) -> list[float]:
    """Load a checkpoint into model and optimiser; returns the losses so far, one per step done."""
    if not path.exists():
        return []
    state = torch.load(path, map_location=device, weights_only=True)
    if state["recipe"] != fingerprint:
        raise ConfigError(f"{path} was made by another recipe; set another train.output_dir, or give --restart")
    with torch.no_grad():
        for name, parameter in _trained(model).items():
            parameter.copy_(state["model"][name])
    optimizer.load_state_dict(state["optimizer"])
    losses: list[float] = state["losses"]
    return losses


def _fingerprint(shape: SamShape, data: SamData, plan: SamTraining) -> str:
    """What a checkpoint depends on; where it is written, how often and on what device does not matter."""
    free = ("output_dir", "save_every", "workers", "device", "held_out")
    training = {key: value for key, value in dataclasses.asdict(plan).items() if key not in free}
    return json.dumps([dataclasses.asdict(shape), dataclasses.asdict(data), training], sort_keys=True)
