"""Samples of different length and image count to one padded batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from geotempo.finetune.dataset import IGNORE, Features
from geotempo.model.errors import InputError


@dataclass(frozen=True)
class Collator:
    """Right-pads ids and labels, concatenates images in order.

    Attributes:
        pad_token_id: Fills `input_ids`; masked out of attention and loss.
        max_length: Longest sequence the model can take, in tokens. A longer sample is refused, never cut: a cut answer
            would teach the model to break off.
    """

    pad_token_id: int
    max_length: int

    def __call__(self, samples: Sequence[Features]) -> dict[str, torch.Tensor]:
        """Build a batch.

        Returns:
            input_ids, attention_mask, labels of shape (B, T); pixel_values (sum of images, 3, H, W) if any has images.

        Raises:
            InputError: A sample is longer than `max_length`.
        """
        for sample in samples:
            if len(sample["input_ids"]) > self.max_length:
                raise InputError(f"sample {sample['sample_id']!r} has {len(sample['input_ids'])} tokens, the model takes "
                                 f"{self.max_length}; lower data.max_regions or leave the sample out")
        ids = [sample["input_ids"] for sample in samples]
        batch = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], batch_first=True),
            "labels": pad_sequence([sample["labels"] for sample in samples], batch_first=True, padding_value=IGNORE),
        }
        pixels = [sample["pixel_values"] for sample in samples if sample["pixel_values"] is not None]
        if pixels:
            batch["pixel_values"] = torch.cat(pixels)
        return batch
