"""A run is refused that has seen its evaluation; a model says under which terms its data stands."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from geotempo.data_builders.licences import known_licence
from geotempo.data_builders.store import write_store
from geotempo.finetune.provenance import MOST_NEW, examine, licence_of, write_model_card
from geotempo.finetune.recipe import parse_recipe
from geotempo.finetune.train import train
from geotempo.model.errors import ConfigError
from tests.finetune.conftest import samples


def held_out(numbers: range, split: str = "val", **meta: str) -> list:
    """Toy samples as another split of another data set."""
    return [replace(sample, id=sample.id.replace("toy/train", f"other/{split}"), dataset="other", split=split, meta=sample.meta | meta)
            for sample in samples(numbers.stop)[2 * numbers.start :]]


@pytest.fixture
def leaking(tmp_path: Path) -> Path:
    """Evaluation on two of the pairs that the toy store trains on."""
    write_store(held_out(range(6, 8)), tmp_path / "leaking")
    return tmp_path / "leaking"


def test_training_on_the_evaluation_is_refused_before_a_model_is_made(recipe: dict, leaking: Path) -> None:
    recipe["data"]["evaluate"] = [str(leaking)]
    with pytest.raises(ConfigError, match=r"4 of 4 samples of .*leaking.*the same image file.*allow_leaks: true"):
        train(parse_recipe(recipe))
    assert not Path(recipe["train"]["output_dir"]).exists()


def test_the_recipe_may_allow_it_and_the_card_says_so(recipe: dict, leaking: Path, tmp_path: Path) -> None:
    recipe["data"] |= {"evaluate": [str(leaking)], "allow_leaks": True}
    found = examine(parse_recipe(recipe).data)
    assert found.touched["any"] == 4 and found.touched["bytes"] == 4
    write_model_card(tmp_path, parse_recipe(recipe), found)
    assert "4 of 4 samples of the evaluation show what training shows" in (tmp_path / "README.md").read_text()


def test_what_the_training_store_holds_out_is_its_evaluation(recipe: dict, tmp_path: Path) -> None:
    twice = samples(4) + [replace(sample, id=sample.id.replace("train", "val"), split="val") for sample in samples(2)]
    write_store(twice, tmp_path / "own")
    recipe["data"]["store"] = str(tmp_path / "own")
    with pytest.raises(ConfigError, match="4 of 4 samples"):
        examine(parse_recipe(recipe).data)
    recipe["data"]["evaluate"] = []
    assert examine(parse_recipe(recipe).data).evaluation == 0


def test_clean_evaluations_pass_and_events_are_compared(recipe: dict, tmp_path: Path) -> None:
    write_store(held_out(range(8, 10)), tmp_path / "clean")
    recipe["data"]["evaluate"] = [str(tmp_path / "clean")]
    found = examine(parse_recipe(recipe).data)
    assert found.evaluation == 4 and not found.shared and found.looked_at == 20 <= MOST_NEW
    flood = [replace(sample, meta=sample.meta | {"event": "flood"}) for sample in samples(2)]
    write_store(flood, tmp_path / "flood")
    write_store(held_out(range(8, 10), event="Flood"), tmp_path / "after")
    recipe["data"] |= {"store": str(tmp_path / "flood"), "evaluate": [str(tmp_path / "after")]}
    with pytest.raises(ConfigError, match=r"the same event, e\.g\. flood in"):
        examine(parse_recipe(recipe).data)


def test_a_run_writes_the_licence_of_its_data(recipe: dict, tmp_path: Path) -> None:
    mixed = [replace(sample, meta={"licence": licence}) for sample, licence in
             zip(samples(2), ["CC0-1.0", "CC-BY-NC-4.0; maps", "CC0-1.0", "LEVIR: academic use only"], strict=True)]
    write_store(mixed, tmp_path / "mixed")
    recipe["data"]["store"] = str(tmp_path / "mixed")
    recipe["train"] |= {"max_steps": 1, "per_device_train_batch_size": 2}
    final = train(parse_recipe(recipe))
    _, front, body = (final / "README.md").read_text().split("---\n", 2)
    words = "unknown + CC-BY-NC-4.0 + CC0-1.0 (terms partly unknown, no commercial use)"
    assert yaml.safe_load(front)["license"] == "other" and yaml.safe_load(front)["license_name"] == words
    assert words in body and "| CC0-1.0 | 2 |" in body
    record = yaml.safe_load((final.parent / "recipe.yaml").read_text())
    assert record["licence"] == words and record["leaks"]["evaluation"] == 0


def test_licences_of_earlier_stores_are_unknown(recipe: dict) -> None:
    assert known_licence("MIT; x") == "MIT; x" and known_licence("LEVIR: x") == "unknown; LEVIR: x"
    assert licence_of(examine(parse_recipe(recipe).data)).text == "CC0-1.0"


@pytest.mark.parametrize(("change", "words"), [({"evaluate": "store"}, "must be a list of stores"), ({"allow_leaks": 1}, "must be of type bool")])
def test_wrong_values_are_named(recipe: dict, change: dict, words: str) -> None:
    recipe["data"] |= change
    with pytest.raises(ConfigError, match=words):
        parse_recipe(recipe)
