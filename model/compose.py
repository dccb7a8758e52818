"""Put a vision encoder, a projector and an LLM together as `LlavaForConditionalGeneration`.

The composition is TEOChat's (Irvin et al., arXiv 2410.06234) and LLaVA-1.5's: every image is encoded on its own, a
two-layer MLP projects the patch features of the second-to-last layer, the LLM reads them in the place of `<image>`.
Vision and LLM are any CLIP, SigLIP or SigLIP 2 (fixed resolution) and any Llama or Qwen2/Qwen3 checkpoint, by hub name or folder, or a tiny preset that
starts from random weights. The result is an ordinary Hugging Face folder that transformers and vLLM load.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from geotempo.model.checkpoints import reading
from geotempo.model.errors import ModelError
from geotempo.model.tokenizer import IMAGE, train_tokenizer

_TINY_VISION = {"hidden_size": 192, "intermediate_size": 576, "num_hidden_layers": 4, "num_attention_heads": 6,
                "image_size": 256, "patch_size": 32}
# vLLM's CPU attention wants a head dimension of 32 or more.
_TINY_LLM = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 6,
             "num_key_value_heads": 6, "max_position_embeddings": 2048, "tie_word_embeddings": True}
VISION_PRESETS: dict[str, type[PreTrainedConfig]] = {"tiny-clip": CLIPVisionConfig, "tiny-siglip": SiglipVisionConfig}
LLM_PRESETS: dict[str, type[PreTrainedConfig]] = {"tiny-llama": LlamaConfig, "tiny-qwen2": Qwen2Config}
_VISION_MODELS: dict[str, type[PreTrainedModel]] = {"clip_vision_model": CLIPVisionModel, "siglip_vision_model": SiglipVisionModel}
_LLM_TYPES = ("llama", "qwen2", "qwen3")


@dataclass(frozen=True)
class Composition:
    """What to put together.

    Attributes:
        vision: Hub name or folder of a CLIP or SigLIP model, or a key of `VISION_PRESETS`.
        llm: Hub name or folder of a Llama or Qwen2/Qwen3 model, or a key of `LLM_PRESETS`.
        vision_config: Overrides for a vision preset.
        llm_config: Overrides for an LLM preset.
        sincos_positions: Start a vision preset's position embeddings from 2-D sines and cosines (as in MoCo v3, Chen et al.,
            arXiv 2104.02057) instead of small random numbers, which a large patch's pixels drown.
        vocab_size: Vocabulary of the tokenizer that is trained for an LLM preset.
        seed: Seed of every random weight.
    """

    vision: str
    llm: str
    vision_config: dict[str, Any] = field(default_factory=dict)
    llm_config: dict[str, Any] = field(default_factory=dict)
    sincos_positions: bool = False
    vocab_size: int = 1024
    seed: int = 0


def compose(spec: Composition, texts: Iterable[str] = ()) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Build the model and its processor in memory.

    Args:
        spec: What to put together.
        texts: Training texts of the tokenizer; needed, and used, only for an LLM preset.

    Returns:
        The model in float32 with a fresh projector, and its processor with GeoTempo's chat template.

    Raises:
        ModelError: A checkpoint cannot be read or is of an architecture that does not fit.
    """
    torch.manual_seed(spec.seed)
    vision = _vision(spec)
    llm, tokenizer = _llm(spec, list(texts))
    image_token = tokenizer.convert_tokens_to_ids(IMAGE)
    is_clip = vision.config.model_type == "clip_vision_model"
    config = LlavaConfig(
        vision_config=vision.config.to_dict(),
        text_config=llm.config.to_dict(),
        image_token_index=image_token,
        # TEOChat and LLaVA-1.5 read CLIP's second-to-last layer and drop CLS. SigLIP has no CLS and is read at its end;
        # so is a preset, whose last layer would otherwise never learn anything.
        vision_feature_layer=-2 if is_clip and spec.vision not in VISION_PRESETS else -1,
        vision_feature_select_strategy="default" if is_clip else "full",
        image_seq_length=(vision.config.image_size // vision.config.patch_size) ** 2,
        tie_word_embeddings=bool(llm.config.tie_word_embeddings),
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(vision.state_dict())
    model.model.language_model.load_state_dict(llm.model.state_dict())
    model.lm_head.load_state_dict(llm.lm_head.state_dict())
    generation = model.generation_config
    generation.do_sample = False
    generation.pad_token_id, generation.bos_token_id = tokenizer.pad_token_id, tokenizer.bos_token_id
    generation.eos_token_id = tokenizer.eos_token_id
    return model.float(), _processor(vision.config, tokenizer, _image_processor(spec.vision, vision.config.image_size, is_clip))


def _read_config(name: str, what: str) -> PreTrainedConfig:
    with reading(name, f"the {what} model", _advice(what)):
        return AutoConfig.from_pretrained(name)


def _advice(what: str) -> str:
    presets = VISION_PRESETS if what == "vision" else LLM_PRESETS
    return f"Give a folder with a config.json and weights, a hub name, or a preset: {', '.join(presets)}"


def _vision(spec: Composition) -> PreTrainedModel:
    if spec.vision in VISION_PRESETS:
        config = VISION_PRESETS[spec.vision](**(_TINY_VISION | spec.vision_config))
        model = _VISION_MODELS[config.model_type](config)
        if spec.sincos_positions:
            _set_positions(model)
        return model
    config = _read_config(spec.vision, "vision")
    config = getattr(config, "vision_config", config)
    if config.model_type == "siglip2_vision_model":
        raise ModelError(f"{spec.vision!r} is a SigLIP 2 of variable resolution (naflex), which no LLaVA in vLLM encodes; give one "
                         "of fixed resolution, e.g. google/siglip2-so400m-patch16-384 (their config says 'siglip')")
    if config.model_type not in _VISION_MODELS:
        raise ModelError(f"{spec.vision!r} is of type {config.model_type!r}; the vision encoder must be one of "
                         f"{', '.join(_VISION_MODELS)}")
    with reading(spec.vision, "the vision model", _advice("vision")):
        return _VISION_MODELS[config.model_type].from_pretrained(spec.vision, dtype=torch.float32)


def _set_positions(vision: PreTrainedModel) -> None:
    """Overwrite the patches' position embeddings with sines and cosines of column and row; CLS keeps its own."""
    side, width = vision.config.image_size // vision.config.patch_size, vision.config.hidden_size
    if width % 4:
        raise ModelError(f"sincos_positions need a hidden size that is a multiple of 4, got {width}")
    rates = 1.0 / 10000 ** (torch.arange(width // 4) / (width // 4))
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [axis.reshape(-1, 1) * rates for axis in (columns, rows)]
    table = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
    weight = next(p for name, p in vision.named_parameters() if name.endswith("position_embedding.weight"))
    with torch.no_grad():
        weight[-side * side :] = table


def _llm(spec: Composition, texts: list[str]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if spec.llm in LLM_PRESETS:
        if not texts:
            raise ModelError(f"the preset {spec.llm!r} trains its own tokenizer and needs texts; give a store as corpus")
        tokenizer: PreTrainedTokenizerBase = train_tokenizer(texts, spec.vocab_size)
        # A multiple of 64 keeps the embedding friendly to GPU kernels and vLLM.
        rows = -(-len(tokenizer) // 64) * 64
        config = LLM_PRESETS[spec.llm](**(_TINY_LLM | {"vocab_size": rows} | spec.llm_config))
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32), tokenizer
    config = _read_config(spec.llm, "language")
    if config.model_type not in _LLM_TYPES:
        raise ModelError(f"{spec.llm!r} is of type {config.model_type!r}; the LLM must be one of {', '.join(_LLM_TYPES)}")
    with reading(spec.llm, "the language model", _advice("language")):
        llm = AutoModelForCausalLM.from_pretrained(spec.llm, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(spec.llm, extra_special_tokens={"image_token": IMAGE}, padding_side="right")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    if len(tokenizer) > llm.get_input_embeddings().weight.shape[0]:
        # The new row is never produced by the model; the mean of the others keeps its logit harmless.
        llm.resize_token_embeddings(len(tokenizer))
    return llm, tokenizer


def _image_processor(source: str, side: int, is_clip: bool) -> CLIPImageProcessor | SiglipImageProcessor:
    """Resize to the encoder's square and normalise as the encoder was trained.

    Images arrive square already (`geotempo.model.prompts.letterbox`), so there is no centre crop, which would cut off
    the sides of a wide scene.
    """
    kind = CLIPImageProcessor if is_clip else SiglipImageProcessor
    normal = {}
    if source not in VISION_PRESETS:
        try:
            given = kind.from_pretrained(source)
            normal = {"image_mean": given.image_mean, "image_std": given.image_std}
        except (OSError, ValueError):
            normal = {}  # weights without a preprocessor_config.json: the architecture's usual mean and deviation
    size = {"height": side, "width": side}
    # SigLIP's processor knows no crop, but LLaVA's counts an image's tokens by `crop_size`.
    return kind(size=size, do_center_crop=False, crop_size=size, **normal)


def _processor(vision: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase,
               images: CLIPImageProcessor | SiglipImageProcessor) -> LlavaProcessor:
    is_clip = vision.model_type == "clip_vision_model"
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=vision.patch_size,
        vision_feature_select_strategy="default" if is_clip else "full",
        num_additional_image_tokens=1 if is_clip else 0,
        chat_template=(Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8"),
    )
