"""BRIGHT: building damage from an optical image before and a radar image after a disaster, 14 events of seven kinds.

```
pre-event/<event>_NNNNNNNN_pre_disaster.tif          8-bit RGB
post-event/<event>_NNNNNNNN_post_disaster.tif        8-bit grey, SAR
target/<event>_NNNNNNNN_building_damage.tif          0 background, 1 intact, 2 damaged, 3 destroyed
[{train,val,test}_set.txt]                           `<event>_NNNNNNNN` per line, from the authors' repository
```
Neighbours of equal damage that touch are one building. The standard lists part every event over all splits, so a model that is
to be judged on new events needs `held_out` instead. Optical images of some events are not redistributed; pairs that a list
names and that are not there are set aside by name. TIFF is stored as PNG of equal pixels.

Chen et al. 2025, "BRIGHT: a globally distributed multimodal building damage assessment dataset with very-high-resolution for
all-weather disaster response", Earth System Science Data 17(11). Licence as remembered from the authors' page, not checked.
"""

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from geotempo.data_builders.events import check_events, event_names, event_split
from geotempo.data_builders.label_states import damage_tasks
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import (
    Draft,
    FolderSource,
    Rejection,
    load_image,
    load_labels,
    need_folder,
    same_size,
)
from geotempo.data_builders.tiling import Tiles, check_tile
from geotempo.data_builders.xbd_labels import read_targets
from geotempo.model.errors import LayoutError
from geotempo.model.records import ImageRecord, Modality

LEVELS = ("intact", "damaged", "destroyed")
SPLITS = ("train", "val", "test")
PRE, POST, TARGET = ("pre-event", "_pre_disaster"), ("post-event", "_post_disaster"), ("target", "_building_damage")
EXPECTED = "pre-event/, post-event/ and target/ with <event>_NNNNNNNN_*.tif, and {train,val,test}_set.txt"


class Bright(FolderSource):
    """Damage of all buildings and of single ones across two sensors, grounding of damage, counting, temporal reference.

    Args:
        held_out: Events (`bata-explosion`) that become val, while all others become train; a list, or text with commas. Empty
            follows the lists.
        tile: Longest side of a sample's images in pixels; 0 keeps whole scenes of 1024.
    """

    name = "bright"
    version = 1
    licence = "CC-BY-NC-4.0; BRIGHT, imagery Maxar Open Data, Capella, Umbra"
    citation = "Chen et al. 2025, BRIGHT, Earth System Science Data 17(11)"
    evidence = "documentation"
    tasks = ("change_vqa", "change_grounding", "referring_segmentation", "damage", "counting", "temporal_referring")

    def __init__(self, held_out: str | tuple[str, ...] | list[str] = (), tile: int = 0) -> None:
        self.held_out, self.tile = event_names(held_out), check_tile(tile)

    def check_layout(self, root: Path) -> None:
        """See `Source`."""
        need_folder(root, self.name, EXPECTED)
        for folder, _ in (PRE, POST, TARGET):
            if not (root / folder).is_dir():
                raise LayoutError(f"{root} has no folder {folder}; {self.name} expects {EXPECTED}")
        if not self.held_out and not _lists(root):
            raise LayoutError(f"{root} has no {{train,val,test}}_set.txt, so nothing tells the splits; copy the authors' lists "
                              "there, or name events to hold out")
        check_events(self.held_out, map(event_of, _stems(root)), self.name)

    def keys(self, root: Path) -> list[str]:
        """`split/scene` of every pair that has a target or that a list names."""
        lists = {} if self.held_out else _lists(root)
        names = {*_stems(root), *lists}
        return sorted(f"{event_split(event_of(stem), self.held_out, lists.get(stem, 'none'))}/{stem}" for stem in names)

    def samples(self, root: Path, key: str) -> Iterator[Sample]:
        """All samples of one pair."""
        split, _, stem = key.partition("/")
        if split not in SPLITS:
            raise Rejection("unknown split", f"{stem} stands in none of the lists")
        before = _image(root, PRE, stem, "optical")
        after = _image(root, POST, stem, "sar")
        target = load_labels(root / TARGET[0] / f"{stem}{TARGET[1]}.tif")
        same_size(before, (after.height, after.width), f"{POST[0]}/{stem}")
        same_size(before, target.shape, f"{TARGET[0]}/{stem}")
        read_targets(target, LEVELS)  # refuses unknown values of any tile
        tiles = Tiles((before, after), self.tile)
        for name, window in tiles:
            draft = Draft(self.name, split, stem + name, tiles.at(window), self.licence,
                          {"event": event_of(stem), "scene": stem})
            height, width = draft.images[0].height, draft.images[0].width
            found = read_targets(target[window], LEVELS)
            yield from damage_tasks(draft, {building.uid: building.region(height, width) for building in found}, LEVELS)

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Pairs (or tiles) per split, buildings per level."""
        found: Counter[str] = Counter()
        for sample in samples:
            if sample.id.endswith("#damage"):
                found[f"pairs/{sample.split}"] += 1
                found.update({f"buildings/{level}": sample.meta["buildings"][level] for level in LEVELS})
        return found


def event_of(stem: str) -> str:
    """Event of a scene: its name without the number."""
    return stem.rpartition("_")[0]


def _stems(root: Path) -> list[str]:
    end = f"{TARGET[1]}.tif"
    return sorted(path.name.removesuffix(end) for path in (root / TARGET[0]).iterdir() if path.name.endswith(end))


def _lists(root: Path) -> dict[str, str]:
    """Split of every scene that a list names."""
    found: dict[str, str] = {}
    for split in SPLITS:
        for path in (root / f"{split}_set.txt", root / "splits" / f"{split}_set.txt"):
            if path.is_file():
                lines = path.read_text(encoding="utf-8").splitlines()
                found.update((line.strip(), split) for line in lines if line.strip())
    return found


def _image(root: Path, kind: tuple[str, str], stem: str, modality: Modality) -> ImageRecord:
    """An 8-bit TIFF as PNG.

    Raises:
        Rejection: Missing, broken, not 8-bit, or with another number of channels than its kind has.
    """
    name = f"{kind[0]}/{stem}{kind[1]}.tif"
    image = load_image(root / name, modality=modality)
    with Image.open(io.BytesIO(image.encoded())) as picture:
        mode = picture.mode
    expected = "RGB" if modality == "optical" else "L"
    if mode != expected:
        raise Rejection("unsupported image", f"{name} is {mode}; allowed: 8-bit {'RGB' if expected == 'RGB' else 'grey'}")
    return image
