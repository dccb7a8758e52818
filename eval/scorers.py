"""The metrics by the names that task files use.

Every metric is a function of sums: each sample gives a row of sufficient statistics, the rows are added, and the sum
gives the score. So one pass over the samples gives the score and its bootstrap interval. A metric applies to the
samples whose *true* answer has what it needs; what the model answered never decides who is counted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from geotempo.data_builders.sample import Sample
from geotempo.eval.metrics.bleu import FloatArray, bleu_from_sums, bleu_statistics
from geotempo.eval.metrics.bootstrap import ratio_from_sums
from geotempo.eval.metrics.boxes import Detection, f1_from_sums
from geotempo.eval.metrics.boxes import statistics as box_statistics
from geotempo.eval.metrics.caption import says_no_change
from geotempo.eval.metrics.ciderd import cider_d
from geotempo.eval.metrics.masks import THRESHOLDS, mask_counts, overall_iou, sample_iou
from geotempo.eval.metrics.meteor import meteor_from_sums, meteor_statistics
from geotempo.eval.metrics.meteor_jar import jar_statistics
from geotempo.eval.metrics.rouge import rouge_l
from geotempo.eval.metrics.temporal import set_f1
from geotempo.eval.metrics.text import absolute_error, caption_match, normalise_caption, normalise_short, short_match
from geotempo.eval.reading import (
    Kind,
    Reading,
    frames_of,
    hidden_regions,
    kind_of,
    prose_of,
    references,
    true_regions,
    true_value,
)
from geotempo.model.geometry import BoolArray, Mask, bounds, rasterize
from geotempo.model.records import Region

BOX_THRESHOLD = 0.5


@dataclass(frozen=True)
class Case:
    """An answer beside the truth.

    Attributes:
        sample: The sample whose answer is the right one.
        reading: What the model answered.
        masks: Masks of the answered regions, in their order; None where the regions' own geometry is the mask.
    """

    sample: Sample
    reading: Reading
    masks: tuple[Mask, ...] | None = None

    @cached_property
    def pixels(self) -> tuple[int, int]:
        """Intersection and union with the truth in pixels; several metrics ask for them."""
        return pixel_counts(self)


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        title: For the report.
        applies: Whether a sample is counted, from its true answer alone.
        statistics: Cases to rows of sufficient statistics, array (n, k).
        aggregate: Sums (..., k) to scores (...).
        scale: Factor of the printed value; 100 for scores, 1 for errors in objects.
        frozen: True where the statistics depend on the whole reference set, which the interval takes as given.
    """

    title: str
    applies: Callable[[Sample], bool]
    statistics: Callable[[Sequence[Case]], FloatArray]
    aggregate: Callable[[FloatArray], FloatArray] = ratio_from_sums
    scale: float = 100.0
    frozen: bool = False


def _mean(score: Callable[[Case], float]) -> Callable[[Sequence[Case]], FloatArray]:
    """Statistics of a mean: the score of each case, and 1."""
    return lambda cases: np.array([[score(case), 1.0] for case in cases], dtype=np.float64).reshape(-1, 2)


def _caption(case: Case) -> str:
    """The answered caption; empty where the answer is unreadable, which matches nothing."""
    if case.reading.value is None and case.reading.kind is Kind.TEXT:
        return ""
    return case.reading.answer.prose


def _words(cases: Sequence[Case]) -> tuple[list[str], list[list[str]]]:
    """Captions and references under the protocol `words`."""
    return ([normalise_caption(_caption(case)) for case in cases],
            [[normalise_caption(text) for text in references(case.sample)] for case in cases])


def _bleu(cases: Sequence[Case]) -> FloatArray:
    return bleu_statistics(*_words(cases))


def _cider(cases: Sequence[Case]) -> FloatArray:
    scores = cider_d(*_words(cases))
    return np.stack([scores, np.ones_like(scores)], axis=-1)


def _rouge(cases: Sequence[Case]) -> FloatArray:
    captions, known = _words(cases)
    scores = np.where([bool(caption) for caption in captions], rouge_l(captions, known), 0.0)
    return np.stack([scores, np.ones_like(scores)], axis=-1)


def _meteor(cases: Sequence[Case]) -> FloatArray:
    return meteor_statistics(*_words(cases))


def _meteor_jar(cases: Sequence[Case]) -> FloatArray:
    return jar_statistics(*_words(cases))


def _star(cases: Sequence[Case]) -> FloatArray:
    """Rows of everything that S*m is the mean of, beside each other."""
    return np.concatenate([_bleu(cases), _rouge(cases), _cider(cases), _meteor(cases)], axis=-1)


def _star_from_sums(sums: FloatArray) -> FloatArray:
    """S*m with METEOR-exact-stem from the sums of `_star`."""
    parts = [bleu_from_sums(sums[..., :10]), ratio_from_sums(sums[..., 10:12]), ratio_from_sums(sums[..., 12:14]),
             meteor_from_sums(sums[..., 14:])]
    mean: FloatArray = np.stack(parts).mean(axis=0)
    return mean


def _bleu_up_to(order: int) -> Callable[[FloatArray], FloatArray]:
    return lambda sums: bleu_from_sums(sums, order)


def _is_changed(sample: Sample) -> bool:
    """Whether a caption tells of a change between several images; by its first reference, in whatever words."""
    return _has_prose(sample) and len(sample.images) > 1 and not says_no_change(references(sample)[0])


def _is_unchanged(sample: Sample) -> bool:
    return _has_prose(sample) and len(sample.images) > 1 and says_no_change(references(sample)[0])


def _set_f1(case: Case) -> float:
    value, truth = case.reading.value, true_value(case.sample)
    assert isinstance(truth, frozenset)
    return set_f1(value, truth) if isinstance(value, frozenset) else 0.0


def _accurate(case: Case) -> float:
    value, truth = case.reading.value, true_value(case.sample)
    if value is None:
        return 0.0
    if case.reading.kind is Kind.TEXT:
        return float(short_match(str(value), references(case.sample)))
    return float(value == truth)


def _count_error(case: Case) -> float:
    value, truth = case.reading.value, true_value(case.sample)
    assert isinstance(truth, (int, float))
    return absolute_error(float(value) if isinstance(value, (int, float)) else None, float(truth))


def _detections(regions: Sequence[Region]) -> list[Detection]:
    return [Detection(region.image, bounds(region.geometry).as_tuple(), normalise_short(region.label),
                      ignore=not region.assessable) for region in regions]


def _box_statistics(label_aware: bool) -> Callable[[Sequence[Case]], FloatArray]:
    """True positives, false positives and false negatives of each case."""

    def statistics(cases: Sequence[Case]) -> FloatArray:
        said = [_detections(_assessable(case.reading.value)) if isinstance(case.reading.value, tuple) else None for case in cases]
        return box_statistics(said, [_detections(_truth(case.sample)) for case in cases], BOX_THRESHOLD, label_aware)

    return statistics


def _mean_box_f1(cases: Sequence[Case]) -> FloatArray:
    """F1 of each case, 0 for an unreadable answer, and 1."""
    scores = f1_from_sums(_box_statistics(label_aware=False)(cases))
    return np.stack([scores, np.ones_like(scores)], axis=-1)


def _truth(sample: Sample) -> list[Region]:
    """True regions, and the hidden ones that are to be ignored."""
    return [*(region for region in true_regions(sample) if region.assessable), *hidden_regions(sample)]


def _assessable(regions: Sequence[Region]) -> list[Region]:
    """Without the regions of which the answer itself says that they cannot be assessed."""
    return [region for region in regions if region.assessable]


def _union(regions: Sequence[Region], masks: Sequence[Mask] | None, height: int, width: int, number: int) -> BoolArray:
    """All regions of acquisition `number` as one H x W mask."""
    out = np.zeros((height, width), dtype=np.bool_)
    for index, region in enumerate(regions):
        if region.image == number:
            out |= rasterize(region.geometry if masks is None else masks[index], height, width)
    return out


def pixel_counts(case: Case) -> tuple[int, int]:
    """Intersection and union in pixels, summed over the acquisitions of one sample.

    An unreadable answer is an empty mask. Pixels of hidden regions are not compared.
    """
    regions = case.reading.value if isinstance(case.reading.value, tuple) else ()
    shared, every = 0, 0
    for number, frame in enumerate(frames_of(case.sample), start=1):
        size = frame.height, frame.width
        seen = ~_union(hidden_regions(case.sample), None, *size, number)
        truth = _union(true_regions(case.sample), None, *size, number)
        counts = mask_counts(_union(regions, case.masks, *size, number) & seen, truth & seen)
        shared, every = shared + counts[0], every + counts[1]
    return shared, every


def _pixel_statistics(cases: Sequence[Case]) -> FloatArray:
    return np.array([case.pixels for case in cases], dtype=np.float64).reshape(-1, 2)


def _iou(empty: float) -> Callable[[Case], float]:
    """IoU of one case; an unreadable answer scores 0 even where there is nothing to find."""
    return lambda case: 0.0 if case.reading.value is None else sample_iou(*case.pixels, empty)


def _iou_reaches(threshold: float) -> Callable[[Case], float]:
    """Whether the IoU of one case, 0 where nothing is there, is `threshold` or more."""
    return lambda case: float(_iou(0.0)(case) >= threshold)


def _has_prose(sample: Sample) -> bool:
    return bool(prose_of(sample))


def _has_regions(sample: Sample) -> bool:
    return kind_of(sample) is Kind.REGIONS


def _has_short(sample: Sample) -> bool:
    return kind_of(sample) is not Kind.REGIONS


def _has_number(sample: Sample) -> bool:
    return kind_of(sample) is Kind.NUMBER


METRICS: dict[str, Metric] = {
    "caption_exact_first": Metric("exact match, first reference", _has_prose,
                                  _mean(lambda case: caption_match(_caption(case), references(case.sample))[0])),
    "caption_exact_any": Metric("exact match, any reference", _has_prose,
                                _mean(lambda case: caption_match(_caption(case), references(case.sample))[1])),
    **{f"bleu{n}": Metric(f"BLEU-{n}", _has_prose, _bleu, _bleu_up_to(n)) for n in (1, 2, 3, 4)},
    "rouge_l": Metric("ROUGE-L", _has_prose, _rouge),
    "cider_d": Metric("CIDEr-D", _has_prose, _cider, frozen=True),
    "meteor_exact_stem": Metric("METEOR-exact-stem", _has_prose, _meteor, meteor_from_sums),
    "meteor_1_5": Metric("METEOR-1.5", _has_prose, _meteor_jar, meteor_from_sums),
    "s_m": Metric("S*m (METEOR-exact-stem)", _has_prose, _star, _star_from_sums, frozen=True),
    "change_recall": Metric("change recall", _is_changed,
                            _mean(lambda case: bool(_caption(case)) and not says_no_change(_caption(case)))),
    "no_change_recall": Metric("no-change recall", _is_unchanged, _mean(lambda case: says_no_change(_caption(case)))),
    "accuracy": Metric("accuracy", _has_short, _mean(_accurate)),
    "images_accuracy": Metric("accuracy, image set", lambda sample: kind_of(sample) is Kind.IMAGES, _mean(_accurate)),
    "images_set_f1": Metric("set-F1, image set", lambda sample: kind_of(sample) is Kind.IMAGES, _mean(_set_f1)),
    "count_mae": Metric("mean absolute error (objects)", _has_number, _mean(_count_error), scale=1.0),
    "box_f1": Metric("box F1@0.5", _has_regions, _box_statistics(label_aware=False), f1_from_sums),
    "box_f1_mean": Metric("box F1@0.5, mean over samples (strict)", _has_regions, _mean_box_f1),
    "box_f1_labels": Metric("box F1@0.5, labels agree", _has_regions, _box_statistics(label_aware=True), f1_from_sums),
    "oiou": Metric("oIoU (cumulative)", _has_regions, _pixel_statistics, overall_iou),
    "miou": Metric("mIoU (empty/empty = 0, RMSIN)", _has_regions, _mean(_iou(0.0))),
    "giou": Metric("gIoU (empty/empty = 100, LISA)", _has_regions, _mean(_iou(1.0))),
    **{f"pr{round(100 * t)}": Metric(f"Pr@{t}", _has_regions, _mean(_iou_reaches(t))) for t in THRESHOLDS},
}
