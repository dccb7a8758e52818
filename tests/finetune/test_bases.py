"""The same recipe takes every base: a LoRA step changes only the LLM's adapters, batches hold what each family needs."""

import json
from pathlib import Path

import pytest
import torch
from transformers.utils import is_torchvision_available

from geotempo.finetune.collate import Collator
from geotempo.finetune.dataset import IGNORE, Mixture
from geotempo.finetune.recipe import DataSection, parse_recipe
from geotempo.finetune.train import train
from geotempo.model.bases import BASES, convention_of, module_of
from geotempo.model.checkpoints import load_checkpoint
from tests.tiny_bases import write

FAMILIES = [pytest.param(name, marks=pytest.mark.skipif(
    BASES[name].needs_torchvision and not is_torchvision_available(), reason="this base's processor needs torchvision (the vLLM "
    "environment has it)")) for name in BASES]


def states(*folders: Path) -> list[dict[str, torch.Tensor]]:
    return [load_checkpoint(folder)[0].state_dict() for folder in folders]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_run_changes_only_what_the_adapters_sit_on(family: str, recipe: dict, tmp_path: Path) -> None:
    base = write(family, tmp_path / "base")
    recipe["model"] = {"base": str(base)}
    recipe["lora"] = {"r": 4, "alpha": 8}
    recipe["train"] |= {"max_steps": 2, "per_device_train_batch_size": 2}
    tuned = train(parse_recipe(recipe))
    before, after = states(base, tuned)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    # in two steps every adapter's B has moved away from zero
    assert len(changed) == 2 * 7
    assert all(module_of(name) == "language_model" and name.endswith("_proj.weight") for name in changed)
    _, processor = load_checkpoint(tuned)
    assert "{%- generation -%}" in processor.chat_template


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_a_family_goes_through_its_model(family: str, store: Path, tmp_path: Path) -> None:
    model, processor = load_checkpoint(write(family, tmp_path / "base"))
    data = Mixture(DataSection(str(store)), processor, 0, convention_of(model.config, processor))
    rows = [data[index] for index in (0, 2, 3)]
    batch = Collator(processor.tokenizer.pad_token_id, 4096)(rows)
    with torch.no_grad():
        together = model(**batch).loss
        alone = [model(**Collator(processor.tokenizer.pad_token_id, 4096)([row])).loss for row in rows]
    weights = torch.tensor([float((row["labels"][1:] != IGNORE).sum()) for row in rows])
    assert torch.allclose(together, (torch.stack(alone) * weights).sum() / weights.sum(), atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_is_the_same_however_its_samples_are_batched(family: str, recipe: dict, tmp_path: Path) -> None:
    recipe["model"] = {"base": str(write(family, tmp_path / "base"))}
    recipe["train"] |= {"max_steps": 1, "save_strategy": "no"}
    seen = []
    for batch, accumulated in ((4, 1), (1, 4)):  # answers of 2 to 30 tokens: batches of one differ in what they weigh
        recipe["train"] |= {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated,
                            "output_dir": str(tmp_path / f"batch{batch}")}
        run = train(parse_recipe(recipe)).parent
        history = json.loads((run / "trainer_state.json").read_text())["log_history"]
        seen += [(entry["loss"], entry["grad_norm"]) for entry in history if "loss" in entry]
    assert seen[0] == pytest.approx(seen[1], rel=1e-4)


def test_projector_first_then_adapters_with_the_projector_at_its_own_rate(recipe: dict, tmp_path: Path) -> None:
    base = write("llava", tmp_path / "base")
    recipe["model"] = {"base": str(base), "freeze": ["vision_tower", "language_model"]}
    recipe["train"] |= {"max_steps": 2, "output_dir": str(tmp_path / "stage1")}
    stage1 = train(parse_recipe(recipe))
    before, after = states(base, stage1)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {module_of(name) for name in changed} == {"projector"}
    assert len(changed) == 4
    moved = {}
    for name, rate in (("slow", 1e-6), ("fast", 1e-2)):
        recipe["model"] = {"base": str(stage1), "learning_rates": {"projector": rate}}
        recipe["lora"] = {"r": 4, "alpha": 8, "projector": True}
        recipe["train"] |= {"max_steps": 3, "save_steps": 3, "output_dir": str(tmp_path / name)}
        first, second = states(stage1, train(parse_recipe(recipe)))
        moved[name] = {module: max(float((first[key] - second[key]).abs().max()) for key in first if module_of(key) == module)
                       for module in ("vision_tower", "projector", "language_model")}
    assert moved["slow"]["vision_tower"] == moved["fast"]["vision_tower"] == 0
    assert 0 < moved["slow"]["projector"] < 1e-4 < moved["fast"]["projector"]
    assert moved["slow"]["language_model"] > 1e-4
    assert not (tmp_path / "fast" / "adapter").exists()  # no engine would serve its projector


def test_adapters_with_a_projector_resume_from_a_checkpoint(recipe: dict, tmp_path: Path) -> None:
    base = write("llava", tmp_path / "base")
    recipe["model"] = {"base": str(base), "learning_rates": {"projector": 1e-2}}
    recipe["lora"] = {"r": 4, "alpha": 8, "projector": True, "dropout": 0.0}
    recipe["train"] |= {"max_steps": 6, "save_steps": 3, "save_total_limit": None, "output_dir": str(tmp_path / "whole")}
    whole = train(parse_recipe(recipe))
    recipe["train"]["output_dir"] = str(tmp_path / "resumed")
    (tmp_path / "resumed").mkdir()
    (tmp_path / "whole" / "checkpoint-3").rename(tmp_path / "resumed" / "checkpoint-3")
    resumed = train(parse_recipe(recipe))
    first, second = states(whole, resumed)
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)


def test_a_pixel_budget_of_a_recipe_is_saved_with_the_model(recipe: dict, tmp_path: Path) -> None:
    base = write("llava_next", tmp_path / "base")
    recipe["model"] = {"base": str(base), "max_pixels": 64 * 128}
    recipe["train"] |= {"max_steps": 1}
    tuned, processor = load_checkpoint(train(parse_recipe(recipe)))
    assert tuned.config.image_grid_pinpoints == [[64, 128], [128, 64]]
    assert [list(tile) for tile in processor.image_processor.image_grid_pinpoints] == [[64, 128], [128, 64]]


def test_teochat_is_tuned_in_its_own_words_and_numbers(store: Path, tmp_path: Path, recipe: dict) -> None:
    pytest.importorskip("sentencepiece", reason='sentencepiece is not installed: pip install "geotempo[teochat]"')
    from geotempo.model.teochat_import import ImportPlan, import_teochat
    from tests.teochat_layout import write_merged, write_vision

    base = tmp_path / "base"
    import_teochat(ImportPlan(write_merged(tmp_path / "TEOChat"), base, vision=write_vision(tmp_path / "LanguageBind_Image")))
    model, processor = load_checkpoint(base)
    data = Mixture(DataSection(str(store), tasks=("change_grounding",)), processor, 0, convention_of(model.config, processor))
    item = data[1]  # a changed pair: box 13, 12, 29, 24 of 64 x 64 pixels, rounded outward to percent
    said = processor.tokenizer.decode(item["input_ids"][item["labels"] != IGNORE])
    assert said.strip() == "[20, 18, 46, 38]</s>"
    asked = processor.tokenizer.decode(item["input_ids"][item["labels"] == IGNORE])
    assert "capturing the same location at different times in chronological order:" in asked
    recipe["model"], recipe["lora"] = {"base": str(base)}, {"r": 4, "alpha": 8}
    recipe["train"] |= {"max_steps": 1, "per_device_train_batch_size": 2}
    tuned, _ = load_checkpoint(train(parse_recipe(recipe)))
    assert tuned.config.geotempo_mode == "teochat"
