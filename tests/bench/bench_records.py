"""A TEOChatlas-shaped annotation file of 554,071 records: records per second and peak memory, next to `json.load`.

Run: python tests/bench/bench_records.py [RECORDS]        default 554071, a file of about 770 MB in a temporary folder

Each line is a process of its own: reading the file with `json.load`, streaming it, and building a store from it (source
teochatlas, every image looked up, decoded once and stored once) with one and with two workers. The images are few and tiny and
shared by many records, so that what is measured is the handling of records.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

RECORDS = 554_071
POOL = 64
FOLDER = "train/TEOChatlas_images/xBD"
WORDS = ["the", "buildings", "along", "the", "river", "have", "been", "damaged", "by", "the", "flood", "and", "several", "roofs", "are", "missing", "while", "the", "road", "to", "the", "north", "stays", "open", "and", "the", "fields", "around", "the", "village", "are", "under", "water"]


def make(root: Path, records: int) -> Path:
    """Write the file as a stream, and the pool of images."""
    rng = np.random.default_rng(0)
    names = [f"xBD/hurricane-harvey_{number:08d}_{when}_disaster_0_0.png" for number in range(POOL // 2) for when in ("pre", "post")]
    (root / FOLDER).mkdir(parents=True)
    for name in names:
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(root / "train/TEOChatlas_images" / name)
    path = root / "train" / "instruct.json"
    with path.open("w") as handle:
        for number in range(records):
            handle.write(("[" if number == 0 else ",") + json.dumps(record(rng, names, number)))
        handle.write("]")
    return path


def record(rng: np.random.Generator, names: list[str], number: int) -> dict[str, object]:
    """One to eight images, a question with a box, an answer of about 150 words."""
    count = int(rng.integers(1, 9))
    x, y = rng.integers(0, 80, 2)
    answer = " ".join(WORDS[index] for index in rng.integers(0, len(WORDS), 150))
    return {"id": number, "dataset": "xBD", "task": "region_based_question_answering",
            "video": [names[index] for index in rng.integers(0, len(names), count)],
            "timestamp": [f"20{10 + index}-0{1 + int(rng.integers(9))}-1{index}" for index in range(count)], "polygon": [""],
            "conversations": [
                {"from": "human", "value": f"This is a sequence of satellite images: <video>\nWhat happened at [{x}, {y}, {x + 10}, {y + 15}]?"},
                {"from": "gpt", "value": answer}]}


def measure(what: str, root: Path) -> None:
    """Do one thing and print records, seconds, and peak memory of this process and of its largest child, in MiB."""
    start = time.perf_counter()
    path = root / "train" / "instruct.json"
    if what == "json.load":
        with path.open() as handle:
            count = len(json.load(handle))
    elif what == "stream":
        from geotempo.data_builders.records import stream_records

        count = sum(1 for _ in stream_records(path))
    else:
        from geotempo.data_builders.build import build_store

        workers = int(what.split()[1])
        manifest = build_store("teochatlas", root, root / f"store{workers}", workers=workers, progress=False)
        count = manifest["counts"]["samples"]
        assert manifest["rejected"]["total"] == 0
    mine, child = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(count, time.perf_counter() - start, mine, child)


def main(records: int) -> None:
    """All of it, as a table."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        path = make(root, records)
        print(f"{records:,} records, {path.stat().st_size / 2**20:.0f} MiB")
        base = 0.0
        for what in ("json.load", "stream", "build 1", "build 2"):
            done = subprocess.run([sys.executable, __file__, "--measure", what, folder], capture_output=True, text=True, check=True)
            count, seconds, mine, child = map(float, done.stdout.split())
            workers = int(what.split()[1]) if what.startswith("build") else 0
            memory = mine + (workers * child if workers > 1 else 0)
            base = base or memory
            print(f"{what:<10} {count / seconds:>9,.0f} records/s  {seconds:>7.1f} s  {memory:>7.0f} MiB at most, "
                  f"{memory / base:.2f} of json.load's", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2], Path(sys.argv[3]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else RECORDS)
