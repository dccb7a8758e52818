"""Operations of a step, against PyTorch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, LlavaConfig, PreTrainedModel

from geotempo.finetune.flops import Network, Part, Work, network_of, step_flops, utilisation
from geotempo.finetune.methods import add_lora
from geotempo.finetune.recipe import LoraSection

IMAGE, PATCHES, TEXT = 60, 16, 23
VISION = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2,
          "image_size": 32, "patch_size": 8}
LLM = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4,
       "num_key_value_heads": 2, "vocab_size": 64}


def llava(layer: int = -1) -> PreTrainedModel:
    config = LlavaConfig(vision_config=VISION, text_config=LLM, image_token_index=IMAGE, vision_feature_layer=layer,
                         image_seq_length=PATCHES)
    return AutoModelForImageTextToText.from_config(config, attn_implementation="eager")


def counted(model: PreTrainedModel, images: int) -> int:
    """What the counter sees in one step on a sequence of images and text."""
    ids = torch.cat([torch.full((images * PATCHES,), IMAGE), torch.arange(TEXT)])[None]
    pixels = {"pixel_values": torch.rand(images, 3, 32, 32)} if images else {}
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids.clamp(max=50), **pixels).loss.backward()
    return counter.get_total_flops()


def work(images: int) -> Work:
    tokens = images * PATCHES + TEXT
    return Work([tokens], [PATCHES + 1] * images, images * PATCHES, tokens)


def needed(model: PreTrainedModel, images: int) -> int:
    return step_flops(network_of(model), work(images), palm=True)


def test_text_alone_trained_in_full_costs_what_the_counter_counts() -> None:
    model = llava()  # embeddings learn, so gradients reach the first layer's input and nothing is spared
    assert needed(model, 0) == counted(model, 0)


def test_under_lora_only_gradients_of_the_first_layers_inputs_are_spared() -> None:
    model = add_lora(llava(), LoraSection(r=4, dropout=0.0))
    spared = needed(model, 0) - counted(model, 0)
    projections = 64 * (64 + 32 + 32) + 3 * 4 * 64  # q, k, v of the first layer and their adapters' inputs
    assert spared == 2 * TEXT * projections
    model.enable_input_require_grads()
    assert needed(model, 0) == counted(model, 0)


@pytest.mark.parametrize("images", [1, 4])
def test_images_through_a_frozen_encoder_cost_a_forward_pass_only(images: int) -> None:
    model = llava()
    model.model.vision_tower.requires_grad_(False)
    # the class token meets no patch embedding, and gradients end at the projector's first layer
    embedding, ending = 2 * images * 32 * 3 * 8 * 8, 2 * images * PATCHES * 32 * 64
    assert needed(model, images) - counted(model, images) == embedding + ending


def test_lora_with_images_is_within_a_few_percent_of_the_counter() -> None:
    model = add_lora(llava(), LoraSection(r=4, dropout=0.0))
    assert needed(model, 4) == pytest.approx(counted(model, 4), rel=0.05)
    assert needed(model, 4) >= counted(model, 4)


def test_blocks_behind_the_features_that_are_taken_are_not_needed() -> None:
    last, before = network_of(llava(-1)).vision, network_of(llava(-2)).vision
    assert (last.layers, before.layers) == (3, 2)
    assert before.weights == pytest.approx(last.weights * 2 / 3, abs=1)


def test_a_text_model_in_full_follows_the_formula_of_palm() -> None:
    tokens, layers, width = 100, 3, 64
    text = AutoModelForCausalLM.from_config(llava().config.text_config)
    weights = sum(module.weight.numel() for module in text.modules() if isinstance(module, torch.nn.Linear))
    network = network_of(llava())
    palm = tokens * (6 * weights + 12 * layers * width * tokens)
    assert step_flops(network, Work([tokens], [], 0, tokens), palm=True) == palm


def test_packs_count_each_sample_alone_and_logits_where_they_are_needed() -> None:
    network = Network(Part(0), Part(0), Part(1000, 10, 2, 16, passes=True), Part(500, passes=True))
    one, two = Work([60], [], 0, 6), Work([20, 40], [], 0, 6)
    assert step_flops(network, one) - step_flops(network, two) == 4 * 16 * 2 * 3 * (60 * 61 - 20 * 21 - 40 * 41) // 2
    assert step_flops(network, Work([60], [], 0, 7)) - step_flops(network, one) == 500 * 4
    assert utilisation(600, 2.0, 1000.0) == pytest.approx(0.3)
