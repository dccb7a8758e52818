"""Sources made of dated rasters of places and labels on the ground: every tile with its dates becomes samples."""

import hashlib
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, Literal

import shapely

from geotempo.data_builders.geo_labels import LabelFields, Labels, read_labels
from geotempo.data_builders.geo_tiles import Dated, Place, Tile, TileSpec, footprint, group_places, read_tile, tiles_of
from geotempo.data_builders.label_states import image_list
from geotempo.data_builders.label_tasks import PER_CLASS, absent, change_tasks, object_tasks, slug, unnamed
from geotempo.data_builders.licences import licence_id
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Draft, Item, Rejection, Source
from geotempo.data_builders.wordings import ask
from geotempo.model.errors import GeoTempoError, InputError, LayoutError
from geotempo.model.records import Region

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Fault:
    """Stands for a label that cannot be used."""

    reason: str
    detail: str


@dataclass(frozen=True)
class LeftOut:
    """Stands for a raster that is left out on purpose.

    Attributes:
        why: What it is counted as.
    """

    why: str


class DatedRasters(Source):
    """Objects on each date, what came and went between consecutive dates, and when single objects appeared.

    Nothing is said about a class where a label of it has no usable date, is a sliver, or lies where there is no data.
    Labels that cannot be used are set aside one by one. Tiles without any label are mostly left out.

    Args:
        **options: See `geotempo.data_builders.sources.geojson.GeoJson`.
    """

    version = 1
    licence = "unknown; the user says"
    citation = "the user's own data"
    evidence = "real"
    tasks = (
        "referring_segmentation",
        "counting",
        "vqa",
        "region_vqa",
        "change_vqa",
        "change_grounding",
        "change_segmentation",
        "temporal_referring",
    )
    chunk = 4

    def __init__(
        self,
        licence: str,
        labels: str = "",
        class_field: str = "class",
        thing: str = "",
        date_field: str = "date",
        end_field: str = "",
        labels_crs: str = "",
        tile: int = 512,
        overlap: int = 0,
        bands: str = "",
        empty: float = 0.2,
        added: str = "added",
        removed: str = "removed",
        split: Literal["train", "val", "test"] = "train",
        val_share: float = 0.0,
        dataset: str = "own",
    ) -> None:
        licence_id(licence)
        if tile < 0 or not 0 <= overlap <= tile // 2:
            raise InputError(
                f"tile is {tile} and overlap {overlap}; give a side in pixels (0 for whole rasters), and at most half "
                "of it"
            )
        if split not in SPLITS or not 0 <= val_share <= 1 or not 0 <= empty <= 1:
            raise InputError(
                f"split is {split}, val_share {val_share:g}, empty {empty:g}; allowed: {', '.join(SPLITS)}, and shares "
                "of 0 to 1"
            )
        if not re.fullmatch(r"[\w.-]+", dataset):
            raise InputError(f"dataset is {dataset!r}; use letters, digits, '.', '_' and '-'")
        if end_field and not date_field:
            raise InputError(f"end_field={end_field} without date_field; give both, or none")
        self.fields = LabelFields(
            f"={thing.strip().lower()}" if thing else class_field, date_field, end_field, labels_crs
        )
        self.label_path, self.tile, self.overlap, self.bands, self.empty = labels, tile, overlap, bands or None, empty
        self.added, self.removed, self.split, self.val_share, self.dataset = added, removed, split, val_share, dataset
        self.licence = licence  # type: ignore[misc]  # here it is not the class that knows
        self._known: dict[Path, list[Place]] = {}
        self._read: dict[Path, Labels] = {}

    @abstractmethod
    def rasters(self, root: Path) -> list[Dated]:
        """All rasters with their dates.

        Raises:
            LayoutError: There is none, or one has no date or no georeference.
        """

    def others(self, root: Path) -> Iterator[tuple[str, Fault | LeftOut]]:
        """Names of rasters that are not among `rasters`, and why."""
        return iter(())

    @abstractmethod
    def label_file(self, root: Path) -> Path:
        """The GeoJSON file.

        Raises:
            LayoutError: There is none.
        """

    def check_layout(self, root: Path) -> None:
        """See `Source`; the rasters are opened and the labels read."""
        if not root.exists():
            raise LayoutError(f"{root} is not there; give the folder of the rasters with --root")
        places, labels = self.places(root), self._labels(root)
        if self.val_share and self.overlap and len(places) == 1:
            raise LayoutError(
                f"val_share={self.val_share:g} parts the tiles of the one place, which overlap by {self.overlap} "
                "pixels, so that val would show what train shows; set overlap=0"
            )
        usable = [label.shape for label in labels.all if label.fault is None]
        spans = [footprint(place.grid) for place in places]
        if not any(_meet(shapely.bounds(shape), span) for shape in usable for span in spans):
            faulty = next((label.fault for label in labels.all if label.fault), None)
            where = (
                f"none of its {len(labels.all)} labels can be used, the first: {faulty[1]}"
                if not usable and faulty
                else f"its labels begin at {_spot(shapely.bounds(usable[0]))}, the rasters at {_spot(spans[0])} "
                     f"(longitude, latitude); if its coordinates are of "
                "another system, give it with labels_crs=EPSG:n"
            )
            raise LayoutError(f"no label of {self.label_file(root).name} lies on a raster: {where}")

    def fingerprint(self, root: Path) -> str:
        """Digest of the labels, and of the rasters' names, dates and times of writing."""
        digest = hashlib.sha256(self.label_file(root).read_bytes())
        for place in self.places(root):
            for shot in place.shots:
                digest.update(f"{place.name}:{shot.path}:{shot.date}:{shot.changed};".encode())
        return digest.hexdigest()

    def items(self, root: Path) -> Iterator[Item]:
        """One item per tile, and one per label or raster that cannot be used or is left out."""
        yield from (Item(f"raster {name}", why) for name, why in self.others(root))
        for label in self._labels(root).all:
            if label.fault is not None:
                yield Item(f"label {label.number}", Fault(*label.fault))
        for place in self.places(root):
            for spec in tiles_of(place, self.tile, self.overlap, self.bands):
                yield Item(f"{place.name}{spec.name}", (spec, str(root)))

    def read(self, root: Path, item: Item) -> Iterator[Sample]:
        """Samples of a tile: of each date, of consecutive dates, of all dates."""
        if isinstance(item.record, Fault):
            raise Rejection(item.record.reason, item.record.detail)
        if isinstance(item.record, LeftOut):
            return
        spec, _ = item.record
        tile, classes = self._tile(root, spec), self._classes(root)
        if not tile.images or not self._wanted(item.key, tile):
            return
        meta = {"scene": item.key, "footprint": list(tile.footprint)}
        drafts = [
            Draft(self.dataset, self._split(root, spec), f"{item.key}/{slug(date.text)}", (image,), self.licence, meta)
            for image, date in zip(tile.images, tile.dates, strict=True)
        ]
        for view, draft in enumerate(drafts):
            told = _told(classes, tile.doubts[view])
            there = [thing.region for thing in tile.things if thing.states[view] and thing.region.label in told]
            yield from object_tasks(draft, there, told, masks=True) if told else ()
        if self.fields.start and len(tile.images) > 1:
            for view, (first, second) in enumerate(pairwise(drafts)):
                pair = replace(
                    first, key=f"{first.key}_{second.key.rpartition('/')[2]}", images=(*first.images, *second.images)
                )
                yield from self._changes(pair, tile, view, _told(classes, tile.doubts[view] | tile.doubts[view + 1]))
            yield from _appearances(replace(drafts[0], key=item.key, images=tile.images), tile)

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Tiles per split."""
        return Counter({f"tiles/{samples[0].split}": 1}) if samples else Counter()

    def tally_item(self, item: Item) -> Counter[str]:
        """What was left out of a tile: views without data, slivers, and the tile where it has no label."""
        if isinstance(item.record, Fault):
            return Counter()
        if isinstance(item.record, LeftOut):
            return Counter({item.record.why: 1})
        spec, root = item.record
        try:
            tile = self._tile(Path(root), spec)
        except GeoTempoError:  # `read` meets it again and sets the tile aside
            return Counter()
        found = Counter(tile.counts)
        if not tile.images:
            found["tiles without data"] += 1
        elif not self._wanted(item.key, tile):
            found["tiles without labels, left out"] += 1
        return found

    def places(self, root: Path) -> list[Place]:
        """The places that the rasters show."""
        if root not in self._known:
            self._known[root] = group_places(self.rasters(root))
        return self._known[root]

    def _labels(self, root: Path) -> Labels:
        if root not in self._read:
            self._read[root] = read_labels(self.label_file(root), self.fields)
        return self._read[root]

    def _classes(self, root: Path) -> list[str]:
        return sorted({label.thing for label in self._labels(root).all if label.thing})

    def _tile(self, root: Path, spec: TileSpec) -> Tile:
        return read_tile(spec, self._labels(root))

    def _wanted(self, key: str, tile: Tile) -> bool:
        """Whether a tile has labels, or is one of those without that are kept."""
        return bool(tile.things) or _share(f"empty:{key}") < self.empty

    def _split(self, root: Path, spec: TileSpec) -> str:
        unit = spec.place.name + (spec.name if len(self.places(root)) == 1 else "")
        return "val" if self.split == "train" and _share(f"val:{unit}") < self.val_share else self.split

    def _changes(self, pair: Draft, tile: Tile, view: int, told: Sequence[str]) -> Iterator[Sample]:
        """What came and, where labels have an end, what went between two consecutive views, and some denials."""
        kinds = [(self.added, 2, (False, True))] + ([(self.removed, 1, (True, False))] if self.fields.end else [])
        for done, image, change in kinds:
            by_class: dict[str, list[Region]] = {name: [] for name in told}
            for thing in tile.things:
                if thing.states[view : view + 2] == change and thing.region.label in by_class:
                    by_class[thing.region.label].append(replace(thing.region, image=image))
            denied = absent([name for name, found in by_class.items() if found], told, f"{pair.id('absent')}:{done}")
            for name, found in by_class.items():
                if found or name in denied:
                    yield from change_tasks(pair, found, name, done=done)


def _appearances(draft: Draft, tile: Tile) -> Iterator[Sample]:
    """In which image a few objects of each class are seen first: some that came, as many that were there before."""
    dated = [thing for thing in tile.things if None not in thing.states and any(thing.states)]
    for name in sorted({thing.region.label for thing in dated}):
        same = [thing for thing in dated if thing.region.label == name]
        for there in (False, True):
            group = [thing for thing in same if thing.states[0] is there]
            for thing in Random(draft.id(f"{name}:{there}")).sample(group, min(PER_CLASS, len(group))):
                tag = f"temporal_referring:{slug(name)}-{thing.label.number}"
                # The place is shown on the last image, whichever is the answer.
                place = replace(unnamed(thing.region), image=len(tile.images))
                question = ask("temporal_referring.appears", draft.id(tag), thing=name)
                yield draft.sample(
                    tag, "temporal_referring", question, image_list([thing.states.index(True) + 1]), [place]
                )


def _told(classes: Sequence[str], doubts: frozenset[str]) -> list[str]:
    """Classes about which everything is known; a label without a class may be of any."""
    return [] if "" in doubts else [name for name in classes if name not in doubts]


def _share(text: str) -> float:
    """A number from 0 to below 1 that depends on the text only."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _meet(one: Any, other: Sequence[float]) -> bool:
    """Whether two boxes [west, south, east, north] share ground."""
    return bool(one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3])


def _spot(bounds: Any) -> str:
    return f"{bounds[0]:.5g}, {bounds[1]:.5g}"
