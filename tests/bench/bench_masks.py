"""Masks per second with the image's embedding kept and regions in batches, against one call per region; memory of 500 regions.

Run: python tests/bench/bench_masks.py [REGIONS] [SAM]    SAM: folder, hub name, or `vit-b` for random weights of ViT-B's shape
"""

import resource
import sys
import time

import numpy as np
import torch
from PIL import Image
from transformers import SamConfig, SamModel

from geotempo.model.geometry import Box
from geotempo.model.masks import Segmenter
from geotempo.model.records import Region
from geotempo.model.sam import Padded, encode

SIDE = 4096


def regions_of(count: int, side: int, smallest: float, largest: float) -> list[Region]:
    """Boxes anywhere on a square image, sides between the two shares of the image, log-uniform; two points in each."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        width, height = side * np.exp(rng.uniform(np.log(smallest), np.log(largest), 2))
        x, y = rng.uniform(0, side - width), rng.uniform(0, side - height)
        points = ((x + width / 2, y + height / 2), (x + width / 3, y + height / 3))
        made.append(Region(1, Box(x, y, x + width, y + height), points=points))
    return made


def picture(side: int) -> Image.Image:
    """Coarse random colours."""
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)).resize((side, side))


def segmenter_of(name: str | None) -> Segmenter:
    """A checkpoint, or SAM ViT-B's architecture with random weights."""
    if name != "vit-b":
        return Segmenter.load(name)
    torch.manual_seed(0)
    return Segmenter(SamModel(SamConfig()), Padded.of(1024), "vit-b")


def peak() -> float:
    """Most memory that the process has held so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def speed(segmenter: Segmenter, count: int) -> None:
    """All regions in one request, and each in a call of its own that knows nothing of the others."""
    image, regions = picture(1024), regions_of(count, 1024, 0.15, 0.5)
    segmenter.segment(image, regions[:1])
    start = time.perf_counter()
    segmenter.segment(image, regions)
    kept = time.perf_counter() - start
    few = regions[: max(2, count // 10)]
    start = time.perf_counter()
    for region in few:
        segmenter.forget()
        segmenter.segment(image, [region])
    alone = (time.perf_counter() - start) / len(few)
    pixels = torch.zeros(1, 3, segmenter.preprocessing.side, segmenter.preprocessing.side)
    start = time.perf_counter()
    encode(segmenter.model, pixels)
    print(f"{segmenter.name}: {count / kept:.1f} masks/s batched with the embedding kept, {1 / alone:.1f} masks/s with one call per "
          f"region ({kept and alone * count / kept:.1f} times slower); an image is embedded in {time.perf_counter() - start:.2f} s")


def memory(segmenter: Segmenter, count: int) -> None:
    """Many regions on a large image, most of them small enough for crops."""
    image, regions = picture(SIDE), regions_of(count, SIDE, 0.02, 0.2)
    before, start = peak(), time.perf_counter()
    masks = segmenter.segment(image, regions)
    seconds = time.perf_counter() - start
    codes = sum(len(mask.counts) for mask in masks) / 2**20
    print(f"{segmenter.name}: {count} regions on {SIDE} x {SIDE} in {seconds:.1f} s, peak memory {peak():.0f} MiB, {peak() - before:.0f} MiB "
          f"above that before (as full masks: {count * SIDE * SIDE / 2**20:.0f} MiB; as run lengths: {codes:.1f} MiB)")


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    chosen = segmenter_of(sys.argv[2] if len(sys.argv) > 2 else None)
    with torch.inference_mode():
        speed(chosen, min(number, 200))
        if len(sys.argv) < 3:
            memory(chosen, number)
