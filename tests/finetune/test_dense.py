"""The dense stage: targets agree with the masks, it learns, and it resumes exactly."""

from pathlib import Path

import numpy as np
import pytest
import torch

from geotempo.data_builders.scenes.scene import EASY
from geotempo.data_builders.scenes.world import generate
from geotempo.finetune import dense
from geotempo.model.checkpoints import load_checkpoint
from geotempo.model.errors import ConfigError
from tests.finetune.conftest import LLM, VISION


@pytest.fixture
def raw(store: Path, tmp_path: Path) -> dict:
    return {
        "model": {"compose": {"vision": "tiny-clip", "llm": "tiny-llama", "vision_config": VISION, "llm_config": LLM,
                              "vocab_size": 330}},
        "scenes": {"seed": 5, "options": {"nuisance": 0.2, "clouds": 0.0, "buildings": [1, 2], "building_px": [64, 90]}},
        "train": {"output_dir": str(tmp_path / "dense"), "corpora": [str(store)], "steps": 8, "scenes_per_step": 2,
                  "warmup_steps": 2, "save_steps": 4, "workers": 0},
    }


def test_targets_are_those_of_the_masks() -> None:
    for index in range(4):
        scene = generate(9, index, size=128, dates=2, options=EASY)
        for date in range(2):
            targets = dense.patch_targets(scene, date, 8)
            there = [item.masks[date] for item in scene.of_kind("building") if item.masks[date] is not None]
            assert 0 < targets["centre"].sum() <= len(there)
            covered = np.logical_or.reduce(there).reshape(8, 16, 8, 16).any(axis=(1, 3)).reshape(-1)
            known = targets["box"][:, 0] != dense.IGNORE
            assert (known | ~covered).all()
            x1, y1, x2, y2 = targets["box"][known].T
            assert ((x1 >= 0) & (x1 < x2) & (x2 <= 100) & (y1 >= 0) & (y1 < y2) & (y2 <= 100)).all()
            centres = targets["centre"] > 0
            row, column = np.divmod(np.flatnonzero(centres), 8)
            boxes = targets["box"][centres] / 100 * 8
            assert (np.abs((boxes[:, 0] + boxes[:, 2]) / 2 - column - 0.5) <= 0.6).all()
            assert (np.abs((boxes[:, 1] + boxes[:, 3]) / 2 - row - 0.5) <= 0.6).all()


def test_a_stopped_run_goes_on_to_the_same_weights(raw: dict, tmp_path: Path) -> None:
    whole = load_checkpoint(dense.train(raw))[0].state_dict()
    raw["train"]["output_dir"] = str(tmp_path / "stopped")
    section = dense.read_section(dense.DenseTraining, raw["train"], "train")
    original, calls = dense.Stage.step, 0

    def stop_after_six(self, batch, step):
        nonlocal calls
        calls += 1
        if calls > 6:
            raise KeyboardInterrupt
        return original(self, batch, step)

    dense.Stage.step = stop_after_six
    try:
        with pytest.raises(KeyboardInterrupt):
            dense.train(raw)
    finally:
        dense.Stage.step = original
    state = torch.load(Path(section.output_dir) / "dense.pt", weights_only=True)
    assert state["step"] == 4
    resumed = load_checkpoint(dense.train(raw))[0].state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_checkpoint_of_another_recipe_is_refused(raw: dict) -> None:
    first = load_checkpoint(dense.train(raw))[0].state_dict()
    raw["scenes"]["seed"] = 6
    with pytest.raises(ConfigError, match="another recipe"):
        dense.train(raw)
    second = load_checkpoint(dense.train(raw, restart=True))[0].state_dict()
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_workers_do_not_change_the_result(raw: dict, tmp_path: Path) -> None:
    one = load_checkpoint(dense.train(raw))[0].state_dict()
    raw["train"] |= {"output_dir": str(tmp_path / "two"), "workers": 2}
    two = load_checkpoint(dense.train(raw))[0].state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_only_the_encoder_learns(raw: dict, store: Path, tmp_path: Path) -> None:
    from geotempo.finetune.recipe import ModelSection
    from geotempo.finetune.train import composed

    start = composed(ModelSection(**raw["model"]), [str(store)])[0].state_dict()
    end = load_checkpoint(dense.train(raw))[0].state_dict()
    changed = {name for name in start if not torch.equal(start[name], end[name])}
    assert changed
    assert all("vision_tower" in name for name in changed)


@pytest.mark.parametrize(("section", "change", "words"), [
    ("train", {"stepps": 3}, "did you mean 'steps'"),
    ("scenes", {"options": {"cloud": 1}}, "did you mean 'clouds'"),
    ("model", {"compose": None, "base": None}, "exactly one"),
])
def test_wrong_keys_are_named(raw: dict, section: str, change: dict, words: str) -> None:
    raw[section] = raw[section] | change
    with pytest.raises(ConfigError, match=words):
        dense.train(raw)
