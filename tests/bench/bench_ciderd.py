"""Time of the memoised CIDEr-D and of the bootstrap, on captions as repetitive as those of LEVIR-CC.

Run: python tests/bench/bench_ciderd.py [SAMPLES]
"""

import random
import sys
import time

from geotempo.eval.metrics.bleu import bleu_from_sums, bleu_statistics
from geotempo.eval.metrics.bootstrap import interval
from geotempo.eval.metrics.ciderd import cider_d

WORDS = ["a", "some", "many", "road", "building", "house", "villa", "tree", "forest", "is", "are", "built", "removed", "appear", "along", "beside", "the", "in", "north"]


def captions(count: int, rng: random.Random) -> list[str]:
    """Half of them one sentence, the others of 6 to 14 words."""
    return ["the scene is the same as before" if rng.random() < 0.5 else " ".join(rng.choices(WORDS, k=rng.randint(6, 14)))
            for _ in range(count)]


if __name__ == "__main__":
    count, rng = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000, random.Random(0)
    said, known = captions(count, rng), [captions(5, rng) for _ in range(count)]
    start = time.perf_counter()
    score = cider_d(said, known).mean()
    middle = time.perf_counter()
    statistics = bleu_statistics(said, known)
    low, high = interval(statistics, [str(i) for i in range(count)], bleu_from_sums)
    end = time.perf_counter()
    print(f"{count} captions, 5 references each: CIDEr-D {100 * score:.2f} in {middle - start:.2f} s; "
          f"BLEU-4 [{100 * low:.2f}, {100 * high:.2f}] with 2000 resamples in {end - middle:.2f} s")
