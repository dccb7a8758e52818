"""The in-process predictor on a real, tiny, random checkpoint."""

import io

import pytest
from PIL import Image

from geotempo.model.checkpoints import save_checkpoint
from geotempo.model.compose import Composition, compose
from geotempo.model.dates import AcquisitionDate
from geotempo.model.errors import InputError
from geotempo.model.predictor import Request
from geotempo.model.records import ImageRecord
from geotempo.serve.hf import HFPredictor

VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64,
          "patch_size": 16}
LLM = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
       "max_position_embeddings": 128}


def image(colour: int, date: str) -> ImageRecord:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), (colour, 120, 60)).save(buffer, "PNG")
    return ImageRecord(date, 64, 48, data=buffer.getvalue(), date=AcquisitionDate(date))


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> HFPredictor:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_checkpoint(*compose(Composition("tiny-clip", "tiny-llama", VISION, LLM, vocab_size=320), ["what changed?"] * 9), folder)
    return HFPredictor(folder)


def test_the_order_of_the_images_does_not_matter_when_dates_do(predictor: HFPredictor) -> None:
    old, new = image(10, "2019"), image(200, "2021-03")
    replies = predictor.predict([Request((old, new), "what changed?", max_new_tokens=12),
                                 Request((new, old), "what changed?", max_new_tokens=12)])
    assert replies[0] == replies[1]
    assert replies == predictor.predict([Request((old, new), "what changed?", max_new_tokens=12)]) * 2


def test_the_token_limit_is_told(predictor: HFPredictor) -> None:
    reply = predictor.predict([Request((image(10, "2019"),), "what?", max_new_tokens=3)])[0]
    assert reply.finish_reason in ("length", "stop")
    assert len(predictor.processor.tokenizer(reply.text).input_ids) <= 3


def test_a_prompt_that_leaves_no_room_is_refused(predictor: HFPredictor) -> None:
    images = tuple(image(10, str(2000 + k)) for k in range(8))
    with pytest.raises(InputError, match=r"8 images of 16 tokens, \d+ tokens of text and 512 for the answer make \d+ tokens; the model takes 128. Give fewer pixels"):
        predictor.predict([Request(images, "what?")])
