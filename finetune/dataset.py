"""Store rows as model inputs: text and images in, token ids, labels and pixels out.

    Store --select--> rows --chat()--> messages + pictures --augment--> processor --> ids, labels, pixels --Collator--> batch

Only the answer's tokens are supervised; which they are is read off the chat template's generation markers, so
there is no second place that knows the prompt format.
"""

import random
from collections.abc import Sequence
from typing import Any, TypedDict

import torch
from torch.utils.data import Dataset
from transformers import ProcessorMixin

from geotempo.data_builders import render
from geotempo.data_builders.store import Store
from geotempo.finetune.augment import Augment
from geotempo.finetune.recipe import DataSection
from geotempo.model.errors import InputError

IGNORE = -100


class Features(TypedDict):
    """One tokenised sample: ids and labels of shape (T,), pixels (images, 3, H, W)."""

    sample_id: str
    input_ids: torch.Tensor
    labels: torch.Tensor
    pixel_values: torch.Tensor | None


def select(store: Store, section: DataSection) -> list[int]:
    """Rows of the store that the data section asks for, in stored order.

    Raises:
        InputError: Nothing is left, or a named image pair is not in the store.
    """
    rows = store.rows(split=section.split, tasks=section.tasks, max_regions=section.max_regions)
    if section.images is not None:
        wanted = set(section.images)
        rows = [row for row in rows if store.ids[row].partition("#")[0] in wanted]
        missing = wanted - {store.ids[row].partition("#")[0] for row in rows}
        if missing:
            raise InputError(f"{len(missing)} of {len(wanted)} entries of data.images have no sample in {section.store!r}, "
                             f"e.g. {min(missing)!r}; entries look like {store.ids[0].partition('#')[0]!r}")
    if not rows:
        raise InputError(f"no sample of {section.store!r} fits split {section.split!r}, tasks {section.tasks}, "
                         f"max_regions {section.max_regions}; geotempo check prints what the store holds")
    return rows


class StoreDataset(Dataset[Features]):
    """Map-style dataset over rows of a store.

    Item i of epoch e is a pure function of (seed, e, i): augmentation has no state of its own, so a resumed run sees
    what an undisturbed one sees.
    """

    def __init__(self, store: Store, rows: Sequence[int], processor: ProcessorMixin, section: DataSection | None = None,
                 seed: int = 0) -> None:
        self.store, self.rows, self.processor, self.seed, self.epoch = store, list(rows), processor, seed, 0
        self.points = section is not None and section.points
        self.questions = section.questions if section else {}
        self.augment = Augment(**section.augment) if section and section.augment else None

    def __len__(self) -> int:
        return len(self.rows)

    def set_epoch(self, epoch: int) -> None:
        """Change the augmentation's draw; the Trainer calls this."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> Features:
        sample = self.store[self.rows[index]]
        rng = random.Random(f"{self.seed}:{self.epoch}:{sample.id}")
        if sample.task in self.questions:
            sample = render.ask_again(sample, rng.choice(self.questions[sample.task]))
        prompt = render.chat(sample, points=self.points)
        if self.augment is not None:
            prompt.images[:] = self.augment(prompt.images, rng)
        return tokenize(self.processor, prompt.messages, prompt.images, sample.id)


def tokenize(processor: ProcessorMixin, messages: list[dict[str, Any]], pictures: Sequence[Any], sample_id: str) -> Features:
    """Tokenise a conversation; labels are set on assistant turns only.

    Args:
        processor: A LLaVA processor whose chat template marks generated spans.
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
    return {"sample_id": sample_id, "input_ids": ids, "labels": torch.where(mask, ids, IGNORE),
            "pixel_values": encoded.get("pixel_values")}
