"""Adapters trained here, on a real vLLM: loaded at run time, chosen by name, token for token what transformers with PEFT answers.

One base per family, two adapters that `geotempo train` made on different answers, exported, on one engine. The base is a
folder as a hub has it: its own chat template, and a pixel budget other than the training's, which vLLM has to be told.
"""

import itertools
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

pytest.importorskip("vllm", reason="vLLM is not installed (.ci/vllm_cpu/install.sh)")

from geotempo.data_builders.render import to_request
from geotempo.data_builders.sample import Message
from geotempo.data_builders.store import write_store
from geotempo.finetune.adapters import merge_adapter
from geotempo.finetune.export import RANKS, WITHOUT_LORA, Serving, export_vllm
from geotempo.finetune.recipe import parse_recipe
from geotempo.finetune.train import train
from geotempo.model.bases import BASES, convention_of, lora_modules
from geotempo.model.checkpoints import load_checkpoint, load_processor
from geotempo.model.prompts import Prompt, render
from tests.finetune.conftest import samples
from tests.tiny_bases import write
from tests.vllm.conftest import Both, Written, data_url

pytestmark = pytest.mark.timeout(1200)  # two trainings and an engine's start belong to the first test of a family
SERVED = [family for family in BASES if family not in WITHOUT_LORA]
BUDGETS = {"llava_next": 64 * 128, "qwen2_5_vl": 56 * 56, "qwen3_vl": 64 * 64}
ANSWERS = {"first": ("a new building", "nothing changed between the two images"), "second": ("Find all objects!", "USER: the boxes (10 m)")}
TOKENS = 16


@dataclass(frozen=True)
class Tuned:
    """One base and what was made of it.

    Attributes:
        base: Folder of the base.
        adapters: Folder of each adapter, as trained.
        serving: The same, exported.
        prompts: Questions of the training, rendered with its convention.
    """

    base: Path
    adapters: dict[str, Path]
    serving: Serving
    prompts: list[Prompt]


def tune(family: str, folder: Path) -> Tuned:
    """Train two adapters of a family on the same pictures and different answers, and export them."""
    base = write(family, folder / "base")
    adapters = {}
    for name, (changed, unchanged) in ANSWERS.items():
        asked = [replace(sample, messages=(sample.messages[0], Message("assistant", changed if "built" in sample.target else unchanged)))
                 for sample in samples(8) if sample.task == "change_caption"]
        write_store(asked, folder / f"data-{name}")
        final = train(parse_recipe({
            "model": {"base": str(base), "max_pixels": BUDGETS.get(family)},
            "data": {"store": str(folder / f"data-{name}"), "watch": 0},
            "lora": {"r": 12, "alpha": 24, "dropout": 0.0, "rslora": name == "second"},
            "train": {"output_dir": str(folder / name), "per_device_train_batch_size": 8, "max_steps": 25, "learning_rate": 1e-2,
                      "save_strategy": "no", "report_to": "none", "disable_tqdm": True},
        }))
        adapters[name] = final.parent / "adapter"
    config, processor = load_processor(base, own=adapters["first"])
    prompts = [render(to_request(sample, TOKENS), convention_of(config, processor)) for sample in asked[:4]]
    return Tuned(base, adapters, export_vllm(list(adapters.values())), prompts)


class Engines(Both):
    """vLLM with the options that the export printed, transformers with PEFT and the adapters as trained."""

    def __init__(self, tuned: Tuned) -> None:
        options = dict(zip(tuned.serving.options[::2], tuned.serving.options[1::2], strict=True))
        super().__init__(tuned.base, 8, 1024, enable_lora=True, max_lora_rank=tuned.serving.max_rank, max_loras=2,
                         mm_processor_kwargs=json.loads(options.get("--mm-processor-kwargs", "null")),
                         hf_overrides=json.loads(options.get("--hf-overrides", "{}")))
        self.template = Path(options["--chat-template"]).read_text(encoding="utf-8")
        config, self.processor = load_processor(tuned.base, own=tuned.adapters["first"])
        if hasattr(config, "image_grid_pinpoints"):
            self.model.config.image_grid_pinpoints = config.image_grid_pinpoints
        self.loaded: dict[Path, int] = {}

    def adapted(self, folder: Path, prompts: Sequence[Prompt]) -> list[tuple[Written, list[float]]]:
        """Answers of transformers with an adapter on the base, and their tokens' log probabilities."""
        model = PeftModel.from_pretrained(self.model, folder).eval()
        try:
            return [_generate(model, self.processor, prompt) for prompt in prompts]
        finally:
            self.model = model.unload()

    def served(self, folder: Path | None, prompts: Sequence[Prompt]) -> list[tuple[Written, list[float]]]:
        """Answers of vLLM with an adapter loaded now, or of its base; all prompts in one batch."""
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest

        request = None
        if folder is not None:
            number = self.loaded.setdefault(folder, len(self.loaded) + 1)
            request = LoRARequest(folder.name, number, str(folder))
        out = self.llm.chat([openai_messages(prompt) for prompt in prompts], SamplingParams(temperature=0, max_tokens=TOKENS, logprobs=0),
                            use_tqdm=False, chat_template=self.template, lora_request=request)
        return [(Written(list(one.prompt_token_ids), list(one.outputs[0].token_ids)),
                 [next(iter(step.values())).logprob for step in one.outputs[0].logprobs]) for one in out]


def openai_messages(prompt: Prompt) -> list[dict[str, Any]]:
    """A prompt as an OpenAI client sends it."""
    shown = iter(prompt.images)
    return [{**m, "content": [{"type": "image_url", "image_url": {"url": data_url(next(shown))}} if p["type"] == "image" else p
                              for p in m["content"]]} for m in prompt.messages]


def _generate(model: Any, processor: Any, prompt: Prompt) -> tuple[Written, list[float]]:
    shown = iter(prompt.images)
    filled = [{**m, "content": [{**p, "image": next(shown)} if p["type"] == "image" else p for p in m["content"]]} for m in prompt.messages]
    inputs = processor.apply_chat_template(filled, tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt")
    length = inputs["input_ids"].shape[1]
    with torch.inference_mode():
        out = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False, output_logits=True, return_dict_in_generate=True)
    ids = out.sequences[0].tolist()
    chosen = [float(step[0].log_softmax(-1)[token]) for step, token in zip(out.logits, ids[length:], strict=True)]
    return Written(ids[:length], ids[length:]), chosen


def same(theirs: list[tuple[Written, list[float]]], ours: list[tuple[Written, list[float]]]) -> None:
    """The same prompt and answer tokens, and log probabilities within what float32 kernels differ by."""
    assert [written for written, _ in theirs] == [written for written, _ in ours]
    assert max(abs(a - b) for (_, one), (_, other) in zip(theirs, ours, strict=True) for a, b in zip(one, other, strict=True)) < 1e-3


@pytest.fixture(scope="module", params=SERVED)
def tuned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    return tune(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def engines(tuned: Tuned) -> Iterator[Engines]:
    both = Engines(tuned)
    try:
        yield both
    finally:
        both.llm.llm_engine.engine_core.shutdown()


def test_two_adapters_on_one_engine_answer_as_transformers_does(tuned: Tuned, engines: Engines) -> None:
    assert tuned.serving.max_rank == 16
    answers = {}
    for exported in tuned.serving.adapters:
        ours = engines.adapted(tuned.adapters[exported.name], tuned.prompts)
        same(engines.served(exported.folder, tuned.prompts), ours)
        texts = [engines.processor.tokenizer.decode(written.answer, skip_special_tokens=True).strip() for written, _ in ours]
        changed, unchanged = ANSWERS[exported.name]
        # In so few steps only this family's random weights let the pictures through.
        assert texts == [unchanged, changed, unchanged, changed] or engines.model.config.model_type != "llava"
        answers[exported.name] = [written.answer for written, _ in ours]
    base = [_generate(engines.model, engines.processor, prompt) for prompt in tuned.prompts]
    same(engines.served(None, tuned.prompts), base)  # the base beside its adapters, untouched
    answers["base"] = [written.answer for written, _ in base]
    assert all(a != b for one, other in itertools.combinations(answers.values(), 2) for a, b in zip(one, other, strict=True))
