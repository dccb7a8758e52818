"""Hand-made samples of every kind of answer, and a store of them."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geotempo.data_builders.sample import Message, Sample
from geotempo.data_builders.store import Store, write_store
from geotempo.model.geometry import Box
from geotempo.model.records import ImageRecord, Region

SIZE = 100  # one pixel is ten cells of the grammar, so whole-pixel boxes survive it exactly


def picture(seed: int, size: int = SIZE) -> ImageRecord:
    """A picture of smooth patches that nothing else has."""
    array = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    target = io.BytesIO()
    Image.fromarray(array).resize((size, size), Image.Resampling.BICUBIC).save(target, "PNG")
    return ImageRecord(f"image-{seed}", size, size, data=target.getvalue())


def sample(key: str, task: str, question: str, answer: str, regions: tuple[Region, ...] = (), seed: int = 0,
           images: int = 2, split: str = "val", **meta: object) -> Sample:
    """One-turn sample over `images` pictures that depend on `seed`."""
    return Sample(
        id=f"hand/{split}/{key}#{task}", dataset="hand", split=split, task=task,
        images=tuple(picture(10 * seed + k) for k in range(images)),
        messages=(Message("user", "<image>" * images + question), Message("assistant", answer)),
        regions=regions, meta={"licence": "CC0-1.0", **meta},
    )


def region(x1: float, y1: float, x2: float, y2: float, label: str = "new building", image: int = 2) -> Region:
    """A box region."""
    return Region(image, Box(x1, y1, x2, y2), label)


CAPTIONS = [
    "a road is built beside the forest", "some houses appear near the lake", "the scene is the same as before",
    "many trees are removed in the north", "a large building is built on the bare land",
]


def hand_made() -> list[Sample]:
    """Samples of all kinds: captions, yes/no, labels, numbers, image sets, boxes; several over the same images."""
    out = []
    for i, caption in enumerate(CAPTIONS):
        others = [f"{caption} today", f"it seems that {caption}"]
        boxes = tuple(region(5 + 20 * j, 10 * i, 17 + 20 * j, 10 * i + 20) for j in range(i))
        listed = "<regions:" + ",".join(map(str, range(len(boxes)))) + ">"
        key = f"tile{i}"
        out += [
            sample(key, "change_caption", f"Describe the change, wording {i}.", caption.capitalize() + ".", seed=i,
                   references=[caption.capitalize() + ".", *others]),
            sample(key, "change_vqa", "Did anything change?", "yes" if i else "no", seed=i),
            sample(key, "classification", "Which class?", ["urban", "0_to_10"][i % 2], seed=i, images=1),
            sample(key, "counting", "How many?", str(i), seed=i),
            sample(key, "temporal_referring", "When?", f"Image {i % 2 + 1}" if i else "No image", seed=i),
            sample(key, "change_grounding", f"Where, wording {i}?", listed, boxes, seed=i),
            sample(key, "change_segmentation", "Describe and segment.", f"{caption}\n{listed}", boxes, seed=i),
            sample(key, "damage", "Damage of <region:0>?", "destroyed", (region(1, 1, 9, 9 + i, "house", 1),), seed=i),
            sample(key, "semantic_change", "From-to?", listed, boxes, seed=i),
        ]
    return out


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    return hand_made()


@pytest.fixture(scope="session")
def store_path(tmp_path_factory: pytest.TempPathFactory, samples: list[Sample]) -> Path:
    out = tmp_path_factory.mktemp("data") / "store"
    write_store(samples, out)
    return out


@pytest.fixture
def store(store_path: Path) -> Store:
    return Store(store_path)


@pytest.fixture(scope="session")
def metrics_fixtures() -> Path:
    folder = Path(__file__).parents[2].parent / "shared" / "fixtures" / "metrics"
    if not folder.is_dir():
        pytest.skip(f"no metric fixtures at {folder}")
    return folder
