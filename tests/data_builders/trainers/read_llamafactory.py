"""What LLaMA-Factory makes of exported data: run by its own Python, `read_llamafactory.py FOLDER BASE TEMPLATE`.

Prints one JSON list: of every training sample the supervised text, the whole text and the mean of each image's pixels.
"""

import json
import os
import sys

import yaml
from llamafactory.data import SFTDataCollatorWith4DAttentionMask, get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer

folder, base, template_name = sys.argv[1:]
os.chdir(folder)
with open("llamafactory.yaml", encoding="utf-8") as handle:
    config = yaml.safe_load(handle)
config |= {"model_name_or_path": base, "template": template_name, "bf16": False, "use_cpu": True, "report_to": "none"}
model_args, data_args, training_args, _, _ = get_train_args(config)
loaded = load_tokenizer(model_args)
template = get_template_and_fix_tokenizer(loaded["tokenizer"], data_args)
rows = get_dataset(template, model_args, data_args, training_args, stage="sft", **loaded)["train_dataset"]
collate = SFTDataCollatorWith4DAttentionMask(template=template, **loaded)
out = []
for row in rows:
    batch = collate([dict(row)])
    labels, ids = batch["labels"][0], batch["input_ids"][0]
    pixels = batch["pixel_values"] if row["images"] else []
    out.append({"supervised": loaded["tokenizer"].decode(labels[labels != -100]), "text": loaded["tokenizer"].decode(ids),
                "images": [float(picture.mean()) for picture in pixels]})
print("\n" + json.dumps(out))
