"""Curves of a training run: losses, learning rate, tokens per second and gradient norm over the optimizer steps.

They are read off the log history that `transformers.Trainer` keeps in `trainer_state.json`, as a PNG by matplotlib and as
an SVG without it.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from geotempo.model.errors import InputError, MissingExtraError
from geotempo.model.files import write_atomic

STATE = "trainer_state.json"
CURVES = "curves.png"
_EVAL_LOSS = re.compile(r"eval_(?:(.+)_)?loss")
_INK = ("#1764ab", "#d95f02", "#1b9e77", "#7b5aa6")  # dark enough on white, told apart by colour-blind readers


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        name: For the legend.
        steps: Optimizer steps, increasing.
        values: One per step, all finite.
    """

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Chart:
    """Curves that share a scale.

    Attributes:
        title: What is measured, with its unit.
        curves: One or more.
        log: Whether the values are shown on a logarithmic scale where they differ by much.
    """

    title: str
    curves: tuple[Curve, ...]
    log: bool = False


def charts(history: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """What a log history has to show; a chart without a value is left out.

    Args:
        history: `log_history` of a `TrainerState`: dictionaries with `step` and what was logged there.
    """
    found = [
        Chart("loss", _present([curve(history, "loss", "training"), *_eval_losses(history)])),
        Chart("learning rate", _present([curve(history, "learning_rate", "learning rate")])),
        Chart("tokens per second", _present([curve(history, "tokens_per_second", "all tokens"),
                                             curve(history, "supervised_tokens_per_second", "supervised tokens")])),
        Chart("gradient norm before clipping", _present([curve(history, "grad_norm", "gradient norm")]), log=True),
    ]
    return [chart for chart in found if chart.curves]


def curve(history: Sequence[Mapping[str, Any]], key: str, name: str) -> Curve:
    """One logged quantity over the steps; of a step that was logged twice the later entry counts, what is not finite none."""
    points = {int(entry["step"]): float(entry[key]) for entry in history
              if isinstance(entry.get(key), int | float) and "step" in entry}
    kept = sorted((step, value) for step, value in points.items() if math.isfinite(value))
    return Curve(name, tuple(step for step, _ in kept), tuple(value for _, value in kept))


def _eval_losses(history: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """The evaluation loss, or one for each named evaluation dataset."""
    keys = dict.fromkeys(key for entry in history for key in entry if _EVAL_LOSS.fullmatch(key))
    names = {key: _EVAL_LOSS.fullmatch(key) for key in keys}
    return [curve(history, key, f"evaluation {match[1]}" if match and match[1] else "evaluation") for key, match in names.items()]


def _present(curves: Iterable[Curve]) -> tuple[Curve, ...]:
    return tuple(line for line in curves if line.steps)


def read_history(run: Path) -> list[dict[str, Any]]:
    """The log history of a run: of its end, else of its newest checkpoint.

    Args:
        run: `output_dir` of a recipe, or one checkpoint in it.

    Raises:
        InputError: There is no readable `trainer_state.json`.
    """
    found: list[tuple[int, list[dict[str, Any]]]] = []
    for path in (run / STATE, *run.glob(f"checkpoint-*/{STATE}")):
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            found.append((int(state["global_step"]), list(state["log_history"])))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a run killed while it saved leaves a folder without a whole one
    if not found:
        raise InputError(f"{str(run)!r} holds no readable {STATE}, neither itself nor in a checkpoint-*; name the "
                         "train.output_dir of a run that has logged or saved")
    return max(found, key=lambda entry: entry[0])[1]


def draw_png(history: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Draw the charts of a log history, two to a row.

    Args:
        history: As for `charts`.
        path: PNG file to write.
        title: Heading of the picture.

    Raises:
        InputError: The history holds nothing to draw.
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # without pyplot: no window system, no state
    except ImportError:
        raise MissingExtraError("matplotlib", "train", "drawing curves") from None
    shown = charts(history)
    if not shown:
        raise InputError("nothing was logged yet, so there is no curve to draw; set train.logging_steps below the number of steps")
    rows = math.ceil(len(shown) / 2)
    figure = Figure(figsize=(12, 3.6 * rows + 0.6), dpi=110, layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=13)
    grid = figure.subplots(rows, min(2, len(shown)), squeeze=False)
    for axes, chart in zip(grid.flat, shown, strict=False):
        _draw(axes, chart)
    for axes in grid.flat[len(shown):]:
        axes.set_visible(False)
    write_atomic(path, lambda temporary: figure.savefig(temporary, format="png"))


def _draw(axes: Any, chart: Chart) -> None:
    """One chart into matplotlib axes."""
    for line, colour in zip(chart.curves, _INK * len(chart.curves), strict=False):
        few = len(line.steps) <= 40  # points that a reader can tell apart
        axes.plot(line.steps, line.values, color=colour, label=line.name, linewidth=1.5, marker="o" if few else None, markersize=3)
    axes.set_title(chart.title, fontsize=11, loc="left")
    axes.set_xlabel("optimizer step")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    values = [value for line in chart.curves for value in line.values]
    if chart.log and max(values) > 30 * min(values) > 0:
        axes.set_yscale("log")
    elif min(values) >= 0 and not chart.title.startswith("loss"):
        axes.set_ylim(bottom=0)
    if len(chart.curves) > 1:
        axes.legend(frameon=False)


def svg(chart: Chart, width: int = 1120, height: int = 260) -> str:
    """A chart as SVG for a page; the line's colours are the CSS variables `--curve-0`, `--curve-1`, …, text takes the page's.

    Args:
        chart: With at least one curve.
        width: Of the drawing, in its own units.
        height: Likewise.
    """
    left, top, right, bottom = 64, 14, width - 14, height - 34
    first, last = min(line.steps[0] for line in chart.curves), max(line.steps[-1] for line in chart.curves)
    values = [value for line in chart.curves for value in line.values]
    ticks = nice_ticks(min(values), max(values))
    low, high = min(ticks[0], *values), max(ticks[-1], *values)

    def x(step: float) -> float:
        return left + (right - left) * (step - first) / max(1, last - first)

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value - low) / (high - low)

    parts = [f'<line class="rule" x1="{left}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
             f'<text x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>' for tick in ticks]
    parts += [f'<text x="{x(tick):.1f}" y="{height - 12}" text-anchor="middle">{tick:g}</text>'
              for tick in nice_ticks(first, last, 8) if first <= tick <= last and float(tick).is_integer()]
    for number, line in enumerate(chart.curves):
        points = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in zip(line.steps, line.values, strict=True))
        paint = f"var(--curve-{number % len(_INK)})"
        parts.append(f'<polyline points="{points}" style="stroke:{paint}"/>')
        if len(line.steps) <= 40:
            parts += [f'<circle cx="{point.split(",")[0]}" cy="{point.split(",")[1]}" r="3" style="fill:{paint}"/>'
                      for point in points.split(" ")]
    label = escape(f"{chart.title} over the optimizer steps")
    return f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers that span a range: the first at or below `low`, the last at or above `high`, about `most` of them."""
    if high - low <= max(1e-12 * max(abs(low), abs(high)), 1e-30):  # a flat line
        low, high = low - max(abs(low), 1.0) / 2, high + max(abs(high), 1.0) / 2
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]
