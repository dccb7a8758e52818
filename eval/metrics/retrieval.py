"""Retrieval of image pairs by text, and back: R@K, P@K, mean recall and mean reciprocal rank under a named protocol.

Ties are broken against the model: an item that is not wanted comes first, so that a constant score finds nothing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from geotempo.model.errors import InputError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
PROTOCOLS = {
    "clip": "R@K: share of the queries with a wanted item among the first K (RemoteCLIP `retrieval.py`)",
    "rsicrc": "P@K = hits / K, R@K = hits / wanted, reciprocal rank within K; wanted: every pair with the same flag of "
              "change, or the same text (RSICRC `src/eval.py`). Half of LEVIR-CC's gallery is then right for half of the queries",
    "rsicrc_sub": "rsicrc over the changed pairs alone, each one's own pair and those with the same text: the honest one",
}
CLIP_K = (1, 5, 10)
RSICRC_K = (1, 3, 5, 10)


def ranked(similarity: FloatArray, wanted: BoolArray) -> BoolArray:
    """For each query whether the items are wanted, best first.

    Args:
        similarity: Array (queries, items); NaN comes last.
        wanted: Array (queries, items).
    """
    order = np.lexsort((wanted, -np.nan_to_num(similarity, nan=-np.inf, posinf=np.inf, neginf=-np.inf)), axis=-1)
    result: BoolArray = np.take_along_axis(wanted, order, axis=-1)
    return result


def recall_at(similarity: FloatArray, wanted: BoolArray, ks: Sequence[int] = CLIP_K) -> FloatArray:
    """For each query and K 1 where a wanted item is among the first K, array (queries, ks); its mean is R@K."""
    hits = ranked(similarity, wanted)
    return np.stack([hits[:, :k].any(axis=-1) for k in ks], axis=-1).astype(np.float64)


def clip_scores(similarity: FloatArray, owner: Sequence[int] | None = None) -> dict[str, Any]:
    """R@1, R@5, R@10 from text to pairs and from pairs to text, and their mean mR, times 100.

    Args:
        similarity: Array (texts, pairs).
        owner: For each text the pair that it belongs to; by default text i belongs to pair i.

    Returns:
        `text R@K`, `pair R@K`, `mR`, `n`, `protocol`.

    Raises:
        InputError: A similarity that does not fit.
    """
    similarity = _matrix(similarity)
    owners = np.arange(len(similarity)) if owner is None else np.asarray(owner)
    if owners.shape != similarity.shape[:1] or (owners.size and not 0 <= owners.min() <= owners.max() < similarity.shape[1]):
        raise InputError(f"a similarity of shape {similarity.shape} needs for each text the number of its pair, got {owners!r:.60}")
    wanted = owners[:, None] == np.arange(similarity.shape[1])
    result: dict[str, Any] = {}
    for name, scores, right in (("text", similarity, wanted), ("pair", similarity.T, wanted.T)):
        found = recall_at(scores, right).mean(axis=0)
        result |= {f"{name} R@{k}": 100 * float(value) for k, value in zip(CLIP_K, found, strict=True)}
    return {**result, "mR": sum(result.values()) / len(result), "n": len(similarity), "protocol": "clip"}


def rsicrc_scores(similarity: FloatArray, changed: Sequence[bool], texts: Sequence[str],
                  changed_only: bool = True) -> dict[str, Any]:
    """P@K, R@K and MRR@K for K = 1, 3, 5, 10 from text to pairs, times 100.

    Args:
        similarity: Array (n, n), text i belongs to pair i.
        changed: n flags of change.
        texts: n texts; equal ones are wanted for each other.
        changed_only: Whether the unchanged pairs are left out (`rsicrc_sub`); with them (`rsicrc`) each unchanged pair
            is right for each unchanged text, and each changed one for each changed one.

    Returns:
        `P@K`, `R@K`, `MRR@K`, `n`, `protocol`.

    Raises:
        InputError: A similarity that does not fit.
    """
    similarity, flags = _matrix(similarity), np.asarray(changed, dtype=np.bool_)
    if similarity.shape != (len(flags), len(flags)) or len(texts) != len(flags):
        raise InputError(f"a similarity of shape {similarity.shape} needs as many flags and texts, got {len(flags)} and {len(texts)}")
    number = np.unique(np.asarray(texts, dtype=object).astype(str), return_inverse=True)[1].reshape(-1)
    wanted = number[:, None] == number
    if changed_only:
        similarity, wanted = similarity[np.ix_(flags, flags)], wanted[np.ix_(flags, flags)]
    else:
        wanted = wanted | (flags[:, None] == flags)
    hits = ranked(similarity, wanted)
    result: dict[str, Any] = {}
    for k in RSICRC_K:
        first = hits[:, :k]
        found = first.sum(axis=-1)
        rank = np.where(first.any(axis=-1), 1.0 / (first.argmax(axis=-1) + 1.0), 0.0) if first.size else np.zeros(0)
        result |= {f"P@{k}": _percent(found / max(1, first.shape[-1])), f"R@{k}": _percent(found / wanted.sum(axis=-1)),
                   f"MRR@{k}": _percent(rank)}
    return {**result, "n": len(similarity), "protocol": "rsicrc_sub" if changed_only else "rsicrc"}


def _percent(values: FloatArray) -> float:
    return 100 * float(values.mean()) if values.size else 0.0


def _matrix(similarity: FloatArray) -> FloatArray:
    result = np.asarray(similarity, dtype=np.float64)
    if result.ndim != 2 or not result.size:
        raise InputError(f"a similarity must be a matrix of queries by items, got shape {result.shape}")
    return result
