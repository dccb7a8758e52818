"""`geotempo eval` and `geotempo score` as a user runs them."""

import json
import subprocess
import sys

import pytest


def geotempo(*arguments):
    command = [sys.executable, "-m", "geotempo", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_eval_then_score_again(store_path, tmp_path):
    out = tmp_path / "run"
    first = geotempo("eval", "change_vqa", "change_caption", "--data", store_path, "--answers", "oracle", "--out", out)
    assert first.returncode == 0, first.stderr
    assert "accuracy  100.00" in first.stdout and "levircc-words-v1" in first.stdout
    results = (out / "results.json").read_bytes()
    assert json.loads(results)["tasks"]["change_vqa"]["accuracy"]["n"] == 5
    again = geotempo("score", out)
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert (out / "results.json").read_bytes() == results


@pytest.mark.parametrize(("arguments", "message"), [
    (["change_captoin", "--answers", "oracle"], "did you mean 'change_caption'"),
    (["change_vqa"], "exactly one of --model and --answers"),
    (["change_vqa", "--answers", "oracel"], "allowed: oracle, majority, empty, constant:TEXT"),
    (["change_vqa", "--answers", "oracle", "--data", "nowhere"], "is no store"),
    (["change_vqa", "--answers", "oracle", "--ids", "nowhere.txt"], "cannot read the ids"),
])
def test_wrong_input_is_one_line_and_writes_nothing(store_path, tmp_path, arguments, message):
    data = [] if "--data" in arguments else ["--data", store_path]
    done = geotempo("eval", *arguments, *data, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_score_of_no_run(tmp_path):
    done = geotempo("score", tmp_path)
    assert done.returncode == 2 and "is no run" in done.stderr
