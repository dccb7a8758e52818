"""SECOND: changes of land cover between two aerial images, six classes, 512 pixels at 0.5 to 3 m.

```
{train,val,test}/{im1,im2}/NNNNN.png           RGB
{train,val,test}/{label1,label2}/NNNNN.png     colours of the classes where something changed, white elsewhere in both
[train_info.txt, val_info.txt]                 SCanNet's split of the train folder, a path per line
```
The second official folder is called `test` or `val`, and is the test set either way. It is only where a copy has SCanNet's lists
or a folder `test` besides that `val` is val. A class that follows itself, and a pixel that has a class on one date only, are no
change here and are counted in the meta. CDVQA, QAG-360K and SECOND-CC ask about these very pairs: `scene` is the file's name.

Yang et al. 2021, "Asymmetric Siamese Networks for Semantic Change Detection in Aerial Images", IEEE TGRS 60.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np

from geotempo.data_builders.sample import Sample
from geotempo.data_builders.semantic import SECOND, ClassMap, from_to_regions, from_to_tasks, load_class_map
from geotempo.data_builders.source import Draft, FolderSource, Rejection, find_image, load_pair, need_folder, same_size
from geotempo.model.errors import LayoutError

FOLDERS = ("im1", "im2", "label1", "label2")
SPLITS = ("train", "val", "test")
LISTS = {"train": "train_info.txt", "val": "val_info.txt"}
EXPECTED = "{train,test}/{im1,im2,label1,label2}"


class Second(FolderSource):
    """Regions `from -> to`, masks of single transitions, what became of places, shares and extremes."""

    name = "second"
    version = 1
    licence = "academic; SECOND"
    citation = "Yang et al. 2021, SECOND, IEEE TGRS 60"
    evidence = "documentation"
    tasks = ("semantic_change", "change_vqa", "referring_segmentation", "region_vqa")

    def check_layout(self, root: Path) -> None:
        """See `Source`."""
        need_folder(root, self.name, EXPECTED)
        parents = [root / split for split in SPLITS if (root / split).is_dir()]
        if not parents:
            raise LayoutError(f"{root} has none of the folders {', '.join(SPLITS)}; {self.name} expects {EXPECTED}")
        for parent in parents:
            missing = [name for name in FOLDERS if not (parent / name).is_dir()]
            if missing:
                raise LayoutError(f"{parent} has no folder {missing[0]}; {self.name} expects {EXPECTED}")

    def keys(self, root: Path) -> list[str]:
        """`folder/stem` of every pair that has an image or a label."""
        return sorted({f"{split}/{path.stem}" for split in SPLITS if (root / split).is_dir()
                       for name in FOLDERS for path in (root / split / name).glob("*.png")})

    def samples(self, root: Path, key: str) -> Iterator[Sample]:
        """All samples of one pair."""
        folder, _, stem = key.partition("/")
        parent = root / folder
        pair = load_pair(*(find_image(parent / name, f"{stem}.png") for name in FOLDERS[:2]))
        before, after = (load_class_map(parent / name / f"{stem}.png", SECOND) for name in FOLDERS[2:])
        for name, labels in zip(FOLDERS[2:], (before, after), strict=True):
            same_size(pair[0], labels.shape, f"{name}/{stem}.png")
        meta = {"scene": stem, **_doubts(before, after)}
        draft = Draft(self.name, _split(root, folder, stem), stem, pair, self.licence, meta)
        yield from from_to_tasks(draft, from_to_regions(before, after, SECOND.classes), SECOND.classes)

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Pairs and changed pairs per split, regions per transition."""
        found: Counter[str] = Counter()
        for sample in samples:
            if sample.task == "semantic_change":
                found[f"pairs/{sample.split}"] += 1
                found[f"changed pairs/{sample.split}"] += bool(sample.regions)
                found.update(region.label for region in sample.regions)
        return found


def _split(root: Path, folder: str, stem: str) -> str:
    """Split of a pair, see the top of the file."""
    lists = {split: (root / name) for split, name in LISTS.items() if (root / name).is_file()}
    if folder == "train" and "val" in lists and stem in _stems(lists["val"]):
        return "val"
    if folder == "train" and "train" in lists and stem not in _stems(lists["train"]):
        raise Rejection("unknown split", f"train/{stem} stands neither in {LISTS['train']} nor in {LISTS['val']}")
    if folder == "val" and not lists and not (root / "test").is_dir():
        return "test"
    return folder


def _stems(path: Path) -> frozenset[str]:
    """Names that a list of paths on its author's machine gives."""
    return _read_list(path, path.stat().st_mtime_ns)


@cache
def _read_list(path: Path, changed: int) -> frozenset[str]:
    """`_stems` of a file; `changed` is when it was last written, so that a new file is read anew."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return frozenset(PurePosixPath(line.strip()).stem for line in lines if line.strip())


def _doubts(before: ClassMap, after: ClassMap) -> dict[str, int]:
    """Pixels that only one date gives a class, and pixels whose class follows itself; only where there are any."""
    counts = {"one_sided_pixels": int(np.count_nonzero((before > 0) != (after > 0))),
              "same_class_pixels": int(np.count_nonzero((before > 0) & (before == after)))}
    return {name: count for name, count in counts.items() if count}
