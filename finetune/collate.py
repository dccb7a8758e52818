"""Samples of different length and image count to one padded batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional
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
            input_ids, attention_mask, labels and what else there is per token, of shape (B, T); if any sample has images,
            what the processor gives for them, one after the other along the first axis (`pixel_values` of shape (sum of
            images, 3, H, W) for LLaVA; (sum of patches, values) for Qwen-VL; tiles of LLaVA-NeXT padded to one number).

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
        for key in samples[0]["tokens"]:
            batch[key] = pad_sequence([sample["tokens"][key] for sample in samples], batch_first=True)
        for key in dict.fromkeys(key for sample in samples for key in sample["images"]):
            batch[key] = _joined([sample["images"][key] for sample in samples if key in sample["images"]])
        return batch


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors one after the other; where images have different numbers of tiles (axis 1), zeros fill up."""
    if parts[0].ndim == 5:
        most = max(part.shape[1] for part in parts)
        parts = [functional.pad(part, (0, 0) * 3 + (0, most - part.shape[1])) for part in parts]
    return torch.cat(list(parts))
