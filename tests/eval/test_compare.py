"""`geotempo compare`: runs of fixed answers whose differences are known, and runs that do not compare."""

import json
import subprocess
import sys

import pytest

from geotempo.data_builders.store import Store, write_store
from geotempo.eval.answerers import FixedAnswers, OracleAnswers
from geotempo.eval.compare import compare_runs, table
from geotempo.eval.plan import Selection
from geotempo.eval.runner import run
from geotempo.eval.score import score_run
from geotempo.eval.task import load_task
from geotempo.model.errors import InputError
from tests.eval.conftest import CAPTIONS

TASKS = ("change_vqa", "change_caption")


@pytest.fixture(scope="module")
def runs(store_path, tmp_path_factory):
    """Runs by name: the truth, and texts that never look."""
    folder, store = tmp_path_factory.mktemp("runs"), Store(store_path)
    answerers = {"oracle": OracleAnswers()} | {
        name: FixedAnswers(name, dict.fromkeys(TASKS, text))
        for name, text in (("yes", "yes"), ("no", "no"), ("stock", CAPTIONS[2]), ("forest", CAPTIONS[0]))}
    for name, answerer in answerers.items():
        run(store, Selection(tuple(load_task(task) for task in TASKS)), answerer, folder / name)
        score_run(folder / name)
    return folder


def found(*sides):
    return {(item.task, item.metric): item for item in compare_runs(*sides)}


def test_two_runs(runs):
    result = found([runs / "oracle"], [runs / "no"])
    accuracy = result["change_vqa", "accuracy"]
    assert (accuracy.first, accuracy.second, accuracy.difference, accuracy.n, accuracy.clusters) == (100, 20, 80, 5, 5)
    # 4 of 5 questions differ, all in one direction: 2 of the 16 exchanges are as large
    assert accuracy.p == pytest.approx(2 / 16, abs=0.02) and accuracy.p_holm >= accuracy.p
    assert accuracy.low > 0 and accuracy.high <= 100
    for name in ("bleu4", "cider_d"):
        item = result["change_caption", name]
        plain = json.loads((runs / "oracle" / "results.json").read_text())["tasks"]["change_caption"][name]["value"]
        assert item.first == pytest.approx(plain) and item.first > item.second


def test_the_other_way_round_is_the_same_with_the_other_sign(runs):
    there, back = found([runs / "oracle"], [runs / "yes"]), found([runs / "yes"], [runs / "oracle"])
    for key, item in there.items():
        assert back[key].difference == pytest.approx(-item.difference) and back[key].p == pytest.approx(item.p, abs=0.02)
        assert (back[key].low, back[key].high) == pytest.approx((-item.high, -item.low), abs=5)


def test_seeds_are_pooled_and_shown(runs):
    item = found([runs / "yes", runs / "no"], [runs / "stock"])["change_vqa", "accuracy"]
    assert item.runs == (80, 20) and item.first == pytest.approx(50) and item.others == (0,)
    assert item.low < item.difference < item.high
    text = table([item])
    assert "50.00 (80.00, 20.00)" in text and f"{item.difference:+.2f} [{item.low:+.2f}" in text


def test_only_common_tasks_are_compared(store_path, runs, tmp_path):
    run(Store(store_path), Selection((load_task("change_vqa"), load_task("counting"))), OracleAnswers(), tmp_path / "other")
    score_run(tmp_path / "other")
    assert {task for task, _ in found([runs / "no"], [tmp_path / "other"])} == {"change_vqa"}


def test_runs_that_do_not_compare_are_refused_with_the_reason(store_path, samples, runs, tmp_path):
    def scored(name, data=store_path, answers="x", tasks=("change_vqa",), **options):
        texts = FixedAnswers("fixed", dict.fromkeys(tasks, answers))
        run(Store(data), Selection(tuple(map(load_task, tasks)), **options), texts, tmp_path / name)
        score_run(tmp_path / name)
        return tmp_path / name

    def refused(other, words):
        with pytest.raises(InputError, match=words):
            compare_runs([runs / "no"], [other])

    write_store([sample for sample in samples if "tile0" not in sample.id], tmp_path / "store2")
    refused(scored("elsewhere", tmp_path / "store2"), "different stores")
    refused(scored("fewer", limit=3), "not asked the same samples of 'change_vqa': 2 are in one only")
    refused(scored("fewer captions", tasks=("change_caption",), limit=3), "CIDEr-D .* different reference sets")
    refused(scored("others", tasks=("counting",)), "share no task and metric")
    refused(runs / "no", "given twice")
    refused(tmp_path / "store2", "holds no scored run")
    results = json.loads((tmp_path / "others" / "results.json").read_text())
    (runs / "edited").mkdir()
    for name in ("results.json", "scored.jsonl"):
        text = (runs / "no" / name).read_text()
        (runs / "edited" / name).write_text(text.replace("short-answer-v1", "short-answer-v0"))
    refused(runs / "edited", "scored by 'short-answer-v1'")
    assert results["tasks"]


def geotempo(*arguments):
    return subprocess.run([sys.executable, "-m", "geotempo", "compare", *map(str, arguments)], capture_output=True, text=True,
                          check=False)


def test_command_pools_seeds_on_both_sides(runs, tmp_path):
    out = tmp_path / "compared.json"
    done = geotempo(runs / "yes", runs / "no", "--against", runs / "stock", runs / "forest", "--out", out)
    assert done.returncode == 0, done.stderr
    assert f"A: {runs / 'yes'}, {runs / 'no'}" in done.stdout and f"B: {runs / 'stock'}, {runs / 'forest'}" in done.stdout
    rows = json.loads(out.read_text())
    assert [len(row["runs"]) for row in rows] == [2] * len(rows) == [len(row["others"]) for row in rows]
    assert "| change_vqa | accuracy | 50.00 (80.00, 20.00) |" in done.stdout


@pytest.mark.parametrize(("arguments", "message"), [
    (["one"], "two runs are compared, got 1"), (["one", "two", "three"], "--against B1 B2 B3"), (["one", "two"], "holds no scored run"),
])
def test_command_refuses_in_one_line(tmp_path, arguments, message):
    done = geotempo(*(tmp_path / name for name in arguments))
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
