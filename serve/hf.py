"""The in-process predictor: transformers' `generate`, greedy, on CPU or GPU."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel, ProcessorMixin
from transformers.utils import logging

from geotempo.model import budget
from geotempo.model.bases import convention_of
from geotempo.model.checkpoints import load_checkpoint
from geotempo.model.convention import Convention
from geotempo.model.predictor import Reply, Request
from geotempo.model.prompts import render


class HFPredictor:
    """Answers requests with a checkpoint folder.

    Args:
        model: Folder or hub name of an image-text model.
        device: Torch device; by default the GPU if there is one.
        max_pixels: Most pixels of one image as the model sees it, where the base allows a choice.

    Raises:
        ModelError: The checkpoint cannot be loaded.
    """

    def __init__(self, model: str | Path, device: str | None = None, max_pixels: int | None = None) -> None:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self.name = str(model)
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        loaded, self.processor = load_checkpoint(model, max_pixels=max_pixels)
        self.model = loaded.to(self.device)
        self.convention = convention_of(loaded.config, self.processor)

    @torch.inference_mode()
    def predict(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer each request on its own.

        Requests are not batched: left padding would change float results and with them, now and then, a greedy token,
        so an answer would depend on its neighbours.

        Raises:
            InputError: An image cannot be read, or prompt and answer are longer than the model takes.
        """
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Reply:
        return generate_reply(self.model, self.processor, self.convention, request)


def generate_reply(model: PreTrainedModel, processor: ProcessorMixin, convention: Convention, request: Request) -> Reply:
    """Answer one request by greedy generation.

    Args:
        model: In evaluation mode, also inside a PEFT wrapper; where its parameters are sharded over processes (ZeRO-3, FSDP) all of
            them have to ask the same at the same time.
        processor: Its processor.
        convention: How it is asked.
        request: The request.

    Raises:
        InputError: An image cannot be read, or prompt and answer are longer than the model takes.
    """
    prompt = render(request, convention)
    shown = iter(prompt.images)
    for part in prompt.messages[0]["content"]:
        if part["type"] == "image":
            part["image"] = next(shown)
    inputs = processor.apply_chat_template(
        prompt.messages, tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt"
    ).to(model.device)
    length = inputs["input_ids"].shape[1]
    budget.measure(processor, inputs["input_ids"][0].tolist(), model.config.image_token_id,
                   [picture.size for picture in prompt.images], request.max_new_tokens,
                   model.config.text_config.max_position_embeddings).require()
    ids = model.generate(**inputs, max_new_tokens=request.max_new_tokens, do_sample=False, use_cache=True)[0, length:]
    stops = model.generation_config.eos_token_id
    ended = any(token in (stops if isinstance(stops, list) else [stops]) for token in ids.tolist())
    text = processor.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Reply(text, "stop" if ended else "length")
