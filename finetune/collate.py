"""Samples of different length and image count to one batch: padded rows, or one row of packs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from geotempo.finetune.dataset import IGNORE, Features
from geotempo.finetune.packing import Positions
from geotempo.model.errors import InputError

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Collator:
    """Right-pads ids and labels, or lays packs end to end; concatenates images in order.

    Attributes:
        pad_token_id: Fills `input_ids`; masked out of attention and loss.
        max_length: Longest sample the model can take, in tokens. A longer one is refused, never cut: a cut answer would teach
            the model to break off.
        positions: How positions are counted in packs, from `packing.positions_for`; None pads.
        stand_in: Sample with an image that is put behind a batch without any, see `scale.needs_stand_in`; None adds nothing.
    """

    pad_token_id: int
    max_length: int
    positions: Positions | None = None
    stand_in: Features | None = None

    def __call__(self, items: Sequence[Features] | Sequence[list[Features]]) -> Batch:
        """Build a batch.

        Args:
            items: Samples, or packs of them.

        Returns:
            Padded: input_ids, attention_mask, labels and what else there is per token, of shape (B, T). Packed: input_ids and
            labels of shape (1, T) and position_ids of shape (1, T), or (4, 1, T) for Qwen-VL, and no attention_mask. If any
            sample has images, what the processor gives for them, one after the other along the first axis (`pixel_values` of
            shape (sum of images, 3, H, W) for LLaVA; (sum of patches, values) for Qwen-VL; tiles of LLaVA-NeXT padded to one
            number).

        Raises:
            InputError: A sample is longer than `max_length`, or no token of the batch is supervised.
        """
        samples = [sample for item in items for sample in (item if isinstance(item, list) else [item])]
        self._check(samples)
        if self.stand_in and not any(sample["images"] for sample in samples):
            samples.append(self.stand_in)
        batch = self._packed(samples) if self.positions else self._padded(samples)
        for key in dict.fromkeys(key for sample in samples for key in sample["images"]):
            batch[key] = _joined([sample["images"][key] for sample in samples if key in sample["images"]])
        return batch

    def _check(self, samples: Sequence[Features]) -> None:
        for sample in samples:
            if len(sample["input_ids"]) > self.max_length:
                raise InputError(f"sample {sample['sample_id']!r} has {len(sample['input_ids'])} tokens, the model takes "
                                 f"{self.max_length}; lower data.max_regions or leave the sample out")
        if not any((sample["labels"][1:] != IGNORE).any() for sample in samples):
            named = ", ".join(sample["sample_id"] for sample in samples)
            raise InputError(f"no token of a batch is supervised, so there is nothing to learn from it; its samples are {named}; "
                             "look at them with geotempo train RECIPE --show-batch")

    def _padded(self, samples: Sequence[Features]) -> Batch:
        ids = [sample["input_ids"] for sample in samples]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], batch_first=True),
            "labels": pad_sequence([sample["labels"] for sample in samples], batch_first=True, padding_value=IGNORE),
        } | {key: pad_sequence(values, batch_first=True) for key, values in _per_token(samples).items()}

    def _packed(self, samples: Sequence[Features]) -> Batch:
        assert self.positions is not None
        labels = [sample["labels"].clone() for sample in samples]
        for label in labels:
            label[0] = IGNORE  # what comes first is predicted by nothing, least of all by the sample before it
        return {
            "input_ids": torch.cat([sample["input_ids"] for sample in samples])[None],
            "labels": torch.cat(labels)[None],
            "position_ids": torch.cat([self.positions(sample) for sample in samples], dim=-1).unsqueeze(-2),
        } | {key: torch.cat(values)[None] for key, values in _per_token(samples).items()}


def _per_token(samples: Sequence[Features]) -> dict[str, list[torch.Tensor]]:
    """What the processor gives per token beside ids; zeros, which mean text, where a sample without images has none."""
    keys = dict.fromkeys(key for sample in samples for key in sample["tokens"])
    return {key: [sample["tokens"].get(key, torch.zeros_like(sample["input_ids"])) for sample in samples] for key in keys}


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors one after the other; where images have different numbers of tiles (axis 1), zeros fill up."""
    if parts[0].ndim == 5:
        most = max(part.shape[1] for part in parts)
        parts = [functional.pad(part, (0, 0) * 3 + (0, most - part.shape[1])) for part in parts]
    return torch.cat(list(parts))
