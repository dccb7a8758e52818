"""Where a run's numbers go: TensorBoard by default, W&B and trackio by name (`train.report_to`)."""

import difflib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, TensorBoardCallback, WandbCallback

from geotempo.model.errors import ConfigError, require
from geotempo.model.files import write_text

EXTRAS = {"tensorboard": "train", "wandb": "wandb", "trackio": "trackio"}
"""Extra of GeoTempo that brings a logger; transformers' other loggers are installed by hand."""
TENSORBOARD = "tensorboard"
WANDB_ID = "wandb_run_id.txt"
PROJECT = "geotempo"


def check_loggers(names: Sequence[str]) -> None:
    """Refuse a logger that is unknown or not installed before anything is loaded.

    Args:
        names: `TrainingArguments.report_to`, as a list.

    Raises:
        ConfigError: There is no such logger, with the nearest name; or one of transformers' others does not start.
        MissingExtraError: Its package is not installed, with the line that installs it.
    """
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            near = difflib.get_close_matches(name, INTEGRATION_TO_CALLBACK, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"train.report_to names the unknown logger {name!r}; {hint}allowed: none, "
                              f"{', '.join([*EXTRAS, *sorted(set(INTEGRATION_TO_CALLBACK) - set(EXTRAS))])}")
        if name in EXTRAS:
            require(name, EXTRAS[name], f"train.report_to: {name}")
            continue
        try:
            INTEGRATION_TO_CALLBACK[name]()
        except (RuntimeError, ImportError) as error:
            raise ConfigError(f"train.report_to: {name} does not start: {str(error).splitlines()[0]}") from None


class TensorBoard(TensorBoardCallback):  # type: ignore[misc]  # transformers is Any to mypy
    """One TensorBoard run per training run, `output_dir/tensorboard`, however often that is resumed.

    transformers starts another one with each process. Here a resumed run goes on in the same one, and what was logged
    after the checkpoint that it goes on from is purged from the display, so no step is shown twice.
    """

    tb_writer: Any

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the files; the Trainer calls this after it has read the state of a resumed run."""
        if state.is_world_process_zero and self.tb_writer is None:
            folder = self.logging_dir or os.path.join(args.output_dir, TENSORBOARD)
            self.tb_writer = self._SummaryWriter(log_dir=folder, purge_step=state.global_step + 1)
        super().on_train_begin(args, state, control, **kwargs)


class WeightsAndBiases(WandbCallback):  # type: ignore[misc]  # transformers is Any to mypy
    """One W&B run per training run, its files in `output_dir/wandb`.

    transformers writes into the current folder, starts another run with each process and leaves it open. `WANDB_PROJECT`,
    `WANDB_DIR`, `WANDB_RUN_ID` and the other variables of W&B keep their meaning.
    """

    def setup(self, args: Any, state: Any, model: Any, **kwargs: Any) -> None:
        """Begin the run, or go on with that of the checkpoint."""
        if state.is_world_process_zero and self._wandb.run is None:
            out = Path(args.output_dir)
            kept = out / WANDB_ID
            if state.global_step == 0 or not kept.exists():
                write_text(kept, secrets.token_hex(4) + "\n")
            name = os.environ.get("WANDB_RUN_ID") or kept.read_text(encoding="utf-8").strip()
            self._wandb.init(project=os.environ.get("WANDB_PROJECT", PROJECT), name=args.run_name, id=name, resume="allow",
                             dir=os.environ.get("WANDB_DIR", str(out)))
        super().setup(args, state, model, **kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the run, so that another one in this process does not go on with it."""
        super().on_train_end(args, state, control, **kwargs)
        if state.is_world_process_zero:
            self._wandb.finish()
            self._initialized = False


def use_own_loggers(trainer: Trainer) -> None:
    """Put `TensorBoard` and `WeightsAndBiases` in place of transformers' callbacks that the Trainer has."""
    for theirs, ours in ((TensorBoardCallback, TensorBoard), (WandbCallback, WeightsAndBiases)):
        if trainer.pop_callback(theirs):
            trainer.add_callback(ours())
