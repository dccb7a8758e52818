"""Runs from store to results: oracle, malformed answers, failures, kills, controls, wrong input."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from geotempo.data_builders.scenes.samples import scene_samples
from geotempo.data_builders.store import Store, write_store
from geotempo.eval.answerers import FixedAnswers, Item, ModelAnswers, OracleAnswers, model_fingerprint
from geotempo.eval.plan import Selection, majority_answers, plan, read_ids
from geotempo.eval.predictions import read_lines
from geotempo.eval.report import table
from geotempo.eval.runner import run
from geotempo.eval.score import score_run
from geotempo.eval.task import load_task, task_names
from geotempo.model.convention import GEOTEMPO, TEOCHAT, Convention
from geotempo.model.errors import InputError
from geotempo.model.geometry import Mask, rasterize
from geotempo.model.predictor import Reply, Request
from tests.eval.conftest import CAPTIONS, region, sample

TASKS = ("change_caption", "change_vqa", "classification", "counting", "temporal_referring", "change_grounding",
         "change_segmentation", "damage", "semantic_change")


def select(*names: str, **options: object) -> Selection:
    return Selection(tuple(load_task(name) for name in names), **options)  # type: ignore[arg-type]


@dataclass
class Looking:
    """A predictor that answers from the bytes of the images alone, as a model that looks would."""

    answers: dict[tuple[bytes, ...], str]
    name: str = "looking"
    seen: list[Request] = field(default_factory=list)
    convention: Convention = GEOTEMPO

    def predict(self, requests: Sequence[Request]) -> list[Reply]:
        self.seen += requests
        return [Reply(self.answers.get(tuple(image.encoded() for image in request.images), "nothing"), "stop")
                for request in requests]


def looking(store: Store, task: str) -> ModelAnswers:
    chosen = [store[row] for row in store.rows(tasks=[task])]
    return ModelAnswers(Looking({tuple(i.encoded() for i in s.images): s.target for s in chosen}), "f")


def values(results, task):
    return {name: metric["value"] for name, metric in results["tasks"][task].items()}


def test_the_truth_through_the_grammar_scores_100(store, tmp_path):
    run(store, select(*TASKS), OracleAnswers(), tmp_path / "run")
    results = score_run(tmp_path / "run")
    for task in TASKS:
        found = values(results, task)
        found.pop("cider_d", None)  # has no fixed ceiling
        assert found.pop("count_mae", 0.0) == 0.0
        assert found.pop("miou", 80.0) == 80.0  # RMSIN's convention gives 0 to the one sample without change
        assert set(found.values()) == {100.0}, task
        assert results["parse_rate"][task]["ok"] == 1.0
    assert results["protocol"]["change_segmentation"] == "mask-iou-v1, box-as-mask"
    text = table(results)
    assert "levircc-words-v1" in text and "unreadable, counted as wrong: 0.0 %" in text


def test_scores_of_a_half_right_answerer_by_hand(store, tmp_path):
    constant = FixedAnswers("constant", {"change_caption": CAPTIONS[2], "counting": "2", "change_vqa": "yes",
                                         "change_grounding": '[{"image":2,"bbox_2d":[50,100,170,300],"label":"x"}]'})
    run(store, select("change_caption", "counting", "change_vqa", "change_grounding"), constant, tmp_path / "run")
    results = score_run(tmp_path / "run")
    assert values(results, "change_caption")["caption_exact_first"] == 20.0
    assert values(results, "counting") == {"accuracy": 20.0, "count_mae": pytest.approx(6 / 5)}
    assert values(results, "change_vqa")["accuracy"] == 80.0
    # The first box of tile 1 is found; the same answer overlaps the first box of tile 2 by a third.
    assert values(results, "change_grounding")["box_f1"] == pytest.approx(100 * 2 * 1 / (5 + 10))
    low, high = (results["tasks"]["change_vqa"]["accuracy"][key] for key in ("low", "high"))
    assert 0 <= low < 80 < high <= 100


def test_malformed_answers_stay_in_the_denominator(store, tmp_path):
    class Half(OracleAnswers):
        def answer(self, items: Sequence[Item]) -> list[Reply]:
            good = super().answer(items)
            return [Reply("[{", "length") if "tile3" in item.sample.id else reply
                    for item, reply in zip(items, good, strict=True)]

    tasks = ("change_vqa", "temporal_referring", "change_grounding", "change_segmentation", "counting")
    run(store, select(*tasks), Half(), tmp_path / "run")
    results = score_run(tmp_path / "run")
    assert results["tasks"]["change_vqa"]["accuracy"]["n"] == 5
    assert values(results, "change_vqa")["accuracy"] == values(results, "temporal_referring")["images_accuracy"] == 80.0
    # 10 boxes in all, 3 of them in the unreadable answer.
    assert values(results, "change_grounding")["box_f1"] == pytest.approx(100 * 14 / 17)
    assert values(results, "change_segmentation")["giou"] == 80.0
    assert values(results, "counting")["count_mae"] == pytest.approx(3 / 5)
    for task in tasks:
        assert results["parse_rate"][task]["unreadable"] == pytest.approx(0.2)
    assert "unreadable, counted as wrong: 20.0 %" in table(results)


def test_silence_is_never_better_than_the_empty_list(tmp_path):
    write_store([sample("a", "change_grounding", "Where?", "<regions:>"),
                 sample("b", "change_grounding", "Where?", "<regions:0>", (region(1, 1, 9, 9),), seed=1)],
                tmp_path / "s")
    scores, store = {}, Store(tmp_path / "s")
    for text in ("[]", "no idea"):
        out = tmp_path / text
        run(store, select("change_grounding"), FixedAnswers(text, {"change_grounding": text}), out)
        score_run(out)
        lines = (out / "scored.jsonl").read_text().splitlines()
        scores[text] = [json.loads(line)["statistics"]["box_f1"] for line in lines]
    assert scores == {"[]": [[0, 0, 0], [0, 0, 1]], "no idea": [[0, 1, 0], [0, 0, 1]]}


def test_the_answer_does_not_travel_with_the_question(store, tmp_path):
    predictor = Looking({})
    run(store, select("change_grounding", "damage"), ModelAnswers(predictor, "f"), tmp_path / "run")
    grounding = [request for request in predictor.seen if "Where" in request.question]
    damage = [request for request in predictor.seen if "Damage" in request.question]
    assert len(grounding) == len(damage) == 5
    assert all(request.regions == () for request in grounding)
    assert all(len(request.regions) == 1 and "<region:0>" in request.question for request in damage)
    assert {request.max_new_tokens for request in grounding} == {load_task("change_grounding").max_new_tokens}


KILLED = """
import sys, time
from pathlib import Path
from geotempo.data_builders.store import Store
from geotempo.eval.answerers import OracleAnswers
from geotempo.eval.plan import Selection
from geotempo.eval.runner import run
from geotempo.eval.task import load_task, task_names

class Slow(OracleAnswers):
    def answer(self, items):
        time.sleep(0.1)
        return super().answer(items)

tasks = load_task("change_vqa"), load_task("change_grounding")
run(Store(sys.argv[1]), Selection(tasks), Slow(), Path(sys.argv[2]), 1)
"""


def test_a_killed_run_goes_on_where_it_stopped(store, store_path, tmp_path):
    selection, out = select("change_vqa", "change_grounding"), tmp_path / "killed"
    path = out / "predictions.jsonl"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(store_path), str(out)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = path.read_bytes()
    assert 3 <= kept.count(b"\n") < 10
    with pytest.raises(InputError, match="of 10 answers; run the same"):
        score_run(out)
    path.write_bytes(kept + b'{"task": "change_vqa", "te')  # a write that the kill cut short
    with pytest.raises(InputError, match="half written"):
        score_run(out)
    run(store, selection, OracleAnswers(), out)
    run(store, selection, OracleAnswers(), tmp_path / "whole")
    assert path.read_bytes() == (tmp_path / "whole/predictions.jsonl").read_bytes()
    assert path.read_bytes().startswith(kept)
    assert b'"te' in (out / "predictions.broken.txt").read_bytes()
    score_run(out), score_run(tmp_path / "whole")
    assert (out / "results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()


def test_a_finished_run_asks_nothing_again(store, tmp_path):
    predictor = Looking({})
    for _ in range(2):
        run(store, select("change_vqa"), ModelAnswers(predictor, "f"), tmp_path / "run")
    assert len(predictor.seen) == 5


def test_doubled_foreign_and_broken_lines_are_refused(store, tmp_path):
    out = tmp_path / "run"
    run(store, select("change_vqa"), OracleAnswers(), out)
    path, whole = out / "predictions.jsonl", (out / "predictions.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(whole + lines[0])
    with pytest.raises(InputError, match="twice"):
        score_run(out)
    with pytest.raises(InputError, match="twice"):
        run(store, select("change_vqa"), OracleAnswers(), out)
    path.write_bytes(whole.replace(b"tile0", b"tile9"))
    with pytest.raises(InputError, match="did not plan"):
        score_run(out)
    path.write_bytes(lines[0] + b"nonsense\n" + b"".join(lines[2:]))
    with pytest.raises(InputError, match="line 2 of"):
        score_run(out)


def test_another_model_or_selection_needs_another_folder(store, tmp_path):
    run(store, select("change_vqa"), OracleAnswers(), tmp_path / "run")
    with pytest.raises(InputError, match="another model"):
        run(store, select("change_vqa"), FixedAnswers("x", {"change_vqa": "no"}), tmp_path / "run")
    with pytest.raises(InputError, match="another --out"):
        run(store, select("change_vqa", limit=2), OracleAnswers(), tmp_path / "run")
    write_store([sample("other", "change_vqa", "?", "no")], tmp_path / "other")
    with pytest.raises(InputError, match="not the store of this run"):
        score_run(tmp_path / "run", tmp_path / "other")


def test_failed_requests_are_listed_never_answered(store, tmp_path):
    class Failing(OracleAnswers):
        broken = True

        def answer(self, items: Sequence[Item]) -> list[Reply]:
            if self.broken and any("tile2" in item.sample.id for item in items):
                raise InputError("the image of tile2 is truncated")
            return super().answer(items)

    answerer, out = Failing(), tmp_path / "run"
    with pytest.raises(InputError, match=r"1 of 5 requests failed .* tile2 is truncated"):
        run(store, select("change_vqa"), answerer, out)
    assert [row["id"].split("/")[-1] for row in read_lines(out / "predictions.jsonl")] == [
        f"tile{i}#change_vqa" for i in (0, 1, 3, 4)]
    assert json.loads((out / "failures.jsonl").read_text())["error"] == "the image of tile2 is truncated"
    with pytest.raises(InputError, match="4 of 5 answers"):
        score_run(out)
    Failing.broken = False
    run(store, select("change_vqa"), answerer, out)
    assert not (out / "failures.jsonl").exists()
    assert values(score_run(out), "change_vqa")["accuracy"] == 100.0


def test_exchanged_images_take_their_answers_along(store, tmp_path):
    plain, swapped = tmp_path / "plain", tmp_path / "swap"
    answerer = looking(store, "change_caption")
    run(store, select("change_caption"), answerer, plain)
    run(store, select("change_caption", control="swap"), answerer, swapped)
    results = score_run(swapped, against=plain)
    assert results["control"] == "swap"
    assert results["tasks"]["change_caption"]["caption_exact_first"]["value"] == 100.0
    assert results["against"]["change_caption"] == {"n": 4, "kept": 0.0, "informative": 4, "follows": 1.0, "stays": 0.0}
    assert "100.0 % follow the images" in table(results)


def test_a_model_that_never_looks_is_found_out(store, tmp_path):
    class FromTheQuestion(Looking):
        def predict(self, requests: Sequence[Request]) -> list[Reply]:
            return [Reply(CAPTIONS[int(request.question.split()[-1].rstrip("."))], "stop") for request in requests]

    answerer = ModelAnswers(FromTheQuestion({}), "f")
    run(store, select("change_caption"), answerer, tmp_path / "plain")
    run(store, select("change_caption", control="swap"), answerer, tmp_path / "swap")
    assert values(score_run(tmp_path / "plain"), "change_caption")["caption_exact_first"] == 100.0
    results = score_run(tmp_path / "swap", against=tmp_path / "plain")
    assert results["against"]["change_caption"]["stays"] == 1.0
    assert values(results, "change_caption")["caption_exact_first"] == 0.0


def test_answers_are_read_in_the_models_own_convention(store, tmp_path):
    run(store, select("change_grounding"), FixedAnswers("boxes", {"change_grounding": "[10, 20, 30, 40]"}, TEOCHAT), tmp_path)
    assert score_run(tmp_path)["parse_rate"]["change_grounding"]["ok"] == 1.0
    run(store, select("change_grounding"), OracleAnswers(convention=TEOCHAT), tmp_path / "oracle")
    assert values(score_run(tmp_path / "oracle"), "change_grounding")["box_f1"] == 100.0


def test_blank_images_against_the_unperturbed_run(store, tmp_path):
    answerer = looking(store, "change_caption")
    run(store, select("change_caption"), answerer, tmp_path / "plain")
    run(store, select("change_caption", control="blank"), answerer, tmp_path / "blank")
    results = score_run(tmp_path / "blank", against=tmp_path / "plain")
    assert results["against"]["change_caption"] == {"n": 5, "kept": 0.0}
    assert values(results, "change_caption")["caption_exact_any"] == 0.0
    with pytest.raises(InputError, match="unperturbed"):
        score_run(tmp_path / "plain", against=tmp_path / "blank")


def test_masks_of_a_segmenter_are_stored_and_scored(tmp_path):
    disc = np.hypot(*(np.indices((100, 100)) - 50)) < 20
    truth = region(30, 30, 71, 71)
    write_store([sample("a", "change_segmentation", "Segment.", "<regions:0>",
                        (replace(truth, geometry=Mask.from_array(disc)),))], tmp_path / "s")

    class Discs:
        """Segments the disc inscribed in each box."""

        name = "discs"

        def segment(self, image, regions):
            return [Mask.from_array(rasterize(r.geometry, image.height, image.width) & disc) for r in regions]

    store = Store(tmp_path / "s")
    run(store, select("change_segmentation"), OracleAnswers(), tmp_path / "box")
    run(store, select("change_segmentation"), OracleAnswers(), tmp_path / "disc", segmenter=Discs())
    boxes, masks = score_run(tmp_path / "box"), score_run(tmp_path / "disc")
    assert values(boxes, "change_segmentation")["oiou"] == pytest.approx(100 * disc.sum() / 39**2)
    assert values(masks, "change_segmentation")["oiou"] == 100.0
    assert masks["protocol"]["change_segmentation"] == "mask-iou-v1, masks by discs"


def test_selection_by_ids_limit_and_split(store, tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text("# two items\nhand/val/tile1\nhand/val/tile3#change_vqa\n\n")
    planned = plan(store, select("change_vqa", "counting", ids=read_ids(path)))
    assert [store.ids[p.asks] for p in planned] == ["hand/val/tile1#change_vqa", "hand/val/tile3#change_vqa",
                                                   "hand/val/tile1#counting"]
    run(store, select("change_vqa", limit=2), OracleAnswers(), tmp_path / "run")
    results = score_run(tmp_path / "run")
    assert results["partial"] is True and results["tasks"]["change_vqa"]["accuracy"]["n"] == 2
    assert "partial" in table(results)


def test_majority_prefers_the_training_split(tmp_path):
    val = [sample(f"v{i}", "change_vqa", "?", "no", seed=i) for i in range(3)]
    train = [sample(f"t{i}", "change_vqa", "?", "yes", seed=9 + i, split="train") for i in range(2)]
    write_store(val, tmp_path / "val")
    write_store([*train, *val], tmp_path / "both")
    assert majority_answers(Store(tmp_path / "val"), select("change_vqa")).texts == {"change_vqa": "no"}
    assert majority_answers(Store(tmp_path / "both"), select("change_vqa")).texts == {"change_vqa": "yes"}


def test_fingerprint_of_a_folder_notices_other_weights(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"a" * (3 << 20))
    first = model_fingerprint(tmp_path)
    assert model_fingerprint(tmp_path) == first
    weights.write_bytes(b"a" * ((3 << 20) - 1) + b"b")
    assert model_fingerprint(tmp_path) != first
    assert model_fingerprint("org/name") != model_fingerprint("org/other")


@pytest.mark.parametrize(("options", "message"), [
    ({"split": "test"}, "has no split 'test'"), ({"limit": 0}, "1 or more"),
    ({"ids": ("tile77",)}, "has no sample 'tile77'"), ({"control": "blurred"}, "unknown control"),
])
def test_wrong_selections_say_so(store, options, message):
    with pytest.raises(InputError, match=message):
        plan(store, select("change_vqa", **options))


def test_tasks_that_a_store_lacks_or_that_are_doubled(store):
    with pytest.raises(InputError, match="no samples for the task 'region_vqa'"):
        plan(store, select("region_vqa"))
    with pytest.raises(InputError, match="given twice"):
        plan(store, select("change_vqa", "change_vqa"))
    with pytest.raises(InputError, match="exchange images"):
        plan(store, select("damage", control="swap"))


def test_what_cloud_hides_is_neither_right_nor_wrong(tmp_path):
    cloud = replace(region(60, 60, 80, 80), assessable=False, reason="cloud")
    regions = region(10, 10, 30, 30), cloud
    write_store([sample("a", "change_segmentation", "Segment.", "<regions:0>", regions)], tmp_path / "s")
    store, scores = Store(tmp_path / "s"), []
    for name, wrong in (("cloud", [610, 610, 790, 790]), ("clear", [810, 10, 990, 190])):
        boxes = [{"image": 2, "bbox_2d": box} for box in ([100, 100, 300, 300], wrong)]
        text = json.dumps(boxes, separators=(",", ":"))
        run(store, select("change_segmentation"), FixedAnswers(name, {"change_segmentation": text}), tmp_path / name)
        found = values(score_run(tmp_path / name), "change_segmentation")
        scores.append((found["box_f1"], found["oiou"]))
    assert scores == [(100.0, 100.0), (pytest.approx(200 / 3), pytest.approx(100 * 400 / (400 + 18 * 18)))]


def test_the_truth_of_scenes_scores_100_but_for_masks(tmp_path):
    write_store((s for index in range(3) for s in scene_samples(3, index, size=128, split="val")), tmp_path / "s")
    store = Store(tmp_path / "s")
    held = store.manifest["counts"]["by_task"]
    names = [name for name in task_names() if set(load_task(name).tasks) & set(held)]
    run(store, select(*names), OracleAnswers(), tmp_path / "run")
    results = score_run(tmp_path / "run")
    assert sum(held.values()) == len(read_lines(tmp_path / "run/predictions.jsonl"))
    for name in names:
        found = values(results, name)
        open_ended = ("cider_d", "count_mae", "oiou", "miou", "giou")
        assert {value for key, value in found.items() if key not in open_ended} == {100.0}, name
        assert results["parse_rate"][name]["ok"] == 1.0
        # A box holds its object and more, so box-as-mask is a floor for what a segmenter adds.
        assert 0 < found.get("giou", 50.0) < 100
