"""Training for real, at toy size: it learns, LoRA touches only the LLM, a killed run goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from geotempo.data_builders.render import to_request
from geotempo.data_builders.store import Store
from geotempo.finetune.recipe import parse_recipe
from geotempo.finetune.train import train
from geotempo.finetune.trainer import LengthSampler, last_checkpoint
from geotempo.model.checkpoints import load_checkpoint
from geotempo.model.errors import MissingExtraError, ModelError
from geotempo.serve.hf import HFPredictor


def history(run: Path) -> list[dict]:
    """What was logged at each step, from the newest trainer state."""
    newest = last_checkpoint(run)
    assert newest is not None
    found: list[dict] = json.loads((newest / "trainer_state.json").read_text())["log_history"]
    return found


def losses(run: Path) -> dict[int, float]:
    """Logged losses by step."""
    return {entry["step"]: entry["loss"] for entry in history(run) if "loss" in entry}


def test_it_learns_and_answers(recipe: dict) -> None:
    recipe["data"]["tasks"] = ["change_caption"]
    recipe["train"] |= {"max_steps": 60, "per_device_train_batch_size": 8, "save_steps": 60}
    final = train(parse_recipe(recipe))
    assert losses(final.parent)[60] < 0.3 * losses(final.parent)[1]
    store = Store(Path(recipe["data"]["store"]))
    rows = store.rows(tasks=["change_caption"])
    replies = HFPredictor(final).predict([to_request(store[row], 20) for row in rows])
    right = sum(reply.text == store[row].target for row, reply in zip(rows, replies, strict=True))
    assert right >= 7
    assert all(reply.finish_reason == "stop" for reply in replies)
    record = yaml.safe_load((final.parent / "recipe.yaml").read_text())
    assert record["samples"] == 8
    assert record["recipe"]["train"]["max_steps"] == 60


def killed(recipe: dict, step: int, folder: Path) -> None:
    """Run a recipe as a user would, and kill it when the checkpoint of a step is complete."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    run = Path(recipe["train"]["output_dir"])
    process = subprocess.Popen([sys.executable, "-m", "geotempo", "train", str(path)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not (run / f"checkpoint-{step}" / "trainer_state.json").exists() and time.monotonic() < deadline:
        assert process.poll() is None, "training ended before it could be killed"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    half = run / "checkpoint-999"  # as if killed while saving
    half.mkdir()
    (half / "trainer_state.json").write_text('{"global_st')
    assert not (run / "final").exists()


PACKED = {"pack_tokens": 300}
KINDS = {
    "plain": {},
    "packed": {"data": PACKED},
    "lora": {"lora": {"r": 4, "alpha": 8, "dropout": 0.1, "projector": True}, "model": {"vision_blocks": 1}},
    "nf4, packed": {"lora": {"r": 4, "alpha": 8, "dropout": 0.1}, "model": {"quantize": "nf4"}, "data": PACKED},
    "int8": {"lora": {"r": 4, "alpha": 8, "dropout": 0.1}, "model": {"quantize": "int8"}},
}


@pytest.mark.parametrize("kind", [name if name in ("plain", "nf4, packed") else pytest.param(name, marks=pytest.mark.slow)
                                  for name in KINDS])
def test_resuming_after_a_kill_repeats_the_undisturbed_losses(recipe: dict, base: Path, tmp_path: Path, kind: str) -> None:
    recipe["train"] |= {"max_steps": 10, "save_steps": 3, "save_total_limit": None}
    recipe["data"] |= {"augment": {"brightness": 0.2, "jpeg": [50, 90]}} | KINDS[kind].get("data", {})
    if "data" in KINDS[kind]:
        recipe["train"]["per_device_train_batch_size"] = 1
    if "lora" in KINDS[kind]:
        recipe |= {"lora": KINDS[kind]["lora"], "model": {"base": str(base), **KINDS[kind]["model"]}}
    whole = train(parse_recipe(recipe))
    recipe["train"]["output_dir"] = str(tmp_path / "killed")
    killed(recipe, 6, tmp_path)
    resumed = train(parse_recipe(recipe))
    first, second = losses(whole.parent), losses(resumed.parent)
    assert list(first) == list(second) == list(range(1, 11))
    assert len(set(first.values())) == 10
    assert all(abs(first[step] - second[step]) < 1e-5 for step in first)
    a, b = (load_checkpoint(folder)[0].state_dict() for folder in (whole, resumed))
    assert all(torch.allclose(a[name], b[name], atol=1e-6) for name in a)


def test_lora_changes_the_llm_only(recipe: dict, base: Path, tmp_path: Path) -> None:
    recipe["model"] = {"base": str(base)}
    recipe["lora"] = {"r": 4, "alpha": 8}
    recipe["train"] |= {"output_dir": str(tmp_path / "lora"), "max_steps": 3}
    tuned = train(parse_recipe(recipe))
    before, after = (load_checkpoint(folder)[0].state_dict() for folder in (base, tuned))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("language_model" in name and "_proj" in name for name in changed)
    assert (tmp_path / "lora" / "adapter" / "adapter_model.safetensors").is_file()


def test_freezing_and_learning_rates_by_module(recipe: dict, base: Path, tmp_path: Path) -> None:
    recipe["train"]["max_steps"] = 1
    recipe["model"] = {"base": str(base), "freeze": ["vision_tower"], "learning_rates": {"projector": 0.0}}
    recipe["train"]["output_dir"] = str(tmp_path / "frozen")
    tuned = train(parse_recipe(recipe))
    before, after = (load_checkpoint(folder)[0].state_dict() for folder in (base, tuned))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not any("vision_tower" in name or "projector" in name for name in changed)


@pytest.mark.parametrize("key", ["base", "store"])
def test_a_missing_folder_leaves_nothing_behind(recipe: dict, tmp_path: Path, key: str) -> None:
    if key == "base":
        recipe["model"] = {"base": "/nonexistent"}
    else:
        recipe["data"]["store"] = "/nonexistent"
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    done = subprocess.run([sys.executable, "-m", "geotempo", "train", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "geotempo: error:" in done.stderr
    assert "/nonexistent" in done.stderr
    assert not Path(recipe["train"]["output_dir"]).exists()


def test_batches_by_length_are_reproducible_and_complete() -> None:
    lengths = [1, 2, 4] * 40
    sampler, again = (LengthSampler(lengths, 8, seed=3) for _ in range(2))
    first = list(sampler)
    assert sorted(first) == list(range(120))
    assert first == list(again) == list(sampler)
    batches = [[lengths[i] for i in first[start : start + 8]] for start in range(0, 120, 8)]
    assert sum(len(set(batch)) == 1 for batch in batches) >= 6  # none at random
    sampler.set_epoch(1)
    assert list(sampler) != first


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "rng_state.pth"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_goes_on(recipe: dict, name: str) -> None:
    recipe["train"] |= {"max_steps": 4, "save_steps": 1, "save_total_limit": None}
    run = train(parse_recipe(recipe)).parent
    expected = losses(run)
    shutil.rmtree(run / "checkpoint-4")
    damaged = run / "checkpoint-3" / name
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"cannot load the state of a run from '.*checkpoint-3'.*Delete this folder and run again"):
        train(parse_recipe(recipe))
    assert damaged.is_file() and (run / "checkpoint-2").is_dir()
    shutil.rmtree(run / "checkpoint-3")
    train(parse_recipe(recipe))
    assert losses(run) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("name", "bytes_"), [("lengths.npy", b"junk"), ("lengths.npy", b""), ("lengths.json", b"{")])
def test_damaged_counts_are_counted_again(recipe: dict, name: str, bytes_: bytes) -> None:
    recipe["train"] |= {"max_steps": 1, "save_steps": 1}
    run = train(parse_recipe(recipe)).parent
    whole = (run / name).read_bytes()
    (run / name).write_bytes(bytes_)
    train(parse_recipe(recipe), restart=True)
    assert (run / name).read_bytes() == whole


@pytest.mark.parametrize("kind", ["llm", "dense"])
def test_training_without_its_extra_names_it(recipe: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    import importlib.util

    from geotempo.commands.train import train as command

    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"kind": kind, **recipe}))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"training needs the package 'accelerate'.*geotempo\[train\]"):
        command(path)
