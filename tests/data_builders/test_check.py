"""`geotempo check`: values against what sources declare, contradictions, ids in two stores, memory that does not grow."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from geotempo.cli import app
from geotempo.data_builders.build import build_store
from geotempo.data_builders.check import MOST_FAULTS, Report, Spread, check_across, check_store
from geotempo.data_builders.sample import Message, Sample
from geotempo.data_builders.store import Store, write_store
from geotempo.model.geometry import Box
from geotempo.model.records import ImageRecord, Region

BOX = Region(2, Box(2, 2, 20, 20), "building")


def sample(tag, answer, regions=(), dataset="levir-mci", split="train", number=1, **meta):
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (number, 0, 0)).save(buffer, "PNG")
    images = tuple(ImageRecord("", 32, 32, data=buffer.getvalue()) for _ in range(2))
    task = tag.partition(":")[0].partition("@")[0]
    return Sample(f"{dataset}/{split}/{number}#{tag}", dataset, split, task, images,
                  (Message("user", "<image><image>\nWhat changed?"), Message("assistant", answer)), tuple(regions), {"licence": "MIT", **meta})


def faults(tmp_path, *samples):
    write_store(samples, tmp_path / "store")
    return check_store(Store(tmp_path / "store"), progress=False).faults


@pytest.mark.parametrize(("given_samples", "words"), [
    ([sample("damage", "none")], "has task damage, which levir-mci does not declare"),
    ([sample("change_grounding", "<regions:0>", [Region(2, Box(2, 2, 20, 20), "biulding")])], "label 'biulding', which levir-mci does not"),
    ([sample("change_vqa", "no", licence="GPL; x")], "licence 'GPL; x' does not begin with an identifier"),
    ([sample("change_vqa", "no", licence="")], "does not name a licence"),
    ([sample("change_vqa", "no", split="dev")], "in split 'dev'"),
    ([sample("change_vqa", "no"), sample("change_grounding", "<regions:0>", [BOX])], "changes by the mask and none by the flag"),
    ([sample("change_segmentation", "<regions:0>", [BOX]), sample("change_vqa", "no")], "changes by the mask and none by the flag"),
])
def test_wrong_values_are_faults(tmp_path, given_samples, words):
    found = faults(tmp_path, *given_samples)
    assert len(found) == 1 and words in found[0]


def test_what_agrees_or_is_marked_or_is_unknown_is_none(tmp_path):
    doubt = {"flag_mask_disagreement": {"changeflag": 0, "mask_pixels": 9}}
    assert not faults(tmp_path, sample("change_vqa", "yes"), sample("change_grounding", "<regions:0>", [BOX]),
                      sample("change_vqa", "no", number=2), sample("change_grounding", "<regions:>", number=2),
                      sample("change_vqa", "no", number=3, **doubt), sample("change_grounding", "<regions:0>", [BOX], number=3, **doubt),
                      sample("damage", "none", dataset="mine"))


def test_ids_in_two_stores_are_named(tmp_path):
    write_store([sample("change_vqa", "no", number=n) for n in range(3)], tmp_path / "a")
    write_store([sample("change_vqa", "no", number=n) for n in range(2, 5)], tmp_path / "b")
    write_store([sample("change_vqa", "no", number=9)], tmp_path / "c")
    found = check_across([Store(tmp_path / name) for name in "abc"])
    assert len(found) == 1 and "1 sample ids of" in found[0] and "levir-mci/train/2#change_vqa" in found[0]
    done = CliRunner().invoke(app, ["check", str(tmp_path / "a"), str(tmp_path / "c")])
    assert done.exit_code == 0 and done.output.count("no fault") == 2
    assert CliRunner().invoke(app, ["check", str(tmp_path / "a"), str(tmp_path / "b")]).exit_code != 0


def test_stores_of_paths_are_checked_like_others(levir, tmp_path):
    build_store("levir-mci", levir, tmp_path / "store", progress=False, images="reference")
    store = Store(tmp_path / "store")
    assert not check_store(store, progress=False).faults
    path = next((levir / "images" / "train" / "A").iterdir())
    path.write_bytes(path.read_bytes() + b"x")
    assert any("has changed since" in fault for fault in check_store(store, progress=False).faults)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=200))
def test_a_spread_knows_its_values_without_keeping_them(values):
    spread = Spread()
    for value in values:
        spread.append(value)
    ordered = sorted(values)
    assert len(spread) == len(values) and spread.lowest == min(values) and spread.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert spread.median == pytest.approx(ordered[(len(values) - 1) // 2], abs=0.00051)


def test_a_report_counts_the_faults_that_it_does_not_name():
    report = Report()
    for number in range(MOST_FAULTS + 3):
        report.fault(str(number))
    assert len(report.faults) == MOST_FAULTS and report.lines()[-1] == "and 3 more faults"
