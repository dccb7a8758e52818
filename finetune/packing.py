"""Sequence packing: several samples in one row of a batch, each blind to the others, no padding.

A pack holds `position_ids` that start anew with every sample and no `attention_mask`; transformers builds the
block-diagonal causal mask from the restarts, and flash-attn takes its sequence bounds from them. An attention mask, also
one that is all ones, would switch that off and let samples see one another, and so would a cache of keys and values
(`use_cache`, which models switch on by themselves): none is ever passed. A test holds the logits of packs and of single
samples equal for every base.

The plan is a pure function of lengths and seed, so a resumed run packs what an undisturbed one packs. It is made once for
all epochs (the number of packs, and with it the learning-rate schedule, stays the same); in each epoch, samples of equal
length and number of images change places, and the Trainer shuffles the packs.

Best-fit decreasing after Krell et al. (arXiv 2107.02027), in windows of shuffled samples, so that a pack mixes lengths.
"""

import random
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import AutoModelForImageTextToText, PreTrainedConfig

from geotempo.finetune.dataset import Features, Mixture
from geotempo.model.errors import ConfigError

WINDOW = 2048
"""Samples that are packed among one another; more fill packs no better and take longer."""

Positions = Callable[[Features], torch.Tensor]


def plan_packs(lengths: Sequence[int], images: Sequence[int], max_tokens: int, max_images: int | None, seed: int) -> list[list[int]]:
    """Which samples share a pack.

    Args:
        lengths: Tokens of each sample.
        images: Images of each sample.
        max_tokens: Most tokens of a pack.
        max_images: Most images of a pack; None for any number.
        seed: Of the shuffle before packing.

    Returns:
        Packs of sample indices; every sample stands in exactly one.

    Raises:
        ConfigError: A sample alone is over a budget; callers set such samples aside before.
    """
    most = max_images if max_images is not None else sum(images)
    over = [index for index, length in enumerate(lengths) if length > max_tokens or images[index] > most]
    if over:
        raise ConfigError(f"{len(over)} samples are over the budget of a pack, the first has {lengths[over[0]]} tokens and "
                          f"{images[over[0]]} images; raise data.pack_tokens or data.pack_images")
    order = list(range(len(lengths)))
    rng = random.Random(seed)
    rng.shuffle(order)
    packs: list[list[int]] = []
    for start in range(0, len(order), WINDOW):
        packs += _best_fit(order[start : start + WINDOW], lengths, images, max_tokens, most)
    return packs


def _best_fit(window: Sequence[int], lengths: Sequence[int], images: Sequence[int], max_tokens: int, max_images: int) -> list[list[int]]:
    """Longest first, each into the fullest pack that still has room for it."""
    packs: list[list[int]] = []
    free: list[tuple[int, int, int]] = []  # tokens left, images left, number of the pack; sorted
    for index in sorted(window, key=lambda sample: -lengths[sample]):
        fits = next((at for at in range(bisect_left(free, (lengths[index], 0, 0)), len(free)) if free[at][1] >= images[index]), None)
        tokens, pictures, number = (max_tokens, max_images, len(packs)) if fits is None else free.pop(fits)
        if fits is None:
            packs.append([])
        packs[number].append(index)
        insort(free, (tokens - lengths[index], pictures - images[index], number))
    return packs


@dataclass(frozen=True)
class Fill:
    """How full packs are.

    Attributes:
        packs: Number of packs.
        samples: Samples in them.
        share: Tokens in them as a share of what they could hold, 0 to 1.
    """

    packs: int
    samples: int
    share: float


class PackedDataset(Dataset[list[Features]]):
    """Map-style dataset whose items are packs: lists of samples that share a row of the batch.

    Args:
        mixture: The samples.
        lengths: Tokens of each, from `lengths.measure`.
        max_tokens: Most tokens of a pack.
        max_images: Most images of a pack.
        seed: Of the plan and of the exchanges between epochs.
    """

    def __init__(self, mixture: Mixture, lengths: Sequence[int], max_tokens: int, max_images: int | None, seed: int) -> None:
        self.mixture, self.seed, self._lengths, self._images = mixture, seed, list(lengths), mixture.image_counts
        self.plan = plan_packs(self._lengths, self._images, max_tokens, max_images, seed)
        self.fill = Fill(len(self.plan), len(self._lengths), sum(self._lengths) / (len(self.plan) * max_tokens))
        self.start_epoch(0)

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> list[Features]:
        return [self.mixture[sample] for sample in self.members(index)]

    def members(self, index: int) -> list[int]:
        """Samples of a pack in this epoch, as indices of the mixture."""
        return [self._stand_in[sample] for sample in self.plan[index]]

    def start_epoch(self, epoch: int) -> None:
        """Let samples of equal length and number of images change places, and the mixture draw anew."""
        self.mixture.start_epoch(epoch)
        self._stand_in = list(range(len(self._lengths)))
        if epoch == 0:
            return
        alike: dict[tuple[int, int], list[int]] = {}
        for sample, key in enumerate(zip(self._lengths, self._images, strict=True)):
            alike.setdefault(key, []).append(sample)
        rng = random.Random(f"{self.seed}:{epoch}")
        for members in alike.values():
            for place, sample in zip(members, rng.sample(members, len(members)), strict=True):
                self._stand_in[place] = sample


def positions_for(config: PreTrainedConfig) -> Positions:
    """How positions of a sample in a pack are counted, by family.

    Args:
        config: A transformers config of one of `geotempo.model.bases.BASES`.

    Returns:
        A function of one sample of T tokens: (T,) for models with one position per token; (4, T) for Qwen-VL, whose first row
        counts tokens (from it the mask is built) and whose others are the temporal, vertical and horizontal position of
        multimodal rotary embeddings (Bai et al., arXiv 2502.13923, section 2.1.3).
    """
    if not config.model_type.startswith("qwen"):
        return _plain
    with torch.device("meta"):  # the method needs the config alone, so no weights are kept, nor sent to loader processes
        skeleton = AutoModelForImageTextToText.from_config(config).model
    return _Multimodal(skeleton)


def _plain(sample: Features) -> torch.Tensor:
    return torch.arange(len(sample["input_ids"]))


@dataclass(frozen=True)
class _Multimodal:
    """Positions of Qwen-VL, from the model's own `get_rope_index`."""

    skeleton: Any

    def __call__(self, sample: Features) -> torch.Tensor:
        ids = sample["input_ids"][None]
        kinds = sample["tokens"].get("mm_token_type_ids")
        spatial, _ = self.skeleton.get_rope_index(
            ids, mm_token_type_ids=torch.zeros_like(ids) if kinds is None else kinds[None],
            image_grid_thw=sample["images"].get("image_grid_thw"), attention_mask=torch.ones_like(ids))
        return torch.cat([_plain(sample)[None], spatial[:, 0]])
