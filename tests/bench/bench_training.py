"""GeoTempo's training against TRL's and against a bare PyTorch loop. Not a test; run it by hand on a quiet machine.

    python tests/bench/bench_training.py                       # 9 rounds, about 30 minutes on 2 cores
    python tests/bench/bench_training.py --pairs 2 --steps 4   # to see that it works

One tiny model, one set of procedural scenes, equal numbers of samples with 1 to 8 images, one epoch of optimizer steps of 16
samples. First the batch size of each is searched; then rounds of all four, one process each, one after the other
(packed, TRL, unpacked, floor, packed, …). The numbers of a round stand beside one another, so what else the machine does
touches all alike; reported is the median over rounds of each ratio, with the interval between two order statistics that holds
the true median with at least 95 % (from 9 rounds the second smallest and second largest, 96.1 %; below that all of them).

Timed: the training loop after two steps of warm-up, which for all four reads encoded images from disk, decodes, prepares and
tokenises them, trains and steps. Not timed: imports, building the model, counting tokens for the grouping by length.
The LLM has a vocabulary of 32,000 rows, Llama 2's and the smallest among the bases, though the scenes' tokenizer fills only
1,000 of them. GeoTempo and the floor compute logits where a token is supervised; TRL does so on GPUs, on a CPU it scores
every position. `--vocab 1024` takes this difference away and leaves that of packing alone.
Memory: highest resident size of the process (VmHWM) during the loop.
"""

import argparse
import importlib.metadata
import io
import json
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from geotempo.data_builders import render
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.scenes.samples import scene_samples
from geotempo.data_builders.store import Store, write_store

PER_STEP, IMAGES = 16, 8
# 64 tokens an image; the LLM is wide enough that its matrix products, not Python, take the time.
VISION = {"hidden_size": 192, "intermediate_size": 576, "num_hidden_layers": 4, "num_attention_heads": 6, "image_size": 256,
          "patch_size": 32}
LLM = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 8,
       "max_position_embeddings": 4096, "tie_word_embeddings": True}
ORDER = ("packed", "trl", "unpacked", "floor")
RATIOS = (("GeoTempo packed / TRL", "packed", "trl"), ("GeoTempo unpacked / TRL", "unpacked", "trl"),
          ("GeoTempo packed / floor", "packed", "floor"), ("GeoTempo unpacked / floor", "unpacked", "floor"))
Result = dict[str, float]


def samples(count: int, seed: int) -> Iterator[Sample]:
    """As many samples with 1 image as with 2, …, 8; several questions on a scene, as the generator asks them."""
    for images in range(1, IMAGES + 1):
        left, index = count // IMAGES, 0
        while left:
            fitting = [sample for sample in scene_samples(seed + images, index, dates=images) if len(sample.images) == images][:left]
            yield from fitting
            left, index = left - len(fitting), index + 1


def prepare(folder: Path, steps: int, vocab: int) -> list[int]:
    """Write the store, the same rows as Parquet for TRL and the floor, and the model.

    Returns:
        Tokens of each sample.
    """
    from geotempo.finetune.dataset import StoreDataset
    from geotempo.model.checkpoints import save_checkpoint
    from geotempo.model.compose import Composition, compose

    write_store(samples(steps * PER_STEP, seed=5), folder / "store")
    spec = Composition("tiny-clip", "tiny-llama", VISION, LLM | {"vocab_size": vocab})
    model, processor = compose(spec, render.store_texts(folder / "store"))
    if len(processor.tokenizer) > vocab:
        raise SystemExit(f"--vocab {vocab} is below the tokenizer's {len(processor.tokenizer)} entries")
    save_checkpoint(model, processor, folder / "base")
    store = Store(folder / "store")
    dataset = StoreDataset(store, range(len(store)), processor)
    lengths = [dataset.length(index) for index in range(len(store))]
    pq.write_table(rows(store, lengths), folder / "rows.parquet", row_group_size=64)
    return lengths


def rows(store: Store, lengths: Sequence[int]) -> pa.Table:
    """Conversations in the form that TRL documents for several images, with their lengths for the grouping."""
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageColumn

    part = {"type": Value("string"), "text": Value("string")}
    features = Features({"messages": List({"role": Value("string"), "content": List(part)}), "images": List(ImageColumn()),
                         "length": Value("int32")})
    made = []
    for index, length in enumerate(lengths):
        prompt = render.chat(store[index])
        messages = [{"role": turn["role"], "content": [{"type": piece["type"], "text": piece.get("text")} for piece in turn["content"]]}
                    for turn in prompt.messages]
        made.append({"messages": messages, "images": [{"bytes": png(picture), "path": None} for picture in prompt.images],
                     "length": length})
    return Dataset.from_list(made, features=features).data.table


def png(picture: Image.Image) -> bytes:
    """A picture as the store holds it."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def run(variant: str, folder: Path, spec: dict[str, Any]) -> Result:
    """One run in its own process."""
    threads = {name: str(spec["threads"]) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [sys.executable, str(Path(__file__).with_name("training_runs.py")), variant, str(folder), json.dumps(spec)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | threads | {"HF_HUB_OFFLINE": "1"}, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} failed:\n{done.stderr[-3000:]}")
    result: Result = json.loads(done.stdout.splitlines()[-1])
    print(f"{variant:9} {spec['batch']:2} x {spec['accumulate']:2}: {result['samples_per_s']:6.2f} samples/s, {result['peak_mib']:5.0f} MiB, "
          f"{result['supervised_per_step']:.1f} supervised tokens a step, {result['steps']:.0f} steps", file=sys.stderr, flush=True)
    return result


def candidates(variant: str, lengths: Sequence[int]) -> Iterator[dict[str, int]]:
    """Ways to make a step of 16 samples: micro-batches of 1, 2, …, 16 samples, or 16, …, 1 packs."""
    for batch in (1, 2, 4, 8, 16):
        accumulate = PER_STEP // batch
        if variant != "packed":
            yield {"batch": batch, "accumulate": accumulate}
            continue
        tokens = math.ceil(sum(lengths) / len(lengths) * batch)
        if tokens >= max(lengths):
            yield {"batch": 1, "accumulate": accumulate, "pack_tokens": tokens}


def search(variant: str, folder: Path, base: dict[str, Any], lengths: Sequence[int]) -> dict[str, Any]:
    """The fastest of the candidates, one run each."""
    tried = [(run(variant, folder, base | option)["samples_per_s"], number, option)
             for number, option in enumerate(candidates(variant, lengths))]
    return base | max(tried, key=lambda entry: entry[:2])[2]


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Order statistics that hold the median of a distribution with at least 95 %.

    The number of values below the median is binomial (n, 1/2), whatever the distribution (David & Nagaraja, Order Statistics, 7.1).

    Returns:
        Lower end, upper end and the probability that the median lies between; of fewer than 6 values the smallest and largest.
    """
    ranked, count = sorted(values), len(values)

    def coverage(cut: int) -> float:
        return 1 - 2 * sum(math.comb(count, below) for below in range(cut + 1)) / 2**count

    cut = max((cut for cut in range((count + 1) // 2) if coverage(cut) >= 0.95), default=0)
    return ranked[cut], ranked[-1 - cut], coverage(cut)


def table(rounds: Sequence[dict[str, Result]], specs: dict[str, dict[str, Any]]) -> str:
    """Ratios, then what they are made of."""
    lines = ["| ratio | samples/s | 95 % interval | peak memory | 95 % interval |", "|---|---|---|---|---|"]
    for title, over, under in RATIOS:
        cells = []
        for key in ("samples_per_s", "peak_mib"):
            values = [done[over][key] / done[under][key] for done in rounds]
            low, high, _ = interval(values)
            cells += [f"{statistics.median(values):.3f}", f"{low:.3f}-{high:.3f}"]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    lines += ["", "| run | micro-batch x accumulated | samples/s | peak MiB | MiB before the loop | supervised tokens a step | tokens read |",
              "|---|---|---|---|---|---|---|"]
    for name in ORDER:
        median = {key: statistics.median(done[name][key] for done in rounds) for key in rounds[0][name]}
        packs = f", packs of {specs[name]['pack_tokens']}" if "pack_tokens" in specs[name] else ""
        lines.append(f"| {name} | {specs[name]['batch']} x {specs[name]['accumulate']}{packs} | {median['samples_per_s']:.2f} | "
                     f"{median['peak_mib']:.0f} | {median['start_mib']:.0f} | {median['supervised_per_step']:.1f} | {median['read']:.0f} |")
    return "\n".join(lines)


def machine() -> str:
    """Processor, system and versions."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = next((line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")), platform.machine())
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("geotempo", "torch", "transformers", "trl", "accelerate"))
    return f"{os.cpu_count()} cores of {model}; Python {platform.python_version()}, {versions}"


def main() -> None:
    """Print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=9, help="rounds; of each, every ratio is taken once")
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps of 16 samples in a run")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    parser.add_argument("--vocab", type=int, default=32000, help="rows of the LLM's vocabulary")
    given = parser.parse_args()
    if given.steps < 4 or given.pairs < 1:
        parser.error("needs 4 steps and 1 pair or more")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lengths = prepare(folder, given.steps, given.vocab)
        base = {"threads": given.threads, "seed": 0}
        found = {variant: search(variant, folder, base, lengths) for variant in ("packed", "trl", "floor")}
        specs = found | {"unpacked": found["floor"]}
        rounds = [{variant: run(variant, folder, specs[variant]) for variant in ORDER} for _ in range(given.pairs)]
    print(f"`python {shlex.join(sys.argv)}`: {machine()}; {given.threads} threads.\n\n{len(lengths)} samples of {min(lengths)} to "
          f"{max(lengths)} tokens, {sum(lengths) / len(lengths):.0f} in the mean; {given.vocab:,} rows of vocabulary; {len(rounds)} rounds, intervals by order statistics "
          f"({100 * interval(range(len(rounds)))[2]:.1f} %).\n\n{table(rounds, specs)}")


if __name__ == "__main__":
    main()
