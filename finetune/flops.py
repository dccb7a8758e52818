"""Floating-point operations that a training step needs, for the model FLOPs utilisation (MFU).

MFU (Chowdhery et al., arXiv 2204.02311, appendix B) is what the step needs by the mathematics, per second, as a share of what the
device can do at best. Work done twice (gradient checkpointing), padding and unpacking of quantised weights take time but
are not needed, so they lower it. A multiplication and an addition count as two operations.

A token that meets a weight of a matrix product costs 2 operations forward, 2 more where gradients pass to what lies before it,
and 2 more where the weight itself learns. So per token and weight:

| part | forward | to its input | to its weight | together |
|---|---|---|---|---|
| trained in full | 2 | 2 | 2 | 6 (PaLM's and nanochat's 6N) |
| frozen LLM under LoRA or QLoRA | 2 | 2 | - | 4 |
| the adapters themselves | 2 | 2 | 2 | 6 |
| frozen vision encoder | 2 | - | - | 2 |

Attention multiplies queries with keys and scores with values: 4 x width operations forward for each pair of a token with one
that it sees, and twice that backward; over T tokens that all see each other, PaLM's 12 x layers x width x T per token.
Embedding tables, norms and activations are left out, as there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from geotempo.model.bases import base_of


@dataclass(frozen=True)
class Part:
    """A part of a model whose matrix products all meet the same tokens.

    Attributes:
        weights: Weights of its matrix products, adapters left out.
        adapters: Weights of the adapters in it, which always learn.
        layers: Layers of attention.
        width: Heads times dimension of a head.
        learns: Whether `weights` learn.
        passes: Whether gradients pass through it to what lies before it.
    """

    weights: int
    adapters: int = 0
    layers: int = 0
    width: int = 0
    learns: bool = False
    passes: bool = False

    def linear(self, tokens: int) -> int:
        """Operations of the matrix products with weights."""
        return tokens * (self.weights * (2 + 2 * self.passes + 2 * self.learns) + 6 * self.adapters)

    def attention(self, pairs: int) -> int:
        """Operations of attention.

        Args:
            pairs: Pairs of a token with one that it sees, itself included; summed over sequences.
        """
        return 4 * self.width * self.layers * pairs * (3 if self.passes or self.learns else 1)


@dataclass(frozen=True)
class Network:
    """An image-text model as far as operations depend on it.

    Attributes:
        vision: Encoder of patches, its patch embedding included.
        projector: Between the encoder and the LLM, counted per image token.
        llm: Blocks of the LLM.
        head: From the last hidden state to the vocabulary.
    """

    vision: Part
    projector: Part
    llm: Part
    head: Part


@dataclass(frozen=True)
class Work:
    """What a step is made of.

    Attributes:
        lengths: Tokens of each sample in the LLM, image tokens included, padding left out.
        patches: Patches of each image in the encoder, its class token included.
        image_tokens: Tokens that come out of the projector.
        scored: Positions whose logits are needed: those before a supervised token. PaLM counts all.
    """

    lengths: Sequence[int]
    patches: Sequence[int]
    image_tokens: int
    scored: int


def step_flops(network: Network, work: Work, *, palm: bool = False) -> int:
    """Operations of one step, forward and backward; the optimizer's are negligible.

    Args:
        network: The model, from `network_of`.
        work: The batch; for accumulated batches, all of them.
        palm: Count as PaLM and nanochat do: attention as if each token saw the whole sequence, and logits at every position. By
            default a token sees itself and those before it, about half, and only `work.scored` positions have logits.
    """
    tokens = sum(work.lengths)
    seen = sum(length * length if palm else length * (length + 1) // 2 for length in work.lengths)
    return (network.vision.linear(sum(work.patches)) + network.vision.attention(sum(patches * patches for patches in work.patches))
            + network.projector.linear(work.image_tokens)
            + network.llm.linear(tokens) + network.llm.attention(seen)
            + network.head.linear(tokens if palm else work.scored))


def utilisation(flops: int, seconds: float, peak: float) -> float:
    """MFU, 0 to 1.

    Args:
        flops: Operations of a step, from `step_flops`.
        seconds: Time of a step.
        peak: Operations per second of the device at the step's precision, dense (without structured sparsity).
    """
    return flops / (seconds * peak)


def network_of(model: PreTrainedModel) -> Network:
    """Read a model's parts off its modules; works on the meta device, under PEFT and with quantised layers.

    What learns is read from `requires_grad`. A vision encoder of LLaVA counts up to the layer whose features are taken, though
    transformers also runs what lies behind. Attention in Qwen2.5-VL's encoder is counted as if it had no windows.

    Args:
        model: Of one of `geotempo.model.bases.BASES`, or a PEFT wrapper of it.
    """
    config, base = model.config, base_of(model.config, str(model.config.name_or_path))
    sums: dict[str, list[int]] = {name: [0, 0] for name in ("vision", "projector", "llm", "head")}
    learns = dict.fromkeys(sums, False)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
            part, adapter = _part(name, base.vision, base.projector), ".lora_" in name
            sums[part][adapter] += _weights(module)
            learns[part] |= module.weight.requires_grad and not adapter
    vision, text = config.vision_config, config.get_text_config()
    share, layers = _share_used(config), getattr(vision, "num_hidden_layers", None) or vision.depth
    width = text.num_attention_heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    (seeing, in_vision), (joining, in_projector), (reading, in_llm), (writing, in_head) = sums.values()
    before = learns["projector"] or learns["vision"]
    return Network(
        Part(round(seeing * share), in_vision, round(layers * share), vision.hidden_size, learns["vision"], learns["vision"]),
        Part(joining, in_projector, learns=learns["projector"], passes=before),
        Part(reading, in_llm, text.num_hidden_layers, width, learns["llm"], before or learns["llm"] or in_llm > 0),
        Part(writing, in_head, learns=learns["head"], passes=True))


def _part(name: str, vision: str, projector: str) -> str:
    """Which part a module belongs to. Qwen3-VL's `deepstack_merger_list` meets as few tokens as its merger does."""
    inside = f".{name}."
    if f".{projector}." in inside or "merger" in name:
        return "projector"
    if f".{vision}." in inside:
        return "vision"
    return "head" if ".lm_head." in inside else "llm"


def _weights(module: nn.Linear | nn.Conv2d | nn.Conv3d) -> int:
    """Weights of a module's matrix product, also where a quantised layer stores two in a byte."""
    if isinstance(module, nn.Linear):
        return module.in_features * module.out_features
    return module.out_channels * module.in_channels * int(torch.tensor(module.kernel_size).prod())


def _share_used(config: object) -> float:
    """Share of the vision encoder's blocks that lie before the layer whose features are taken."""
    layer = getattr(config, "vision_feature_layer", None)
    if not isinstance(layer, int):
        return 1.0
    blocks: int = config.vision_config.num_hidden_layers  # type: ignore[attr-defined]
    return (layer if layer >= 0 else blocks + 1 + layer) / blocks
