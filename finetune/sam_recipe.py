"""The recipe of `kind: sam`: its sections, checked."""

import dataclasses
from dataclasses import dataclass, field

from geotempo.finetune.recipe import check_keys, read_section
from geotempo.finetune.sam_data import TASKS, JoinedViews, SceneViews, StoreViews, Views
from geotempo.model.errors import ConfigError

PARTS = ("image_encoder", "prompt_encoder", "mask_decoder")
"""Parts of SAM that can be frozen."""


@dataclass(frozen=True)
class SamShape:
    """Architecture of a SAM from scratch, or `base`, a SAM to go on from.

    Attributes:
        base: Folder or hub name of a SAM or SAM 2; the keys of the architecture are then unused.
        freeze: Any of `PARTS`; with the image encoder frozen an image is embedded once, which is what makes it fast.
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
        least_score: SAM's own estimate of a mask's IoU, 0 to 1, below which the box stands in for it, written into the
            checkpoint's config.json. A base's own is not taken over: after training its estimates are others. `geotempo
            masks-eval --least-score` shows what a value is worth.
    """

    base: str | None = None
    freeze: tuple[str, ...] = ()
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
    least_score: float = 0.0

    def __post_init__(self) -> None:
        check_keys(dict.fromkeys(self.freeze), PARTS, "model.freeze")
        if self.freeze and self.base is None:
            raise ConfigError("model.freeze needs model.base: parts with random weights would stay random")
        if set(self.freeze) == set(PARTS):
            raise ConfigError("model.freeze names every part, so nothing would be trained; leave one out")
        if not 0 <= self.least_score <= 1:
            raise ConfigError(f"model.least_score must lie in 0..1, got {self.least_score!r}")
        if self.image_size % self.patch_size:
            raise ConfigError(f"model.image_size {self.image_size} must be a multiple of patch_size {self.patch_size}")
        if self.decoder_size % 8:
            raise ConfigError(f"model.decoder_size must be a multiple of 8, got {self.decoder_size}")


@dataclass(frozen=True)
class SamData:
    """What SAM learns from: exactly one of a series of scenes and a store.

    Attributes:
        scenes: seed, count and size of procedural scenes.
        store: Folder written by `geotempo build`, or a list of them.
        split: Split of the stores.
        tasks: Tasks of the stores whose regions lie on the image that shows the object.
    """

    scenes: dict[str, int] | None = None
    store: str | tuple[str, ...] | None = None
    split: str = "train"
    tasks: tuple[str, ...] = TASKS

    def __post_init__(self) -> None:
        if (self.scenes is None) == (not self.store):
            raise ConfigError("section 'data' needs exactly one of scenes (seed, count, size) and store (a folder, or a list)")
        if self.scenes is not None:
            read_section(Scenes, self.scenes, "data.scenes")

    def views(self) -> Views:
        """The training views."""
        if self.store is not None:
            stores = (self.store,) if isinstance(self.store, str) else self.store
            return JoinedViews([StoreViews(store, self.split, self.tasks) for store in stores])
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
        zoom: Share of the images of which only a random crop around one object is shown. With the image encoder frozen it
            must be 0: images are then shown as `Segmenter` shows them, whole and in the crops that their objects need.
        box_steps: The first so many steps teach a SAM from scratch where its prompts point (`BoxLessons`); 0 for a base.
        turns: How many of the eight turns and mirrorings of an image are used.
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
    zoom: float = 0.0
    turns: int = 8
    box_steps: int = 0
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
        if not 0 <= self.box_steps < self.steps:
            raise ConfigError(f"train.box_steps must lie in 0..{self.steps - 1} (below train.steps), got {self.box_steps!r}")
        if not 1 <= self.turns <= 8:
            raise ConfigError(f"train.turns must lie in 1..8, got {self.turns!r}")
        if not 0 <= self.zoom <= 1:
            raise ConfigError(f"train.zoom must lie in 0..1, got {self.zoom!r}")
        if self.held_out is not None:
            read_section(Scenes, self.held_out, "train.held_out")
