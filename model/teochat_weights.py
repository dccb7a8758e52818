"""Where every tensor of an imported TEOChat model comes from: names, the image tower's two sources, LoRA merging."""

import json
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from geotempo.model.errors import ModelError
from geotempo.model.weight_files import Planned, WeightFiles, find_weights

_TOWER = "model.image_tower.image_tower."
# Original names -> names that vLLM 0.32 and transformers read; the first prefix that fits wins.
_NAMES = (
    (_TOWER, "vision_tower.vision_model."),
    ("model.mm_projector.0.", "multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "multi_modal_projector.linear_2."),
    ("model.mm_projector.", ""),  # another kind of projector: left to be reported under its own name
    ("lm_head.", "language_model.lm_head."),
    ("model.", "language_model.model."),
)
_PROJECTOR = "model.mm_projector."
_PEFT = "base_model.model."
_PLAIN_LORA: dict[str, Any] = {"peft_type": "LORA", "use_dora": False, "fan_in_fan_out": False, "bias": "none",
                               "rank_pattern": {}, "alpha_pattern": {}}


@dataclass(frozen=True)
class Origin:
    """One tensor of the original and how to get it.

    Attributes:
        label: Its name in the original, for messages.
        shape: Its shape.
        read: Gets it.
    """

    label: str
    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]


@dataclass
class Collected:
    """All tensors of a model.

    Attributes:
        origins: By their names in the result.
        dtype: Type in which the language model is stored.
        tower_from: Where the image tower was taken from, in words.
        dropped: Names that were left out by design.
        close: Lets go of the files.
    """

    origins: dict[str, Origin]
    dtype: torch.dtype
    tower_from: str
    dropped: list[str]
    files: list[WeightFiles]

    def planned(self) -> list[Planned]:
        """What to write, in the order of the files."""
        return [Planned(name, origin.shape, origin.read) for name, origin in self.origins.items()]

    def close(self) -> None:
        """Let go of all files."""
        for files in self.files:
            files.close()


@dataclass(frozen=True)
class Adapter:
    """A LoRA run as TEOChat's trainer saves it: adapter, its settings, and the projector."""

    folder: Path
    settings: dict[str, Any]
    lora: WeightFiles
    rest: WeightFiles

    @property
    def scale(self) -> float:
        """Factor of B A: alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA (Kalajdzievski, arXiv 2312.03732)."""
        rank, alpha = int(self.settings["r"]), float(self.settings["lora_alpha"])
        return alpha / (math.sqrt(rank) if self.settings.get("use_rslora") else rank)


def collect(source: Path, base: Path | None, vision: Path | None, other_base_name: bool) -> Collected:
    """Find every tensor of a model; nothing is loaded yet.

    Args:
        source: Folder with merged weights, or of a LoRA run.
        base: Folder with the weights under an adapter, where the source is a LoRA run.
        vision: Folder of a LanguageBind_Image model, whose tower wins over the source's (as in the original's
            loader), or None.
        other_base_name: Accept an adapter that names another base.

    Raises:
        ModelError: Files are missing or damaged, the adapter does not fit the base.
    """
    merged = WeightFiles(_weights(base or source))
    adapter = _open_adapter(source, base, other_base_name) if base is not None else None
    files = [merged, *([adapter.lora, adapter.rest] if adapter else [])]
    origins = {name: Origin(name, entry.shape, partial(merged.read, name)) for name, entry in merged.entries.items()}
    if adapter:
        origins |= _merged(adapter, origins)
        origins |= _projector(adapter)
    tower_from = f"the weights in {base or source}"
    if vision is not None and (found := find_weights(vision, "pytorch_model")):
        tower = WeightFiles(found)
        files.append(tower)
        origins = {name: origin for name, origin in origins.items() if not name.startswith(_TOWER)} | _tower(tower)
        tower_from = f"{vision} (it wins over the weights' own copy, which TEOChat's loader does not read either)"
    elif not any(name.startswith(_TOWER) for name in origins):
        raise ModelError(f"{base or source} has no image tower ({_TOWER}...); give a LanguageBind_Image folder with "
                         "its weights with --vision")
    kept = {name: origin for name, origin in origins.items() if not _by_design(name)}
    named = {_disk_name(name): origin for name, origin in kept.items()}
    dtype = next((entry.dtype for name, entry in merged.entries.items() if name == "lm_head.weight"), torch.float32)
    return Collected(named, dtype, tower_from, sorted(origins.keys() - kept.keys()), files)


def refuse_wrong(found: Collected, expected: dict[str, tuple[int, ...]], name: str) -> None:
    """Compare names and shapes with the architecture.

    Args:
        found: What there is.
        expected: Shapes by name in the result.
        name: Of the checkpoint.

    Raises:
        ModelError: Names the first missing, unexpected or misshapen tensors, as the original calls them.
    """
    origins = found.origins
    both = sorted(expected.keys() & origins.keys())
    shapes = [f"{origins[key].label} is {origins[key].shape}, not {expected[key]}" for key in both
              if origins[key].shape != expected[key]]
    faults = [("missing", sorted(map(_original_name, expected.keys() - origins.keys()))),
              ("unexpected", sorted(origins[key].label for key in origins.keys() - expected.keys())),
              ("of another shape", shapes)]
    words = [f"{len(names)} tensors {kind}: {_some(names)}" for kind, names in faults if names]
    if words:
        raise ModelError(f"the weights of {name} are not those of a TEOChat model with this config.json: "
                         f"{'; '.join(words)}")


def _weights(folder: Path) -> list[Path]:
    files = find_weights(folder, "pytorch_model")
    if not files:
        raise ModelError(f"{folder} has no weights; expected pytorch_model*.bin or model*.safetensors, or a LoRA run "
                         "with adapter_config.json")
    return files


def _some(names: Collection[str]) -> str:
    """The first few names."""
    return ", ".join(list(names)[:3]) + (", ..." if len(names) > 3 else "")


def _disk_name(name: str) -> str:
    for original, disk in _NAMES:
        if name.startswith(original):
            return disk + name.removeprefix(original) if disk else name
    return name


def _original_name(name: str) -> str:
    for original, disk in _NAMES:
        if disk and name.startswith(disk):
            return original + name.removeprefix(disk)
    return name


def _by_design(name: str) -> bool:
    """Whether a tensor is left out: buffers that are computed, and the video tower, which TEOChat never uses."""
    return name.endswith((".rotary_emb.inv_freq", "embeddings.position_ids")) or name.startswith("model.video_tower.")


def _tower(files: WeightFiles) -> dict[str, Origin]:
    """The vision part of a LanguageBind_Image model, under the original's names."""
    part = "vision_model."
    found = {_TOWER + name.removeprefix(part): Origin(name, entry.shape, partial(files.read, name))
             for name, entry in files.entries.items() if name.startswith(part)}
    unused = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")
    other = [name for name in files.entries if not name.startswith((part, *unused))]
    if other:
        raise ModelError(f"the --vision weights are not those of LanguageBind_Image: {len(other)} tensors unexpected: "
                         f"{_some(other)}")
    if not found:
        raise ModelError("the --vision weights hold no vision_model.*; give a LanguageBind_Image folder")
    return found


def _open_adapter(folder: Path, base: Path, other_base_name: bool) -> Adapter:
    try:
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        int(settings["r"]), float(settings["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / 'adapter_config.json'} is not the config of a LoRA adapter ({error})") from None
    for key, plain in _PLAIN_LORA.items():
        if settings.get(key) not in (plain, None):
            raise ModelError(f"the adapter in {folder} has {key} = {settings[key]!r}; only plain LoRA ({key} = "
                             f"{plain!r}) can be merged")
    wanted = str(settings.get("base_model_name_or_path") or "").rstrip("/").rpartition("/")[2]
    if wanted and wanted != base.resolve().name and not other_base_name:
        raise ModelError(f"the adapter in {folder} was trained on {wanted!r}, --base is {base.resolve().name!r}; give "
                         "the base that it was trained on, or add --other-base-name if this is a copy of it under "
                         "another name")
    lora, rest = find_weights(folder, "adapter_model"), folder / "non_lora_trainables.bin"
    if not lora or not rest.is_file():
        absent = "non_lora_trainables.bin (the projector)" if lora else "adapter_model.bin or .safetensors"
        raise ModelError(f"{folder} lacks {absent}")
    return Adapter(folder, settings, WeightFiles(lora), WeightFiles([rest]))


def _projector(adapter: Adapter) -> dict[str, Origin]:
    """The projector of the run: it was trained in full, so the base's must not be used."""
    found = {}
    for name, entry in adapter.rest.entries.items():
        # Saved through peft (base_model.model.model.mm_projector...) or, by some trainers, without.
        plain = name.removeprefix("base_model.").removeprefix("model.") if name.startswith("base_model.") else name
        if not plain.startswith(_PROJECTOR):
            raise ModelError(f"unexpected tensor {name} in {adapter.folder / 'non_lora_trainables.bin'}; only the "
                             f"projector ({_PEFT}{_PROJECTOR}*) is known")
        found[plain] = Origin(name, entry.shape, partial(adapter.rest.read, name))
    if len(found) != 4:
        raise ModelError(f"{adapter.folder / 'non_lora_trainables.bin'} holds {len(found)} of the projector's 4 "
                         "tensors")
    return found


def _merged(adapter: Adapter, base: dict[str, Origin]) -> dict[str, Origin]:
    """W + scale B A for every adapted layer, computed in float32."""
    pairs: dict[str, dict[str, str]] = {}
    for name in adapter.lora.entries:
        module, _, side = name.removeprefix(_PEFT).removesuffix(".weight").rpartition(".lora_")
        if side not in ("A", "B") or not name.startswith(_PEFT):
            raise ModelError(f"unexpected tensor {name} in the adapter of {adapter.folder}; only "
                             f"{_PEFT}*.lora_A/B.weight are known")
        pairs.setdefault(f"{module}.weight", {})[side] = name
    merged, wrong = {}, []
    for name, pair in pairs.items():
        if name in base and len(pair) == 2 and _fits(adapter, pair, base[name].shape):
            merged[name] = Origin(name, base[name].shape, partial(_add, base[name], adapter, pair["A"], pair["B"]))
        else:
            wrong.append(name)
    if wrong or not pairs:
        raise ModelError(f"the adapter in {adapter.folder} was trained for another base: {len(wrong)} of its "
                         f"{len(pairs)} layers are missing there or have other shapes: {_some(wrong)}")
    return merged


def _fits(adapter: Adapter, pair: dict[str, str], shape: tuple[int, ...]) -> bool:
    rank = int(adapter.settings["r"])
    down, up = adapter.lora.entries[pair["A"]].shape, adapter.lora.entries[pair["B"]].shape
    return len(shape) == 2 and down == (rank, shape[1]) and up == (shape[0], rank)


def _add(weight: Origin, adapter: Adapter, down: str, up: str) -> torch.Tensor:
    merged = weight.read().to(torch.float32, copy=True)  # the file's own must not change
    return merged.addmm_(adapter.lora.read(up).float(), adapter.lora.read(down).float(), alpha=adapter.scale)
