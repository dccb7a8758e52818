"""CIDEr-D (Vedantam et al. 2015), equal to the code that the captioning field runs (pycocoevalcap `cider_scorer.py`).

Inverse document frequencies come from the evaluated references, so a score belongs to its reference set: it must not
be compared across subsets, and it is 0 where all references are the same everywhere. `reference_hash` names the set,
every result carries it, and `require_same_references` refuses a comparison across sets.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from geotempo.eval.metrics.ngrams import ORDER, Corpus, Grams, IntArray
from geotempo.eval.metrics.text import normalise_caption
from geotempo.model.errors import InputError

FloatArray = npt.NDArray[np.float64]
SIGMA = 6.0
SCALE = 10.0


def cider_d(captions: Sequence[str], references: Sequence[Sequence[str]]) -> FloatArray:
    """CIDEr-D of each caption; the corpus score is the mean.

    Args:
        captions: n captions as blank-separated words.
        references: n lists of one or more references, likewise, which also give the document frequencies.

    Returns:
        Array (n,), 0-10 as in the official code (1.41 is what papers print as 141).
    """
    corpus = Corpus.of(captions, references)
    if not len(captions):
        return np.zeros(0)
    pairs, which = np.unique(corpus.captions[corpus.owner] * len(corpus.sentences) + corpus.references,
                             return_inverse=True)
    said, known = pairs // len(corpus.sentences), pairs % len(corpus.sentences)
    similar = np.zeros(len(pairs))
    length = np.zeros(len(corpus.sentences))
    for n, grams in enumerate(corpus.grams(), start=1):
        similar += _similarity(grams, _tf_idf(grams, corpus), said, known)
        if n == 2:  # the official code takes the number of bigrams for the length
            length = np.bincount(grams.sentence, grams.count, minlength=len(length)).astype(np.float64)
    similar *= np.exp(-((length[said] - length[known]) ** 2) / (2 * SIGMA**2)) / ORDER
    total = np.bincount(corpus.owner, similar[which.reshape(-1)], minlength=len(captions))
    scores: FloatArray = SCALE * total / np.bincount(corpus.owner, minlength=len(captions))
    return scores


def _tf_idf(grams: Grams, corpus: Corpus) -> FloatArray:
    """Count times inverse document frequency of every entry; a document is all references of one caption."""
    entry, position = grams.entries(corpus.references)
    documents = np.unique(corpus.owner[position] * grams.kinds + grams.gram[entry]) % grams.kinds
    frequency = np.bincount(documents, minlength=grams.kinds)
    rarity = np.log(len(corpus.captions)) - np.log(np.maximum(1, frequency))
    weights: FloatArray = grams.count * rarity[grams.gram]
    return weights


def _similarity(grams: Grams, weight: FloatArray, said: IntArray, known: IntArray) -> FloatArray:
    """Clipped cosine similarity of each pair for one n."""
    own, other, pair = grams.shared(said, known)
    dot = np.bincount(pair, np.minimum(weight[own], weight[other]) * weight[other], minlength=len(said))
    square = np.bincount(grams.sentence, weight**2, minlength=len(grams.start) - 1)
    norm = np.sqrt(square[said] * square[known])
    similar: FloatArray = np.divide(dot, norm, out=np.zeros(len(said)), where=norm > 0)
    return similar


def reference_hash(references: Sequence[Sequence[str]]) -> str:
    """SHA-256 of a reference set, whatever the order of its samples; two CIDEr-D compare only where it is equal."""
    known = sorted([normalise_caption(text) for text in texts] for texts in references)
    return hashlib.sha256(json.dumps(known, ensure_ascii=False).encode(errors="surrogatepass")).hexdigest()


def require_same_references(first: Mapping[str, object], second: Mapping[str, object]) -> None:
    """Refuse to compare two results with CIDEr-D of different reference sets.

    Args:
        first: A result with the key `references_sha256`.
        second: The other one.

    Raises:
        InputError: The sets differ, or a result does not name its set.
    """
    hashes = [result.get("references_sha256") for result in (first, second)]
    if None in hashes:
        raise InputError("a result without references_sha256 does not say which references its CIDEr-D was computed "
                         "from and cannot be compared; score its predictions again")
    if hashes[0] != hashes[1]:
        raise InputError(f"CIDEr-D of different reference sets ({str(hashes[0])[:12]} and {str(hashes[1])[:12]}) cannot be "
                         "compared, since its word weights come from the references; score both on the same samples")
