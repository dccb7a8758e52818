"""What a run was: recipe, arguments, data, versions and hardware, written beside everything that it leaves.

    record() --> OUT/recipe.yaml --Recorder--> OUT/checkpoint-N/recipe.yaml; --copy_record--> OUT/final/, OUT/adapter/

A run that is resumed is compared with the record of the checkpoint that it goes on from: `refuse_changes`.
"""

import hashlib
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import nn
from transformers import TrainerCallback, TrainingArguments

from geotempo import __version__
from geotempo.data_builders.leaks import Leaks
from geotempo.finetune.dataset import Mixture
from geotempo.finetune.provenance import licence_of
from geotempo.finetune.recipe import Recipe
from geotempo.model.errors import ConfigError
from geotempo.model.files import write_atomic, write_text

RECORD = "recipe.yaml"
PACKAGES = ("torch", "transformers", "tokenizers", "peft", "accelerate", "datasets", "deepspeed", "bitsandbytes", "flash-attn",
            "liger-kernel", "numpy", "pillow")
"""Distributions whose versions are recorded, where they are installed."""

# What a resumed run may have changed without a word: where and how often something is written and shown, and how the work is
# done, none of which the weights depend on.
_HARMLESS = frozenset({
    "model.save_dtype", "data.evaluate", "data.allow_leaks", "data.eval_samples", "data.watch", "data.store",
    "train.output_dir", "train.run_name", "train.project", "train.report_to", "train.disable_tqdm", "train.log_level",
    "train.log_level_replica", "train.log_on_each_node", "train.logging_dir", "train.logging_first_step", "train.logging_nan_inf_filter",
    "train.logging_steps", "train.logging_strategy", "train.save_steps", "train.save_strategy", "train.save_total_limit",
    "train.save_on_each_node", "train.enable_jit_checkpoint", "train.do_eval", "train.do_train", "train.do_predict", "train.eval_steps",
    "train.eval_strategy", "train.eval_delay", "train.eval_on_start", "train.eval_accumulation_steps", "train.per_device_eval_batch_size",
    "train.include_for_metrics", "train.include_num_input_tokens_seen", "train.load_best_model_at_end", "train.metric_for_best_model",
    "train.greater_is_better", "train.prediction_loss_only", "train.debug", "train.skip_memory_metrics", "train.gradient_checkpointing",
    "train.gradient_checkpointing_kwargs", "train.torch_empty_cache_steps", "train.dataloader_num_workers",
    "train.dataloader_pin_memory", "train.dataloader_persistent_workers", "train.dataloader_prefetch_factor",
    "train.dataloader_multiprocessing_context", "train.resume_from_checkpoint", "train.local_rank", "train.ddp_backend",
    "train.ddp_timeout", "train.ddp_bucket_cap_mb", "train.ddp_find_unused_parameters", "train.ddp_broadcast_buffers",
    "train.ddp_static_graph", "train.push_to_hub", "train.trackio_space_id", "train.trackio_bucket_id", "train.trackio_static_space_id"})
_HARMLESS_PREFIXES = ("train.hub_",)
# What changes the course or the rounding from here on, as its author may want; it is said.
_TOLD = frozenset({
    "train.num_train_epochs", "train.max_steps", "train.use_cpu", "train.tf32", "train.torch_compile", "train.torch_compile_backend",
    "train.torch_compile_mode", "train.use_liger_kernel", "train.liger_kernel_config", "train.full_determinism", "train.deepspeed",
    "train.fsdp", "train.fsdp_config", "train.accelerator_config", "train.parallelism_config", "model.attention", "attention"})
_BATCH = ("train.per_device_train_batch_size", "train.gradient_accumulation_steps")


class Change(NamedTuple):
    """A key whose value is another than in the record; `told` if a run may go on all the same."""

    key: str
    before: Any
    now: Any
    told: bool


def record(recipe: Recipe, args: TrainingArguments, dataset: Mixture, model: nn.Module, found: Leaks) -> dict[str, Any]:
    """What is known of a run before its first step.

    Args:
        recipe: What is trained.
        args: As resolved, with every default; secrets in it are not recorded.
        dataset: The samples, those set aside left out.
        model: As it is trained.
        found: What `provenance.examine` gave.

    Returns:
        Plain values: recipe, arguments, samples, data (sha256 of each file by store), trainable_parameters, attention, licence,
        leaks, versions and hardware.
    """
    config = getattr(model, "config", None)
    facts = {
        "recipe": recipe.to_dict(), "arguments": args.to_dict(), "samples": len(dataset), "data": dataset.fingerprint,
        # ZeRO-3 splits parameters and keeps the whole size beside them
        "trainable_parameters": sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters() if p.requires_grad),
        "attention": getattr(config, "_attn_implementation", None),
        "licence": licence_of(found).text,
        "leaks": {"evaluation": found.evaluation, **found.touched, "not_looked_at": found.not_looked_at},
        "versions": versions(), "hardware": hardware(args),
    }
    plain: dict[str, Any] = yaml.safe_load(_dump(facts))
    return plain


def versions() -> dict[str, str]:
    """Versions of Python, GeoTempo and those of `PACKAGES` that are installed."""
    found = {"python": platform.python_version(), "geotempo": __version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware(args: TrainingArguments) -> dict[str, Any]:
    """Device, number of processes and CPU cores of a run."""
    cuda = args.device.type == "cuda"
    return {"device": torch.cuda.get_device_name(args.device) if cuda else _cpu_name(), "processes": args.world_size,
            "cpus": os.cpu_count(), "system": platform.platform()}


def _cpu_name() -> str:
    """Name of the CPU; the architecture where Linux does not tell it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def write_record(facts: Mapping[str, Any], folder: Path) -> None:
    """Write a record into a folder, under its final name only when it is whole."""
    write_text(folder / RECORD, _dump(facts))


def copy_record(run: Path, folder: Path) -> None:
    """Put the record of a run beside a checkpoint that it leaves."""
    write_atomic(folder / RECORD, lambda temporary: shutil.copyfile(run / RECORD, temporary))


class Recorder(TrainerCallback):  # type: ignore[misc]  # transformers is Any to mypy
    """Puts a run's record into every checkpoint."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.facts = facts

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer when a checkpoint was written."""
        if state.is_world_process_zero:
            write_record(self.facts, Path(args.output_dir) / f"checkpoint-{state.global_step}")


def refuse_changes(facts: Mapping[str, Any], checkpoint: Path) -> list[Change]:
    """Compare a run with the record of the checkpoint that it is to go on from.

    A checkpoint holds the optimizer's moments and rates and the place in the order of the data, so a changed rate would have no
    effect and a changed order would show some samples twice and others never.

    Args:
        facts: The record of this run.
        checkpoint: Folder; its own record, or that of its run where it was killed before it had one.

    Returns:
        Changes that are allowed and worth saying. None where there is no record to compare with.

    Raises:
        ConfigError: The data, or a key that the model or the order of the data depends on, is another.
    """
    before = _read(checkpoint)
    found = changes(before, facts)
    refused = [change for change in found if not change.told]
    if refused:
        listed = "; ".join(f"{change.key} was {_short(change.before)} and is {_short(change.now)}" for change in refused)
        raise ConfigError(f"{checkpoint} was trained otherwise ({listed}), and a run that goes on from it would be neither the one nor the "
                          "other; put these back, start anew with --restart, or give the new run a train.output_dir of its own")
    return found


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Keys that differ between two records and matter.

    Args:
        before: Record of the checkpoint; of earlier versions it may lack parts, which are then not compared.
        now: Record of the run.
    """
    old, new = _flat(before), _flat(now)
    was, count = (facts.get("hardware", {}).get("processes") for facts in (before, now))
    spread = was is not None and was != count
    found = [Change("the number of processes", was, count, told=True)] if spread else []
    for key in sorted(old.keys() & new.keys()):
        harmless = key in _HARMLESS or key.startswith(_HARMLESS_PREFIXES)
        if old[key] != new[key] and not harmless:
            found.append(Change(key, old[key], new[key], key in _TOLD or (spread and key in _BATCH) or key.startswith("versions.")))
    if "data" in before and _digest(before) != _digest(now):
        found.append(Change("sha256 of the files in data.store", _digest(before), _digest(now), told=False))
    return found


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    """A record's recipe and arguments as `section.key`, versions as `versions.package`."""
    sections = {name: value for name, value in facts.get("recipe", {}).items() if name in ("model", "data", "lora")}
    sections["train"] = facts.get("arguments", {})
    flat = {f"{name}.{key}": value for name, values in sections.items() for key, value in (values or {}).items()}
    if "recipe" in facts:
        flat["lora"] = "given" if facts["recipe"].get("lora") else "not given"
    if facts.get("attention"):
        flat["attention"] = facts["attention"]
    return flat | {f"versions.{name}": value for name, value in facts.get("versions", {}).items()}


def _digest(facts: Mapping[str, Any]) -> str:
    """One hash of the files of all stores, in order; the stores may have moved."""
    hashes = [sorted(files.values()) for files in facts.get("data", {}).values()]
    return hashlib.sha256(repr(hashes).encode()).hexdigest()[:12]


def _read(checkpoint: Path) -> dict[str, Any]:
    for path in (checkpoint / RECORD, checkpoint.parent / RECORD):
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError):
            continue
        if isinstance(found, dict):
            return found
    return {}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def told(found: Sequence[Change]) -> list[str]:
    """Allowed changes in words."""
    return [f"going on with a change: {change.key} was {_short(change.before)} and is {_short(change.now)}" for change in found]


def forget_checkpoints(out: Path) -> None:
    """Remove the checkpoints of an earlier run, so that none of them is taken for one of the run that starts anew."""
    for path in out.glob("checkpoint-*"):
        shutil.rmtree(path)


def _dump(facts: Mapping[str, Any]) -> str:
    return yaml.safe_dump(_plain(facts), sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    """The value in what YAML has: mappings, lists, texts, numbers, truth and nothing."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    if value is None or type(value) in (str, int, float, bool):
        return value
    return str(value)
