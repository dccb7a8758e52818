"""An imported TEOChat checkpoint is asked in its own words and read in its own numbers, from files to GeoJSON."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("sentencepiece", reason='sentencepiece is not installed: pip install "geotempo[teochat]"')

from geotempo.model.convention import TEOCHAT
from geotempo.model.teochat_import import ImportPlan, import_teochat
from geotempo.serve.hf import HFPredictor
from tests.teochat_layout import write_merged, write_vision


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("teochat")
    import_teochat(ImportPlan(write_merged(root / "TEOChat-tiny"), root / "out", vision=write_vision(root / "LanguageBind_Image")))
    return root / "out"


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 255, (100, 160, 3), dtype=np.uint8)).save(tmp_path / name)
    return [str(tmp_path / "a.png"), str(tmp_path / "b.png")]


def test_the_predictor_knows_the_convention(imported: Path) -> None:
    assert HFPredictor(imported).convention == TEOCHAT


def test_predict_asks_it_and_warns_of_the_crop(imported: Path, pair: list[str], geotempo) -> None:
    done = geotempo("predict", *pair, "--date", "2021", "--date", "2019", "--model", imported, "--prompt", "Were houses torn down?",
                    "--max-new-tokens", 8, "--json")
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    assert [item["date"] for item in facts["acquisitions"]] == ["2019", "2021"]
    assert any("centre crop of 100 x 100 of 160 x 100" in note for note in facts["notes"])
    again = geotempo("predict", *pair[::-1], "--date", "2019", "--date", "2021", "--model", imported, "--prompt",
                     "Were houses torn down?", "--max-new-tokens", 8, "--json")
    assert json.loads(again.out)["text"] == facts["text"]
