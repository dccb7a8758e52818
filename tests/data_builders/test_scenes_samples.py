"""Samples of procedural scenes: every answer is recomputed from masks, land cover or the images' own truth."""

import collections
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from scipy import ndimage

from geotempo.data_builders.sample import IMAGE, TASKS, Sample
from geotempo.data_builders.scenes import language
from geotempo.data_builders.scenes.facts import aligned, changes_between
from geotempo.data_builders.scenes.samples import scene_samples
from geotempo.data_builders.scenes.scene import BUILDING, CHANGE_KINDS, COVER, EASY, GRADES, Scene, SceneOptions
from geotempo.data_builders.scenes.world import generate
from geotempo.model.errors import InputError
from geotempo.model.geometry import Mask
from geotempo.model.records import time_order

_WORDS = {language.number(count): count for count in range(1, 13)} | {"a": 1}


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Scene, list[Sample]]]:
    """40 pairs at 128 px with their samples."""
    return [(generate(20, i, size=128, dates=2), scene_samples(20, i, size=128, dates=2)) for i in range(40)]


def of_task(pairs: list[tuple[Scene, list[Sample]]], *tasks: str) -> Iterator[tuple[Scene, Sample]]:
    found = [(scene, sample) for scene, samples in pairs for sample in samples if sample.task in tasks]
    assert found
    yield from found


def wording(sample: Sample, *keys: str) -> bool:
    """Whether the question is one of these wordings, whatever fills its fields."""
    patterns = [re.sub(r"\\\{\w+\\\}", "(.*)", re.escape(text)) for key in keys for text in language.QUESTIONS[key]]
    return any(re.fullmatch(pattern, sample.question) for pattern in patterns)


def arrays(sample: Sample) -> list[np.ndarray]:
    """Masks of the regions that the answer lists."""
    assert sample.target_regions is not None
    return [region.geometry.to_array() for region in sample.target_regions if isinstance(region.geometry, Mask)]


def test_every_task_appears_in_the_first_60_scenes() -> None:
    seen = collections.Counter(sample.task for i in range(60) for sample in scene_samples(0, i, size=64))
    assert set(seen) == set(TASKS)


@pytest.mark.parametrize("dates", [None, 1, 2, 4, 8])
def test_samples_are_whole(dates: int | None) -> None:
    for index in range(5):
        samples = scene_samples(1, index, size=96, dates=dates, split="val")
        assert samples and len({sample.id for sample in samples}) == len(samples)
        for sample in samples:
            assert re.fullmatch(rf"scenes-1/val/{index:06d}#{sample.task}(-\d+)?", sample.id)
            assert sample.messages[0].text.startswith(IMAGE * len(sample.images) + "\n")
            assert "{" not in sample.question and sample.target
            order = time_order(sample.images)
            assert order.order == tuple(range(len(sample.images))) and not order.assumed
            assert len(set(order.numbers)) == len(sample.images)
            assert json.loads(json.dumps(sample.meta)) == sample.meta and sample.meta["licence"].startswith("Apache-2.0")
            for record in sample.images:
                assert record.id == hashlib.sha256(record.encoded()).hexdigest()
                assert record.rgb().size == (96, 96) and record.modality == "optical" and record.sensor == "Scene"
            for region in sample.regions:
                assert isinstance(region.geometry, Mask) and 1 <= region.image <= len(sample.images)
                mask = region.geometry.to_array()
                assert mask.shape == (96, 96) and mask.any()
                assert region.points is not None or not region.assessable
                assert all(mask[int(y), int(x)] for x, y in region.points or ())


def test_equal_bytes_in_another_process_and_other_scenes_per_split() -> None:
    program = ("from geotempo.data_builders.scenes.samples import scene_samples as f; import hashlib;"
               "print(hashlib.sha256(repr(f(4, 2, size=64)).encode()).hexdigest())")
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    assert out == hashlib.sha256(repr(scene_samples(4, 2, size=64)).encode()).hexdigest()
    ids = [{record.id for sample in scene_samples(4, 2, size=64, split=split) for record in sample.images}
           for split in ("train", "val", "test")]
    assert not ids[0] & ids[1] and not ids[1] & ids[2]
    with pytest.raises(InputError, match="allowed: train, val, test"):
        scene_samples(0, 0, split="dev")


def test_change_captions_count_what_the_masks_show(pairs: list[tuple[Scene, list[Sample]]]) -> None:
    for scene, sample in of_task(pairs, "change_caption"):
        references = sample.meta["references"]
        assert len(references) >= 3 and references[0] == sample.target and len(set(references)) == len(references)
        seen = collections.Counter(change.kind for change in changes_between(scene, 0, 1) if change.assessable)
        for text in references:
            assert text == text.lower() and not text.endswith(".")
            if not seen:
                assert text in language.NO_CHANGE + language.NO_CHANGE_CLOUD
                continue
            found = re.findall(r"\b(\w+) (?:new )?buildings?\b", text)
            buildings = seen["built"] + seen["demolished"] + seen["damaged"]
            assert sum(_WORDS[word] for word in found) == buildings, text
            assert bool(re.search(r"flood|water has", text)) == bool(seen["flooded"])
            assert bool(re.search("forest|trees", text)) == bool(seen["cleared"])
            assert ("road" in text) == bool(seen["road added"])


def test_counts_equal_connected_components(pairs: list[tuple[Scene, list[Sample]]]) -> None:
    checked = 0
    for scene, sample in of_task(pairs, "counting"):
        if wording(sample, "count") and sample.question.rstrip("?.").find("roof") < 0:
            date = next(k for k, image in enumerate(scene.images)
                        if np.array_equal(image, np.asarray(sample.images[0].rgb())))
            assert int(sample.target) == ndimage.label(scene.land_cover[date] == BUILDING)[1]
            checked += 1
    assert checked > 15


def test_how_many_equals_the_difference_of_footprints(pairs: list[tuple[Scene, list[Sample]]]) -> None:
    answers = collections.Counter[str]()
    for scene, sample in of_task(pairs, "counting", "change_vqa"):
        if not wording(sample, "how_many"):
            continue
        one, two = ({item.id: item.grades[k] for item in scene.of_kind("building") if item.there(k)} for k in (0, 1))
        expected = {"built": len(two.keys() - one.keys()), "demolished": len(one.keys() - two.keys()),
                    "damaged": sum(two[key] > one[key] for key in one.keys() & two.keys())}
        done = next(kind for kind, word in language.DONE.items() if f"been {word}" in sample.question)
        assert sample.target == str(expected[done])
        answers[sample.target] += 1
    assert answers["0"] and len(answers) >= 3


def test_yes_and_no(pairs: list[tuple[Scene, list[Sample]]]) -> None:
    answers = collections.Counter[str]()
    for scene, sample in of_task(pairs, "change_vqa"):
        changes = changes_between(scene, 0, 1)
        kinds = [kind for kind in CHANGE_KINDS if wording(sample, kind)]
        if kinds or wording(sample, "any_change"):
            expected = any(change.assessable for change in changes if not kinds or change.kind in kinds)
            assert sample.target == ("yes" if expected else "no")
            answers[sample.target] += 1
    assert 0.3 < answers["yes"] / answers.total() < 0.7


def test_listed_regions_are_the_changes(pairs: list[tuple[Scene, list[Sample]]]) -> None:
    empty = 0
    for scene, sample in of_task(pairs, "change_segmentation", "change_grounding"):
        changes = [change for change in changes_between(scene, 0, 1) if change.assessable]
        kinds = [kind for kind, phrase in language.PHRASES.items() if phrase in sample.question]
        changes = [change for change in changes if not kinds or change.kind in kinds]
        assert sample.target_regions is not None
        listed = collections.Counter((r.image, r.label, r.geometry) for r in sample.target_regions)
        expected = collections.Counter(
            (change.date + 1, language.LABELS[change.kind],
             Mask.from_array(change.item.masks[change.date] & ~scene.clouds[change.date])) for change in changes)
        assert listed == expected
        empty += not listed
        keys = [(r.image, int(m.any(1).argmax()), int(m.any(0).argmax()))
                for r, m in zip(sample.target_regions, arrays(sample), strict=True)]
        assert keys == sorted(keys)
    assert empty


def test_nothing_but_nuisance_is_never_answered_as_change() -> None:
    options = SceneOptions(unchanged=1.0, clouds=0.3)
    for index in range(8):
        for sample in scene_samples(21, index, size=96, dates=2, options=options):
            match sample.task:
                case "change_grounding" | "change_segmentation" | "semantic_change":
                    assert sample.target_regions == ()
                case "change_vqa":
                    assert sample.target in ("no", "0")
                case "change_caption":
                    assert sample.target in (language.NO_CHANGE[0], language.NO_CHANGE_CLOUD[0])
                case "temporal_classification":
                    assert sample.target == "no change"
                case "damage":
                    assert {region.label for region in sample.target_regions or ()} <= {"no-damage"}


def test_transitions_are_those_of_the_land_cover(pairs: list[tuple[Scene, list[Sample]]]) -> None:
    labels = set()
    for scene, sample in of_task(pairs, "semantic_change"):
        before, after = aligned(scene, scene.land_cover[0], 0, 1), scene.land_cover[1]
        for region, mask in zip(sample.target_regions or (), arrays(sample), strict=True):
            assert region.image == 2 and not (mask & scene.clouds[1]).any()
            source, target = (COVER.index(name) for name in region.label.split(" -> "))
            labels.add(region.label)
            for cover, value in ((before, source), (after, target)):
                assert np.bincount(cover[mask], minlength=256).argmax() == value
            if "building" not in region.label:
                assert (before[mask] == source).all() and (after[mask] == target).all()
    assert {"forest -> bare ground", "grass -> building", "building -> bare ground"} <= labels


def test_damage_grades_follow_the_visible_loss_of_roof(pairs: list[tuple[Scene, list[Sample]]]) -> None:
    grades = collections.Counter[str]()
    for scene, sample in of_task(pairs, "damage"):
        regions = sample.target_regions
        if regions is None:
            assert sample.target in GRADES
            continue
        for region in regions:
            assert region.image == 2 and region.label in GRADES
            grades[region.label] += 1
        standing = [item for item in scene.of_kind("building")
                    if item.there(0) and item.there(1) and item.assessable(0, 1)]
        assert len(regions) == len(standing)
    assert set(grades) == set(GRADES)


def test_damage_changes_more_pixels_the_worse_it_is() -> None:
    options = SceneOptions(nuisance=0.0, clouds=0.0, unchanged=0.0, kinds=("damaged",))
    loss: dict[int, list[float]] = {1: [], 2: [], 3: []}
    for index in range(20):
        scene = generate(22, index, dates=2, options=options)
        differs = np.abs(np.diff(np.stack(scene.images).astype(int), axis=0)[0]).max(axis=2) > 12
        for change in changes_between(scene, 0, 1):
            loss[change.grade].append(float(differs[change.item.masks[1]].mean()))
    minor, major, destroyed = (float(np.mean(loss[grade])) for grade in (1, 2, 3))
    assert 0.08 < minor < 0.35 < major < 0.7 < destroyed


def test_image_lists_follow_the_masks() -> None:
    answers = collections.Counter[str]()
    for index in range(24):
        scene, dates = generate(23, index, size=96, dates=4), 4
        for sample in scene_samples(23, index, size=96, dates=dates):
            if sample.task != "temporal_referring" or not sample.regions:
                continue
            region = sample.regions[0]
            item = next(item for item in scene.objects if item.masks[region.image - 1] is not None
                        and item.kind == region.label and region.geometry == Mask.from_array(
                            item.masks[region.image - 1] & ~scene.clouds[region.image - 1]))
            shown = [k + 1 for k in range(dates) if item.masks[k] is not None]
            if wording(sample, "exists"):
                assert sample.target == ", ".join(f"Image {k}" for k in shown)
            elif wording(sample, "first"):
                assert sample.target == f"Image {shown[0]}"
            else:
                after, before = (int(k) for k in re.fullmatch(r"after Image (\d), before Image (\d)",
                                                              sample.target).groups())
                assert before == after + 1 and (sample.meta["after"], sample.meta["before"]) == (after, before)
                assert ((after in shown) != (before in shown)
                        or item.grades[before - 1] > item.grades[after - 1])
            answers[sample.target] += 1
    assert len(answers) >= 8


def test_under_cloud_is_not_assessable_and_never_listed() -> None:
    options, asked, hidden = SceneOptions(clouds=1.0, unchanged=0.0), 0, 0
    for index in range(40):
        scene = generate(24, index, size=96, dates=2, options=options)
        for sample in scene_samples(24, index, size=96, dates=2, options=options):
            asked += sample.target == language.NOT_ASSESSABLE
            hidden += sum(not region.assessable and region.reason == "cloud" for region in sample.regions)
            for region in sample.target_regions or ():
                assert region.assessable
                cloud = scene.clouds[region.image - 1] if len(sample.images) == 2 else None
                assert cloud is None or not (region.geometry.to_array() & cloud).any()
    assert asked and hidden


def test_presence_agrees_with_land_cover(pairs: list[tuple[Scene, list[Sample]]]) -> None:
    answers = collections.Counter[str]()
    for scene, sample in of_task(pairs, "vqa"):
        if wording(sample, "presence"):
            date = next(k for k, image in enumerate(scene.images)
                        if np.array_equal(image, np.asarray(sample.images[0].rgb())))
            cover = next(k for k, word in language.COVER_WORDS.items() if re.search(rf"\b{word}\b", sample.question))
            present = (scene.land_cover[date] == COVER.index(cover)).any()
            assert sample.target == ("yes" if present else "no")
            answers[sample.target] += 1
    assert answers["yes"] and answers["no"]


def test_long_sequences_name_the_pair() -> None:
    named = 0
    for index in range(10):
        scene = generate(25, index, size=64, dates=5)
        for sample in scene_samples(25, index, size=64, dates=5):
            match = re.search(r"between image (\d) and image (\d)", sample.question)
            if match and sample.task == "change_segmentation" and len(sample.images) == 5:
                first, last = (int(k) - 1 for k in match.groups())
                seen = [change for change in changes_between(scene, first, last) if change.assessable]
                assert sample.target_regions is not None and len(sample.target_regions) == len(seen)
                assert {region.image - 1 for region in sample.target_regions} <= {first, last}
                named += 1
    assert named


def test_easy_preset_gives_pairs_with_few_regions() -> None:
    for index in range(6):
        for sample in scene_samples(26, index, size=128, options=EASY):
            assert len(sample.images) <= 2
            if sample.task in ("change_grounding", "change_segmentation"):
                assert len(sample.target_regions or ()) <= 3
