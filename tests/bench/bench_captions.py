"""Caption metrics beside pycocoevalcap: equal, and how much faster; METEOR-exact-stem beside its Java program.

Run: python tests/bench/bench_captions.py [SAMPLES]    (default 10,000, 5 references each; needs pycocoevalcap and Java)

Two corpora: one as repetitive as LEVIR-CC (half of the sentences are one), and one in which no two sentences are the
same. Ends with an error where a score differs by more than 1e-6 (METEOR: 0.02, both on the scale to 100), or where the
three metrics of pycocoevalcap together are not three times as fast.
"""

import contextlib
import io
import random
import sys
import time
from collections.abc import Callable
from typing import Any

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from geotempo.eval.metrics.bleu import bleu_from_sums, bleu_statistics
from geotempo.eval.metrics.bootstrap import interval
from geotempo.eval.metrics.ciderd import cider_d
from geotempo.eval.metrics.meteor import meteor_from_sums, meteor_statistics
from geotempo.eval.metrics.meteor_jar import available, jar_statistics
from geotempo.eval.metrics.rouge import rouge_l

WORDS = ["a", "some", "many", "road", "roads", "building", "buildings", "house", "villa", "tree", "trees", "forest", "is", "are",
         "built", "removed", "appear", "appears", "along", "beside", "the", "the", "in", "north", "of", "scene", "bareland"]
FASTER, CLOSE, CLOSE_METEOR = 3.0, 1e-6, 0.02


def repetitive(rng: random.Random) -> str:
    """Half of the time one sentence, else 6 to 14 words."""
    return "the scene is the same as before" if rng.random() < 0.5 else " ".join(rng.choices(WORDS, k=rng.randint(6, 14)))


def distinct(rng: random.Random) -> str:
    """6 to 14 of 300 words, the first ones frequent as in a language."""
    return " ".join(f"w{int(300 * rng.random() ** 3)}" for _ in range(rng.randint(6, 14)))


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """A result and its time in seconds."""
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        result = function()
    return result, time.perf_counter() - start


def row(name: str, ours: float, theirs: float, seconds: float, official: float) -> float:
    """Print a row and return the difference of the scores."""
    print(f"  {name:28}{ours:10.4f}{theirs:10.4f}{abs(ours - theirs):10.1e}{seconds:9.2f} s{official:9.2f} s{official / seconds:7.1f} x",
          flush=True)
    return abs(ours - theirs)


def bench(title: str, said: list[str], known: list[list[str]]) -> list[str]:
    """One corpus; returns what is not as it must be."""
    answers, references = {i: [text] for i, text in enumerate(said)}, dict(enumerate(known))
    print(f"{title}: {len(said)} captions, {len(known[0])} references each\n"
          f"  {'':28}{'ours':>10}{'official':>10}{'apart':>10}{'ours':>11}{'official':>11}")
    statistics, bleu_time = timed(lambda: bleu_statistics(said, known))
    rouge, rouge_time = timed(lambda: rouge_l(said, known).mean())
    cider, cider_time = timed(lambda: cider_d(said, known).mean())
    (bleu, _), bleu_official = timed(lambda: Bleu(4).compute_score(references, answers))
    (their_rouge, _), rouge_official = timed(lambda: Rouge().compute_score(references, answers))
    (their_cider, _), cider_official = timed(lambda: Cider().compute_score(references, answers))
    sums = statistics.sum(axis=0)
    apart = [row(f"BLEU-{n}", 100 * float(bleu_from_sums(sums, n)), 100 * bleu[n - 1], bleu_time, bleu_official) for n in (1, 2, 3, 4)]
    apart += [row("ROUGE-L", 100 * float(rouge), 100 * float(their_rouge), rouge_time, rouge_official),
              row("CIDEr-D", 100 * float(cider), 100 * float(their_cider), cider_time, cider_official)]
    ours, theirs = bleu_time + rouge_time + cider_time, bleu_official + rouge_official + cider_official
    print(f"  BLEU-1..4, ROUGE-L and CIDEr-D together: {ours:.2f} s and {theirs:.2f} s, {theirs / ours:.1f} times as fast")
    wrong = [f"{title}: scores are {max(apart):.1e} apart"] if max(apart) > CLOSE else []
    wrong += [f"{title}: only {theirs / ours:.1f} times as fast"] if theirs < FASTER * ours else []
    (low, high), seconds = timed(lambda: interval(statistics, [str(i) for i in range(len(said))], bleu_from_sums))
    print(f"  BLEU-4 [{100 * low:.2f}, {100 * high:.2f}] by 2000 resamples in {seconds:.2f} s")
    return wrong + meteor(title, said, known)


def meteor(title: str, said: list[str], known: list[list[str]]) -> list[str]:
    """METEOR-exact-stem in a row of its own, where there is Java."""
    ours, seconds = timed(lambda: 100 * float(meteor_from_sums(meteor_statistics(said, known).sum(axis=0))))
    if not available():
        print(f"  METEOR-exact-stem {ours:.4f} in {seconds:.2f} s; no Java to compare with")
        return [f"{title}: METEOR was not compared"]
    theirs, official = timed(lambda: 100 * float(meteor_from_sums(jar_statistics(said, known, "exact stem").sum(axis=0))))
    apart = row("METEOR-exact-stem", ours, theirs, seconds, official)
    return [f"{title}: METEOR is {apart:.3f} apart"] if apart > CLOSE_METEOR else []


if __name__ == "__main__":
    count, rng = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000, random.Random(0)
    failures = []
    for maker in (repetitive, distinct):
        failures += bench(maker.__name__, [maker(rng) for _ in range(count)], [[maker(rng) for _ in range(5)] for _ in range(count)])
    sys.exit("; ".join(failures) or None)
