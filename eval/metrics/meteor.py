"""METEOR-exact-stem: METEOR 1.5 (Denkowski and Lavie 2014) with its exact and stem matchers, in pure Python.

The same as `java -jar meteor-1.5.jar - - -stdio -l en -norm -m "exact stem"` (weights 1 and 0.6, alpha 0.85, beta 0.2,
gamma 0.6, delta 0.75), including how the jar's beam search breaks ties. METEOR-1.5 proper has synonyms and
paraphrases besides and scores about two points higher on words; on strings of word ids, which have neither, the two
agree (`geotempo.eval.metrics.meteor_jar` calls the jar). Two properties that surprise: the best reference is chosen per
caption before anything is summed, and a caption equal to its reference adds no chunk to the sum.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from geotempo.eval.metrics.meteor_words import FUNCTION_WORDS, normalise
from geotempo.eval.metrics.stem import stem

FloatArray = npt.NDArray[np.float64]
NAME = "METEOR-exact-stem"
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
WEIGHTS = (1.0, 0.6, 0.8, 0.6)
"""Of the matchers exact, stem, synonym, paraphrase; only the first two are here."""

BEAM = 40
COLUMNS = 15
EXACT, STEM = 0, 1


class _Match(NamedTuple):
    """A word of the caption that fits a word of the reference."""

    word: int
    module: int


class _Path(NamedTuple):
    """A partial alignment of the beam search; smaller is better by the first three fields."""

    missed: int  # minus the exact matches: a stem match counts half a word there, which the jar rounds to none
    chunks: int
    distance: int
    end: int  # one past the caption's word matched last, -1 after a gap
    used: int  # bits of the caption's words
    picks: tuple[_Match | None, ...]


def _candidates(caption: Sequence[str], reference: Sequence[str]) -> list[list[_Match]]:
    """For each word of the reference the words of the caption that fit it, the exact ones first."""
    same: dict[str, list[int]] = {}
    for i, word in enumerate(caption):
        same.setdefault(word, []).append(i)
    exact = [[_Match(i, EXACT) for i in same.get(word, ())] for word in reference]
    if caption == reference:
        return exact
    stems: dict[str, list[int]] = {}
    for i, word in enumerate(caption):
        stems.setdefault(stem(word), []).append(i)
    for word, found in zip(reference, exact, strict=True):
        found += [_Match(i, STEM) for i in stems.get(stem(word), ()) if caption[i] != word]
    return exact


def _fixed(candidates: list[list[_Match]]) -> list[_Match | None]:
    """The matches that compete with no other one."""
    wanted: dict[int, int] = {}
    for found in candidates:
        for match in found:
            wanted[match.word] = wanted.get(match.word, 0) + 1
    return [found[0] if len(found) == 1 and wanted[found[0].word] == 1 else None for found in candidates]


def _align(candidates: list[list[_Match]]) -> tuple[tuple[_Match | None, ...], int]:
    """The jar's beam search over the reference from left to right.

    Returns:
        For each word of the reference its match or None, and the number of chunks.
    """
    fixed = _fixed(candidates)
    used = sum(1 << match.word for match in fixed if match)
    paths = [_Path(0, 0, 0, -1, used, ())]
    for position, (found, only) in enumerate(zip(candidates, fixed, strict=True)):
        if len(paths) > 1:
            paths.sort(key=_rank)
        following: list[_Path] = []
        for path in paths[:BEAM]:
            if only:
                following.append(_extended(path, only, position, abs(position - only.word), path.used))
            else:
                _branch(path, found, position, following)
        paths = following
    paths.sort(key=_rank)
    best = min(paths[:BEAM], key=_final_rank)
    return best.picks, best.chunks + (best.end != -1)


def _rank(path: _Path) -> tuple[int, int, int]:
    return path[:3]


def _final_rank(path: _Path) -> tuple[int, int, int]:
    """At the end the open chunk counts too."""
    return path.missed, path.chunks + (path.end != -1), path.distance


def _extended(path: _Path, match: _Match, position: int, distance: int, used: int) -> _Path:
    """A path that matches the word at `position`."""
    broken = path.end not in (-1, match.word)
    return _Path(path.missed - (match.module == EXACT), path.chunks + broken, path.distance + distance, match.word + 1,
                 used, (*path.picks, match))


def _branch(path: _Path, found: list[_Match], position: int, following: list[_Path]) -> None:
    """Every free candidate, then the word left without a match.

    The jar adds a candidate's distance to the path that comes after it, not to its own; ties depend on it.
    """
    distance = 0
    for match in found:
        if not path.used >> match.word & 1:
            following.append(_extended(path, match, position, distance, path.used | 1 << match.word))
            distance += abs(position - match.word)
    following.append(_Path(path.missed, path.chunks + (path.end != -1), path.distance + distance, -1, path.used,
                           (*path.picks, None)))


@lru_cache(maxsize=262144)
def _statistics(caption: tuple[str, ...], reference: tuple[str, ...]) -> tuple[float, ...]:
    """Sufficient statistics of one pair; the columns of `meteor_statistics`, chunks not yet set to 0."""
    picks, chunks = _align(_candidates(caption, reference))
    content, function = [0, 0, 0, 0], [0, 0, 0, 0]  # of caption and reference by module
    for position, match in enumerate(picks):
        if match:
            for side, word in enumerate((caption[match.word], reference[position])):
                (function if word in FUNCTION_WORDS else content)[2 * match.module + side] += 1
    matched = sum(match is not None for match in picks)
    return (len(caption), len(reference), sum(word in FUNCTION_WORDS for word in caption),
            sum(word in FUNCTION_WORDS for word in reference),
            *content[:2], *function[:2], *content[2:], *function[2:], chunks, matched, matched)


def meteor_statistics(captions: Sequence[str], references: Sequence[Sequence[str]]) -> FloatArray:
    """What corpus METEOR-exact-stem sums over.

    Args:
        captions: n captions as the protocol prepares them; METEOR's own normaliser follows.
        references: n lists of one or more references.

    Returns:
        Array (n, 15), the jar's own order for the best reference of each caption: words of caption and reference,
        function words of both; exact matches: content words of both, function words of both; stem matches: the same;
        chunks (0 for a perfect caption), matched words of both.
    """
    pairs: dict[tuple[tuple[str, ...], tuple[str, ...]], int] = {}
    known = [[pairs.setdefault((normalise(caption), normalise(text)), len(pairs)) for text in texts]
             for caption, texts in zip(captions, references, strict=True)]
    rows = np.array([_statistics(*pair) for pair in pairs], dtype=np.float64).reshape(-1, COLUMNS)
    scores = meteor_from_sums(rows).tolist()
    best = [max(of_caption, key=scores.__getitem__) for of_caption in known]  # the first one among equals
    return without_perfect_chunks(rows[best])


def without_perfect_chunks(rows: FloatArray) -> FloatArray:
    """Rows of single captions with 0 chunks where the caption is perfect, as the jar adds them up."""
    rows = rows.copy()
    rows[..., -3] = np.where(_perfect(rows), 0.0, rows[..., -3])
    return rows


def _perfect(sums: FloatArray) -> npt.NDArray[np.bool_]:
    """Whether every word of both sides is matched, in one chunk."""
    matches = sums[..., 4:-3].reshape(*sums.shape[:-1], -1, 2).sum(axis=-2)
    result: npt.NDArray[np.bool_] = (matches == sums[..., :2]).all(axis=-1) & (sums[..., -3] == 1)
    return result


def meteor_from_sums(sums: FloatArray) -> FloatArray:
    """METEOR from summed statistics.

    Args:
        sums: Array (..., 7 + 4 m) for m matchers, sums of `meteor_statistics` over captions (m = 2) or of the jar's own
            statistics (m = 4).

    Returns:
        Array (...), 0-1; 0 where nothing matches.
    """
    lengths, function = sums[..., 0:2], sums[..., 2:4]
    weighted = DELTA * (lengths - function) + (1 - DELTA) * function
    matched = np.zeros_like(weighted)
    for module, weight in zip(range((sums.shape[-1] - 7) // 4), WEIGHTS, strict=False):
        first = 4 + 4 * module
        matched += weight * (DELTA * sums[..., first : first + 2] + (1 - DELTA) * sums[..., first + 2 : first + 4])
    shares = np.divide(matched, weighted, out=np.zeros_like(matched), where=weighted > 0)
    precision, recall = shares[..., 0], shares[..., 1]
    below = (1 - ALPHA) * recall + ALPHA * precision
    mean = np.divide(precision * recall, below, out=np.zeros_like(below), where=below > 0)
    words = sums[..., -2:].sum(axis=-1) / 2
    fragmentation = np.divide(sums[..., -3], words, out=np.zeros_like(words), where=(words > 0) & ~_perfect(sums))
    scores: FloatArray = np.maximum(mean * (1 - GAMMA * fragmentation**BETA), 0.0)
    return scores
