"""Pairs per second of a build with one worker, two workers and Ray, next to a plain script that does the same.

Run: python tests/bench/bench_build.py [PAIRS]            default 2000 pairs of 256 x 256 PNG in LEVIR-CC's layout

The plain script does what the field's conversion scripts do: `json.load`, Pillow opens and decodes both images, they are copied, and
one JSON file of LLaVA records is written: two conversations per pair, as we make two samples. Ours decodes as well, and besides
that hashes every image, stores it once, checks sizes, writes Parquet, and could be killed at any moment.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

PAIRS = 2000


def make(root: Path, pairs: int) -> None:
    """Smoothed noise, which compresses about as an aerial image does, and five captions each."""
    images = []
    rng = np.random.default_rng(0)
    for number in range(pairs):
        name = f"train_{number:06d}.png"
        for side in "AB":
            path = root / "images" / "train" / side / name
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = Image.fromarray(rng.integers(0, 255, (256, 256, 3), dtype=np.uint8))
            noise.filter(ImageFilter.GaussianBlur(1)).save(path, compress_level=1)
        sentences = [{"raw": f" {count} houses have been built beside the road ."} for count in rng.integers(1, 9, 5)]
        images.append({"filename": name, "filepath": "train", "split": "train", "changeflag": 1, "sentences": sentences})
    (root / "LevirCCcaptions.json").write_text(json.dumps({"images": images}))


def plain(root: Path, out: Path) -> None:
    """The usual conversion script."""
    records = []
    for entry in json.loads((root / "LevirCCcaptions.json").read_text())["images"]:
        names = []
        for side in "AB":
            path = root / "images" / entry["split"] / side / entry["filename"]
            with Image.open(path) as picture:
                picture.load()
            target = out / "images" / f"{side}_{entry['filename']}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            names.append(target.name)
        for question, answer in (("Describe the changes.", entry["sentences"][0]["raw"].strip(" .")), ("Has anything changed?", "yes")):
            records.append({"id": len(records), "image": names, "conversations": [
                {"from": "human", "value": f"<image> <image> {question}"}, {"from": "gpt", "value": answer}]})
    (out / "train.json").write_text(json.dumps(records))


def measure(what: str, root: Path, out: Path) -> None:
    """Do one thing and print its seconds, without Python's start."""
    if what == "plain":
        start = time.perf_counter()
        plain(root, out)
    elif what == "ray":
        import ray

        from geotempo.data_builders.cluster import build_on_ray

        ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
        start = time.perf_counter()
        build_on_ray("levir-cc", root, out, shards=4, progress=False)
    else:
        from geotempo.data_builders.build import build_store

        start = time.perf_counter()
        build_store("levir-cc", root, out, workers=int(what), progress=False)
    print(time.perf_counter() - start)


def main(pairs: int) -> None:
    """All of it, as a table."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "in"
        make(root, pairs)
        base = 0.0
        for what in ("plain", "1", "2", "ray"):
            done = subprocess.run([sys.executable, __file__, "--measure", what, str(root), str(Path(folder) / f"out_{what}")],
                                  capture_output=True, text=True, check=True)
            seconds = float(done.stdout.split()[-1])
            base = base or seconds
            name = {"plain": "plain script", "ray": "Ray, 2 CPUs, 4 shards"}.get(what, f"{what} worker(s)")
            print(f"{name:<22} {pairs / seconds:>7.0f} pairs/s, {base / seconds:.2f} times the plain script", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS)
