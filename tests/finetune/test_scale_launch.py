"""Configurations by short name, what is refused, the launchers themselves, and a run on two processes killed by `kill -9`."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
import yaml

from geotempo.finetune import scale
from geotempo.finetune.collate import Collator
from geotempo.finetune.dataset import IGNORE
from geotempo.finetune.recipe import parse_recipe
from geotempo.finetune.train import train
from geotempo.finetune.trainer import last_checkpoint
from geotempo.model.checkpoints import load_checkpoint
from geotempo.model.errors import ConfigError, MissingExtraError

STAGES = {"zero2": 2, "zero3": 3, "zero3_offload": 3}
needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
slow = pytest.mark.slow


def environment() -> dict[str, str]:
    return os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def losses(run: Path) -> list[float]:
    newest = last_checkpoint(run)
    assert newest is not None
    history = json.loads((newest / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


@needs_deepspeed
def test_a_short_name_is_a_shipped_file_and_a_path_stays_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    mine = tmp_path / "zero.json"
    mine.write_text("{}")
    assert scale.resolve({"deepspeed": str(mine)})["deepspeed"] == str(mine)
    assert scale.resolve({"deepspeed": {"zero_optimization": {"stage": 1}}})["deepspeed"] == {"zero_optimization": {"stage": 1}}
    found = scale.resolve({"fsdp_config": "fsdp2", "seed": 1})
    assert json.loads(Path(found["fsdp_config"]).read_text())["version"] == 2
    assert found["fsdp"] is True
    assert found["seed"] == 1
    with pytest.raises(ConfigError, match=r"'zero4', which is no file.*zero2, zero3, zero3_offload$"):
        scale.resolve({"deepspeed": "zero4"})
    with pytest.raises(ConfigError, match=r"'zero2', which is no file.*fsdp2$"):
        scale.resolve({"fsdp_config": "zero2"})


def test_sharding_without_a_launcher_or_its_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ConfigError, match=r"train\.fsdp needs a launcher.*torchrun --nproc-per-node"):
        scale.resolve({"fsdp_config": "fsdp2"})
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "deepspeed" else found(name))
    with pytest.raises(MissingExtraError, match=r"train\.deepspeed needs the package 'deepspeed'.*geotempo\[deepspeed\]"):
        scale.resolve({"deepspeed": "zero2"})


@pytest.mark.parametrize("name", STAGES)
def test_recipe_and_launcher_configure_the_same(name: str) -> None:
    zero = json.loads((scale.CONFIGS / f"{name}.json").read_text())["zero_optimization"]
    launched = yaml.safe_load((scale.CONFIGS / f"{name}.yaml").read_text())
    inside = launched["deepspeed_config"]
    assert zero["stage"] == inside["zero_stage"] == STAGES[name]
    for part in ("optimizer", "param"):
        assert zero.get(f"offload_{part}", {"device": "none"})["device"] == inside[f"offload_{part}_device"]
    assert zero.get("stage3_gather_16bit_weights_on_model_save", False) == inside.get("zero3_save_16bit_model", False)
    assert launched["distributed_type"] == "DEEPSPEED"


def test_recipe_and_launcher_configure_the_same_fsdp2() -> None:
    given = json.loads((scale.CONFIGS / "fsdp2.json").read_text())
    inside = yaml.safe_load((scale.CONFIGS / "fsdp2.yaml").read_text())["fsdp_config"]
    given["offload_params"] = given.pop("cpu_offload")
    assert {f"fsdp_{key}": value for key, value in given.items()} == inside


def run_of(sharding: str, processes: int, per_device: int) -> SimpleNamespace:
    """A Trainer as far as `prepare_resume` looks at it."""
    plugin = SimpleNamespace(zero_stage=int(sharding[4:])) if sharding.startswith("zero") else None
    fsdp = {"fsdp_version": 2} if sharding == "fsdp2" else None
    return SimpleNamespace(args=SimpleNamespace(deepspeed_plugin=plugin, fsdp_plugin_args=fsdp, world_size=processes, process_index=0,
                                                train_batch_size=per_device, gradient_accumulation_steps=1))


def test_a_checkpoint_of_another_sharding_or_batch_is_refused(tmp_path: Path) -> None:
    scale.seal(tmp_path, run_of("zero2", 4, 2).args)
    scale.prepare_resume(run_of("zero2", 4, 2), tmp_path)
    with pytest.raises(ConfigError, match=r"written with sharding 'zero2', this run has 'fsdp2'"):
        scale.prepare_resume(run_of("fsdp2", 4, 2), tmp_path)
    with pytest.raises(ConfigError, match=r"8 samples per step, this run has 4 \(2 processes x 2 x 1 accumulated\)"):
        scale.prepare_resume(run_of("zero2", 2, 2), tmp_path)


@pytest.mark.parametrize(("decay", "rates", "refused"), [(0.0, {}, False), (0.01, {}, True), (0.0, {"projector": 1e-5}, True)])
def test_zero_with_several_groups_of_weights_needs_as_many_processes(
        base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decay: float, rates: dict[str, float], refused: bool) -> None:
    converted: list[Path] = []
    monkeypatch.setattr(scale, "to_universal", converted.append)
    scale.seal(tmp_path, run_of("zero2", 4, 2).args)
    run = run_of("zero2", 8, 1)  # as many samples per step
    run.args.weight_decay, run.args.learning_rate, run.learning_rates, run.model = decay, 1e-3, rates, load_checkpoint(base)[0]
    run.get_decay_parameter_names = lambda model: [name for name, _ in model.named_parameters() if "norm" not in name]
    run.accelerator = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=SimpleNamespace(hf_ds_config=SimpleNamespace(config={}))))
    if refused:
        with pytest.raises(ConfigError, match=r"written by 4 processes, this run has 8; .*use 4 processes or fsdp2"):
            scale.prepare_resume(run, tmp_path)
        assert not converted
    else:
        scale.prepare_resume(run, tmp_path)
        assert converted == [tmp_path]


def test_quantised_weights_are_not_split() -> None:
    with pytest.raises(ConfigError, match=r"model\.quantize: nf4 does not go with zero3.*zero2"):
        scale.start(run_of("zero3", 2, 2).args, "nf4")


def test_a_batch_without_images_gets_one_that_teaches_nothing(base: Path) -> None:
    model, processor = load_checkpoint(base)
    blank = scale.stand_in(processor)
    assert (blank["labels"] == IGNORE).all()
    ids = torch.tensor([1, 40, 41, 42])
    text = {"sample_id": "text", "input_ids": ids, "labels": ids, "tokens": {}, "images": {}}
    make = Collator(processor.tokenizer.pad_token_id, 256)
    alone = make([text])
    with_image = Collator(processor.tokenizer.pad_token_id, 256, None, blank)([text])
    assert "pixel_values" not in alone
    assert with_image["pixel_values"].shape[0] == 1
    pair = []
    for batch in (alone, with_image):
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        pair.append((loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}))
    (loss, grads), (loss_with, grads_with) = pair
    assert loss_with == pytest.approx(loss, abs=1e-6)
    assert all(torch.allclose(grads_with[name], grad, atol=1e-6) for name, grad in grads.items())
    seen = {name for name in grads_with if "vision_tower" in name}
    assert seen
    assert all(not grads_with[name].any() for name in seen)


def test_a_stand_in_is_there_only_where_a_process_would_wait(base: Path) -> None:
    model, _ = load_checkpoint(base)
    alone, two, split = run_of("none", 1, 2).args, run_of("none", 2, 2).args, run_of("zero3", 2, 2).args
    assert scale.needs_stand_in(two, model, [0, 2])
    assert not scale.needs_stand_in(alone, model, [0, 2])
    assert not scale.needs_stand_in(two, model, [1, 2])
    assert not scale.needs_stand_in(two, model, [0, 0])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("language_model" in name)
    assert not scale.needs_stand_in(two, model, [0, 2])
    assert scale.needs_stand_in(split, model, [0, 2])


def test_a_checkpoint_without_its_seal_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (3, 6):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    scale.seal(tmp_path / "checkpoint-3", run_of("none", 1, 4).args)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-3"
    assert "checkpoint-6 was not written to its end" in capsys.readouterr().out


LAUNCHERS = {
    "torchrun-zero3": ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    "accelerate-zero2": ["accelerate.commands.launch", "--config_file", str(scale.CONFIGS / "zero2.yaml"), "--num_processes", "2"],
    "accelerate-fsdp2": ["accelerate.commands.launch", "--config_file", str(scale.CONFIGS / "fsdp2.yaml"), "--num_processes", "2"],
}


@slow
@needs_deepspeed
@pytest.mark.timeout(900)
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launchers_train_as_one_process_does(recipe: dict, base: Path, tmp_path: Path, launcher: str) -> None:
    recipe["model"] = {"base": str(base)}
    recipe["train"] |= {"output_dir": str(tmp_path / "one"), "max_steps": 3}
    one = train(parse_recipe(recipe))
    recipe["train"] |= {"output_dir": str(tmp_path / "two"), "per_device_train_batch_size": 2}
    if launcher == "torchrun-zero3":
        recipe["train"]["deepspeed"] = "zero3"
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", *LAUNCHERS[launcher], "-m", "geotempo", "train", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 0, done.stderr[-2000:]
    kind = launcher.partition("-")[2]
    assert json.loads((tmp_path / "two" / "checkpoint-3" / scale.PROCESSES).read_text())["sharding"] == kind
    assert losses(tmp_path / "two") == pytest.approx(losses(one.parent), abs=1e-5)
    a, b = (load_checkpoint(folder)[0].state_dict() for folder in (one, tmp_path / "two" / "final"))
    assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)


@slow
@needs_deepspeed
@pytest.mark.timeout(900)
def test_zero2_killed_and_resumed_repeats_the_undisturbed_losses(recipe: dict, base: Path, tmp_path: Path) -> None:
    recipe["model"] = {"base": str(base)}
    recipe["data"]["augment"] = {"brightness": 0.2, "jpeg": [50, 90]}
    recipe["train"] |= {"deepspeed": "zero2", "per_device_train_batch_size": 2, "max_steps": 12, "save_total_limit": 5}
    path, whole, killed = tmp_path / "recipe.yaml", tmp_path / "run", tmp_path / "killed"
    path.write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", *LAUNCHERS["torchrun-zero3"], "-m", "geotempo", "train", str(path)]
    subprocess.run(command, check=True, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    command.append(f"train.output_dir={killed}")
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (killed / "checkpoint-6" / scale.PROCESSES).exists():
        assert process.poll() is None, "training ended before it could be killed"
        time.sleep(0.01)
    agent = psutil.Process(process.pid)
    for one in [*agent.children(recursive=True), agent]:
        one.kill()  # SIGKILL
    process.wait()
    assert not (killed / "final").exists()
    subprocess.run(command, check=True, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first, second = losses(whole), losses(killed)
    assert len(first) == len(second) == 12
    assert second == pytest.approx(first, abs=1e-5)
