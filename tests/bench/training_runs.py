"""One measured training run in a process of its own, for `bench_training.py`; prints one line of JSON.

    python tests/bench/training_runs.py VARIANT FOLDER '{"batch": 4, "steps": 16, ...}'

Four ways to take the same steps with the same model on the same rows. All read encoded images from disk, decode, prepare and
tokenise them in the process that trains; train projector and LLM with AdamW in float32 under clipped gradients and a
constant rate; and count what they train on, so that the caller can hold the runs against one another.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_pt_utils import get_length_grouped_indices

IGNORE = -100
RATE, CLIP = 1e-4, 1.0
WARM = 2
"""Steps before the clock starts: allocators and thread pools fill in them."""


class Clock:
    """Samples and supervised tokens trained on, and when each step ended."""

    def __init__(self) -> None:
        self.samples = self.supervised = self.read = 0
        self.marks: list[tuple[float, int]] = []
        self.tokens: list[int] = []
        self.at_start = 0

    def start(self) -> None:
        """The loop begins: peak memory counts from here on."""
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now (proc_pid_clear_refs(5))
        self.at_start = status("VmRSS")

    def saw(self, batch: dict[str, torch.Tensor]) -> None:
        """A batch goes into the model. In a pack, each sample begins at position 0."""
        ids, packed = batch["input_ids"], batch.get("position_ids")
        self.samples += len(ids) if packed is None else int((packed == 0).sum())
        self.supervised += int((batch["labels"] != IGNORE).sum())
        self.read += ids.numel()

    def step(self) -> None:
        """An optimizer step is done."""
        self.marks.append((time.perf_counter(), self.samples))
        self.tokens.append(self.supervised)

    def result(self) -> dict[str, Any]:
        """Speed between the end of the warm-up and the end of the last step; peak memory of the loop."""
        (begin, before), (end, after) = self.marks[WARM - 1], self.marks[-1]
        return {"samples_per_s": (after - before) / (end - begin), "peak_mib": status("VmHWM") / 1024,
                "start_mib": self.at_start / 1024, "steps": len(self.marks), "samples": self.samples,
                "supervised_per_step": self.supervised / len(self.marks), "read": self.read}


def status(key: str) -> int:
    """A size from /proc/self/status in KiB. Not `ru_maxrss`, which a child begins with its parent's."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1])


class Clocked:
    """Mixin of a Trainer: counts into `clock`."""

    clock: Clock

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Count, then train."""
        self.clock.saw(inputs)
        return super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc]


class Steps(TrainerCallback):  # type: ignore[misc]  # transformers is Any to mypy
    """Starts the clock and marks steps."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """The model stands, the first batch is not yet read."""
        self.clock.start()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """After the optimizer."""
        self.clock.step()


def arguments(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """What every Trainer is told: nothing is logged, saved or drawn."""
    return {"output_dir": str(folder / "run"), "per_device_train_batch_size": spec["batch"], "use_cpu": True,
            "gradient_accumulation_steps": spec["accumulate"], "num_train_epochs": 1, "learning_rate": RATE,
            "lr_scheduler_type": "constant", "max_grad_norm": CLIP, "optim": "adamw_torch", "weight_decay": 0.0,
            "logging_strategy": "no", "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "seed": spec["seed"],
            "dataloader_num_workers": 0, "gradient_checkpointing": False}


def load(folder: Path) -> tuple[Any, Any]:
    """The model, its vision encoder frozen, and its processor, as anybody would load them."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder / "base", dtype=torch.float32)
    model.model.vision_tower.requires_grad_(False)
    return model.train(), AutoProcessor.from_pretrained(folder / "base")


def geotempo(folder: Path, spec: dict[str, Any], clock: Clock) -> None:
    """`geotempo train`, up to writing the result; packed where `spec` holds `pack_tokens`."""
    from geotempo.finetune import train
    from geotempo.finetune.methods import freeze
    from geotempo.finetune.recipe import parse_recipe
    from geotempo.finetune.trainer import GeoTempoTrainer

    class Measured(Clocked, GeoTempoTrainer):
        pass

    packs = {"pack_tokens": spec["pack_tokens"]} if spec.get("pack_tokens") else {}
    recipe = parse_recipe({
        "model": {"base": str(folder / "base"), "freeze": ["vision_tower"]},
        "data": {"store": str(folder / "store"), "evaluate": [], **packs},
        "train": arguments(folder, spec) | ({} if packs else {"train_sampling_strategy": "group_by_length"})})
    args = train.training_arguments(recipe.train)
    model, processor = train.build_model(recipe, args)
    data = train.build_data(recipe, args, model, processor)
    freeze(model, recipe.model)
    trainer = Measured(model=model, args=args, train_dataset=data.train, data_collator=data.collator, learning_rates={},
                       lengths=data.lengths, callbacks=[Steps(clock)])
    trainer.clock = clock
    trainer.train()


def trl(folder: Path, spec: dict[str, Any], clock: Clock) -> None:
    """TRL's `SFTTrainer` on conversations with assistant-only loss, nothing truncated, grouped by length."""
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    class Measured(Clocked, SFTTrainer):
        pass

    model, processor = load(folder)
    rows = load_dataset("parquet", data_files=str(folder / "rows.parquet"), split="train", cache_dir=str(folder / "arrow"))
    # Unused columns stay, or the lengths would be gone before the sampler asks for them.
    args = SFTConfig(**arguments(folder, spec), assistant_only_loss=True, max_length=None, bf16=False, remove_unused_columns=False,
                     train_sampling_strategy="group_by_length", length_column_name="length")
    trainer = Measured(model=model, args=args, train_dataset=rows, processing_class=processor, callbacks=[Steps(clock)])
    trainer.clock = clock
    trainer.train()


def floor(folder: Path, spec: dict[str, Any], clock: Clock) -> None:
    """A bare loop over padded batches of similar length: PyTorch, the processor and the model, nothing else.

    It computes logits where a token is supervised and nowhere else, as GeoTempo does, or it would be no floor.
    """
    model, processor = load(folder)
    rows = Rows(folder)
    order = get_length_grouped_indices(rows.lengths, spec["batch"] * spec["accumulate"],
                                       generator=torch.Generator().manual_seed(spec["seed"]))
    batches = [order[at : at + spec["batch"]] for at in range(0, len(order), spec["batch"])]
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=RATE, weight_decay=0.0)
    clock.start()
    for at in range(0, len(batches), spec["accumulate"]):
        accumulated = [rows.batch(processor, indices) for indices in batches[at : at + spec["accumulate"]]]
        supervised = sum((batch["labels"] != IGNORE).sum() for batch in accumulated)
        for batch in accumulated:
            clock.saw(batch)
            ahead = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE)
            kept = (ahead != IGNORE).any(dim=0).nonzero()[:, 0]
            model(**batch, use_cache=False, logits_to_keep=kept, shift_labels=ahead[:, kept], num_items_in_batch=supervised).loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        clock.step()


class Rows:
    """The conversations of `rows.parquet`, their images decoded when a batch is made."""

    def __init__(self, folder: Path) -> None:
        import pyarrow.parquet as pq

        self.table = pq.read_table(folder / "rows.parquet", memory_map=True)
        self.lengths: list[int] = self.table.column("length").to_pylist()

    def batch(self, processor: Any, indices: list[int]) -> dict[str, torch.Tensor]:
        """Right-padded inputs of the model, labels on the answers' tokens."""
        encoded = processor.apply_chat_template(
            list(self.conversations(indices)), tokenize=True, return_dict=True, return_assistant_tokens_mask=True,
            return_tensors="pt", processor_kwargs={"padding": True, "padding_side": "right"})
        batch = dict(encoded)
        batch["labels"] = batch["input_ids"].masked_fill(batch.pop("assistant_masks") == 0, IGNORE)
        return batch

    def conversations(self, indices: list[int]) -> Iterator[list[dict[str, Any]]]:
        """Messages with pictures in their places."""
        import io

        from PIL import Image

        for row in self.table.take(indices).to_pylist():
            pictures = iter(row["images"])
            for message in row["messages"]:
                for part in message["content"]:
                    if part["type"] == "image":
                        part["image"] = Image.open(io.BytesIO(next(pictures)["bytes"])).convert("RGB")
            yield row["messages"]


VARIANTS = {"packed": geotempo, "unpacked": geotempo, "trl": trl, "floor": floor}


def main() -> None:
    """Run one variant."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    name, folder, spec = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(spec["seed"])
    clock = Clock()
    VARIANTS[name](folder, spec, clock)
    print(json.dumps(clock.result()))


if __name__ == "__main__":
    main()
