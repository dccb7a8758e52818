"""What ms-swift makes of exported data: run by its own Python, `read_swift.py FOLDER BASE TEMPLATE`.

Prints one JSON list: of every training sample the supervised text, the whole text and the mean of each image's pixels.
"""

import json
import os
import sys

from swift.cli.main import parse_yaml_args
from swift.pipelines.train.sft import SwiftSft

folder, base, template_name = sys.argv[1:]
os.chdir(folder)
arguments = ["swift.yaml", "--model", base, "--model_type", template_name, "--template", template_name, "--torch_dtype", "float32",
             "--use_cpu", "true", "--dataset_shuffle", "false", "--report_to", "none"]
parse_yaml_args(arguments)
training = SwiftSft(arguments)
rows, _ = training._get_dataset()
out = []
for row in rows:
    encoded = training.template.encode(row)
    decode = training.template.tokenizer.decode
    supervised = [token for token in encoded["labels"] if token != -100]
    out.append({"supervised": decode(supervised), "text": decode(encoded["input_ids"]),
                "images": [float(picture.mean()) for picture in encoded.get("pixel_values", [])]})
print("\n" + json.dumps(out))
