"""Regions to pixel masks with SAM (Kirillov et al., "Segment Anything", arXiv 2304.02643), through transformers.

A region's box and its two positive points are SAM's prompt. Any SAM checkpoint works, a hub name or a folder; without
one the embedded `sam_tiny` is used, which was trained from scratch on procedural scenes (`geotempo.finetune.sam`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers import AutoConfig, SamImageProcessorPil, SamModel

from geotempo.model.checkpoints import reading, refuse_misfit
from geotempo.model.errors import InputError, ModelError
from geotempo.model.geometry import BoolArray, Box, Mask, bounds, rasterize
from geotempo.model.records import ImageRecord, Region

FloatArray = npt.NDArray[np.float32]
Source = Literal["model", "box"]

BATCH = 32
"""Most regions that go through the mask decoder at once; bounds its memory."""
MARGIN = 0.1
"""A mask may reach over its box by this share of the box's width and height on each side."""
IGNORED = -10
"""Label of a padding point: SAM's prompt encoder in transformers gives it a zero embedding."""


@dataclass(frozen=True)
class Segmented:
    """The mask of one region and where it comes from.

    Attributes:
        mask: Of the size of the image.
        source: `model`, or `box` where the model found nothing in the box and the box's own pixels stand in.
        score: The model's own estimate of the mask's IoU with the object, 0 to 1; 0 where `source` is `box`.
    """

    mask: Mask
    source: Source
    score: float

    @property
    def fallback(self) -> bool:
        """Whether the mask is no more than the box."""
        return self.source == "box"


@dataclass(frozen=True)
class Canvas:
    """Where an image lies on SAM's square input: its longest side fills the square, the rest is padding.

    Attributes:
        side: Side of the square in pixels.
        width: Columns of the user's image.
        height: Rows of the user's image.
        resized: (columns, rows) of the image on the square, at its top left.
    """

    side: int
    width: int
    height: int
    resized: tuple[int, int]

    @property
    def scale(self) -> tuple[float, float]:
        """Canvas pixels per image pixel, along x and y; they differ a little because the size is rounded."""
        return self.resized[0] / self.width, self.resized[1] / self.height

    def prompt(self, coordinates: npt.NDArray[Any]) -> FloatArray:
        """Image coordinates (..., 2) as SAM takes them: pixel indices of the canvas, where SAM itself adds 0.5."""
        return (np.asarray(coordinates, dtype=np.float64) * self.scale - 0.5).astype(np.float32)


def to_canvas(image: Image.Image, processor: Any) -> tuple[torch.Tensor, Canvas]:
    """Resize, normalise and pad an image for SAM.

    Args:
        image: Any size and mode; taken as RGB.
        processor: A SAM image processor.

    Returns:
        Tensor of shape (3, side, side), float32, and the canvas.
    """
    made = processor(image.convert("RGB"), return_tensors="pt")
    pixels: torch.Tensor = made["pixel_values"][0]
    rows, columns = (int(value) for value in made["reshaped_input_sizes"][0])
    return pixels, Canvas(int(pixels.shape[-1]), image.width, image.height, (columns, rows))


def image_processor(side: int) -> Any:
    """SAM's image processor (ImageNet mean and deviation) for a square input of `side` pixels."""
    return SamImageProcessorPil(size={"longest_edge": side}, pad_size={"height": side, "width": side})


class Segmenter:
    """Masks for regions, by a SAM model.

    Made by `Segmenter.load`. Memory is bounded by the image's one embedding, `BATCH` low-resolution masks and one mask
    at full resolution.
    """

    def __init__(self, model: SamModel, processor: Any, name: str) -> None:
        self.model = model.eval()
        self.processor = processor
        self.name = name

    @classmethod
    def load(cls, folder: str | Path | None = None, device: str = "cpu") -> Self:
        """Load a SAM checkpoint.

        Args:
            folder: Folder or hub name of a SAM checkpoint; None is the embedded `sam_tiny`.
            device: torch device, e.g. "cpu" or "cuda:0".

        Raises:
            ModelError: The checkpoint is missing, incomplete or no SAM model, or the device is not there.
        """
        name = str(default_weights() if folder is None else folder)
        model, processor = _read(name)
        return cls(to_device(model, device), processor, f"sam:{Path(name).name}")

    def segment(self, image: Image.Image | ImageRecord, regions: Sequence[Region]) -> list[Mask]:
        """One mask per region, in order; `segment_with_source` also says which ones the model did not find.

        Args:
            image: The image that the regions lie on.
            regions: In pixels of the image.

        Returns:
            Masks of the image's size, each inside its region's box enlarged by `MARGIN`, none of them empty.

        Raises:
            InputError: A region lies outside the image.
        """
        return [item.mask for item in self.segment_with_source(image, regions)]

    @torch.inference_mode()
    def segment_with_source(self, image: Image.Image | ImageRecord, regions: Sequence[Region]) -> list[Segmented]:
        """As `segment`, with the source and the model's score of each mask."""
        if not regions:
            return []
        picture = image.rgb() if isinstance(image, ImageRecord) else image
        boxes = [_clipped(region, picture.width, picture.height) for region in regions]
        pixels, canvas = to_canvas(picture, self.processor)
        embedding = self.model.get_image_embeddings(pixels[None].to(self.model.device))
        found: list[Segmented] = []
        for start in range(0, len(regions), BATCH):
            part = slice(start, start + BATCH)
            for box, (logits, score) in zip(boxes[part], self._decode(embedding, canvas, regions[part], boxes[part]),
                                            strict=True):
                found.append(_finish(logits, score, box, canvas))
        return found

    def _decode(self, embedding: torch.Tensor, canvas: Canvas, regions: Sequence[Region],
                boxes: Sequence[Box]) -> Iterator[tuple[FloatArray, float]]:
        """Low-resolution logits (m, m) over the whole canvas, and SAM's IoU estimate, for each region."""
        points, labels = point_prompts([region.points for region in regions], canvas)
        corners = canvas.prompt(np.array([box.as_tuple() for box in boxes]).reshape(-1, 2, 2)).reshape(-1, 4)
        device = embedding.device
        out = self.model(
            image_embeddings=embedding, multimask_output=False,
            input_boxes=torch.from_numpy(corners)[None].to(device),
            input_points=torch.from_numpy(points)[None].to(device),
            input_labels=torch.from_numpy(labels)[None].to(device),
        )
        logits = out.pred_masks[0, :, 0].float().cpu().numpy()
        scores = out.iou_scores[0, :, 0].float().clamp(0, 1).cpu().numpy()
        yield from zip(logits, scores.tolist(), strict=True)


def to_device(model: SamModel, device: str) -> SamModel:
    """Move a model to a torch device.

    Raises:
        ModelError: There is no such device.
    """
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises an AssertionError
        raise ModelError(f"cannot use the device {device!r}: {str(error).splitlines()[0]} Try cpu") from None


def default_weights() -> Path:
    """Folder of the embedded `sam_tiny`.

    Raises:
        ModelError: The installation lacks the weights.
    """
    folder = Path(__file__).parent / "weights" / "sam_tiny"
    if not (folder / "model.safetensors").is_file():
        raise ModelError(f"the embedded SAM is missing at {folder}; reinstall GeoTempo or name a SAM folder")
    return folder


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


def _read(name: str) -> tuple[SamModel, Any]:
    with reading(name, "SAM", "Give a folder with config.json and model.safetensors, or a hub name"):
        config = AutoConfig.from_pretrained(name)
        if config.model_type != "sam":
            raise ModelError(f"{name!r} is a {config.model_type!r} model; masks need a SAM checkpoint (model type 'sam')")
        model, report = SamModel.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
    refuse_misfit(report, name)
    try:
        processor = SamImageProcessorPil.from_pretrained(name)
    except (OSError, ValueError):  # weights without preprocessor_config.json: all published SAMs use these settings
        processor = image_processor(int(config.vision_config.image_size))
    return model, processor


def _clipped(region: Region, width: int, height: int) -> Box:
    """The region's box, clipped to the image."""
    x1, y1, x2, y2 = bounds(region.geometry).as_tuple()
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        raise InputError(f"the region at {(x1, y1, x2, y2)} lies outside the image of {width} x {height} pixels; "
                         "leave it out or give the image that it lies on")
    return Box(max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))


def _finish(logits: FloatArray, score: float, box: Box, canvas: Canvas) -> Segmented:
    """Low-resolution logits to a mask at the image's resolution, inside the enlarged box."""
    rows, columns = enlarged_window(box, canvas.width, canvas.height)
    mask = np.zeros((canvas.height, canvas.width), dtype=np.bool_)
    mask[rows, columns] = sample_logits(logits, rows, columns, canvas) > 0
    if mask.any():
        return Segmented(Mask.from_array(mask), "model", score)
    return Segmented(Mask.from_array(box_pixels(box, canvas.height, canvas.width)), "box", 0.0)


def enlarged_window(box: Box, width: int, height: int) -> tuple[slice, slice]:
    """Rows and columns of a box enlarged by `MARGIN` on each side, in whole pixels and inside the image."""
    dx, dy = MARGIN * (box.x2 - box.x1), MARGIN * (box.y2 - box.y1)
    return (slice(max(0, floor(box.y1 - dy)), min(height, ceil(box.y2 + dy))),
            slice(max(0, floor(box.x1 - dx)), min(width, ceil(box.x2 + dx))))


def box_pixels(box: Box, height: int, width: int) -> BoolArray:
    """Pixels of a box inside the image; the pixel under its centre where the box covers no pixel centre."""
    mask = rasterize(box, height, width)
    if not mask.any():
        mask[min(int((box.y1 + box.y2) / 2), height - 1), min(int((box.x1 + box.x2) / 2), width - 1)] = True
    return mask


def sample_logits(logits: FloatArray, rows: slice, columns: slice, canvas: Canvas) -> FloatArray:
    """Bilinear samples of low-resolution logits at the centres of the image's pixels in a window.

    Separable, so that memory is that of the window and not of the whole image, however large it is.

    Args:
        logits: (m, m), spanning the canvas.
        rows: Rows of the window, in image pixels.
        columns: Columns of the window.
        canvas: Of the image.

    Returns:
        float32 array of the window's shape.
    """
    sx, sy = canvas.scale
    down = _interpolation(rows, sy, canvas.resized[1], canvas.side, logits.shape[0])
    across = _interpolation(columns, sx, canvas.resized[0], canvas.side, logits.shape[1])
    return np.asarray(down @ logits @ across.T, dtype=np.float32)


def _interpolation(window: slice, scale: float, filled: int, side: int, cells: int) -> FloatArray:
    """Matrix (window, cells) that interpolates `cells` samples along one axis; it never reaches into the padding."""
    last = max(1, ceil(filled * cells / side)) - 1
    centres = (np.arange(window.start, window.stop) + 0.5) * scale * cells / side - 0.5
    centres = centres.clip(0, last)
    low = np.floor(centres).astype(np.int64)
    share = (centres - low).astype(np.float32)
    matrix = np.zeros((len(centres), cells), dtype=np.float32)
    index = np.arange(len(centres))
    matrix[index, low] = 1 - share
    matrix[index, np.minimum(low + 1, last)] += share
    return matrix
