"""Packs hold every sample once, within budgets; a model cannot tell a packed sample from a single one."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geotempo.data_builders.sample import Message, Sample
from geotempo.data_builders.store import write_store
from geotempo.finetune.collate import Collator
from geotempo.finetune.dataset import IGNORE, Mixture
from geotempo.finetune.packing import PackedDataset, plan_packs, positions_for
from geotempo.finetune.recipe import DataSection, parse_recipe
from geotempo.finetune.train import train
from geotempo.model.bases import BASES, convention_of
from geotempo.model.checkpoints import load_checkpoint
from geotempo.model.errors import ConfigError
from tests.finetune.conftest import picture
from tests.finetune.test_bases import FAMILIES
from tests.finetune.test_train import history, losses
from tests.tiny_bases import write


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples of 0, 1, 2, 3, 4 and 8 images."""
    samples = []
    for count in (0, 1, 2, 3, 4, 8):
        images = tuple(picture(10 * count + number, (4, 4, 20, 20) if number % 2 else None) for number in range(count))
        messages = (Message("user", "<image>" * count + "\nwhat changed?"), Message("assistant", f"a new building {count}"))
        samples.append(Sample(f"toy/train/{count}#change_caption", "toy", "train", "change_caption", images, messages, (),
                              {"licence": "CC0-1.0"}))
    folder = tmp_path_factory.mktemp("sequences") / "store"
    write_store(samples, folder)
    return folder


SIZES = st.lists(st.tuples(st.integers(1, 100), st.integers(0, 8)), min_size=1, max_size=200)


@given(SIZES, st.integers(0, 5))
def test_every_sample_is_in_one_pack_within_the_budgets(sizes: list[tuple[int, int]], seed: int) -> None:
    lengths, images = [length for length, _ in sizes], [count for _, count in sizes]
    packs = plan_packs(lengths, images, 120, 10, seed)
    assert sorted(sample for pack in packs for sample in pack) == list(range(len(sizes)))
    assert all(sum(lengths[sample] for sample in pack) <= 120 and sum(images[sample] for sample in pack) <= 10 for pack in packs)
    assert packs == plan_packs(lengths, images, 120, 10, seed)
    # no two packs could be one: best fit opens a pack only where none has room
    loads = sorted((sum(lengths[s] for s in pack), sum(images[s] for s in pack)) for pack in packs)
    assert len(packs) < 2 or loads[0][0] + loads[1][0] > 120 or loads[0][1] + loads[1][1] > 10


def test_packs_are_full_and_mix_lengths() -> None:
    lengths = [50 + 37 * (index % 13) for index in range(5000)]
    packs = plan_packs(lengths, [1] * 5000, 2048, None, 0)
    assert sum(lengths) / (2048 * len(packs)) > 0.98
    assert sum(len({lengths[sample] for sample in pack}) > 1 for pack in packs) > 0.7 * len(packs)


def test_what_no_pack_can_hold_is_refused_by_the_planner() -> None:
    with pytest.raises(ConfigError, match="1 samples are over the budget of a pack, the first has 30 tokens and 2 images"):
        plan_packs([10, 30], [1, 2], 20, None, 0)


def packed(folder: Path, family: str, tmp_path: Path, **section: object):
    model, processor = load_checkpoint(write(family, tmp_path / "base"))
    mixture = Mixture(DataSection(str(folder), **section), processor, 0, convention_of(model.config, processor))
    lengths = [part.length(index) for part in mixture.parts for index in range(len(part))]
    return model, processor, mixture, lengths


@pytest.mark.parametrize("family", FAMILIES)
def test_lengths_are_counted_without_pictures(family: str, sequences: Path, store: Path, tmp_path: Path) -> None:
    for folder in (sequences, store):
        _, _, mixture, lengths = packed(folder, family, tmp_path)
        assert lengths == [len(mixture[index]["input_ids"]) for index in range(len(mixture))]


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_and_single_logits_are_equal(family: str, sequences: Path, tmp_path: Path) -> None:
    model, processor, mixture, _ = packed(sequences, family, tmp_path)
    assert len(mixture) == 6
    pack = [mixture[index] for index in (3, 0, 5, 1, 4, 2)]
    batch = Collator(processor.tokenizer.pad_token_id, 4096, positions_for(model.config))([pack])
    assert "attention_mask" not in batch
    alone = Collator(processor.tokenizer.pad_token_id, 4096)
    with torch.no_grad():
        together = model(**batch, use_cache=False).logits[0]
        single = torch.cat([model(**alone([sample])).logits[0] for sample in pack])
        # what would happen to someone who passes a mask of ones: samples see their neighbours
        leaking = model(**batch, use_cache=False, attention_mask=torch.ones_like(batch["input_ids"])).logits[0]
    assert together.shape == single.shape
    assert (together - single).abs().max() < 4e-6
    assert (leaking - single).abs().max() > 1e-3
    assert int((batch["labels"] != IGNORE).sum()) == sum(int((sample["labels"] != IGNORE).sum()) for sample in pack)


def test_every_base_packs_or_is_tested_where_torchvision_is() -> None:
    assert {str(param.values[0]) for param in FAMILIES} == set(BASES)


def test_samples_of_equal_length_change_places_between_epochs(store: Path, tmp_path: Path) -> None:
    _, _, mixture, lengths = packed(store, "llava", tmp_path, tasks=("change_caption",))
    first, again = (PackedDataset(mixture, lengths, 2 * max(lengths), None, 3) for _ in range(2))
    plans = []
    for epoch in (0, 1, 2, 1):
        first.start_epoch(epoch)
        plans.append([first.members(index) for index in range(len(first))])
        assert sorted(sample for pack in plans[-1] for sample in pack) == list(range(len(mixture)))
        assert all(sum(lengths[sample] for sample in pack) <= 2 * max(lengths) for pack in plans[-1])
    again.start_epoch(2)
    assert plans[2] == [again.members(index) for index in range(len(again))]
    assert plans[1] == plans[3]
    assert plans[0] != plans[1] != plans[2]


def test_the_size_of_packs_changes_neither_loss_nor_gradient(recipe: dict, store: Path, tmp_path: Path) -> None:
    """All 16 samples make one step: in one pack, in several accumulated ones, padded together, padded by fours."""
    recipe["train"] |= {"max_steps": 1, "save_steps": 1, "max_grad_norm": 1e9}
    seen = []
    for name, data, batch, accumulate in (("one", {"pack_tokens": 4096}, 1, 1), ("several", {"pack_tokens": 200}, 1, None),
                                          ("padded", {}, 16, 1), ("padded by fours", {}, 4, 4)):
        variant = {**recipe, "data": recipe["data"] | data, "train": dict(recipe["train"])}
        variant["train"]["output_dir"] = str(tmp_path / name)
        if accumulate is None:  # as many as there are packs
            *_, mixture, lengths = packed_recipe(variant)
            accumulate = len(plan_packs(lengths, mixture.image_counts, 200, None, 0))
            assert accumulate > 4
        variant["train"] |= {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulate}
        entry = history(train(parse_recipe(variant)).parent)[0]
        seen.append((entry["loss"], entry["grad_norm"]))
    assert all(loss == pytest.approx(seen[0][0], abs=1e-5) and norm == pytest.approx(seen[0][1], rel=1e-4) for loss, norm in seen)


def packed_recipe(recipe: dict):
    from geotempo.finetune.train import build_data, build_model, training_arguments

    parsed = parse_recipe(recipe)
    args = training_arguments(parsed.train)
    model, processor = build_model(parsed, args)
    data = build_data(parsed, args, model, processor)
    return model, processor, data.mixture, data.lengths.tolist()


def test_what_does_not_fit_is_set_aside_and_named(recipe: dict, sequences: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    base = write("llava", tmp_path / "base")
    recipe["model"] = {"base": str(base)}
    recipe["data"] = {"store": str(sequences), "pack_tokens": 256, "pack_images": 4}
    _, _, mixture, lengths = packed_recipe(recipe)
    assert [name.split("/")[2] for name in mixture.ids] == ["0#change_caption", "1#change_caption", "2#change_caption",
                                                            "3#change_caption", "4#change_caption"]
    assert len(lengths) == 5
    told = capsys.readouterr().out
    assert "set aside: 1 of 6 samples do not fit 256 tokens (data.pack_tokens) and 4 images a pack" in told
    named = (Path(recipe["train"]["output_dir"]) / "set_aside.jsonl").read_text()
    assert '"id": "toy/train/8#change_caption"' in named
    assert losses(train(parse_recipe(recipe)).parent)


def test_images_are_bounded_apart_from_tokens() -> None:
    packs = plan_packs([1] * 12, [3] * 12, 1000, 7, 0)
    assert [len(pack) for pack in packs] == [2] * 6
