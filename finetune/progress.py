"""How far a run is: one line that moves on a terminal, one line per logging step in a file.

Two counts of tokens are told apart. *Supervised* tokens are those of the answers, which the loss is taken on; *all* tokens
are what the model reads without padding: prompts, images and answers. Both are summed over all processes.
"""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from tqdm import tqdm
from transformers import TrainerCallback

_BAR = "{desc}{percentage:3.0f} %|{bar:24}| step {n_fmt} of {total_fmt}{postfix}, {remaining} left"


class Throughput(TrainerCallback):  # type: ignore[misc]  # transformers is Any to mypy
    """Tokens per second of training proper: the time of evaluating, of saving and of watched answers is not counted.

    To be called after the callbacks that answer and draw, so that their time counts as a pause as well.

    Args:
        counts: Gives (all tokens, supervised tokens) trained on so far, over all processes.
        clock: Seconds of a clock that only moves forward.
    """

    def __init__(self, counts: Callable[[], tuple[int, int]], clock: Callable[[], float] = time.perf_counter) -> None:
        self._counts, self._clock = counts, clock
        self._since: float | None = None
        self._before = (0, 0)
        self._worked = 0.0   # when the last step ended, or the last pause did
        self._paused = 0.0   # seconds of pauses since the last reading

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock: the first batch of this session is about to be drawn."""
        if self._since is None:
            self._since, self._before = self._clock(), self._counts()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The step is done; what the Trainer does before the next one is a pause if it turns out to be more than logging."""
        self._worked = self._clock()

    on_epoch_end = on_step_end

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A pause has ended."""
        now = self._clock()
        self._paused += now - self._worked
        self._worked = now

    on_save = on_evaluate

    def rates(self) -> dict[str, float]:
        """Means since the last call, or since training began.

        Returns:
            `tokens_per_second` and `supervised_tokens_per_second`; empty before the first step.
        """
        if self._since is None:
            return {}
        now, counts = self._clock(), self._counts()
        seconds = now - self._since - self._paused
        every, supervised = (after - before for after, before in zip(counts, self._before, strict=True))
        self._since, self._before, self._paused = now, counts, 0.0
        if seconds <= 0:
            return {}
        return {"tokens_per_second": every / seconds, "supervised_tokens_per_second": supervised / seconds}


class Progress(TrainerCallback):  # type: ignore[misc]  # transformers is Any to mypy
    """The only thing that a run prints while it goes well.

    On a terminal one line with step, loss, tokens per second and time left. Where the output is a file or a pipe, and with
    `train.disable_tqdm`, one line per logging step and evaluation. With `geotempo train … | tee log` both.

    Args:
        bar: Stream of the moving line, used if it is a terminal.
        lines: Stream of the lines, used if it is none or there is no moving line.
        clock: Seconds of a clock that only moves forward.
        disabled: Never a moving line. (`TrainingArguments.disable_tqdm` is set by itself where transformers' log is quiet.)
    """

    def __init__(self, bar: TextIO | None = None, lines: TextIO | None = None, clock: Callable[[], float] = time.perf_counter, *,
                 disabled: bool = False) -> None:
        self._disabled = disabled
        self._bar_stream, self._line_stream, self._clock = bar or sys.stderr, lines or sys.stdout, clock
        self._bar: Any = None
        self._facts: dict[str, str] = {}
        self._began: tuple[float, int] | None = None
        self._evaluated = 0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar at the first epoch of this session: what came before (watched answers, loading) took no steps."""
        if not state.is_world_process_zero or self._began is not None:
            return
        self._began = self._clock(), state.global_step
        if self._bar_stream.isatty() and not self._disabled:
            # smoothing=0: the time left follows the mean over the session, with its evaluations, as the rest of it will be
            self._bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", smoothing=0, dynamic_ncols=True,
                             bar_format=_BAR, file=self._bar_stream)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_prediction_step(self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any) -> None:
        """Say how far an evaluation is, in the same line."""
        self._evaluated += 1
        if self._bar is not None:
            total = f" of {len(eval_dataloader)}" if hasattr(eval_dataloader, "__len__") else ""
            self._bar.set_description(f"evaluating batch {self._evaluated}{total}")

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Back to training."""
        self._evaluated = 0
        if self._bar is not None:
            self._bar.set_description("training")

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Show what was logged."""
        if not state.is_world_process_zero or not logs:
            return
        facts = described(logs)
        self._facts |= {key: text for key, text in facts.items() if key in ("loss", "evaluation", "rate")}
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(self._facts.values()))
        if facts and (self._bar is None or not self._line_stream.isatty()):
            left = self._left(state) if "loss" in facts else None
            epoch = f", epoch {logs['epoch']:.2f}" if "epoch" in logs else ""
            line = f"step {state.global_step} of {state.max_steps}{epoch}: " + ", ".join([*facts.values(), *([left] if left else [])])
            tqdm.write(line, file=self._line_stream)
            self._line_stream.flush()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the finished line standing."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _left(self, state: Any) -> str | None:
        """Time left at the mean pace of this session, evaluations and saving included."""
        if self._began is None or state.global_step <= self._began[1]:
            return None
        pace = (self._clock() - self._began[0]) / (state.global_step - self._began[1])
        return f"{tqdm.format_interval(pace * (state.max_steps - state.global_step))} left"


def described(logs: Mapping[str, Any]) -> dict[str, str]:
    """What the Trainer logged, in words: what is worth a reader's look, in a fixed order; empty if nothing is.

    Args:
        logs: Of one `on_log`.
    """
    words: dict[str, str] = {}
    if "loss" in logs:
        words["loss"] = f"loss {logs['loss']:.4f}"
    losses = {key: value for key, value in logs.items() if key.startswith("eval_") and key.endswith("loss")}
    if losses:
        words["evaluation"] = ", ".join(f"{key.replace('_', ' ')} {value:.4f}" for key, value in losses.items())
    if "grad_norm" in logs:
        words["gradient"] = f"gradient norm {logs['grad_norm']:.3g}"
    if "learning_rate" in logs:
        words["learning rate"] = f"learning rate {logs['learning_rate']:.2e}"
    if "tokens_per_second" in logs:
        words["rate"] = (f"{logs['supervised_tokens_per_second']:,.0f} supervised and {logs['tokens_per_second']:,.0f} tokens/s in all")
    if "train_runtime" in logs:
        words["end"] = f"done in {tqdm.format_interval(logs['train_runtime'])}, mean loss {logs['train_loss']:.4f}"
    return words
