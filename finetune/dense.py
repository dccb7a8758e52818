"""Stage 0 of a model trained from scratch: teach the vision encoder where things are.

    scene --generate--> images + masks --patch_targets--> what each patch covers --cross-entropy--> vision encoder

From answers alone a small model does not learn to write boxes. A dense stage gives the encoder the answer's own
vocabulary first: every patch that a building covers classifies the building's four coordinates in 101 bins (percent of
the image), says whether the building's centre lies in it, and names its land cover. The linear head is thrown away;
only the encoder is kept. (Coordinates as bins: Pix2Seq, Chen et al., arXiv 2109.10852.)
"""

import hashlib
import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import PreTrainedModel

from geotempo.data_builders.scenes.scene import COVER, Scene, SceneOptions
from geotempo.data_builders.scenes.world import generate
from geotempo.finetune.recipe import ModelSection, check_keys, read_section
from geotempo.finetune.schedule import warmup_cosine
from geotempo.model.checkpoints import load_checkpoint, save_checkpoint
from geotempo.model.errors import ConfigError
from geotempo.model.files import write_atomic
from geotempo.model.geometry import Mask, bounds

BINS = 101
IGNORE = -100


@dataclass(frozen=True)
class ScenesSection:
    """Scenes to learn from, generated on the fly.

    Attributes:
        seed: Series of scenes.
        dates: Images per scene.
        options: Fields of `SceneOptions`.
    """

    seed: int = 0
    dates: int = 2
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DenseTraining:
    """How the encoder is trained.

    Attributes:
        output_dir: Folder of checkpoints and of the final model.
        corpora: Stores whose texts train the tokenizer, where the model is composed from a preset.
        steps: Optimiser steps.
        scenes_per_step: Scenes per step; each gives `dates` images.
        learning_rate: Peak of the cosine schedule.
        warmup_steps: Linear warm-up.
        weight_decay: AdamW's.
        save_steps: Steps between checkpoints.
        workers: Processes that generate scenes; 0 generates in the training process. The result does not depend on it.
        seed: Seed of the head's weights.
    """

    output_dir: str
    corpora: tuple[str, ...] = ()
    steps: int = 1000
    scenes_per_step: int = 16
    learning_rate: float = 1.5e-3
    warmup_steps: int = 100
    weight_decay: float = 0.05
    save_steps: int = 100
    workers: int = 1
    seed: int = 0


class Targets(TypedDict):
    """Targets of the P x P patches of one image, row by row: centre (float), cover and the four coordinate bins."""

    centre: np.ndarray[Any, np.dtype[np.float32]]
    cover: np.ndarray[Any, np.dtype[np.int64]]
    box: np.ndarray[Any, np.dtype[np.int64]]


def patch_targets(scene: Scene, date: int, patches: int) -> Targets:
    """What each patch of one image should say.

    Args:
        scene: A scene.
        date: Index of the image.
        patches: Patches per side; the image side must be a multiple of it.

    Returns:
        centre (P*P,) 0 or 1; cover (P*P,) most frequent land-cover class; box (P*P, 4) bins 0..100 of x1, y1, x2, y2 of
        the building that owns the patch: the one centred in it, else the one covering most of it; -100 without one.
    """
    step = scene.size // patches
    cover = scene.land_cover[date].reshape(patches, step, patches, step).swapaxes(1, 2).reshape(patches * patches, -1)
    counts = np.stack([(cover == value).sum(axis=1) for value in range(len(COVER))], axis=1)
    centre = np.zeros((patches, patches), np.float32)
    box = np.full((patches, patches, 4), IGNORE, np.int64)
    owned = np.zeros((patches, patches))
    for item in scene.of_kind("building"):
        mask = item.masks[date]
        if mask is None or not mask.any():
            continue
        edges = np.array(bounds(Mask.from_array(mask)).as_tuple())
        bins = np.rint(edges / scene.size * (BINS - 1)).astype(np.int64)
        share = mask.reshape(patches, step, patches, step).sum(axis=(1, 3)).astype(float)
        row, column = int((edges[1] + edges[3]) / 2 // step), int((edges[0] + edges[2]) / 2 // step)
        share[row, column] += step * step  # the patch of the centre belongs to it, whoever else covers it
        centre[row, column] = 1
        better = share > owned
        box[better], owned[better] = bins, share[better]
    return {"centre": centre.reshape(-1), "cover": counts.argmax(axis=1), "box": box.reshape(-1, 4)}


class SceneImages(Dataset[dict[str, torch.Tensor]]):
    """Scenes `start` to `stop` of a series as pixels (dates, 3, S, S) with stacked targets."""

    def __init__(self, section: ScenesSection, size: int, patches: int, normal: tuple[list[float], list[float]],
                 span: tuple[int, int]) -> None:
        self.section, self.size, self.patches, self.span = section, size, patches, span
        self.options = SceneOptions(**section.options)
        self.mean, self.std = (np.array(values, np.float32) for values in normal)

    def __len__(self) -> int:
        return self.span[1] - self.span[0]

    def __getitem__(self, offset: int) -> dict[str, torch.Tensor]:
        return self.item(self.span[0] + offset)

    def item(self, index: int) -> dict[str, torch.Tensor]:
        """One scene's images and targets."""
        scene = generate(self.section.seed, index, size=self.size, dates=self.section.dates, options=self.options)
        pixels = (np.stack(scene.images).astype(np.float32) / 255 - self.mean) / self.std
        targets = [patch_targets(scene, date, self.patches) for date in range(len(scene.images))]
        stacked = {"centre": np.stack([t["centre"] for t in targets]), "cover": np.stack([t["cover"] for t in targets]),
                   "box": np.stack([t["box"] for t in targets])}
        return {"pixels": torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()),
                **{name: torch.from_numpy(array) for name, array in stacked.items()}}


def losses(output: torch.Tensor, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The three losses and the mean coordinate error.

    Args:
        output: (images, patches, 1 + covers + 4 * BINS) of the linear head.
        batch: Targets as of `SceneImages`, images flattened.
    """
    centre, cover, box = torch.split(output, [1, len(COVER), 4 * BINS], dim=-1)
    logits, wanted = box.reshape(-1, BINS), batch["box"].reshape(-1)
    known = wanted != IGNORE
    error = (logits.argmax(-1) - wanted)[known].abs().float().mean()
    weight = torch.tensor(4.0, device=output.device)  # few patches hold a centre
    return {
        "centre": F.binary_cross_entropy_with_logits(centre[..., 0], batch["centre"], pos_weight=weight),
        "cover": F.cross_entropy(cover.reshape(-1, len(COVER)), batch["cover"].reshape(-1)),
        "box": F.cross_entropy(logits, wanted, ignore_index=IGNORE),
        "error": error.detach(),
    }


def train(raw: dict[str, Any], *, restart: bool = False) -> Path:
    """Run a `kind: dense` recipe; goes on where an earlier run of it was stopped.

    Args:
        raw: Sections model, scenes (optional) and train.
        restart: Forget what an earlier run left.

    Returns:
        Folder of the checkpoint with the trained encoder.

    Raises:
        ConfigError: A key or value is wrong.
    """
    from geotempo.finetune.train import composed

    check_keys(raw, ("model", "scenes", "train"), "the dense recipe")
    section = read_section(ModelSection, raw.get("model"), "model")
    scenes = read_section(ScenesSection, raw.get("scenes", {}), "scenes")
    args = read_section(DenseTraining, raw.get("train"), "train")
    check_keys(scenes.options, [f.name for f in fields(SceneOptions)], "scenes.options")
    model, processor = composed(section, args.corpora) if section.base is None else load_checkpoint(section.base)
    vision = model.config.vision_config
    if vision.image_size % vision.patch_size:
        raise ConfigError(f"the encoder's {vision.image_size} px are no multiple of its {vision.patch_size} px patches")
    recipe = hashlib.sha256(repr((section, scenes, replace(args, workers=0, save_steps=1))).encode()).hexdigest()
    stage = Stage(model.model.vision_tower, model.config.vision_feature_layer, args, recipe)
    patches, images = vision.image_size // vision.patch_size, processor.image_processor
    if restart:
        stage.file.unlink(missing_ok=True)
    done = stage.resume()
    span = (done * args.scenes_per_step, args.steps * args.scenes_per_step)
    data = SceneImages(scenes, vision.image_size, patches, (images.image_mean, images.image_std), span)
    loader = DataLoader(data, batch_size=args.scenes_per_step, num_workers=args.workers,
                        prefetch_factor=4 if args.workers else None)
    stage.run(loader, done)
    out = Path(args.output_dir) / "final"
    save_checkpoint(model, processor, out)
    return out


class Stage:
    """Encoder, head and optimiser, with their checkpoints."""

    def __init__(self, tower: PreTrainedModel, layer: int, args: DenseTraining, recipe: str) -> None:
        torch.manual_seed(args.seed)
        self.args, self.layer, self.recipe = args, layer, recipe
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.parts = torch.nn.ModuleDict(
            {"tower": tower, "head": torch.nn.Linear(tower.config.hidden_size, 1 + len(COVER) + 4 * BINS)}
        )
        self.parts.to(self.device)
        self.skip_cls = tower.config.model_type == "clip_vision_model"
        self.optimizer = torch.optim.AdamW(self.parts.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay)
        self.file = Path(args.output_dir) / "dense.pt"

    def resume(self) -> int:
        """Load the last checkpoint, if any; returns the number of steps done.

        Raises:
            ConfigError: The checkpoint is of another recipe.
        """
        if not self.file.is_file():
            return 0
        state = torch.load(self.file, weights_only=True, map_location=self.device)
        if state["recipe"] != self.recipe:
            raise ConfigError(f"{self.file} was made by another recipe; set another train.output_dir, or give --restart")
        self.parts.load_state_dict(state["parts"])
        self.optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])

    def save(self, step: int) -> None:
        """Write the checkpoint aside, then into place."""
        state = {"parts": self.parts.state_dict(), "optimizer": self.optimizer.state_dict(), "step": step,
                 "recipe": self.recipe}
        write_atomic(self.file, lambda aside: torch.save(state, aside))

    def run(self, loader: DataLoader[dict[str, torch.Tensor]], done: int) -> None:
        """Train from step `done` to the end, logging to `log.jsonl`."""
        self.parts.train()
        bar = tqdm(total=self.args.steps, initial=done, desc="dense", unit="step")
        batches = iter(loader)
        for step in range(done, self.args.steps):
            values = self.step(next(batches), step)
            bar.set_postfix({name: f"{value:.3f}" for name, value in values.items()}, refresh=False)
            bar.update()
            if (step + 1) % self.args.save_steps == 0 or step + 1 == self.args.steps:
                self.save(step + 1)
                with (self.file.parent / "log.jsonl").open("a", encoding="utf-8") as log:
                    log.write(json.dumps({"step": step + 1, **{k: round(v, 5) for k, v in values.items()}}) + "\n")
        bar.close()

    def step(self, batch: dict[str, torch.Tensor], step: int) -> dict[str, float]:
        """One optimiser step; returns the losses."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.args.learning_rate * warmup_cosine(step, self.args.warmup_steps, self.args.steps, 0.05)
        flat = {name: tensor.flatten(0, 1).to(self.device) for name, tensor in batch.items()}
        hidden = self.parts["tower"](flat["pixels"], output_hidden_states=True).hidden_states[self.layer]
        values = losses(self.parts["head"](hidden[:, 1:] if self.skip_cls else hidden), flat)
        loss = values["centre"] + values["cover"] + values["box"]
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.parts.parameters(), 1.0)
        self.optimizer.step()
        return {name: float(value.detach()) for name, value in values.items()}
