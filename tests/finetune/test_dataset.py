"""Samples become supervised token ids; only the answer is supervised, nothing is cut."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from geotempo.data_builders.render import store_texts, target_text
from geotempo.data_builders.sample import Message, Sample
from geotempo.data_builders.store import Store, write_store
from geotempo.finetune.augment import Augment
from geotempo.finetune.collate import Collator
from geotempo.finetune.dataset import IGNORE, Mixture, StoreDataset, held_out, select, tokenize
from geotempo.finetune.recipe import DataSection
from geotempo.model.compose import Composition, compose
from geotempo.model.errors import ConfigError, InputError
from geotempo.model.geometry import Polygon
from geotempo.model.records import Region
from tests.finetune.conftest import LLM, VISION, picture


@pytest.fixture(scope="module")
def processor(store: Path):
    return compose(Composition("tiny-clip", "tiny-llama", VISION, LLM, vocab_size=330), store_texts(store))[1]


def test_only_the_answer_is_supervised(store: Path, processor) -> None:
    opened = Store(store)
    dataset = StoreDataset(opened, range(len(opened)), processor)
    for index in range(len(opened)):
        item = dataset[index]
        supervised = item["labels"] != IGNORE
        assert torch.equal(item["labels"][supervised], item["input_ids"][supervised])
        assert processor.tokenizer.decode(item["input_ids"][supervised]) == target_text(opened[index]) + "</s>"
        assert item["images"]["pixel_values"].shape == (2, 3, 64, 64)


def test_items_are_pure_functions_of_seed_epoch_and_index(store: Path, processor) -> None:
    opened = Store(store)
    section = DataSection(str(store), augment={"brightness": 0.2, "flicker": 0.05, "contrast": 0.1, "jpeg": (50, 90)})
    one, two = (StoreDataset(opened, [0, 1, 2], processor, section, seed=3) for _ in range(2))
    for _ in range(2):
        assert torch.equal(one[1]["images"]["pixel_values"], two[1]["images"]["pixel_values"])
    two.epoch = 1
    assert not torch.equal(one[1]["images"]["pixel_values"], two[1]["images"]["pixel_values"])
    plain = StoreDataset(opened, [0, 1, 2], processor)
    assert not torch.equal(one[1]["images"]["pixel_values"], plain[1]["images"]["pixel_values"])


def test_references_are_drawn_anew_each_epoch_and_leave_the_regions_alone(tmp_path: Path, processor) -> None:
    images = (picture(1, None), picture(2, (8, 8, 24, 20)))
    known = ["a house has been built", "there is a house", "the house is new"]
    regions = (Region(2, Polygon(((8, 8), (24, 8), (24, 20))), "building"),)
    messages = (Message("user", "<image><image>\nWhat changed?"), Message("assistant", f"{known[0]}\n<regions:0>"))
    write_store([Sample("toy/train/1#change_segmentation", "toy", "train", "change_segmentation", images, messages, regions,
                        {"licence": "CC0-1.0", "references": known})], tmp_path / "store")
    opened = Store(tmp_path / "store")

    def answers(**options) -> Counter[str]:
        dataset, seen = StoreDataset(opened, [0], processor, DataSection(str(opened.path), **options)), Counter()
        for epoch in range(60):
            dataset.epoch = epoch
            item = dataset[0]
            assert dataset.length(0) >= len(item["input_ids"])
            seen[processor.tokenizer.decode(item["input_ids"][item["labels"] != IGNORE])] += 1
        return seen

    whole = target_text(opened[0]) + "</s>"
    assert set(answers()) == {whole}
    every = {whole.replace(known[0], text) for text in known}
    for share, low, high in ((1.0, 10, 30), (0.6, 26, 46)):  # the first: 60 (1 - share + share / 3) times, 20 and 36
        seen = answers(references=share)
        assert set(seen) == every and low <= seen[whole] <= high
    with pytest.raises(ConfigError, match="a share, 0 to 1"):
        DataSection("store", references=1.5)


def test_questions_are_drawn_anew_each_epoch(store: Path, processor) -> None:
    wordings = ["what is new?", "describe the difference", "say what changed"]
    section = DataSection(str(store), questions={"change_caption": wordings})
    dataset = StoreDataset(Store(store), select(Store(store), section), processor, section)
    seen = set()
    for epoch in range(12):
        dataset.epoch = epoch
        seen.add(processor.tokenizer.decode(dataset[0]["input_ids"]).split("\n")[-4])
        assert "Please do change_grounding." in processor.tokenizer.decode(dataset[1]["input_ids"])
    assert seen == set(wordings)


def test_areas_carry_a_grid_where_the_recipe_asks(tmp_path: Path, processor) -> None:
    shape = Polygon(((4, 4), (60, 8), (30, 60)))
    made = []
    for name, label in (("flood", "flooded area"), ("house", "new building")):
        messages = (Message("user", "<image><image>\nSegment all changes."), Message("assistant", "<regions:0>"))
        made.append(Sample(f"toy/train/{name}#s", "toy", "train", "change_segmentation", (picture(1, None), picture(2, None)), messages,
                           (Region(2, shape, label),), {"licence": "CC0-1.0"}))
    write_store(made, tmp_path / "areas")
    opened = Store(tmp_path / "areas")
    for grids, expected in (("none", [False, False]), ("areas", [True, False]), ("all", [True, True])):
        data = StoreDataset(opened, range(2), processor, DataSection(str(tmp_path / "areas"), grids=grids))
        said = [processor.tokenizer.decode(data[i]["input_ids"][data[i]["labels"] != IGNORE]) for i in range(2)]
        assert ['"grid"' in text for text in said] == expected
    with pytest.raises(ConfigError, match="allowed: none, areas, all"):
        DataSection("x", grids="some")  # type: ignore[arg-type]


def test_batches_pad_right_and_keep_every_image(store: Path, processor) -> None:
    opened = Store(store)
    items = [StoreDataset(opened, range(4), processor)[i] for i in range(4)]
    batch = Collator(pad_token_id=0, max_length=256)(items)
    longest = max(len(item["input_ids"]) for item in items)
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape == (4, longest)
    assert batch["pixel_values"].shape[0] == 8
    for row, item in enumerate(items):
        length = len(item["input_ids"])
        assert batch["attention_mask"][row].sum() == length
        assert (batch["labels"][row, length:] == IGNORE).all()


def test_a_long_sample_is_refused_by_name(store: Path, processor) -> None:
    item = StoreDataset(Store(store), [0], processor)[0]
    with pytest.raises(InputError, match=r"toy/train/000.* tokens"):
        Collator(pad_token_id=0, max_length=10)([item])


def test_an_unsupervised_sample_stops_with_its_id(processor) -> None:
    with pytest.raises(InputError, match=r"lonely.*no supervised token"):
        tokenize(processor, [{"role": "user", "content": [{"type": "text", "text": "hello"}]}], [], "lonely")


def test_selection_follows_the_data_section(store: Path) -> None:
    opened = Store(store)
    captions = select(opened, DataSection(str(store), tasks=("change_caption",)))
    assert [opened.ids[row].partition("#")[2] for row in captions] == ["change_caption"] * 8
    two = select(opened, DataSection(str(store), images=("toy/train/001", "toy/train/002")))
    assert len(two) == 4
    assert len(select(opened, DataSection(str(store), max_regions=0))) == 12


def test_a_mixture_joins_stores_and_names_what_is_missing(store: Path, processor) -> None:
    mixture = Mixture(DataSection((str(store), str(store)), tasks=("change_caption",)), processor, 0)
    assert len(mixture) == 16
    assert torch.equal(mixture[0]["input_ids"], mixture[8]["input_ids"])
    with pytest.raises(InputError, match="toy/train/999"):
        Mixture(DataSection(str(store), images=("toy/train/001", "toy/train/999")), processor, 0)
    with pytest.raises(InputError, match="split 'val'"):
        Mixture(DataSection(str(store), split="val"), processor, 0)
    with pytest.raises(ConfigError, match="one or more folders"):
        DataSection(())


@pytest.mark.parametrize("options", [{"brightness": 1.5}, {"jpeg": (90, 20)}, {"contrast": -0.1}])
def test_impossible_augmentations_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError, match=r"data\.augment"):
        Augment(**options)


def test_every_answer_of_a_conversation_is_supervised_and_words_alone_fit_into_a_batch(store: Path, tmp_path: Path, processor) -> None:
    first = Store(store)[0]
    talk = (first.messages[0], Message("assistant", "A road."), Message("user", "Where is it?"), Message("assistant", "No image"))
    several = Sample("own/train/1#vqa", "own", "train", "vqa", first.images, talk, (), {"licence": "MIT"})
    words = Sample("own/train/2#vqa", "own", "train", "vqa", (), (Message("user", "Where?"), Message("assistant", "No.")), (),
                   {"licence": "MIT"})
    write_store([several, words], tmp_path / "talk")
    dataset = StoreDataset(Store(tmp_path / "talk"), [0, 1], processor)
    text = [processor.tokenizer.decode(item["input_ids"][item["labels"] != IGNORE]) for item in (dataset[0], dataset[1])]
    assert text == ["A road.</s>No image</s>", "No.</s>"]
    assert "Where is it?" in processor.tokenizer.decode(dataset[0]["input_ids"])
    batch = Collator(pad_token_id=0, max_length=4096)([dataset[1], dataset[0]])
    assert batch["pixel_values"].shape[0] == len(first.images) and batch["input_ids"].shape[0] == 2


def test_a_damaged_evaluation_store_is_no_missing_one(store: Path, tmp_path: Path, processor) -> None:
    assert held_out(DataSection(str(store)), processor, 0) is None  # it has no split val
    broken = tmp_path / "broken"
    shutil.copytree(store, broken)
    next(broken.glob("samples/*.parquet")).write_bytes(b"nothing")
    with pytest.raises(InputError, match="missing or not"):
        held_out(DataSection(str(store), evaluate=(str(broken),)), processor, 0)
