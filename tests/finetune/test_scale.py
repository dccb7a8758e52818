"""Training on two real processes over gloo: as on one, whole at the end, and going on on two or on one.

What takes longer than a moment is marked `slow` and runs with `--slow`: kinds of sharding, full and LoRA, launchers, a kill.
"""

import importlib.util
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from geotempo.data_builders.sample import Message
from geotempo.data_builders.store import write_store
from geotempo.finetune import scale
from geotempo.finetune.trainer import last_checkpoint
from geotempo.model.checkpoints import load_checkpoint
from tests.finetune.conftest import samples
from tests.finetune.ranks import Ranks

KINDS = {"ddp": {}, "zero2": {"deepspeed": "zero2"}, "zero3": {"deepspeed": "zero3"}, "zero3_offload": {"deepspeed": "zero3_offload"},
         "fsdp2": {"fsdp_config": "fsdp2"}}
SPLIT = [pytest.param(kind, method, id=f"{kind}-{method}") for kind in KINDS if kind != "ddp" for method in ("full", "lora")]
needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
slow = pytest.mark.slow

pytestmark = pytest.mark.timeout(900)  # the first test of a module waits for one import and two runs

@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    server = Ranks()
    yield server
    server.close()


@pytest.fixture(scope="module")
def runs(store: Path, base: Path, ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> "Runs":
    return Runs(store, base, ranks, tmp_path_factory.mktemp("runs"))


class Runs:
    """Undisturbed runs of 6 steps with checkpoints at 3 and 6, each made once."""

    def __init__(self, store: Path, base: Path, ranks: Ranks, folder: Path) -> None:
        self.store, self.base, self.ranks, self.folder = store, base, ranks, folder
        self.made: dict[str, Path] = {}

    def recipe(self, name: str, kind: str, method: str, processes: int) -> dict:
        made: dict = {
            "model": {"base": str(self.base)},
            "data": {"store": str(self.store), "watch": 0},
            "train": {"output_dir": str(self.folder / name), "per_device_train_batch_size": 4 // processes, "learning_rate": 3e-3,
                      "lr_scheduler_type": "cosine", "max_steps": 6, "save_steps": 3, "logging_steps": 1,
                      "save_total_limit": 3, "report_to": "none", "disable_tqdm": True, **KINDS[kind]},
        }
        return made | ({"lora": {"r": 4, "alpha": 8, "dropout": 0.0}} if method == "lora" else {})

    def whole(self, kind: str, method: str, processes: int = 2) -> Path:
        name = f"{kind}-{method}-{processes}"
        if name not in self.made:
            self.made[name] = self.ranks.train(self.recipe(name, kind, method, processes), processes)
        return self.made[name]

    def resumed(self, kind: str, method: str, before: int, after: int) -> Path:
        """A run as if interrupted after step 3, taken up by `after` processes."""
        name = f"{kind}-{method}-{before}-then-{after}"
        halved(self.whole(kind, method, before), self.folder / name)
        return self.ranks.train(self.recipe(name, kind, method, after), after)


def halved(run: Path, out: Path) -> Path:
    """A copy of a run in which nothing after checkpoint 3 happened."""
    shutil.copytree(run, out)
    for name in ("checkpoint-6", "final", "adapter"):
        shutil.rmtree(out / name, ignore_errors=True)
    return out


def losses(run: Path) -> list[float]:
    newest = last_checkpoint(run)
    assert newest is not None
    history = json.loads((newest / "trainer_state.json").read_text())["log_history"]
    found = {entry["step"]: entry["loss"] for entry in history if "loss" in entry}
    assert list(found) == [1, 2, 3, 4, 5, 6]
    return list(found.values())


def logits(folder: Path) -> torch.Tensor:
    """Of a fixed batch with two images."""
    model, _ = load_checkpoint(folder)
    generator = torch.Generator().manual_seed(1)
    image = model.config.image_token_index
    ids = torch.tensor([[1, *[image] * model.config.image_seq_length, 40, 41, *[image] * model.config.image_seq_length, 42, 43]])
    with torch.no_grad():
        out: torch.Tensor = model(input_ids=ids, pixel_values=torch.randn(2, 3, 64, 64, generator=generator)).logits
    return out


def test_two_processes_train_as_one_does(runs: Runs) -> None:
    """DDP: the same samples per step, the same losses, one final model."""
    one, two = runs.whole("ddp", "full", 1), runs.whole("ddp", "full", 2)
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    assert torch.allclose(logits(two / "final"), logits(one / "final"), atol=1e-4)
    assert not torch.allclose(logits(two / "final"), logits(runs.base), atol=0.1)
    facts = json.loads((two / "checkpoint-6" / scale.PROCESSES).read_text())
    assert facts == {"processes": 2, "samples_per_step": 4, "sharding": "none"}
    told = (two.parent / f"{two.name}.log").read_text()
    assert "step 6 of 6" in told
    assert "step 6 of 6" not in (two.parent / f"{two.name}.log.1").read_text()  # the first process alone prints


@slow
@needs_deepspeed
@pytest.mark.parametrize(("kind", "method"), SPLIT)
def test_split_weights_learn_as_whole_ones_and_are_put_together(runs: Runs, kind: str, method: str) -> None:
    """ZeRO and FSDP2: the losses of one process; the final folder gives the logits of the model that was trained."""
    one, two = runs.whole("ddp", method, 1), runs.whole(kind, method, 2)
    # DeepSpeed's own AdamW on the CPU rounds otherwise than PyTorch's
    close = 1e-3 if kind == "zero3_offload" else 1e-5
    assert losses(two) == pytest.approx(losses(one), abs=close)
    assert torch.allclose(logits(two / "final"), logits(one / "final"), atol=10 * close)
    assert not torch.allclose(logits(two / "final"), logits(runs.base), atol=0.01)
    if method == "lora":
        from peft import PeftModel

        model, _ = load_checkpoint(runs.base)
        PeftModel.from_pretrained(model, two / "adapter").merge_and_unload()
        final, _ = load_checkpoint(two / "final")
        merged = model.state_dict()
        assert all(torch.allclose(merged[name], tensor, atol=1e-6) for name, tensor in final.state_dict().items())


@slow
@needs_deepspeed
@pytest.mark.parametrize(("kind", "method"), SPLIT)
def test_as_many_processes_go_on_with_equal_losses(runs: Runs, kind: str, method: str) -> None:
    assert losses(runs.resumed(kind, method, 2, 2)) == pytest.approx(losses(runs.whole(kind, method, 2)), abs=1e-5)


@slow
@needs_deepspeed
@pytest.mark.parametrize(("kind", "method"), SPLIT)
def test_fewer_processes_go_on(runs: Runs, kind: str, method: str) -> None:
    """ZeRO through the universal checkpoint, FSDP2 through the distributed one; with the universal one, LoRA too."""
    run = runs.resumed(kind, method, 2, 1)
    assert losses(run) == pytest.approx(losses(runs.whole(kind, method, 2)), abs=1e-3)
    assert (run / "checkpoint-3" / "latest_universal").is_file() == kind.startswith("zero")
    assert json.loads((run / "checkpoint-6" / scale.PROCESSES).read_text())["processes"] == 1
    assert torch.allclose(logits(run / "final"), logits(runs.whole(kind, method, 2) / "final"), atol=1e-2)


@slow
@needs_deepspeed
@pytest.mark.parametrize("kind", ["ddp", "zero2", "zero3", "fsdp2"])
def test_more_processes_go_on(runs: Runs, kind: str) -> None:
    assert losses(runs.resumed(kind, "full", 1, 2)) == pytest.approx(losses(runs.whole(kind, "full", 1)), abs=1e-3)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which every second sample has no image, as a conversation about nothing seen has."""
    made = samples(8)
    for number in range(0, len(made), 2):
        turns = (Message("user", "Please say what a house is."), Message("assistant", "a house has been built"))
        made[number] = replace(made[number], images=(), messages=turns, regions=(), task="vqa")
    out = tmp_path_factory.mktemp("texts") / "toy"
    write_store(made, out)
    return out


@slow
@needs_deepspeed
@pytest.mark.parametrize("kind", KINDS)
def test_a_process_without_images_does_not_hold_up_the_others(runs: Runs, texts: Path, kind: str) -> None:
    """One sample per process and step, so that in some steps one has an image and the other has none."""
    made = {}
    for name, split, processes in (("one", "ddp", 1), ("two", kind, 2)):
        recipe = runs.recipe(f"texts-{kind}-{name}", split, "full", processes)
        recipe["data"]["store"] = str(texts)
        recipe["train"] |= {"per_device_train_batch_size": 2 // processes, "seed": 3}
        made[name] = losses(runs.ranks.train(recipe, processes))
    assert made["two"] == pytest.approx(made["one"], abs=1e-3 if kind == "zero3_offload" else 1e-5)
