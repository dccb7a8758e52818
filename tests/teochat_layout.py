"""Checkpoints in TEOChat's original layout: random weights from a seed, any size, a tokenizer.model trained on the spot.

Hidden size 128 and 4 heads by default, since vLLM's CPU attention takes no head dimension under 32.
Also a script: `python tests/teochat_layout.py DIR` writes DIR/TEOChat-tiny (merged), DIR/LanguageBind_Image and
DIR/run-lora.
"""

import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file

SENTENCES = [
    "A chat between a curious user and an artificial intelligence assistant.",
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    "USER: These are two satellite images: Image 1: Image 2: Identify all changed buildings. ASSISTANT: ",
    "[3, 10, 27, 44], [60, 5, 88, 19].",
    "This is a sequence of high resolution, optical satellite images capturing the same location at different times.",
    "Were any buildings torn down? Yes, in Image 7, 0 1 2 3 4 5 6 8 9.",
    "No.USER: Yes.USER: 2.USER: Where?",  # as after `</s>`, without a blank
]


@dataclass(frozen=True)
class Sizes:
    """Sizes of the model; the image side is TEOChat's 224."""

    hidden: int = 128
    mlp: int = 352
    layers: int = 2
    heads: int = 4
    vocab: int = 480
    positions: int = 4096
    vision_hidden: int = 64
    vision_mlp: int = 128
    vision_layers: int = 3
    vision_heads: int = 4
    patch: int = 32


def text_config(sizes: Sizes) -> dict[str, Any]:
    """config.json as TEOChat's trainer writes it (the keys that matter)."""
    return {
        "model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"], "transformers_version": "4.31.0",
        "torch_dtype": "float32", "vocab_size": sizes.vocab, "hidden_size": sizes.hidden,
        "intermediate_size": sizes.mlp, "num_hidden_layers": sizes.layers, "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.heads, "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "max_position_embeddings": sizes.positions, "rope_scaling": None, "tie_word_embeddings": False, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2, "mm_image_tower": "LanguageBind/LanguageBind_Image",
        "mm_video_tower": "LanguageBind/LanguageBind_Video_merge",
        "mm_hidden_size": sizes.vision_hidden, "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False, "image_aspect_ratio": "pad", "use_mm_proj": True,
    }


def vision_config(sizes: Sizes) -> dict[str, Any]:
    """The `vision_config` of LanguageBind_Image's config.json."""
    return {
        "hidden_size": sizes.vision_hidden, "intermediate_size": sizes.vision_mlp, "num_hidden_layers": sizes.vision_layers,
        "num_attention_heads": sizes.vision_heads, "image_size": 224, "patch_size": sizes.patch, "projection_dim": 32,
        "hidden_act": "gelu", "layer_norm_eps": 1e-5, "add_time_attn": False, "num_frames": 1, "lora_r": 0,
    }


def tower_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Shapes of the image tower, without prefix."""
    wide, mlp = sizes.vision_hidden, sizes.vision_mlp
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.class_embedding": (wide,), "embeddings.patch_embedding.weight": (wide, 3, sizes.patch, sizes.patch),
        "embeddings.position_embedding.weight": ((224 // sizes.patch) ** 2 + 1, wide),
    }
    inside = [f"encoder.layers.{i}.layer_norm{k}" for i in range(sizes.vision_layers) for k in (1, 2)]
    for norm in ("pre_layrnorm", "post_layernorm", *inside):
        shapes |= {f"{norm}.weight": (wide,), f"{norm}.bias": (wide,)}
    for i in range(sizes.vision_layers):
        linear = {f"self_attn.{part}_proj": (wide, wide) for part in ("q", "k", "v", "out")}
        linear |= {"mlp.fc1": (mlp, wide), "mlp.fc2": (wide, mlp)}
        for part, shape in linear.items():
            shapes |= {f"encoder.layers.{i}.{part}.weight": shape, f"encoder.layers.{i}.{part}.bias": shape[:1]}
    return shapes


def layer_shapes(sizes: Sizes, layer: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the linear layers of one block of the language model, by full name without `.weight`."""
    wide, mlp = sizes.hidden, sizes.mlp
    attention = {f"self_attn.{part}_proj": (wide, wide) for part in "qkvo"}
    return {f"model.layers.{layer}.{part}": shape for part, shape in
            (attention | {"mlp.gate_proj": (mlp, wide), "mlp.up_proj": (mlp, wide), "mlp.down_proj": (wide, mlp)}).items()}


def model_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Shapes of everything but the tower, under the original's names."""
    wide = sizes.hidden
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (sizes.vocab, wide)}
    for i in range(sizes.layers):
        shapes |= {f"{name}.weight": shape for name, shape in layer_shapes(sizes, i).items()}
        shapes |= {f"model.layers.{i}.{norm}.weight": (wide,) for norm in ("input_layernorm", "post_attention_layernorm")}
        shapes[f"model.layers.{i}.self_attn.rotary_emb.inv_freq"] = (wide // sizes.heads // 2,)
    shapes["model.norm.weight"] = (wide,)
    for layer, size in ((0, sizes.vision_hidden), (2, wide)):
        shapes |= {f"model.mm_projector.{layer}.weight": (wide, size), f"model.mm_projector.{layer}.bias": (wide,)}
    return shapes | {"lm_head.weight": (sizes.vocab, wide)}


def random_tensors(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """Values at which every layer matters: matrices keep the scale of their input, norms lie around 1."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            values = 1 + 0.1 * values
        elif len(shape) == 1:
            values = 0.1 * values
        elif "embed" not in name or "patch_embedding" in name:
            values = values / (values[0].numel() ** 0.5)
        tensors[name] = values
    return tensors


def tokenizer_bytes(vocab: int, **settings: Any) -> bytes:
    """A `tokenizer.model` with Llama's settings: BPE, byte fallback, no normalisation, a blank before the text."""
    llama = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
             "remove_extra_whitespaces": False, "split_digits": True, "unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20), model_writer=model, vocab_size=vocab, hard_vocab_limit=False, minloglevel=2,
        **(llama | settings),
    )
    return model.getvalue()


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def write_weights(folder: Path, tensors: dict[str, torch.Tensor], shards: int = 2, ending: str = "bin") -> None:
    """`pytorch_model*.bin` or `model*.safetensors`, with an index if there are several."""
    stem = "pytorch_model" if ending == "bin" else "model"
    names = list(tensors)
    cut = -(-len(names) // shards)
    parts = [names[i : i + cut] for i in range(0, len(names), cut)]
    count = len(parts)
    files = [f"{stem}-{i:05d}-of-{count:05d}.{ending}" if shards > 1 else f"{stem}.{ending}" for i in range(1, count + 1)]
    for file, part in zip(files, parts, strict=True):
        state = {name: tensors[name] for name in part}
        if ending == "bin":
            torch.save(state, folder / file)
        else:
            save_file(state, folder / file, metadata={"format": "pt"})
    if shards > 1:
        total = sum(tensor.nbytes for tensor in tensors.values())
        weight_map = {name: file for file, part in zip(files, parts, strict=True) for name in part}
        write_json(folder / f"{stem}.{ending}.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def write_checkpoint(folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any], tokenizer: bytes, *,
                     shards: int = 2, ending: str = "bin", legacy: bool | None = None) -> Path:
    """A merged checkpoint from given weights and config."""
    folder.mkdir(parents=True)
    write_weights(folder, tensors, shards, ending)
    write_json(folder / "config.json", config)
    (folder / "tokenizer.model").write_bytes(tokenizer)
    if legacy is not None:
        write_json(folder / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer", "legacy": legacy})
    return folder


def write_merged(folder: Path, sizes: Sizes = Sizes(), seed: int = 0, **layout: Any) -> Path:
    """A merged checkpoint as it is published: the shards hold an fp16-rounded image tower, config.json no vision_config."""
    tensors = random_tensors(model_shapes(sizes), seed)
    tower = {f"model.image_tower.image_tower.{name}": tensor.half().float()
             for name, tensor in random_tensors(tower_shapes(sizes), seed + 1).items()}
    return write_checkpoint(folder, tensors | tower, text_config(sizes), tokenizer_bytes(sizes.vocab), **layout)


def write_vision(folder: Path, sizes: Sizes = Sizes(), seed: int = 1, weights: bool = True) -> Path:
    """A LanguageBind_Image folder: the same tower unrounded, beside a text part and a projection."""
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {"model_type": "LanguageBindImage", "vision_config": vision_config(sizes)})
    if weights:
        tower = {f"vision_model.{name}": tensor for name, tensor in random_tensors(tower_shapes(sizes), seed).items()}
        count = tower["vision_model.embeddings.position_embedding.weight"].shape[0]
        other = {"text_model.final_layer_norm.weight": torch.ones(32),
                 "visual_projection.weight": torch.ones(32, sizes.vision_hidden), "text_projection.weight": torch.ones(32, 32),
                 "logit_scale": torch.tensor(4.6),
                 "vision_model.embeddings.position_ids": torch.arange(count)[None]}
        torch.save(tower | other, folder / "pytorch_model.bin")
    return folder


def write_run(folder: Path, base: str, sizes: Sizes = Sizes(), seed: int = 7, rank: int = 4, ending: str = "bin",
              **settings: Any) -> Path:
    """A LoRA run on every linear layer of the language model, with its own projector."""
    folder.mkdir(parents=True)
    shapes = {}
    for layer in range(sizes.layers):
        for name, (rows, columns) in layer_shapes(sizes, layer).items():
            shapes |= {f"base_model.model.{name}.lora_A.weight": (rank, columns),
                       f"base_model.model.{name}.lora_B.weight": (rows, rank)}
    adapter = random_tensors(shapes, seed)
    if ending == "bin":
        torch.save(adapter, folder / "adapter_model.bin")
    else:
        save_file(adapter, folder / "adapter_model.safetensors")
    projector = {name: shape for name, shape in model_shapes(sizes).items() if "mm_projector" in name}
    torch.save({f"base_model.model.{name}": tensor for name, tensor in random_tensors(projector, seed + 1).items()},
               folder / "non_lora_trainables.bin")
    write_json(folder / "config.json", text_config(sizes))
    targets = sorted({name.rpartition(".")[2] for name in layer_shapes(sizes, 0)})
    write_json(folder / "adapter_config.json", {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank, "lora_dropout": 0.05,
        "bias": "none", "base_model_name_or_path": base, "fan_in_fan_out": False, "target_modules": targets} | settings)
    return folder


if __name__ == "__main__":
    root = Path(sys.argv[1])
    write_merged(root / "TEOChat-tiny")
    write_vision(root / "LanguageBind_Image")
    write_run(root / "run-lora", "TEOChat-tiny")
    print(f"wrote {root}; for example:\n"
          f"geotempo import-teochat {root}/TEOChat-tiny --vision {root}/LanguageBind_Image --out DIR")
