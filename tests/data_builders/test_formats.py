"""Data for other trainers: their own loaders take it, and supervise exactly what `geotempo train` supervises."""

import hashlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from geotempo.data_builders.formats import export_store
from geotempo.data_builders.sample import Message, Sample
from geotempo.data_builders.store import Store, write_store
from geotempo.model.dates import AcquisitionDate
from geotempo.model.geometry import Box, Mask
from geotempo.model.records import ImageRecord, Region

TRAINERS = ("trl", "llamafactory", "swift")


def encoded(seed, size=(64, 64), mode="RGB", file_format="PNG", **options):
    """A noisy picture as a file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, file_format, **options)
    return buffer.getvalue()


def image(data, size=(64, 64), **facts):
    return ImageRecord(hashlib.sha256(data).hexdigest(), *size, data=data, **facts)


def dated(seed, date, **options):
    return image(encoded(seed, **options), options.get("size", (64, 64)), date=AcquisitionDate(date), sensor="Sentinel-2", gsd=(10.0, 10.0))


def conversation(name, images, *turns, task="change_vqa", split="train", regions=()):
    messages = tuple(Message("user" if place % 2 == 0 else "assistant", text) for place, text in enumerate(turns))
    first = replace(messages[0], text="<image>" * len(images) + messages[0].text)
    return Sample(f"toy/{split}/{name}", "toy", split, task, tuple(images), (first, *messages[1:]), tuple(regions), {"licence": "CC0-1.0"})


def samples():
    """Pairs, a single image, eight dates in a wrong order, several turns, regions, images that are not square, text alone."""
    old, new = dated(1, "2019-05-01"), dated(2, "2021-08-03")
    wide = dated(3, "2020", size=(64, 32))
    corner = Region(2, Box(8, 8, 24, 30), "new building", ((10.0, 10.0), (20.0, 20.0)))
    blot = Region(1, Mask.from_array(np.pad(np.ones((12, 20), bool), ((4, 16), (10, 34)))), "flooded area")
    series = [dated(10 + number, f"20{20 - number:02d}-01-01") for number in range(8)]
    return [
        conversation("0#text", (), "Which sensor sees through clouds?", "A radar.", task="vqa"),
        conversation("1#pair", (old, new), "What changed?", "A building has been built."),
        conversation("1#grounding", (old, new), "Find the changes.", "<regions:0>", task="change_grounding", regions=(corner,)),
        conversation("1#none", (old, new), "Find what vanished.", "<regions:>", task="change_grounding"),
        conversation("2#turns", (old, new), "What is it?", "A field.", "And what is at <region:0>?", "A roof.", "Any water?", "No.",
                     regions=(corner,)),
        conversation("3#wide", (wide,), "Find the water.", "<regions:0>", task="referring_segmentation", regions=(blot,)),
        conversation("4#series", series, "When was it built?", "Image 3", task="temporal_referring"),
        conversation("5#odd", (dated(5, "2018", mode="L"),), 'Say "ü"\nin two lines.', "Wasser 水\nund Sand", task="caption"),
        conversation("6#val", (new,), "What is it?", "A town.", task="classification", split="val"),
    ]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats") / "store"
    write_store(samples(), folder)
    return folder


def exported(store, trainer, out, **options):
    manifest = export_store(store, trainer, out, progress=False, **options)
    return manifest, out


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# TRL


def test_trl_trains_on_it_as_its_configuration_says(store, tmp_path, monkeypatch):
    pytest.importorskip("trl", reason="TRL is not installed")
    import torch
    from datasets import load_dataset
    from trl import (
        DatasetMixtureConfig,
        ModelConfig,
        ScriptArguments,
        SFTConfig,
        SFTTrainer,
        TrlParser,
        get_peft_config,
    )

    from geotempo.data_builders.format_guides import read_trainee
    from geotempo.finetune.dataset import StoreDataset
    from geotempo.model.checkpoints import load_processor
    from tests.tiny_bases import write

    base = write("llava", tmp_path / "base")
    trainee, _ = read_trainee(str(base))
    _, out = exported(store, "trl", tmp_path / "data", trainee=trainee)
    monkeypatch.chdir(out)
    # As `trl sft --config trl.yaml` reads it; what a CPU and a test of seconds need is given on the command line.
    script, config, model, _ = TrlParser((ScriptArguments, SFTConfig, ModelConfig, DatasetMixtureConfig)).parse_args_and_config(
        ["--config", "trl.yaml", "--use_cpu", "--bf16", "false", "--max_steps", "12", "--learning_rate", "0.01", "--logging_steps", "1",
         "--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "1", "--save_strategy", "no", "--disable_tqdm", "true",
         "--gradient_checkpointing", "false", "--eval_steps", "6", "--dtype", "float32", "--dataloader_pin_memory", "false"])
    data = load_dataset(script.dataset_name, cache_dir=str(tmp_path / "cache"))
    rows = data[script.dataset_train_split]
    trainer = SFTTrainer(model.model_name_or_path, config, train_dataset=rows, eval_dataset=data[script.dataset_test_split],
                         peft_config=get_peft_config(model))

    # Exactly the tokens that `geotempo train` supervises, of every sample: in a batch of all and one by one.
    _, processor = load_processor(base)
    opened = Store(store)
    ours = {row["sample_id"]: row for row in StoreDataset(opened, opened.rows("train"), processor)}
    for theirs in (trainer.data_collator([dict(row) for row in rows]),):
        seen = {}
        for row, ids, labels, mask in zip(rows, theirs["input_ids"], theirs["labels"], theirs["attention_mask"], strict=True):
            ids, labels = ids[mask.bool()], labels[mask.bool()]
            want = ours[row["id"].partition("@")[0]]
            assert torch.equal(ids, want["input_ids"][:len(ids)])
            found = seen.setdefault(want["sample_id"], torch.full_like(want["labels"], -100))
            assert (found[:len(labels)][labels != -100] == -100).all()  # no token twice
            found[:len(labels)] = torch.where(labels != -100, labels, found[:len(labels)])
        assert seen.keys() == ours.keys()
        for name, labels in seen.items():
            assert torch.equal(labels, ours[name]["labels"]), name

    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 12
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
