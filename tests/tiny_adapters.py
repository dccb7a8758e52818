"""LoRA adapters with random weights on tiny bases, as PEFT itself writes them."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from geotempo.finetune.adapters import WEIGHTS
from geotempo.model.bases import base_of, lora_modules
from geotempo.model.checkpoints import load_checkpoint


def write_adapter(base: Path, folder: Path, *, strength: float = 0.1, seed: int = 0, dtype: Any = torch.float32, **config: Any) -> Any:
    """Write an adapter whose every trained weight has moved away from where PEFT starts it.

    Args:
        base: Checkpoint folder.
        folder: Where to.
        strength: Standard deviation of the move.
        seed: Of the move.
        dtype: Type of the base in memory.
        **config: Fields of `peft.LoraConfig`, over rank 4 and alpha 8 on the LLM's linear layers.

    Returns:
        The PEFT model.
    """
    model, _ = load_checkpoint(base, dtype)
    layers = lora_modules(base_of(model.config, str(base)))
    wrapped = get_peft_model(model, LoraConfig(**({"r": 4, "lora_alpha": 8, "target_modules": layers, "task_type": "CAUSAL_LM"} | config)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter += (torch.randn(parameter.shape, generator=generator) * strength).to(parameter.dtype)
    wrapped.save_pretrained(folder)
    return wrapped.eval()


def rename(folder: Path, old: str, new: str) -> None:
    """Rename the weights of an adapter, as another trainer would have called them."""
    tensors = load_file(folder / WEIGHTS)
    assert any(old in name for name in tensors)
    save_file({name.replace(old, new): tensor for name, tensor in tensors.items()}, folder / WEIGHTS)
