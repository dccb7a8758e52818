"""Recipes are checked key by key before anything heavy starts."""

from pathlib import Path

import pytest
import yaml

from geotempo.finetune.recipe import parse_recipe, read_yaml
from geotempo.finetune.train import training_arguments
from geotempo.model.errors import ConfigError

RECIPES = sorted((Path(__file__).parents[2] / "finetune" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path: Path) -> None:
    raw = read_yaml(path)
    if raw.pop("kind", "llm") == "llm":
        training_arguments(parse_recipe(raw).train)


def test_overrides_are_yaml_values(recipe: dict, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(recipe))
    raw = read_yaml(path, ["train.learning_rate=1e-4", "lora.r=4", "data.tasks=[change_caption]"])
    assert raw["train"]["learning_rate"] == 1e-4
    assert raw["lora"] == {"r": 4}
    assert parse_recipe(raw).data.tasks == ("change_caption",)


@pytest.mark.parametrize(("change", "words"), [
    ({"modle": {}}, "did you mean 'model'"),
    ({"data": {"stoer": "x"}}, "did you mean 'store'"),
    ({"lora": {"rank": 4}}, "unknown key 'rank' in lora"),
    ({"model": {"base": "a", "compose": {}}}, "exactly one of base"),
    ({"model": {"base": "a", "freeze": ["visiontower"]}}, "did you mean 'vision_tower'"),
    ({"train": {"learning_rate": 1}}, "output_dir"),
    ({"data": {}}, "store"),
    ({"data": 3}, "keys and values"),
    ({"model": {"base": "a", "save_dtype": "int3"}}, "bfloat16"),
])
def test_wrong_keys_are_named(recipe: dict, change: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_recipe(recipe | change)


def test_a_wrong_training_argument_is_named(recipe: dict) -> None:
    with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
        training_arguments(recipe["train"] | {"learning_rte": 1})
    with pytest.raises(ConfigError, match="section 'train'"):
        training_arguments(recipe["train"] | {"eval_strategy": "sometimes"})


@pytest.mark.parametrize("text", ["model: [1", "- 1", "\x00", "a: b: c"])
def test_a_broken_file_is_one_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        read_yaml(path)


def test_an_override_without_value_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("model: {}")
    with pytest.raises(ConfigError, match=r"section\.key=value"):
        read_yaml(path, ["train.learning_rate"])


def test_a_bare_no_of_yaml_is_a_strategy(tmp_path: Path) -> None:
    given = yaml.safe_load(f"{{output_dir: {tmp_path}, eval_strategy: no, save_strategy: no}}")
    args = training_arguments(given)
    assert (args.eval_strategy.value, args.save_strategy.value) == ("no", "no")


def test_access_tokens_stay_out_of_copies_of_a_recipe(recipe: dict) -> None:
    recipe["train"]["hub_token"] = "hf_secret"
    written = str(parse_recipe(recipe).to_dict())
    assert "hf_secret" not in written
    assert "<HUB_TOKEN>" in written


@pytest.mark.parametrize(("text", "value"), [("1e-4", 1e-4), ("2E3", 2000.0), ("-1.5e-2", -0.015), (".5e1", 5.0), ("1e", "1e"), ("e5", "e5"),
                                             ("1e4.5", "1e4.5"), ("12", 12), ("0.5", 0.5)])
def test_numbers_are_read_as_everybody_writes_them(tmp_path: Path, text: str, value: object) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"train: {{learning_rate: {text}}}")
    assert read_yaml(path)["train"]["learning_rate"] == value
    path.write_text("train: {}")
    assert read_yaml(path, [f"train.learning_rate={text}"])["train"]["learning_rate"] == value
