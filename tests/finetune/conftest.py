"""A small store of synthetic change samples and a small model recipe."""

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geotempo.data_builders.render import store_texts
from geotempo.data_builders.sample import Message, Sample
from geotempo.data_builders.store import write_store
from geotempo.model.checkpoints import save_checkpoint
from geotempo.model.compose import Composition, compose
from geotempo.model.geometry import Box
from geotempo.model.records import ImageRecord, Region

SIZE = 64
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIZE,
          "patch_size": 16}
LLM = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
       "max_position_embeddings": 256}


def picture(seed: int, box: tuple[int, int, int, int] | None) -> ImageRecord:
    """A noisy green field, with a bright roof if a box is given."""
    array = np.random.default_rng(seed).integers(60, 90, (SIZE, SIZE, 3)).astype(np.uint8)
    if box:
        array[box[1] : box[3], box[0] : box[2]] = (220, 210, 200)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    data = buffer.getvalue()
    return ImageRecord(hashlib.sha256(data).hexdigest(), SIZE, SIZE, data=data)


def samples(count: int) -> list[Sample]:
    """`count` bi-temporal pairs, every second one changed, with a caption and a grounding sample each."""
    out = []
    for index in range(count):
        x, y = 8 + 5 * (index % 8), 8 + 4 * (index % 9)
        box = (x, y, x + 16, y + 12) if index % 2 else None
        images = (picture(index, None), picture(index + 1000, box))
        regions = (Region(2, Box(*box), "building"),) if box else ()
        caption = "a house has been built" if box else "there is no difference"
        answers = {"change_caption": caption, "change_grounding": "<regions:0>" if box else "<regions:>"}
        for task, text in answers.items():
            messages = (Message("user", f"<image><image>\nPlease do {task}."), Message("assistant", text))
            out.append(Sample(f"toy/train/{index:03d}#{task}", "toy", "train", task, images, messages,
                              regions if task == "change_grounding" else (), {"licence": "CC0-1.0"}))
    return out


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 8 pairs, 16 samples."""
    out = tmp_path_factory.mktemp("data") / "toy"
    write_store(samples(8), out)
    return out


@pytest.fixture(scope="session")
def val_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 6 pairs in split train, 12 samples, and 4 pairs in split val."""
    out = tmp_path_factory.mktemp("data") / "toy"
    every = samples(10)
    held = [replace(sample, split="val", id=sample.id.replace("/train/", "/val/")) for sample in every[12:]]
    write_store([*every[:12], *held], out)
    return out


@pytest.fixture(scope="session")
def base(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights that knows the words of that store."""
    folder = tmp_path_factory.mktemp("model") / "base"
    save_checkpoint(*compose(Composition("tiny-clip", "tiny-llama", VISION, LLM, vocab_size=330), store_texts(store)), folder)
    return folder


@pytest.fixture
def recipe(store: Path, tmp_path: Path) -> dict:
    """A complete recipe for that store, as read from YAML."""
    return {
        "model": {"compose": {"vision": "tiny-clip", "llm": "tiny-llama", "vision_config": VISION, "llm_config": LLM,
                              "vocab_size": 330}},
        "data": {"store": str(store), "watch": 0},
        "train": {"output_dir": str(tmp_path / "run"), "per_device_train_batch_size": 4, "learning_rate": 3e-3, "max_steps": 6,
                  "save_steps": 3, "logging_steps": 1, "disable_tqdm": True, "report_to": "none"},
    }
