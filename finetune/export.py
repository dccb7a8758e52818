"""Adapters for vLLM: what it would silently get wrong is mended, or refused with what to do instead.

vLLM reads the PEFT format, but not all of it, and says little. Read in the sources of 0.32 (`vllm/lora`) and tried on it:

* A weight is looked up by module name after its own renaming. A name that leads nowhere is dropped without a word, and the
  request is answered by the base. So are adapters on the vision encoder and on the projector.
* DoRA, biases, modules trained in full and inits that change the base (PiSSA, OLoRA, CorDA, LoftQ) are refused, at the first
  request where the adapter is loaded then.
* Memory is laid out for `--max-lora-rank`, 16 unless told, one of `RANKS`.
* Chat template and processor are the base's, whatever the adapter was trained with.
* Whole embeddings inside an adapter are skipped.
"""

import json
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoProcessor, PreTrainedConfig, ProcessorMixin

from geotempo.finetune.adapters import (
    CONFIG,
    PEFT_ONLY,
    PREFIX,
    WEIGHTS,
    Adapter,
    Fitted,
    find_base,
    fit,
    load_training_processor,
    read_adapter,
    skeleton,
)
from geotempo.model.bases import BASES, module_of
from geotempo.model.checkpoints import reading, write_folder
from geotempo.model.errors import ConfigError, InputError

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's `--max-lora-rank` (also 1, which no adapter of ours has)."""
WITHOUT_LORA = ("llava_onevision",)
"""Families whose class in vLLM 0.32 does not support LoRA."""
# Inits that keep the base's weights (vllm/lora/peft_helper.py).
_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
# Of an image processor: what a server can be told by --mm-processor-kwargs.
_PICTURE = ("size", "crop_size", "image_grid_pinpoints", "image_mean", "image_std", "do_resize", "do_center_crop", "do_pad", "resample")


@dataclass(frozen=True)
class Exported:
    """One adapter, as vLLM takes it.

    Attributes:
        name: What clients call the model.
        folder: Adapter folder to serve.
        rank: Highest rank of a layer.
        mended: What was changed, a sentence each.
    """

    name: str
    folder: Path
    rank: int
    mended: tuple[str, ...] = ()


@dataclass(frozen=True)
class Serving:
    """Adapters on one base, and how the server has to be started.

    Attributes:
        base: Folder or hub name of the base.
        adapters: In the order given.
        options: Further options of `vllm serve`, since the adapters were trained with another chat template or processor
            than the base brings along.
        reasons: Why each of `options` is there.
    """

    base: str
    adapters: tuple[Exported, ...]
    options: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def max_rank(self) -> int:
        """Smallest `--max-lora-rank` that all adapters fit into."""
        highest = max(adapter.rank for adapter in self.adapters)
        return next(rank for rank in RANKS if rank >= highest)

    def command(self, *, run_time: bool = False) -> str:
        """The command that starts the server.

        Args:
            run_time: Leave the adapters out; they are loaded later, see `load_requests`.
        """
        base = str(Path(self.base).resolve()) if Path(self.base).is_dir() else self.base
        words = ["vllm", "serve", base, "--enable-lora", "--max-lora-rank", str(self.max_rank), "--max-loras", str(len(self.adapters)),
                 *self.options]
        if run_time:
            return "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True " + shlex.join(words)
        return shlex.join([*words, "--lora-modules", *(f"{adapter.name}={adapter.folder.resolve()}" for adapter in self.adapters)])

    def load_requests(self) -> list[str]:
        """Commands that load the adapters into a running server, one each."""
        bodies = [json.dumps({"lora_name": adapter.name, "lora_path": str(adapter.folder.resolve())}) for adapter in self.adapters]
        return [shlex.join(["curl", "-X", "POST", "http://localhost:8000/v1/load_lora_adapter", "-H", "Content-Type: application/json",
                            "-d", body]) for body in bodies]


@dataclass(frozen=True)
class _Read:
    """An adapter with all that is checked."""

    adapter: Adapter
    name: str
    base: str
    fitted: Fitted
    config: PreTrainedConfig = field(repr=False)
    processor: ProcessorMixin = field(repr=False)


def export_vllm(folders: Sequence[Path], out: Path | None = None, *, base: str | None = None,
                names: Sequence[str] = ()) -> Serving:
    """Check adapters of one base for vLLM, mend what can be mended, and say how to serve them.

    Args:
        folders: Adapter folders, each from `geotempo train` or any other trainer that writes PEFT's format.
        out: Folder for adapters that have to be rewritten, one folder each; None puts them beside the originals
            (`adapter-vllm`). An adapter that vLLM reads as it is stays where it is, unless `out` is given.
        base: Their base, where their configs do not say it.
        names: What clients call them; by default the run's folder name.

    Raises:
        InputError: vLLM cannot serve an adapter, for the reasons named; or the adapters do not go together.
        ModelError: A base is missing or another one than the adapter's.
        ConfigError: Two adapters would have one name.
    """
    called = _names(folders, names)
    read = [_read(folder, name, base) for folder, name in zip(folders, called, strict=True)]
    for one in read:
        refuse(one.adapter, problems(one.adapter, one.fitted, one.base))
    if len({str(Path(one.base).resolve()) if Path(one.base).is_dir() else one.base for one in read}) > 1:
        raise InputError(f"one server has one base, these adapters have {', '.join(dict.fromkeys(one.base for one in read))}; "
                         "export them apart")
    options, reasons = _settings(read)
    exported = tuple(_write(one, out) for one in read)
    if "--chat-template" in options:
        options[options.index("--chat-template") + 1] = str((exported[0].folder / "chat_template.jinja").resolve())
    if options or not reasons:
        return Serving(read[0].base, exported, tuple(options), tuple(reasons))
    return Serving(str(_dressed(read[0], out)), exported, (), tuple(reasons))


def problems(adapter: Adapter, fitted: Fitted, base: str) -> list[str]:
    """Why vLLM cannot serve an adapter, a sentence each; empty if it can.

    Args:
        adapter: The adapter.
        fitted: The same in the names of its base.
        base: Folder or hub name of the base.
    """
    config = adapter.config
    found = [f"it uses {name}, which only PEFT knows" for name in PEFT_ONLY if config.get(name)]
    family = _family(base)
    if family in WITHOUT_LORA:
        found.append(f"vLLM has no LoRA for {BASES[family].name}")
    if config.get("use_dora") or any(".lora_magnitude_vector" in key for key in fitted.tensors):
        found.append("it is DoRA, which vLLM does not compute")
    if config.get("lora_bias") or config.get("bias", "none") != "none" or any(key.endswith(".bias") for key in fitted.tensors):
        found.append("it trains biases, which vLLM does not add")
    full = [name for name in fitted.full if not name.endswith(".bias")]
    if config.get("modules_to_save") or full:
        parts = sorted({module_of(name).replace("_", " ") for name in full}) or list(config["modules_to_save"])
        found.append(f"it holds whole weights of the {' and the '.join(parts)}, which vLLM takes from the base")
    outside = sorted({module_of(name).replace("_", " ") for name in fitted.layers} - {"language model"})
    if outside:
        found.append(f"it has layers in the {' and the '.join(outside)}, which vLLM ignores without an error")
    ends = sorted({name.rpartition(".")[2] for name in fitted.layers} & {"lm_head", "embed_tokens"})
    if ends:
        found.append(f"it has layers on {' and '.join(ends)}, which vLLM computes only for some models")
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower() not in _INITS:
        found.append(f"its init {init!r} changes the base's weights, which vLLM leaves as they are")
    rank = max((layer.rank for layer in fitted.layers.values()), default=0)
    if rank > RANKS[-1]:
        found.append(f"its rank is {rank}, vLLM's highest is {RANKS[-1]}")
    return found + _base_problems(base, family)


def refuse(adapter: Adapter, found: Sequence[str]) -> None:
    """Refuse an adapter that has problems.

    Raises:
        InputError: Names all of them and the way out.
    """
    if found:
        way = ("serve it with PEFT" if any("only PEFT" in text for text in found) else
               f"merge it and serve the result instead: geotempo merge {adapter.folder} --out DIR, then vllm serve DIR")
        raise InputError(f"vLLM cannot serve the adapter {str(adapter.folder)!r}: {'; '.join(found)}. Do this: {way}")


def _family(base: str) -> str:
    """`model_type` of a base that `skeleton` has accepted."""
    from transformers import AutoConfig

    return str(AutoConfig.from_pretrained(base).model_type)


def _base_problems(base: str, family: str) -> list[str]:
    """LLaVA's vision weights have other names on disk since transformers 5, which vLLM does not find."""
    if not BASES[family].vllm_names or not Path(base).is_dir():
        return []
    for file in sorted(Path(base).glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            wrong = [key for key in weights.keys()  # noqa: SIM118  # not iterable by itself
                     if key.removeprefix("model.").startswith("vision_tower.") and ".vision_model." not in key]
        if wrong:
            return [f"its base {base!r} was saved under names that vLLM does not find ({wrong[0]})"]
    return []


def _names(folders: Sequence[Path], names: Sequence[str]) -> list[str]:
    """One name each: as given, else the folder's, or that of the run around it."""
    if names and len(names) != len(folders):
        raise ConfigError(f"{len(folders)} adapters need as many names, got {len(names)}")
    called = list(names) or [folder.resolve().parent.name if folder.name == "adapter" else folder.resolve().name for folder in folders]
    twice = next((name for name in called if called.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"two adapters would be called {twice!r}; give each its name with --name")
    strange = next((name for name in called if not name or "=" in name or any(c.isspace() for c in name)), None)
    if strange is not None:
        raise ConfigError(f"{strange!r} cannot be the name of a served model; give one without blanks and '=' with --name")
    return called


def _read(folder: Path, name: str, base: str | None) -> _Read:
    adapter = read_adapter(folder)
    found = find_base(adapter, base)
    fitted = fit(adapter, skeleton(found), found)
    return _Read(adapter, name, found, fitted, *load_training_processor(adapter, found))


def _settings(read: Sequence[_Read]) -> tuple[list[str], list[str]]:
    """Options that make the server treat prompts and pictures as the training did, and why.

    Returns:
        Both empty where the base does so by itself; reasons without options where no option can say it (`_dressed`).

    Raises:
        InputError: The adapters were trained with different templates or processors, or with tokens that the base lacks.
    """
    with reading(read[0].base, "a processor", "Put its files into the folder"):
        plain = AutoProcessor.from_pretrained(read[0].base)
    wanted = [(one.processor.chat_template, _picture(one.processor), len(one.processor.tokenizer)) for one in read]
    for one, own in zip(read, wanted, strict=True):
        if own != wanted[0]:
            what = ("chat template", "image processor", "tokenizer")[[a == b for a, b in zip(own, wanted[0], strict=True)].index(False)]
            raise InputError(f"{str(one.adapter.folder)!r} was trained with another {what} than {str(read[0].adapter.folder)!r}; a server "
                             "has one: export them apart")
    template, picture, tokens = wanted[0]
    if tokens != len(plain.tokenizer):
        raise InputError(f"{str(read[0].adapter.folder)!r} was trained with {tokens} tokens, its base {read[0].base!r} has "
                         f"{len(plain.tokenizer)}; merge it and serve the result instead: geotempo merge ADAPTER --out DIR")
    options, reasons = [], []
    if template != plain.chat_template:
        options += ["--chat-template", ""]  # beside the first adapter, once that is written
        reasons.append("the base's own chat template renders other prompts than the training's")
    other = {key: value for key, value in picture.items() if value != _picture(plain).get(key)}
    if other:
        options += ["--mm-processor-kwargs", json.dumps(other)]
        reasons.append(f"the base's own image processor has another {', '.join(other)} than the training's")
    return ([] if "image_grid_pinpoints" in other else options), reasons


def _dressed(one: _Read, out: Path | None) -> Path:
    """The base with links to its weights, and the training's config and processor.

    No option of vLLM 0.32 carries a choice of tiles: `--mm-processor-kwargs` wants values it can hash, and lists of lists are none.

    Raises:
        InputError: The base is no folder, so that there is nothing to link to.
    """
    source = Path(one.base)
    target = out / "base" if out is not None else one.adapter.folder.with_name(f"{one.adapter.folder.name}-base")
    if not source.is_dir():
        raise InputError(f"{str(one.adapter.folder)!r} was trained with a choice of tiles that vLLM cannot be told by an option, and a base "
                         f"folder cannot be made of {one.base!r}; download it and give the folder with --base, or merge the adapter")
    if target.exists() and not (target / "config.json").is_file():
        raise InputError(f"{str(target)!r} exists and is no checkpoint; name another folder with --out")

    def fill(folder: Path) -> None:
        one.config.save_pretrained(folder)
        one.processor.save_pretrained(folder)
        for file in source.iterdir():
            if file.is_file() and not (folder / file.name).exists():
                (folder / file.name).symlink_to(file.resolve())

    write_folder(target, fill)
    return target


def _picture(processor: ProcessorMixin) -> dict[str, Any]:
    """What a processor does to a picture, as plain JSON values."""
    images = processor.image_processor
    values = {name: getattr(images, name, None) for name in _PICTURE}
    plain = {name: {k: v for k, v in dict(value).items() if v is not None} if name in ("size", "crop_size") and value else value
             for name, value in values.items()}
    return {name: json.loads(json.dumps(value)) for name, value in plain.items() if value is not None}


def _write(one: _Read, out: Path | None) -> Exported:
    """The adapter in the form vLLM reads; untouched where it is that already."""
    config, tensors, mended = _mended(one)
    rank = max(layer.rank for layer in one.fitted.layers.values())
    template = one.adapter.folder / "chat_template.jinja"
    if not template.is_file():
        mended.append("the chat template of the training stands beside it")
    if out is None and not mended:
        return Exported(one.name, one.adapter.folder, rank)
    target = out / one.name if out is not None else one.adapter.folder.with_name(f"{one.adapter.folder.name}-vllm")
    if target.resolve() == one.adapter.folder.resolve() or (target.exists() and not (target / CONFIG).is_file()):
        raise InputError(f"{str(target)!r} is the adapter itself, or holds something else; name another folder with --out")

    def fill(folder: Path) -> None:
        for file in one.adapter.folder.iterdir():
            if file.is_file() and file.name not in (CONFIG, WEIGHTS) and file.suffix not in (".bin", ".pt", ".pth"):
                shutil.copyfile(file, folder / file.name)
        one.processor.save_pretrained(folder)
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / WEIGHTS, metadata={"format": "pt"})
        (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    write_folder(target, fill)
    return Exported(one.name, target, rank, tuple(mended))


def _mended(one: _Read) -> tuple[dict[str, Any], dict[str, torch.Tensor], list[str]]:
    """Config and weights that say the same in the words vLLM reads; each change as a sentence."""
    config, tensors, layers = dict(one.adapter.config), dict(one.fitted.tensors), one.fitted.layers
    mended = []
    if one.fitted.renamed:
        mended.append(f"{one.fitted.renamed} weights were renamed to the modules of {Path(one.base).name}")
    if one.fitted.renamed or config.get("layers_to_transform") or config.get("exclude_modules"):
        config |= {"target_modules": sorted(layers), "exclude_modules": None, "layers_to_transform": None, "layers_pattern": None}
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        rank = max(layer.rank for layer in layers.values())
        for name, layer in layers.items():
            scale = layer.alpha / (layer.rank**0.5 if config.get("use_rslora") else layer.rank)
            _fold(tensors, name, rank, scale)
        config |= {"r": rank, "lora_alpha": rank, "rank_pattern": {}, "alpha_pattern": {}, "use_rslora": False}
        mended.append(f"ranks and scales by layer became one rank of {rank} and a scale of 1, by padding with zeros")
    elif config.get("use_rslora"):
        config |= {"lora_alpha": config["lora_alpha"] * config["r"] ** 0.5, "use_rslora": False}
        mended.append("rsLoRA's scale went into lora_alpha")
    return config, tensors, mended


def _fold(tensors: dict[str, torch.Tensor], name: str, rank: int, scale: float) -> None:
    """Give a layer's update another rank and the scale 1; the update stays what it is."""
    down, up = f"{PREFIX}{name}.lora_A.weight", f"{PREFIX}{name}.lora_B.weight"
    more = rank - tensors[down].shape[0]
    tensors[down] = torch.nn.functional.pad(tensors[down], (0, 0, 0, more))
    tensors[up] = torch.nn.functional.pad(tensors[up].float() * scale, (0, more)).to(tensors[up].dtype)
