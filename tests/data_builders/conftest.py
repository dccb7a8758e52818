"""Small real datasets in the original layouts, and the shared real data where it is present."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
STOCK = ["there is no difference", "the two scenes seem identical", "the scene is the same as before",
         "no change has occurred", "almost nothing has changed"]


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Path of a shared dataset; skips where it is absent."""

    def find(name: str) -> Path:
        if not (SHARED / name).is_dir():
            pytest.skip(f"no shared data {name} on this machine")
        return SHARED / name

    return find


def picture(path: Path, seed: int, size: tuple[int, int] = (64, 64)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def label(path: Path, boxes: list[tuple[int, int, int, int, int]], size: int = 64) -> None:
    """A label PNG with filled boxes (x1, y1, x2, y2, value)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros((size, size), dtype=np.uint8)
    for x1, y1, x2, y2, value in boxes:
        array[y1:y2, x1:x2] = value
    Image.fromarray(array).save(path)


MASKS = {  # stem -> boxes of the label; the caption file's flag is 1 unless listed in UNCHANGED
    "train_000001": [(4, 4, 14, 12, 255), (30, 30, 50, 40, 255), (20, 50, 23, 53, 255)],
    "train_000002": [],
    "train_000003": [(0, 20, 64, 24, 128), (40, 40, 52, 52, 255)],
    "train_000004": [(10, 10, 20, 20, 255)],
    "val_000001": [],
}
UNCHANGED = {"train_000002", "train_000004"}


@pytest.fixture
def levir(tmp_path: Path) -> Path:
    """A LEVIR-MCI folder of five pairs; 000004 has a mask but no flag, val_000001 a flag but no mask."""
    root, images = tmp_path / "levir", []
    for number, (stem, boxes) in enumerate(MASKS.items()):
        split = stem.split("_")[0]
        for offset, folder in enumerate("AB"):
            picture(root / "images" / split / folder / f"{stem}.png", 2 * number + offset)
        label(root / "images" / split / "label" / f"{stem}.png", boxes)
        captions = STOCK if stem in UNCHANGED else [f"{word} houses appear" for word in ("two", "new", "some", "few", "3")]
        images.append({"filepath": split, "filename": f"{stem}.png", "imgid": number, "split": split,
                       "changeflag": int(stem not in UNCHANGED),
                       "sentences": [{"raw": f" {text} .", "tokens": text.split()} for text in captions]})
    (root / "LevirCCcaptions.json").write_text(json.dumps({"images": images, "dataset": "test"}))
    return root


@pytest.fixture
def digest() -> Callable[[Path], dict[str, bytes]]:
    """Content of all files of a folder by relative path."""

    def read(folder: Path) -> dict[str, bytes]:
        return {path.relative_to(folder).as_posix(): path.read_bytes()
                for path in sorted(folder.rglob("*")) if path.is_file()}

    return read
