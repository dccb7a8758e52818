"""vLLM's offline engine, one per model, and the same questions through both engines.

These tests run only where vLLM is installed (`.ci/vllm_cpu/install.sh`); `.ci/run` fails if they were skipped there.
"""

import base64
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from geotempo.model.checkpoints import load_checkpoint

TOKENS = 24


@dataclass(frozen=True)
class Written:
    """What an engine read and wrote: ids of the prompt, all image tokens included, and of the answer."""

    prompt: list[int]
    answer: list[int]


def noise(seed: int, width: int = 96, height: int = 96) -> Image.Image:
    """A picture with structure at all scales, so that resizing matters."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    return Image.fromarray((0.7 * np.asarray(coarse) + rng.integers(0, 76, (height, width, 3))).clip(0, 255).astype(np.uint8))


def data_url(picture: Image.Image) -> str:
    """A picture as an OpenAI client sends it."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


class Both:
    """One checkpoint in both engines."""

    def __init__(self, folder: Path, images: int, max_model_len: int, **options: Any) -> None:
        from vllm import LLM

        self.folder = folder
        self.model, self.processor = load_checkpoint(folder)
        self.llm = LLM(model=str(folder), dtype="float32", enforce_eager=True, max_model_len=max_model_len, max_num_seqs=4,
                       limit_mm_per_prompt={"image": images}, seed=0, chat_template=None,
                       mm_processor_cache_gb=0, enable_prefix_caching=False, **options)

    def transformers(self, messages: Sequence[dict[str, Any]], pictures: Sequence[Image.Image], tokens: int = TOKENS) -> Written:
        """Greedy answer of transformers' `generate`."""
        shown = iter(pictures)
        filled = [{**m, "content": [{**p, "image": next(shown)} if p["type"] == "image" else p for p in m["content"]]} for m in messages]
        inputs = self.processor.apply_chat_template(filled, tokenize=True, return_dict=True, add_generation_prompt=True,
                                                    return_tensors="pt")
        length = inputs["input_ids"].shape[1]
        with torch.inference_mode():
            out = self.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)[0].tolist()
        return Written(out[:length], out[length:])

    def vllm(self, messages: Sequence[dict[str, Any]], pictures: Sequence[Image.Image], tokens: int = TOKENS) -> Written:
        """Greedy answer of vLLM's chat, asked as an OpenAI client would."""
        from vllm import SamplingParams

        shown = iter(pictures)
        filled = [{**m, "content": [{"type": "image_url", "image_url": {"url": data_url(next(shown))}} if p["type"] == "image" else p
                                    for p in m["content"]]} for m in messages]
        out = self.llm.chat(filled, SamplingParams(temperature=0, max_tokens=tokens), use_tqdm=False,
                            chat_template=self.processor.chat_template)[0]
        return Written(list(out.prompt_token_ids), list(out.outputs[0].token_ids))

    def vllm_processor(self) -> Any:
        """The processor that vLLM itself builds for the folder."""
        from vllm.transformers_utils.processor import cached_processor_from_config

        return cached_processor_from_config(self.llm.llm_engine.vllm_config.model_config)


@contextmanager
def both_engines(folder: Path, images: int = 8, max_model_len: int = 4096, **options: Any) -> Iterator[Both]:
    """Both engines for one checkpoint; vLLM's gets further options, and is stopped at the end."""
    both = Both(folder, images, max_model_len, **options)
    try:
        yield both
    finally:
        both.llm.llm_engine.engine_core.shutdown()


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    """Settings that vLLM reads from the environment; set before its first import."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
