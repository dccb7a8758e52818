"""An original TEOChat checkpoint as a `LlavaForConditionalGeneration` folder for transformers and vLLM.

TEOChat (Irvin et al., arXiv 2410.06234, github.com/ermongroup/TEOChat at 2ed7387) is Video-LLaVA with its image tower
only: CLIP ViT-L/14 of LanguageBind, a two-layer projector, Vicuna-7B. The stock class computes the same, so an import
renames tensors and writes configs; tokenizer and image preparation are `teochat_tokenizer` and `teochat_images`.

The result's config.json says `"geotempo_mode": "teochat"`, by which GeoTempo asks it in its own convention.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from tqdm import tqdm
from transformers import (
    CLIPImageProcessor,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from geotempo.model.checkpoints import check_source, disk_name, write_folder
from geotempo.model.errors import ModelError
from geotempo.model.teochat_images import CLIP_MEAN, CLIP_STD, TeoChatImageProcessor
from geotempo.model.teochat_tokenizer import build_tokenizer
from geotempo.model.teochat_weights import Collected, collect, refuse_wrong
from geotempo.model.tokenizer import IMAGE
from geotempo.model.weight_files import write_shards

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
IMAGE_PROCESSORS = {"exact": TeoChatImageProcessor, "stock": CLIPImageProcessor}

_TEXT_KEYS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
              "hidden_act", "max_position_embeddings", "rms_norm_eps")
# What transformers 4.31 took where a config of its time says nothing.
_TEXT_DEFAULTS = {"rope_theta": 10000.0, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
                  "pad_token_id": 0, "num_key_value_heads": None, "rope_scaling": None, "initializer_range": 0.02}
_VISION_KEYS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size",
                "patch_size", "hidden_act")
_VISION_OPTIONAL = ("projection_dim", "layer_norm_eps", "num_channels", "attention_dropout", "initializer_range")


@dataclass(frozen=True)
class ImportPlan:
    """What to import.

    Attributes:
        source: Folder of merged weights or of a LoRA run.
        out: Folder to write.
        vision: LanguageBind_Image folder, or its config.json; by default the source's own `vision_config` and tower.
        base: Folder of the model under a LoRA run.
        dtype: Key of `DTYPES`; by default what the source stores.
        image_processor: Key of `IMAGE_PROCESSORS`. `exact` binds GeoTempo's; `stock` writes `CLIPImageProcessor`,
            which runs without GeoTempo and gives other pixels.
        other_base_name: Accept an adapter that names another base.
    """

    source: Path
    out: Path
    vision: Path | None = None
    base: Path | None = None
    dtype: str | None = None
    image_processor: str = "exact"
    other_base_name: bool = False


@dataclass(frozen=True)
class Imported:
    """What was written.

    Attributes:
        parameters: Number of weights.
        dtype: Their type, by name.
        tower_from: Where the image tower came from.
        dropped: Tensors that were left out by design.
        image_tokens: Tokens per image.
    """

    parameters: int
    dtype: str
    tower_from: str
    dropped: list[str]
    image_tokens: int


def import_teochat(plan: ImportPlan) -> Imported:
    """Write the checkpoint; nothing is written before everything has been checked.

    Memory stays within one tensor above the mapped shard. `out` appears when it is whole.

    Raises:
        ModelError: The source is incomplete, of another architecture, or the output would overwrite something else.
        MissingExtraError: sentencepiece is not installed.
    """
    _check_folders(plan)
    options = (("dtype", plan.dtype, DTYPES), ("image processor", plan.image_processor, IMAGE_PROCESSORS))
    for what, name, known in options:
        if name is not None and name not in known:
            raise ModelError(f"unknown {what} {name!r}; choose from {', '.join(known)}")
    if not (plan.source / "config.json").is_file():
        raise ModelError(f"{plan.source} has no config.json; give the folder of an original TEOChat checkpoint or LoRA run")
    given = _read_json(plan.source / "config.json")
    config = make_config(given, _vision_config(plan, given), str(plan.source))
    processor = _processor(plan, config)
    vision_folder = plan.vision if plan.vision is not None and plan.vision.is_dir() else None
    found = collect(plan.source, plan.base, vision_folder, plan.other_base_name)
    _refuse_unmerged_tower(found, plan)
    refuse_wrong(found, _expected(config), str(plan.source))
    dtype = DTYPES[plan.dtype] if plan.dtype else found.dtype
    config.image_token_index = processor.image_token_id
    config.architectures, config.dtype = [LlavaForConditionalGeneration.__name__], dtype
    write_folder(plan.out, _filler(found, config, processor, dtype))
    found.close()
    parameters = sum(torch.Size(origin.shape).numel() for origin in found.origins.values())
    return Imported(parameters, str(dtype).removeprefix("torch."), found.tower_from, found.dropped,
                    config.image_seq_length)


def locate(name: str) -> Path:
    """A local file or folder as it is; anything else is downloaded from the Hugging Face hub (or found in its cache).

    Raises:
        ModelError: Neither exists.
    """
    if Path(name).exists():
        return Path(name).resolve()
    check_source(name, "Give the folder of an original TEOChat checkpoint, or a hub name owner/name")
    try:
        return Path(snapshot_download(name))
    except (OSError, ValueError, HfHubHTTPError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{name!r} is no local folder and cannot be had from the hub: {first}") from None


def make_config(given: dict[str, Any], vision: dict[str, Any], name: str) -> LlavaConfig:
    """The config of the result, from the original's two.

    Args:
        given: config.json of the original (`LlavaConfig` of TEOChat's time, model_type `llava`).
        vision: `vision_config` of LanguageBind_Image.
        name: Of the checkpoint, for messages.

    Raises:
        ModelError: The model is of another architecture, or a setting changes the result in a way that the stock class
            cannot follow.
    """
    _check_architecture(given, name)
    _check_tower(vision, name)
    text = {key: given[key] for key in _TEXT_KEYS}
    text |= {key: given.get(key, value) for key, value in _TEXT_DEFAULTS.items()}
    text["num_key_value_heads"] = text["num_key_value_heads"] or text["num_attention_heads"]
    tower = {key: vision[key] for key in (*_VISION_KEYS, *_VISION_OPTIONAL) if key in vision}
    whole = given.get("mm_vision_select_feature", "patch") == "cls_patch"
    return LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **tower},
        text_config={"model_type": "llama", **text},
        image_seq_length=(tower["image_size"] // tower["patch_size"]) ** 2 + whole,
        vision_feature_layer=given["mm_vision_select_layer"],
        vision_feature_select_strategy="full" if whole else "default",
        projector_hidden_act="gelu",
        multimodal_projector_bias=True,
        tie_word_embeddings=text["tie_word_embeddings"],
        bos_token_id=text["bos_token_id"], eos_token_id=text["eos_token_id"], pad_token_id=text["pad_token_id"],
        geotempo_mode="teochat",
    )


def _check_architecture(given: dict[str, Any], name: str) -> None:
    if "text_config" in given and given.get("model_type") == "llava":
        raise ModelError(f"{name} is a LLaVA checkpoint in the layout of transformers already; use it as it is")
    if given.get("model_type") not in ("llava", "llava_llama") or "mm_projector_type" not in given:
        raise ModelError(f"{name} is a {given.get('model_type')!r} model; an original TEOChat or Video-LLaVA "
                         "checkpoint is needed (model_type 'llava' with mm_* settings in config.json)")
    absent = [key for key in (*_TEXT_KEYS, "mm_vision_select_layer") if given.get(key) is None]
    if absent:
        raise ModelError(f"config.json of {name} lacks {', '.join(absent)}")
    if given["mm_projector_type"] != "mlp2x_gelu":
        raise ModelError(f"the projector of {name} is {given['mm_projector_type']!r}; TEOChat's is 'mlp2x_gelu', no "
                         "other can be imported")
    if given.get("mm_use_im_start_end") or given.get("mm_use_im_patch_token"):
        raise ModelError(f"{name} was trained with extra image tokens (mm_use_im_start_end or mm_use_im_patch_token); "
                         "TEOChat has none")


def _check_tower(vision: dict[str, Any], name: str) -> None:
    absent = [key for key in _VISION_KEYS if vision.get(key) is None]
    if absent:
        raise ModelError(f"the vision config for {name} lacks {', '.join(absent)}; they are not assumed, since another "
                         "activation changes answers. Give LanguageBind_Image's config.json, or its folder, with "
                         "--vision, or a copy of it in which they are written out")
    if vision.get("add_time_attn"):
        raise ModelError("the vision config has add_time_attn: it is a video tower with attention over time; give that "
                         "of LanguageBind_Image")


def _refuse_unmerged_tower(found: Collected, plan: ImportPlan) -> None:
    lora = [origin.label for name, origin in found.origins.items()
            if name.startswith("vision_tower.") and ".base_model." in name]
    if lora:
        raise ModelError(f"the image tower of {plan.source} carries an unmerged LoRA (lora_r in its vision config; "
                         f"{len(lora)} tensors, the first: {lora[0]}); give a merged LanguageBind_Image with --vision")


def _vision_config(plan: ImportPlan, given: dict[str, Any]) -> dict[str, Any]:
    if plan.vision is None:
        config, where = given, plan.source / "config.json"
    else:
        where = plan.vision / "config.json" if plan.vision.is_dir() else plan.vision
        config = _read_json(where)
    if not isinstance(config.get("vision_config"), dict):
        raise ModelError(f"{where} has no vision_config; give LanguageBind_Image's config.json, or its folder, with "
                         "--vision (huggingface.co/LanguageBind/LanguageBind_Image)")
    return dict(config["vision_config"]) | dict(config.get("vision_config_dict") or {})


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}") from None
    if not isinstance(found, dict):
        raise ModelError(f"{path} does not hold a JSON object")
    return found


def _check_folders(plan: ImportPlan) -> None:
    if not plan.source.is_dir():
        raise ModelError(f"{plan.source} is not a folder; give the folder of a TEOChat checkpoint")
    is_run = (plan.source / "adapter_config.json").is_file()
    if is_run and plan.base is None:
        raise ModelError(f"{plan.source} is a LoRA run; give the model that it was trained on with --base (the merged, "
                         "un-quantised Video-LLaVA-7B, or TEOChat for a fine-tuned one)")
    if plan.base is not None and not is_run:
        raise ModelError(f"{plan.source} is no LoRA run (it has no adapter_config.json), so --base does not apply")
    out = plan.out.resolve()
    for folder in (plan.source, plan.base, plan.vision):
        if folder is not None and (out == folder.resolve() or out in folder.resolve().parents):
            raise ModelError(f"--out {plan.out} would replace {folder}, which is read; choose another folder")
    is_other = plan.out.is_file() or (plan.out.is_dir() and any(plan.out.iterdir()))
    if is_other and not (plan.out / "config.json").is_file():
        raise ModelError(f"{plan.out} exists and is not a checkpoint; choose another --out")


def _processor(plan: ImportPlan, config: LlavaConfig) -> LlavaProcessor:
    homes = [folder for folder in (plan.source, plan.base) if folder is not None]
    home = next((folder for folder in homes if (folder / "tokenizer.model").is_file()), None)
    if home is None:
        raise ModelError(f"{' and '.join(map(str, homes))} have no tokenizer.model; copy Vicuna's (Llama's 32,000 "
                         "pieces) there")
    settings = _read_json(home / "tokenizer_config.json") if (home / "tokenizer_config.json").is_file() else {}
    tokenizer = build_tokenizer(home / "tokenizer.model", bool(settings.get("legacy", True)))
    if len(tokenizer) != config.text_config.vocab_size:
        raise ModelError(f"{home / 'tokenizer.model'} has {len(tokenizer)} pieces, config.json says "
                         f"{config.text_config.vocab_size}")
    side = config.vision_config.image_size
    images = IMAGE_PROCESSORS[plan.image_processor](
        size={"shortest_edge": side}, crop_size={"height": side, "width": side},
        image_mean=list(CLIP_MEAN), image_std=list(CLIP_STD),
    )
    return LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=config.vision_config.patch_size, image_token=IMAGE,
        vision_feature_select_strategy=config.vision_feature_select_strategy, num_additional_image_tokens=1,
        chat_template=(Path(__file__).parent / "teochat_template.jinja").read_text(encoding="utf-8"),
    )


def _expected(config: LlavaConfig) -> dict[str, tuple[int, ...]]:
    """Names on disk and shapes of the architecture; no memory is taken."""
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    return {disk_name(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _filler(found: Collected, config: LlavaConfig, processor: LlavaProcessor,
            dtype: torch.dtype) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        planned = found.planned()
        total = sum(torch.Size(tensor.shape).numel() for tensor in planned) * dtype.itemsize
        with tqdm(total=total, unit="B", unit_scale=True, desc="import") as bar:
            write_shards(folder, planned, dtype, bar.update)
        config.save_pretrained(folder)
        # Greedy: the original samples at 0.2, which makes its answers differ from run to run.
        GenerationConfig(do_sample=False, bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id,
                         pad_token_id=config.pad_token_id).save_pretrained(folder)
        processor.save_pretrained(folder)

    return fill
