"""What a run was stands beside everything that it leaves, and a run goes on only as what it was."""

import copy
import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from geotempo.data_builders.store import write_store
from geotempo.finetune.recipe import parse_recipe
from geotempo.finetune.record import changes, copy_record, refuse_changes, versions, write_record
from geotempo.finetune.train import train
from geotempo.model.errors import ConfigError
from tests.finetune.conftest import LLM, VISION, samples


def read(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "recipe.yaml").read_text())


@pytest.fixture(scope="module")
def stopped(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three steps."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    train(parse_recipe(short(store, out)))
    return out


def short(store: Path, out: Path) -> dict[str, Any]:
    return {"model": {"compose": {"vision": "tiny-clip", "llm": "tiny-llama", "vision_config": VISION, "llm_config": LLM,
                                  "vocab_size": 330}},
            "data": {"store": str(store), "watch": 0},
            "train": {"output_dir": str(out), "per_device_train_batch_size": 4, "learning_rate": 3e-3, "max_steps": 3, "save_steps": 3,
                      "save_total_limit": None, "logging_steps": 1}}


@pytest.fixture
def half(stopped: Path, store: Path, tmp_path: Path) -> dict[str, Any]:
    """The recipe of a run that was stopped after three steps, with a folder of its own."""
    shutil.copytree(stopped, tmp_path / "run")
    return short(store, tmp_path / "run")


def test_every_checkpoint_and_what_the_run_leaves_hold_its_record(recipe: dict, store: Path) -> None:
    recipe["lora"] = {"r": 4}
    recipe["data"]["watch"] = 0
    recipe["train"] |= {"max_steps": 4, "save_steps": 2, "save_total_limit": None, "hub_token": "hf_secret"}
    final = train(parse_recipe(recipe))
    run = final.parent
    facts = read(run)
    for folder in ("checkpoint-2", "checkpoint-4", "final", "adapter"):
        assert read(run / folder) == facts, folder
    assert facts["recipe"]["data"]["max_regions"] is None  # defaults too
    assert facts["recipe"]["lora"]["alpha"] == 32
    assert facts["arguments"]["learning_rate"] == 3e-3
    assert facts["arguments"]["weight_decay"] == 0.0  # not in the recipe
    assert facts["arguments"]["lr_scheduler_type"] == "linear"
    assert facts["attention"] == "sdpa"
    assert facts["samples"] == 16
    manifest = json.loads((store / "manifest.json").read_text())
    assert facts["data"] == {str(store): {entry["path"]: entry["sha256"] for entry in manifest["files"]}}
    # r (in + out) on seven layers of two blocks: hidden 64, MLP 96
    assert facts["trainable_parameters"] == 2 * 4 * (4 * (64 + 64) + 3 * (64 + 96))
    assert facts["hardware"]["processes"] == 1
    assert facts["hardware"]["cpus"] >= 1
    assert facts["hardware"]["device"]
    assert "hf_secret" not in (run / "recipe.yaml").read_text()


def test_versions_are_those_installed() -> None:
    found = versions()
    assert found["torch"] == torch.__version__.partition("+")[0] or found["torch"] == torch.__version__
    assert found["peft"] == importlib.metadata.version("peft")
    assert all(isinstance(value, str) for value in found.values())
    absent = [name for name in ("flash-attn", "deepspeed") if name not in found]
    for name in absent:
        with pytest.raises(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version(name)


@pytest.mark.parametrize(("section", "change", "words"), [
    ("train", {"learning_rate": 1e-3}, r"train\.learning_rate was 0\.003 and is 0\.001"),
    ("train", {"seed": 7}, r"train\.seed was 0 and is 7"),
    ("train", {"per_device_train_batch_size": 2}, r"train\.per_device_train_batch_size was 4 and is 2"),
    ("train", {"weight_decay": 0.1}, r"train\.weight_decay"),
    ("data", {"tasks": ["change_caption"]}, r"data\.tasks was None and is \['change_caption'\]"),
    ("data", {"pack_tokens": 250}, r"data\.pack_tokens"),
    ("model", {"freeze": ["vision_tower"]}, r"model\.freeze"),
])
def test_going_on_with_another_model_or_order_of_data_is_refused(half: dict, section: str, change: dict, words: str) -> None:
    run = Path(half["train"]["output_dir"])
    before = (run / "recipe.yaml").read_bytes()
    other = half | {section: half[section] | change}
    with pytest.raises(ConfigError, match=words) as caught:
        train(parse_recipe(other))
    assert "--restart" in str(caught.value)
    assert (run / "recipe.yaml").read_bytes() == before  # nothing was touched


def test_an_adapter_or_other_data_of_the_same_name_is_refused(half: dict, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lora was not given and is given"):
        train(parse_recipe(half | {"lora": {"r": 4}}))
    write_store(samples(7), tmp_path / "toy")
    with pytest.raises(ConfigError, match=r"sha256 of the files in data\.store was"):
        train(parse_recipe(half | {"data": {"store": str(tmp_path / "toy")}}))


def test_a_store_may_move_and_what_is_only_written_or_shown_may_change(half: dict, tmp_path: Path, capsys: Any) -> None:
    write_store(samples(8), tmp_path / "moved")
    other = copy.deepcopy(half)
    other["data"] |= {"store": str(tmp_path / "moved"), "watch": 2}
    other["train"] |= {"logging_steps": 2, "save_steps": 5, "dataloader_num_workers": 0, "save_total_limit": 1, "max_steps": 5}
    capsys.readouterr()
    train(parse_recipe(other))
    out = capsys.readouterr().out
    assert "going on with a change: train.max_steps was 3 and is 5" in out
    assert out.count("going on with a change") == 1
    assert read(Path(half["train"]["output_dir"]) / "checkpoint-5")["recipe"]["train"]["logging_steps"] == 2


def test_restart_forgets_the_checkpoints_of_the_other_run(half: dict) -> None:
    half["train"] |= {"learning_rate": 1e-3, "max_steps": 2, "save_steps": 2}
    run = Path(half["train"]["output_dir"])
    train(parse_recipe(half), restart=True)
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-2"]  # none of 3 steps to go on from by mistake
    assert read(run)["arguments"]["learning_rate"] == 1e-3


def test_a_checkpoint_without_a_record_is_compared_with_that_of_its_run(half: dict) -> None:
    run = Path(half["train"]["output_dir"])
    (run / "checkpoint-3" / "recipe.yaml").unlink()  # as if killed just before it was written
    with pytest.raises(ConfigError, match="learning_rate"):
        train(parse_recipe(half | {"train": half["train"] | {"learning_rate": 1e-3}}))


def record_of(processes: int, **arguments: Any) -> dict[str, Any]:
    return {"recipe": {"model": {}, "data": {}, "lora": None}, "arguments": arguments, "hardware": {"processes": processes},
            "versions": {"torch": "2.13.0"}, "data": {"a": {"x": "1"}}}


def test_another_number_of_processes_may_share_the_batch_otherwise() -> None:
    before = record_of(2, gradient_accumulation_steps=2, per_device_train_batch_size=4, seed=0)
    now = record_of(1, gradient_accumulation_steps=4, per_device_train_batch_size=4, seed=0)
    assert [(change.key, change.told) for change in changes(before, now)] == [
        ("the number of processes", True), ("train.gradient_accumulation_steps", True)]
    assert [change.told for change in changes(record_of(2, seed=0), record_of(1, seed=1))] == [True, False]


def test_versions_are_told_and_an_old_record_without_parts_is_no_hindrance(tmp_path: Path) -> None:
    now = record_of(1, seed=0)
    write_record(now | {"versions": {"torch": "2.12.0"}}, tmp_path / "run")
    copy_record(tmp_path / "run", tmp_path / "run" / "checkpoint-1")
    assert [change.key for change in refuse_changes(now, tmp_path / "run" / "checkpoint-1")] == ["versions.torch"]
    write_record({"samples": 3}, tmp_path / "run" / "checkpoint-1")
    assert refuse_changes(now, tmp_path / "run" / "checkpoint-1") == []
    assert refuse_changes(now, tmp_path / "none" / "checkpoint-1") == []
