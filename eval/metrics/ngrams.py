"""Counts of 1- to 4-grams of many sentences at once, in arrays; BLEU and CIDEr-D are built on them.

Sentences are strings of blank-separated words, already normalised by a protocol. Each sentence is counted once,
however often it occurs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
ORDER = 4


@dataclass(frozen=True)
class Grams:
    """The n-grams of all sentences for one n, sorted by sentence and gram.

    Attributes:
        key: `sentence * kinds + gram` of each entry, increasing.
        count: How often the gram occurs in the sentence.
        start: Array (sentences + 1,); entries of sentence s are `start[s]:start[s + 1]`.
        kinds: Number of different grams.
    """

    key: IntArray
    count: IntArray
    start: IntArray
    kinds: int

    @property
    def gram(self) -> IntArray:
        """Number of the gram of each entry."""
        return self.key % self.kinds

    @property
    def sentence(self) -> IntArray:
        """Number of the sentence of each entry."""
        return self.key // self.kinds

    def entries(self, sentences: IntArray) -> tuple[IntArray, IntArray]:
        """All entries of a list of sentences.

        Returns:
            (entry, position in the list), both increasing by position.
        """
        sizes = self.start[sentences + 1] - self.start[sentences]
        position = np.repeat(np.arange(len(sentences)), sizes)
        within = np.arange(len(position)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return self.start[sentences][position] + within, position

    def shared(self, first: IntArray, second: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """Grams that two sentences of a pair share.

        Args:
            first: n sentences.
            second: n sentences, paired with the first.

        Returns:
            (entry in the first, entry in the second, position of the pair).
        """
        other, position = self.entries(second)
        wanted = first[position] * self.kinds + self.gram[other]
        own = np.searchsorted(self.key, wanted)
        own[own == len(self.key)] = 0
        found = self.key[own] == wanted if len(self.key) else np.zeros(0, dtype=np.bool_)
        return own[found], other[found], position[found]


@dataclass(frozen=True)
class Corpus:
    """Captions and references as numbers of different sentences.

    Attributes:
        sentences: The different sentences.
        captions: Array (n,), the sentence of each caption.
        references: Array (m,), the sentences of all references in order.
        owner: Array (m,), the caption that each reference belongs to, increasing.
        lengths: Words of each sentence.
    """

    sentences: list[str]
    captions: IntArray
    references: IntArray
    owner: IntArray
    lengths: IntArray

    @classmethod
    def of(cls, captions: Sequence[str], references: Sequence[Sequence[str]]) -> "Corpus":
        """Number the sentences of n captions and n lists of references."""
        number: dict[str, int] = {}
        own = [number.setdefault(caption, len(number)) for caption in captions]
        known = [number.setdefault(text, len(number)) for texts in references for text in texts]
        owner = np.repeat(np.arange(len(captions)), [len(texts) for texts in references])
        sentences = list(number)
        lengths = np.array([len(text.split()) for text in sentences], dtype=np.int64)
        return cls(sentences, np.array(own, dtype=np.int64), np.array(known, dtype=np.int64), owner, lengths)

    def grams(self) -> Iterator[Grams]:
        """The n-grams for n = 1 to 4."""
        number: dict[str, int] = {}
        words = np.array([number.setdefault(word, len(number)) for text in self.sentences for word in text.split()],
                         dtype=np.int64)
        end = np.repeat(np.cumsum(self.lengths), self.lengths)
        sentence = np.repeat(np.arange(len(self.sentences)), self.lengths)
        gram = words
        for n in range(1, ORDER + 1):
            inside = np.arange(len(words)) + n <= end
            yield _table(sentence[inside], gram[inside], len(self.sentences))
            # The gram one word longer, numbered anew so that the numbers stay small.
            following = np.append(words[n:], np.zeros(min(n, len(words)), dtype=np.int64))
            gram = np.unique(gram * max(1, len(number)) + following, return_inverse=True)[1].reshape(-1)


def _table(sentence: IntArray, gram: IntArray, sentences: int) -> Grams:
    kinds = int(gram.max()) + 1 if len(gram) else 1
    key, count = np.unique(sentence * kinds + gram, return_counts=True)
    start = np.searchsorted(key, np.arange(sentences + 1) * kinds)
    return Grams(key, count.astype(np.int64), start.astype(np.int64), kinds)
