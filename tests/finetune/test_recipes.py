"""Every shipped recipe is read, and really run for one step on the CPU, on a tiny base of the family that it names."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers.utils import is_torchvision_available

from geotempo.data_builders.build import build_store
from geotempo.finetune import dense, sam
from geotempo.finetune.recipe import parse_recipe, read_yaml
from geotempo.finetune.train import train
from geotempo.model.errors import ConfigError
from tests.tiny_bases import write

ROOT = Path(__file__).parents[2]
RECIPES = {path.stem: path for path in sorted((ROOT / "finetune" / "recipes").glob("*.yaml"))}
FAMILY = {"qwen3vl_lora": "qwen3_vl", "teochat_7b": "teochat"}
"""Whose base is of another family than LLaVA."""
QUICK = ("smoke", "qlora_7b", "domain_lora")
"""Recipes that are also run where tests must be quick."""


def kind_of(name: str) -> str:
    return str(yaml.safe_load(RECIPES[name].read_text()).get("kind", "llm"))


def of_kind(kind: str) -> list[Any]:
    marks = {name: [] if name in QUICK else [pytest.mark.slow] for name in RECIPES}
    marks["qwen3vl_lora"].append(pytest.mark.skipif(not is_torchvision_available(), reason="Qwen3-VL's image processor needs torchvision "
                                                    "(the vLLM environment has it)"))
    return [pytest.param(name, marks=marks[name]) for name in RECIPES if kind_of(name) == kind]


def tiny_base(name: str, folder: Path) -> Path:
    """A base of random weights of the family that the recipe is for."""
    family = FAMILY.get(name, "llava")
    if family != "teochat":
        return write(family, folder)
    pytest.importorskip("sentencepiece", reason='sentencepiece is not installed: pip install "geotempo[teochat]"')
    from geotempo.model.teochat_import import ImportPlan, import_teochat
    from tests.teochat_layout import write_merged, write_vision

    import_teochat(ImportPlan(write_merged(folder / "TEOChat"), folder / "teochat", vision=write_vision(folder / "LanguageBind_Image")))
    return folder / "teochat"


@pytest.mark.parametrize("name", of_kind("llm"))
def test_a_recipe_takes_a_step_and_leaves_what_it_says(name: str, val_store: Path, tmp_path: Path, capsys: Any) -> None:
    given = read_yaml(RECIPES[name])
    if given["model"].get("quantize"):
        pytest.importorskip("bitsandbytes", reason='bitsandbytes is not installed: pip install "geotempo[qlora]"')
    overrides = [f"train.output_dir={tmp_path / 'run'}", "train.max_steps=1", "train.save_strategy=steps", "train.save_steps=1",
                 "train.gradient_accumulation_steps=1", f"data.store={val_store}", "data.images=null", "data.evaluate=null", "data.tasks=null"]
    overrides += [f"train.{key}=2" for key in ("per_device_train_batch_size",) if given["train"].get(key, 1) > 2]
    base = given["model"].get("base")
    if base is not None:
        shipped = ROOT / base
        overrides.append(f"model.base={shipped if shipped.is_dir() and 'weights' in shipped.parts else tiny_base(name, tmp_path / 'base')}")
    recipe = parse_recipe(read_yaml(RECIPES[name], overrides))
    final = train(recipe)
    assert (final / "model.safetensors").is_file()
    for folder in (final, final.parent / "checkpoint-1"):
        assert (folder / "recipe.yaml").is_file()
    assert yaml.safe_load((final / "recipe.yaml").read_text())["trainable_parameters"] > 0
    head = RECIPES[name].read_text().partition("\nmodel:")[0]
    promised = re.search(r"runs/\w+/adapter", head) is not None and not (recipe.lora and recipe.lora.projector)
    if promised:
        assert (final.parent / "adapter" / "adapter_model.safetensors").is_file()
    out = capsys.readouterr().out
    assert ("in 1 packs" in out or " packs of up to" in out) is (recipe.data.pack_tokens is not None)
    if recipe.train.get("eval_strategy", "no") != "no" and recipe.data.watch:
        assert (final.parent / "watch.html").is_file()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of four scenes, with masks."""
    out = tmp_path_factory.mktemp("scenes") / "scenes"
    build_store("scenes", Path(), out, options={"count": 4, "seed": 1, "dates": 2, "easy": True}, progress=False)
    return out


@pytest.mark.parametrize("name", of_kind("sam"))
def test_a_recipe_for_sam_takes_a_step(name: str, scenes: Path, tmp_path: Path) -> None:
    given = read_yaml(RECIPES[name])
    overrides = [f"train.output_dir={tmp_path / 'run'}", "train.steps=1", "train.held_out=null"]
    overrides += ["train.box_steps=0"] if given["train"].get("box_steps") else []
    overrides += [f"data.store={scenes}"] if "store" in given["data"] else ["data.scenes={seed: 1, count: 1, size: 256}"]
    overrides += [f"model.base={ROOT / given['model']['base']}"] if "base" in given["model"] else []
    raw = read_yaml(RECIPES[name], overrides)
    raw.pop("kind")
    assert (sam.train(raw) / "model.safetensors").is_file()


@pytest.mark.parametrize("name", of_kind("dense"))
def test_a_recipe_for_a_vision_encoder_takes_a_step(name: str, scenes: Path, tmp_path: Path) -> None:
    raw = read_yaml(RECIPES[name], [f"train.output_dir={tmp_path / 'run'}", "train.steps=1", "train.warmup_steps=1", "train.scenes_per_step=1",
                                    "train.workers=0", f"train.corpora=[{scenes}]"])
    raw.pop("kind")
    assert (dense.train(raw) / "model.safetensors").is_file()


@pytest.mark.parametrize("name", RECIPES)
def test_commands_in_a_recipe_name_files_and_commands_that_there_are(name: str) -> None:
    from typer.main import get_command

    from geotempo.cli import app

    known = get_command(app).commands  # type: ignore[attr-defined]
    text = RECIPES[name].read_text()
    for path in re.findall(r"finetune/recipes/\w+\.yaml", text):
        assert (ROOT / path).is_file(), path
    for other in re.findall(r"`(\w+)\.yaml`", text):
        assert other in RECIPES, other
    for command in re.findall(r"^# +geotempo ([\w-]+)", text, re.MULTILINE):
        assert command in known, command
    assert "\n#   geotempo " in text or "(tiny_dense.yaml)" in text or name in ("tiny_focus",), "a recipe begins with its commands"


@pytest.mark.parametrize(("name", "override", "near"), [
    ("lora_7b", "model.atention=sdpa", "did you mean 'attention'"),
    ("lora_7b", "lora.drop_out=0.1", "did you mean 'dropout'"),
    ("lora_7b", "data.pack_token=4", "did you mean 'pack_tokens'"),
    ("lora_7b", "model.learning_rates.projektor=1.0", "did you mean 'projector'"),
    ("full", "train.learning_rates=1.0", "did you mean 'learning_rate'"),
    ("full", "date.store=x", "did you mean 'data'"),
    ("domain_lora", "data.questions.change_groundin=[a]", "did you mean 'change_grounding'"),
    ("real_overfit", "model.compose.visoin=x", "did you mean 'vision'"),
    ("sam_decoder", "train.stepps=1", "did you mean 'steps'"),
    ("sam_decoder", "modell.base=x", "did you mean 'model'"),
    ("sam_tiny", "data.scenes.sed=1", "did you mean 'seed'"),
    ("sam_tiny", "train.held_out.cuont=1", "did you mean 'count'"),
    ("tiny_dense", "train.scenes_per_stp=1", "did you mean 'scenes_per_step'"),
    ("tiny_dense", "scenes.date=1", "did you mean 'dates'"),
    ("tiny_dense", "scenes.options.nuisanse=1", "did you mean 'nuisance'"),
    ("tiny_dense", "model.compose.sincos_position=true", "did you mean 'sincos_positions'"),
])
def test_an_unknown_key_of_any_section_is_refused_with_the_nearest_name(name: str, override: str, near: str, store: Path,
                                                                        tmp_path: Path) -> None:
    raw = read_yaml(RECIPES[name], [override, f"train.output_dir={tmp_path / 'run'}"])
    kind = raw.pop("kind", "llm")
    if kind == "llm":
        raw["data"] = {key: value for key, value in raw["data"].items() if key not in ("images", "tasks")} | {"store": str(store)}
    with pytest.raises(ConfigError, match=near):
        {"llm": lambda given: train(parse_recipe(given)), "sam": sam.train, "dense": dense.train}[kind](raw)
    assert not (tmp_path / "run").exists()
