"""xBD (xView2): buildings before and after a disaster, with damage per building.

```
[{train,tier1,tier3,test,hold} or <disaster>/]
  images/<disaster>_NNNNNNNN_{pre,post}_disaster.png
  labels/<same>.json                      WKT polygons with damage; or
  {targets,masks}/<same>[_target].png     0 background, 1 no-damage .. 4 destroyed
```
The label JSON is preferred: in target masks neighbours of equal damage that touch are one building, so nothing is counted on
the earlier image. Masks of the earlier image are not read (0/1 officially, 0/255 in copies). Tiles of one disaster lie in
every official split, so a model that is to be judged on new disasters needs `held_out`.

Gupta et al. 2019, "xBD: A Dataset for Assessing Building Damage from Satellite Imagery", arXiv:1911.09296.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from geotempo.data_builders.events import check_events, event_names, event_split, footprint
from geotempo.data_builders.label_states import LEVELS, UNCLASSIFIED, damage_tasks
from geotempo.data_builders.label_tasks import class_tasks
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import (
    EXTENSIONS,
    Draft,
    FolderSource,
    Rejection,
    find_image,
    load_image,
    load_json,
    load_labels,
    need_folder,
    same_size,
)
from geotempo.data_builders.tiling import Tiles, Window, check_tile
from geotempo.data_builders.wordings import ask
from geotempo.data_builders.xbd_labels import Building, image_facts, in_window, read_features, read_targets
from geotempo.model.errors import LayoutError
from geotempo.model.records import ImageRecord

PRE, POST = "_pre_disaster", "_post_disaster"
SPLITS = {"train": "train", "tier1": "train", "tier3": "train", "test": "test", "hold": "val"}
KINDS = ("earthquake", "fire", "flooding", "tsunami", "volcano", "wind")
MASKS = ("targets", "masks")
EXPECTED = "[train|tier3|test|hold/]images/<disaster>_NNNNNNNN_{pre,post}_disaster.png with labels/ or targets/ beside"


class Xbd(FolderSource):
    """Damage of all buildings and of single ones, grounding of damage, counting, temporal reference; buildings before it.

    Args:
        held_out: Disasters (`joplin-tornado`) that become val, while all others become train; a list, or text with commas.
            Empty keeps the splits of the folders.
        tile: Longest side of a sample's images in pixels: an answer lists 32 buildings, and a scene may have hundreds. 0 keeps
            whole scenes.
    """

    name = "xbd"
    version = 2  # event, scene and footprint in the meta; the buildings of the earlier image
    licence = "CC-BY-NC-SA-4.0; xBD"
    citation = "Gupta et al. 2019, xBD, arXiv:1911.09296"
    evidence: ClassVar[Literal["real", "documentation"]] = "real"
    tasks: tuple[str, ...] = ("change_vqa", "change_grounding", "damage", "counting", "temporal_referring",
                              "temporal_classification", "referring_segmentation", "vqa")
    labels = (*LEVELS, UNCLASSIFIED, "building", "damaged building")

    def __init__(self, held_out: str | tuple[str, ...] | list[str] = (), tile: int = 0) -> None:
        self.held_out, self.tile = event_names(held_out), check_tile(tile)

    def check_layout(self, root: Path) -> None:
        """See `Source`."""
        need_folder(root, self.name, EXPECTED)
        folders = _folders(root)
        if not folders:
            raise LayoutError(f"{root} has no folder images; {self.name} expects {EXPECTED}")
        for folder in folders.values():
            if not any((folder / name).is_dir() for name in ("labels", *MASKS)):
                raise LayoutError(f"{folder} has neither labels nor targets; {self.name} expects {EXPECTED}")
            if not _stems(folder):
                raise LayoutError(f"{folder / 'images'} has no *{PRE} or *{POST} image; {self.name} expects {EXPECTED}")
        check_events(self.held_out, (self.event(stem) for folder in folders.values() for stem in _stems(folder)), self.name)

    def keys(self, root: Path) -> list[str]:
        """`folder/scene`, for example `tier3/joplin-tornado_00000000`."""
        return sorted(f"{name}/{stem}" for name, folder in _folders(root).items() for stem in _stems(folder))

    def samples(self, root: Path, key: str) -> Iterator[Sample]:
        """All samples of one pair."""
        folder, _, stem = key.partition("/")
        pair = _read_pair(_folders(root)[folder], stem)
        event, split = self.event(stem), self.split_of(folder, stem)
        meta = {"disaster": pair.metadata.get("disaster") or event, "event": event, "scene": stem}
        aside = dict(sorted(pair.aside.items()))
        tiles = Tiles(pair.images, self.tile)
        for number, (name, window) in enumerate(tiles):
            images = tiles.at(window)
            # Counted once, with the first tile.
            facts = {**meta, **footprint(images[1]), "set_aside": {} if number else aside}
            yield from self._tile(Draft(self.name, split, stem + name, images, self.licence, facts), pair, window)

    def _tile(self, draft: Draft, pair: "Pair", window: Window) -> Iterator[Sample]:
        """Samples of one tile."""
        height, width = draft.images[0].height, draft.images[0].width
        regions = {building.uid: building.region(height, width) for building in pair.buildings(window)}
        yield from damage_tasks(draft, regions)
        if pair.labelled and not pair.aside:  # else a building may be missing in what is counted
            before = [replace(region, image=1, label="building", assessable=True, reason=None) for region in regions.values()]
            yield from class_tasks(replace(draft, images=draft.images[:1]), "building", before)
        kind = pair.metadata.get("disaster_type")
        if kind in KINDS:
            tag = "temporal_classification:disaster"
            question = ask("temporal_classification.disaster", draft.id(tag), kinds=", ".join(KINDS))
            yield draft.sample(tag, "temporal_classification", question, str(kind))

    def event(self, stem: str) -> str:
        """Disaster of a scene."""
        return stem.rpartition("_")[0]

    def split_of(self, folder: str, stem: str) -> str:
        """Split of a scene in a folder of this name."""
        return event_split(self.event(stem), self.held_out, SPLITS.get(folder, "train"))

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Pairs (or tiles) per split, buildings per damage class, features set aside per reason."""
        found: Counter[str] = Counter()
        for sample in samples:
            if sample.id.endswith("#damage"):
                found[f"pairs/{sample.split}"] += 1
                found.update({f"buildings/{name}": count for name, count in sample.meta["buildings"].items()})
                found.update({f"set aside/{name}": count for name, count in sample.meta["set_aside"].items()})
        return found


def _folders(root: Path) -> dict[str, Path]:
    """Folders that hold `images`, by name: the root itself, or those in it (splits or disasters)."""
    if (root / "images").is_dir():
        return {root.resolve().name: root}
    return {path.name: path for path in sorted(root.iterdir()) if (path / "images").is_dir()}


def _stems(folder: Path) -> list[str]:
    """Scenes of which at least one of the two images is there; a missing partner is reported later."""
    names = (path.stem for path in (folder / "images").iterdir() if path.suffix.lower() in EXTENSIONS)
    return sorted({name.removesuffix(end) for name in names for end in (PRE, POST) if name.endswith(end)})


@dataclass(frozen=True)
class Pair:
    """What one scene's files say.

    Attributes:
        images: Before and after.
        buildings: Gives the buildings of a window, in its pixels.
        labelled: Whether they come from the label JSON, which tells neighbours apart.
        metadata: Of the later image's JSON.
        aside: Features that are of no use, by reason.
    """

    images: tuple[ImageRecord, ImageRecord]
    buildings: Callable[[Window], list[Building]]
    labelled: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)
    aside: Counter[str] = field(default_factory=Counter)


def _read_pair(folder: Path, stem: str) -> Pair:
    """Images and buildings, from the label JSON or else from the target mask."""
    paths = [find_image(folder / "images", f"{stem}{end}.png") for end in (PRE, POST)]
    before, after = map(load_image, paths)
    same_size(before, (after.height, after.width), f"images/{paths[1].name}")
    if not (folder / "labels" / f"{stem}{POST}.json").is_file():
        target = load_labels(_target(folder, f"{stem}{POST}"))
        same_size(after, target.shape, f"targets/{stem}{POST}")
        read_targets(target)  # refuses unknown values of any tile
        return Pair((before, after), lambda window: read_targets(target[window]))
    labels = [_label(folder / "labels" / f"{stem}{end}.json") for end in (PRE, POST)]
    facts = [image_facts(label, after.width, after.height) for label in labels]
    buildings, aside = read_features(labels[1], after.width, after.height)
    images = replace(before, **facts[0]), replace(after, **facts[1])
    return Pair(images, partial(_shown, buildings), True, labels[1].get("metadata") or {}, aside)


def _shown(buildings: Sequence[Building], window: Window) -> list[Building]:
    """What a window shows of the buildings, largest first."""
    parts = [part for building in buildings if (part := in_window(building, window)) is not None]
    return sorted(parts, key=lambda part: -part.area)


def _label(path: Path) -> dict[str, Any]:
    label = load_json(path)
    if not isinstance(label, dict) or not isinstance(label.get("features"), dict):
        raise Rejection("broken annotation", f"labels/{path.name} has no features; expected an xBD label JSON")
    return label


def _target(folder: Path, stem: str) -> Path:
    for path in (folder / masks / name for masks in MASKS for name in (f"{stem}_target.png", f"{stem}.png")):
        if path.is_file():
            return path
    raise Rejection("missing mask", f"neither labels/{stem}.json nor targets/{stem}_target.png")
