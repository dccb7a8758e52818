"""Regions to pixel masks with SAM or SAM 2 (`geotempo.model.sam`).

A region's box and its two positive points are the prompt, on the image that the region names. Any checkpoint of either
family works, a hub name or a folder; without one the embedded `sam_tiny` is used, which was trained from scratch on
procedural scenes (`geotempo.finetune.sam`).
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from threading import Lock
from typing import Literal, Self

import numpy as np
import torch
from PIL import Image

from geotempo.model.crops import Window, looks
from geotempo.model.errors import InputError, ModelError
from geotempo.model.geometry import BoolArray, Box, GridMask, Mask, bounds, rasterize
from geotempo.model.mask_output import by_image, mask_in_window
from geotempo.model.records import ImageRecord, Region
from geotempo.model.sam import (
    Canvas,
    Embedding,
    FloatArray,
    Preprocessing,
    SamLike,
    canvas_of,
    decode,
    encode,
    load_sam,
    point_prompts,
    to_canvas,
    to_device,
)

Source = Literal["model", "box", "grid"]
Picture = Image.Image | ImageRecord

BATCH = 32
"""Most regions that go through the mask decoder at once; bounds its memory."""
MARGIN = 0.1
"""A mask may reach over its box by this share of the box's width and height on each side."""
CACHE_BYTES = 256 * 2**20
"""Embeddings that are kept, least recently used ones dropped first: 60 of a SAM ViT, 16 of a SAM 2."""


@dataclass(frozen=True)
class Segmented:
    """The mask of one region and where it comes from.

    Attributes:
        mask: Of the size of the image.
        source: `model`; `box` where the model found nothing in the box, or its own score is below the `least_score` of the
            segmenter, and the box's own pixels stand in; `grid` where
            the region came with a grid, which is used as it is.
        score: The model's own estimate of the mask's IoU with the object, 0 to 1; 0 where `source` is not `model`.
    """

    mask: Mask
    source: Source
    score: float

    @property
    def fallback(self) -> bool:
        """Whether the mask is no more than the box."""
        return self.source == "box"


class Segmenter:
    """Masks for regions, by a SAM or SAM 2 model.

    Made by `Segmenter.load`. An image is embedded once, all its large regions are decoded from that in batches of
    `BATCH`; small ones are segmented on enlarged crops (`geotempo.model.crops`). Embeddings are kept by content, so
    that asking again about an image costs no encoder run. Memory is bounded by the image, `CACHE_BYTES` of embeddings,
    `BATCH` low-resolution masks and the window of one mask at full resolution. A region with a grid keeps it as its
    mask: on areas no mask of the embedded SAM comes near it (`geotempo ceilings`).

    Attributes:
        model: In evaluation mode.
        preprocessing: Of the model.
        name: For reports.
        crops: Whether small objects are shown enlarged.
        least_score: Score, 0 to 1, below which a mask is not trusted and the box stands in.
    """

    grid_prompts = False
    """Whether regions with a grid go through the model too."""

    def __init__(self, model: SamLike, preprocessing: Preprocessing, name: str, *, crops: bool = True,
                 least_score: float = 0.0) -> None:
        self.model = model.eval()
        self.preprocessing = preprocessing
        self.name = name
        self.crops, self.least_score = crops, least_score
        self._embeddings = EmbeddingCache(CACHE_BYTES)

    @classmethod
    def load(cls, folder: str | Path | None = None, device: str = "cpu", *, crops: bool = True,
             least_score: float | None = None) -> Self:
        """Load a SAM or SAM 2 checkpoint.

        Args:
            folder: Folder or hub name (`facebook/sam-vit-base`, `facebook/sam2.1-hiera-small`); None is the embedded
                `sam_tiny`.
            device: torch device, e.g. "cpu" or "cuda:0".
            crops: Show small objects enlarged; False is faster and decodes everything from the whole image.
            least_score: See `Segmenter`; None takes `least_score` of the checkpoint's config.json, 0 where it has none.

        Raises:
            ModelError: The checkpoint is missing, incomplete or of another kind, or the device is not there.
        """
        name = str(default_weights() if folder is None else folder)
        model, preprocessing = load_sam(name)
        if least_score is None:
            least_score = float(getattr(model.config, "least_score", 0.0))
        return cls(to_device(model, device), preprocessing, f"sam:{Path(name).name}", crops=crops, least_score=least_score)

    def segment(self, image: Picture, regions: Sequence[Region]) -> list[Mask]:
        """One mask per region, in order; `segment_with_source` also says which ones the model did not find.

        Args:
            image: The image that the regions lie on.
            regions: In pixels of the image; their acquisition numbers are not looked at.

        Returns:
            Masks of the image's size, each inside its region's box enlarged by `MARGIN`, none of them empty.

        Raises:
            InputError: A region lies outside the image.
        """
        return [item.mask for item in self.segment_with_source(image, regions)]

    def segment_sequence(self, images: Sequence[Picture], regions: Sequence[Region]) -> list[Segmented]:
        """Masks of the regions of an answer, each on the image that it names.

        Args:
            images: One per acquisition, in time order: the first is Image 1.
            regions: In pixels of the image that each names.

        Returns:
            One per region, in order.

        Raises:
            InputError: A region names an image that is not there, or lies outside its image.
        """
        found: dict[int, Segmented] = {}
        for number, mine in by_image(regions, len(images)).items():
            made = self.segment_with_source(images[number - 1], [regions[i] for i in mine])
            found |= dict(zip(mine, made, strict=True))
        return [found[i] for i in range(len(regions))]

    @torch.inference_mode()
    def segment_with_source(self, image: Picture, regions: Sequence[Region]) -> list[Segmented]:
        """As `segment`, with the source and the model's score of each mask."""
        given = {} if self.grid_prompts else {i: _grid(region, image.width, image.height) for i, region in enumerate(regions)
                                              if isinstance(region.geometry, GridMask)}
        asked = [i for i in range(len(regions)) if i not in given]
        made = self._segment(image, [regions[i] for i in asked])
        found = given | dict(zip(asked, made, strict=True))
        return [found[i] for i in range(len(regions))]

    def _segment(self, image: Picture, regions: Sequence[Region]) -> list[Segmented]:
        """The masks that the model makes."""
        if not regions:
            return []
        picture = _Content(image)
        width, height = picture.width, picture.height
        boxes = [_clipped(region, width, height) for region in regions]
        whole = canvas_of(width, height, self.preprocessing)
        shares = looks(boxes, width, height, whole.side, whole.scale if self.crops else None)
        found: dict[int, Segmented] = {}
        for look in shares:
            canvas = canvas_of(width, height, self.preprocessing, look.window)
            embedding = self._embedding(picture, look.window)
            for start in range(0, len(look.members), BATCH):
                part = look.members[start : start + BATCH]
                logits = self._decode(embedding, canvas, [regions[i] for i in part], [boxes[i] for i in part])
                for i, (low, score) in zip(part, logits, strict=True):
                    found[i] = self._finish(low, score, boxes[i], canvas, (height, width))
        return [found[i] for i in range(len(regions))]

    def forget(self) -> None:
        """Drop all kept embeddings."""
        self._embeddings = EmbeddingCache(CACHE_BYTES)

    def _embedding(self, picture: "_Content", window: Window) -> Embedding:
        """Of a window of the image; kept by the image's content."""
        def make() -> Embedding:
            pixels, _ = to_canvas(picture.rgb(), self.preprocessing, window)
            return encode(self.model, pixels[None].to(self.model.device))

        return self._embeddings.get((picture.key, window), make)

    def _decode(self, embedding: Embedding, canvas: Canvas, regions: Sequence[Region],
                boxes: Sequence[Box]) -> Iterator[tuple[FloatArray, float]]:
        """Low-resolution logits (m, m) over the whole canvas, and SAM's IoU estimate, for each region."""
        points, labels = point_prompts([region.points for region in regions], canvas)
        corners = canvas.prompt(np.array([box.as_tuple() for box in boxes]).reshape(-1, 2, 2)).reshape(-1, 4)
        arrays = {"input_boxes": corners, "input_points": points, "input_labels": labels}
        device = embedding[0].device
        logits, scores = decode(self.model, embedding,
                                {key: torch.from_numpy(array)[None].to(device) for key, array in arrays.items()})
        yield from zip(logits[0].float().cpu().numpy(), scores[0].float().clamp(0, 1).tolist(), strict=True)

    def _finish(self, logits: FloatArray, score: float, box: Box, canvas: Canvas, size: tuple[int, int]) -> Segmented:
        """Low-resolution logits to a mask at the image's (height, width), inside the enlarged box."""
        height, width = size
        rows, columns = enlarged_window(box, width, height)
        rows = slice(max(rows.start, canvas.top), min(rows.stop, canvas.top + canvas.height))
        columns = slice(max(columns.start, canvas.left), min(columns.stop, canvas.left + canvas.width))
        inside = sample_logits(logits, rows, columns, canvas) > 0
        if inside.any() and score >= self.least_score:
            return Segmented(mask_in_window(inside, rows.start, columns.start, height, width), "model", score)
        return Segmented(box_mask(box, height, width), "box", 0.0)


class _Content:
    """An image that is decoded only when its pixels are asked for, with a key that is its content."""

    def __init__(self, image: Picture) -> None:
        self.width, self.height = image.width, image.height
        if isinstance(image, ImageRecord):
            self._make: Callable[[], Image.Image] = image.rgb
            data = image.encoded()
        else:
            picture = image.convert("RGB")
            self._make = lambda: picture
            data = picture.tobytes()
        self.key = hashlib.sha256(data).hexdigest() + f":{self.width}x{self.height}"
        self._picture: Image.Image | None = None

    def rgb(self) -> Image.Image:
        """The picture, mode RGB; decoded once."""
        if self._picture is None:
            self._picture = self._make()
        return self._picture


class EmbeddingCache:
    """Embeddings of the last images and crops, up to a number of bytes; safe to share among threads.

    Args:
        limit: In bytes; the last embedding is kept even if it alone takes more.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        self._kept: OrderedDict[tuple[str, Window], Embedding] = OrderedDict()
        self._lock = Lock()

    def get(self, key: tuple[str, Window], make: Callable[[], Embedding]) -> Embedding:
        """The embedding of a key, made if it is not held."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self.held += _bytes(made)
            while self.held > self.limit and len(self._kept) > 1:
                self.held -= _bytes(self._kept.popitem(last=False)[1])
        return made


def _bytes(embedding: Embedding) -> int:
    return sum(tensor.nbytes for tensor in embedding)


def default_weights() -> Path:
    """Folder of the embedded `sam_tiny`.

    Raises:
        ModelError: The installation lacks the weights.
    """
    folder = Path(__file__).resolve().parent / "weights" / "sam_tiny"
    if not (folder / "model.safetensors").is_file():
        raise ModelError(f"the embedded SAM is missing at {folder}; reinstall GeoTempo or name a SAM folder")
    return folder


def _clipped(region: Region, width: int, height: int) -> Box:
    """The region's box, clipped to the image."""
    x1, y1, x2, y2 = bounds(region.geometry).as_tuple()
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        raise InputError(f"the region at {(x1, y1, x2, y2)} lies outside the image of {width} x {height} pixels; "
                         "leave it out or give the image that it lies on")
    return Box(max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))


def _grid(region: Region, width: int, height: int) -> Segmented:
    """The pixels of a region's grid; those of its box where no pixel centre lies in a full cell."""
    box = _clipped(region, width, height)
    inside = rasterize(region.geometry, height, width)
    return Segmented(Mask.from_array(inside) if inside.any() else box_mask(box, height, width), "grid", 0.0)


def enlarged_window(box: Box, width: int, height: int) -> tuple[slice, slice]:
    """Rows and columns of a box enlarged by `MARGIN` on each side, in whole pixels and inside the image."""
    dx, dy = MARGIN * (box.x2 - box.x1), MARGIN * (box.y2 - box.y1)
    return (slice(max(0, floor(box.y1 - dy)), min(height, ceil(box.y2 + dy))),
            slice(max(0, floor(box.x1 - dx)), min(width, ceil(box.x2 + dx))))


def box_mask(box: Box, height: int, width: int) -> Mask:
    """Pixels of a box inside an H x W image; the pixel under its centre where the box covers no pixel centre."""
    x1, y1 = min(max(0, floor(box.x1)), width - 1), min(max(0, floor(box.y1)), height - 1)
    x2, y2 = min(width, max(x1 + 1, ceil(box.x2))), min(height, max(y1 + 1, ceil(box.y2)))
    moved = Box(box.x1 - x1, box.y1 - y1, box.x2 - x1, box.y2 - y1)
    inside: BoolArray = rasterize(moved, y2 - y1, x2 - x1)
    if not inside.any():
        inside[min(int((moved.y1 + moved.y2) / 2), y2 - y1 - 1), min(int((moved.x1 + moved.x2) / 2), x2 - x1 - 1)] = True
    return mask_in_window(inside, y1, x1, height, width)


def sample_logits(logits: FloatArray, rows: slice, columns: slice, canvas: Canvas) -> FloatArray:
    """Bilinear samples of low-resolution logits at the centres of the image's pixels in a window of the canvas.

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
    rows = slice(rows.start - canvas.top, rows.stop - canvas.top)
    columns = slice(columns.start - canvas.left, columns.stop - canvas.left)
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
