"""Random and mutated answers through every parser and scorer.

No exception, no score out of its range, and no mutation that makes an answer unreadable raises a strict score. A small
number by default. The whole of it, in 20 parts for as many processes as there are cores (about 10 minutes on one core;
another GEOTEMPO_FUZZ_SEED gives other answers):

    GEOTEMPO_FUZZ=100000 pytest -n auto tests/eval/metrics/test_fuzz_metrics.py
"""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from geotempo.eval.metrics import (
    caption,
    counting,
    grounding,
    localisation,
    masks,
    meteor_words,
    temporal,
    teochat,
    text,
    vqa,
)
from geotempo.eval.metrics.bootstrap import ratio_from_sums
from geotempo.eval.metrics.boxes import f1_from_sums
from geotempo.eval.reading import read
from geotempo.eval.scorers import METRICS, Case, _caption
from geotempo.model import answer
from geotempo.model.records import Frame
from tests.eval.conftest import CAPTIONS, hand_made

COUNT = int(os.environ.get("GEOTEMPO_FUZZ", "250"))
PARTS = 20 if COUNT >= 10_000 else 1
SEED = int(os.environ.get("GEOTEMPO_FUZZ_SEED", "0"))
BATCH = 200
SQUARE = ["POLYGON ((25.6 25.6, 25.6 76.8, 76.8 76.8, 76.8 25.6, 25.6 25.6))", "POLYGON ((128 128, 128 180, 200 180, 128 128))"]
GOOD = [
    "[10, 10, 30, 30]", "[10, 10, 30, 30], [50, 50, 70, 80]", "[50, 50, 80, 70], [0, 0, 5, 5], [90, 90, 100, 100]", "[]",
    "There are no changed buildings.", '[{"image":2,"bbox_2d":[50,0,170,200],"label":"new building"}]', "{<10><10><30><30>}",
    '[{"image":1,"bbox_2d":[10,10,90,110],"label":"house"},{"image":2,"bbox_2d":[0,0,999,999]}]', *teochat.DAMAGE,
    *teochat.KEYWORDS, *vqa.LABELS, "Yes, they did.", "0-10%", "low vegetation", "Image 4, Image 5", "Image 1", "images 1 and 2",
    "No image", "7", "0", "about 12 houses", "there are 2 new roads and 13 new buildings", "roads [top-left] buildings []",
    "between 2019-05 and 2020-01-31", "2019", *CAPTIONS, *[text.capitalize() + "." for text in CAPTIONS],
    f'{CAPTIONS[1]}\n[{{"image":2,"bbox_2d":[50,100,170,300],"label":"new building"}}]', "nothing has changed", "urban",
]
ODD = ["\x00", "\ud800", "é", "￿", "𝟙", "٣", " ", "\n", "\t", '"', "'", "\\", "{", "}", "[", "]", ",", "-", ".", "%", "|||", "<image>",
       "1e999", "NaN", "inf", "-1", "99999999999999999999", "0x1F", "½", "no", "not", "Image 0", "\r", "…", "’", "_to_", "2019-02-31"]
FRAMES = [Frame.plain(100, 100), Frame.plain(100, 100)]


def noise(rng: random.Random) -> str:
    """Text of odd pieces, letters and digits."""
    pieces = [*ODD, *"abcxyz0123456789 []{},.:"]
    return "".join(rng.choice(pieces) for _ in range(rng.randint(0, 40)))


def digits_changed(said: str, rng: random.Random) -> str:
    return said.translate(str.maketrans("0123456789", "".join(rng.choices("0123456789-.x", k=10))))


MUTATIONS: list[Callable[[str, int, random.Random], str]] = [
    lambda said, place, rng: said[:place],
    lambda said, place, rng: said[:place] + rng.choice(ODD) + said[place:],
    lambda said, place, rng: said[:place] + said[place + rng.randint(1, 4) :],
    lambda said, place, rng: noise(rng),
    lambda said, place, rng: said * rng.randint(2, 4),
    lambda said, place, rng: f"I think it is {said}, or {rng.choice(GOOD)}",
    lambda said, place, rng: "".join(rng.sample(said, len(said))),
    lambda said, place, rng: digits_changed(said, rng),
    lambda said, place, rng: said.replace(rng.choice("[],{} "), rng.choice(["", "  ", ";", "("])),
    lambda said, place, rng: said.swapcase() + rng.choice(ODD),
]


def mutated(said: str, rng: random.Random) -> str:
    """One to three changes to a text."""
    for _ in range(rng.randint(1, 3)):
        said = rng.choice(MUTATIONS)(said, rng.randint(0, len(said)), rng)[:400]
    return said


@dataclass(frozen=True)
class Strict:
    """A strict score.

    Attributes:
        rows: A text and a number that picks the truth, to its statistics and whether it could be read.
        aggregate: Sums to scores.
        limit: Highest score, 1 for fractions.
        sign: -1 where less is better.
    """

    rows: Callable[[str, int], tuple[np.ndarray, bool]]
    aggregate: Callable[[np.ndarray], np.ndarray]
    limit: float = 1.0
    sign: int = 1


def of_teochat(rule: teochat.Rule, truths: list[str]) -> Strict:
    def rows(said: str, pick: int) -> tuple[np.ndarray, bool]:
        truth = truths[pick % len(truths)]
        result = teochat.strict([{"task": "t", "response": said, "ground_truth": truth, "polygon": SQUARE}], rule)
        return result.rows[0], not result.unreadable

    aggregates = {"accuracy": ratio_from_sums, "f1": f1_from_sums, "w_f1": teochat.weighted_f1, "inv_w_f1": teochat.inverse_weighted_f1}
    return Strict(rows, aggregates[rule.metric])


def of_result(score: Callable[[str, int], tuple[float, bool]], limit: float = 1.0, sign: int = 1) -> Strict:
    def rows(said: str, pick: int) -> tuple[np.ndarray, bool]:
        value, readable = score(said, pick)
        return np.array([value, 1.0]), readable

    return Strict(rows, ratio_from_sums, limit, sign)


def closed(said: str, pick: int) -> tuple[float, bool]:
    hit = vqa.hits([said], [vqa.LABELS[pick % 23]], "cdvqa")[0]
    return float(bool(hit)), hit is not None


def short(said: str, pick: int) -> tuple[float, bool]:
    hit = vqa.hits([said], [["rural", "7", "0_to_10"][pick % 3]])[0]
    return float(bool(hit)), hit is not None


def counted(said: str, pick: int) -> tuple[float, bool]:
    return float(counting.errors([said], [pick % 13], "strict")[0]), counting.read_count(said) is not None


def images(key: str) -> Callable[[str, int], tuple[float, bool]]:
    def score(said: str, pick: int) -> tuple[float, bool]:
        result = temporal.score([said], [["Image 4, Image 5", "No image", "Image 1"][pick % 3]], [8])
        return result[key] / 100, not result["unreadable"]

    return score


def dates(said: str, pick: int) -> tuple[float, bool]:
    result = temporal.interval_accuracy([said], [[("2019-05", "2020-01"), ("2019", "2019")][pick % 2]])
    return result["date-interval accuracy"] / 100, not result["unreadable"]


def cells(key: str) -> Callable[[str, int], tuple[float, bool]]:
    def score(said: str, pick: int) -> tuple[float, bool]:
        found = localisation.read_cells(said, "roads")
        return localisation.score([found], [[["top-left"], []][pick % 2]], "strict")[key] / 100, found is not None

    return score


def one_box(column: int) -> Callable[[str, int], tuple[float, bool]]:
    def score(said: str, pick: int) -> tuple[float, bool]:
        row = grounding.statistics([said], [[(10, 10, 30, 30), (0, 0, 99, 99)][pick % 2]], "strict")[0]
        return float(row[column]), grounding.read_box(said) is not None

    return score


def filled(said: str, pick: int) -> tuple[np.ndarray, bool]:
    boxes = teochat.read_boxes(said)
    truth = teochat.fill([[(20, 20), (20, 80), (80, 80), (80, 20)]] if pick % 2 else []).astype(bool)
    mask = None if boxes is None else teochat.fill([[(a, b), (a, d), (c, d), (c, b)] for a, b, c, d in boxes]).astype(bool)
    return masks.statistics([mask], [truth], "strict")[0], boxes is not None


STRICT = {
    "teochat accuracy": of_teochat(teochat.Rule("accuracy"), ["Yes", "flooded road", "0_to_10", "7"]),
    "teochat keywords": of_teochat(teochat.Rule("accuracy", teochat.KEYWORDS), ["Yes.", "No", "Center left.", "A flood."]),
    "teochat images": of_teochat(teochat.Rule("accuracy", images=True), ["Image 4, Image 5", "Image 1"]),
    "teochat pixel F1": of_teochat(teochat.Rule("f1"), ["[10, 10, 30, 30]", "There are none."]),
    "teochat w_f1": of_teochat(teochat.Rule("w_f1", teochat.DAMAGE), list(teochat.DAMAGE)),
    "teochat inv_w_f1": of_teochat(teochat.Rule("inv_w_f1", teochat.DAMAGE), list(teochat.DAMAGE)),
    "cdvqa": of_result(closed), "short answers": of_result(short), "count error": of_result(counted, 12.0, -1),
    "images, accuracy": of_result(images("accuracy")), "images, set-F1": of_result(images("set-F1")),
    "date interval": of_result(dates), "cells, Jaccard": of_result(cells("Jaccard")),
    "cells, subset": of_result(cells("subset accuracy")), "box, Pr@0.5": of_result(one_box(0)), "box, IoU": of_result(one_box(-4)),
    "masks, gIoU": Strict(filled, lambda sums: ratio_from_sums(sums[..., -4:-2])),
    "masks, oIoU": Strict(filled, lambda sums: masks.overall_iou(sums[..., -2:])),
}
MEANS = ("caption_exact_first", "caption_exact_any", "rouge_l", "cider_d", "change_recall", "no_change_recall")
STRICT_METRICS = ("accuracy", "images_accuracy", "images_set_f1", "box_f1_mean", "miou", "giou", "pr50", "pr90", *MEANS)
RANGES = {"cider_d": 10.0, "s_m": 3.25, "count_mae": float("inf")}


def through_parsers(said: str) -> None:
    """Every function that reads free text; none may raise."""
    for mode in ("geotempo", "teochat"):
        answer.parse(said, FRAMES, mode=mode, finish_reason="length" if len(said) % 7 == 0 else "stop")
    for parse in (answer.parse_number, answer.parse_yes_no, text.normalise_caption, text.normalise_short, vqa.read_label,
                  teochat.read_boxes, counting.read_change_counts, temporal.read_interval, caption.says_no_change,
                  meteor_words.normalise):
        parse(said)
    answer.parse_images(said, 8)
    teochat.read_label(said, teochat.KEYWORDS)
    localisation.read_cells(said, "buildings")
    for protocol in grounding.PROTOCOLS:
        grounding.read_box(said, protocol)
    for protocol in counting.PROTOCOLS:
        counting.read_count(said, protocol)


@cache
def unchanged(name: str, original: str, pick: int) -> tuple[np.ndarray, bool]:
    """Statistics of one of the few good answers."""
    return STRICT[name].rows(original, pick)


def check_strict(pairs: list[tuple[str, str]], rng: random.Random) -> None:
    """Every strict score over a batch: in range, and not raised by an answer that became unreadable."""
    picks = [rng.randrange(12) for _ in pairs]
    for name, strict in STRICT.items():
        before = [unchanged(name, original, pick) for (original, _), pick in zip(pairs, picks, strict=True)]
        after = [strict.rows(changed, pick) for (_, changed), pick in zip(pairs, picks, strict=True)]
        total = np.sum([row for row, _ in before], axis=0)
        score = float(strict.aggregate(total))
        assert 0.0 <= score <= strict.limit, name
        for (old, _), (new, readable), pair in zip(before, after, pairs, strict=True):
            moved = float(strict.aggregate(total - old + new))
            assert 0.0 <= moved <= strict.limit, (name, pair)
            if not readable:
                assert strict.sign * moved <= strict.sign * score + 1e-12, (name, pair)


def check_metrics(pairs: list[tuple[str, str]], rng: random.Random, samples: list) -> None:
    """The metrics of the runner over a batch, as it calls them."""
    chosen = [rng.choice(samples) for _ in pairs]
    before, after = ([Case(sample, read(sample, pair[side])) for sample, pair in zip(chosen, pairs, strict=True)] for side in (0, 1))
    for name, metric in METRICS.items():
        which = [i for i, sample in enumerate(chosen) if metric.applies(sample)]
        if name == "meteor_1_5" or not which:  # that one starts Java
            continue
        old, new = (metric.statistics([cases[i] for i in which]) for cases in (before, after))
        for rows in (old, new):
            assert 0.0 <= float(metric.aggregate(rows.sum(axis=0))) <= RANGES.get(name, 1.0) + 1e-9, name
        if name in STRICT_METRICS:
            for i, a, b in zip(which, metric.aggregate(old), metric.aggregate(new), strict=True):
                unreadable = not _caption(after[i]) if name in MEANS else after[i].reading.value is None
                assert not unreadable or b <= a + 1e-12, (name, pairs[i])


def check_other_protocols(pairs: list[tuple[str, str]], rng: random.Random) -> None:
    """Scores that are not strict: only their range, and no exception."""
    said = [changed for _, changed in pairs]
    known = [rng.sample(CAPTIONS, 2) for _ in said]
    for protocol in ("words", "raw", "ccexpert"):
        scores = caption.score(said, known, protocol)
        assert all(0 <= value <= (1000 if name == "CIDEr-D" else 325 if name == "S*m" else 100 + 1e-6)
                   for name, value in scores.items() if isinstance(value, float))
    for protocol in grounding.PROTOCOLS:
        scores = grounding.score(said, [(10, 10, 30, 30)] * len(said), protocol)
        assert all(0 <= value <= 100 + 1e-9 for value in scores.values() if isinstance(value, float)), protocol
    for protocol in counting.PROTOCOLS:
        assert counting.score(said, [3] * len(said), protocol)["MAE"] >= 0
    for protocol in vqa.PROTOCOLS:
        truth = "B" if protocol == "mcq" else "yes"
        scores = vqa.score(said, [truth] * len(said), ["change_or_not"] * len(said), protocol)
        assert 0 <= scores["OA"] <= 100 and 0 <= scores["AA"] <= 100
    assert 0 <= temporal.score(said, ["Image 1"] * len(said), protocol="teochat")["accuracy"] <= 100
    for start in range(0, len(said), 10):
        check_teochat(said[start : start + 10])


def check_teochat(said: list[str]) -> None:
    """Both modes of TEOChat's suite side by side, also where the official code stops."""
    for split, task, truth in (("xbd_loc", "change_detection_localization", "[10, 10, 30, 30]"),
                               ("xbd_dmg_cls", "change_detection_classification", "Destroyed"),
                               ("qfabric_tre_rtqa", "temporal_referring_expression", "Image 4, Image 5"),
                               ("xbd_sre_qa_rqa", "question_answering", "Yes")):
        outputs = [{"task": task, "response": each, "ground_truth": truth, "polygon": SQUARE} for each in said]
        entry = teochat.score(outputs, split)["tasks"][task]
        assert 0 <= entry["strict"] <= 100
        assert entry["teochat_compat"] is None or 0 <= entry["teochat_compat"] <= 100 + 1e-9


@pytest.mark.timeout(0)
@pytest.mark.parametrize("part", range(PARTS))
def test_any_answer_is_read_and_scored(part):
    rng, samples, count = random.Random(PARTS * SEED + part), hand_made(), -(-COUNT // PARTS)
    for start in range(0, count, BATCH):
        pairs = []
        for _ in range(min(BATCH, count - start)):
            original = rng.choice(GOOD)
            pairs.append((original, mutated(original, rng) if rng.random() < 0.8 else noise(rng)))
        for original, changed in pairs:
            through_parsers(original)
            through_parsers(changed)
        check_strict(pairs, rng)
        check_metrics(pairs, rng, samples)
        check_other_protocols(pairs, rng)
