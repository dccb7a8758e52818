"""A thin `transformers.Trainer`: learning rates by module, and epochs that reach the dataset."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.nn import functional
from torch.utils.data import Sampler
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer_pt_utils import get_length_grouped_indices

from geotempo.finetune import attention
from geotempo.finetune.dataset import IGNORE
from geotempo.finetune.methods import optimizer_groups
from geotempo.finetune.packing import PackedDataset
from geotempo.finetune.progress import Throughput
from geotempo.finetune.scale import PROCESSES, load_fsdp2_optimizer, seal, step_samples
from geotempo.model.checkpoints import reading


class Epochs(Protocol):
    """A dataset that draws anew in each epoch."""

    def start_epoch(self, epoch: int) -> None:
        """Called before the epoch's batches are drawn."""


class LengthSampler(Sampler[int]):
    """Random order in which neighbours, and so batches, are of similar length; a pure function of seed and epoch.

    Args:
        lengths: Length of each sample, in any unit.
        batch_size: Samples per batch.
        seed: Seed of the order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = list(lengths), batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Change the order; the Trainer calls this."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(hash((self.seed, self.epoch)))
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))


class EpochStarter(TrainerCallback):  # type: ignore[misc]  # transformers is Any to mypy
    """Tells a dataset which epoch begins, also when a run is resumed in the middle of one."""

    def __init__(self, dataset: Epochs) -> None:
        self.dataset = dataset

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer before the epoch's batches are drawn."""
        self.dataset.start_epoch(int(state.epoch or 0))


class GeoTempoTrainer(Trainer):  # type: ignore[misc]  # transformers is Any to mypy
    """Trainer with one learning rate per module.

    The loss of a step is the mean over all supervised tokens of its accumulated batches on all processes, so neither padding nor
    the size of packs changes it (`average_tokens_across_devices`, the default of TrainingArguments).

    Args:
        learning_rates: Learning rate by module; others use `args.learning_rate`. Schedules scale all alike.
        lengths: Tokens of each sample, for `train_sampling_strategy: group_by_length`.
        **kwargs: As for `transformers.Trainer`; `train_dataset` has `start_epoch`.

    Attributes:
        supervised_seen: Supervised tokens since this process began, over all processes.
        by_sample: Whether packs are attended to sample by sample (`geotempo.finetune.attention`).
        throughput: Measures tokens per second where a run is observed (`geotempo.finetune.observe`).
    """

    def __init__(self, *, learning_rates: Mapping[str, float], lengths: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Qwen-VL's classes say no though their loss takes the number of tokens (transformers 5.19): without it each batch would
        # count alike, however few tokens it has, and the size of packs would change the loss.
        self.model_accepts_loss_kwargs = True
        self.learning_rates, self.lengths = dict(learning_rates), lengths
        self.supervised_seen = 0
        self.throughput: Throughput | None = None
        self.by_sample = isinstance(self.train_dataset, PackedDataset) and attention.use(self.model)
        self.add_callback(EpochStarter(self.train_dataset))

    optimizer: Any

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The batches of one step and their number of supervised tokens, which is added up."""
        batches, supervised = super().get_batch_samples(*args, **kwargs)
        self.supervised_seen += int(supervised or 0)
        return batches, supervised

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; with the loss go the tokens per second since it was last logged (in place of transformers' mean since the start)."""
        if "loss" in logs and self.throughput is not None:
            logs = logs | self.throughput.rates()
        super().log(logs)

    def create_optimizer(self, model: Any = None) -> Any:
        """Group parameters by learning rate and weight decay, then build the optimizer that `args` names."""
        if self.optimizer is not None:
            return self.optimizer
        groups = optimizer_groups(self.model, self.learning_rates, self.args.learning_rate,
                                  set(self.get_decay_parameter_names(self.model)), self.args.weight_decay)
        kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        self.optimizer = kind([{"params": p, "lr": lr, "weight_decay": wd} for (lr, wd), p in groups.items()], **options)
        return self.optimizer

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The loss of a batch, without a cache of keys and values, and with logits only where there is something to learn.

        transformers 5.19 builds the mask of packs only where there is no cache, and LLaVA's LLM makes one by default, whatever the
        Trainer sets in the outer config: without a word, the samples of a pack would see one another.
        """
        given = {**inputs, "use_cache": False}
        if "labels" in given and not self.args.use_liger_kernel:  # Liger's fused loss makes no logits at all
            given |= supervised_positions(given["labels"])
        if not self.by_sample or "position_ids" not in given:
            return super().compute_loss(model, given, *args, **kwargs)
        with attention.no_mask():
            return super().compute_loss(model, given | {"spans": attention.spans_of(given["position_ids"])}, *args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """With `train_sampling_strategy: group_by_length`, group by the tokens that were counted before."""
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        return LengthSampler(self.lengths, step_samples(self.args), self.args.seed)  # one order for any number of processes

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: PreTrainedModel | None = None) -> None:
        """Load weights for resuming, all of them.

        transformers 5.19 reads the file's tensors straight into `load_state_dict(strict=False)`, but writes LLaVA under other
        names than it has in memory: nothing matches, nothing is said, and the run goes on from random weights. So a
        full model is read through `from_pretrained`, which knows the names, and loaded strictly.
        """
        target = model if model is not None else self.model
        # A PEFT wrapper's adapters and FSDP's shards are read by their own names.
        with _reading(resume_from_checkpoint):
            if not isinstance(target, PreTrainedModel) or self.is_fsdp_enabled:
                super()._load_from_checkpoint(resume_from_checkpoint, target)
                return
            saved = type(target).from_pretrained(resume_from_checkpoint, dtype=target.dtype)
            target.load_state_dict(saved.state_dict())

    def _run_epoch(self, **kwargs: Any) -> None:
        """One epoch; nothing where the last step was taken already, by a run that was stopped before its final folder was written.

        transformers 5.19 asks only after a step whether it was the last, so such a run would take one too many.
        """
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(**kwargs)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load both for resuming."""
        with _reading(checkpoint):
            if checkpoint is not None and self.is_fsdp_enabled:
                load_fsdp2_optimizer(self, Path(checkpoint))
            else:
                super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Load the states of the random generators for resuming."""
        with _reading(checkpoint):
            super()._load_rng_state(checkpoint)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save, and say at the very end how many processes wrote it."""
        super()._save_checkpoint(model, trial)
        seal(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}", self.args)


def _reading(checkpoint: str | None) -> AbstractContextManager[None]:
    """Turn what a damaged checkpoint raises into a `ModelError` that says how to go on."""
    return reading(str(checkpoint), "the state of a run", "Delete this folder and run again: the run goes on from the checkpoint "
                   "before it, or begins anew where there is none")


def supervised_positions(labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Arguments that let a model of transformers compute logits only at positions before a supervised token of any row.

    Answers are short beside images and questions, and a row of logits is as wide as the vocabulary: for 8,192 tokens and Qwen's 152,000
    words, 5 GB in float32, and as much for the gradient. The loss stays the same.

    Args:
        labels: Shape (B, T).

    Returns:
        logits_to_keep: positions, shape (K,); shift_labels: what is to be predicted there, shape (B, K).
    """
    ahead = functional.pad(labels[:, 1:], (0, 1), value=IGNORE)
    kept = (ahead != IGNORE).any(dim=0).nonzero()[:, 0]
    return {"logits_to_keep": kept, "shift_labels": ahead[:, kept]}


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in a run's folder that was written to its end by all processes; None if there is none.

    `seal` writes last, so a run killed while saving leaves a folder without a seal.
    """
    complete = []
    for path in sorted(folder.glob("checkpoint-*")):
        try:
            json.loads((path / PROCESSES).read_text(encoding="utf-8"))
            complete.append((int(json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]), path))
        except (OSError, ValueError, KeyError):
            print(f"{path} was not written to its end; it is left out")
    return max(complete)[1] if complete else None
