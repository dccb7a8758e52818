from dataclasses import replace

import numpy as np
import pytest

from geotempo.eval import controls
from geotempo.model.dates import AcquisitionDate
from geotempo.model.errors import InputError


def pixels(image):
    return np.asarray(image.rgb()).astype(int)


def test_blank_is_grey_of_the_same_size(samples):
    images = samples[0].images
    for before, after in zip(images, controls.perturb(images, "blank"), strict=True):
        assert pixels(after).shape == pixels(before).shape
        assert np.unique(pixels(after)).tolist() == [128]
        assert after.id != before.id


def test_brighter_adds_five_percent_and_saturates(samples):
    image = samples[0].images[0]
    after = controls.perturb([image], "brighter")[0]
    assert np.array_equal(pixels(after), np.minimum(pixels(image) + 13, 255))


def test_jpeg_changes_pixels_but_not_by_much(samples):
    image = samples[0].images[0]
    after = controls.perturb([image], "jpeg85")[0]
    assert after.encoded()[:2] == b"\xff\xd8"
    assert 0 < np.abs(pixels(after) - pixels(image)).mean() < 8


def test_reversed_keeps_dates_and_turns_pictures(samples):
    images = [replace(image, date=AcquisitionDate(f"20{10 + k}")) for k, image in enumerate(samples[0].images)]
    after = controls.perturb(images, "reversed")
    assert [image.date for image in after] == [image.date for image in images]
    assert [image.data for image in after] == [image.data for image in images][::-1]


def test_unknown_control_is_named(samples):
    with pytest.raises(InputError, match="allowed: blank"):
        controls.perturb(samples[0].images, "blurred")


def test_partners_ask_the_same_and_have_other_answers(samples):
    captions = [controls.asked(sample) for sample in samples if sample.task == "change_caption"]
    pairs = controls.partners(captions)
    targets = {sample.id: sample.target for sample in captions}
    assert len(pairs) == 4  # five samples: one stays alone
    assert all(pairs[pairs[name]] == name and targets[name] != targets[pairs[name]] for name in pairs)


def test_no_partners_where_the_question_is_about_another_place_or_the_answer_is_the_same(samples):
    assert controls.partners([controls.asked(sample) for sample in samples if sample.task == "damage"]) == {}
    yes = [controls.asked(sample) for sample in samples if sample.task == "change_vqa" and sample.target == "yes"]
    assert controls.partners(yes) == {}
