"""SAM and SAM 2 behind one interface: image -> square input -> embedding -> low-resolution logits per prompt.

SAM: Kirillov et al., "Segment Anything", arXiv 2304.02643. SAM 2 and 2.1: Ravi et al., "SAM 2: Segment Anything in
Images and Videos", arXiv 2408.00714; of a video checkpoint only the image part is read. What differs: SAM pads an image
at the right or bottom to a square, SAM 2 squashes it into one; an embedding is one feature map, or three.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional
from transformers import AutoConfig, Sam2Model, SamImageProcessorPil, SamModel
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils import logging

from geotempo.model.checkpoints import check_source, reading, refuse_misfit
from geotempo.model.crops import Window
from geotempo.model.errors import ModelError

FloatArray = npt.NDArray[np.float32]
SamLike: TypeAlias = SamModel | Sam2Model
Embedding = tuple[torch.Tensor, ...]
"""Feature maps (B, C, h, w) of images, the coarsest last: one for SAM, three for SAM 2."""

CLASSES: dict[str, type[SamModel] | type[Sam2Model]] = {"sam": SamModel, "sam2": Sam2Model, "sam2_video": Sam2Model}
"""Model types in config.json and the class that reads them."""
IGNORED = -10
"""Label of a padding point: the prompt encoders in transformers give it a zero embedding."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Canvas:
    """Where an image, or a window of it, lies on SAM's square input.

    Attributes:
        side: Side of the square in pixels.
        width: Columns of the window.
        height: Rows of the window.
        resized: (columns, rows) of the window on the square, at its top left; less than `side` where it is padded.
        left: Column of the image at which the window begins.
        top: Row of the image at which the window begins.
    """

    side: int
    width: int
    height: int
    resized: tuple[int, int]
    left: int = 0
    top: int = 0

    @property
    def scale(self) -> tuple[float, float]:
        """Canvas pixels per image pixel, along x and y."""
        return self.resized[0] / self.width, self.resized[1] / self.height

    def prompt(self, coordinates: npt.NDArray[Any]) -> FloatArray:
        """Image coordinates (..., 2) as SAM takes them: pixel indices of the canvas, where SAM itself adds 0.5."""
        inside = np.asarray(coordinates, dtype=np.float64) - (self.left, self.top)
        return (inside * self.scale - 0.5).astype(np.float32)


class Preprocessing(Protocol):
    """How an image becomes SAM's input."""

    @property
    def side(self) -> int:
        """Side of the square input in pixels."""

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """An RGB image as a normalised tensor (3, side, side), float32."""

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """(columns, rows) that an image of this size takes on the square."""

    def save(self, folder: Path) -> None:
        """Write preprocessor_config.json for transformers."""


class Padded:
    """SAM's preprocessing: the longest side fills the square, the rest is zero.

    Args:
        processor: transformers' own image processor.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    @property
    def side(self) -> int:
        """See `Preprocessing`."""
        return int(self.processor.pad_size["height"])

    @classmethod
    def of(cls, side: int) -> "Padded":
        """With ImageNet mean and deviation, as all published SAMs have them."""
        return cls(SamImageProcessorPil(size={"longest_edge": side}, pad_size={"height": side, "width": side}))

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """See `Preprocessing`."""
        pixels: torch.Tensor = self.processor(image, return_tensors="pt")["pixel_values"][0]
        return pixels

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """See `Preprocessing`."""
        scale = self.side / max(width, height)
        return int(width * scale + 0.5), int(height * scale + 0.5)

    def save(self, folder: Path) -> None:
        """See `Preprocessing`."""
        self.processor.save_pretrained(folder)


@dataclass(frozen=True)
class Squashed:
    """SAM 2's preprocessing, equal to transformers' `Sam2ImageProcessor`, which cannot be built without torchvision.

    Attributes:
        side: Side of the square input in pixels.
        mean: Per channel, of values in 0..1.
        std: Per channel.
    """

    side: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """See `Preprocessing`."""
        array = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        # On bytes, as torchvision resizes them: rounded to whole grey values before they are normalised.
        small = functional.interpolate(array, size=(self.side, self.side), mode="bilinear", antialias=True)[0].float()
        mean, std = (torch.tensor(values)[:, None, None] * 255 for values in (self.mean, self.std))
        return (small - mean) / std

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """See `Preprocessing`."""
        return self.side, self.side

    def save(self, folder: Path) -> None:
        """See `Preprocessing`."""
        square = {"height": self.side, "width": self.side}
        quarter = {"height": self.side // 4, "width": self.side // 4}
        settings = {"image_processor_type": "Sam2ImageProcessor", "do_convert_rgb": True, "do_resize": True,
                    "do_rescale": True, "do_normalize": True, "image_mean": list(self.mean),
                    "image_std": list(self.std), "resample": 2, "rescale_factor": 1 / 255, "size": square,
                    "mask_size": quarter}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def to_canvas(image: Image.Image, preprocessing: Preprocessing, window: Window | None = None) -> tuple[torch.Tensor, Canvas]:
    """Resize, normalise and, for SAM, pad an image or a window of it.

    Args:
        image: Any size and mode; taken as RGB.
        preprocessing: Of the model.
        window: What to show; None shows all.

    Returns:
        Tensor of shape (3, side, side), float32, and the canvas.
    """
    shown = image if window is None else image.crop((window.x1, window.y1, window.x2, window.y2))
    return preprocessing(shown.convert("RGB")), canvas_of(image.width, image.height, preprocessing, window)


def canvas_of(width: int, height: int, preprocessing: Preprocessing, window: Window | None = None) -> Canvas:
    """The canvas of an image of this size, or of a window of it."""
    shown = window or Window(0, 0, width, height)
    wide, high = shown.x2 - shown.x1, shown.y2 - shown.y1
    return Canvas(preprocessing.side, wide, high, preprocessing.resized(wide, high), shown.x1, shown.y1)


def point_prompts(points: Sequence[tuple[tuple[float, float], ...] | None],
                  canvas: Canvas) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Positive points of each region as SAM's prompt; regions without points get padding that SAM ignores.

    Args:
        points: Per region its two points in image pixels, or None.
        canvas: Of the image.

    Returns:
        Points (regions, 2, 2) and labels (regions, 2): 1 positive, `IGNORED` padding.
    """
    given = np.array([pair if pair is not None else ((0.0, 0.0), (0.0, 0.0)) for pair in points])
    labels = np.array([[1, 1] if pair is not None else [IGNORED, IGNORED] for pair in points], dtype=np.int64)
    return canvas.prompt(given), labels


def encode(model: SamLike, pixels: torch.Tensor) -> Embedding:
    """Embed images, without gradients.

    Args:
        model: SAM or SAM 2.
        pixels: (B, 3, side, side).
    """
    made = model.get_image_embeddings(pixels)
    return (made,) if isinstance(made, torch.Tensor) else tuple(made)


def decode(model: SamLike, embedding: Embedding, prompts: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """One mask per prompt.

    Both models join a prompt's points and box corners into one list of tokens, so they act together.

    Args:
        model: SAM or SAM 2.
        embedding: Of B images.
        prompts: `input_boxes` (B, P, 4), `input_points` (B, P, n, 2) and `input_labels` (B, P, n), as `Canvas.prompt` and
            `point_prompts` make them.

    Returns:
        Logits (B, P, m, m) over the whole canvas, and estimated IoU (B, P).
    """
    given: Any = list(embedding) if isinstance(model, Sam2Model) else embedding[0]
    out = model(image_embeddings=given, multimask_output=False, **prompts)
    return out.pred_masks[:, :, 0], out.iou_scores[:, :, 0]


def load_sam(name: str) -> tuple[SamLike, Preprocessing]:
    """Read a SAM or SAM 2 checkpoint, in float32 on the CPU.

    Args:
        name: Folder or hub name.

    Raises:
        ModelError: It is missing, incomplete or neither.
    """
    advice = "Give a SAM folder with config.json and model.safetensors, or a hub name owner/name"
    check_source(name, advice)
    with reading(name, "SAM", advice):
        config = AutoConfig.from_pretrained(name)
        if config.model_type not in CLASSES:
            raise ModelError(f"{name!r} is a {config.model_type!r} model; masks need a SAM checkpoint "
                             f"(model type {', '.join(map(repr, CLASSES))})")
        with _without_bar():
            model, report = CLASSES[config.model_type].from_pretrained(name, dtype=torch.float32, output_loading_info=True)
    refuse_misfit(report, name)
    return model, _preprocessing(name, model)


@contextmanager
def _without_bar() -> Iterator[None]:
    """Hide transformers' progress bar: a SAM is read in a moment."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def default_preprocessing(model: SamLike) -> Preprocessing:
    """What all published checkpoints of the model's family use."""
    side = model.config.prompt_encoder_config.image_size
    side = int(side if isinstance(side, int) else side[0])
    return Squashed(side) if isinstance(model, Sam2Model) else Padded.of(side)


def to_device(model: SamLike, device: str) -> SamLike:
    """Move a model to a torch device.

    Raises:
        ModelError: There is no such device.
    """
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises an AssertionError
        raise ModelError(f"cannot use the device {device!r}: {str(error).splitlines()[0]} Try cpu") from None


def _preprocessing(name: str, model: SamLike) -> Preprocessing:
    """The checkpoint's own preprocessing; without preprocessor_config.json that of its family."""
    default = default_preprocessing(model)
    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except (OSError, ValueError):
        return default
    if isinstance(default, Squashed):
        return Squashed(default.side, tuple(settings.get("image_mean", IMAGENET_MEAN)),
                        tuple(settings.get("image_std", IMAGENET_STD)))
    return Padded(SamImageProcessorPil.from_pretrained(name))
