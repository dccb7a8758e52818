"""Oracle ceilings: what is measured, and that a killed measurement goes on."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from geotempo.data_builders.sample import Sample
from geotempo.data_builders.store import Store, write_store
from geotempo.eval import ceilings
from geotempo.eval.ceilings import FORMS, measure, plan, summarise, table, token_counter
from geotempo.model.errors import InputError
from geotempo.model.geometry import GridMask, Mask, rasterize
from geotempo.model.records import Region
from tests.eval.conftest import SIZE, region, sample


def disc(x: float, y: float, radius: float, label: str = "flooded area", image: int = 2) -> Region:
    ys, xs = np.mgrid[:SIZE, :SIZE] + 0.5
    return Region(image, Mask.from_array(np.hypot(xs - x, ys - y) < radius), label)


def listing(key: str, task: str, regions: tuple[Region, ...], seed: int) -> Sample:
    return sample(key, task, "Which?", "<regions:" + ",".join(map(str, range(len(regions)))) + ">", regions, seed=seed)


@pytest.fixture
def store(tmp_path):
    first = (disc(40, 40, 30), disc(80, 75, 12, "cleared forest"), region(1, 1, 9, 9))
    samples = [listing("a", "change_segmentation", first, 1), listing("a", "change_grounding", first[:1], 1),
               listing("b", "change_segmentation", (disc(50, 50, 45, image=1), disc(20, 20, 10)), 2),
               listing("c", "change_grounding", (region(5, 5, 10, 10),), 3)]
    write_store(samples, tmp_path / "store")
    return Store(tmp_path / "store")


class Perfect:
    """Knows the truth: the discs of the store by their centre."""

    def __init__(self, regions):
        self.regions, self.asked = regions, []

    def segment(self, image, regions):
        self.asked += regions
        near = [min(self.regions, key=lambda known: np.abs(np.subtract(self.middle(known), self.middle(asked))).sum())
                for asked in regions]
        return [Mask.from_array(rasterize(known.geometry, SIZE, SIZE)) for known in near]

    @staticmethod
    def middle(given):
        from geotempo.model.geometry import bounds
        return bounds(given.geometry).as_tuple()


def test_each_place_is_measured_once_and_boxes_never(store, tmp_path):
    units = plan([store])
    assert [(unit.key.split("/")[2], unit.regions) for unit in units] == [
        ("a#change_segmentation", (0, 1)), ("b#change_segmentation", (0, 1))]
    assert len(plan([store], tasks=["change_grounding"])) == 1 and len(plan([store], limit=1)) == 1
    write_store([listing("c", "change_grounding", (region(5, 5, 10, 10),), 3)], tmp_path / "boxes")
    with pytest.raises(InputError, match="no ceiling"):
        plan([Store(tmp_path / "boxes")])


def test_forms_without_sam_are_the_pixels_of_what_was_read(store, tmp_path):
    count, _ = token_counter()
    results = measure(plan([store]), tmp_path / "c.json", None, count, progress=False)
    assert json.loads((tmp_path / "c.json").read_text()) == results and not (tmp_path / "c.json.part").exists()
    everything, floods, clearing = results["results"]
    assert [(row["label"], row["regions"]) for row in results["results"]] == [
        ("all", 4), ("flooded area", 3), ("cleared forest", 1)]
    assert set(everything) == {"set", "label", "regions", "box", "grid"}
    assert floods["box"]["iou"] == pytest.approx(np.pi / 4, abs=0.02), "a disc in its box"
    assert all(row["grid"]["iou"] > 0.92 for row in results["results"])
    # Two floods of sample b lie on two images: unions are not taken across images.
    boxes = [np.pi * 30**2, np.pi * 45**2, np.pi * 10**2], [60**2, 90**2, 20**2]
    assert floods["box"]["oiou"] == pytest.approx(sum(boxes[0]) / sum(boxes[1]), abs=0.01)
    assert everything["grid"]["tokens"] > everything["box"]["tokens"] > 10
    assert clearing["box"]["characters"] == len('{"image":2,"bbox_2d":[680,630,920,870],"label":"cleared forest"}')


def test_sam_is_shown_points_and_grids(store, tmp_path):
    known = [region for index in (0, 2) for region in store[index].regions if isinstance(region.geometry, Mask)]
    perfect = Perfect(known)
    results = measure(plan([store]), tmp_path / "c.json", perfect, len, progress=False)["results"]
    assert set(FORMS) <= set(results[0])
    assert all(row[form][score] == 1.0 for row in results for form in ("SAM", "grid+SAM") for score in ("iou", "oiou"))
    assert all(asked.points for asked in perfect.asked)
    assert sum(isinstance(asked.geometry, GridMask) for asked in perfect.asked) == len(perfect.asked) / 2 == 4


def test_a_killed_measurement_goes_on_after_the_last_whole_line(store, tmp_path, monkeypatch):
    whole = measure(plan([store]), tmp_path / "whole.json", None, len, progress=False)
    units, out = plan([store]), tmp_path / "c.json"
    monkeypatch.setattr(ceilings, "_FLUSH", 1)
    measured = ceilings.measure_unit

    def killed(unit, *arguments):
        if unit is units[1]:
            raise KeyboardInterrupt
        return measured(unit, *arguments)

    monkeypatch.setattr(ceilings, "measure_unit", killed)
    with pytest.raises(KeyboardInterrupt):
        measure(units, out, None, len, progress=False)
    part = tmp_path / "c.json.part"
    assert not out.exists() and len(part.read_bytes().splitlines()) == 2
    part.write_bytes(part.read_bytes() + b'{"set": "ha')
    asked = []
    monkeypatch.setattr(ceilings, "measure_unit", lambda unit, *arguments: asked.append(unit) or measured(unit, *arguments))
    assert measure(units, out, None, len, progress=False) == whole
    assert asked == units[1:] and not part.exists()
    part.write_text('{"version": 0}\n')
    with pytest.raises(InputError, match="another measurement"):
        measure(units, out, None, len, progress=False)


def test_the_table_is_markdown_and_leaves_rare_labels_out():
    scores = {"iou": 0.5, "oiou": 0.25, "characters": 60.0, "tokens": 24.0}
    rows = [{"set": "x", "label": label, "regions": number, "box": scores, "grid": scores} for label, number in (("all", 4), ("rare", 1))]
    text = table({"results": rows}, least=2)
    assert text.splitlines()[2] == "| x | all | 4 | 50.0 / 25.0 | 50.0 / 25.0 | 24 / 24 |" and "rare" not in text


def test_summaries_pool_samples():
    def fact(label, iou):
        return {"label": label, "box": [iou, 10, 5]}

    rows = [{"set": "x", "id": "1", "regions": [fact("a", 1.0), fact("b", 0.0)],
             "unions": {"all": {"box": [10, 20]}, "a": {"box": [10, 10]}, "b": {"box": [0, 10]}}},
            {"set": "x", "id": "2", "regions": [fact("a", 0.5)], "unions": {"all": {"box": [5, 10]}, "a": {"box": [5, 10]}}}]
    found = {row["label"]: (row["regions"], row["box"]["iou"], row["box"]["oiou"]) for row in summarise(rows)}
    assert found == {"all": (3, 0.5, 0.5), "a": (2, 0.75, 0.75), "b": (1, 0.0, 0.0)}


def test_a_tokenizer_that_is_none(tmp_path):
    with pytest.raises(InputError, match="no tokenizer"):
        token_counter(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[1")
    with pytest.raises(InputError, match="no tokenizer"):
        token_counter(tmp_path)


def test_the_command_measures_with_the_embedded_sam(store, tmp_path):
    import typer

    from geotempo.commands.ceilings import ceilings as command
    app = typer.Typer()
    app.command()(command)
    done = CliRunner().invoke(app, [str(store.path), "--out", str(tmp_path / "c.json"), "--least", "1"])
    assert done.exit_code == 0, done.output
    assert "| hand | flooded area | 3 |" in done.output
    assert (tmp_path / "c.md").read_text().strip() in done.output
    again = json.loads((tmp_path / "c.json").read_text())
    assert "sam:sam_tiny" in again["identity"]["name"]
