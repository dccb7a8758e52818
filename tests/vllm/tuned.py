"""Two adapters of one tiny base, really trained and exported, and what transformers answers with them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from geotempo.data_builders.render import to_request
from geotempo.data_builders.sample import Message
from geotempo.data_builders.store import write_store
from geotempo.finetune.export import Serving, export_vllm
from geotempo.finetune.recipe import parse_recipe
from geotempo.finetune.train import train
from geotempo.model.bases import convention_of
from geotempo.model.checkpoints import load_processor
from geotempo.model.prompts import Prompt, render
from tests.finetune.conftest import samples
from tests.tiny_bases import write
from tests.vllm.conftest import Written, data_url

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


def openai_messages(prompt: Prompt) -> list[dict[str, Any]]:
    """A prompt as an OpenAI client sends it."""
    shown = iter(prompt.images)
    return [{**m, "content": [{"type": "image_url", "image_url": {"url": data_url(next(shown))}} if p["type"] == "image" else p
                              for p in m["content"]]} for m in prompt.messages]


def generate(model: Any, processor: Any, prompt: Prompt) -> tuple[Written, list[float]]:
    """Greedy answer of transformers, and the log probability of each of its tokens."""
    shown = iter(prompt.images)
    filled = [{**m, "content": [{**p, "image": next(shown)} if p["type"] == "image" else p for p in m["content"]]} for m in prompt.messages]
    inputs = processor.apply_chat_template(filled, tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt")
    length = inputs["input_ids"].shape[1]
    with torch.inference_mode():
        out = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False, output_logits=True, return_dict_in_generate=True)
    ids = out.sequences[0].tolist()
    chosen = [float(step[0].log_softmax(-1)[token]) for step, token in zip(out.logits, ids[length:], strict=True)]
    return Written(ids[:length], ids[length:]), chosen
