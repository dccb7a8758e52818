"""What of a model is trained, and how it runs: LoRA and its kin, quantised weights, vision blocks, attention, fused kernels."""

import importlib.util
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from geotempo.finetune.recipe import LoraSection, ModelSection
from geotempo.model.bases import Base, base_of, lora_modules, module_of
from geotempo.model.errors import ConfigError, MissingExtraError, ModelError, require


def choose_dtype(section: ModelSection, *, lora: bool, bf16: bool) -> torch.dtype:
    """Type of the weights in memory: as the recipe says, else bfloat16 where they are frozen and the run computes in it."""
    if section.dtype != "auto":
        return getattr(torch, section.dtype)  # type: ignore[no-any-return]
    return torch.bfloat16 if lora and bf16 else torch.float32


def choose_attention(wanted: str, *, cuda: bool, half: bool) -> tuple[str, str]:
    """The attention implementation of a run.

    Args:
        wanted: `model.attention`.
        cuda: Whether the run is on a GPU.
        half: Whether it computes in 16 bit.

    Returns:
        Its name, and why it was chosen.

    Raises:
        ConfigError: flash-attn was asked for and cannot run here.
    """
    lacking = [what for what, there in (("a GPU", cuda), ("train.bf16 or train.fp16", half),
                                        ("the package flash-attn", installed("flash_attn"))) if not there]
    if wanted == "flash_attention_2" and lacking:
        raise ConfigError(f"model.attention: flash_attention_2 needs {' and '.join(lacking)}; auto or sdpa run without")
    if wanted != "auto":
        return wanted, "the recipe says so"
    if lacking:
        return "sdpa", f"flash-attn needs {' and '.join(lacking)}"
    return "flash_attention_2", "flash-attn is installed"


def installed(package: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def liger_default(*, cuda: bool) -> bool:
    """Whether Liger's fused kernels are used where the recipe says nothing: when they are there and can run."""
    return cuda and installed("liger_kernel")


def quantization(kind: str, base: Base, compute: torch.dtype) -> Any:
    """How bitsandbytes loads the base: linear layers of the LLM quantised, vision encoder and projector as they are.

    Args:
        kind: `nf4` or `int8`.
        base: Family of the model.
        compute: Type that quantised layers compute in.

    Raises:
        MissingExtraError: bitsandbytes is not installed.
    """
    require("bitsandbytes", "qlora", f"model.quantize: {kind}")
    from transformers import BitsAndBytesConfig

    kept = [f"model.{base.vision}", f"model.{base.projector}", "lm_head"]  # matched from the start of a module's name
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                              bnb_4bit_compute_dtype=compute, llm_int8_skip_modules=kept)


def vision_blocks(model: PreTrainedModel, count: int) -> list[str]:
    """Names of the last blocks of the vision encoder that the LLM's features pass through.

    A block behind the layer whose features are taken (LLaVA takes the last but one) learns nothing, so it does not count.

    Args:
        model: Of one of `geotempo.model.bases.BASES`.
        count: Blocks from the end.

    Raises:
        ConfigError: There are fewer.
    """
    base = base_of(model.config, str(model.config.name_or_path))
    stacks = [(name, module) for name, module in model.named_modules()
              if isinstance(module, nn.ModuleList) and f".{base.vision}." in f".{name}."]
    name, blocks = max(stacks, key=lambda pair: len(pair[1]))
    layers = getattr(model.config, "vision_feature_layer", None)
    # hidden_states[k] is what k blocks made; -1 is behind the last.
    ends = [layer if layer >= 0 else len(blocks) + 1 + layer
            for layer in ([layers] if isinstance(layers, int) else layers or [-1])]
    used = min(len(blocks), max(ends))
    if count > used:
        raise ConfigError(f"model.vision_blocks is {count}, the vision encoder has {used} blocks that the LLM sees")
    return [f"{name}.{number}" for number in range(used - count, used)]


def freeze(model: PreTrainedModel, section: ModelSection) -> None:
    """Exclude modules from training; of the vision tower, all but the last `vision_blocks` where they are asked for.

    Raises:
        ConfigError: Nothing is left to train.
    """
    blocks = tuple(f"{name}." for name in vision_blocks(model, section.vision_blocks)) if section.vision_blocks else ()
    for name, parameter in model.named_parameters():
        part = module_of(name)
        if part in section.freeze or (blocks and part == "vision_tower" and not name.startswith(blocks)):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(f"model.freeze = {list(section.freeze)} leaves nothing to train; remove one")


def add_lora(model: PreTrainedModel, section: LoraSection, blocks: int = 0) -> Any:
    """Adapters on the LLM only: vLLM silently ignores adapters on the projector, which is trained in full or not at all.

    Args:
        model: The base; its weights are frozen.
        section: The recipe's lora section.
        blocks: `model.vision_blocks`, trained in full beside the adapters.

    Raises:
        MissingExtraError: peft is not installed.
        ModelError: The base has none of the layers named in `lora.targets`.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise MissingExtraError("peft", "train", "LoRA training") from None
    base = base_of(model.config, str(model.config.name_or_path))
    full = ([base.projector] if section.projector else []) + (vision_blocks(model, blocks) if blocks else [])
    full += embeddings(model) if section.embeddings else []
    config = LoraConfig(r=section.r, lora_alpha=section.alpha, lora_dropout=section.dropout, use_rslora=section.rslora,
                        use_dora=section.dora, target_modules=lora_modules(base, tuple(section.targets)), task_type="CAUSAL_LM",
                        modules_to_save=full or None, ensure_weight_tying=section.embeddings and tied(model))
    try:
        wrapped = get_peft_model(model, config)
    except ValueError as error:
        raise ModelError(f"lora.targets {list(section.targets)} do not fit {base.name}: {str(error).splitlines()[0]}") from None
    # Rates of 1e-5 and below vanish in bfloat16's 8 bits: what learns is kept in float32, autocast computes as the run says.
    for parameter in trained(wrapped):
        parameter.data = parameter.data.float()
    return wrapped


def tied(model: PreTrainedModel) -> bool:
    """Whether the output layer's weights are the token embeddings."""
    return bool(model.get_output_embeddings().weight is model.get_input_embeddings().weight)


def embeddings(model: PreTrainedModel) -> list[str]:
    """Names of the token embeddings and, where it is not tied to them, of the output layer."""
    wanted = [model.get_input_embeddings()] + ([] if tied(model) else [model.get_output_embeddings()])
    return [name for name, module in model.named_modules() if any(module is one for one in wanted)]


def optimizer_groups(model: nn.Module, rates: Mapping[str, float], rate: float, decayed: Collection[str],
                     decay: float) -> dict[tuple[float, float], list[nn.Parameter]]:
    """What is trained, by (learning rate, weight decay).

    Args:
        model: Of one of `geotempo.model.bases.BASES`, or a PEFT wrapper of it.
        rates: Learning rate by module.
        rate: Of all others.
        decayed: Names of the parameters that decay.
        decay: Their weight decay.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = rates.get(module_of(name), rate), decay if name in decayed else 0.0
            groups.setdefault(key, []).append(parameter)
    return groups


def trained(model: nn.Module) -> Iterable[nn.Parameter]:
    """Parameters that are trained."""
    return (parameter for parameter in model.parameters() if parameter.requires_grad)
