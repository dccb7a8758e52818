"""Data for other trainers: their own loaders take it, and supervise exactly what `geotempo train` supervises."""

import hashlib
import io
import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from geotempo.cli import app
from geotempo.data_builders import formats, render
from geotempo.data_builders.format_guides import Trainee
from geotempo.data_builders.format_samples import Look
from geotempo.data_builders.formats import export_store
from geotempo.data_builders.sample import Message, Sample
from geotempo.data_builders.store import Store, write_store
from geotempo.model.convention import TEOCHAT, Convention, PixelGrid
from geotempo.model.dates import AcquisitionDate
from geotempo.model.errors import InputError
from geotempo.model.geometry import Box, Mask
from geotempo.model.records import ImageRecord, Region

TRAINERS = ("trl", "llamafactory", "swift")


def encoded(seed, size=(64, 64), mode="RGB", file_format="PNG", **options):
    """A noisy picture of a colour of its own, as a file."""
    rng = np.random.default_rng(seed)
    pixels = (rng.integers(0, 200, 3) + rng.integers(0, 56, (size[1], size[0], 3))).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, file_format, **options)
    return buffer.getvalue()


def image(data, size=(64, 64), **facts):
    return ImageRecord(hashlib.sha256(data).hexdigest(), *size, data=data, **facts)


def dated(seed, date, size=(64, 64), **options):
    return image(encoded(seed, size, **options), size, date=AcquisitionDate(date), sensor="Sentinel-2", gsd=(10.0, 10.0))


def conversation(name, images, *turns, task="change_vqa", split="train", regions=()):
    messages = tuple(Message("user" if place % 2 == 0 else "assistant", text) for place, text in enumerate(turns))
    first = replace(messages[0], text="<image>" * len(images) + messages[0].text)
    return Sample(f"toy/{split}/{name}", "toy", split, task, tuple(images), (first, *messages[1:]), tuple(regions), {"licence": "CC0-1.0"})


def samples():
    """Text alone, pairs, several turns, regions, an image that is not square, eight dates in a wrong order, a grey image."""
    old, new = dated(1, "2019-05-01"), dated(2, "2021-08-03")
    corner = Region(2, Box(8, 8, 24, 30), "new building", ((10.0, 10.0), (20.0, 20.0)))
    flood = Region(1, Mask.from_array(np.pad(np.ones((12, 20), bool), ((4, 16), (10, 34)))), "flooded area", ((12.0, 6.0), (20.0, 10.0)))
    series = [dated(10 + number, f"20{20 - number:02d}-01-01") for number in range(8)]
    return [
        conversation("0#text", (), "Which sensor sees through clouds?", "A radar.", task="vqa"),
        conversation("1#pair", (old, new), "What changed?", "A building has been built."),
        conversation("1#grounding", (old, new), "Find the changes.", "<regions:0>", task="change_grounding", regions=(corner,)),
        conversation("1#none", (old, new), "Find what vanished.", "<regions:>", task="change_grounding"),
        conversation("2#turns", (old, new), "What is it?", "A field.", "And what is at <region:0>?", "A roof.", "Any water?", "No.",
                     regions=(corner,)),
        conversation("3#wide", (dated(3, "2020", (64, 32)),), "Find the water.", "<regions:0>", task="referring_segmentation",
                     regions=(flood,)),
        conversation("4#series", series, "When was it built?", "Image 3", task="temporal_referring"),
        conversation("5#odd", (dated(5, "2018", mode="L"),), 'Say "ü"\nin two lines.', "Wasser 水\nund Sand", task="caption"),
        conversation("6#val", (new,), "What is it?", "A town.", task="classification", split="val"),
    ]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats") / "store"
    write_store(samples(), folder)
    return folder


def export(store, trainer, out, **options):
    export_store(store, trainer, out, progress=False, **options)
    return out


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def parquet_rows(folder, split="train"):
    import pyarrow.parquet as pq

    return [row for path in sorted(folder.glob(f"data/{split}-*.parquet")) for row in pq.read_table(path).to_pylist()]


def answers(sample, look=None):
    """The texts that a sample's assistant turns become."""
    look = look or Look()
    prompt = render.chat(sample, points=look.points, grids=look.grids, convention=look.convention)
    return ["".join(part["text"] for part in message["content"]) for message in prompt.messages if message["role"] == "assistant"]


def shown(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


# What the files hold


@pytest.mark.parametrize("trainer", ["llamafactory", "swift"])
def test_texts_pictures_and_answers_are_those_of_our_own_training(store, tmp_path, trainer):
    out = export(store, trainer, tmp_path / "out")
    rows = {row["id"]: row for split in ("train", "val") for row in lines(out / f"{split}.jsonl")}
    assert rows.keys() == {sample.id for sample in samples()}
    for sample in samples():
        prompt, row = render.chat(sample), rows[sample.id]
        texts = ["".join("<image>" if part["type"] == "image" else part["text"] for part in message["content"])
                 for message in prompt.messages]
        assert [message["content"] for message in row["messages"]] == texts
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * (len(texts) // 2)
        assert len(row["images"]) == len(prompt.images) == "".join(texts).count("<image>")
        for name, picture in zip(row["images"], prompt.images, strict=True):
            with Image.open(out / name) as written:
                assert written.mode == "RGB"  # also of the grey image: not every trainer converts
                assert np.array_equal(np.asarray(written), np.asarray(picture))
    # Each picture is one file; a file is the stored one where every reader sees the same in it.
    files = {path.stem: path for path in out.glob("images/*/*")}
    assert len(files) == len(Store(store).image_ids)
    assert sum(hashlib.sha256(path.read_bytes()).hexdigest() == stem for stem, path in files.items()) == len(files) - 2


def test_trl_rows_hold_what_was_said_before_each_answer(store, tmp_path):
    out = export(store, "trl", tmp_path / "out")
    rows = {row["id"]: row for split in ("train", "val") for row in parquet_rows(out, split)}
    assert len(rows) == len(samples()) + 2  # three answers in one conversation
    for sample in samples():
        prompt, wanted = render.chat(sample), answers(sample)
        for number, text in enumerate(wanted, 1):
            row = rows[sample.id if len(wanted) == 1 else f"{sample.id}@{number}"]
            assert row["completion"] == [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
            said = [{**message, "content": [{"text": None, **part} for part in message["content"]]} for message in prompt.messages]
            assert row["prompt"] == said[:2 * number - 1]
            for stored, picture in zip(row["images"], prompt.images, strict=True):
                assert np.array_equal(shown(stored["bytes"]), np.asarray(picture))


@pytest.mark.parametrize("look", [Look(points=True, grids="all"), Look(convention=TEOCHAT),
                                  Look(convention=Convention(pixels=PixelGrid(28, 3136, 448 * 448)))])
def test_answers_follow_the_look_that_was_asked_for(store, tmp_path, look):
    out = export(store, "swift", tmp_path / "out", look=look)
    rows = {row["id"]: row for row in lines(out / "train.jsonl")}
    for sample in samples()[:-1]:
        assert [message["content"] for message in rows[sample.id]["messages"][1::2]] == answers(sample, look)
    sides = {Image.open(out / name).size for row in rows.values() for name in row["images"]}
    # TEOChat's images are as they were; where pixels are counted, images have the size in which they are counted.
    assert sides == ({(64, 64), (64, 32)} if look.convention.mode == "teochat" else {(56, 56)} if look.convention.pixels else {(64, 64)})


def test_pictures_that_some_readers_turn_or_blend_are_written_plainly(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    odd = {"turned": (encoded(1, file_format="JPEG", exif=turned), ".png"), "palette": (encoded(2, mode="P"), ".png"),
           "alpha": (encoded(3, mode="RGBA"), ".png"), "tiff": (encoded(4, file_format="TIFF"), ".png"),
           "webp": (encoded(5, file_format="WEBP"), ".webp"), "jpeg": (encoded(6, file_format="JPEG"), ".jpg")}
    write_store([conversation(name, (image(data),), "What?", "That.") for name, (data, _) in odd.items()], tmp_path / "store")
    out = export(tmp_path / "store", "llamafactory", tmp_path / "out")
    for row, (data, suffix) in zip(lines(out / "train.jsonl"), odd.values(), strict=True):
        written = (out / row["images"][0]).read_bytes()
        assert row["images"][0].endswith(suffix) and (written == data) == (suffix != ".png")
        assert np.array_equal(shown(written), shown(data))
        assert Image.open(io.BytesIO(written)).getexif().get(0x0112, 1) == 1


def test_a_sample_with_images_comes_first_so_that_loaders_learn_the_type_of_the_column(tmp_path, monkeypatch):
    from datasets import load_dataset

    monkeypatch.setattr(formats, "PART_SAMPLES", 300)
    texts = [conversation(f"{number:04d}", (), "x" * 20_000, "No.") for number in range(600)]  # 12 MB: more than a loader looks at first
    write_store([*texts, conversation("9999", (dated(1, "2019"),), "What?", "That.")], tmp_path / "store")
    out = export(tmp_path / "store", "swift", tmp_path / "out")
    data = load_dataset("json", data_files=str(out / "train.jsonl"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(data) == 601
    assert data[0]["images"] and data[1]["images"] == [] and data[1]["id"] == texts[0].id


# Interruption, replacement, refusal


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_killed_export_goes_on_and_ends_with_the_same_bytes(tmp_path, monkeypatch, digest, trainer):
    monkeypatch.setattr(formats, "PART_SAMPLES", 3)
    write_store(samples(), tmp_path / "store")
    whole = digest(export(tmp_path / "store", trainer, tmp_path / "whole"))
    read, calls = formats.Conversations.read, []

    def dies(self, row):
        calls.append(row)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return read(self, row)

    monkeypatch.setattr(formats.Conversations, "read", dies)
    with pytest.raises(KeyboardInterrupt):
        export(tmp_path / "store", trainer, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export(tmp_path / "store", trainer, tmp_path / "out")
    assert len(calls) == 5 + len(samples()) - 3  # the first part was not read again
    assert digest(tmp_path / "out") == whole
    assert not any(name.startswith(".") for name in whole) and not list(tmp_path.glob("out.*"))


@pytest.mark.parametrize("trainer", TRAINERS)
def test_what_cannot_be_exported_is_named_and_counted(tmp_path, trainer):
    good, broken, torn = (dated(seed, "2019") for seed in (1, 2, 3))
    lost = replace(torn, data=torn.data[:-200], id="")
    smaller = replace(broken, height=32)
    bad = [conversation("lost", (lost,), "What?", "That."), conversation("smaller", (smaller,), "What?", "That.")]
    if trainer != "trl":
        bad.append(conversation("tag", (good,), "What is a <video> tag?", "That."))
    write_store([conversation(f"good{number}", (good,), "What?", "That.") for number in range(3)] + bad, tmp_path / "store")
    with pytest.raises(InputError, match=f"{len(bad)} of {3 + len(bad)} samples cannot be exported.*lost.*out.building.*--max-rejected"):
        export(tmp_path / "store", trainer, tmp_path / "out")
    manifest = export_store(tmp_path / "store", trainer, tmp_path / "out", max_rejected=0.6, progress=False)
    assert manifest["counts"] == {"train": {"samples": 3, "rows": 3}}
    assert manifest["rejected"]["by_reason"] == {"unreadable image": 2} | ({"reserved word": 1} if trainer != "trl" else {})
    assert [entry["key"] for entry in lines(tmp_path / "out" / "rejected.jsonl")] == [sample.id for sample in bad]
    assert f"Set aside: {len(bad)}" in (tmp_path / "out" / "README.md").read_text()


def test_only_an_export_for_the_same_trainer_is_replaced(store, tmp_path):
    out = export(store, "swift", tmp_path / "out")
    before = (out / "train.jsonl").stat().st_ino
    export(store, "swift", out)
    assert (out / "train.jsonl").stat().st_ino != before
    with pytest.raises(InputError, match="holds data for swift"):
        export(store, "trl", out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    with pytest.raises(InputError, match="something that no export wrote"):
        export(store, "trl", tmp_path / "mine")
    with pytest.raises(InputError, match="no sample"):
        write_store([], tmp_path / "empty")
        export(tmp_path / "empty", "trl", tmp_path / "new")


def test_the_command_line_exports_a_store_and_what_it_builds(tmp_path):
    run = CliRunner()
    built = run.invoke(app, ["build", "scenes", "count=2", "--out", str(tmp_path / "scenes"), "--format", "trl", "--format", "swift"])
    assert built.exit_code == 0, built.output
    assert parquet_rows(tmp_path / "scenes-trl") and lines(tmp_path / "scenes-swift" / "train.jsonl")
    done = run.invoke(app, ["export-data", str(tmp_path / "scenes"), "--format", "llamafactory", "--out", str(tmp_path / "lf"),
                            "--points", "--grids", "areas"])
    assert done.exit_code == 0, done.output
    assert "is ready to train on" in done.output
    texts = (tmp_path / "lf" / "train.jsonl").read_text()
    assert '\\"points\\"' in texts and '\\"grid\\"' in texts
    assert "points" not in (tmp_path / "scenes-swift" / "train.jsonl").read_text()


# The trainers themselves


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

    from geotempo.finetune.dataset import StoreDataset
    from geotempo.model.checkpoints import load_processor
    from tests.tiny_bases import write

    base, out = write("llava", tmp_path / "base"), tmp_path / "data"
    done = CliRunner().invoke(app, ["export-data", str(store), "--format", "trl", "--base", str(base), "--out", str(out)])
    assert done.exit_code == 0, done.output
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

    # Exactly the tokens that `geotempo train` supervises: all of every sample, each once, and no other.
    opened = Store(store)
    ours = {row["sample_id"]: row for row in StoreDataset(opened, opened.rows("train"), load_processor(base)[1])}
    batch, seen = trainer.data_collator([dict(row) for row in rows]), {}
    for row, ids, labels, mask in zip(rows, batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        ids, labels, whole = ids[mask.bool()], labels[mask.bool()], ours[row["id"].partition("@")[0]]
        assert torch.equal(ids, whole["input_ids"][:len(ids)])
        found = seen.setdefault(whole["sample_id"], torch.full_like(whole["labels"], -100))[:len(ids)]
        assert (found[labels != -100] == -100).all()
        found[labels != -100] = labels[labels != -100]
    assert seen.keys() == ours.keys()
    assert all(torch.equal(labels, ours[name]["labels"]) for name, labels in seen.items())
    pixels = torch.cat([row["images"]["pixel_values"] for name, row in ours.items() if "turns" not in name and row["images"]])
    alone = trainer.data_collator([dict(row) for row in rows if "@" not in row["id"]])
    assert torch.equal(alone["pixel_values"], pixels)

    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 12
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    assert all("language_model" in name for name, weight in trainer.model.named_parameters() if weight.requires_grad)


@pytest.mark.parametrize(("trainer", "template"), [("llamafactory", "llava"), ("swift", "llava1_5_hf")])
def test_their_own_loaders_supervise_the_answers_and_see_the_images_in_place(store, tmp_path, trainer, template):
    python = os.environ.get(f"GEOTEMPO_{trainer.upper()}")
    if python is None:
        pytest.skip(f"GEOTEMPO_{trainer.upper()} names no Python that has {trainer}, which wants other releases of its own")
    from tests.tiny_bases import write

    base, out = write("llava", tmp_path / "base"), export(store, trainer, tmp_path / "data")
    script = Path(__file__).parent / "trainers" / f"read_{trainer}.py"
    done = subprocess.run([python, str(script), str(out), str(base), template], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads(done.stdout.splitlines()[-1])
    order = [row["id"] for row in lines(out / "train.jsonl")]
    known = {sample.id: sample for sample in samples()}
    assert len(rows) == len(order)
    for name, row in zip(order, rows, strict=True):
        sample, prompt = known[name], render.chat(known[name])
        assert row["supervised"] == "".join(text + "</s>" for text in answers(sample))
        headers = [part["text"] for part in prompt.messages[0]["content"] if part.get("text", "").strip().startswith("Image ")]
        for header in headers:  # 16 tokens of an image right behind what is known of it
            assert re.search(re.escape(header) + r"(<image>){16}(?!<image>)", row["text"]), row["text"]
        wanted = [np.asarray(picture).mean() for picture in prompt.images]
        # Pixels come normalised; of noise in one colour each, brightness tells which image it is.
        assert np.argsort(row["images"]).tolist() == np.argsort(wanted).tolist()
        assert len(row["images"]) == len(sample.images)


def test_a_base_that_counts_pixels_gets_pixels_and_pictures_of_that_size(store, tmp_path):
    pytest.importorskip("torchvision", reason="the processor of Qwen2.5-VL needs torchvision (the vLLM environment has it)")
    from tests.tiny_bases import write

    base, out = write("qwen2_5_vl", tmp_path / "base"), tmp_path / "data"
    done = CliRunner().invoke(app, ["export-data", str(store), "--format", "llamafactory", "--base", str(base), "--out", str(out)])
    assert done.exit_code == 0, done.output
    rows = {row["id"]: row for row in lines(out / "train.jsonl")}
    row = rows["toy/train/1#grounding"]
    assert Image.open(out / row["images"][0]).size == (56, 56)  # two patches of 28 pixels for 64
    assert json.loads(row["messages"][1]["content"])[0]["bbox_2d"] == [7, 7, 21, 27]  # (8, 8, 24, 30) times 56 / 64, outward
    assert yaml.safe_load((out / "llamafactory.yaml").read_text())["template"] == "qwen2_vl"


def test_configurations_name_the_base_and_the_splits_that_there_are(store, tmp_path):
    trainee = Trainee("org/model", "llava", "{{ messages }}")
    out = {trainer: export(store, trainer, tmp_path / trainer, trainee=trainee) for trainer in TRAINERS}
    read = {trainer: yaml.safe_load((folder / f"{trainer}.yaml").read_text()) for trainer, folder in out.items()}
    assert read["trl"]["model_name_or_path"] == read["llamafactory"]["model_name_or_path"] == read["swift"]["model"] == "org/model"
    assert (out["trl"] / read["trl"]["chat_template_path"]).read_text() == "{{ messages }}"
    assert read["trl"]["max_length"] is None and read["llamafactory"]["template"] == "llava"
    entries = json.loads((out["llamafactory"] / "dataset_info.json").read_text())
    assert {entries[read["llamafactory"][key]]["file_name"] for key in ("dataset", "eval_dataset")} == {"train.jsonl", "val.jsonl"}
    assert (out["swift"] / read["swift"]["dataset"]).exists() and (out["swift"] / read["swift"]["val_dataset"]).exists()
    write_store([sample for sample in samples() if sample.split == "train"], tmp_path / "one")
    alone = {trainer: yaml.safe_load((export(tmp_path / "one", trainer, tmp_path / f"one-{trainer}") / f"{trainer}.yaml").read_text())
             for trainer in TRAINERS}
    assert alone["trl"].get("eval_strategy") is None and "eval_dataset" not in alone["llamafactory"]
    assert alone["swift"]["eval_strategy"] == "no" and "val_dataset" not in alone["swift"]
