"""Training on several processes: DDP, DeepSpeed ZeRO-2 and ZeRO-3, and FSDP2, under `torchrun` or `accelerate launch`.

What the Trainer leaves open is here: shipped configurations by short name, processes without a GPU, whole weights out of split
ones, checkpoints that say how they were written, and resuming on another number of processes.

    resolve() -> TrainingArguments -> start() -> ... GeoTempoTrainer ... -> prepare_resume() -> train -> gather_weights()

Process 0 alone writes and prints; whatever all processes have to call is said to be *collective*.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from transformers import ProcessorMixin, TrainingArguments
from transformers.integrations import deepspeed as hf_deepspeed

from geotempo.finetune.dataset import IGNORE, Features, tokenize
from geotempo.finetune.methods import optimizer_groups
from geotempo.model.bases import module_of
from geotempo.model.errors import ConfigError, ModelError, require
from geotempo.model.files import write_text

CONFIGS = Path(__file__).parent / "configs"
PROCESSES = "processes.json"
"""In a checkpoint: processes, samples per step and sharding of the run that wrote it. Written last, when all have finished."""
_LAUNCH = "torchrun --nproc-per-node GPUS -m geotempo train RECIPE"
_FOREIGN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_BLANK = 56  # side in pixels of the stand-in image, two patches of Qwen-VL


def config_names() -> list[str]:
    """Short names of the shipped configurations that a recipe can name."""
    return sorted(path.stem for path in CONFIGS.glob("*.json"))


def resolve(given: Mapping[str, Any]) -> dict[str, Any]:
    """Put the path of a shipped file in the place of its short name.

    Args:
        given: A recipe's train section.

    Returns:
        A copy in which `deepspeed` and `fsdp_config` are paths or mappings; with `fsdp_config`, `fsdp` is on.

    Raises:
        ConfigError: The name is of no shipped configuration and no file, or the run was not started by a launcher.
        MissingExtraError: DeepSpeed is not installed.
    """
    train = dict(given)
    for key in ("deepspeed", "fsdp_config"):
        if isinstance(train.get(key), str):
            train[key] = _config_file(key, train[key])
    if train.get("fsdp_config"):
        train.setdefault("fsdp", True)
    if train.get("deepspeed"):
        require("deepspeed", "deepspeed", "train.deepspeed")
    asked = next((key for key in ("deepspeed", "fsdp") if train.get(key)), None)
    if asked and "LOCAL_RANK" not in os.environ:
        raise ConfigError(f"train.{asked} needs a launcher, also for one process: {_LAUNCH} (or accelerate launch)")
    return train


def _config_file(key: str, name: str) -> str:
    names = [known for known in config_names() if known.startswith("fsdp") == (key == "fsdp_config")]
    if name in names:
        return str(CONFIGS / f"{name}.json")
    if Path(name).is_file():
        return name
    raise ConfigError(f"train.{key} is {name!r}, which is no file; give a JSON file or one of the shipped {', '.join(names)}")


def sharding_of(args: TrainingArguments) -> str:
    """How the weights are split: `none`, `zero1`, `zero2`, `zero3` or `fsdp2`, whoever asked for it, recipe or launcher.

    Raises:
        ConfigError: FSDP of version 1, which transformers gives up.
    """
    if args.deepspeed_plugin is not None:
        return f"zero{args.deepspeed_plugin.zero_stage}"
    launched = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if args.fsdp_plugin_args is None and not launched:
        return "none"
    version = args.fsdp_plugin_args["fsdp_version"] if args.fsdp_plugin_args else int(os.environ.get("FSDP_VERSION", "1"))
    if version != 2:
        raise ConfigError(f"FSDP of version {version} is not supported; use version 2 (train.fsdp_config: fsdp2, or fsdp_version: 2 "
                          "in the launcher's file)")
    return "fsdp2"


def _state_dict_type(args: TrainingArguments) -> str:
    given = args.fsdp_plugin_args or {"state_dict_type": os.environ.get("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT")}
    return str(given["state_dict_type"])


def start(args: TrainingArguments, quantize: str | None) -> None:
    """Make what was asked for happen, also without a GPU; collective, before a model is read.

    accelerate 1.15 and transformers 5.19 split nothing on CPUs and say nothing: `cpu=True` there means DDP. DeepSpeed has to
    know the number of processes before ZeRO-3 reads the first weight, or it takes itself for alone.

    Args:
        args: The run's arguments; their process group is open.
        quantize: The recipe's `model.quantize`.

    Raises:
        ConfigError: The sharding cannot hold quantised weights.
    """
    kind = sharding_of(args)
    if kind in ("zero3", "fsdp2") and quantize:
        raise ConfigError(f"model.quantize: {quantize} does not go with {kind}, which cannot split bitsandbytes' weights; use "
                          "train.deepspeed: zero2 or no sharding (a 4-bit model is small), or leave model.quantize out")
    if kind == "none":
        return
    if kind == "fsdp2" and _state_dict_type(args) != "SHARDED_STATE_DICT":
        raise ConfigError(f"FSDP's state_dict_type is {_state_dict_type(args)!r}; set SHARDED_STATE_DICT, which resumes on any number of "
                          "processes (the final model is written in one piece all the same)")
    on_cpu = args.device.type == "cpu"
    if on_cpu:
        os.environ.pop("ACCELERATE_USE_CPU", None)  # read again by the Accelerator, which would then split nothing
    if kind == "fsdp2":
        if on_cpu:
            from accelerate import PartialState
            from accelerate.utils import DistributedType

            PartialState().distributed_type = DistributedType.MULTI_GPU  # of these it makes FSDP, of MULTI_CPU nothing
        return
    import deepspeed

    if on_cpu:
        # Its collectives over shared memory are compiled at the first run; a run killed meanwhile would block all later ones.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo" if on_cpu else None, auto_mpi_discovery=False, verbose=False)


def wrap_layers(model: nn.Module, args: TrainingArguments) -> None:
    """Name the layers that FSDP2 splits one by one; before the Trainer is made.

    A model of parts lists layers that it does not have (LLaVA: those of CLIP's text tower), over which accelerate 1.15 stumbles.

    Args:
        model: As it is trained.
        args: Changed, unless they name layers already.
    """
    if sharding_of(args) != "fsdp2":
        return
    there = {type(module).__name__ for module in model.modules()}
    names = ",".join(sorted(there & set(getattr(model, "_no_split_modules", None) or ())))
    if args.fsdp_plugin_args is not None:
        args.fsdp_plugin_args.setdefault("transformer_cls_names_to_wrap", names)
    else:
        os.environ.setdefault("FSDP_TRANSFORMER_CLS_TO_WRAP", names)


@contextmanager
def first_process_prints() -> Iterator[None]:
    """Inside, `print` of all processes but the first goes nowhere."""
    if int(os.environ.get("RANK", "0")) == 0:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


@contextmanager
def unsharded() -> Iterator[None]:
    """Inside, models are made and read whole, as if ZeRO-3 were off; not collective."""
    kept = hf_deepspeed._hf_deepspeed_config_weak_ref
    hf_deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        hf_deepspeed._hf_deepspeed_config_weak_ref = kept


def wait() -> None:
    """Wait for all processes; collective."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def agreed(value: Any) -> Any:
    """What the first process has, on all of them; collective."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


def gather_weights(model: nn.Module, args: TrainingArguments) -> dict[str, torch.Tensor] | None:
    """All weights of a model that was trained, under its own names; collective.

    Args:
        model: The Trainer's model.
        args: Of its run.

    Returns:
        The state dict on process 0, on the CPU where weights are split; None on all others.
    """
    kind, first = sharding_of(args), args.process_index == 0
    if kind == "zero3":
        return _gather_zero3(model, first)
    if kind == "fsdp2":
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        state: dict[str, Any] = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        return state if first else None
    return model.state_dict() if first else None


def _gather_zero3(model: nn.Module, first: bool) -> dict[str, torch.Tensor] | None:
    """One parameter after the other, so that no process holds more than one of them beside its share."""
    import deepspeed

    state = dict(model.state_dict()) if first else {}  # buffers, and the order; parameters are empty in it
    for name, parameter in model.named_parameters(remove_duplicate=False):
        with deepspeed.zero.GatheredParameters([parameter]):
            if first:
                state[name] = parameter.detach().cpu().clone()
    return state if first else None


# --- checkpoints -------------------------------------------------------------------------------------------------------------


def step_samples(args: TrainingArguments) -> int:
    """Samples (or packs) of one step over all processes."""
    return int(args.train_batch_size * args.gradient_accumulation_steps * args.world_size)


def seal(checkpoint: Path, args: TrainingArguments) -> None:
    """Say in a checkpoint how it was written, once all processes have written their part; collective.

    Args:
        checkpoint: `output_dir/checkpoint-N`.
        args: Of the run.
    """
    wait()
    if args.process_index == 0:
        facts = {"processes": args.world_size, "samples_per_step": step_samples(args), "sharding": sharding_of(args)}
        write_text(checkpoint / PROCESSES, json.dumps(facts) + "\n")


def prepare_resume(trainer: Any, checkpoint: Path) -> None:
    """Let a run go on from a checkpoint that other processes may have written; collective, before `trainer.train`.

    The same number of processes needs nothing. Another number: DDP and FSDP2 (`torch.distributed.checkpoint`) split anew while
    they read; ZeRO's optimizer states are turned into a universal checkpoint (Lian et al., arXiv 2406.18820) beside the old ones.
    That of a LoRA run holds the adapters only, which is enough: the frozen weights are read from the base.

    Args:
        trainer: The run's Trainer.
        checkpoint: A sealed checkpoint.

    Raises:
        ConfigError: The checkpoint was written with another sharding, or with more or fewer samples per step; or ZeRO with several
            groups of weights and another number of processes (off by 3e-3 in the loss after three steps of a toy model).
        ModelError: DeepSpeed cannot convert it.
    """
    args, facts = trainer.args, json.loads((checkpoint / PROCESSES).read_text(encoding="utf-8"))
    kind, samples = sharding_of(args), step_samples(args)
    anew = "or start anew with --restart (from the final folder of the old run, if it has one)"
    if kind != facts["sharding"]:
        raise ConfigError(f"{str(checkpoint)!r} was written with sharding {facts['sharding']!r}, this run has {kind!r}; use the "
                          f"same train.deepspeed or train.fsdp_config, {anew}")
    if samples != facts["samples_per_step"]:
        raise ConfigError(
            f"{str(checkpoint)!r} was written with {facts['samples_per_step']} samples per step, this run has {samples} "
            f"({args.world_size} processes x {args.train_batch_size} x {args.gradient_accumulation_steps} accumulated), so it would "
            f"see other samples; change train.gradient_accumulation_steps or train.per_device_train_batch_size, {anew}")
    if facts["processes"] == args.world_size or not kind.startswith("zero"):
        return
    if _several_groups(trainer):
        raise ConfigError(f"{str(checkpoint)!r} was written by {facts['processes']} processes, this run has {args.world_size}; with "
                          "train.weight_decay or model.learning_rates the optimizer has several groups of weights, which a universal checkpoint "
                          f"of DeepSpeed 0.19.8 does not bring back exactly; use {facts['processes']} processes or fsdp2, {anew}")
    if args.process_index == 0:
        to_universal(checkpoint)
    wait()
    trainer.accelerator.state.deepspeed_plugin.hf_ds_config.config.setdefault("checkpoint", {})["load_universal"] = True


def _several_groups(trainer: Any) -> bool:
    """Whether the optimizer will have more than one group: other rates by module, or decay on some weights only."""
    decayed = set(trainer.get_decay_parameter_names(trainer.model))
    return len(optimizer_groups(trainer.model, trainer.learning_rates, trainer.args.learning_rate, decayed, trainer.args.weight_decay)) > 1


def to_universal(checkpoint: Path) -> None:
    """Turn a checkpoint's ZeRO states into DeepSpeed's universal format, in the same folder; nothing is done twice.

    Args:
        checkpoint: `output_dir/checkpoint-N`, with a folder `global_stepN` and a file `latest` that names it.

    Raises:
        ModelError: The conversion fails.
    """
    if (checkpoint / "latest_universal").is_file():
        return
    tag = (checkpoint / "latest").read_text(encoding="utf-8").strip()
    target = checkpoint / f"{tag}_universal"
    shutil.rmtree(target, ignore_errors=True)
    print(f"converting {checkpoint / tag} for another number of processes")
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--input_folder", str(checkpoint / tag),
               "--output_folder", str(target), "--inject_missing_state"]
    env = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ModelError(f"DeepSpeed cannot convert {str(checkpoint)!r} for another number of processes: {said}; use as many "
                         "processes as have written it, or start anew with --restart")


def load_fsdp2_optimizer(trainer: Any, checkpoint: Path) -> None:
    """Load FSDP2's optimizer states and the schedule, on any number of processes; collective.

    accelerate 1.15 asks for a state of every parameter, but a parameter that gets no gradient (LLaVA's vision tower ends in a norm
    that nobody reads) has none. Such states are left at zero; a parameter with a part of its states missing is an error.

    Args:
        trainer: The run's Trainer, its model split.
        checkpoint: Written by FSDP2 as `SHARDED_STATE_DICT`.

    Raises:
        ModelError: The checkpoint lacks a part of a parameter's states.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = FileSystemReader(checkpoint / "optimizer_0")
    fresh: dict[str, Any] = dict(get_optimizer_state_dict(trainer.model, trainer.optimizer))
    prefix = "optimizer.state."
    stored = {key.removeprefix(prefix).rpartition(".")[0] for key in reader.read_metadata().state_dict_metadata if key.startswith(prefix)}
    read: dict[str, Any] = {"optimizer": fresh | {"state": {name: values for name, values in fresh["state"].items() if name in stored}}}
    try:
        load(read, storage_reader=reader)
    except (CheckpointException, RuntimeError) as error:
        raise ModelError(f"the optimizer's states in {str(checkpoint)!r} do not fit this run: {str(error).splitlines()[-1]}; start anew "
                         "with --restart") from None
    loaded = read["optimizer"] | {"state": fresh["state"] | read["optimizer"]["state"]}
    set_optimizer_state_dict(trainer.model, trainer.optimizer, loaded)
    trainer.lr_scheduler.load_state_dict(torch.load(checkpoint / "scheduler.pt", weights_only=True))


# --- batches without images --------------------------------------------------------------------------------------------------


def needs_stand_in(args: TrainingArguments, model: nn.Module, image_counts: Sequence[int]) -> bool:
    """Whether a batch without images needs one for show.

    A process that does not run the vision tower leaves the others waiting for its share of the tower's weights (ZeRO-3, FSDP2) or
    of their gradients (DDP without a search for unused parameters, ZeRO-2).

    Args:
        args: Of the run.
        model: The model, frozen as it is trained.
        image_counts: Images of each sample that is trained on or evaluated.
    """
    launched = args.world_size > 1 or torch.distributed.is_initialized()  # torchrun with one process waits for itself
    if not launched or not image_counts or min(image_counts) > 0 or max(image_counts) == 0:
        return False
    learns = any(parameter.requires_grad and module_of(name) != "language_model" for name, parameter in model.named_parameters())
    return learns or sharding_of(args) in ("zero3", "fsdp2")


def stand_in(processor: ProcessorMixin) -> Features:
    """The smallest sample with an image, none of its tokens supervised: it adds nothing to loss and gradient.

    Args:
        processor: Of the model.
    """
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "."}]},
                {"role": "assistant", "content": [{"type": "text", "text": "."}]}]
    made = tokenize(processor, messages, [Image.new("RGB", (_BLANK, _BLANK))], "stand-in for a batch without images")
    made["labels"] = torch.full_like(made["labels"], IGNORE)
    return made
