"""Does an evaluation show what training has seen: the same pictures, the same places on other dates, the same events?

Places are compared by name, across the data sets of a family (`geotempo.data_builders.families`), and by footprint. Pictures are
compared by their bytes, and by how they look (`geotempo.data_builders.looks`): two are held to be the same where at most
`MOST_FLIPS` of 128 bits of their difference hashes differ and their thumbnails correlate by `LEAST_LIKENESS` or more.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import shapely

from geotempo.data_builders.census import Census
from geotempo.data_builders.families import unnamed_overlaps
from geotempo.data_builders.looks import LEAST_CONTRAST, Looks, look_at, unseen
from geotempo.data_builders.store import Store

Kind = Literal["bytes", "picture", "place", "footprint", "event"]
Chosen = Sequence[tuple[Store, Sequence[int]]]
"""Stores with the rows of each."""
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

KINDS: dict[Kind, str] = {
    "bytes": "the same image file", "picture": "the same picture, written anew or cut out", "place": "the same place by name",
    "footprint": "the same place by footprint", "event": "the same event",
}
MOST_FLIPS, LEAST_LIKENESS = 12, 0.98
LEAST_OVERLAP = 0.1
"""Share of the smaller footprint that two must have in common; neighbouring tiles touch."""
PAIRS = 1_000_000
"""Pairs of pictures compared at once, which bounds memory."""


@dataclass(frozen=True)
class Shared:
    """Something that both sides show.

    Attributes:
        kind: One of `KINDS`.
        name: The place, the event, the footprint or the id of the evaluated image.
        train: Id of a training sample that shows it.
        evaluation: Id of an evaluation sample that shows it.
        samples: Evaluation samples that show it.
    """

    kind: Kind
    name: str
    train: str
    evaluation: str
    samples: int


@dataclass
class Leaks:
    """What two sets of samples share.

    Attributes:
        train: Training samples compared.
        evaluation: Evaluation samples compared.
        shared: What was found.
        touched: Evaluation samples by kind of leak, and under `any` those with at least one.
        looked_at: Images compared by how they look.
        not_looked_at: Images that were not, since nobody had looked at them before and it would have taken long.
        without_contrast: Looks that cannot be told apart: images and cells of plain water, cloud or black.
        unnamed: Data sets of one family whose places have other names; only pictures tell.
        licences: Training samples by licence.
    """

    train: int = 0
    evaluation: int = 0
    shared: list[Shared] = field(default_factory=list)
    touched: dict[str, int] = field(default_factory=dict)
    looked_at: int = 0
    not_looked_at: int = 0
    without_contrast: int = 0
    unnamed: list[str] = field(default_factory=list)
    licences: dict[str, int] = field(default_factory=dict)

    def lines(self, examples: int = 3) -> list[str]:
        """The report as text.

        Args:
            examples: Examples of each kind.
        """
        found = [f"{self.train:,} training samples, {self.evaluation:,} evaluation samples, {self.looked_at:,} images looked at"]
        found += [f"{'leak':<42} {'shared':>9} {'evaluation samples':>19}"]
        for kind, words in KINDS.items():
            of_kind = [shared for shared in self.shared if shared.kind == kind]
            found.append(f"{words:<42} {len(of_kind):>9,} {self.touched.get(kind, 0):>19,}")
            found += [f"  {_short(shared)}{shared.train} and {shared.evaluation}" for shared in of_kind[:examples]]
        if self.not_looked_at:
            found.append(f"{self.not_looked_at:,} images were not looked at; geotempo leaks TRAIN EVAL looks at all and remembers")
        if self.without_contrast:
            found.append(f"{self.without_contrast:,} images or cells are too plain to be told apart by how they look")
        found += [f"named differently, so compared by pictures only: {pair}" for pair in self.unnamed]
        touched = self.touched.get("any", 0)
        share = touched / self.evaluation if self.evaluation else 0
        return [*found, f"{touched:,} of {self.evaluation:,} evaluation samples ({share:.1%}) show what training shows"]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


def _short(shared: Shared) -> str:
    """A name for people; the id of an image says nothing to them."""
    return "" if shared.kind in ("bytes", "picture") else f"{shared.name}: "


def find_leaks(train: Chosen, evaluation: Chosen, *, most_new: int | None = None, workers: int = 1) -> Leaks:
    """Compare training with evaluation samples.

    Args:
        train: Training samples.
        evaluation: Evaluation samples.
        most_new: Images that may be decoded to look at them; where more are new, only those are compared by their looks that
            were looked at before (see `looks.look_at`). None looks at all.
        workers: Processes that decode.

    Raises:
        InputError: An image cannot be read.
    """
    one, two = Census(train), Census(evaluation)
    report = Leaks(len(one), len(two), unnamed=unnamed_overlaps(one.datasets, two.datasets),
                   licences=dict(sorted(one.licences.items())))
    touched = np.zeros(len(two), dtype=np.bool_)
    for kind, column in (("place", "places"), ("event", "events")):
        mine, theirs = getattr(one, column).numbers, getattr(two, column).numbers
        pairs = [(mine[name], number) for name, number in theirs.items() if name in mine]
        touched |= _report(report, kind, one, two, getattr(one, kind), getattr(two, kind), pairs, list(theirs))  # type: ignore[arg-type]
    pairs = _overlaps(list(one.footprints.numbers), list(two.footprints.numbers))
    touched |= _report(report, "footprint", one, two, one.footprint, two.footprint, pairs,
                       [", ".join(f"{value:.5f}" for value in corners) for corners in two.footprints.numbers])
    mine, theirs = one.images.numbers, two.images.numbers
    same = [(mine[name], number) for name, number in theirs.items() if name in mine]
    touched |= _report_images(report, "bytes", one, two, same)
    alike = _alike(report, one, two, most_new, workers)
    known = {number for _, number in same}
    touched |= _report_images(report, "picture", one, two, [pair for pair in alike if pair[1] not in known])
    report.touched["any"] = int(touched.sum())
    return report


def _report(report: Leaks, kind: Kind, one: Census, two: Census, mine: Ints, theirs: Ints, pairs: Sequence[tuple[int, int]],
            names: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Add what is shared; gives which evaluation samples show it."""
    found = np.zeros(len(two), dtype=np.bool_)
    if pairs:
        numbers = np.array([number for _, number in pairs])
        counts = np.bincount(theirs[theirs >= 0], minlength=len(names))
        first_mine, first_theirs = one.first(mine, int(mine.max()) + 1), two.first(theirs, len(names))
        report.shared += [Shared(kind, names[number], one.name(int(first_mine[other])), two.name(int(first_theirs[number])),
                                 int(counts[number])) for other, number in pairs]
        found = np.isin(theirs, numbers)
    report.touched[kind] = int(found.sum())
    return found


def _report_images(report: Leaks, kind: Kind, one: Census, two: Census, pairs: Sequence[tuple[int, int]]) -> npt.NDArray[np.bool_]:
    found = np.zeros(len(two), dtype=np.bool_)
    if pairs:
        mine, theirs = _by_image(one), _by_image(two)
        names = list(two.images.numbers)
        for other, number in pairs:
            samples = theirs(number)
            found[samples] = True
            report.shared.append(Shared(kind, names[number], one.name(int(mine(other)[0])), two.name(int(samples[0])),
                                        len(np.unique(samples))))
    report.touched[kind] = int(found.sum())
    return found


def _by_image(census: Census) -> "_Uses":
    order = np.argsort(census.use_image, kind="stable")
    return _Uses(census.use_image[order], census.use_sample[order])


@dataclass(frozen=True)
class _Uses:
    """Samples by the image that they use."""

    images: Ints
    samples: Ints

    def __call__(self, image: int) -> Ints:
        start, stop = np.searchsorted(self.images, [image, image + 1])
        return self.samples[start:stop]


def _overlaps(mine: Sequence[tuple[float, ...]], theirs: Sequence[tuple[float, ...]]) -> list[tuple[int, int]]:
    """Pairs of footprints with enough in common, one for each of `theirs`."""
    if not mine or not theirs:
        return []
    one, two = (shapely.box(*np.array(corners).T) for corners in (mine, theirs))
    left, right = shapely.STRtree(one).query(two, predicate="intersects")
    common = shapely.area(shapely.intersection(two[left], one[right]))
    enough = common >= LEAST_OVERLAP * np.minimum(shapely.area(two[left]), shapely.area(one[right]))
    return sorted((other, number) for number, other in dict(zip(left[enough].tolist(), right[enough].tolist(), strict=True)).items())


def _alike(report: Leaks, one: Census, two: Census, most_new: int | None, workers: int) -> list[tuple[int, int]]:
    """Pairs of images that look the same, one for each of the evaluated ones; notes what was looked at."""
    if not one.images.numbers or not two.images.numbers:
        return []
    sides = []
    chosen = [[(store, census.of_store(number)) for number, store in enumerate(census.stores)] for census in (one, two)]
    new = sum(unseen(store, names) for side in chosen for store, names in side)
    if most_new is not None and new > most_new:
        report.not_looked_at = new
    for census, side in zip((one, two), chosen, strict=True):
        looks = [look_at(store, names, workers, decode=not report.not_looked_at) for store, names in side if names]
        sides.append(_joined(looks, census.images.numbers))
    report.looked_at = sum(len(np.unique(side.owner)) for side in sides)
    plain = [_plain(side) for side in sides]
    report.without_contrast = sum(int(flat.sum()) for flat in plain)
    mine, theirs = (_without(side, flat) for side, flat in zip(sides, plain, strict=True))
    found: dict[int, int] = {}
    for other, number in same_looks(mine, theirs):
        found.setdefault(number, other)
    return [(other, number) for number, other in sorted(found.items())]


def same_looks(mine: Looks, theirs: Looks) -> list[tuple[int, int]]:
    """Pairs of owners (of `mine`, of `theirs`) of which a look is the same, sorted.

    Not all pairs are compared: two hashes of 128 bits that differ in up to 7 share one of their eight parts of 16 bits, those that
    differ in 8 to 12 nearly always do.
    """
    if not len(mine.owner) or not len(theirs.owner):
        return []
    words = [looks.bits.view(np.uint16) for looks in (mine, theirs)]
    whole = [looks.bits.view(np.uint64) for looks in (mine, theirs)]
    found: set[tuple[int, int]] = set()
    for part in range(words[0].shape[1]):
        for left, right in _bucket_pairs(words[0][:, part], words[1][:, part]):
            flips = np.bitwise_count(whole[0][left] ^ whole[1][right]).sum(axis=1)
            left, right = left[flips <= MOST_FLIPS], right[flips <= MOST_FLIPS]
            like = _likeness(mine.thumbs[left], theirs.thumbs[right]) >= LEAST_LIKENESS
            found.update(zip(mine.owner[left[like]].tolist(), theirs.owner[right[like]].tolist(), strict=True))
    return sorted(found)


def _bucket_pairs(mine: npt.NDArray[np.uint16], theirs: npt.NDArray[np.uint16]) -> Iterator[tuple[Ints, Ints]]:
    """Indices of all pairs with equal values, in portions."""
    order = np.argsort(mine, kind="stable")
    starts = np.searchsorted(mine, theirs, sorter=order)
    counts = np.searchsorted(mine, theirs, side="right", sorter=order) - starts
    ends = np.cumsum(counts)
    for begin in range(0, int(ends[-1]), PAIRS):
        pair = np.arange(begin, min(begin + PAIRS, int(ends[-1])))
        right = np.searchsorted(ends, pair, side="right")
        left = order[starts[right] + pair - (ends[right] - counts[right])]
        yield left, right


def _likeness(one: npt.NDArray[np.uint8], two: npt.NDArray[np.uint8]) -> Floats:
    """Correlation of thumbnails, row by row, (N,)."""
    first, second = (thumbs.astype(np.float32) - thumbs.mean(axis=1, dtype=np.float32, keepdims=True) for thumbs in (one, two))
    product = np.einsum("ij,ij->i", first, second)
    size = np.sqrt(np.einsum("ij,ij->i", first, first) * np.einsum("ij,ij->i", second, second))
    return np.asarray(product / np.maximum(size, 1e-6), dtype=np.float32)


def _plain(looks: Looks) -> npt.NDArray[np.bool_]:
    spread = np.concatenate([part.std(axis=1, dtype=np.float32) for part in np.array_split(looks.thumbs, 1 + len(looks.thumbs) // 65536)])
    return np.asarray(spread < LEAST_CONTRAST)


def _without(looks: Looks, dropped: npt.NDArray[np.bool_]) -> Looks:
    kept = ~dropped
    return Looks(looks.ids, looks.owner[kept], np.ascontiguousarray(looks.bits[kept]), looks.thumbs[kept])


def _joined(parts: Sequence[Looks], numbers: dict[str, int]) -> Looks:
    """Looks of several stores, owned by the images of a census."""
    owners = [np.array([numbers[name] for name in part.ids], dtype=np.int64)[part.owner] for part in parts if part.ids]
    if not owners:
        return Looks([], np.empty(0, np.int64), np.empty((0, 16), np.uint8), np.empty((0, 256), np.uint8))
    return Looks(list(numbers), np.concatenate(owners), np.concatenate([part.bits for part in parts if part.ids]),
                 np.concatenate([part.thumbs for part in parts if part.ids]))
