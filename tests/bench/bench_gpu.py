"""Speed, utilisation and memory of LoRA and QLoRA on a GPU, at the size of LLaVA-1.5-7B and Qwen3-VL-4B. Not a test; run by hand.

    python tests/bench/bench_gpu.py --out runs/gpu              # all cells; goes on where it stopped
    python tests/bench/bench_gpu.py --out runs/gpu --only llava-7b/lora
    python tests/bench/bench_gpu.py --out /tmp/tiny --tiny      # shapes of a few thousand parameters, also on a CPU

A cell is model/method/images/packing/attention, a process of its own, and a file in `--out` once it is measured, so a run that
is cut off loses one cell. Weights are random, images too. Each step is one micro-batch of about `--tokens` tokens, padded samples
in random order or one pack, through GeoTempo's collator and trainer with its defaults (bfloat16, Liger's kernels where installed);
timed are the steps after the warm-up. Gradients are checkpointed only where the cell does not fit without.

MFU = FLOPs that the steps need / (their seconds x the device's peak in dense bfloat16). The FLOPs are those of
`geotempo.finetune.flops`: 4 a token and frozen weight of the LLM, 6 for adapters, 2 for the frozen vision encoder, 12 x width a layer
and pair of tokens for attention; padding and recomputation count nothing. Two columns: `MFU` counts attention below the
diagonal and logits where a token is supervised; `PaLM's` counts attention as if without causal mask and logits everywhere, as the
numbers of PaLM, Megatron and nanochat do.
"""

import argparse
import importlib.util
import itertools
import json
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from gpu_models import SHAPES, RandomPacks, RandomSamples, build, parameters
from training_runs import status
from transformers import TrainerCallback

from geotempo.finetune import train
from geotempo.finetune.collate import Collator
from geotempo.finetune.flops import Network, Work, network_of, step_flops, utilisation
from geotempo.finetune.methods import add_lora
from geotempo.finetune.packing import plan_packs, positions_for
from geotempo.finetune.recipe import LoraSection
from geotempo.finetune.trainer import GeoTempoTrainer
from geotempo.model.files import write_text

CELLS = ["/".join(cell) for cell in itertools.product(
    SHAPES, ("lora", "qlora"), ("2-images", "8-images"), ("padded", "packed"), ("sdpa", "flash_attention_2"))]
WARM = 3
# Dense bfloat16 with float32 accumulation, from NVIDIA's data sheets (which print twice as much, with sparsity).
PEAKS = {"H200": 989.4e12, "H100 PCIe": 756e12, "H100": 989.4e12, "H20": 148e12, "A100": 312e12, "A800": 312e12, "L40S": 362e12,
         "B200": 2250e12, "L4": 121e12, "A10": 125e12, "RTX 4090": 165.2e12, "RTX 3090": 71e12}
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"


class Meter(TrainerCallback):  # type: ignore[misc]  # transformers is Any to mypy
    """Times of the ends of steps, and what each step was made of."""

    def __init__(self, patches: int, image_tokens: int, image: int) -> None:
        self.patches, self.image_tokens, self.image = patches, image_tokens, image
        self.ends: list[float] = []
        self.work: list[Work] = []
        self.slots = 0

    def saw(self, batch: dict[str, torch.Tensor]) -> None:
        """A batch goes into the model."""
        if "position_ids" in batch:
            counted = batch["position_ids"].reshape(-1, batch["position_ids"].shape[-1])[0]
            starts = [*(counted == 0).nonzero()[:, 0].tolist(), len(counted)]
            lengths = [end - start for start, end in itertools.pairwise(starts)]
        else:
            lengths = batch["attention_mask"].sum(1).tolist()
        images = int((batch["input_ids"] == self.image).sum()) // self.image_tokens
        scored = int((batch["labels"][:, 1:] != -100).sum())
        self.slots += batch["input_ids"].numel()
        self.work.append(Work(lengths, [self.patches] * images, images * self.image_tokens, scored))

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """The step is done when the device says so."""
        if CUDA:
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def result(self, network: Network, peak: float) -> dict[str, float]:
        """Means over the steps behind the warm-up."""
        seconds, timed = self.ends[-1] - self.ends[WARM - 1], self.work[WARM : len(self.ends)]
        tokens = sum(sum(work.lengths) for work in timed)
        flops, palm = (sum(step_flops(network, work, palm=way) for work in timed) for way in (False, True))
        return {"tokens_per_s": tokens / seconds, "mfu": utilisation(flops, seconds, peak), "mfu_palm": utilisation(palm, seconds, peak),
                "tflops_per_s": flops / seconds / 1e12, "seconds_per_step": seconds / len(timed), "samples_per_step":
                sum(len(work.lengths) for work in timed) / len(timed), "full": sum(sum(work.lengths) for work in self.work) / self.slots}


class Measured(GeoTempoTrainer):
    """Shows its batches to a meter."""

    meter: Meter

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Count, then train."""
        self.meter.saw(inputs)
        return super().training_step(model, inputs, *args, **kwargs)


def lacking(cell: str) -> str | None:
    """Why a cell cannot run here; None if it can."""
    _, method, _, _, attention = cell.split("/")
    if attention == "flash_attention_2" and not CUDA:
        return "flash-attn needs a GPU"
    needed = {"qlora": "bitsandbytes", "flash_attention_2": "flash_attn"}
    missing = [needed[part] for part in (method, attention) if part in needed and importlib.util.find_spec(needed[part]) is None]
    return f"{missing[0]} is not installed" if missing else None


def peak_flops(given: float | None) -> tuple[float, str]:
    """Peak of the device in operations per second, and where it is from."""
    if given:
        return given * 1e12, "given"
    name = torch.cuda.get_device_name() if CUDA else platform.processor() or platform.machine()
    known = next((known for known in PEAKS if known in name), None)
    if known:
        return PEAKS[known], f"data sheet of {known}"
    side, dtype = (8192, torch.bfloat16) if CUDA else (1024, torch.float32)
    left, right = (torch.rand(side, side, device=DEVICE, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        (left @ right)[0, 0].item()
        times.append(time.perf_counter() - begin)
    return 2 * side**3 / min(times), f"fastest of 5 products of {side} x {side} matrices"


def measure(cell: str, given: argparse.Namespace, folder: Path, *, checkpointing: bool) -> dict[str, Any]:
    """One cell, in this process."""
    name, method, images, packing, attention = cell.split("/")
    shape, count, dtype = SHAPES[name](given.tiny), int(images[0]), torch.bfloat16 if CUDA else torch.float32
    mean = sum(RandomSamples(shape, count, 64).lengths) / 64
    fits = max(1, int(given.tokens // mean))
    samples = RandomSamples(shape, count, (fits + 2) * (WARM + given.steps))
    torch.manual_seed(0)
    model = build(shape, attention, DEVICE, dtype, quantized=method == "qlora")
    model = add_lora(model, LoraSection(r=16, alpha=32, dropout=0.0))
    packed = packing == "packed"
    data = RandomPacks(samples, plan_packs(samples.lengths, [count] * len(samples), max(given.tokens, *samples.lengths), None, 0)) \
        if packed else samples
    args = train.training_arguments({
        "output_dir": str(folder), "per_device_train_batch_size": 1 if packed else fits, "max_steps": WARM + given.steps,
        "learning_rate": 1e-4, "bf16": CUDA, "gradient_checkpointing": checkpointing, "logging_strategy": "no", "save_strategy": "no",
        "report_to": "none", "disable_tqdm": True, "dataloader_num_workers": 2 if CUDA else 0})
    meter = Meter(shape.patches, shape.image_tokens, shape.image)
    collator = Collator(0, shape.config.get_text_config().max_position_embeddings, positions_for(shape.config) if packed else None)
    trainer = Measured(model=model, args=args, train_dataset=data, data_collator=collator, learning_rates={}, lengths=samples.lengths,
                       callbacks=[meter])
    trainer.meter = meter
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    peak, origin = peak_flops(given.peak)
    memory = torch.cuda.max_memory_allocated() / 2**30 if CUDA else status("VmHWM") / 2**20
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return {**meter.result(network_of(model), peak), "peak_gib": memory, "peak_tflops": peak / 1e12, "peak_from": origin,
            "checkpointing": checkpointing, "parameters": parameters(shape), "trainable": trainable,
            "device": torch.cuda.get_device_name() if CUDA else f"CPU, {torch.get_num_threads()} threads", "torch": torch.__version__,
            "tokens": given.tokens, "tiny": given.tiny}


def run_cell(cell: str, given: argparse.Namespace) -> dict[str, Any]:
    """One cell in a process of its own, again with gradient checkpointing if memory runs out; its result is on disk before it is returned."""
    command = [sys.executable, __file__, *sys.argv[1:], "--measure", cell]
    for extra in ([], ["--checkpointing"]):
        done = subprocess.run([*command, *extra], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            break
        result = {"error": next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no message")[:200]}
        if given.checkpointing or "out of memory" not in done.stderr:
            break
    write_text(path_of(given.out, cell), json.dumps(result, indent=1))
    return result


def path_of(out: Path, cell: str) -> Path:
    """File of a cell's result."""
    return out / (cell.replace("/", ".") + ".json")


def table(out: Path, cells: Sequence[str]) -> str:
    """Markdown of what is there."""
    lines = ["| model | method | images | batch | attention | tokens/s | MFU | PaLM's | peak GiB | checkpointed | tokens in the batch | step |",
             "|---|---|---|---|---|---|---|---|---|---|---|---|"]
    for cell in cells:
        name, method, images, packing, attention = cell.split("/")
        start = f"| {name} | {method} | {images[0]} | {packing} | {attention} |"
        if lacking(cell):
            lines.append(f"{start} not run: {lacking(cell)} |||||||")
        elif not path_of(out, cell).is_file():
            lines.append(f"{start} not run yet |||||||")
        else:
            lines.append(f"{start} {_numbers(json.loads(path_of(out, cell).read_text(encoding='utf-8')))}")
    return "\n".join(lines)


def _numbers(found: dict[str, Any]) -> str:
    if "error" in found:
        return f"failed: {found['error']} |||||||"
    return (f"{found['tokens_per_s']:,.0f} | {100 * found['mfu']:.1f} % | {100 * found['mfu_palm']:.1f} % | {found['peak_gib']:.1f} | "
            f"{'yes' if found['checkpointing'] else 'no'} | {100 * found['full']:.1f} % | {1000 * found['seconds_per_step']:.0f} ms |")


def main() -> None:
    """Measure what is not measured yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--only", default="", help="cells that begin with this")
    parser.add_argument("--tokens", type=int, default=8192, help="of a micro-batch")
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device in dense bfloat16, where the table does not know it")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to see that everything runs")
    parser.add_argument("--checkpointing", action="store_true", help="checkpoint gradients in all cells")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.tiny and given.tokens == parser.get_default("tokens"):
        given = argparse.Namespace(**{**vars(given), "tokens": 1024})
    if given.measure:
        print(json.dumps(measure(given.measure, given, given.out / "run", checkpointing=given.checkpointing)))
        return
    if not CUDA and not given.tiny:
        parser.error("there is no GPU; --tiny runs on a CPU")
    cells = [cell for cell in CELLS if cell.startswith(given.only)]
    if not cells:
        parser.error(f"--only {given.only!r} is the beginning of no cell; they are {CELLS[0]}, ... {CELLS[-1]}")
    given.out.mkdir(parents=True, exist_ok=True)
    for cell in cells:
        if lacking(cell) is None and not path_of(given.out, cell).is_file():
            print(f"{cell}: {_numbers(run_cell(cell, given))}", file=sys.stderr, flush=True)
    _report(given, cells)


def _report(given: argparse.Namespace, cells: Sequence[str]) -> None:
    done = [json.loads(path_of(given.out, cell).read_text(encoding="utf-8")) for cell in cells if path_of(given.out, cell).is_file()]
    facts = sorted({f"{found['device']}, torch {found['torch']}, peak {found['peak_tflops']:.1f} TFLOP/s ({found['peak_from']})"
                    for found in done if "device" in found})
    sizes = ", ".join(f"{name} {parameters(SHAPES[name](given.tiny)) / 1e9:.3f} billion" for name in SHAPES)
    print(f"`python {shlex.join(sys.argv)}`: {'; '.join(facts)}. Parameters: {sizes}.\n\n{table(given.out, cells)}")


if __name__ == "__main__":
    main()
