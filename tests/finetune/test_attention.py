"""Attention by sample and logits at supervised positions change the work, not the result."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.utils import is_torchvision_available

from geotempo.finetune import attention
from geotempo.finetune.collate import Batch, Collator
from geotempo.finetune.dataset import IGNORE, Mixture
from geotempo.finetune.packing import positions_for
from geotempo.finetune.recipe import DataSection, parse_recipe
from geotempo.finetune.train import train
from geotempo.finetune.trainer import GeoTempoTrainer, supervised_positions
from geotempo.model.bases import BASES, convention_of
from geotempo.model.checkpoints import load_checkpoint
from tests.tiny_bases import write

FAMILIES = [pytest.param(name, marks=pytest.mark.skipif(
    BASES[name].needs_torchvision and not is_torchvision_available(), reason="this base's processor needs torchvision (the vLLM "
    "environment has it)")) for name in BASES]


def batches(family: str, store: Path, folder: Path) -> tuple[Any, Batch, Batch]:
    """A model, and three samples of it as a pack and as padded rows."""
    model, processor = load_checkpoint(write(family, folder / "base"))
    data = Mixture(DataSection(str(store)), processor, 0, convention_of(model.config, processor))
    rows = [data[index] for index in (0, 2, 3)]
    pad = processor.tokenizer.pad_token_id
    return model, Collator(pad, 4096, positions_for(model.config))(rows), Collator(pad, 4096)(rows)


def step(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients."""
    model.zero_grad()
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    return loss.detach(), {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_by_sample_packs_have_the_loss_and_gradients_of_the_masked_pack(family: str, store: Path, tmp_path: Path) -> None:
    model, pack, padded = batches(family, store, tmp_path)
    loss, gradients = step(model, pack)
    rows, _ = step(model, padded)
    assert attention.use(model)
    with attention.no_mask():
        alike, others = step(model, pack | {"spans": attention.spans_of(pack["position_ids"])})
    assert torch.allclose(loss, alike, atol=1e-6)
    assert gradients.keys() == others.keys()
    assert all(torch.allclose(gradients[name], others[name], atol=1e-5) for name in gradients)
    again, _ = step(model, padded)  # without spans it is sdpa as before
    assert torch.equal(rows, again)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_at_supervised_positions_alone_give_the_same_loss_and_gradients(family: str, store: Path, tmp_path: Path) -> None:
    model, pack, padded = batches(family, store, tmp_path)
    for batch in (pack, padded):
        loss, gradients = step(model, batch)
        alike, others = step(model, batch | supervised_positions(batch["labels"]))
        assert torch.allclose(loss, alike, atol=1e-6)
        assert all(torch.allclose(gradients[name], others[name], atol=1e-5) for name in gradients)


def test_only_positions_before_an_answers_token_are_kept() -> None:
    labels = torch.tensor([[IGNORE, IGNORE, 5, 6, IGNORE], [7, IGNORE, IGNORE, 8, IGNORE]])
    given = supervised_positions(labels)
    assert given["logits_to_keep"].tolist() == [1, 2]
    assert given["shift_labels"].tolist() == [[5, 6], [IGNORE, 8]]  # what comes first is predicted by nothing


def test_another_attention_than_sdpa_stays(store: Path, tmp_path: Path) -> None:
    model, _, _ = batches("llava", store, tmp_path)
    model.set_attn_implementation("eager")
    assert not attention.use(model)
    assert model.model.language_model.config._attn_implementation == "eager"


def test_the_spans_of_a_pack_are_read_off_its_positions() -> None:
    assert attention.spans_of(torch.tensor([[0, 1, 2, 0, 0, 1]])) == [3, 1, 2]
    counted = torch.tensor([0, 1, 0, 1, 2])
    assert attention.spans_of(torch.stack([counted, counted * 0, counted * 0, counted]).unsqueeze(1)) == [2, 3]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_packed_run_attends_by_sample_and_loses_as_one_with_masks(recipe: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                    checkpointing: bool) -> None:
    losses: dict[str, list[float]] = {"masks": [], "samples": []}
    recipe["data"]["pack_tokens"] = 200
    recipe["train"] |= {"max_steps": 2, "gradient_checkpointing": checkpointing, "per_device_train_batch_size": 2}
    log, use = GeoTempoTrainer.log, attention.use
    for kind, found in losses.items():
        if kind == "masks":
            monkeypatch.setattr(attention, "use", lambda model: False)
        else:
            monkeypatch.setattr(attention, "use", use)

        def watch(self: Any, logs: dict[str, float], start_time: float | None = None, *, into: list[float] = found) -> None:
            if "loss" in logs:
                into.append(logs["loss"])
                assert self.by_sample == (into is losses["samples"])
            log(self, logs, start_time)

        monkeypatch.setattr(GeoTempoTrainer, "log", watch)
        train(parse_recipe(recipe | {"train": recipe["train"] | {"output_dir": str(tmp_path / kind)}}))
    assert len(losses["masks"]) == 2
    assert losses["masks"] == pytest.approx(losses["samples"], abs=1e-5)
