"""An imported checkpoint computes what the original code computed on the parity fixture.

The original ran on CPU in float32 with eager attention. On the machine it was made for the difference is 0.0; elsewhere
float sums may come in another order, so 1e-5 is allowed and the number is printed.
"""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from geotempo.model.checkpoints import load_checkpoint
from geotempo.model.teochat_import import ImportPlan, import_teochat
from tests.teochat_layout import tokenizer_bytes, write_checkpoint

pytest.importorskip("sentencepiece", reason='sentencepiece is not installed: pip install "geotempo[teochat]"')

FIXTURE = Path(__file__).parents[2].parent / "shared" / "fixtures" / "teochat"
pytestmark = pytest.mark.skipif(not FIXTURE.is_dir(), reason=f"no parity fixture at {FIXTURE}")
ALLOWED = 1e-5
IMAGE_ID, PATCHES = 3, 49

Model = tuple[LlavaForConditionalGeneration, LlavaProcessor]


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Model:
    root = tmp_path_factory.mktemp("parity")
    weights, config = load_file(FIXTURE / "teochat_tiny.safetensors"), json.loads((FIXTURE / "config.json").read_text())
    source = write_checkpoint(root / "source", weights, config, tokenizer_bytes(320), shards=3)
    import_teochat(ImportPlan(source, root / "out"))
    model, processor = load_checkpoint(root / "out")
    model.set_attn_implementation("eager")
    return model, processor


@pytest.fixture(scope="module")
def io() -> dict[str, torch.Tensor]:
    return load_file(FIXTURE / "io.safetensors")


def pixels(io: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack([io[f"pixel_values_{i}"] for i in (1, 2, 3)])


def expanded(ids: torch.Tensor, others: torch.Tensor, at_image: int) -> list[int]:
    """`others`, with PATCHES times `at_image` where `ids` has the original's image index -200."""
    pairs = zip(ids.tolist(), others.tolist(), strict=True)
    return [value for i, other in pairs for value in ([at_image] * PATCHES if i == -200 else [other])]


def report(what: str, found: torch.Tensor, expected: torch.Tensor) -> float:
    difference = (found - expected).abs().max().item()
    print(f"TEOChat parity, {what}: max |difference| {difference}")
    return difference


def test_pixel_values_bit_for_bit(imported: Model, io: dict[str, torch.Tensor]) -> None:
    pictures = [Image.open(FIXTURE / f"image{i}.png") for i in (1, 2, 3)]
    found = imported[1].image_processor(pictures, return_tensors="pt").pixel_values
    report("pixel values", found, pixels(io))
    assert torch.equal(found, pixels(io))


@torch.inference_mode()
def test_tower_and_projector(imported: Model, io: dict[str, torch.Tensor]) -> None:
    model = imported[0]
    hidden = model.model.vision_tower(pixels(io), output_hidden_states=True).hidden_states[model.config.vision_feature_layer]
    assert report("hidden states of the tower", hidden[:, 1:], io["vision_hidden_select"]) <= ALLOWED
    projected = torch.stack(list(model.get_image_features(pixels(io)).pooler_output))
    assert report("projected features", projected, io["projected"]) <= ALLOWED


@torch.inference_mode()
def test_logits_and_greedy_tokens(imported: Model, io: dict[str, torch.Tensor]) -> None:
    ids = torch.tensor([expanded(io["A_input_ids"][0], io["A_input_ids"][0], IMAGE_ID)])
    logits = imported[0](input_ids=ids, pixel_values=pixels(io)).logits
    assert report("logits, one prompt of three images", logits, io["A_logits"]) <= ALLOWED
    made = imported[0].generate(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels(io),
                                max_new_tokens=8, use_cache=True)
    assert made[0, ids.shape[1] :].tolist() == io["C_generated"][0, io["A_input_ids"].shape[1] :].tolist()


@torch.inference_mode()
def test_logits_and_loss_of_a_padded_batch(imported: Model, io: dict[str, torch.Tensor]) -> None:
    mask = io["B_expanded_attention_mask"].bool()
    ids, labels = torch.zeros(mask.shape, dtype=torch.long), torch.full(mask.shape, -100)
    for row in range(2):
        real = io["B_attention_mask"][row].bool()
        given = io["B_input_ids"][row][real]
        length = int(mask[row].sum())
        ids[row, :length] = torch.tensor(expanded(given, given, IMAGE_ID))
        labels[row, :length] = torch.tensor(expanded(given, io["B_labels"][row][real], -100))
    assert torch.equal(labels, io["B_expanded_labels"])
    out = imported[0](input_ids=ids, attention_mask=mask.long(), pixel_values=pixels(io), labels=labels)
    assert report("logits, padded batch", out.logits[mask], io["B_logits"][mask]) <= ALLOWED
    assert report("loss", out.loss, io["B_loss"]) <= ALLOWED


def test_another_activation_would_change_the_answer(imported: Model, io: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """So it is read and never assumed."""
    config = json.loads((FIXTURE / "config.json").read_text())
    config["vision_config"]["hidden_act"] = "quick_gelu"
    weights = load_file(FIXTURE / "teochat_tiny.safetensors")
    source = write_checkpoint(tmp_path / "source", weights, config, tokenizer_bytes(320))
    import_teochat(ImportPlan(source, tmp_path / "out"))
    model, _ = load_checkpoint(tmp_path / "out")
    with torch.inference_mode():
        projected = torch.stack(list(model.get_image_features(pixels(io)).pooler_output))
    assert report("projected features under quick_gelu", projected, io["projected"]) > 0.01
