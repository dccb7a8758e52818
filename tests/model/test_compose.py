"""Composition: any CLIP/SigLIP with any Llama/Qwen, saved so that transformers and vLLM load it."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    Siglip2Config,
    SiglipConfig,
    SiglipModel,
)

from geotempo.model.budget import tokens_per_image
from geotempo.model.checkpoints import load_checkpoint, save_checkpoint
from geotempo.model.compose import Composition, compose
from geotempo.model.errors import ModelError

TEXTS = ["the new building is next to the road", "describe the change"] * 20
SMALL_VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64,
                "patch_size": 16}
SMALL_LLM = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
             "max_position_embeddings": 256}
STORIES = Path(__file__).parents[2].parent / "shared" / "weights" / "stories260k"


def pair(question: str = "what is new?") -> list[dict]:
    images = [Image.new("RGB", (64, 64), (40 * k, 90, 30)) for k in (1, 2)]
    return [{"role": "user", "content": [{"type": "text", "text": "Image 1: "}, {"type": "image", "image": images[0]},
                                         {"type": "text", "text": "\nImage 2: "}, {"type": "image", "image": images[1]},
                                         {"type": "text", "text": f"\n{question}"}]}]


def encode(processor, messages: list[dict], **options) -> dict:
    return processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt", **options)


@pytest.mark.parametrize("vision", ["tiny-clip", "tiny-siglip"])
@pytest.mark.parametrize("llm", ["tiny-llama", "tiny-qwen2"])
def test_presets_generate_and_come_back_bit_for_bit(vision: str, llm: str, tmp_path: Path) -> None:
    model, processor = compose(Composition(vision, llm, SMALL_VISION, SMALL_LLM, vocab_size=320), TEXTS)
    save_checkpoint(model, processor, tmp_path / "model")
    again, processor2 = load_checkpoint(tmp_path / "model")
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    inputs = encode(processor2, pair(), add_generation_prompt=True)
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == 2 * 16
    assert tokens_per_image(processor2, [(64, 64), (30, 90)]) == (16, 16)
    tokens = [m.eval().generate(**inputs, max_new_tokens=4, do_sample=False).tolist() for m in (model, again)]
    assert tokens[0] == tokens[1]
    assert inputs["input_ids"].tolist() == encode(processor, pair(), add_generation_prompt=True)["input_ids"].tolist()


def test_weights_have_the_names_that_vllm_wants(tmp_path: Path) -> None:
    model, processor = compose(Composition("tiny-clip", "tiny-llama", SMALL_VISION, SMALL_LLM, vocab_size=320), TEXTS)
    save_checkpoint(model, processor, tmp_path / "model")
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert "vision_tower.vision_model.embeddings.class_embedding" in names
    assert "language_model.model.layers.0.self_attn.q_proj.weight" in names
    assert "multi_modal_projector.linear_1.weight" in names
    assert not any(name.startswith("model.") for name in names)


def test_two_saves_write_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_checkpoint(*compose(Composition("tiny-clip", "tiny-llama", SMALL_VISION, SMALL_LLM, vocab_size=320), TEXTS),
                        tmp_path / name)
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def test_only_the_answer_is_marked_as_generated() -> None:
    _, processor = compose(Composition("tiny-clip", "tiny-llama", SMALL_VISION, SMALL_LLM, vocab_size=320), TEXTS)
    messages = pair()
    messages.append({"role": "assistant", "content": [{"type": "text", "text": "a new road"}]})
    whole = encode(processor, messages, return_assistant_tokens_mask=True)
    marked = whole["input_ids"][0][whole["assistant_masks"][0].bool()]
    assert processor.tokenizer.decode(marked) == "a new road</s>"
    prompt = encode(processor, messages[:1], add_generation_prompt=True)["input_ids"][0]
    assert torch.equal(whole["input_ids"][0][: len(prompt)], prompt)


def test_vision_weights_come_from_the_given_folder(tmp_path: Path) -> None:
    torch.manual_seed(7)
    vision = CLIPVisionModel(CLIPVisionConfig(**SMALL_VISION))
    vision.save_pretrained(tmp_path / "clip")
    model, _ = compose(Composition(str(tmp_path / "clip"), "tiny-llama", {}, SMALL_LLM, vocab_size=320), TEXTS)
    for name, tensor in vision.state_dict().items():
        assert torch.equal(model.model.vision_tower.state_dict()[name], tensor), name


def test_the_encoders_own_normalisation_is_kept(tmp_path: Path) -> None:
    CLIPVisionModel(CLIPVisionConfig(**SMALL_VISION)).save_pretrained(tmp_path / "clip")
    CLIPImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7], size={"shortest_edge": 32}).save_pretrained(tmp_path / "clip")
    _, processor = compose(Composition(str(tmp_path / "clip"), "tiny-llama", {}, SMALL_LLM, vocab_size=320), TEXTS)
    pixels = processor.image_processor(Image.new("RGB", (64, 64), (255, 255, 255)), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 64, 64)
    assert torch.allclose(pixels[0, :, 0, 0], torch.tensor([0.9 / 0.5, 0.8 / 0.6, 0.7 / 0.7]), atol=1e-5)


def test_an_untied_head_survives(tmp_path: Path) -> None:
    spec = Composition("tiny-siglip", "tiny-qwen2", SMALL_VISION, SMALL_LLM | {"tie_word_embeddings": False}, vocab_size=320)
    model, processor = compose(spec, TEXTS)
    save_checkpoint(model, processor, tmp_path / "model")
    again, _ = load_checkpoint(tmp_path / "model")
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)
    assert not torch.equal(again.lm_head.weight, again.model.language_model.embed_tokens.weight)


@pytest.mark.skipif(not STORIES.is_dir(), reason="../shared/weights/stories260k is absent")
def test_a_real_llama_keeps_its_voice() -> None:
    model, processor = compose(Composition("tiny-clip", str(STORIES), SMALL_VISION))
    alone, tokenizer = AutoModelForCausalLM.from_pretrained(STORIES, dtype=torch.float32), AutoTokenizer.from_pretrained(STORIES)
    inputs = tokenizer("Once upon a time, there was a little", return_tensors="pt")
    expected = alone.generate(**inputs, max_new_tokens=40, do_sample=False)
    assert processor.tokenizer("Once upon a time, there was a little").input_ids == inputs["input_ids"][0].tolist()
    assert torch.equal(model.eval().generate(**inputs, max_new_tokens=40, do_sample=False), expected)


@pytest.mark.parametrize(("vision", "llm", "words"), [
    ("/nonexistent", "tiny-llama", "tiny-clip"),
    ("tiny-clip", "/nonexistent", "tiny-llama"),
])
def test_a_missing_part_is_named(vision: str, llm: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        compose(Composition(vision, llm), TEXTS)


def test_the_wrong_architecture_is_refused(tmp_path: Path) -> None:
    CLIPVisionModel(CLIPVisionConfig(**SMALL_VISION)).save_pretrained(tmp_path / "clip")
    with pytest.raises(ModelError, match="clip_vision_model"):
        compose(Composition("tiny-clip", str(tmp_path / "clip")), TEXTS)
    with pytest.raises(ModelError, match="image-text model"):
        load_checkpoint(tmp_path / "clip")


def test_siglip_2_of_fixed_resolution_is_a_siglip_and_naflex_is_refused(tmp_path: Path) -> None:
    """Published SigLIP 2 checkpoints of fixed resolution carry the model type `siglip`; those of variable resolution `siglip2`."""
    SiglipModel(SiglipConfig(vision_config=SMALL_VISION, text_config={"hidden_size": 32, "num_hidden_layers": 1,
                                                                     "num_attention_heads": 2})).save_pretrained(tmp_path / "fixed")
    model, _ = compose(Composition(str(tmp_path / "fixed"), "tiny-qwen2", {}, SMALL_LLM, vocab_size=320), TEXTS)
    assert model.config.vision_config.model_type == "siglip_vision_model"
    assert model.config.vision_feature_layer == -1
    Siglip2Config(vision_config={"hidden_size": 32}).save_pretrained(tmp_path / "naflex")
    with pytest.raises(ModelError, match="variable resolution"):
        compose(Composition(str(tmp_path / "naflex"), "tiny-qwen2", {}, SMALL_LLM, vocab_size=320), TEXTS)


def test_an_incomplete_checkpoint_is_refused(tmp_path: Path) -> None:
    model, processor = compose(Composition("tiny-clip", "tiny-llama", SMALL_VISION, SMALL_LLM, vocab_size=320), TEXTS)
    del model.model.multi_modal_projector.linear_2
    save_checkpoint(model, processor, tmp_path / "model")
    with pytest.raises(ModelError, match=r"linear_2"):
        load_checkpoint(tmp_path / "model")


@pytest.mark.parametrize("vision", ["tiny-clip", "tiny-siglip"])
def test_sincos_positions_tell_columns_and_rows_apart(vision: str) -> None:
    model, _ = compose(Composition(vision, "tiny-llama", SMALL_VISION, SMALL_LLM, sincos_positions=True, vocab_size=320), TEXTS)
    name = next(n for n in model.state_dict() if n.endswith("position_embedding.weight"))
    table = model.state_dict()[name][-16:].reshape(4, 4, 32)
    assert torch.equal(table[0, :, :16], table[3, :, :16])  # the column's half does not know the row
    assert torch.equal(table[:, 0, 16:], table[:, 3, 16:])
    assert len({tuple(v.tolist()) for v in table.reshape(16, 32)}) == 16


def test_truncated_weights_are_one_error(tmp_path: Path) -> None:
    model, processor = compose(Composition("tiny-clip", "tiny-llama", SMALL_VISION, SMALL_LLM, vocab_size=320), TEXTS)
    save_checkpoint(model, processor, tmp_path / "model")
    CLIPVisionModel(CLIPVisionConfig(**SMALL_VISION)).save_pretrained(tmp_path / "clip")
    for name in ("model", "clip"):
        weights = tmp_path / name / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot load a model from"):
        load_checkpoint(tmp_path / "model")
    with pytest.raises(ModelError, match="cannot load the vision model"):
        compose(Composition(str(tmp_path / "clip"), "tiny-llama", {}, SMALL_LLM, vocab_size=320), TEXTS)
