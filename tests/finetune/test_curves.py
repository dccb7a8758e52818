"""Curves: what of a log history is drawn, and that it is drawn where it belongs."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from geotempo.cli import app
from geotempo.finetune.curves import Chart, Curve, charts, curve, draw_png, nice_ticks, read_history, svg
from geotempo.model.errors import InputError, MissingExtraError

HISTORY = [
    {"step": 10, "epoch": 0.1, "loss": 4.0, "grad_norm": 2.0, "learning_rate": 1e-3, "tokens_per_second": 900.0,
     "supervised_tokens_per_second": 100.0},
    {"step": 20, "loss": 2.0, "grad_norm": float("nan"), "learning_rate": 5e-4, "tokens_per_second": 1000.0,
     "supervised_tokens_per_second": 120.0},
    {"step": 20, "eval_loss": 2.5, "eval_runtime": 3.0},
    {"step": 30, "loss": 1.0, "grad_norm": 1.0, "learning_rate": 0.0, "tokens_per_second": 1100.0, "supervised_tokens_per_second": 90.0},
    {"step": 30, "train_runtime": 99.0, "train_loss": 2.3},
]


def test_a_history_gives_five_kinds_of_curves_and_leaves_out_what_is_not_finite() -> None:
    found = {chart.title: {line.name: line for line in chart.curves} for chart in charts(HISTORY)}
    assert list(found) == ["loss", "learning rate", "tokens per second", "gradient norm before clipping"]
    assert found["loss"]["training"] == Curve("training", (10, 20, 30), (4.0, 2.0, 1.0))
    assert found["loss"]["evaluation"] == Curve("evaluation", (20,), (2.5,))
    assert found["tokens per second"]["supervised tokens"].values == (100.0, 120.0, 90.0)
    assert found["gradient norm before clipping"]["gradient norm"].steps == (10, 30)


def test_of_a_step_that_was_logged_twice_the_later_entry_counts() -> None:
    assert curve([{"step": 1, "loss": 9.0}, {"step": 2, "loss": 8.0}, {"step": 1, "loss": 3.0}], "loss", "x").values == (3.0, 8.0)


def test_named_evaluation_datasets_have_a_curve_each() -> None:
    lines = charts([{"step": 1, "eval_levir_loss": 1.0, "eval_oscd_loss": 2.0, "eval_levir_runtime": 3.0}])[0].curves
    assert [line.name for line in lines] == ["evaluation levir", "evaluation oscd"]


def test_the_picture_shows_the_curves(tmp_path: Path) -> None:
    draw_png(HISTORY, tmp_path / "curves.png", "a run")
    with_evaluation = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB")).astype(int)
    assert with_evaluation.shape[0] > 600
    assert with_evaluation.shape[1] > 1000
    draw_png([entry for entry in HISTORY if "eval_loss" not in entry], tmp_path / "less.png", "a run")
    without = np.asarray(Image.open(tmp_path / "less.png").convert("RGB")).astype(int)
    blue, orange = np.array([0x17, 0x64, 0xAB]), np.array([0xD9, 0x5F, 0x02])
    upper_left = (slice(0, without.shape[0] // 2), slice(0, without.shape[1] // 2))

    def painted(picture: np.ndarray, colour: np.ndarray) -> int:
        return int((np.abs(picture[upper_left] - colour).sum(axis=-1) < 12).sum())

    assert painted(without, blue) > 200
    assert painted(without, orange) == 0 < painted(with_evaluation, orange)


def test_nothing_logged_and_a_missing_matplotlib_are_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="logging_steps"):
        draw_png([{"step": 3, "train_loss": 1.0}], tmp_path / "curves.png", "a run")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r'pip install "geotempo\[train\]"'):
        draw_png(HISTORY, tmp_path / "curves.png", "a run")
    assert not list(tmp_path.iterdir())


def test_svg_puts_each_value_at_its_place() -> None:
    drawing = svg(Chart("loss", (Curve("training", (0, 50, 100), (4.0, 3.0, 2.0)), Curve("evaluation", (100,), (3.0,)))), 600, 200)
    first, second = re.findall(r'<polyline points="([^"]+)"', drawing)
    (x1, y1), (x2, y2), (x3, y3) = (map(float, point.split(",")) for point in first.split())
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y2 - y1 == pytest.approx(y3 - y2, abs=0.2)
    assert y1 < y2 < y3  # screen coordinates: a falling loss goes down
    assert tuple(map(float, second.split(","))) == (x3, y2)
    rules = {float(label): float(y) - 4 for y, label in re.findall(r'y="([\d.]+)" text-anchor="end">([\d.]+)<', drawing)}
    assert rules[3.0] == pytest.approx(y2, abs=0.2)
    assert "http" not in drawing


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_ticks_are_even_and_span_the_range(low: float, width: float) -> None:
    ticks = nice_ticks(low, low + width)
    slack = 1e-6 * max(1.0, abs(low), width)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= low + width - slack
    assert 2 <= len(ticks) <= 8
    assert np.allclose(np.diff(ticks), ticks[1] - ticks[0], atol=slack)


def checkpoint(folder: Path, step: int) -> None:
    folder.mkdir(parents=True)
    history = [{"step": at, "loss": 10.0 / at} for at in range(1, step + 1)]
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": history}))


def test_the_command_draws_a_killed_run_up_to_its_newest_whole_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    checkpoint(run / "checkpoint-8", 8)
    checkpoint(run / "checkpoint-12", 12)
    checkpoint(run / "checkpoint-16", 16)
    (run / "checkpoint-16" / "trainer_state.json").write_text('{"global_step": 16, "log_hi')
    assert read_history(run)[-1]["step"] == 12
    done = CliRunner().invoke(app, ["curves", str(run)])
    assert done.exit_code == 0, done.output
    assert f"wrote {run / 'curves.png'}" in done.output
    assert Image.open(run / "curves.png").width > 400
    with pytest.raises(InputError, match="output_dir"):
        read_history(tmp_path)
