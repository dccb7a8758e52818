"""TEOChat's suite: equal to the official code on its own cases, and strict where that is lenient."""

import gzip
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geotempo.eval.metrics import teochat
from geotempo.eval.metrics.teochat import KEYWORDS, RULES, read_boxes, read_label, score, table
from geotempo.eval.metrics.teochat_compat import (
    OfficialCrash,
    box_rings,
    change_detection_classification,
    classification_metrics,
    evaluate_masks,
    fill,
)
from geotempo.model.errors import InputError

SQUARE = "POLYGON ((25.6 25.6, 25.6 76.8, 76.8 76.8, 76.8 25.6, 25.6 25.6))"


@pytest.fixture(scope="module")
def official(metrics_fixtures):
    return json.loads((metrics_fixtures.parent / "teochat" / "metrics.json").read_text())


@pytest.fixture(scope="module")
def golden(metrics_fixtures):
    with gzip.open(metrics_fixtures / "golden_synthetic.json.gz", "rt") as file:
        return json.load(file)


def output(response, truth, task="t", polygon=SQUARE):
    return {"task": task, "response": response, "ground_truth": truth, "polygon": polygon}


def compat(outputs, dataset, task):
    return score(outputs, dataset)["tasks"][task]["teochat_compat"] / 100


def test_accuracies_are_the_official_ones(official, golden):
    results = official["results"]
    assert classification_metrics(official["cls"]) == results["classification_metrics"]
    partial = [{"task": "q", "response": "it is at the top left", "ground_truth": "Top left."}]
    assert classification_metrics(partial, official["keywords"]) == results["keywords_partial"]
    assert tuple(official["keywords"]) == KEYWORDS
    assert classification_metrics(official["tre"]) == results["qfabric_tre"]
    case = golden["teochat_qa_keywords"]
    assert classification_metrics(case["inputs"], KEYWORDS) == pytest.approx(case["official"], abs=1e-12)
    assert classification_metrics(case["inputs"]) == pytest.approx(case["official_no_keywords"], abs=1e-12)
    assert classification_metrics([output("no", "yes")]) == golden["teochat_zero_correct_task_vanishes"]


def test_pixel_scores_are_the_official_ones(official, golden):
    results = official["results"]
    assert evaluate_masks(official["det"]) == pytest.approx(results["evaluate_masks_all"], abs=1e-12)
    task = "change_detection_detection"
    assert compat(official["det"], "s2_det", task) == pytest.approx(results["s2_det"][f"{task}_f1"], abs=1e-12)
    case = golden["teochat_localization"]
    assert evaluate_masks(case["inputs"]) == pytest.approx(case["official"], abs=1e-12)
    assert int(fill(box_rings("[10, 10, 30, 30]")).sum()) == results["mask_pixels_[10,10,30,30]"]
    whole = [output("[10, 10, 30, 30]", "[10, 10, 30, 30]")]
    assert evaluate_masks(whole)["f1"] == results["xbd_loc_single_polygon_str"]["change_detection_localization_f1"]
    assert evaluate_masks([output("[30, 30, 10, 10]", "[10, 10, 30, 30]")])["f1"] == results["reversed_box"]


def test_the_official_crash_and_the_official_nan_are_kept(official, golden):
    broken = [output("[10, 10, 30]", "[10, 10, 30, 30]", "change_detection_localization")]
    with pytest.raises(OfficialCrash, match="IndexError"):
        evaluate_masks(broken)
    assert "IndexError" in official["results"]["bad_box_3_values"] and "IndexError" in golden["teochat_three_number_box"]
    text = [output("[bbox]", "[10, 10, 30, 30]", "change_detection_localization")]
    assert math.isnan(evaluate_masks(text)["f1"]) and math.isnan(official["results"]["bad_box_text"])
    for outputs, note in ((broken, "IndexError"), (text, "NaN")):
        entry = score(outputs, "xbd_loc")["tasks"]["change_detection_localization"]
        assert (entry["teochat_compat"], entry["strict"], entry["unreadable"]) == (None, 0.0, 1) and note in entry["note"]


def test_weighted_f1_is_the_official_one(official, golden):
    results = official["results"]
    task = "change_detection_classification"
    damage = change_detection_classification(official["dmg"], teochat.DAMAGE, ("unclassified",))
    assert damage == pytest.approx(results["change_detection_classification_raw"], abs=1e-12)
    assert compat(official["dmg"], "xbd_dmg_cls", task) == pytest.approx(results["xbd_dmg_cls"][f"{task}_f1"], abs=1e-12)
    case = golden["teochat_damage_cls"]
    found = change_detection_classification(case["inputs"], teochat.DAMAGE, ("unclassified",))
    assert found == pytest.approx(case["official"], abs=1e-12)
    task = "region_based_question_answering"
    assert compat(official["qfabric_rqa2"], "qfabric_rqa2", task) == pytest.approx(results["qfabric_rqa2"][f"{task}_f1"])


def test_readable_answers_score_the_same_in_both_modes(official):
    for name, dataset in (("det", "s2_det"), ("qfabric_rqa2", "qfabric_rqa2"), ("tre", "qfabric_tre_rtqa")):
        for entry in score(official[name], dataset)["tasks"].values():
            if entry["n"]:
                assert entry["strict"] == pytest.approx(entry["teochat_compat"], abs=1e-9)
                assert entry["unreadable"] == 0


def test_no_task_vanishes_in_strict_mode():
    tasks = score([output("No", "Yes", "c")], "ucm")["tasks"]
    assert (tasks["c"]["teochat_compat"], tasks["c"]["strict"]) == (None, 0.0) and "missing" in tasks["c"]["note"]
    tasks = score([output("Image 1", "Image 1", "temporal_referring_expression")], "qfabric_tre_rtqa")["tasks"]
    assert tasks["region_based_temporal_question_answering"]["strict"] == 0.0
    assert tasks["region_based_temporal_question_answering"]["n"] == 0


def test_an_unreadable_answer_costs_in_strict_mode_only():
    right = [output("Destroyed", "destroyed", "change_detection_classification"),
             output("No damage", "no damage", "change_detection_classification")]
    mumbled = [right[0], {**right[1], "response": "hard to say"}]
    task = "change_detection_classification"
    assert compat(mumbled, "xbd_dmg_cls", task) == 0.5
    # Destroyed: 1 hit and 1 false alarm, F1 2/3; no damage: missed. Equal areas, so their mean.
    assert score(mumbled, "xbd_dmg_cls")["tasks"][task]["strict"] == pytest.approx(100 * (2 / 3) / 2)
    assert score(right, "xbd_dmg_cls")["tasks"][task]["strict"] == 100.0


def test_every_pixel_is_wrong_for_an_unreadable_list_of_boxes():
    entry = teochat.strict([output("10 10 30 30", "[10, 10, 30, 30]")], teochat.Rule("f1"))
    hits, extra, missed = entry.rows[0].tolist()
    assert (hits, missed, extra + missed, entry.unreadable) == (0, 2704, 256 * 256, 1)


@pytest.mark.parametrize(("text", "boxes"), [
    ("[10, 10, 30, 30]", 1), ("[10, 10, 30, 30], [50, 50, 60, 60].", 2), ("[]", 0), ("There are no changed buildings.", 0),
    ("[10, 10, 30, 30], [50, 5", 1), ("[10, 10, 30], [50, 50, 60, 60]", None), ("[bbox]", None), ("many houses", None), ("", None),
    ("no [", None),
])
def test_boxes_of_strict_mode(text, boxes):
    found = read_boxes(text)
    assert (None if found is None else len(found)) == boxes


@pytest.mark.parametrize(("text", "label"), [
    ("Center left.", "center left"), ("It is at the center", "center"), ("nothing", None), ("no", "no"), ("yes and no", None),
    ("It is not at the center", None), ("top left or top right", None),
])
def test_labels_are_read_as_whole_words(text, label):
    assert read_label(text, KEYWORDS) == label


def test_images_are_compared_as_sets_in_strict_mode():
    outputs = [output("images 5 and 4", "Image 4, Image 5", "temporal_referring_expression")]
    entry = score(outputs, "qfabric_tre_rtqa")["tasks"]["temporal_referring_expression"]
    assert (entry["teochat_compat"], entry["strict"]) == (None, 100.0)


def test_both_modes_stand_side_by_side(official):
    lines = table(score(official["dmg"], "xbd_dmg_cls")).splitlines()
    assert "teochat_compat | strict" in lines[0]
    assert lines[2].split()[:5] == ["change_detection_classification", "inv_w_f1", "79.25", "50.19", "5"]


def test_the_suite_has_its_17_splits():
    assert len(RULES) == 17


@pytest.mark.parametrize(("outputs", "dataset", "message"), [
    ([], "xbd", "allowed: fmow_high_res"), ([{"task": "t"}], "ucm", "output 0 has no text 'response'"),
    ([output("a", "b", "other")], "s2_rqa", "which s2_rqa does not have"),
    ([output("[1, 1, 2, 2]", "[1, 1, 2, 2]", "change_detection_detection", "POLYGON")], "s2_det", "no readable polygon"),
    ([output("a", "b", "change_detection_classification")], "xbd_dmg_cls", "allowed: no damage"),
])
def test_broken_data_is_named(outputs, dataset, message):
    with pytest.raises(InputError, match=message):
        score(outputs, dataset)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(teochat.DAMAGE), st.sampled_from([*teochat.DAMAGE, "gone"])), min_size=1, max_size=6),
       st.integers(0, 5))
def test_becoming_unreadable_never_raises_a_weighted_f1(pairs, index):
    outputs = [output(said, truth) for truth, said in pairs]
    worse = [{**each, "response": "gone"} if i == index % len(outputs) else each for i, each in enumerate(outputs)]
    for metric in ("w_f1", "inv_w_f1"):
        rule = teochat.Rule(metric, teochat.DAMAGE)
        assert teochat.strict(worse, rule).score <= teochat.strict(outputs, rule).score + 1e-12
