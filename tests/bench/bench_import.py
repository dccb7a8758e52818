"""Time and memory of `geotempo import-teochat` on a checkpoint of TEOChat's true widths with fewer layers.

Hidden size 4096, vocabulary 32,000, ViT-L/14, float16, three shards; 8 of the 32 layers by default (5 GB on disk, twice
that while it runs). Time is given as a multiple of copying the same shards byte by byte with fsync in the same run; memory
is the peak of the resident set, mapped pages of the shards included, above what it was with the modules loaded.

Run: python tests/bench/bench_import.py [LAYERS] [FOLDER]
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.model.teochat_pieces import model_bytes
from tests.teochat_layout import (
    Sizes,
    layer_shapes,
    model_shapes,
    text_config,
    tower_shapes,
    vision_config,
    write_json,
    write_weights,
)

GB = 1e9
_IMPORT = """
import json, sys, time
from pathlib import Path
from geotempo.model.teochat_import import ImportPlan, import_teochat
def peak():  # of this program alone; getrusage's also counts the process that started it
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))
source, out, base = sys.argv[1:]
before, start = peak(), time.perf_counter()
import_teochat(ImportPlan(Path(source), Path(out), base=Path(base) if base else None))
print(json.dumps({"seconds": time.perf_counter() - start, "kilobytes": peak() - before}))
"""


def quick_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Small random float16 values, one block repeated: real bytes without minutes of random numbers."""
    block = (torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)) * 0.02).half()
    tensors = {}
    for name, shape in shapes.items():
        size = torch.Size(shape).numel()
        tensors[name] = block.repeat(-(-size // len(block)))[:size].reshape(shape)
    return tensors


def write_source(folder: Path, sizes: Sizes) -> None:
    """A merged checkpoint; its tensors are let go of afterwards."""
    folder.mkdir()
    tower = {f"model.image_tower.image_tower.{name}": shape for name, shape in tower_shapes(sizes).items()}
    write_weights(folder, quick_tensors(model_shapes(sizes) | tower), shards=3)
    write_json(folder / "config.json", text_config(sizes) | {"vision_config": vision_config(sizes)})
    letters = "▁ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.,:'"
    (folder / "tokenizer.model").write_bytes(model_bytes({1000 + i: letter for i, letter in enumerate(letters)}))


def write_lora(folder: Path, sizes: Sizes, rank: int = 128) -> None:
    """TEOChat's own adapter shape: rank 128 on every linear layer."""
    folder.mkdir()
    shapes = {f"base_model.model.{name}.lora_{side}.weight": (rank, columns) if side == "A" else (rows, rank)
              for layer in range(sizes.layers) for name, (rows, columns) in layer_shapes(sizes, layer).items() for side in "AB"}
    torch.save(quick_tensors(shapes), folder / "adapter_model.bin")
    projector = {f"base_model.model.{name}": shape for name, shape in model_shapes(sizes).items() if "mm_projector" in name}
    torch.save(quick_tensors(projector), folder / "non_lora_trainables.bin")
    write_json(folder / "config.json", text_config(sizes) | {"vision_config": vision_config(sizes)})
    write_json(folder / "adapter_config.json", {"r": rank, "lora_alpha": 2 * rank, "base_model_name_or_path": "source"})


def in_child(source: Path, out: Path | str, base: Path | str = "") -> dict[str, float]:
    """Run an import in a fresh process."""
    command = [sys.executable, "-c", _IMPORT, str(source), str(out), str(base)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def copy_seconds(files: list[Path], out: Path) -> float:
    """Read and write every byte, and wait for the disk."""
    out.mkdir()
    start = time.perf_counter()
    for file in files:
        with file.open("rb") as source, (out / file.name).open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 24)
            target.flush()
            os.fsync(target.fileno())
    seconds = time.perf_counter() - start
    shutil.rmtree(out)
    return seconds


def run(name: str, source: Path, base: Path | str, files: list[Path], root: Path) -> None:
    """Copy and import twice in turn; report the faster of each."""
    copies, imports = [], []
    for _ in range(2):
        copies.append(copy_seconds(files, root / "copy"))
        imports.append(in_child(source, root / "out", base))
        shutil.rmtree(root / "out")
    size, largest = sum(file.stat().st_size for file in files), max(file.stat().st_size for file in files)
    seconds, peak = min(found["seconds"] for found in imports), max(found["kilobytes"] for found in imports) * 1024
    print(f"{name}: {size / GB:.2f} GB in {len(files)} shards, import {seconds:.1f} s = {seconds / min(copies):.2f} x a "
          f"byte copy ({min(copies):.1f} s); peak memory {peak / GB:.2f} GB above the loaded modules, largest shard "
          f"{largest / GB:.2f} GB: {(peak - largest) / GB:+.2f} GB")


if __name__ == "__main__":
    layers = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    sizes = Sizes(hidden=4096, mlp=11008, layers=layers, heads=32, vocab=32000, vision_hidden=1024, vision_mlp=4096,
                  vision_layers=24, vision_heads=16, patch=14)
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as folder:
        root = Path(folder)
        write_source(root / "source", sizes)
        write_lora(root / "lora", sizes)
        shards = sorted((root / "source").glob("*.bin"))
        run("merged", root / "source", "", shards, root)
        run("LoRA run, rank 128", root / "lora", root / "source", shards, root)
