"""Models of true size with random weights, and random samples for them, for `bench_gpu.py`; nothing is downloaded.

The weights are made on the device itself. What a step costs does not depend on their values.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import AutoModelForImageTextToText, LlavaConfig, PreTrainedConfig, PreTrainedModel, Qwen3VLConfig

from geotempo.finetune.dataset import IGNORE, Features


@dataclass(frozen=True)
class Shape:
    """A model's configuration and what one image is to it.

    Attributes:
        config: Of transformers.
        patches: Patches of an image in the encoder, its class token included.
        image_tokens: Tokens of an image in the LLM.
        image: Id of the image token.
    """

    config: PreTrainedConfig
    patches: int
    image_tokens: int
    image: int

    def pictures(self, count: int) -> dict[str, torch.Tensor]:
        """What a processor would give for so many images, in random values."""
        vision = self.config.vision_config
        if isinstance(self.config, LlavaConfig):
            return {"pixel_values": torch.rand(count, 3, vision.image_size, vision.image_size)}
        side = math.isqrt(self.patches)
        values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        return {"pixel_values": torch.rand(count * self.patches, values), "image_grid_thw": torch.tensor([[1, side, side]] * count)}


def llava(tiny: bool) -> Shape:
    """LLaVA-1.5-7B (config.json of llava-hf/llava-1.5-7b-hf): CLIP ViT-L/14 at 336 pixels, Vicuna-7B.

    Its 4,096 positions do not hold 8 images of 576 tokens; positions cost nothing, so here it takes 16,384.
    """
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336,
              "patch_size": 14, "projection_dim": 768, "vocab_size": 32000}
    text = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 32, "vocab_size": 32064}
    if tiny:
        vision |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56}
        text |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
                 "vocab_size": 1024}
    image = text["vocab_size"] - 64
    config = LlavaConfig(vision_config={"model_type": "clip_vision_model", **vision}, image_token_index=image, vision_feature_layer=-2,
                         text_config={"model_type": "llama", "max_position_embeddings": 16384, **text})
    tokens = (vision["image_size"] // vision["patch_size"]) ** 2
    return Shape(config, tokens + 1, tokens, image)


def qwen3_vl(tiny: bool) -> Shape:
    """Qwen3-VL-4B (config.json of Qwen/Qwen3-VL-4B-Instruct), images of 448 x 448 pixels as in GeoTempo's own pixel budget."""
    vision = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "out_hidden_size": 2560,
              "deepstack_visual_indexes": [5, 11, 17]}
    text = {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
            "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 262144}
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    side = 28
    if tiny:
        vision |= {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64, "deepstack_visual_indexes": [0]}
        text |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
                 "head_dim": 32, "vocab_size": 1024}
        rope["mrope_section"], side = [6, 5, 5], 4
    special = {f"{name}_token_id": text["vocab_size"] - 281 + at for at, name in enumerate(("image", "video", "vision_start", "vision_end"))}
    config = Qwen3VLConfig(vision_config=vision, text_config=text | {"rope_parameters": rope}, tie_word_embeddings=True, **special)
    return Shape(config, side * side, side * side // 4, config.image_token_id)


SHAPES = {"llava-7b": llava, "qwen3-vl-4b": qwen3_vl}


def build(shape: Shape, attention: str, device: str, dtype: torch.dtype, *, quantized: bool) -> PreTrainedModel:
    """The model with random weights on the device; the LLM's linear layers in nf4 where it is to be quantised, as QLoRA has them."""
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(shape.config, dtype=dtype, attn_implementation=attention)
    if quantized:
        quantize(model.model.language_model, device, dtype)
        model.is_loaded_in_4bit = True  # by this peft knows
    return model


def quantize(module: nn.Module, device: str, dtype: torch.dtype) -> None:
    """Replace linear layers by bitsandbytes' with nf4 weights, doubly quantised (Dettmers et al., arXiv 2305.14314)."""
    import bitsandbytes as bnb

    for name, child in module.named_children():
        if not isinstance(child, nn.Linear):
            quantize(child, device, dtype)
            continue
        layer = bnb.nn.Linear4bit(child.in_features, child.out_features, child.bias is not None, dtype, True, "nf4", device="meta")
        layer.weight = bnb.nn.Params4bit(child.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4").to(device)
        layer.bias = child.bias
        setattr(module, name, layer)
        del child


class RandomSamples(Dataset[Features]):
    """Samples of a fixed number of images between words; item i is a pure function of i.

    Questions have 40 to 120 tokens. Answers have 8 to 400, log-uniform: from a label to a list of a dozen boxes.

    Args:
        shape: The model.
        images: Of every sample.
        count: Number of samples.
    """

    def __init__(self, shape: Shape, images: int, count: int) -> None:
        self.shape, self.images = shape, images
        self.texts = [self._texts(index) for index in range(count)]

    @staticmethod
    def _texts(index: int) -> tuple[int, int]:
        rng = random.Random(index)
        return rng.randint(40, 120), round(math.exp(rng.uniform(math.log(8), math.log(400))))

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sample."""
        return [question + answer + self.images * self.shape.image_tokens for question, answer in self.texts]

    def start_epoch(self, epoch: int) -> None:
        """All epochs are alike."""

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Features:
        question, answer = self.texts[index]
        words = torch.randint(3, min(self.shape.image, 30000), (question + answer,), generator=torch.Generator().manual_seed(index))
        picture = torch.full((self.shape.image_tokens,), self.shape.image)
        cuts = [question * k // (self.images + 1) for k in range(1, self.images + 1)]
        parts = [piece for words_before in torch.tensor_split(words[:question], cuts)[:-1] for piece in (words_before, picture)]
        ids = torch.cat([*parts, words[cuts[-1] : question], words[question:]])
        labels = ids.clone()
        labels[: len(ids) - answer] = IGNORE
        kinds = {} if isinstance(self.shape.config, LlavaConfig) else {"mm_token_type_ids": (ids == self.shape.image).long()}
        return {"sample_id": str(index), "input_ids": ids, "labels": labels, "tokens": kinds, "images": self.shape.pictures(self.images)}


class RandomPacks(Dataset[list[Features]]):
    """Packs of random samples, as `packing.plan_packs` makes them."""

    def __init__(self, samples: RandomSamples, plan: Sequence[Sequence[int]]) -> None:
        self.samples, self.plan = samples, plan

    def start_epoch(self, epoch: int) -> None:
        """All epochs are alike."""

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> list[Features]:
        return [self.samples[sample] for sample in self.plan[index]]


def parameters(shape: Shape) -> int:
    """Parameters of the whole model, counted on the meta device."""
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(shape.config)
    return sum(parameter.numel() for parameter in model.parameters())
