"""A run is refused that has seen its evaluation; a model says under which terms its data stands."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from geotempo.cli import app
from geotempo.data_builders.licences import known_licence
from geotempo.data_builders.store import Store, write_store
from geotempo.finetune.model_card import add_scores, merged_card, split_card
from geotempo.finetune.provenance import MOST_NEW, examine, licence_of, write_model_card
from geotempo.finetune.recipe import parse_recipe
from geotempo.finetune.train import train
from geotempo.model.errors import ConfigError, InputError
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


def test_a_card_tells_method_data_losses_scores_and_use(recipe: dict, store: Path, tmp_path: Path) -> None:
    recipe["train"] |= {"max_steps": 1, "save_steps": 1}
    base = train(parse_recipe(recipe))
    recipe["model"], recipe["lora"] = {"base": str(base)}, {"r": 4, "alpha": 8, "rslora": True}
    recipe["train"] |= {"output_dir": str(tmp_path / "lora"), "max_steps": 4, "save_steps": 4, "logging_steps": 1}
    parsed = parse_recipe(recipe)
    final = train(parsed)
    adapter = final.parent / "adapter"
    texts = {folder: (folder / "README.md").read_text() for folder in (base, adapter, final)}
    front, body = split_card(texts[adapter])
    assert front["library_name"] == "peft" and split_card(texts[final])[0]["library_name"] == "transformers"
    assert "| adapters | rsLoRA, rank 4, alpha 8, dropout 0.05, on q_proj, " in body and "| weights | trained in full |" in texts[base]
    digests = {entry["path"]: entry["sha256"] for entry in Store(store).manifest["files"]}
    assert all(f"* `{path}` sha256 `{digest}`" in body for path, digest in digests.items())
    assert yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])["lora"]["alpha"] == 8
    assert "geotempo export ADAPTER --vllm" in body and "vllm serve MODEL" in texts[final]
    history = json.loads((final.parent / "checkpoint-4" / "trainer_state.json").read_text())["log_history"]
    write_model_card(final, parsed, examine(parsed.data))
    logged = {entry["step"]: entry["loss"] for entry in history if "loss" in entry}
    assert f"| training loss | {logged[1]:.4f} (step 1) | {logged[4]:.4f} (step 4) |" in (final / "README.md").read_text()


def test_scores_go_into_the_card_and_replace_older_ones(recipe: dict, store: Path, tmp_path: Path) -> None:
    recipe["train"] |= {"max_steps": 1, "save_steps": 1}
    final = train(parse_recipe(recipe))
    done = CliRunner().invoke(app, ["eval", "change_caption", "--data", str(store), "--split", "train", "--model", str(final), "--out",
                                    str(tmp_path / "eval")])
    assert done.exit_code == 0, done.exception
    results = tmp_path / "eval" / "results.json"
    wanted = json.loads(results.read_text())
    metric = next(iter(wanted["tasks"]["change_caption"].values()))
    for _ in range(2):
        add_scores(final, results)
    card = (final / "README.md").read_text()
    assert card.count("## Scores") == 1 and card.startswith("---\nlicense: cc0-1.0")
    assert f"| {metric['title']} | {metric['value']:.2f} | {metric['low']:.2f} to {metric['high']:.2f} | {metric['n']} |" in card
    assert f"sha256 `{wanted['data_sha256'][:12]}`" in card and card.index("## Scores") > card.index("## Recipe")
    write_model_card(final, parse_recipe(recipe), examine(parse_recipe(recipe).data), results)
    assert (final / "README.md").read_text().count(metric["title"]) == card.count(metric["title"])
    (tmp_path / "other.json").write_text("[1]")
    for path, words in ((tmp_path / "other.json", "not a results.json"), (tmp_path / "none.json", "cannot read the scores")):
        with pytest.raises(InputError, match=words):
            add_scores(final, path)
    assert (final / "README.md").read_text().count("## Scores") == 1


def test_a_card_follows_its_adapter_into_the_merged_model() -> None:
    peft = "---\nbase_model: owner/name\nlibrary_name: peft\ntags:\n- base_model:adapter:owner/name\n- lora\n- maps\n---\n\n# Mine\n\n## Use\n\nold\n"
    front, body = split_card(merged_card(peft, "owner/name"))
    assert front == {"base_model": "owner/name", "library_name": "transformers", "tags": ["maps"]}
    assert body.startswith("# Mine") and "old" not in body and "merged into the weights of owner/name" in body
    assert split_card("# No front matter\n---\n") == ({}, "# No front matter\n---\n")
    assert split_card("---\n: [\n---\n")[0] == {}


def test_licences_of_earlier_stores_are_unknown(recipe: dict) -> None:
    assert known_licence("MIT; x") == "MIT; x" and known_licence("LEVIR: x") == "unknown; LEVIR: x"
    assert licence_of(examine(parse_recipe(recipe).data)).text == "CC0-1.0"


@pytest.mark.parametrize(("change", "words"), [({"evaluate": "store"}, "must be a list of stores"), ({"allow_leaks": 1}, "must be of type bool")])
def test_wrong_values_are_named(recipe: dict, change: dict, words: str) -> None:
    recipe["data"] |= change
    with pytest.raises(ConfigError, match=words):
        parse_recipe(recipe)
