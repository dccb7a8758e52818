"""What a SAM is worth: mask IoU with true boxes and points as prompts, on held-out scenes and on stores."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco
from tqdm import tqdm

from geotempo.finetune.sam_data import SceneViews, StoreViews, View, jitter_box
from geotempo.model.errors import ConfigError, InputError
from geotempo.model.files import write_text
from geotempo.model.geometry import Mask, bounds
from geotempo.model.masks import Segmenter, box_mask
from geotempo.model.records import Region

RESULTS = "results.json"
SMALL = 32
"""Objects whose box has a side shorter than this many pixels of the image count as small."""
LARGE = 96
"""Objects whose box has no side shorter than this many pixels of the image count as large."""


def evaluate(folder: str | Path, seed: int, count: int, size: int = 256) -> dict[str, Any]:
    """Mean mask IoU on held-out scenes, printed and written to `folder/results.json`.

    Held-out scenes are of split `val`, which shares no scene with training. Compared are the box itself as the mask,
    SAM with the true box and two points, with the box standing in for masks under the checkpoint's own `least_score` (as it
    is used), without crops for small objects, with the true box only, and both with boxes whose edges are off by up to 10 %.

    Args:
        folder: A SAM checkpoint.
        seed: Series of scenes.
        count: Number of scenes.
        size: Side of the images in pixels.

    Returns:
        Counts, and scores times 100.

    Raises:
        ConfigError: The scenes hold no masks.
    """
    used = Segmenter.load(folder)
    model, preprocessing = used.model, used.preprocessing
    segmenter = Segmenter(model, preprocessing, used.name)
    others = {"sam_or_box": used,
              "sam_without_crops": Segmenter(model, preprocessing, used.name, crops=False)}
    rng = np.random.default_rng([seed, count, size])
    scores: dict[str, list[float]] = {}
    sides: list[float] = []
    scenes, fallbacks = SceneViews(seed, count, size, split="val"), 0
    for index in tqdm(range(count), desc="held-out scenes"):
        for view in scenes[index]:
            found, left = _measure(segmenter, others, view, rng)
            fallbacks += left
            for name, values in found.items():
                scores.setdefault(name, []).extend(values)
            sides += [_shorter_side(region) for region in view.regions]
    if not sides:
        raise ConfigError(f"the {count} held-out scenes of series {seed} hold no masks; take more scenes")
    groups = _groups(np.array(sides))
    results: dict[str, Any] = {
        "scenes": {"seed": seed, "count": count, "size": size, "split": "val"},
        "regions": {group: int(chosen.sum()) for group, chosen in groups.items()}, "fallbacks": fallbacks,
        "mean_iou": {group: {name: _percent(np.array(values)[chosen]) for name, values in scores.items()}
                     for group, chosen in groups.items()},
    }
    print(json.dumps(results, indent=1))
    write_text(Path(folder) / RESULTS, json.dumps(results, indent=1) + "\n")
    return results


def evaluate_store(segmenters: Mapping[str, Segmenter], store: str | Path, split: str,
                   tasks: Sequence[str]) -> dict[str, Any]:
    """Mean mask IoU on the masks of a store, with true boxes and points as prompts.

    Args:
        segmenters: By the name under which they are reported.
        store: Folder written by `geotempo build`.
        split: Its split.
        tasks: Tasks to take regions from.

    Returns:
        `store`, `split`, number of images, `fallbacks` (objects for which a segmenter gave no more than the box), and per
        group of objects (`all`, `small`, `large`) their number and the mean IoU times 100 of `box` and of each segmenter.

    Raises:
        InputError: The split holds no mask.
    """
    views = _whole_views(StoreViews(store, split, tasks))
    scores: dict[str, list[float]] = {name: [] for name in ("box", *segmenters)}
    sides: list[float] = []
    boxes = dict.fromkeys(segmenters, 0)
    for view in tqdm(views, desc=f"{Path(store).name} {split}"):
        true = _prompts(view)
        found = {"box": [_box_mask(view, region) for region in true]}
        for name, segmenter in segmenters.items():
            made = segmenter.segment_with_source(view.image, true)
            found[name] = [item.mask for item in made]
            boxes[name] += sum(item.fallback for item in made)
        for name, masks in found.items():
            scores[name] += _ious(masks, view)
        sides += [_shorter_side(region) for region in true]
    if not sides:
        raise InputError(f"{store} holds no masks in split {split!r}; name another split or task")
    groups = _groups(np.array(sides))
    return {"store": Path(store).name, "split": split, "images": len(views), "fallbacks": boxes,
            **{group: {"objects": int(chosen.sum()), **{name: _percent(np.array(values)[chosen])
                                                        for name, values in scores.items()}}
               for group, chosen in groups.items()}}


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Results of `evaluate_store` as a Markdown table: one line per store, split and group of objects."""
    lines: list[str] = []
    for row in rows:
        names = [name for name in row["all"] if name != "objects"]
        if not lines:
            lines += ["| store | split | images | objects | " + " | ".join(names) + " |",
                      "|---|---|---|---|" + "---|" * len(names)]
        for group in ("all", "small", "large"):
            kind = {"all": "all", "small": f"under {SMALL} px", "large": f"{LARGE} px and more"}[group]
            values = ["-" if row[group][name] is None else f"{row[group][name]:.2f}" for name in names]
            lines.append(f"| {row['store']} | {row['split']} | {row['images']} | {row[group]['objects']} ({kind}) | "
                         + " | ".join(values) + " |")
    return "\n".join(lines)


def _whole_views(views: StoreViews) -> list[View]:
    """One view per image with the objects of all its samples, each object once."""
    joined: dict[str, dict[Mask, Region]] = {}
    images = {}
    for index in range(len(views)):
        for view in views[index]:
            images[view.image.id] = view.image
            mine = joined.setdefault(view.image.id, {})
            mine.update({region.geometry: region for region in view.regions if isinstance(region.geometry, Mask)})
    return [View(image, tuple(joined[key].values())) for key, image in images.items()]


def _measure(segmenter: Segmenter, others: Mapping[str, Segmenter], view: View,
             rng: np.random.Generator) -> tuple[dict[str, list[float]], int]:
    """IoU of every object of a view under each kind of prompt, and how often SAM found nothing in a true box."""
    picture, true = view.image.rgb(), _prompts(view)
    off = [dataclasses.replace(region, geometry=jitter_box(bounds(region.geometry), 0.1, rng)) for region in true]
    bare = [dataclasses.replace(region, points=None) for region in true]
    found = segmenter.segment_with_source(picture, true)
    masks = {
        "box": [_box_mask(view, region) for region in true],
        "sam": [item.mask for item in found],
        **{name: other.segment(picture, true) for name, other in others.items()},
        "sam_box_only": segmenter.segment(picture, bare),
        "box_off_by_10_percent": [_box_mask(view, region) for region in off],
        "sam_off_by_10_percent": segmenter.segment(picture, off),
    }
    return {name: _ious(made, view) for name, made in masks.items()}, sum(item.fallback for item in found)


def _prompts(view: View) -> list[Region]:
    """The view's objects with their true boxes in place of their masks."""
    return [dataclasses.replace(region, geometry=bounds(region.geometry)) for region in view.regions]


def _box_mask(view: View, region: Region) -> Mask:
    return box_mask(bounds(region.geometry), view.image.height, view.image.width)


def _ious(masks: Sequence[Mask], view: View) -> list[float]:
    """IoU of each mask with its object, from run lengths (`pycocotools`)."""
    truth = [region.geometry for region in view.regions if isinstance(region.geometry, Mask)]
    pairs: Any = [([_rle(a)], [_rle(b)]) for a, b in zip(masks, truth, strict=True)]
    return [float(np.asarray(coco.iou(found, true, [0]))[0, 0]) for found, true in pairs]


def _rle(mask: Mask) -> dict[str, Any]:
    return {"size": [mask.height, mask.width], "counts": mask.counts.encode("ascii")}


def _shorter_side(region: Region) -> float:
    box = bounds(region.geometry)
    return min(box.x2 - box.x1, box.y2 - box.y1)


def _groups(sides: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    return {"all": sides >= 0, "small": sides < SMALL, "large": sides >= LARGE}


def _percent(values: np.ndarray[Any, Any]) -> float | None:
    return round(100 * float(values.mean()), 2) if values.size else None
