"""`geotempo score --predictions`: any model's answers, from a file of lines."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geotempo.commands.eval import score
from geotempo.eval.metrics.lines import TASKS, _mask, score_lines, table
from geotempo.model.errors import InputError
from geotempo.model.geometry import Mask

CAPTIONS = [
    {"id": "a", "prediction": "A road is built.", "references": ["a road is built", "a new road appears"]},
    {"id": "b", "prediction": "the scene is the same", "references": ["the scene is the same as before"]},
]


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def scored(tmp_path, task, lines, **options):
    return score_lines(write(tmp_path / "lines.jsonl", lines), task, **options)


def test_doubled_ids_are_left_out_and_named(tmp_path):
    other = {**CAPTIONS[0], "prediction": "something else"}
    once = scored(tmp_path, "levir_cc", CAPTIONS)
    thrice = scored(tmp_path, "levir_cc", [*CAPTIONS, CAPTIONS[1], other])
    assert (thrice["lines"], thrice["duplicates"], thrice["contradictions"]) == (4, 2, 1)
    assert thrice["result"] == once["result"]
    text = table(thrice)
    assert "2 of 4 lines have an id that was there before" in text and "1 of them with another prediction" in text
    assert "partial: the test split has 1929" in text and "[words]" in text and "references_sha256" in text
    assert once["result"]["change recall"] == once["result"]["no-change recall"] == 100.0


def test_the_command_prints_and_writes_the_same(tmp_path):
    path = write(tmp_path / "lines.jsonl", [*CAPTIONS, CAPTIONS[0]])
    done = subprocess.run([sys.executable, "-m", "geotempo", "score", "--predictions", path, "--task", "levir_cc", "--out",
                           tmp_path / "out.json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert done.stdout.strip() == table(result) and result["result"]["n"] == 2


@pytest.mark.parametrize(("arguments", "message"), [
    ({}, "either the folder of a run, or --predictions"), ({"run": Path("x"), "predictions": Path("x")}, "either the folder"),
    ({"predictions": Path("x")}, "--predictions needs --task"),
    ({"predictions": Path("x"), "task": "levir"}, "unknown task 'levir'"),
    ({"predictions": Path("nowhere"), "task": "levir_cc"}, "cannot read the predictions"),
    ({"predictions": Path("x"), "task": "levir_cc", "vocabulary": Path("nowhere")}, "cannot read the vocabulary"),
])
def test_wrong_calls_say_what_is_allowed(arguments, message):
    with pytest.raises(InputError, match=message):
        score(**arguments)


@pytest.mark.parametrize(("line", "message"), [
    ("{", "line 2 is no JSON"), ("[]", "is no object"), ('{"id": 1}', "has no 'prediction'"),
    ('{"id": 1, "prediction": "a", "references": []}', "one or more"),
    ('{"id": [], "prediction": "a", "references": ["a"]}', "must be text or a whole number"),
    ('{"id": 1, "prediction": null, "references": ["a"]}', "must be text"),
    ('{"id": 1, "prediction": "a", "references": [2]}', "must be texts"),
])
def test_broken_lines_are_named(tmp_path, line, message):
    path = tmp_path / "lines.jsonl"
    path.write_text(json.dumps(CAPTIONS[0]) + "\n" + line + "\n")
    with pytest.raises(InputError, match=message):
        score_lines(path, "levir_cc")


def test_every_kind_of_task(tmp_path):
    def line(prediction, reference, **more):
        return [{"id": 1, "prediction": prediction, "references": [reference], **more}]

    assert scored(tmp_path, "cdvqa", line("Yes.", "yes", type="change_or_not"))["result"]["types"].keys() == {"change_or_not"}
    assert scored(tmp_path, "counting", line("7", 5))["result"]["MAE"] == 2
    assert scored(tmp_path, "dior_rsvg", line("[0, 0, 4, 4]", [0, 0, 4, 4]))["result"]["Pr@0.9"] == 100.0
    assert scored(tmp_path, "vrsbench_referring", line("{<0><0><4><4>}", [0, 0, 4, 4]))["result"]["protocol"] == "vrsbench"
    assert scored(tmp_path, "temporal_referring", line("Image 2", "Image 2"))["result"]["set-F1"] == 100.0
    rle = Mask.from_array(np.eye(5)).to_coco()
    assert scored(tmp_path, "rrsis_d", line(rle, {"size": [5, 5], "counts": [0, 25]}))["result"]["oIoU"] == 20.0
    assert scored(tmp_path, "rrsis_d", line(None, rle), protocol="strict")["result"]["unreadable"] == 1
    damage = line("destroyed", "Destroyed", task="change_detection_classification", polygon="POLYGON ((0 0, 0 9, 9 9, 9 0, 0 0))")
    both = scored(tmp_path, "teochat_xbd_dmg_cls", damage)
    assert "teochat_compat" in table(both) and both["result"]["tasks"]["change_detection_classification"]["strict"] == 100.0
    assert len([name for name in TASKS if name.startswith("teochat_")]) == 17


def test_word_numbers_need_the_word_map(tmp_path):
    words = {"<UNK>": 1, "a": 2, "road": 3}
    assert scored(tmp_path, "levir_cc", CAPTIONS, protocol="levircc_ids", vocabulary=words)["result"]["protocol"] == "levircc_ids"
    with pytest.raises(InputError, match="needs `vocabulary`"):
        scored(tmp_path, "levir_cc", CAPTIONS, protocol="levircc_ids")
    with pytest.raises(InputError, match="allowed: words, raw"):
        scored(tmp_path, "levir_cc", CAPTIONS, protocol="cdvqa")


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_masks_decode_as_pycocotools_does(height, width, data):
    bits = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    mask = Mask.from_array(np.array(bits).reshape(height, width))
    assert np.array_equal(_mask(mask.to_coco(), {"id": 1}), mask.to_array())


@pytest.mark.parametrize("rle", [
    None, {}, {"size": [2, 2]}, {"size": [2, 2], "counts": [1]}, {"size": [2, 2], "counts": "zzzzzzzzz"}, {"size": [2, 2], "counts": "é"},
    {"size": [2, -2], "counts": [0]}, {"size": [2, 2], "counts": [-1, 5]}, {"size": ["2", 2], "counts": [4]},
])
def test_broken_masks_are_refused(rle):
    with pytest.raises(InputError, match="COCO RLE"):
        _mask(rle, {"id": 1})
