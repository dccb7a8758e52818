"""Where a run's numbers go: TensorBoard by default, W&B and trackio by name (`train.report_to`)."""

import difflib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, TensorBoardCallback

from geotempo.model.errors import ConfigError, MissingExtraError

EXTRAS = {"tensorboard": "train", "wandb": "wandb", "trackio": "trackio"}
"""Extra of GeoTempo that brings a logger; transformers' other loggers are installed by hand."""
TENSORBOARD = "tensorboard"


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
            if importlib.util.find_spec(name) is None:
                raise MissingExtraError(name, EXTRAS[name], f"train.report_to: {name}")
            continue
        try:
            INTEGRATION_TO_CALLBACK[name]()
        except (RuntimeError, ImportError) as error:
            raise ConfigError(f"train.report_to: {name} does not start: {str(error).splitlines()[0]}") from None


def beside_the_run(out: Path) -> None:
    """Defaults of loggers that read the environment; what the user has set stays.

    W&B writes its files into the run's folder instead of the current one, and both name the project geotempo.
    """
    out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("WANDB_DIR", str(out))
    os.environ.setdefault("WANDB_PROJECT", "geotempo")


class TensorBoard(TensorBoardCallback):  # type: ignore[misc]  # transformers is Any to mypy
    """One TensorBoard run per training run, `output_dir/tensorboard`, however often that is resumed.

    transformers starts another one with each process. Here a resumed run goes on in the same one, and what was logged
    after the checkpoint that it goes on from is purged from the display, so no step is shown twice.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the files; the Trainer calls this after it has read the state of a resumed run."""
        if state.is_world_process_zero and self.tb_writer is None:
            folder = self.logging_dir or os.path.join(args.output_dir, TENSORBOARD)
            self.tb_writer = self._SummaryWriter(log_dir=folder, purge_step=state.global_step + 1)
        super().on_train_begin(args, state, control, **kwargs)
