"""`geotempo train RECIPE --show-batch` shows what the trainer sees: its samples, its supervised tokens, its pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers.utils import is_torchvision_available
from typer.testing import CliRunner

from geotempo.cli import app
from geotempo.data_builders.render import chat, target_text
from geotempo.data_builders.store import Store
from geotempo.finetune import train as training
from geotempo.finetune.collate import Collator
from geotempo.finetune.dataset import IGNORE
from geotempo.finetune.recipe import parse_recipe
from geotempo.finetune.show_batch import BatchView, first_batch, pieces, show_batch, view
from geotempo.model.bases import BASES, convention_of
from geotempo.model.checkpoints import load_processor
from geotempo.model.errors import ConfigError
from tests.tiny_bases import write

FAMILIES = [pytest.param(name, marks=pytest.mark.skipif(
    BASES[name].needs_torchvision and not is_torchvision_available(), reason="this base's processor needs torchvision (the vLLM "
    "environment has it)")) for name in BASES]


def seen(recipe: dict[str, Any]) -> BatchView:
    return view(*first_batch(parse_recipe(recipe)))


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_of_every_base_the_answer_and_its_end_are_supervised_and_nothing_else(family: str, packed: bool, recipe: dict,
                                                                              tmp_path: Path) -> None:
    base = write(family, tmp_path / "base")
    recipe["model"] = {"base": str(base)}
    if packed:
        recipe["data"]["pack_tokens"] = 700
        recipe["train"]["per_device_train_batch_size"] = 1
    config, processor = load_processor(base)
    shown, store = seen(recipe), Store(Path(recipe["data"]["store"]))
    assert shown.packed is packed
    print(f"\n{BASES[family].name}:")  # pytest -s prints which tokens are supervised
    for sample in shown.samples:
        print(f"  {sample.sample_id}: {' '.join(sample.learnt)}")
        said = "".join(piece.text for piece in sample.pieces if piece.supervised)
        want = target_text(store.by_id(sample.sample_id), convention=convention_of(config, processor))
        stop = processor.tokenizer.eos_token
        assert said.strip().removesuffix(stop).strip() == want
        assert stop in said, "the end of the answer must be learnt too, or the model never stops"
        assert not any(piece.supervised and piece.image_tokens for piece in sample.pieces)
        assert [piece.image_tokens > 0 for piece in sample.pieces].count(True) == len(sample.pictures) == 2
        assert len(sample.learnt) < sample.tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_are_those_of_the_sample_as_the_model_sees_them(family: str, recipe: dict, tmp_path: Path) -> None:
    recipe["model"] = {"base": str(write(family, tmp_path / "base"))}
    store = Store(Path(recipe["data"]["store"]))
    for sample in seen(recipe).samples:
        given = chat(store.by_id(sample.sample_id)).images
        for picture, tiles in zip(given, sample.pictures, strict=True):
            whole = tiles[0]
            same = np.asarray(picture.convert("RGB").resize(whole.size, resample=3), float)
            # the noise of the field survives in full where nothing is resized, and the roof always
            assert np.abs(np.asarray(whole, float) - same).mean() < 6


def test_it_is_the_batch_that_training_begins_with(recipe: dict, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    got: list[dict[str, torch.Tensor]] = []

    class Recording(Collator):
        def __call__(self, items: Any) -> dict[str, torch.Tensor]:
            got.append(super().__call__(items))
            return got[-1]

    recipe["data"]["augment"] = {"brightness": 0.2}
    recipe["train"] |= {"max_steps": 1, "seed": 5}
    for name, pack in (("padded", {}), ("packed", {"pack_tokens": 250})):
        one = recipe | {"data": recipe["data"] | pack, "train": recipe["train"] | {"output_dir": str(tmp_path / name)}}
        _, batch, _ = first_batch(parse_recipe(one))
        got.clear()
        with monkeypatch.context() as patch:
            patch.setattr(training, "Collator", Recording)
            training.train(parse_recipe(one))
        assert batch.keys() == got[0].keys()
        assert all(torch.equal(batch[key], got[0][key]) for key in batch)


def test_samples_of_packs_begin_where_positions_begin_anew(recipe: dict) -> None:
    recipe["data"]["pack_tokens"] = 250
    recipe["train"]["per_device_train_batch_size"] = 3
    items, batch, processor = first_batch(parse_recipe(recipe))
    shown = view(items, batch, processor)
    assert [[s.sample_id for s in group.samples] for group in shown.groups] == [[s["sample_id"] for s in item] for item in items]
    assert len(shown.groups) == 3
    starts = [sample.start for sample in shown.samples]
    assert len(starts) > 3
    assert starts == torch.nonzero(batch["position_ids"][0] == 0).flatten().tolist()
    assert sum(sample.tokens for sample in shown.samples) == batch["input_ids"].shape[1]
    assert f"{int((batch['labels'] != IGNORE).sum())} supervised" in shown.totals
    assert "0 padding" in shown.totals
    assert "3 packs end to end in one row" in shown.layout


def test_padding_is_counted_and_not_shown_as_text(recipe: dict) -> None:
    items, batch, processor = first_batch(parse_recipe(recipe))
    shown = view(items, batch, processor)
    assert f"{int((batch['attention_mask'] == 0).sum())} padding" in shown.totals
    assert not any("<pad>" in piece.text for sample in shown.samples for piece in sample.pieces)
    assert shown.layout == "4 padded rows"


def test_words_keep_the_blank_between_them_where_supervision_begins(recipe: dict) -> None:
    items, _, processor = first_batch(parse_recipe(recipe))
    ids = items[0][0]["input_ids"]
    whole = processor.tokenizer.decode(ids)
    for cut in range(1, len(ids)):
        labels = ids.clone()
        labels[:cut] = IGNORE
        parts = list(pieces(ids, labels, processor))
        text = "".join(piece.text * max(1, piece.image_tokens) for piece in parts)
        assert text == whole


def test_the_command_prints_marks_and_writes_a_page_and_no_checkpoint(recipe: dict, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    # what needs a launcher, a GPU or a held-out split must not keep one from looking
    recipe["train"] |= {"deepspeed": "zero2", "tf32": True, "eval_strategy": "steps", "eval_steps": 2}
    path.write_text(yaml.safe_dump(recipe))
    done = CliRunner().invoke(app, ["train", str(path), "--show-batch", "--out", str(tmp_path / "look")])
    assert done.exit_code == 0, done.output
    assert "</s>⟧" in done.output
    assert "<image> x 16" in done.output
    page = (tmp_path / "look" / "batch.html").read_text()
    assert page.count("<img ") == 8
    assert page.count("</mark>") == 4
    assert "<script" not in page
    assert "http" not in page
    left = {found.name for found in Path(recipe["train"]["output_dir"]).rglob("*") if found.is_file()}
    assert not {"model.safetensors", "recipe.yaml", "trainer_state.json"} & left


def test_colours_mark_supervised_tokens_in_a_terminal(recipe: dict, tmp_path: Path) -> None:
    text, _ = show_batch(parse_recipe(recipe), tmp_path, colour=True)
    assert text.count("\x1b[30;42m") == 4
    assert "⟦" not in text


def test_out_alone_and_other_kinds_of_recipe_are_refused(recipe: dict, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(recipe))
    result = CliRunner().invoke(app, ["train", str(path), "--out", str(tmp_path)])
    assert isinstance(result.exception, ConfigError)
    path.write_text(yaml.safe_dump({"kind": "sam", "data": {}, "train": {}}))
    result = CliRunner().invoke(app, ["train", str(path), "--show-batch"])
    assert "of kind 'sam'" in str(result.exception)
