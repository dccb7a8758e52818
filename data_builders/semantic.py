"""Land-cover maps of two dates: coloured labels to class numbers, changes to regions `from -> to`, regions to samples.

SECOND: Yang et al. 2021, "Asymmetric Siamese Networks for Semantic Change Detection in Aerial Images", IEEE TGRS.
Hi-UCD: Tian et al. 2020, "Hi-UCD: A Large-scale Dataset for Urban Semantic Change Detection".
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from geotempo.data_builders.instances import instances
from geotempo.data_builders.label_tasks import any_change_task, by_size, list_sample, slug, unnamed
from geotempo.data_builders.render import TRANSITION
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Draft, Rejection
from geotempo.data_builders.wordings import ask
from geotempo.model.geometry import BoolArray, area
from geotempo.model.records import Region

BINS: Final = ("0", *(f"{low}_to_{low + 10}" for low in range(0, 100, 10)))
"""Answers about shares of the image in percent, in CDVQA's words; the lower end of a bin belongs to it, but for 0."""

CLEAR = 1.3
"""How many times larger the first of two areas must be for `most` to be asked."""

ClassMap = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Palette:
    """Classes of coloured label images.

    Attributes:
        name: Dataset, for messages.
        background: Colour of what has no class: unchanged or unlabelled.
        colours: Colour of each class, in the order of the class numbers from 1.
    """

    name: str
    background: tuple[int, int, int]
    colours: dict[str, tuple[int, int, int]]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes 1, 2, ..."""
        return tuple(self.colours)


SECOND: Final = Palette("SECOND", (255, 255, 255), {
    "water": (0, 0, 255), "non-vegetated ground surface": (128, 128, 128), "low vegetation": (0, 128, 0),
    "tree": (0, 255, 0), "building": (128, 0, 0), "playground": (255, 0, 0),
})
HI_UCD: Final = Palette("Hi-UCD", (255, 255, 255), {
    "water": (0, 153, 255), "grass": (202, 255, 122), "building": (230, 0, 0), "green house": (230, 0, 255),
    "road": (255, 230, 0), "bridge": (255, 181, 197), "others": (0, 255, 230), "bare land": (175, 122, 255),
    "woodland": (26, 255, 0),
})


def class_map(colours: npt.NDArray[np.uint8], palette: Palette, name: str = "label") -> ClassMap:
    """Class numbers of a coloured label, matched exactly.

    Args:
        colours: (H, W, 3), RGB.
        palette: What the colours mean.
        name: Of the file, for the message.

    Returns:
        (H, W), 0 for the background, else the number of the class in the palette, from 1.

    Raises:
        Rejection: A colour is none of the palette's (a lossy or resized copy).
    """
    codes = (colours.astype(np.uint32) * np.array([65536, 256, 1], dtype=np.uint32)).sum(axis=2)
    known = [red << 16 | green << 8 | blue for red, green, blue in (palette.background, *palette.colours.values())]
    found, where = np.unique(codes, return_inverse=True)
    odd = [int(code) for code in found if int(code) not in known]
    if odd:
        listed = ", ".join(str((code >> 16, code >> 8 & 255, code & 255)) for code in odd[:5])
        raise Rejection("unknown colour", f"{name} holds {listed}{' and more' if len(odd) > 5 else ''}; allowed: the "
                                          f"{len(known)} colours of {palette.name}; lossy or resized copies cannot be used")
    numbers = np.array([known.index(int(code)) for code in found], dtype=np.uint8)
    return np.asarray(numbers[where.reshape(codes.shape)])


def load_class_map(path: Path, palette: Palette) -> ClassMap:
    """Class numbers of a label file: coloured (RGB, RGBA or with a palette), or grey with the class numbers themselves.

    Raises:
        Rejection: Missing or broken, or a colour or number is unknown.
    """
    name = f"{path.parent.name}/{path.name}"
    try:
        with Image.open(path) as picture:
            picture.load()
            if picture.mode != "L":
                return class_map(np.asarray(picture.convert("RGB")), palette, name)
            numbers = np.asarray(picture)
    except FileNotFoundError:
        raise Rejection("missing mask", name) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise Rejection("broken mask", f"{name} cannot be decoded") from None
    odd = sorted(set(np.unique(numbers).tolist()) - set(range(len(palette.colours) + 1)))
    if odd:
        raise Rejection("unknown mask value", f"{name} is grey and holds {odd[:5]}; allowed: the colours of {palette.name}, "
                                              f"or the class numbers 0 to {len(palette.colours)}")
    return numbers


def from_to_regions(before: ClassMap, after: ClassMap, classes: Sequence[str],
                    changed: BoolArray | None = None) -> list[Region]:
    """Connected areas of equal transition on the later image, labelled `from -> to`, largest first.

    Args:
        before: (H, W) class numbers of the earlier date, 0 where there is none.
        after: The same of the later date.
        classes: Names of the classes 1, 2, ...
        changed: Where there is a change; None means wherever both maps name a class and the classes differ.
    """
    both = (before > 0) & (after > 0) & (before != after)
    both = both if changed is None else both & changed
    pairs = sorted({(int(first), int(second)) for first, second in zip(before[both], after[both], strict=True)})
    found = [region for first, second in pairs
             for region in instances(both & (before == first) & (after == second), 2,
                                     f"{classes[first - 1]}{TRANSITION}{classes[second - 1]}")]
    return by_size(found)


def transition(region: Region) -> tuple[str, str]:
    """Class before and class after of a region labelled `from -> to`."""
    before, _, after = region.label.partition(TRANSITION)
    return before, after


def from_to_tasks(draft: Draft, regions: Sequence[Region], classes: Sequence[str]) -> Iterator[Sample]:
    """Everything that labelled transitions support: their map, single ones, questions about places, shares and extremes.

    Args:
        draft: A pair.
        regions: All transitions on the later image, from `from_to_regions`.
        classes: Names of all classes.
    """
    ordered, named = by_size(regions), ", ".join(classes)
    tag = "semantic_change"
    yield list_sample(draft, tag, tag, ask(tag, draft.id(tag), classes=named), ordered)
    yield any_change_task(draft, bool(ordered))
    yield from _single_transitions(draft, ordered, classes)
    yield from _places(draft, ordered, named)
    yield from _shares(draft, ordered, classes)
    yield from _extremes(draft, ordered, named)


def share_bin(share: float) -> str:
    """The bin of a share of the image.

    Args:
        share: 0 to 1.
    """
    return BINS[0] if share <= 0 else BINS[1 + min(int(100 * share) // 10, 9)]


def _single_transitions(draft: Draft, regions: Sequence[Region], classes: Sequence[str]) -> Iterator[Sample]:
    """Masks of each transition, and as many of such that did not happen, between classes that did change."""
    present = sorted({transition(region) for region in regions})
    sources = {before for before, _ in present} or set(classes)
    missing = [(before, after) for before, after in product(classes, classes)
               if before != after and before in sources and (before, after) not in present]
    denied = random.Random(draft.id("absent")).sample(missing, min(len(missing), max(1, len(present))))
    for before, after in (*present, *sorted(denied)):
        tag = f"referring_segmentation:{slug(before)}_to_{slug(after)}"
        phrase = ask("phrase.from_to", draft.id(tag), before=before, after=after)
        same = [region for region in regions if transition(region) == (before, after)]
        yield list_sample(draft, tag, "referring_segmentation",
                          ask("referring_segmentation", draft.id(tag), phrase=phrase), same)


def _places(draft: Draft, regions: Sequence[Region], named: str) -> Iterator[Sample]:
    """What one area of each transition became, and what it was; the region comes without its label."""
    for before, after in sorted({transition(region) for region in regions}):
        same = [region for region in regions if transition(region) == (before, after)]
        end = f"{slug(before)}_to_{slug(after)}"
        region = random.Random(draft.id(end)).choice(same)
        for name, answer in (("became", after), ("was", before)):
            tag = f"region_vqa:{name}:{end}"
            yield draft.sample(tag, "region_vqa", ask(f"region_vqa.{name}", draft.id(tag), classes=named), answer,
                               [unnamed(region)])


def _shares(draft: Draft, regions: Sequence[Region], classes: Sequence[str]) -> Iterator[Sample]:
    """Share of the image that changed, and that became each class that was gained and one that was not."""
    pixels, bins = draft.images[0].width * draft.images[0].height, ", ".join(BINS)
    total, gained, _ = _areas(regions)
    tag = "change_vqa:ratio"
    yield draft.sample(tag, "change_vqa", ask("change_vqa.ratio", draft.id(tag), bins=bins), share_bin(total / pixels))
    missing = [name for name in classes if name not in gained]
    for thing in (*sorted(gained), *random.Random(draft.id(tag)).sample(missing, min(1, len(missing)))):
        tag = f"change_vqa:ratio:{slug(thing)}"
        question = ask("change_vqa.ratio_to", draft.id(tag), thing=thing, bins=bins)
        yield draft.sample(tag, "change_vqa", question, share_bin(gained[thing] / pixels))


def _extremes(draft: Draft, regions: Sequence[Region], named: str) -> Iterator[Sample]:
    """What most of the change became and was, and what each lost class mostly became, where that is clear."""
    _, gained, lost = _areas(regions)
    for name, areas in (("gained", gained), ("lost", lost)):
        if (answer := _clear(areas)) is not None:
            tag = f"change_vqa:most_{name}"
            yield draft.sample(tag, "change_vqa", ask(f"change_vqa.most_{name}", draft.id(tag), classes=named), answer)
    for before in sorted(lost):
        _, turned, _ = _areas([region for region in regions if transition(region)[0] == before])
        if (answer := _clear(turned)) is not None:
            tag = f"change_vqa:became:{slug(before)}"
            question = ask("change_vqa.became", draft.id(tag), thing=before, classes=named)
            yield draft.sample(tag, "change_vqa", question, answer)


def _areas(regions: Sequence[Region]) -> tuple[float, Counter[str], Counter[str]]:
    """Changed square pixels: all, per class after, per class before."""
    gained, lost = Counter[str](), Counter[str]()
    for region in regions:
        before, after = transition(region)
        pixels = int(area(region.geometry))
        gained[after] += pixels
        lost[before] += pixels
    return float(sum(gained.values())), gained, lost


def _clear(areas: Counter[str]) -> str | None:
    """The class with the largest area, where it is clearly the largest."""
    ranked = areas.most_common(2)
    if not ranked or (len(ranked) > 1 and ranked[0][1] < CLEAR * ranked[1][1]):
        return None
    return ranked[0][0]
