"""Every base of `geotempo.model.bases` at tiny random size, with processors and chat templates in the style of the published ones.

Head dimension 32 in the LLM, since vLLM's CPU attention takes no less. Also a script: `python tests/tiny_bases.py FAMILY DIR`.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import (
    AutoModelForImageTextToText,
    LlavaNextConfig,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen3VLConfig,
    set_seed,
)

from geotempo.model.checkpoints import save_checkpoint
from geotempo.model.compose import Composition, compose
from geotempo.model.tokenizer import train_tokenizer

WORDS = ["USER: ASSISTANT: Image 1 (2021-08-03, Sentinel-2, 10 m): what changed between the two images? a new building",
         "<|im_start|>user assistant system You are a helpful assistant. Find all changed objects and give their boxes."] * 20
NEEDS_TORCHVISION = ("llava_onevision", "qwen2_5_vl", "qwen3_vl")

# Images before all text, as the published checkpoints of LLaVA have it.
_IMAGES_FIRST = ("{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
                 "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}BLANK{% endif %}{% endfor %}")
_VICUNA = ("{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
           + _IMAGES_FIRST.replace("BLANK", "{{ ' ' }}") + "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}")
_CHATML = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
           "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% endif %}{% endfor %}"
           "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ '\n' + part['text'] }}{% endif %}{% endfor %}"
           "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
_QWEN = ("{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
         "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
         "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
         "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
         "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")

_TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
         "max_position_embeddings": 4096, "tie_word_embeddings": False}
_VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64,
           "patch_size": 16}
_TILES = [[64, 128], [128, 64], [128, 128]]


def tokenizer(qwen: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer that knows the special tokens of the family."""
    backend = train_tokenizer(WORDS, 400).backend_tokenizer
    special = ["<|im_start|>", "<|im_end|>"]
    if qwen:
        special += ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
                                   extra_special_tokens={"image_token": "<|image_pad|>" if qwen else "<image>"})


def _ids(made: PreTrainedTokenizerFast, stop: str) -> dict[str, Any]:
    return {"pad_token_id": made.pad_token_id, "bos_token_id": made.bos_token_id, "eos_token_id": made.convert_tokens_to_ids(stop)}


def _llava() -> tuple[Any, Any]:
    """A LLaVA-1.5: composed, then with the template of the published checkpoints."""
    model, processor = compose(Composition("tiny-clip", "tiny-llama", _VISION, _TEXT, vocab_size=400), WORDS)
    processor.chat_template = _VICUNA
    return model, processor


def _llava_next() -> tuple[Any, Any]:
    words = tokenizer()
    config = LlavaNextConfig(
        vision_config={"model_type": "clip_vision_model", **_VISION}, text_config={"model_type": "llama", "vocab_size": 448, **_TEXT,
                                                                                   **_ids(words, "</s>")},
        image_token_index=words.convert_tokens_to_ids("<image>"), image_grid_pinpoints=_TILES, tie_word_embeddings=False,
        image_seq_length=16)
    images = LlavaNextImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, image_grid_pinpoints=_TILES)
    processor = LlavaNextProcessor(images, words, patch_size=16, vision_feature_select_strategy="default",
                                   num_additional_image_tokens=1, chat_template=_VICUNA)
    return _model(config, words, "</s>"), processor


def _llava_onevision() -> tuple[Any, Any]:
    from transformers import LlavaOnevisionImageProcessor, LlavaOnevisionProcessor, LlavaOnevisionVideoProcessor

    words = tokenizer()
    words.eos_token = "<|im_end|>"
    words.add_tokens([AddedToken("<video>", special=True, normalized=False)], special_tokens=True)
    config = LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", **_VISION}, text_config={"model_type": "qwen2", "vocab_size": 448, **_TEXT,
                                                                                     **_ids(words, "<|im_end|>")},
        image_token_index=words.convert_tokens_to_ids("<image>"), video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=_TILES, tie_word_embeddings=False, vision_feature_layer=-1)
    side = {"height": 64, "width": 64}
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=side, image_grid_pinpoints=_TILES), words, LlavaOnevisionVideoProcessor(size=side),
        num_image_tokens=16, vision_feature_select_strategy="full", chat_template=_CHATML)
    return _model(config, words, "<|im_end|>"), processor


def _qwen(config_class: Any, vision: dict[str, Any], rope: dict[str, Any], patch: int, processor_class: Any) -> tuple[Any, Any]:
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor, Qwen3VLVideoProcessor

    words = tokenizer(qwen=True)
    words.eos_token = "<|im_end|>"
    config = config_class(
        vision_config={"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "out_hidden_size": 64, "patch_size": patch,
                       **vision},
        text_config={"vocab_size": 448, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, **rope}, "head_dim": 32,
                     **_TEXT, **_ids(words, "<|im_end|>")},
        **{f"{name}_token_id": words.convert_tokens_to_ids(f"<|{token}|>") for name, token in (
            ("image", "image_pad"), ("video", "video_pad"), ("vision_start", "vision_start"), ("vision_end", "vision_end"))},
        tie_word_embeddings=False)
    size = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
    video = Qwen2VLVideoProcessor if config_class is Qwen2_5_VLConfig else Qwen3VLVideoProcessor
    processor = processor_class(Qwen2VLImageProcessor(patch_size=patch, size=size), words, video(patch_size=patch), chat_template=_QWEN)
    return _model(config, words, "<|im_end|>"), processor


def _qwen2_5_vl() -> tuple[Any, Any]:
    from transformers import Qwen2_5_VLProcessor

    return _qwen(Qwen2_5_VLConfig, {"fullatt_block_indexes": [1], "window_size": 112}, {"mrope_section": [4, 6, 6]}, 14, Qwen2_5_VLProcessor)


def _qwen3_vl() -> tuple[Any, Any]:
    from transformers import Qwen3VLProcessor

    vision = {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
    return _qwen(Qwen3VLConfig, vision, {"mrope_section": [6, 5, 5], "mrope_interleaved": True}, 16, Qwen3VLProcessor)


def _model(config: Any, words: PreTrainedTokenizerFast, stop: str) -> Any:
    """The model with random weights, wide enough that its greedy answers differ from prompt to prompt."""
    set_seed(0)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model.generation_config.do_sample = False
    model.generation_config.update(**_ids(words, stop))
    return model


BUILDERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llava": _llava, "llava_next": _llava_next, "llava_onevision": _llava_onevision, "qwen2_5_vl": _qwen2_5_vl, "qwen3_vl": _qwen3_vl}


def write(family: str, folder: Path) -> Path:
    """Write a checkpoint folder as a hub would hold it, with the base's own chat template."""
    set_seed(0)
    model, processor = BUILDERS[family]()
    with torch.no_grad():  # transformers starts at 0.02, where every prompt gets the same answer
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(4 if "embed_tokens" not in name else 20)
            elif name.endswith("image_newline"):
                parameter.normal_()
    save_checkpoint(model.eval(), processor, folder)
    return folder


if __name__ == "__main__":
    print(write(sys.argv[1], Path(sys.argv[2])))
