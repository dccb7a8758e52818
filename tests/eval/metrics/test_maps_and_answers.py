"""Maps, single boxes, masks, short answers, counts, cells, time and retrieval: parity, values by hand, strictness."""

import gzip
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geotempo.eval.metrics import boxes, change, counting, grounding, localisation, masks, retrieval, temporal, vqa
from geotempo.model.errors import InputError


@pytest.fixture(scope="module")
def golden(metrics_fixtures):
    with gzip.open(metrics_fixtures / "golden_synthetic.json.gz", "rt") as file:
        return json.load(file)


@pytest.fixture(scope="module")
def maps(golden):
    return [np.array(a) for a in golden["second_scd"]["preds"]], [np.array(a) for a in golden["second_scd"]["labels"]]



def test_second_is_the_official_code(golden, maps):
    scores = change.score(*maps, "second")
    assert scores["protocol"] == "second"
    for name, value in golden["second_scd"]["official"].items():
        assert scores[name] == pytest.approx(100 * value, abs=1e-6)


def test_levir_mci_is_the_official_code(golden, maps):
    said, known = ([np.minimum(array, 2) for array in arrays] for arrays in maps)
    scores, official = change.score(said, known, "levir_mci"), golden["levir_mci_seg"]["official"]
    for name in ("mIoU", "OA", "MPA", "FWIoU"):
        assert scores[name] == pytest.approx(100 * official[name], abs=1e-6)
    ious = change.class_ious(change.confusions(said, known, 3).sum(axis=0))
    assert ious.tolist() == pytest.approx([float(word) for word in official["IoU"].split()], abs=1e-6)


def test_xview2_is_the_official_code(golden, maps):
    said, known = ([np.minimum(array, 4) for array in arrays] for arrays in maps)
    scores, official = change.score(said, known, "xview2"), golden["xview2"]["official"]
    assert scores["score"] == pytest.approx(100 * official["score"], abs=1e-6)
    assert scores["localisation F1"] == pytest.approx(100 * official["lf1"], abs=1e-6)
    assert scores["damage F1"] == pytest.approx(100 * official["df1"], abs=1e-6)
    classes = [scores[f"F1 {name}"] for name in ("no damage", "minor damage", "major damage", "destroyed")]
    assert classes == pytest.approx([100 * value for value in official["df1s"]], abs=1e-6)


def test_referring_masks_are_rmsin_and_lisa(golden):
    case = golden["rrsisd"]
    said, known = ([np.array(mask, dtype=bool) for mask in case[name]] for name in ("preds", "gts"))
    scores = masks.score(said, known, "rmsin")
    assert {name: scores[name] for name in case["official"]} == pytest.approx(case["official"], abs=1e-6)
    lisa = masks.score(said, known, "lisa")
    assert lisa["gIoU"] == pytest.approx(case["lisa_style_gIoU"], abs=1e-6)
    assert lisa["cIoU"] == scores["oIoU"] == lisa["oIoU"]


def test_binary_change_is_of_the_change_class_alone():
    scores = change.score([np.array([[1, 1], [0, 0]])], [np.array([[1, 0], [1, 0]])])
    assert (scores["F1"], scores["precision"], scores["recall"]) == (50.0, 50.0, 50.0)
    assert scores["IoU"] == pytest.approx(100 / 3)


@pytest.mark.parametrize(("said", "known", "message"), [
    ([np.zeros((2, 2), int)], [], "1 maps and 0"), ([np.zeros((2, 2), int)], [np.zeros((2, 3), int)], "resample"),
    ([np.full((2, 2), 2)], [np.zeros((2, 2), int)], "allowed: 0 to 1"), ([np.full((2, 2), -1)], [np.zeros((2, 2), int)], "labels -1"),
])
def test_maps_that_do_not_fit_are_refused(said, known, message):
    with pytest.raises(InputError, match=message):
        change.score(said, known)


def test_an_empty_or_unreadable_mask_by_each_convention():
    empty, full = np.zeros((2, 2), bool), np.ones((2, 2), bool)
    assert masks.score([empty], [empty], "rmsin")["mIoU"] == 0.0
    assert masks.score([empty], [empty], "lisa")["gIoU"] == 100.0
    assert masks.score([None], [empty], "lisa")["gIoU"] == 100.0
    assert masks.score([None], [empty], "strict")["gIoU"] == 0.0
    scores = masks.score([full, None], [full, empty], "strict")
    assert (scores["oIoU"], scores["unreadable"]) == (50.0, 1)
    assert masks.score([full, empty], [full, full], "qag")["F1"] == pytest.approx(200 / 3)


def test_vrsbench_counts_border_pixels_and_forgets_the_unreadable_in_the_cumulative_iou():
    # The documented pair of 4 x 4 boxes: 1/3 by area, 0.429 with the border.
    first, second = (0, 0, 4, 4), (2, 0, 6, 4)
    assert grounding.score([first], [second], "dior_rsvg")["meanIoU"] == pytest.approx(100 / 3)
    assert grounding.score([first], [second], "vrsbench")["meanIoU"] == pytest.approx(42.857, abs=1e-3)
    scores = grounding.score(["{<0><0><4><4>|<90>}", "none"], [first, first], "vrsbench")
    assert (scores["Pr@0.5"], scores["meanIoU"], scores["cumIoU"], scores["unreadable"]) == (50.0, 50.0, 100.0, 1)
    assert grounding.score(["[0, 0, 4, 4]", "none"], [first, first], "dior_rsvg")["cumIoU"] == 50.0


def test_floats_break_vrsbench_and_not_the_others():
    assert grounding.read_box("[0.5, 1.5, 4.5, 5.5]", "vrsbench") == (0, 5, 1, 5)
    assert grounding.read_box("[0.5, 1.5, 4.5, 5.5]", "strict") == (0.5, 1.5, 4.5, 5.5)
    assert grounding.read_box("two boxes: [1,2,3,4] [5,6,7,8]", "strict") is None
    assert grounding.read_box("[4, 4, 1, 1]", "strict") is None
    assert grounding.read_box("nothing", "refcoco_lmms") == (0.0, 0.0, 0.0, 0.0)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(-5, 12), min_size=4, max_size=4), st.sampled_from(sorted(grounding.PROTOCOLS)))
def test_any_box_has_an_iou_between_0_and_1(numbers, protocol):
    rows = grounding.statistics([tuple(numbers)], [(0, 0, 6, 6)], protocol)
    assert 0 <= rows[0, -4] <= 1 and rows[0, -2] <= rows[0, -1]


def test_lists_of_boxes_pooled_and_by_sample():
    known = [boxes.Detection(1, (0, 0, 4, 4))]
    scores = boxes.score([known, [*known, *known, *known]], [known, known])
    assert scores["F1@0.5"] == pytest.approx(100 * 4 / 6) and scores["mean F1@0.5"] == pytest.approx(75.0)
    assert boxes.score([known, None], [known, []])["mean F1@0.5"] == 50.0


def test_answers_to_cdvqa():
    truth = ["yes", "0_to_10", "NVG_surface", "trees", "0"]
    said = ["Yes, they did.", "0-10%", "Non-vegetated ground surface.", "trees or buildings", "0 %"]
    scores = vqa.score(said, truth, ["a", "b", "c", "c", "b"], "cdvqa")
    assert (scores["OA"], scores["unparsed"]) == (80.0, 1)
    assert scores["AA"] == pytest.approx(100 * (1 + 1 + 0.5) / 3)
    assert scores["types"]["c"] == {"accuracy": 50.0, "n": 2}
    with pytest.raises(InputError, match="not in the vocabulary"):
        vqa.score(["yes"], ["maybe"], protocol="cdvqa")


def test_vista_merges_the_ratio_types_and_divides_by_eight():
    scores = vqa.score(["yes", "0_to_10"], ["yes", "10_to_20"], ["change_or_not", "change_ratio_types"], "vista")
    assert scores["types"].keys() == {"change_or_not", "change_ratio"}
    assert scores["AA"] == pytest.approx(100 / 1.0001 / 8)


def test_short_answers_by_protocol():
    assert vqa.hits(["rural.", "0_to_10", ""], ["Rural", "0 to 10", "x"]) == [True, True, None]
    assert vqa.hits(["0_to_10", "0to10", " yes"], ["0to10", "0_to_10", "yes"], "teochat") == [True, True, False]
    assert vqa.hits(["grass"], [["meadow", "grass"]]) == [True]


def test_every_answer_of_the_vocabulary_reads_as_itself():
    assert [vqa.read_label(label) for label in vqa.LABELS] == list(vqa.LABELS) and len(vqa.LABELS) == 23


@pytest.mark.parametrize(("text", "option"), [
    ("B", "B"), ("(b)", "B"), ("B. a harbour", "B"), ("The answer is C.", "C"), ("A", "A"), ("B or C", None), ("a harbour", None),
    ("A harbour is seen, so D", "D"), ("", None),
])
def test_options_of_a_question(text, option):
    assert vqa.read_option(text) == option


def test_an_unreadable_yes_or_no_is_wrong_either_way():
    scores = vqa.yes_no(["yes", "no", "hm", "hm"], [True, False, True, False])
    assert (scores["accuracy"], scores["precision"], scores["recall"], scores["unparsed"]) == (50.0, 50.0, 50.0, 2)


def test_counts_by_protocol():
    said, truth = ["about 7 houses", "12", "many", "none at all"], [5, 2, 4, 0]
    plain = counting.score(said, truth)
    assert (plain["MAE"], plain["unreadable"]) == ((2 + 10 + 4 + 1) / 4, 2)
    assert counting.score(said, truth, "strict")["MAE"] == (2 + 2 + 4 + 1) / 4
    assert counting.score(["5 to 6"], [5], "changechat")["MAE"] == 0.0
    assert plain["RMSE"] == pytest.approx(((4 + 100 + 16 + 1) / 4) ** 0.5)


@pytest.mark.parametrize(("text", "counts"), [
    ("there are 2 new roads and 13 new buildings", (2, 13)), ("no new roads or buildings were built", (0, 0)),
    ("There are no new roads and 4 new buildings", (0, 4)), ("roads", None),
])
def test_counts_of_changechat(text, counts):
    found = counting.read_change_counts(text)
    # The notebook takes the text before each "new", so the number of buildings follows the first one.
    assert found == counts


def test_cells_of_changechat():
    assert localisation.read_cells("roads [top-left, Center center] buildings []", "roads") == {"top-left", "center-center"}
    assert localisation.read_cells("roads [] buildings []", "buildings") == frozenset()
    assert localisation.read_cells("roads [north]", "roads") is None
    scores = localisation.score([["top-left"], [], None], [["top-left", "top-right"], [], ["top-left"]])
    assert (scores["precision"], scores["recall"], scores["unreadable"]) == (100.0, pytest.approx(100 / 3), 1)
    assert scores["subset accuracy"] == pytest.approx(100 / 3) and scores["Jaccard"] == pytest.approx(100 * 0.5 / 3)
    assert scores["Hamming"] == pytest.approx(100 * 2 / 27)
    assert localisation.score([None], [[]], "strict")["subset accuracy"] == 0.0


def test_time_by_sets_and_by_text():
    said, truth = ["Images 4-5", "Image 4", "later", "No image"], ["Image 4, Image 5", "Image 4, Image 5", "Image 1", "No image"]
    scores = temporal.score(said, truth)
    assert (scores["accuracy"], scores["unreadable"]) == (50.0, 1)
    assert scores["set-F1"] == pytest.approx(100 * (1 + 2 / 3 + 0 + 1) / 4)
    assert temporal.score(said, truth, protocol="teochat")["accuracy"] == 25.0
    assert temporal.score(["Image 9"], ["Image 1"], [2])["unreadable"] == 1


def test_date_intervals_keep_their_precision():
    said = ["between 2019-05-13 and 2020-01", "from 2019 to 2020-01", "2020-01 to 2019-05", "in May"]
    truth = [("2019-05", "2020-01")] * 4
    scores = temporal.interval_accuracy(said, truth)
    assert (scores["date-interval accuracy"], scores["unreadable"]) == (50.0, 1)
    assert temporal.read_interval("2019-13-01") is None


def test_retrieval_by_hand_and_ties_against_the_model():
    similarity = np.array([[0.9, 0.1, 0.0], [0.2, 0.1, 0.5], [0.3, 0.3, 0.3]])
    scores = retrieval.clip_scores(similarity)
    assert scores["text R@1"] == pytest.approx(100 / 3)
    assert scores["text R@5"] == scores["pair R@5"] == 100.0
    assert retrieval.clip_scores(np.zeros((20, 20)))["mR"] == 0.0


def test_rsicrc_counts_every_unchanged_pair_and_its_honest_variant_does_not():
    similarity = np.array([[0.1, 0.9, 0.0, 0.0], [0.9, 0.1, 0.0, 0.0], [0.0, 0.0, 0.9, 0.1], [0.0, 0.0, 0.9, 0.1]])
    flags, texts = [False, False, True, True], ["same", "no change", "a road", "a house"]
    lenient = retrieval.rsicrc_scores(similarity, flags, texts, changed_only=False)
    assert lenient["P@1"] == 100.0 and lenient["protocol"] == "rsicrc"
    honest = retrieval.rsicrc_scores(similarity, flags, texts)
    assert (honest["P@1"], honest["MRR@3"], honest["n"], honest["protocol"]) == (50.0, 75.0, 2, "rsicrc_sub")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=8))
def test_summed_confusions_give_scores_in_range(pairs):
    said, known = [np.array([a]) for a, _ in pairs], [np.array([b]) for _, b in pairs]
    for protocol, (classes, scores) in change.PROTOCOLS.items():
        sums = change.confusions([a % classes for a in said], [b % classes for b in known], classes).sum(axis=0)
        for name, value in scores(sums).items():
            assert (-np.e if name == "SeK" else 0.0) - 1e-9 <= float(value) <= 1.0 + 1e-5, (protocol, name)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=20), st.integers(0, 20))
def test_no_number_is_worse_than_silence_in_the_strict_protocol(text, known):
    assert counting.errors([text], [known], "strict")[0] <= counting.errors([None], [known], "strict")[0]


def test_no_metric_needs_torch():
    names = "boxes change counting grounding localisation masks retrieval teochat temporal vqa"
    code = f"import sys, importlib; [importlib.import_module('geotempo.eval.metrics.' + n) for n in '{names}'.split()]; " \
           "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
