"""How many greedy answers differ when TEOChat's images are prepared by the stock `CLIPImageProcessor`.

Two models with random weights: the parity fixture (shared/fixtures/teochat) on its three PNGs, and a checkpoint in the
original's layout (`tests/teochat_layout.py`) on made images of four sizes. Random weights answer at random, so the
counts say that the difference matters, not how much it costs the published model.

Run: python tests/bench/bench_stock_processor.py [IMAGES]
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from geotempo.model.checkpoints import load_checkpoint
from geotempo.model.teochat_import import ImportPlan, import_teochat

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.teochat_layout import tokenizer_bytes, write_checkpoint, write_merged, write_vision

FIXTURE = Path(__file__).parents[2].parent / "shared" / "fixtures" / "teochat"
TOKENS = 32


def made_image(seed: int) -> Image.Image:
    """Edges and noise at one of four sizes."""
    rng = np.random.default_rng(seed)
    size = [(256, 256), (500, 306), (220, 300), (512, 512)][seed % 4]
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.NEAREST)
    return Image.fromarray(np.asarray(coarse) // 2 + rng.integers(0, 128, (*size[::-1], 3), dtype=np.uint8))


@torch.inference_mode()
def count(source: Path, vision: Path | None, pictures: list[Image.Image], work: Path) -> str:
    """Import a checkpoint twice and compare the answers to one question about each picture."""
    for kind in ("exact", "stock"):
        import_teochat(ImportPlan(source, work / kind, vision=vision, image_processor=kind))
    model, exact = load_checkpoint(work / "exact")
    stock = load_checkpoint(work / "stock")[1]
    changed, most, mean = 0, 0.0, 0.0
    for shown in pictures:
        messages = [{"role": "user", "content": [{"type": "text", "text": "Image 1: "}, {"type": "image", "image": shown},
                                                 {"type": "text", "text": "\nWere any buildings torn down?"}]}]
        given = [processor.apply_chat_template(messages, tokenize=True, return_dict=True, add_generation_prompt=True,
                                               return_tensors="pt") for processor in (exact, stock)]
        answers = [model.generate(**inputs, max_new_tokens=TOKENS)[0].tolist() for inputs in given]
        changed += answers[0] != answers[1]
        difference = (given[0]["pixel_values"] - given[1]["pixel_values"]).abs()
        most, mean = max(most, difference.max().item()), mean + difference.mean().item() / len(pictures)
    return (f"{changed} of {len(pictures)} greedy answers of {TOKENS} tokens differ under "
            f"{type(stock.image_processor).__name__}; pixels by {most:.3f} at most, {mean:.4f} on average")


if __name__ == "__main__":
    images = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if FIXTURE.is_dir():
            config = json.loads((FIXTURE / "config.json").read_text(encoding="utf-8"))
            weights = load_file(FIXTURE / "teochat_tiny.safetensors")
            fixture = write_checkpoint(root / "fixture", weights, config, tokenizer_bytes(320))
            pngs = [Image.open(FIXTURE / f"image{i}.png") for i in (1, 2, 3)]
            print("parity fixture, its 3 PNGs:", count(fixture, None, pngs, root / "a"))
        source, vision = write_merged(root / "TEOChat-tiny"), write_vision(root / "LanguageBind_Image")
        pictures = [made_image(i) for i in range(images)]
        print(f"original layout, {images} made images:", count(source, vision, pictures, root / "b"))
