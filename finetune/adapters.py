"""LoRA adapters: what a folder holds, which base it belongs to, and the merge into that base's own 16-bit weights.

An adapter is a folder as PEFT writes it (`adapter_config.json`, `adapter_model.safetensors`). Other trainers, other
releases of transformers and wrappers (FSDP, `torch.compile`) name the same layers otherwise; names are brought to those of
the base as it stands in memory, and whatever is left over is an error: PEFT and vLLM both skip what they do not
recognise, and the answer is then the base's.
"""

import importlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel, ProcessorMixin

from geotempo.finetune.model_card import merged_card
from geotempo.model.bases import BASES, base_of
from geotempo.model.checkpoints import check_source, load_checkpoint, load_processor, reading, save_checkpoint
from geotempo.model.errors import InputError, MissingExtraError, ModelError
from geotempo.model.files import write_text

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT writes before the name of every module."""

# Settings of peft.LoraConfig that make more of a layer than W + s B A, so that no merge is exact.
PEFT_ONLY = ("alora_invocation_tokens", "arrow_config", "layer_replication", "target_parameters", "use_bdlora", "use_qalora")
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_NAMED = re.compile(r"\.(lora_[AB])\.\w+\.(weight|bias)$")  # a raw state dict has the adapter's name in between
_PARTS = re.compile(r"\.(?:lora_\w+|token_adapter|base_layer)(?:\.|$)")
# What else the modules of a base are called: by transformers before 4.52, on disk, and by the LLM trained alone.
_OTHER_NAMES = (
    ("language_model.model.", "model.language_model."), ("model.language_model.model.", "model.language_model."),
    ("language_model.lm_head", "lm_head"), ("vision_tower.vision_model.", "model.vision_tower."),
    ("model.vision_tower.vision_model.", "model.vision_tower."), ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."), ("visual.", "model.visual."), ("model.", "model.language_model."),
)


@dataclass(frozen=True)
class Adapter:
    """An adapter folder.

    Attributes:
        folder: Where it is.
        config: Its `adapter_config.json`, fields of `peft.LoraConfig`.
        tensors: Its weights, by the names of the file.
    """

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    @property
    def processor(self) -> bool:
        """Whether the processor of the training stands beside the weights."""
        return any((self.folder / name).is_file() for name in ("processor_config.json", "preprocessor_config.json"))


@dataclass(frozen=True)
class Layer:
    """One adapted layer: its update is alpha / rank * B A, or alpha / sqrt(rank) * B A with rsLoRA (arXiv 2312.03732)."""

    rank: int
    alpha: float


@dataclass(frozen=True)
class Fitted:
    """An adapter in the names of its base.

    Attributes:
        tensors: Weights as PEFT names them for this base, `base_model.model.` first.
        layers: Layers with an update, by module name.
        full: Parameters that are stored whole (`modules_to_save`, biases, embeddings), by name in the base.
        renamed: How many weights had another name in the file.
    """

    tensors: dict[str, torch.Tensor]
    layers: dict[str, Layer]
    full: tuple[str, ...]
    renamed: int


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
    return (folder / CONFIG).is_file()


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter folder.

    Raises:
        InputError: It holds no adapter, a damaged one, or one of another kind than LoRA.
    """
    if not is_adapter(folder):
        raise InputError(f"no adapter in {str(folder)!r}: it has no {CONFIG}; give the folder adapter (or checkpoint-N) of a LoRA run")
    if not (folder / WEIGHTS).is_file():
        pickled = " (adapter_model.bin is a pickle, which is not read: save it again with safe_serialization=True)"
        raise InputError(f"the adapter {str(folder)!r} has no {WEIGHTS}" + (pickled if (folder / "adapter_model.bin").exists() else ""))
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"the adapter {str(folder)!r} cannot be read: {error}") from None
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise InputError(f"{str(folder / CONFIG)!r} describes an adapter of type {kind!r}; only LORA can be merged or exported")
    if not isinstance(config.get("r"), int) or config["r"] < 1 or not isinstance(config.get("lora_alpha"), int | float):
        raise InputError(f"{str(folder / CONFIG)!r} needs r, a whole number above 0, and lora_alpha, a number")
    return Adapter(folder, config, tensors)


def find_base(adapter: Adapter, given: str | None = None) -> str:
    """Folder or hub name of the model that an adapter belongs to.

    Args:
        adapter: The adapter.
        given: The user's own choice, instead of what the adapter says.

    Returns:
        `given`, or the adapter's `base_model_name_or_path`; a relative folder is also looked for from the folders above the
        adapter, since it is written as it was called from the place of the training.

    Raises:
        ModelError: None is named, or it is not there.
    """
    named = given or adapter.config.get("base_model_name_or_path")
    advice = "name the folder or hub name of the model it was trained on with --base"
    if not named:
        raise ModelError(f"the adapter {str(adapter.folder)!r} does not say which model it was trained on; {advice}")
    if given is None and not Path(named).is_dir() and not Path(named).is_absolute():
        above = [parent / named for parent in adapter.folder.resolve().parents if (parent / named / "config.json").is_file()]
        named = str(above[0]) if above else named
    check_source(named, f"It is the base of the adapter {str(adapter.folder)!r}: {advice}")
    return str(named)


def skeleton(base: str) -> PreTrainedModel:
    """The base without weights: modules and shapes, on torch's `meta` device.

    Raises:
        ModelError: No config there, or not an image-text model of `geotempo.model.bases`.
    """
    with reading(base, "the base", "Name the model that the adapter was trained on with --base"):
        config = AutoConfig.from_pretrained(base)
    base_of(config, base)
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


def fit(adapter: Adapter, model: PreTrainedModel, base: str) -> Fitted:
    """Bring an adapter's weights to the names of its base.

    Args:
        adapter: The adapter.
        model: The base, with or without weights (`skeleton`).
        base: Its name, for messages.

    Raises:
        ModelError: Weights belong to no module of this base, have other shapes, come without their counterpart, or have
            another rank than the config says.
    """
    modules = dict(model.named_modules())
    tensors: dict[str, torch.Tensor] = {}
    origin: dict[str, str] = {}
    lost, renamed = [], 0
    for key, tensor in adapter.tensors.items():
        plain = _plain(key)
        if ".original_module." in plain:  # the base's own copy of a module that was trained in full
            continue
        found = next((name for name in _candidates(plain) if _split(name)[0] in modules), None)
        if found is None:
            lost.append(key)
            continue
        tensors[PREFIX + found] = tensor
        origin[_split(found)[0]] = _split(plain)[0]
        renamed += key != PREFIX + found
    if lost or not tensors:
        raise ModelError(f"the adapter {str(adapter.folder)!r} does not belong to {base!r}: {len(lost)} of its {len(adapter.tensors)} "
                         f"weights have no module there, e.g. {lost[:2]}; name the model it was trained on with --base")
    full = tuple(key.removeprefix(PREFIX) for key in tensors if ".lora_" not in key)
    return Fitted(tensors, _layers(adapter, tensors, origin, modules, base), full, renamed)


def merge_adapter(adapter: Path, out: Path, *, base: str | None = None) -> Path:
    """Merge an adapter into its base and write an ordinary checkpoint, for transformers and for vLLM.

    The base is read in the type its weights are stored in, never quantised: also an adapter trained on a quantised base
    (QLoRA, arXiv 2305.14314) goes into the 16-bit weights. The update is computed in float32, then rounded to their type. Needs
    memory for the base's weights and the adapter; the result is written tensor by tensor.

    Args:
        adapter: Folder as PEFT writes it: LoRA, rsLoRA or DoRA (arXiv 2402.09353), also with modules trained in full.
        out: Folder of the checkpoint. An older checkpoint there is replaced, anything else is refused.
        base: Folder or hub name of the base, where the adapter's own config does not say it.

    Returns:
        `out`, with the processor and chat template of the training, its recipe and its model card.

    Raises:
        InputError: The adapter cannot be read or merged, or `out` holds something else.
        ModelError: The base is missing, quantised, or another model than the adapter's.
        MissingExtraError: PEFT is not installed.
    """
    read = read_adapter(adapter)
    strange = [name for name in PEFT_ONLY if read.config.get(name)]
    if strange:
        raise InputError(f"the adapter {str(adapter)!r} uses {strange[0]}, which no merge can express; serve it with PEFT")
    name = find_base(read, base)
    _check_out(out, adapter, name)
    empty = skeleton(name)
    refuse_quantised(empty.config, name)
    fitted = fit(read, empty, name)
    config, processor = load_training_processor(read, name)
    model, _ = load_checkpoint(name, dtype="auto")
    whole = merged(_attach(model, read, fitted))
    if BASES[config.model_type].resolution == "tiles":
        whole.config.image_grid_pinpoints = config.image_grid_pinpoints
    save_checkpoint(whole, processor, out, whole.dtype)
    _copy_record(adapter, out, name)
    return out


def merged(model: Any) -> PreTrainedModel:
    """Merge the adapters of a PEFT model in memory.

    Raises:
        ModelError: Its base is quantised, or the result is not finite.
    """
    refuse_quantised(model.get_base_model().config, str(model.get_base_model().config.name_or_path))
    try:
        whole: PreTrainedModel = model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise ModelError(f"the adapter cannot be merged: {str(error).splitlines()[0]}") from None
    return whole.eval()


def refuse_quantised(config: Any, name: str) -> None:
    """Refuse a base whose weights are 4-bit or 8-bit numbers.

    Merged, the update would be rounded to those few values, and mostly lost.

    Raises:
        ModelError: With what to do instead.
    """
    found = getattr(config, "quantization_config", None)
    if found:
        method = found.get("quant_method") if isinstance(found, Mapping) else getattr(found, "quant_method", None)
        raise ModelError(f"{name!r} is quantised ({getattr(method, 'value', method)}), so an adapter merged into it would be rounded away; "
                         "write the adapter, and merge it into the 16-bit model that was quantised: geotempo merge ADAPTER --base MODEL")


def load_training_processor(adapter: Adapter, base: str) -> tuple[PreTrainedConfig, ProcessorMixin]:
    """Config and processor as the adapter was trained with them, chat template and pixel budget included.

    Args:
        adapter: The adapter; its own processor where one was saved beside it, else the base's with the budget that the
            recipe beside it names.
        base: Folder or hub name of the base.
    """
    if adapter.processor:
        return load_processor(base, own=adapter.folder)
    return load_processor(base, _max_pixels(adapter.folder))


def _plain(key: str) -> str:
    """A weight's name without what PEFT and wrappers put around it."""
    name = _WRAPPERS.sub("", key).removeprefix("module.")
    while name.startswith(PREFIX):
        name = name.removeprefix(PREFIX)
    name = _NAMED.sub(r".\1.\2", name).replace(".modules_to_save.default.", ".")
    return re.sub(r"\.(lora_magnitude_vector|lora_embedding_[AB])(?:\.\w+)*$", r".\1", name)


def _candidates(name: str) -> Iterator[str]:
    yield name
    for old, new in _OTHER_NAMES:
        if name.startswith(old):
            yield new + name.removeprefix(old)


def _split(name: str) -> tuple[str, str]:
    """Module and rest of a weight's name."""
    part = _PARTS.search(name)
    at = part.start() if part else name.rfind(".")
    return name[:at], name[at:]


def _layers(adapter: Adapter, tensors: Mapping[str, torch.Tensor], origin: Mapping[str, str], modules: Mapping[str, Any],
            base: str) -> dict[str, Layer]:
    """Rank and alpha of every adapted layer, checked against the base's shapes and the adapter's config."""
    layers = {}
    for module in dict.fromkeys(_split(key.removeprefix(PREFIX))[0] for key in tensors if ".lora_" in key):
        pairs = [(".lora_A.weight", ".lora_B.weight"), (".lora_embedding_A", ".lora_embedding_B")]
        pair = next(([tensors[PREFIX + module + part] for part in pair] for pair in pairs
                     if all(PREFIX + module + part in tensors for part in pair)), None)
        if pair is None:
            raise ModelError(f"the adapter {str(adapter.folder)!r} holds only one half (A or B) for {module!r}; it was not written whole")
        down, up = pair
        wanted = tuple(modules[module].weight.shape)
        if (up.shape[0], down.shape[1]) != (wanted if ".lora_embedding" not in _kind(tensors, module) else wanted[::-1]):
            raise ModelError(f"the adapter {str(adapter.folder)!r} does not fit {base!r}: its update of {module!r} is "
                             f"{up.shape[0]} x {down.shape[1]}, the layer is {wanted[0]} x {wanted[1]}; name its own base with --base")
        rank = _by_pattern(adapter.config.get("rank_pattern"), origin[module], adapter.config["r"])
        if not down.shape[0] == up.shape[1] == rank:
            raise ModelError(f"the adapter {str(adapter.folder)!r} has rank {down.shape[0]} in {module!r}, its {CONFIG} says {rank}; "
                             "config and weights are of two different adapters")
        layers[module] = Layer(int(rank), float(_by_pattern(adapter.config.get("alpha_pattern"), origin[module], adapter.config["lora_alpha"])))
    return layers


def _kind(tensors: Mapping[str, torch.Tensor], module: str) -> str:
    return ".lora_embedding" if f"{PREFIX}{module}.lora_embedding_A" in tensors else ".lora"


def _by_pattern(patterns: Mapping[str, float] | None, module: str, default: float) -> float:
    """PEFT's rule: the first pattern that is the end of the module's name, from a dot on."""
    return next((value for key, value in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _attach(model: PreTrainedModel, adapter: Adapter, fitted: Fitted) -> Any:
    """The base with the adapter on it; layer by layer what the weights say, whatever the config calls them."""
    try:
        peft: Any = importlib.import_module("peft")
    except ImportError:
        raise MissingExtraError("peft", "train", "merging an adapter") from None
    exact = {"target_modules": list(fitted.layers), "exclude_modules": None, "layers_to_transform": None, "layers_pattern": None,
             "rank_pattern": {re.escape(name): layer.rank for name, layer in fitted.layers.items()},
             "alpha_pattern": {re.escape(name): layer.alpha for name, layer in fitted.layers.items()}, "inference_mode": True}
    with reading(str(adapter.folder), "the adapter", "It may be of a newer release of PEFT"):
        wrapped = peft.get_peft_model(model, peft.LoraConfig.from_peft_type(**(adapter.config | exact)))
        left = peft.set_peft_model_state_dict(wrapped, dict(fitted.tensors)).unexpected_keys
    if left:
        raise ModelError(f"PEFT has no place for {len(left)} weights of the adapter {str(adapter.folder)!r}, e.g. {left[:2]}")
    return wrapped


def _check_out(out: Path, adapter: Path, base: str) -> None:
    """Refuse a folder whose content is no older result."""
    inside = [folder.resolve() for folder in (adapter, Path(base)) if folder.is_dir()]
    if any(out.resolve() in (folder, *folder.parents) for folder in inside):
        raise InputError(f"--out {str(out)!r} is, or holds, the adapter or its base; name a new folder")
    if out.exists() and not (out / "config.json").is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"--out {str(out)!r} exists and is no checkpoint; name a new folder")


def _max_pixels(folder: Path) -> int | None:
    """Pixel budget of the training, from the recipe that stands beside an adapter."""
    for path in (folder / "recipe.yaml", folder.parent / "recipe.yaml"):
        if path.is_file():
            with path.open(encoding="utf-8") as file:
                record = yaml.safe_load(file) or {}
            budget: int | None = record.get("recipe", {}).get("model", {}).get("max_pixels")
            return budget
    return None


def _copy_record(adapter: Path, out: Path, base: str) -> None:
    """Recipe and model card of the adapter, beside the merged weights."""
    for path in (adapter / "recipe.yaml", adapter.parent / "recipe.yaml"):
        if path.is_file():
            shutil.copyfile(path, out / "recipe.yaml")
            break
    if (adapter / "README.md").is_file():
        write_text(out / "README.md", merged_card((adapter / "README.md").read_text(encoding="utf-8"), base))
