"""Store rows as model inputs: text and images in, token ids, labels and pixels out.

    Store --select--> rows --chat()--> messages + pictures --augment--> processor --> ids, labels, pixels --Collator--> batch
          --lengths()--> tokens of each sample, without its pictures --> too long: set aside; packs (`finetune.packing`)

Only the answer's tokens are supervised; which they are is read off the chat template's generation markers, so
there is no second place that knows the prompt format.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch.utils.data import ConcatDataset, Dataset
from transformers import ProcessorMixin

from geotempo.data_builders import render
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.store import Store
from geotempo.finetune.augment import Augment, Turn
from geotempo.finetune.recipe import DataSection, read_section
from geotempo.model import prompts
from geotempo.model.budget import tokens_per_image
from geotempo.model.convention import GEOTEMPO, Convention
from geotempo.model.errors import InputError

IGNORE = -100


class Features(TypedDict):
    """One tokenised sample.

    `input_ids` and `labels` have shape (T,); `tokens` holds what else the processor gives per token, each (T,); `images`
    what it gives per image or patch, as it is (`pixel_values`, `image_sizes`, `image_grid_thw`, by family).
    """

    sample_id: str
    input_ids: torch.Tensor
    labels: torch.Tensor
    tokens: dict[str, torch.Tensor]
    images: dict[str, torch.Tensor]


def select(store: Store, section: DataSection) -> list[int]:
    """Rows of one store that the data section asks for, in stored order; may be empty."""
    rows = store.rows()
    wanted = None if section.images is None else set(section.images)
    kept = []
    for row in rows:
        facts = store.facts(row)
        if (facts.split == section.split
                and (section.tasks is None or facts.task in section.tasks)
                and (section.max_regions is None or facts.regions <= section.max_regions)
                and (wanted is None or item_of(facts.id) in wanted)):
            kept.append(row)
    return kept


def item_of(sample_id: str) -> str:
    """`dataset/split/original-id` of a sample id: what the samples on the same images share."""
    return sample_id.partition("#")[0]


class Mixture(ConcatDataset[Features]):
    """The samples that a data section selects from all its stores, one store after the other.

    Raises:
        InputError: Nothing is left, or a named item is in none of the stores.
    """

    def __init__(self, section: DataSection, processor: ProcessorMixin, seed: int, convention: Convention = GEOTEMPO) -> None:
        stores = [Store(Path(folder)) for folder in section.stores]
        parts = [StoreDataset(store, select(store, section), processor, section, seed, convention) for store in stores]
        if not any(len(part) for part in parts):
            raise InputError(f"no sample of {', '.join(section.stores)} fits split {section.split!r}, tasks {section.tasks}, "
                             f"max_regions {section.max_regions}, images {'listed' if section.images else None}; "
                             "geotempo check prints what a store holds")
        found = {item_of(part.store.ids[row]) for part in parts for row in part.rows}
        missing = sorted(set(section.images or ()) - found)
        if missing:
            raise InputError(f"{len(missing)} entries of data.images have no sample in {', '.join(section.stores)}, e.g. "
                             f"{missing[0]!r}; entries look like {min(found)!r}")
        super().__init__(parts)
        self.parts = parts
        self.fingerprint = {folder: {entry["path"]: entry["sha256"] for entry in store.manifest["files"]}
                            for folder, store in zip(section.stores, stores, strict=True)}

    @property
    def image_counts(self) -> list[int]:
        """Images of each sample."""
        return [part.store.facts(row).images for part in self.parts for row in part.rows]

    @property
    def ids(self) -> list[str]:
        """Id of each sample."""
        return [part.store.ids[row] for part in self.parts for row in part.rows]

    def keep(self, kept: Sequence[int]) -> None:
        """Leave out all samples but these.

        Args:
            kept: Increasing indices.
        """
        starts = [0, *self.cumulative_sizes]
        for part, first, end in zip(self.parts, starts[:-1], starts[1:], strict=True):
            part.rows = [part.rows[index - first] for index in kept if first <= index < end]
        self.cumulative_sizes = list(accumulate(len(part) for part in self.parts))

    def start_epoch(self, epoch: int) -> None:
        """Change the draw of wordings and augmentation.

        Not named `set_epoch`: accelerate calls that itself, with 0 in the first epoch after resuming.
        """
        for part in self.parts:
            part.epoch = epoch


class StoreDataset(Dataset[Features]):
    """Map-style dataset over rows of a store.

    Item i of epoch e is a pure function of (seed, e, i): augmentation has no state of its own, so a resumed run sees
    what an undisturbed one sees.
    """

    def __init__(self, store: Store, rows: Sequence[int], processor: ProcessorMixin, section: DataSection | None = None,
                 seed: int = 0, convention: Convention = GEOTEMPO) -> None:
        self.convention = convention
        self.store, self.rows, self.processor, self.seed, self.epoch = store, list(rows), processor, seed, 0
        self.points = section is not None and section.points
        self.grids: render.Grids = section.grids if section else "none"
        self.questions = section.questions if section else {}
        self.references = section.references if section else 0.0
        self.augment = read_section(Augment, section.augment, "data.augment") if section else Augment()

    def __len__(self) -> int:
        return len(self.rows)

    def length(self, index: int) -> int:
        """Tokens of a sample, image tokens included, without decoding an image; of all that can be drawn, the longest."""
        sample = self.store.without_pixels(self.rows[index])
        sizes = prompts.shown_sizes(sample.images, self.convention)
        asked = [render.ask_again(sample, text) for text in self.questions.get(sample.task, ())] or [sample]
        wordings = [render.answer_again(one, text) for one in asked for text in self._references(one)] or asked
        turns = self.augment.turns_of(sample) if sample.regions else (Turn(),)
        return max(token_length(self.processor, self._chat(turn.sample(wording), pictures=False).messages, sizes)
                   for wording in wordings for turn in turns)

    def _references(self, sample: Sample) -> Sequence[str]:
        """The texts that may be drawn as a sample's answer; none where it keeps its own."""
        return sample.meta.get("references", ()) if self.references else ()

    def _chat(self, sample: Sample, *, pictures: bool = True) -> prompts.Prompt:
        return render.chat(sample, points=self.points, grids=self.grids, convention=self.convention, pictures=pictures)

    def __getitem__(self, index: int) -> Features:
        sample = self.store[self.rows[index]]
        rng = random.Random(f"{self.seed}:{self.epoch}:{sample.id}")
        if sample.task in self.questions:
            sample = render.ask_again(sample, rng.choice(self.questions[sample.task]))
        known = self._references(sample)
        if known and rng.random() < self.references:
            sample = render.answer_again(sample, rng.choice(known))
        turn = self.augment.draw_turn(sample, rng)
        prompt = self._chat(turn.sample(sample))
        prompt.images[:] = self.augment([turn.picture(picture) for picture in prompt.images], rng)
        return tokenize(self.processor, prompt.messages, prompt.images, sample.id)


def held_out(section: DataSection, processor: ProcessorMixin, seed: int, convention: Convention = GEOTEMPO) -> Mixture | None:
    """Samples on which a run measures its loss: split val of `data.evaluate`, else of the stores that are trained on.

    Args:
        section: The recipe's data section; tasks, regions, points and grids hold for these samples too, augmentation and other
            wordings do not.
        processor: As for training.
        seed: As for training.
        convention: As for training.

    Returns:
        At most `section.eval_samples` samples, evenly spread over those there are; None if there is none.
    """
    stores = section.stores if section.evaluate is None else section.evaluate
    wanted = replace(section, store=stores or section.store, split="val", images=None, questions={}, references=0.0, augment={})
    if not any(select(Store(Path(folder)), wanted) for folder in stores):
        return None
    found = Mixture(wanted, processor, seed, convention)
    step = max(1.0, len(found) / section.eval_samples)
    found.keep([int(number * step) for number in range(min(len(found), section.eval_samples))])
    return found


def token_length(processor: ProcessorMixin, messages: list[dict[str, Any]], sizes: Sequence[tuple[int, int]]) -> int:
    """Tokens of a conversation as `tokenize` would give it, counted without pictures.

    Args:
        processor: Of any base.
        messages: Chat messages.
        sizes: (width, height) of each picture as the processor would get it, in pixels.
    """
    text = processor.apply_chat_template(messages, tokenize=False)
    tokenizer = processor.tokenizer
    # as transformers does it: a template that writes the first token itself gets no second one
    begun = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    ids = tokenizer(text, add_special_tokens=not begun)["input_ids"]
    return len(ids) - len(sizes) + sum(tokens_per_image(processor, sizes))


def tokenize(processor: ProcessorMixin, messages: list[dict[str, Any]], pictures: Sequence[Any], sample_id: str) -> Features:
    """Tokenise a conversation; labels are set on assistant turns only.

    Args:
        processor: Of any base, with a chat template that marks generated spans (`checkpoints.load_checkpoint`).
        messages: Chat messages; image parts are filled with `pictures` in order.
        pictures: RGB pictures.
        sample_id: For messages.

    Raises:
        InputError: The template marks no token of the answer as generated.
    """
    shown = iter(pictures)
    for message in messages:
        for part in message["content"]:
            if part["type"] == "image":
                part["image"] = next(shown)
    encoded = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
    )
    ids, mask = encoded["input_ids"][0], encoded["assistant_masks"][0].bool()
    if not mask.any():
        raise InputError(f"sample {sample_id!r} has no supervised token; its answer is empty or the chat template of the "
                         "base lacks {% generation %} markers")
    rest = {key: value for key, value in encoded.items() if key not in ("input_ids", "attention_mask", "assistant_masks")}
    per_token = {key: value[0] for key, value in rest.items() if value.shape == encoded["input_ids"].shape}
    return {"sample_id": sample_id, "input_ids": ids, "labels": torch.where(mask, ids, IGNORE), "tokens": per_token,
            "images": {key: value for key, value in rest.items() if key not in per_token}}
