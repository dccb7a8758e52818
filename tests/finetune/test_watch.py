"""Watched samples: the same ones each time, answered without a trace in training, on a page that needs nothing but itself."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from geotempo.data_builders.render import target_text
from geotempo.data_builders.sample import Message, Sample
from geotempo.data_builders.store import write_store
from geotempo.eval.answerers import request_of
from geotempo.finetune.recipe import DataSection, parse_recipe
from geotempo.finetune.train import train
from geotempo.finetune.watch import Journal, choose, metrics_of, score, undisturbed
from geotempo.finetune.watch_page import Watched, answers_of, render_page
from geotempo.model.convention import GEOTEMPO
from geotempo.model.geometry import Box, Mask
from geotempo.model.records import Region
from geotempo.serve.hf import HFPredictor, generate_reply
from tests.finetune.conftest import picture, samples

ROOT = Path(__file__).parents[2]


def rows_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "watch" / "answers.jsonl").read_text().splitlines()]


def history_of(run: Path) -> list[dict]:
    return json.loads((run / "trainer_state.json").read_text())["log_history"]


# ---- which samples


def test_the_choice_is_fixed_held_out_and_spread_over_tasks_and_images(val_store: Path) -> None:
    section = DataSection(str(val_store))
    first, again = choose(section, 4, 0), choose(section, 4, 0)
    assert [sample.id for sample in first.samples] == [sample.id for sample in again.samples]
    assert first.split == "val"
    assert [sample.task for sample in first.samples] == ["change_caption", "change_grounding"] * 2
    assert len({sample.id.partition("#")[0] for sample in first.samples}) == 4
    assert all("/val/" in sample.id for sample in first.samples)
    assert first.samples[1].regions  # one with something to find comes first
    assert len({tuple(sample.id for sample in choose(section, 4, seed).samples) for seed in range(8)}) > 1
    assert len(choose(section, 99, 0).samples) == 8
    assert {sample.task for sample in choose(replace(section, tasks=("change_caption",)), 3, 0).samples} == {"change_caption"}


def test_named_evaluation_stores_come_first_and_training_samples_where_nothing_is_held_out(store: Path, val_store: Path) -> None:
    assert choose(DataSection(str(store)), 3, 0).split == "train"
    elsewhere = choose(DataSection(str(store), evaluate=(str(val_store),)), 3, 0)
    assert elsewhere.split == "val"
    assert all("/val/" in sample.id for sample in elsewhere.samples)
    assert choose(DataSection(str(val_store), evaluate=()), 3, 0).split == "train"


# ---- no trace in training


def test_inside_undisturbed_all_is_still_and_afterwards_as_before() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Dropout(0.5))
    model.train()
    model[2].eval()  # as a frozen part may be
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    expected = random.random(), float(np.random.rand()), float(torch.rand(()))
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    with pytest.raises(RuntimeError, match="inside"), undisturbed(model):
        assert not any(module.training for module in model.modules())
        assert not model(torch.ones(4)).requires_grad
        random.random(), np.random.rand(), torch.rand(7)
        raise RuntimeError("inside")
    assert [module.training for module in model.modules()] == [True, True, True, False]
    assert model(torch.ones(4)).requires_grad  # and dropout draws
    torch.manual_seed(3)
    assert (random.random(), float(np.random.rand()), float(torch.rand(()))) == expected


def test_a_watched_run_trains_exactly_as_an_unwatched_one(recipe: dict, base: Path, val_store: Path, tmp_path: Path) -> None:
    recipe["model"] = {"base": str(base)}
    recipe["lora"] = {"r": 4, "alpha": 8, "dropout": 0.3}  # dropout draws from the generator that an answer might move
    recipe["data"] |= {"store": str(val_store)}
    recipe["train"] |= {"max_steps": 6, "eval_strategy": "steps", "eval_steps": 2, "gradient_checkpointing": True, "save_strategy": "no"}
    seen = {}
    for watch in (0, 3):
        recipe["data"]["watch"] = watch
        recipe["train"]["output_dir"] = str(tmp_path / f"watch{watch}")
        out = train(parse_recipe(recipe)).parent
        seen[watch] = [(entry["step"], entry.get("loss"), entry.get("eval_loss"), entry.get("grad_norm")) for entry in history_of(out)]
    assert len(seen[0]) == 6 + 3 + 1
    assert seen[0] == seen[3]
    assert not (tmp_path / "watch0" / "watch.html").exists()
    assert sorted({row["step"] for row in rows_of(tmp_path / "watch3")}) == [0, 2, 4, 6]
    assert len(rows_of(tmp_path / "watch3")) == 4 * 3


# ---- the journal


def line(step: int, name: str = "a") -> dict:
    return {"step": step, "id": name, "task": "vqa", "text": f"{name}{step}", "finish_reason": "stop", "metric": None, "score": None}


def test_the_journal_survives_a_kill_and_goes_back_with_the_run(tmp_path: Path) -> None:
    path = tmp_path / "watch" / "answers.jsonl"
    journal = Journal(path)
    journal.go_back_to(0)
    for step in (0, 2, 4):
        journal.add([line(step), line(step, "b")])
    assert journal.answered(4) == {"a", "b"}
    with path.open("a") as file:
        file.write('{"step": 6, "id": "a", "te')
    again = Journal(path)
    again.go_back_to(3)  # the run goes on from a checkpoint at step 3
    assert [(row["step"], row["id"]) for row in again.rows] == [(0, "a"), (0, "b"), (2, "a"), (2, "b")]
    again.add([line(4, "new")])
    assert [json.loads(text)["text"] for text in path.read_text().splitlines()] == ["a0", "b0", "a2", "b2", "new4"]
    fresh = Journal(path)
    fresh.go_back_to(0)
    assert fresh.rows == []
    assert path.read_text() == ""


def resumable(recipe: dict, store: Path) -> Path:
    """Train to the end, evaluating between the checkpoints."""
    recipe["data"] |= {"store": str(store), "watch": 2}
    recipe["train"] |= {"max_steps": 8, "save_steps": 4, "eval_strategy": "steps", "eval_steps": 3, "save_total_limit": None}
    return train(parse_recipe(recipe)).parent


def test_a_resumed_run_has_each_answer_once_and_as_undisturbed(recipe: dict, val_store: Path) -> None:
    run = resumable(recipe, val_store)
    whole = rows_of(run)
    assert [row["step"] for row in whole] == [0, 0, 3, 3, 6, 6, 8, 8]
    # as if killed in the evaluation at step 6: the newest whole checkpoint is at 4, a line is half written
    (run / "checkpoint-8" / "trainer_state.json").unlink()
    with (run / "watch" / "answers.jsonl").open("r+") as file:
        file.truncate(sum(len(text) + 1 for text in file.read().splitlines()[:5]) + 30)
    train(parse_recipe(recipe))
    assert rows_of(run) == whole
    assert "answered 4 times, last at step 8" in (run / "watch.html").read_text()


@pytest.mark.slow
def test_a_killed_run_has_each_answer_once_and_as_undisturbed(recipe: dict, val_store: Path, tmp_path: Path) -> None:
    whole = resumable(recipe, val_store)
    recipe["train"]["output_dir"] = str(tmp_path / "killed")
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    process = subprocess.Popen([sys.executable, "-m", "geotempo", "train", str(path)], stdout=subprocess.DEVNULL)
    answers = tmp_path / "killed" / "watch" / "answers.jsonl"
    deadline = time.monotonic() + 240
    # killed between two checkpoints, after an evaluation that is going to be repeated
    while not (answers.exists() and '"step": 6' in answers.read_text()) and time.monotonic() < deadline:
        assert process.poll() is None, "training ended before it could be killed"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (tmp_path / "killed" / "checkpoint-4" / "trainer_state.json").exists()
    train(parse_recipe(recipe))
    assert rows_of(tmp_path / "killed") == rows_of(whole)


# ---- scores


def test_one_answer_is_scored_as_the_evaluation_scores_it() -> None:
    caption, grounding = samples(2)[2:]
    assert score(caption, "a house has been built", "stop", GEOTEMPO) == ("BLEU-4", 100.0)
    assert score(caption, "there is no difference", "stop", GEOTEMPO) == ("BLEU-4", 0.0)
    box = grounding.regions[0].geometry
    assert isinstance(box, Box)
    x1, y1, x2, y2 = (round(value * 1000 / 64) for value in box.as_tuple())
    right = f'[{{"image":2,"bbox_2d":[{x1},{y1},{x2},{y2}],"label":"building"}}]'
    assert score(grounding, right, "stop", GEOTEMPO) == ("box F1@0.5", 100.0)
    assert score(grounding, "[]", "stop", GEOTEMPO) == ("box F1@0.5", 0.0)
    assert score(grounding, "yes", "stop", GEOTEMPO) == ("box F1@0.5", 0.0)
    counted = replace(caption, task="counting", messages=(caption.messages[0], Message("assistant", "3")))
    assert score(counted, "3", "stop", GEOTEMPO) == ("accuracy", 100.0)
    assert metrics_of("damage")[0] == "box_f1_labels"


# ---- the page


def grounding_with_answers() -> tuple[Watched, list[dict]]:
    sample = samples(2)[3]
    texts = ["nonsense <script>alert(1)</script>", '[{"image":2,"bbox_2d":[500,500,750,750],"label":"building"}]',
             '[{"image":2,"bbox_2d":[500,500,750,750],"label":"building"}]',
             '[{"image":1,"bbox_2d":[0,0,250,250],"label":"building"}]']
    rows = [{"step": 10 * number, "id": sample.id, "task": sample.task, "text": text, "finish_reason": "stop", "metric": "box F1@0.5",
             "score": 25.0 * number} for number, text in enumerate(texts)]
    return Watched(sample, '[{"image":2,"bbox_2d":[203,188,453,375],"label":"building"}]'), rows


def test_equal_answers_in_a_row_are_one_entry() -> None:
    watched, rows = grounding_with_answers()
    found = answers_of(watched, reversed(rows), GEOTEMPO)
    assert [entry.when for entry in found] == ["before training", "steps 10 to 20, 2 times the same", "step 30"]
    assert [len(entry.regions) for entry in found] == [0, 1, 1]


def test_the_page_draws_the_regions_of_every_answer_on_their_image() -> None:
    watched, rows = grounding_with_answers()
    page = render_page("run", [watched], rows, [{"step": 1, "loss": 2.0}, {"step": 30, "loss": 1.0}], GEOTEMPO, "val")
    first, second = re.findall(r"<figure>.*?</figure>", page, flags=re.DOTALL)
    blue, orange = "rgb(60,190,255)", "rgb(255,150,40)"
    assert (blue in first, blue in second) == (False, True)
    assert re.search(rf'd="M29,12 29,24 13,24 13,12 29,12" stroke="{re.escape(blue)}"', second)
    assert re.search(r'class="over o1">.*d="M48,32 48,48 32,48 32,32 48,32" stroke="rgb\(255,150,40\)"', second)
    assert "over o2" in first
    assert "over o2" not in second
    assert first.count(orange) == second.count(orange) == 1
    assert "over o0" not in page  # the first answer lists no region
    assert re.search(r'class="pick p2" type="radio" name="s0" id="s0a2" checked', page)  # the newest is shown
    assert page.count(" checked>") == 1
    order = [page.index(text) for text in ("step 30", "steps 10 to 20", "before training")]
    assert order == sorted(order)


def test_the_page_needs_nothing_but_itself_and_lets_no_text_act() -> None:
    watched, rows = grounding_with_answers()
    page = render_page("<b>run</b>", [watched], rows, [], GEOTEMPO, "train")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<b>run</b>" not in page
    assert set(re.findall(r'(?:src|href)="(\w+):', page)) == {"data"}
    assert not re.search(r"url\(|@import|https?://", page)
    assert "also trained on" in page
    assert '<polyline points="' in page  # of the scores, though no loss was logged


def test_asked_regions_other_references_errors_and_blanks_are_shown() -> None:
    sample = Sample("toy/val/1#region_caption", "toy", "val", "region_caption", (picture(1, (8, 8, 24, 20)),),
                    (Message("user", "<image>\nDescribe <region:0>."), Message("assistant", "a roof")),
                    (Region(1, Box(8, 8, 24, 20)),), {"licence": "CC0-1.0", "references": ["a roof", "a bright <roof>"]})
    rows = [{"step": 0, "id": sample.id, "task": sample.task, "error": "prompt & answer are too long"},
            {"step": 5, "id": sample.id, "task": sample.task, "text": "\n\n", "finish_reason": "length", "metric": "BLEU-4", "score": 0.0}]
    page = render_page("run", [Watched(sample, "a roof")], rows, [], GEOTEMPO, "val")
    assert "Describe the marked place in Image 1." in page
    assert 'stroke="rgb(255,255,255)"' in page
    assert "1 other right answer<" in page
    assert "a bright &lt;roof&gt;" in page
    assert "not answered: prompt &amp; answer are too long" in page
    assert "(2 blanks)" in page
    assert "cut off" in page


def test_an_asked_mask_has_its_box_drawn_around_it() -> None:
    inside = np.zeros((64, 64), dtype=np.bool_)
    inside[10:20, 30:40] = True
    sample = Sample("toy/val/1#region_vqa", "toy", "val", "region_vqa", (picture(1, None),),
                    (Message("user", "<image>\nWhat is at <region:0>?"), Message("assistant", "field")),
                    (Region(1, Mask.from_array(inside)),), {"licence": "CC0-1.0"})
    page = render_page("run", [Watched(sample, "field")], [], [], GEOTEMPO, "val")
    assert 'd="M40,10 40,20 30,20 30,10 40,10" stroke="rgb(255,255,255)"' in page


def test_a_sample_that_does_not_fit_is_told_and_stops_nothing(recipe: dict, store: Path, tmp_path: Path) -> None:
    long = [replace(sample, split="val", id=sample.id.replace("/train/", "/val/"),
                    messages=(sample.messages[0], Message("assistant", "a house " * 70))) for sample in samples(1)[:1]]
    write_store([*samples(4), *long], tmp_path / "long")
    recipe["data"] |= {"store": str(tmp_path / "long"), "watch": 1, "evaluate": [str(tmp_path / "long")], "allow_leaks": True}
    recipe["train"]["max_steps"] = 1
    out = train(parse_recipe(recipe)).parent
    assert [row["step"] for row in rows_of(out)] == [0, 1]
    assert all("the model takes 256" in row["error"] for row in rows_of(out))
    assert "not answered" in (out / "watch.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("sharding", [{}, {"deepspeed": "zero3"}, {"fsdp_config": "fsdp2"}], ids=["ddp", "zero3", "fsdp2"])
def test_two_processes_answer_as_one_and_one_of_them_writes(recipe: dict, base: Path, val_store: Path, tmp_path: Path,
                                                           sharding: dict) -> None:
    if "deepspeed" in sharding:
        pytest.importorskip("deepspeed", reason='pip install "geotempo[deepspeed]"')
    recipe["model"] = {"base": str(base)}
    recipe["data"] |= {"store": str(val_store), "watch": 3}
    recipe["train"] |= {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 3, "save_strategy": "no",
                        "per_device_train_batch_size": 2, **sharding}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "geotempo", "train", str(path)]
    done = subprocess.run(launch, capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-9000:]
    assert done.stdout.count("watching 3 samples") == 1
    found = rows_of(tmp_path / "run")
    chosen = choose(DataSection(str(val_store)), 3, 0).samples
    assert [(row["step"], row["id"]) for row in found] == [(step, sample.id) for step in (0, 3, 4) for sample in chosen]
    for step, folder in ((0, base), (4, tmp_path / "run" / "final")):  # whole models in one process
        alone = HFPredictor(folder)
        replies = [generate_reply(alone.model, alone.processor, alone.convention,
                                  request_of(sample, sample.images, allowed(alone, sample))) for sample in chosen]
        assert [row["text"] for row in found if row["step"] == step] == [reply.text for reply in replies]
    assert len({row["text"] for row in found}) > 1


def allowed(predictor: HFPredictor, sample: Sample) -> int:
    return 2 * len(predictor.processor.tokenizer(target_text(sample), add_special_tokens=False)["input_ids"]) + 16


def test_a_damaged_line_of_the_journal_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "answers.jsonl"
    whole = [json.dumps({"step": step, "id": "a"}) for step in (0, 2)]
    path.write_text("\n".join([whole[0], "{broken", "[]", whole[1], '{"step": 4']))
    journal = Journal(path)
    journal.go_back_to(4)
    assert [row["step"] for row in journal.rows] == [0, 2]
    assert path.read_text().splitlines() == whole
    assert "line 2 is no watched answer and is left out" in capsys.readouterr().out
