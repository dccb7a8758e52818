"""Attention in packs where flash-attn is not at hand: PyTorch's own, sample by sample.

transformers gives PyTorch's attention a mask of T x T for a pack of T tokens, and with a mask nothing is skipped: of a pack of
16 samples, 31 of 32 products are made for nothing, and a causal sequence's upper half too. Here each sample of the pack
is attended to by itself, as a causal sequence without a mask. The results are the same, the work is that of single samples.

Where the spans are not given (padded batches, generation) everything is as with `sdpa`.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_by_sample"
"""Of this attention among those of transformers."""

_unmasked: ContextVar[bool] = ContextVar("unmasked", default=False)


def attend(module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None,
           spans: list[int] | None = None, **kwargs: Any) -> tuple[torch.Tensor, None]:
    """Attention of one layer, as transformers calls it.

    Args:
        module: The layer.
        query: Shape (B, heads, T, D).
        key: Shape (B, key heads, T, D).
        value: As the keys.
        attention_mask: Of padded batches.
        spans: Tokens of each sample of a pack, in order, T together; None for padded batches.
        **kwargs: What else `sdpa` takes.

    Returns:
        Shape (B, T, heads, D), and no weights.
    """
    if spans is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)  # type: ignore[no-any-return]
    parts = zip(*(torch.split(states, spans, dim=2) for states in (query, key, value)), strict=True)
    return torch.cat([sdpa_attention_forward(module, *part, None, **kwargs)[0] for part in parts], dim=1), None


def _mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    return None if _unmasked.get() else sdpa_mask(*args, **kwargs)


def use(model: nn.Module) -> bool:
    """Switch the LLM of an image-text model from `sdpa` to attention by sample; whatever else it uses stays.

    Args:
        model: Of one of `geotempo.model.bases.BASES`, or a PEFT wrapper of it.

    Returns:
        Whether the LLM attends by sample now.
    """
    llm: Any = next((module for name, module in model.named_modules() if name.endswith("language_model")), None)
    if llm is None:
        return False
    if llm.config._attn_implementation == "sdpa":
        llm.set_attn_implementation(NAME)
    return bool(llm.config._attn_implementation == NAME)


def spans_of(position_ids: torch.Tensor) -> list[int]:
    """Tokens of each sample of a pack.

    Args:
        position_ids: Shape (1, T), or (4, 1, T) for Qwen-VL; the first row counts the tokens of each sample from 0.
    """
    counted = position_ids.reshape(-1, position_ids.shape[-1])[0]
    starts = [*(counted == 0).nonzero()[:, 0].tolist(), len(counted)]
    return [end - start for start, end in itertools.pairwise(starts)]


@contextmanager
def no_mask() -> Iterator[None]:
    """Within, models build no mask for attention by sample, which has the spans instead."""
    token = _unmasked.set(True)
    try:
        yield
    finally:
        _unmasked.reset(token)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, _mask)
