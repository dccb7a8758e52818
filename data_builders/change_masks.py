"""What data sets of image pairs with a binary change mask share: folders, split lists, mask values, tiles.

Each of them is a line of facts (`PairLayout`); `ChangeMasks` reads them all.

```
<split>/{<before>,<after>,<label>}/<name>       and the split is the folder's; or
{<before>,<after>,<label>}/<name>               and the split is that of list/<split>.txt, <split>.txt or <split>_list.txt
```
Copies rename the folders as the loaders of BIT and ChangeFormer (`A`, `B`, `label`) or MambaCD (`T1`, `T2`, `GT`) want them;
those names are always understood.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from geotempo.data_builders.instances import instances
from geotempo.data_builders.label_tasks import change_tasks, plural
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import (
    EXTENSIONS,
    Draft,
    FolderSource,
    Rejection,
    find_image,
    load_pair,
    need_folder,
    same_size,
)
from geotempo.data_builders.tiling import Tiles, Window, check_tile
from geotempo.model.errors import InputError, LayoutError
from geotempo.model.geometry import BoolArray

Folders = tuple[str, str, str]

SPLITS = ("train", "val", "test")
COMMON: tuple[Folders, ...] = (("A", "B", "label"), ("T1", "T2", "GT"))
LABEL_EXTENSIONS = (*EXTENSIONS, ".tif", ".tiff", ".bmp")


@dataclass(frozen=True)
class PairLayout:
    """The facts about one data set.

    Attributes:
        folders: Before, after and mask, as the authors name them.
        thing: What the mask marks, in the singular, for the questions.
        label: Label of the regions.
        count: Whether a connected region of the mask is one thing that can be counted.
        complete: Whether everything of the kind is labelled, so that an empty mask is a no.
        split_in_name: Whether names begin with their split, which then stands in for missing lists.
        gsd: Metres of a pixel, where it is one number for all.
    """

    folders: Folders
    thing: str
    label: str
    count: bool = True
    complete: bool = True
    split_in_name: bool = False
    gsd: float | None = None

    @property
    def choices(self) -> tuple[Folders, ...]:
        """Folder names that are understood, the authors' first."""
        return (self.folders, *(folders for folders in COMMON if folders != self.folders))

    @property
    def expected(self) -> str:
        """The layout in words."""
        names = "{" + ",".join(self.folders) + "}"
        return f"{{train,val,test}}/{names}, or {names} with list/{{train,val,test}}.txt"


class ChangeMasks(FolderSource):
    """Yes/no, grounding, masks and numbers of what changed between two images.

    Args:
        tile: Longest side of a sample's images in pixels; larger pairs are cut into tiles of about equal size. 0 keeps
            them whole, with their own bytes.
        unchanged: Share of the pairs (or tiles) without any change that are kept, 0 to 1, chosen by their id. Cut scenes hold
            mostly such; the summary's pairs and changed pairs tell which share balances them.
    """

    layout: ClassVar[PairLayout]
    tasks = ("change_vqa", "change_grounding", "referring_segmentation", "change_segmentation", "counting")

    def __init__(self, tile: int = 0, unchanged: float = 1.0) -> None:
        if not 0 <= unchanged <= 1:
            raise InputError(f"unchanged is {unchanged}; give the share of unchanged pairs to keep, 0 to 1")
        self.tile, self.unchanged = check_tile(tile), unchanged

    def check_layout(self, root: Path) -> None:
        """See `Source`."""
        need_folder(root, self.name, self.layout.expected)
        parents = [root / split for split in SPLITS if (root / split).is_dir()]
        for parent in parents or [root]:
            self._folders(parent)
        if not parents and not _lists(root) and not self.layout.split_in_name:
            raise LayoutError(f"{root} has no split folders and no lists, and nothing else tells the splits of {self.name}; "
                              f"expected {self.layout.expected}")

    def keys(self, root: Path) -> list[str]:
        """`split/stem` of every pair that has an image or a mask, or that a list names."""
        splits, lists = [split for split in SPLITS if (root / split).is_dir()], _lists(root)
        if splits:
            found = {f"{split}/{stem}" for split in splits for stem in self._stems(root / split)}
            # The numbers of SYSU-CD begin anew in each split, so a list counts for the folder of its split only.
            return sorted(found | {f"{split}/{stem}" for split in splits for stem in lists.get(split, ())})
        listed = {stem: split for split in reversed(SPLITS) for stem in lists.get(split, ())}
        return sorted(f"{listed.get(stem) or self._split_of(stem)}/{stem}" for stem in {*self._stems(root), *listed})

    def samples(self, root: Path, key: str) -> Iterator[Sample]:
        """All samples of one pair, or of its tiles."""
        split, _, stem = key.partition("/")
        if split not in SPLITS:
            raise Rejection("unknown split", f"{stem} stands in none of the lists {', '.join(sorted(_lists(root)))}")
        parent = root / split if (root / split).is_dir() else root
        before, after, label = (parent / name for name in self._folders(parent))
        pair = load_pair(find_image(before, f"{stem}.png"), find_image(after, f"{stem}.png"))
        changed = self.changed(find_label(label, stem))
        same_size(pair[0], changed.shape, f"{label.name}/{stem}")
        size = (self.layout.gsd, self.layout.gsd) if self.layout.gsd else None
        tiles = Tiles([replace(image, gsd=size) for image in pair], self.tile)
        for name, window in tiles:
            if changed[window].any() or random.Random(f"{self.name}/{key}{name}").random() < self.unchanged:
                draft = Draft(self.name, split, stem + name, tiles.at(window), self.licence, self.facts(root, stem, window))
                yield from self.tile_samples(draft, changed[window], parent, stem)

    def tile_samples(self, draft: Draft, changed: BoolArray, parent: Path, stem: str) -> Iterator[Sample]:
        """Samples of one tile.

        Args:
            draft: The pair of tiles.
            changed: Its part of the mask.
            parent: Folder that holds the folders of images.
            stem: Name of the whole pair.
        """
        regions = instances(changed, 2, self.layout.label)
        yield from change_tasks(draft, regions, self.layout.thing, count=self.layout.count, presence=self.layout.complete)

    def facts(self, root: Path, stem: str, window: Window) -> dict[str, Any]:
        """Meta of a tile: `scene`, the original image that crops and tiles of it share, and `footprint` where known.

        Args:
            root: The dataset's folder.
            stem: Name of the whole pair.
            window: The tile in it.
        """
        return {"scene": stem}

    def changed(self, path: Path) -> BoolArray:
        """Where a mask says that something changed, (H, W)."""
        return load_change(path)

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Pairs (or tiles), changed ones, and things per split."""
        found: Counter[str] = Counter()
        things = plural(self.layout.thing)
        for sample in samples:
            if sample.id.endswith(f"#change_grounding:{things.replace(' ', '_')}"):
                found[f"pairs/{sample.split}"] += 1
                found[f"changed pairs/{sample.split}"] += bool(sample.regions)
                found[f"{things}/{sample.split}"] += len(sample.regions)
        return found

    def _folders(self, parent: Path) -> Folders:
        """The names that this copy uses.

        Raises:
            LayoutError: Of no naming are all three folders there.
        """
        for names in self.layout.choices:
            if all((parent / name).is_dir() for name in names):
                return names
        missing = next(name for name in self.layout.folders if not (parent / name).is_dir())
        raise LayoutError(f"{parent} has no folder {missing}; {self.name} expects {self.layout.expected}")

    def _stems(self, parent: Path) -> set[str]:
        names = self._folders(parent)
        return {path.stem for name in (names[0], names[2]) for path in (parent / name).iterdir()
                if path.suffix.lower() in LABEL_EXTENSIONS}

    def _split_of(self, stem: str) -> str:
        """Split of a pair in no list."""
        first = stem.split("_")[0]
        if not self.layout.split_in_name:
            return "none"
        return first if first in SPLITS else "train"


def find_label(folder: Path, stem: str) -> Path:
    """The mask of a pair, whatever its extension.

    Raises:
        Rejection: There is none.
    """
    for extension in LABEL_EXTENSIONS:
        if (folder / f"{stem}{extension}").is_file():
            return folder / f"{stem}{extension}"
    raise Rejection("missing mask", f"{folder.parent.name}/{folder.name}/{stem}.png")


def load_change(path: Path) -> BoolArray:
    """A binary mask in any of the forms in use: grey, RGB, coloured, with a palette; 0/255, 0/1 or with JPEG noise.

    Returns:
        (H, W), true where any channel is above 127, or above 0 where the whole file holds 0 and 1 only and is no JPEG.

    Raises:
        Rejection: Broken, or not 8-bit.
    """
    name = f"{path.parent.name}/{path.name}"
    try:
        with Image.open(path) as picture:
            picture.load()
            values, lossy = _channels(picture), picture.format == "JPEG"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise Rejection("broken mask", f"{name} cannot be decoded") from None
    if values.dtype != np.uint8:
        raise Rejection("unsupported mask", f"{name} has {values.dtype} values; allowed: 8-bit")
    highest = values if values.ndim == 2 else values.max(axis=2)
    # A black JPEG may hold ones, which are noise; in any other file they are the change of a 0/1 mask.
    return np.asarray(highest > (127 if lossy or highest.max(initial=0) > 1 else 0))


def _channels(picture: Image.Image) -> npt.NDArray[np.uint8]:
    """Channels that tell colour, without opacity; of a palette image the colours, whatever its indices are."""
    if picture.mode in ("1", "LA"):
        return np.asarray(picture.convert("L"))
    return np.asarray(picture.convert("RGB") if picture.mode in ("P", "RGBA") else picture)


def _lists(root: Path) -> dict[str, tuple[str, ...]]:
    """Stems that each split's list names."""
    found = {}
    for split in SPLITS:
        for path in (root / "list" / f"{split}.txt", root / f"{split}.txt", root / f"{split}_list.txt"):
            if path.is_file():
                found[split] = _read_list(path, path.stat().st_mtime_ns)
                break
    return found


@cache
def _read_list(path: Path, changed: int) -> tuple[str, ...]:
    """Stems of a list with a name or path per line; `changed` is when it was last written, so that a new file is read anew."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(Path(line.strip().replace("\\", "/")).stem for line in lines if line.strip())
