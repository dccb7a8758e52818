"""How long `geotempo --help` takes, as a multiple of starting Python itself.

Run: python tests/bench/bench_help.py
"""

import statistics
import subprocess
import sys
import time


def median_seconds(*command: str, runs: int = 9) -> float:
    """Median wall time of a command over some runs, after one to warm up."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


if __name__ == "__main__":
    bare = median_seconds(sys.executable, "-c", "pass")
    typer = median_seconds(sys.executable, "-c", "import typer, rich")
    ours = median_seconds(sys.executable, "-m", "geotempo", "--help")
    print(f"python -c pass {bare:.3f} s | import typer, rich {typer:.3f} s | geotempo --help {ours:.3f} s "
          f"({ours / bare:.1f} x bare, {ours / typer:.1f} x typer)")
