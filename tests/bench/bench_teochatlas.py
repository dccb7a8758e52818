"""Records per second and peak memory of building a training file of TEOChatlas's size, against `json.load`.

Writes 554,071 records (TEOChatlas's number, Irvin et al., arXiv 2410.06234) in an array of some 766 MB, made of the
records of the tests' fixture with numbers of their own; all of them show the same few small images, so that this
measures the annotation path and not the decoding of images. Then, each in a process of its own:

- `json.load`: the file as the repositories of the field read it;
- `stream`: `stream_records` over the same file;
- `json.load + samples`: the list, then each record as samples, nothing written;
- `build`: `build_store`, images by reference, Parquet shards, digest of the file, journal, with 1 and 2 workers.

Memory is the peak of the resident set of the process, without its workers; `build` with 2 workers is the parent's.

Run: python tests/bench/bench_teochatlas.py [RECORDS] [FOLDER]
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))
from tests.data_builders.fixtures import teochatlas as made

RECORDS, BYTES = 554_071, 766e6
_COMMON = """
import json, sys, time
from pathlib import Path
root, path = Path(sys.argv[1]), Path(sys.argv[1]) / "train" / "instruct.json"
def peak():  # of this program alone; getrusage's also counts the process that started it
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))
from geotempo.data_builders.build import build_store
from geotempo.data_builders.records import stream_records
from geotempo.data_builders.sources import make_source
source, started, before = make_source("teochatlas"), time.perf_counter(), peak()
"""
_RUNS = {
    "json.load": "count = len(json.load(path.open()))",
    "stream": "count = sum(1 for record in stream_records(path))",
    "json.load + samples": "count = sum(len(list(source.record_samples(root, f'train/instruct.json:{n}', record)))"
                           " for n, record in enumerate(json.load(path.open())))",
    "build, 1 worker": "count = build_store('teochatlas', root, root.parent / 'one', images='reference', "
                       "progress=False)['items']",
    "build, 2 workers": "count = build_store('teochatlas', root, root.parent / 'two', images='reference', "
                        "progress=False,"
                        " workers=2)['items']",
}
_REPORT = "\nprint(json.dumps([count, time.perf_counter() - started, before, peak()]))"


def write_records(root: Path, count: int) -> Path:
    """The folder, its training file of `count` records as long on average as those of TEOChatlas."""
    made.write(root, [], {})
    every = made.train_records()
    spare = int(BYTES / RECORDS - sum(len(json.dumps(record)) for record in every) / len(every)) - 24
    texts = [json.dumps({**record, "metadata": {"note": "x" * max(0, spare)}}) for record in every]
    with (root / "train" / "instruct.json").open("w") as handle:
        handle.write("[")
        handle.writelines(("," if number else "") + texts[number % len(texts)] for number in range(count))
        handle.write("]")
    return root


def run(name: str, root: Path) -> tuple[int, float, float, float]:
    """Records, seconds, MB of the resident set with the modules loaded, peak in MB."""
    command = [sys.executable, "-c", f"{_COMMON}{_RUNS[name]}{_REPORT}", str(root)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    count, seconds, before, peak = json.loads(done.stdout.splitlines()[-1])
    return count, seconds, before / 1024, peak / 1024


def main() -> None:
    """Print one line per run."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else RECORDS
    folder = Path(tempfile.mkdtemp(dir=sys.argv[2] if len(sys.argv) > 2 else None))
    try:
        root = write_records(folder / "in", count)
        print(f"{count:,} records, {(root / 'train' / 'instruct.json').stat().st_size / 1e6:,.0f} MB")
        for name in _RUNS:
            records, seconds, before, peak = run(name, root)
            assert records == count, (name, records)
            print(f"{name:20} {seconds:8.1f} s {records / seconds:10,.0f} records/s   peak {peak:7,.0f} MiB "
                  f"({peak - before:+,.0f} above the loaded modules)", flush=True)
        same = all(path.read_bytes() == (folder / "two" / path.relative_to(folder / "one")).read_bytes()
                   for path in (folder / "one").rglob("*.parquet"))
        print(f"1 and 2 workers write the same shards: {same}")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
