"""SAM that is also shown the grid of a region, as its mask prompt.

SAM takes a low-resolution mask (logits at a quarter of its input's resolution) beside points and boxes; Text4Seg (Lan et
al., arXiv 2410.09855) shows it its text grid that way, with certainty 0.999. A region without a grid gets what `Segmenter`
gives.

The embedded `sam_tiny` never saw a mask prompt: with one it is 5 to 13 points of IoU worse on most sets than with points
alone and far below the grid itself, so nothing uses it but `geotempo ceilings`, which tells whether another SAM deserves it.
"""

from collections.abc import Iterator, Sequence
from math import log
from typing import Any

import numpy as np
import torch

from geotempo.model.geometry import Box, GridMask, coverage
from geotempo.model.masks import Segmenter
from geotempo.model.records import Region
from geotempo.model.sam import Canvas, Embedding, FloatArray, decode, point_prompts

CERTAIN = log(0.999 / 0.001)
"""Logit of a full cell; an empty one and everything outside the grid have its negative."""


class GridSegmenter(Segmenter):
    """A `Segmenter` that prompts with the grids of the regions that have one, instead of taking them as masks."""

    grid_prompts = True

    def _decode(self, embedding: Embedding, canvas: Canvas, regions: Sequence[Region],
                boxes: Sequence[Box]) -> Iterator[tuple[FloatArray, float]]:
        """See `Segmenter`; regions keep their order."""
        gridded = [i for i, region in enumerate(regions) if isinstance(region.geometry, GridMask)]
        plain = sorted(set(range(len(regions))) - set(gridded))
        found: dict[int, tuple[FloatArray, float]] = {}
        if plain:
            made = super()._decode(embedding, canvas, [regions[i] for i in plain], [boxes[i] for i in plain])
            found |= dict(zip(plain, made, strict=True))
        if gridded:
            shown = self._decode_shown(embedding, canvas, [regions[i] for i in gridded], [boxes[i] for i in gridded])
            found |= dict(zip(gridded, shown, strict=True))
        yield from (found[i] for i in range(len(regions)))

    def _decode_shown(self, embedding: Embedding, canvas: Canvas, regions: Sequence[Region],
                      boxes: Sequence[Box]) -> Iterator[tuple[FloatArray, float]]:
        """As `_decode`, with a mask prompt each; SAM takes one of those per image, so the image is repeated."""
        points, labels = point_prompts([region.points for region in regions], canvas)
        corners = canvas.prompt(np.array([box.as_tuple() for box in boxes]).reshape(-1, 2, 2)).reshape(-1, 4)
        side = prompt_side(self.model)
        masks = np.stack([mask_prompt(region, canvas, side) for region in regions])
        arrays = {"input_boxes": corners, "input_points": points, "input_labels": labels, "input_masks": masks}
        device = embedding[0].device
        repeated = tuple(features.expand(len(regions), *features.shape[1:]) for features in embedding)
        logits, scores = decode(self.model, repeated, {key: torch.from_numpy(array)[:, None].to(device)
                                                       for key, array in arrays.items()})
        yield from zip(logits[:, 0].float().cpu().numpy(), scores[:, 0].float().clamp(0, 1).tolist(), strict=True)


def prompt_side(model: Any) -> int:
    """Side of the mask prompt that a SAM or SAM 2 takes, in pixels: four for each of its features."""
    config = model.config.prompt_encoder_config
    return int(4 * config.image_size // config.patch_size)


def mask_prompt(region: Region, canvas: Canvas, side: int) -> FloatArray:
    """The grid of a region as logits over the whole canvas.

    Args:
        region: Its geometry in pixels of the image.
        canvas: Where the image lies on SAM's input.
        side: Of the prompt.

    Returns:
        (side, side), float32, `CERTAIN` where at least half of a prompt's pixel is inside, else its negative.
    """
    (sx, sy), (left, top) = canvas.scale, (canvas.left, canvas.top)
    whole = Box(left, top, left + canvas.side / sx, top + canvas.side / sy)
    inside = coverage(region.geometry, whole, (side, side)) >= 0.5
    return np.where(inside, CERTAIN, -CERTAIN).astype(np.float32)
