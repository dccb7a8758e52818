"""A set of names that takes eight bytes each, for stores of millions of samples."""

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

RECENT = 65536


class DigestSet:
    """Names by the first eight bytes of their SHA-256.

    Among n names the chance that any two are confused is about n² / 4e19: 3 in a million for ten million names.
    """

    def __init__(self) -> None:
        self._sorted: npt.NDArray[np.uint64] = np.empty(0, dtype=np.uint64)
        self._recent: set[int] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    def __contains__(self, name: str) -> bool:
        return self._holds(_digest(name))

    def add(self, name: str) -> bool:
        """Add a name.

        Returns:
            Whether it is new.
        """
        digest = _digest(name)
        if self._holds(digest):
            return False
        self._recent.add(digest)
        if len(self._recent) >= RECENT:
            self._merge()
        return True

    def update(self, names: Iterable[str]) -> None:
        """Add names, whether new or not."""
        for name in names:
            self.add(name)

    def clear(self) -> None:
        """Forget all names."""
        self._sorted, self._recent = self._sorted[:0], set()

    def _holds(self, digest: int) -> bool:
        if digest in self._recent:
            return True
        place = int(np.searchsorted(self._sorted, np.uint64(digest)))
        return place < len(self._sorted) and int(self._sorted[place]) == digest

    def _merge(self) -> None:
        recent = np.fromiter(self._recent, dtype=np.uint64, count=len(self._recent))
        self._sorted = np.sort(np.concatenate([self._sorted, recent]), kind="stable")
        self._recent = set()


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
