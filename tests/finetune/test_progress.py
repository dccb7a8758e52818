"""What a run prints, and where its numbers go."""

import importlib.util
import io
import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from geotempo.finetune import loggers
from geotempo.finetune.loggers import check_loggers
from geotempo.finetune.progress import Progress, Throughput, described
from geotempo.finetune.recipe import parse_recipe
from geotempo.finetune.train import train
from geotempo.model.errors import ConfigError, MissingExtraError

ROOT = Path(__file__).parents[2]


class Stream(io.StringIO):
    """A stream that is a terminal or is none."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


class Clock:
    """Seconds that pass only when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def played(bar: bool, lines: bool, disabled: bool = False) -> tuple[str, str]:
    """What a run of 4 steps writes to the two streams, an evaluation at step 2 included."""
    moving, still, clock = Stream(bar), Stream(lines), Clock()
    progress = Progress(moving, still, clock, disabled=disabled)
    args = SimpleNamespace()
    state = SimpleNamespace(is_world_process_zero=True, global_step=0, max_steps=4)
    progress.on_train_begin(args, state, None)
    clock.now = 100.0  # watched answers before the first step
    progress.on_epoch_begin(args, state, None)
    for step in (1, 2, 3, 4):
        clock.now += 30.0
        state.global_step = step
        progress.on_step_end(args, state, None)
        rates = {"tokens_per_second": 2000.0, "supervised_tokens_per_second": 250.0}
        progress.on_log(args, state, None, {"loss": 2.0 / step, "grad_norm": 1.0, "learning_rate": 1e-3, "epoch": step / 4, **rates})
        if step == 2:
            progress.on_prediction_step(args, state, None, eval_dataloader=[1, 2])
            progress.on_log(args, state, None, {"eval_loss": 1.25, "eval_runtime": 1.0, "epoch": 0.5})
            progress.on_evaluate(args, state, None)
    progress.on_log(args, state, None, {"train_runtime": 75.0, "train_loss": 0.9, "epoch": 1.0})
    progress.on_train_end(args, state, None)
    return moving.getvalue(), still.getvalue()


def test_a_file_gets_one_line_per_logging_step_with_loss_rates_and_time_left() -> None:
    moving, still = played(bar=False, lines=False)
    assert moving == ""
    lines = still.splitlines()
    assert len(lines) == 6
    assert lines[0] == ("step 1 of 4, epoch 0.25: loss 2.0000, gradient norm 1, learning rate 1.00e-03, "
                        "250 supervised and 2,000 tokens/s in all, 01:30 left")
    assert lines[1].endswith("01:00 left")
    assert lines[2] == "step 2 of 4, epoch 0.50: eval loss 1.2500"
    assert lines[5] == "step 4 of 4, epoch 1.00: done in 01:15, mean loss 0.9000"


def test_a_terminal_gets_one_line_that_moves() -> None:
    moving, still = played(bar=True, lines=True)
    assert still == ""
    assert moving.count("\n") == 1  # the last thing written: the finished line stays
    last = moving.split("\r")[-1].strip()
    assert re.match(r"training: 100 %\|.+\| step 4 of 4, loss", last)
    assert "loss 0.5000, 250 supervised and 2,000 tokens/s in all, eval loss 1.2500" in last
    assert "left" in last
    assert "{'loss'" not in moving


def test_a_pipe_behind_a_terminal_gets_both_and_disable_tqdm_only_the_lines() -> None:
    moving, still = played(bar=True, lines=False)
    assert "step 4 of 4" in moving
    assert len(still.splitlines()) == 6
    moving, still = played(bar=True, lines=True, disabled=True)
    assert moving == ""
    assert len(still.splitlines()) == 6


def test_only_the_first_process_speaks() -> None:
    moving, still = Stream(True), Stream(False)
    progress = Progress(moving, still)
    state = SimpleNamespace(is_world_process_zero=False, global_step=1, max_steps=4)
    progress.on_epoch_begin(None, state, None)
    progress.on_log(None, state, None, {"loss": 1.0})
    progress.on_train_end(None, state, None)
    assert moving.getvalue() == still.getvalue() == ""


def test_what_is_no_news_is_not_printed() -> None:
    assert described({"epoch": 1.0, "eval_runtime": 2.0, "total_flos": 1e9, "num_input_tokens_seen": 5}) == {}


def test_evaluating_and_saving_are_no_time_of_training() -> None:
    clock, seen = Clock(), [0, 0]
    throughput = Throughput(lambda: (seen[0], seen[1]), clock)
    assert throughput.rates() == {}

    def step(seconds: float) -> None:
        clock.now += seconds
        seen[0] += 1000
        seen[1] += 100
        throughput.on_step_end(None, None, None)

    clock.now = 50.0  # watched answers before the first step
    throughput.on_epoch_begin(None, None, None)
    step(2.0)
    step(2.0)
    assert throughput.rates() == {"tokens_per_second": 500.0, "supervised_tokens_per_second": 50.0}
    clock.now += 100.0  # an evaluation after the second step, after it was logged
    throughput.on_evaluate(None, None, None)
    clock.now += 10.0   # and a checkpoint
    throughput.on_save(None, None, None)
    step(5.0)
    clock.now += 30.0   # an evaluation between two logging steps
    throughput.on_evaluate(None, None, None)
    step(5.0)
    assert throughput.rates() == {"tokens_per_second": 200.0, "supervised_tokens_per_second": 20.0}


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.fixture
def watched_recipe(recipe: dict, val_store: Path) -> dict:
    """A recipe with a held-out split, evaluated every second step."""
    recipe["data"]["store"] = str(val_store)
    recipe["train"] |= {"eval_strategy": "steps", "eval_steps": 2, "max_steps": 4, "save_steps": 2}
    return recipe


def test_a_run_logs_its_rates_to_one_tensorboard_that_a_resumed_run_goes_on_with(watched_recipe: dict,
                                                                               capfd: pytest.CaptureFixture[str]) -> None:
    del watched_recipe["train"]["report_to"]  # TensorBoard is the default
    watched_recipe["train"] |= {"save_total_limit": None}
    out = train(parse_recipe(watched_recipe)).parent
    printed = capfd.readouterr()
    lines = [line for line in printed.out.splitlines() if line.startswith("step ")]
    assert len(lines) == 4 + 2 + 1
    assert "{" not in printed.out
    assert "it/s" not in printed.err  # no bar of loading or saving
    found = scalars(out / "tensorboard")
    assert [step for step, _ in found["train/loss"]] == [1, 2, 3, 4]
    assert [step for step, _ in found["eval/loss"]] == [2, 4]
    assert all(rate > 0 for _, rate in found["train/supervised_tokens_per_second"])
    assert all(every > some for (_, every), (_, some) in zip(found["train/tokens_per_second"],
                                                           found["train/supervised_tokens_per_second"], strict=True))
    # as if killed after step 4 was logged and before its checkpoint was whole
    (out / "checkpoint-4" / "trainer_state.json").unlink()
    train(parse_recipe(watched_recipe))
    again = scalars(out / "tensorboard")
    assert [step for step, _ in again["train/loss"]] == [1, 2, 3, 4]
    assert again["train/loss"][:2] == found["train/loss"][:2]
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "tokens_per_second" in entry] == [1, 2, 3, 4]
    assert (out / "curves.png").is_file()


def test_rates_count_the_tokens_that_were_trained_on(watched_recipe: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    rates = Throughput.rates
    monkeypatch.setattr(Throughput, "rates", lambda self: counts.append(self._counts()) or rates(self))
    watched_recipe["train"] |= {"per_device_train_batch_size": 16, "eval_strategy": "no", "max_steps": 1}
    train(parse_recipe(watched_recipe))
    from geotempo.finetune.dataset import IGNORE, Mixture
    from geotempo.finetune.recipe import DataSection
    from geotempo.model.checkpoints import load_checkpoint

    _, processor = load_checkpoint(Path(watched_recipe["train"]["output_dir"]) / "final")
    rows = list(Mixture(DataSection(watched_recipe["data"]["store"]), processor, 0))
    assert len(rows) == 12  # one batch holds them all
    every, supervised = counts[-1]
    assert every == sum(len(row["input_ids"]) for row in rows)
    assert supervised == sum(int((row["labels"] != IGNORE).sum()) for row in rows)


def test_loggers_that_are_unknown_or_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="did you mean 'wandb'"):
        check_loggers(["wanbd"])
    with pytest.raises(ConfigError, match=r"clearml does not start: .*pip install clearml"):
        check_loggers(["clearml"])
    check_loggers(["tensorboard"])
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in loggers.EXTRAS else find(name))
    for name, extra in (("wandb", "wandb"), ("trackio", "trackio"), ("tensorboard", "train")):
        with pytest.raises(MissingExtraError, match=rf'{name}.*pip install "geotempo\[{extra}\]"'):
            check_loggers([name])


def run_with(logger: str, recipe: dict, tmp_path: Path, **environment: str) -> Path:
    """Train in a process of its own, since loggers keep threads and global state."""
    pytest.importorskip(logger, reason="installed in CI only")
    recipe["train"] |= {"report_to": logger, "max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "no"}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    done = subprocess.run([sys.executable, "-m", "geotempo", "train", str(path)], capture_output=True, text=True, check=False,
                          cwd=tmp_path, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    return Path(recipe["train"]["output_dir"])


def test_trackio_keeps_a_run_on_this_machine(watched_recipe: dict, tmp_path: Path) -> None:
    run_with("trackio", watched_recipe, tmp_path, TRACKIO_DIR=str(tmp_path / "trackio"))
    with sqlite3.connect(tmp_path / "trackio" / "geotempo.db") as database:
        found = [(name, json.loads(metrics)) for name, metrics in database.execute("select run_name, metrics from metrics order by id")]
    assert {name for name, _ in found} == {"run"}
    assert [entry["train/global_step"] for _, entry in found if "train/loss" in entry] == [1, 2, 3, 4]
    assert [entry["train/global_step"] for _, entry in found if "eval/loss" in entry] == [2, 4]
    assert all(entry["train/supervised_tokens_per_second"] > 0 for _, entry in found if "train/loss" in entry)


def test_wandb_offline_keeps_its_files_beside_the_run(watched_recipe: dict, tmp_path: Path) -> None:
    out = run_with("wandb", watched_recipe, tmp_path, WANDB_MODE="offline", HOME=str(tmp_path))
    [written] = (out / "wandb").glob("offline-run-*/run-*.wandb")
    data = written.read_bytes()
    for name in (b"train/loss", b"eval/loss", b"train/supervised_tokens_per_second", b"train/grad_norm", b"geotempo"):
        assert name in data
    assert data.count(b"train/loss") >= 4
    assert (out / "wandb_run_id.txt").read_text().strip() in written.name
    assert not (tmp_path / "wandb").exists()
