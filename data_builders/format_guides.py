"""What lies beside exported data: a README with the exact commands, and a configuration that its trainer takes as it is.

The configurations train LoRA on the LLM alone, which is what stock vLLM serves. All paths in them are relative to the folder.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from geotempo.data_builders.licences import combine, hub_licence
from geotempo.model.bases import BASES, convention_of, lora_modules
from geotempo.model.convention import Convention

DEFAULT_MODEL = "Qwen/Qwen3-VL-4B-Instruct"
LONGEST = 16384
"""Tokens of a sample in the configurations: beyond it trainers cut or drop."""
TEMPLATES = {"llava": "llava", "llava_next": "llava_next", "qwen2_5_vl": "qwen2_vl", "qwen3_vl": "qwen3_vl_nothink"}
"""LLaMA-Factory's names of chat templates, by `model_type`."""


@dataclass(frozen=True)
class Trainee:
    """The model that the configuration names.

    Attributes:
        model: Folder or hub name.
        model_type: Of its config.
        chat_template: One that keeps images between their dates, where its own may not; None leaves its own.
    """

    model: str = DEFAULT_MODEL
    model_type: str = "qwen3_vl"
    chat_template: str | None = None


Files = dict[str, str]
"""Contents by name."""


def read_trainee(base: str) -> tuple[Trainee, Convention]:
    """A base as the configuration names it, and how it counts coordinates.

    Args:
        base: Folder or hub name of one of `BASES`.

    Raises:
        ModelError: It is no such model.
    """
    from geotempo.model.checkpoints import load_processor  # torch

    config, processor = load_processor(base)
    name = str(Path(base).resolve()) if Path(base).is_dir() else base
    return Trainee(name, str(config.model_type), str(processor.chat_template)), convention_of(config, processor)


def guide(trainer: str, manifest: Mapping[str, Any], store: Mapping[str, Any], trainee: Trainee) -> Files:
    """The files that say how to train.

    Args:
        trainer: trl, llamafactory or swift.
        manifest: Of the export.
        store: Manifest of the store that it was made from.
        trainee: The model to name.
    """
    splits = [split for split in ("train", "val", "test") if split in manifest["counts"]]
    train, val = (splits or ["train"])[0], "val" if "val" in splits[1:] else None
    name = "_".join("".join(c if c.isalnum() else " " for c in str(store["builder"]["source"])).split())
    files, advice = {"trl": _trl, "llamafactory": _llamafactory, "swift": _swift}[trainer](trainee, train, val, name, splits)
    return {**files, "README.md": _readme(manifest, store, splits, advice)}


def _trl(trainee: Trainee, train: str, val: str | None, name: str, splits: Sequence[str]) -> tuple[Files, str]:
    template = "chat_template_path: chat_template.jinja   # keeps images between their dates\n" if trainee.chat_template else ""
    evaluation = "dataset_test_split: validation\neval_strategy: steps\neval_steps: 200\n" if val else ""
    config = f"""\
# In this folder: trl sft --config trl.yaml
model_name_or_path: {_quoted(trainee.model)}
{template}dataset_name: data
dataset_train_split: {train}
{evaluation}completion_only_loss: true   # the default for these rows: only answers are supervised
max_length: null             # TRL's default of 1024 tokens cuts answers off behind several images, without an error
use_peft: true
lora_r: 16
lora_alpha: 32
lora_target_modules: {_quoted(lora_modules(BASES[trainee.model_type]))}   # the LLM alone
learning_rate: 1.0e-4
per_device_train_batch_size: 1
gradient_accumulation_steps: 16
num_train_epochs: 1
output_dir: run
"""
    advice = f"""\
```sh
pip install "trl[peft]>=1.0"
trl sft --config trl.yaml          # in this folder
```

or, in a script of your own:

```python
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer

data = load_dataset("FOLDER", split="{train}")
SFTTrainer({trainee.model!r}, SFTConfig("run", max_length=None), data).train()
```

A row has `images` (decoded by `datasets`), `prompt` and `completion`; only the completion is supervised. A conversation of several
answers is one row for each of them. Keep `max_length=None`: with a number TRL cuts, and an answer that is cut off has a loss of 0
and no error. Where a chat template ends in a line break behind the end of an answer, as Qwen's do, TRL supervises that too. It packs
no images. `load_dataset` copies the data once into its cache; `streaming=True` does not.
"""
    return {"trl.yaml": config} | ({"chat_template.jinja": trainee.chat_template} if trainee.chat_template else {}), advice


def _llamafactory(trainee: Trainee, train: str, val: str | None, name: str, splits: Sequence[str]) -> tuple[Files, str]:
    entries = {f"{name}_{split}": {
        "file_name": f"{split}.jsonl", "formatting": "sharegpt", "columns": {"messages": "messages", "images": "images"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    } for split in splits}
    evaluation = f"\n### eval\neval_dataset: {name}_{val}\nper_device_eval_batch_size: 1\neval_strategy: steps\neval_steps: 200\n" if val else ""
    template = TEMPLATES.get(trainee.model_type)
    unknown = "" if template else "   # LLaMA-Factory 0.9.5 has none for this base: register one"
    config = f"""\
# In this folder: llamafactory-cli train llamafactory.yaml

### model
model_name_or_path: {_quoted(trainee.model)}

### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 16
lora_alpha: 32
lora_target: all             # of the LLM: vision tower and projector are frozen by default

### dataset
dataset_dir: .
dataset: {name}_{train}
template: {template or trainee.model_type}{unknown}
cutoff_len: {LONGEST}             # longer samples are cut, so keep it above the longest

### output
output_dir: run
logging_steps: 10
save_steps: 500

### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 16
learning_rate: 1.0e-4
num_train_epochs: 1.0
lr_scheduler_type: cosine
warmup_ratio: 0.03
bf16: true
{evaluation}"""
    advice = """\
```sh
pip install llamafactory
llamafactory-cli train llamafactory.yaml          # in this folder
```

Files are sharegpt with `messages` and `images`; `dataset_info.json` names them. To mix them with data of yours, copy its entries
into your `dataset_info.json` with `file_name` as a full path, and set `media_dir` to this folder. Only answers are supervised, all
of a conversation; `train_on_prompt` and `mask_history` stay off. Images above `image_max_pixels` are made smaller, which moves no
coordinate. `template` must be the one that the base was tuned with, and the result has to be asked in its words: for LLaVA and
Qwen they are LLaMA-Factory's own, system prompt included.
"""
    return {"dataset_info.json": json.dumps(entries, indent=2) + "\n", "llamafactory.yaml": config}, advice


def _swift(trainee: Trainee, train: str, val: str | None, name: str, splits: Sequence[str]) -> tuple[Files, str]:
    evaluation = f"val_dataset: {val}.jsonl\neval_strategy: steps\neval_steps: 200\n" if val else "eval_strategy: 'no'\n"
    config = f"""\
# In this folder: swift sft swift.yaml
model: {_quoted(trainee.model)}
use_hf: true
dataset: {train}.jsonl
{evaluation}split_dataset_ratio: 0
strict: true                 # a row that cannot be read is an error; without it ms-swift drops it
tuner_type: lora
lora_rank: 16
lora_alpha: 32
target_modules: all-linear   # of the LLM: vision tower and projector are frozen by default
max_length: {LONGEST}
truncation_strategy: delete  # longer samples are dropped, none is cut
torch_dtype: bfloat16
per_device_train_batch_size: 1
gradient_accumulation_steps: 16
learning_rate: 1.0e-4
num_train_epochs: 1
warmup_ratio: 0.03
output_dir: run
"""
    advice = """\
```sh
pip install ms-swift
swift sft swift.yaml          # in this folder
```

From elsewhere, set `ROOT_IMAGE_DIR` to this folder: paths of images are relative to it. Only answers are supervised, all of a
conversation (`loss_scale: default`). Boxes stand in the texts as they are, not as `<bbox>` with `objects`, which ms-swift would
write in each model's own way and no longer in GeoTempo's answer grammar. A folder needs `--model_type` and `--template` where its
name does not tell them; for LLaVA (`llava1_5_hf`) ms-swift adds a line break behind every image.
"""
    return {"swift.yaml": config}, advice


def _quoted(text: str) -> str:
    """A text as a YAML scalar."""
    return json.dumps(text, ensure_ascii=False)


def _readme(manifest: Mapping[str, Any], store: Mapping[str, Any], splits: Sequence[str], advice: str) -> str:
    licence = combine(list(store["counts"]["by_licence"]) or ["unknown"])
    trainer, options, rejected = manifest["trainer"], manifest["options"], manifest["rejected"]
    named = {"license_name": licence.text} if hub_licence(licence) == "other" else {}
    files = [{"split": "validation" if split == "val" else split,  # as `datasets` would call it by itself
              "path": f"data/{split}-*.parquet" if trainer == "trl" else f"{split}.jsonl"} for split in splits]
    front = {"license": hub_licence(licence), **named, "language": ["en"], "tags": ["remote-sensing", "earth-observation"],
             "configs": [{"config_name": "default", "data_files": files}]}
    counts = "\n".join(f"| {split} | {manifest['counts'][split]['samples']:,} | {manifest['counts'][split]['rows']:,} |" for split in splits)
    aside = ", ".join(f"{count:,} {reason}" for reason, count in rejected["by_reason"].items())
    answers = [f"numbers {_numbers(options)}"] + ["two points inside every region"] * options["points"]
    answers += [f"a 16 x 16 grid for {'areas' if options['grids'] == 'areas' else 'every region'}"] * (options["grids"] != "none")
    return f"""\
---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip()}
---

# {', '.join(sorted(store['counts']['by_source'])) or 'No samples'}, for {_NAMES[trainer]}

Written by GeoTempo {manifest['geotempo']} from a store of {store['builder']['source']}; the store itself is the better source for
`geotempo train`, which draws geometry, wordings and augmentation anew.

| split | samples | rows |
|---|---|---|
{counts}

{advice}
## What is in it

Images stand where they belong, each after what is known of it: `Image 2 (2021-08-03, Sentinel-2, 10 m): `. Regions are a compact JSON
list, `[{{"image":2,"bbox_2d":[x1,y1,x2,y2],"label":"new building"}}]`: {'; '.join(answers)}. {_SHAPE[options["convention"]["mode"]]}

Set aside: {rejected['total']:,}{f' ({aside}), by name in `rejected.jsonl`' if aside else ''}. Licence of the whole: {licence.text}
"""


_NAMES = {"trl": "TRL", "llamafactory": "LLaMA-Factory", "swift": "ms-swift"}
_SHAPE = {"geotempo": "Images that are not square are padded with grey at the right or bottom.",
          "teochat": "Images are as they were; TEOChat sees the square in their middle."}


def _numbers(options: Mapping[str, Any]) -> str:
    convention = options["convention"]
    if convention["mode"] == "teochat":
        return "0-100 of the image's width and height, in TEOChat's own form"
    return "in pixels of the image" if convention["pixels"] else "0-1000 of the image's width and height"
