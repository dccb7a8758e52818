"""The desk where the samples of one scene are put together: views of its images, regions, questions, ids."""

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from geotempo.data_builders.sample import IMAGE, Message, Sample
from geotempo.data_builders.scenes import language
from geotempo.data_builders.scenes.facts import Change, changes_between, visible_mask
from geotempo.data_builders.scenes.scene import Scene, SceneObject
from geotempo.model.geometry import BoolArray, Mask, interior_points
from geotempo.model.records import ImageRecord, Region

T = TypeVar("T")

LICENCE = "Apache-2.0; generated"
_PNG_LEVEL = 1  # noise hardly compresses: level 6 takes more than twice the time for a tenth less


def image_records(scene: Scene) -> tuple[ImageRecord, ...]:
    """The images as PNG with date, sensor and gsd; the id is the SHA-256 of the bytes."""
    out = []
    for pixels, date in zip(scene.images, scene.dates, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=_PNG_LEVEL)
        data = buffer.getvalue()
        out.append(ImageRecord(hashlib.sha256(data).hexdigest(), scene.size, scene.size, data=data, date=date,
                               sensor="Scene", gsd=(scene.gsd, scene.gsd), bands=("red", "green", "blue"),
                               modality="optical"))
    return tuple(out)


@dataclass(frozen=True)
class View:
    """The images that a sample carries, and the pair that its question is about.

    Attributes:
        dates: Indices of the dates carried.
        first: Index of the earlier date of the pair.
        last: Index of the later date.
    """

    dates: tuple[int, ...]
    first: int
    last: int

    @property
    def span(self) -> str:
        """Words that name the pair within a longer sequence; empty for a pair."""
        if len(self.dates) <= 2:
            return ""
        return f" between image {self.number(self.first)} and image {self.number(self.last)}"

    def number(self, date: int) -> int:
        """Image number, from 1, of a date."""
        return self.dates.index(date) + 1


@dataclass
class Desk:
    """Collects the samples of one scene."""

    scene: Scene
    dataset: str
    split: str
    index: int
    records: tuple[ImageRecord, ...]
    rng: np.random.Generator
    samples: list[Sample] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    footprints: dict[tuple[int, int], Region] = field(default_factory=dict)  # by object and date

    def ask(self, wording: str, **fields: str) -> str:
        """One of the wordings of a question, filled in."""
        options = language.QUESTIONS[wording]
        return options[int(self.rng.integers(len(options)))].format(**fields)

    def pick(self, items: Sequence[T]) -> T:
        """A random item."""
        return items[int(self.rng.integers(len(items)))]

    def view(self, first: int, last: int) -> View:
        """The pair alone, or now and then the whole sequence around it."""
        whole = len(self.records) > 2 and self.rng.random() < 0.5
        return View(tuple(range(len(self.records))) if whole else (first, last), first, last)

    def region(self, view: View, date: int, mask: BoolArray, label: str) -> Region:
        """A region with exact mask and two interior points."""
        return Region(view.number(date), Mask.from_array(mask), label, interior_points(mask))

    def object_region(self, view: View, item: SceneObject, date: int, label: str) -> Region:
        """The visible footprint of an object on a date."""
        key = item.id, date
        if key not in self.footprints:
            self.footprints[key] = self.region(view, date, visible_mask(self.scene, item, date), "")
        return replace(self.footprints[key], image=view.number(date), label=label)

    def changed_regions(self, view: View, changes: Iterable[Change]) -> list[Region]:
        """Regions of the assessable changes among `changes`."""
        return [self.object_region(view, change.item, change.date, change.label)
                for change in changes if change.assessable]

    def hidden_regions(self, view: View) -> list[Region]:
        """Places of changes between the view's pair that a cloud hides."""
        out = []
        for change in changes_between(self.scene, view.first, view.last):
            mask = change.item.masks[change.date]
            if not change.assessable and mask is not None:
                out.append(Region(view.number(change.date), Mask.from_array(mask), change.label, None, False, "cloud"))
        return out

    def add(self, task: str, view: View, question: str, answer: str, regions: Sequence[Region] = (),
            references: Sequence[str] = (), **meta: Any) -> None:
        """Add one sample."""
        self.counts[task] = self.counts.get(task, 0) + 1
        suffix = f"-{self.counts[task]}" if self.counts[task] > 1 else ""
        base = self.scene.nuisance[view.dates[0]]
        names = sorted({name for date in view.dates[1:] for name in base.names(self.scene.nuisance[date])})
        facts: dict[str, Any] = {
            "licence": LICENCE, "nuisance": names, "kind": self.scene.kind, "setting": self.scene.setting,
            "options": {key: list(value) if isinstance(value, tuple) else value
                        for key, value in asdict(self.scene.options).items()}, **meta}
        if references:
            facts["references"] = list(references)
        self.samples.append(Sample(
            f"{self.dataset}/{self.split}/{self.index:06d}#{task}{suffix}", self.dataset, self.split, task,
            tuple(self.records[date] for date in view.dates),
            (Message("user", IMAGE * len(view.dates) + "\n" + question), Message("assistant", answer)),
            tuple(regions), facts))

    def add_list(self, task: str, view: View, question: str, listed: Sequence[Region], *, prose: str = "",
                 references: Sequence[str] = (), asked: Sequence[Region] = ()) -> None:
        """Add a sample whose answer is a list of regions, after a sentence where `prose` is given.

        Regions come in the grammar's order (image, top edge, left edge); `asked` are regions that the question names
        first, places under cloud follow unlisted.
        """
        ordered = sorted(listed, key=_reading_order)
        start = len(asked)
        answer = "<regions:" + ",".join(str(start + k) for k in range(len(ordered))) + ">"
        hidden = self.hidden_regions(view) if len(view.dates) > 1 else []
        self.add(task, view, question, f"{prose}\n{answer}" if prose else answer, [*asked, *ordered, *hidden],
                 references)


def _reading_order(region: Region) -> tuple[int, int, int]:
    """Image, top edge, left edge."""
    assert isinstance(region.geometry, Mask)
    array = region.geometry.to_array()
    return region.image, int(array.any(axis=1).argmax()), int(array.any(axis=0).argmax())
