"""Prompts and target masks for training SAM: views of scenes or of a store, and batches drawn from them.

A batch is a function of (seed, step) alone, so a resumed run sees exactly what an uninterrupted one would have seen.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import Dataset

from geotempo.data_builders.sample import Sample
from geotempo.data_builders.scenes.samples import scene_samples
from geotempo.data_builders.store import Store
from geotempo.model.crops import Window, looks
from geotempo.model.errors import InputError
from geotempo.model.geometry import BoolArray, Box, Mask, bounds, interior_points, rasterize
from geotempo.model.records import ImageRecord, Region
from geotempo.model.sam import IGNORED, Canvas, Embedding, Preprocessing, canvas_of, to_canvas

Embed = Callable[[tuple[str, Window], Callable[[], torch.Tensor]], Embedding]
"""Embedding of one picture, each level without batch axis, by a key that names its content; pixels are made if needed."""

TASKS = ("referring_segmentation", "change_segmentation", "damage")
"""Tasks whose regions lie on the image that shows the object."""
FOCUS = 0.25
"""Loss counts in full inside the true box enlarged by this share of its size on each side."""
BOX_ONLY, RANDOM_POINTS = 0.25, 0.5
"""Shares of prompts without points, and, of those with points, with random instead of the deepest interior points."""
NOISE, BOX_SIDES = 0.3, (0.05, 0.6)
"""Deviation of the noise in place of an embedding, and sides of the boxes over the canvas, in `BoxLessons`."""
CONTEXT = (1.3, 6.0)
"""A crop's side over its object's longer side, smallest and largest."""
SMALLEST_CROP = 24
"""Least side of a crop in pixels: less shows nothing but the object."""


@dataclass(frozen=True)
class View:
    """One image and the objects on it whose exact masks are known."""

    image: ImageRecord
    regions: tuple[Region, ...]


class Views(Protocol):
    """A sized collection of groups of views."""

    def __len__(self) -> int:
        """Number of groups."""

    def __getitem__(self, index: int) -> list[View]:
        """The views of a group, possibly none."""


def views_of(samples: Sequence[Sample], tasks: Sequence[str] = TASKS) -> list[View]:
    """Each image of the samples once, with its distinct assessable objects.

    Args:
        samples: Any samples.
        tasks: Take regions from samples of these tasks only.

    Returns:
        Views in order of first appearance; boxes are no masks and are left out, as are empty masks.
    """
    images: dict[str, ImageRecord] = {}
    regions: dict[str, dict[str, Region]] = {}
    for sample in samples:
        for region in sample.regions if sample.task in tasks else ():
            image = sample.images[region.image - 1]
            if not region.assessable or isinstance(region.geometry, Box):
                continue
            array = rasterize(region.geometry, image.height, image.width)
            if array.any():
                mask = Mask.from_array(array)
                images.setdefault(image.id, image)
                regions.setdefault(image.id, {})[mask.counts] = replace(region, geometry=mask)
    return [View(images[key], tuple(found.values())) for key, found in regions.items()]


class SceneViews:
    """Views of procedural scenes; a scene is rendered when first asked for and then kept (about 0.3 MB each at 256 px).

    Args:
        seed: Series.
        count: Number of scenes.
        size: Side of the images in pixels.
        split: train, val or test; splits never share a scene.
    """

    def __init__(self, seed: int, count: int, size: int, split: str = "train") -> None:
        if count < 1:
            raise InputError(f"the number of scenes must be 1 or more, got {count}")
        self.seed, self.count, self.size, self.split = seed, count, size, split
        self._made: dict[int, list[View]] = {}

    def __len__(self) -> int:
        """Number of scenes."""
        return self.count

    def __getitem__(self, index: int) -> list[View]:
        """Views of one scene."""
        if index not in self._made:
            self._made[index] = views_of(scene_samples(self.seed, index, size=self.size, split=self.split))
        return self._made[index]


class StoreViews:
    """Views of a store's samples.

    Args:
        path: Folder of the store.
        split: Its split.
        tasks: Tasks to take regions from.

    Raises:
        LayoutError: The folder is no store.
        InputError: The store has no sample of that split and these tasks.
    """

    def __init__(self, path: str | Path, split: str = "train", tasks: Sequence[str] = TASKS) -> None:
        self.store, self.tasks = Store(path), tuple(tasks)
        self.rows = self.store.rows(split=split)
        if not self.rows:
            raise InputError(f"{path} has no samples in split {split!r}; build the store with one")

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.rows)

    def __getitem__(self, index: int) -> list[View]:
        """Views of one sample."""
        return views_of([self.store[self.rows[index]]], self.tasks)


class JoinedViews:
    """Several collections of views, one after the other."""

    def __init__(self, parts: Sequence[Views]) -> None:
        self.parts = list(parts)
        self.ends = np.cumsum([len(part) for part in self.parts]).tolist()

    def __len__(self) -> int:
        """Number of groups in all."""
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> list[View]:
        """Views of a group."""
        part = bisect_right(self.ends, index)
        return self.parts[part][index - (self.ends[part - 1] if part else 0)]


@dataclass(frozen=True)
class BatchShape:
    """How a batch is made.

    Attributes:
        images: Images per step.
        regions: Prompts per image; objects repeat, with other prompts, where an image has fewer.
        jitter: Box edges move by up to this share of the box's width or height.
        seed: Of all random choices.
        area_exponent: An image with more objects than prompts prefers an object by its area to this power; 0 takes
            all alike, which on scenes means mostly buildings.
        zoom: Share of the images of which only a crop around one object is shown.
        turns: How many of the eight turns and mirrorings are used.
    """

    images: int
    regions: int
    jitter: float
    seed: int
    area_exponent: float = 0.0
    zoom: float = 0.0
    turns: int = 8

    @classmethod
    def of(cls, plan: Any) -> "BatchShape":
        """The keys of a recipe's section `train` that say how a batch is made."""
        return cls(**{field.name: getattr(plan, field.name) for field in fields(cls)})


@dataclass(frozen=True)
class Shown:
    """What SAM sees of a view, and the objects on it.

    Attributes:
        key: Names the content.
        picture: Makes the picture.
        size: (width, height) of the picture.
        masks: Of the objects that are prompted, (height, width) each.
    """

    key: tuple[str, Window]
    picture: Callable[[], Image.Image]
    size: tuple[int, int]
    masks: list[BoolArray]


class Batches(Dataset[dict[str, torch.Tensor]]):
    """Batch number `step`, made on demand.

    Each is a dictionary of `pixel_values` (B, 3, S, S) float32, or `embedding_0`, ... where a frozen encoder embeds;
    `input_boxes` (B, P, 4) and `input_points` (B, P, 2, 2) float32, with `input_labels` (B, P, 2); `targets` and `focus`
    (B, P, S, S) uint8, 0 or 1.

    Args:
        views: To draw from.
        shape: Of a batch.
        preprocessing: Of the model.
        embed: Frozen encoder. An image is then shown as `Segmenter` shows it, whole or as one of the crops that its
            objects need, so that the same few pictures come again.
    """

    def __init__(self, views: Views, shape: BatchShape, preprocessing: Preprocessing, embed: Embed | None = None) -> None:
        self.views, self.shape = views, shape
        self.preprocessing, self.embed = preprocessing, embed

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        """Batch of a step (from 0)."""
        rows = []
        for slot in range(self.shape.images):
            draw = step * self.shape.images + slot
            rng = np.random.default_rng([self.shape.seed, draw])
            rows.append(self._row(self._view(draw, rng), rng))
        return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}

    def _view(self, draw: int, rng: np.random.Generator) -> View:
        """A view of the group that draw number `draw` comes to when each epoch takes all groups in a new order."""
        count = len(self.views)
        epoch, place = divmod(draw, count)
        order = np.random.default_rng([self.shape.seed, epoch, count]).permutation(count)
        for step in range(count):  # a group may hold no masks; its neighbour in the order stands in
            found = self.views[int(order[(place + step) % count])]
            if found:
                return found[int(rng.integers(len(found)))]
        raise InputError("none of the training samples holds a mask; SAM needs regions with masks or polygons")

    def _row(self, view: View, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        shown = self._shown(view, rng)
        canvas = canvas_of(*shown.size, self.preprocessing)
        weights = np.array([mask.sum() for mask in shown.masks], dtype=np.float64) ** self.shape.area_exponent
        order = rng.choice(len(shown.masks), size=len(shown.masks), replace=False, p=weights / weights.sum())
        prompts = [prompt_of(shown.masks[i], canvas, self.shape.jitter, rng) for i in np.resize(order, self.shape.regions)]

        def pixels() -> torch.Tensor:
            return to_canvas(shown.picture(), self.preprocessing)[0]

        images = {"pixel_values": pixels()} if self.embed is None else {
            f"embedding_{i}": level for i, level in enumerate(self.embed(shown.key, pixels))}
        return images | {key: torch.from_numpy(np.stack([prompt[key] for prompt in prompts])) for key in prompts[0]}

    def _shown(self, view: View, rng: np.random.Generator) -> Shown:
        """The view, turned, and whole or cropped."""
        turn = int(rng.integers(self.shape.turns))
        masks = [_mask_array(region, turn) for region in view.regions]
        height, width = masks[0].shape
        window = Window(0, 0, width, height)
        if self.embed is not None:
            window, masks = _look(masks, canvas_of(width, height, self.preprocessing), rng)
        elif self.shape.zoom and rng.random() < self.shape.zoom:
            window, masks = _crop(masks, rng)

        def picture() -> Image.Image:
            turned = Image.fromarray(_turned(np.asarray(view.image.rgb()), turn))
            return turned.crop((window.x1, window.y1, window.x2, window.y2))

        parts = [np.ascontiguousarray(mask[window.y1 : window.y2, window.x1 : window.x2]) for mask in masks]
        return Shown((f"{view.image.id}:{turn}", window), picture, (window.x2 - window.x1, window.y2 - window.y1), parts)


class BoxLessons(Dataset[dict[str, torch.Tensor]]):
    """Batches without pictures, in which the mask asked for is the box itself and the embedding is noise.

    A small SAM from scratch otherwise learns to find all buildings whatever it is asked, since the box cuts out the right
    one afterwards, and then never listens to its prompts. After these lessons it knows where a prompt points.

    Args:
        shape: Of a batch.
        side: Side of SAM's square input in pixels.
        levels: Shape (C, h, w) of each level of an embedding.
    """

    def __init__(self, shape: BatchShape, side: int, levels: Sequence[tuple[int, ...]]) -> None:
        self.shape, self.side, self.levels = shape, side, list(levels)

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        """Batch of a step (from 0), with the keys of `Batches`."""
        rng = np.random.default_rng([self.shape.seed, step, self.side])
        canvas = Canvas(self.side, self.side, self.side, (self.side, self.side))
        prompts = [[prompt_of(self._box(rng), canvas, self.shape.jitter, rng) for _ in range(self.shape.regions)]
                   for _ in range(self.shape.images)]
        noise = {f"embedding_{i}": torch.from_numpy(rng.normal(0, NOISE, (self.shape.images, *level)).astype(np.float32))
                 for i, level in enumerate(self.levels)}
        return noise | {key: torch.from_numpy(np.array([[prompt[key] for prompt in row] for row in prompts]))
                        for key in prompts[0][0]}

    def _box(self, rng: np.random.Generator) -> BoolArray:
        """A filled box of any place, of sides log-uniform in `BOX_SIDES` of the canvas."""
        smallest, largest = np.log(BOX_SIDES)
        high, wide = (self.side * np.exp(rng.uniform(smallest, largest, 2))).astype(int)
        top, left = rng.integers(self.side - high + 1), rng.integers(self.side - wide + 1)
        mask = np.zeros((self.side, self.side), dtype=np.bool_)
        mask[top : top + high, left : left + wide] = True
        return mask


def prompt_of(mask: BoolArray, canvas: Canvas, jitter: float, rng: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
    """One object's prompt and what SAM shall answer.

    Args:
        mask: Of the object, on what the canvas shows.
        canvas: Of the picture.
        jitter: Box edges move by up to this share of the box.
        rng: Of the box's edges, of whether points are given, and of which ones.

    Returns:
        `input_boxes` (4,), `input_points` (2, 2), `input_labels` (2,), `targets` and `focus` (S, S).
    """
    box = bounds(Mask.from_array(mask))
    jittered = jitter_box(box, jitter, rng)
    points = np.array(interior_points(mask))
    if rng.random() < RANDOM_POINTS:
        rows, columns = np.nonzero(mask)
        points = np.stack([columns, rows], axis=1)[rng.integers(len(rows), size=2)] + 0.5
    label = IGNORED if rng.random() < BOX_ONLY else 1
    return {
        "input_boxes": canvas.prompt(np.array(jittered.as_tuple()).reshape(2, 2)).reshape(4),
        "input_points": canvas.prompt(points),
        "input_labels": np.full(2, label, dtype=np.int64),
        "targets": _on_canvas(mask, canvas),
        "focus": _focus(box, canvas),
    }


def jitter_box(box: Box, share: float, rng: np.random.Generator) -> Box:
    """Move each edge by up to `share` of the box's width or height, as a model's answer might be off."""
    width, height = box.x2 - box.x1, box.y2 - box.y1
    x1, y1, x2, y2 = np.array(box.as_tuple()) + rng.uniform(-share, share, 4) * [width, height, width, height]
    return Box(float(x1), float(y1), float(max(x2, x1 + 1)), float(max(y2, y1 + 1)))


def _look(masks: Sequence[BoolArray], canvas: Canvas, rng: np.random.Generator) -> tuple[Window, list[BoolArray]]:
    """One of the windows in which `Segmenter` would show the objects, the likelier the more of them it holds."""
    boxes = [bounds(Mask.from_array(mask)) for mask in masks]
    found = looks(boxes, canvas.width, canvas.height, canvas.side, canvas.scale)
    sizes = np.array([len(look.members) for look in found], dtype=np.float64)
    look = found[int(rng.choice(len(found), p=sizes / sizes.sum()))]
    return look.window, [masks[i] for i in look.members]


def _crop(masks: Sequence[BoolArray], rng: np.random.Generator) -> tuple[Window, list[BoolArray]]:
    """A square somewhere around one of the objects, and the objects of which it shows at least half."""
    height, width = masks[0].shape
    box = bounds(Mask.from_array(masks[int(rng.integers(len(masks)))]))
    longer = max(box.x2 - box.x1, box.y2 - box.y1)
    side = max(longer * float(np.exp(rng.uniform(*np.log(CONTEXT)))), SMALLEST_CROP)
    rows = _around(box.y1, box.y2, side, height, rng)
    columns = _around(box.x1, box.x2, side, width, rng)
    window = Window(columns.start, rows.start, columns.stop, rows.stop)
    return window, [mask for mask in masks if 2 * mask[rows, columns].sum() >= mask.sum()]


def _around(low: float, high: float, side: float, size: int, rng: np.random.Generator) -> slice:
    """A random interval of about `side` pixels that holds [low, high), cut off at 0 and `size`."""
    start = float(rng.uniform(min(low, high - side), low))
    return slice(max(0, int(start)), min(size, max(int(np.ceil(start + side)), int(np.ceil(high)))))


def _turned(array: npt.NDArray[Any], turn: int) -> npt.NDArray[Any]:
    """One of the eight turns and mirrorings of a picture or mask; overhead images have no upright."""
    turned = np.rot90(array, turn % 4)
    return np.ascontiguousarray(turned[:, ::-1] if turn >= 4 else turned)


def _mask_array(region: Region, turn: int) -> BoolArray:
    assert isinstance(region.geometry, Mask)
    return np.asarray(_turned(region.geometry.to_array(), turn), dtype=np.bool_)


def _on_canvas(mask: BoolArray, canvas: Canvas) -> npt.NDArray[np.uint8]:
    """The mask as SAM sees the image: resized and padded, (S, S), 0 or 1."""
    small = np.asarray(Image.fromarray(mask).convert("L").resize(canvas.resized, Image.Resampling.BILINEAR)) > 127
    out = np.zeros((canvas.side, canvas.side), dtype=np.uint8)
    out[: canvas.resized[1], : canvas.resized[0]] = small
    return out


def _focus(box: Box, canvas: Canvas) -> npt.NDArray[np.uint8]:
    """Ones inside the enlarged box, on the canvas."""
    dx, dy = FOCUS * (box.x2 - box.x1), FOCUS * (box.y2 - box.y1)
    sx, sy = canvas.scale
    out = np.zeros((canvas.side, canvas.side), dtype=np.uint8)
    rows = slice(max(0, int((box.y1 - dy) * sy)), int(np.ceil((box.y2 + dy) * sy)))
    columns = slice(max(0, int((box.x1 - dx) * sx)), int(np.ceil((box.x2 + dx) * sx)))
    out[rows, columns] = 1
    return out
