"""LEVIR-CD: building change masks. Split folders with 1024-pixel tiles, or the widespread 256-pixel crops.

```
{train,val,test}/{A,B,label}/<name>.png        tiles
{A,B,label}/<name>.png [list/{train,val,test}.txt]   crops; without lists the split is the name's first word
```
Chen and Shi 2020, "A Spatial-Temporal Attention-Based Method and a New Dataset for Remote Sensing Image Change
Detection", Remote Sensing 12(10).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from geotempo.data_builders import levir
from geotempo.data_builders.label_tasks import change_tasks
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import (
    EXTENSIONS,
    Draft,
    FolderSource,
    Rejection,
    find_image,
    load_labels,
    load_pair,
    need_folder,
    same_size,
)
from geotempo.model.errors import LayoutError

FOLDERS = ("A", "B", "label")
EXPECTED = "{train,val,test}/{A,B,label} or {A,B,label}[,list]"


class LevirCd(FolderSource):
    """Yes/no, counting, grounding and masks of changed buildings."""

    name = "levir-cd"
    version = 1
    licence = levir.LICENCE
    citation = "Chen and Shi 2020, LEVIR-CD, Remote Sensing 12(10)"
    evidence = "real"
    tasks = ("change_vqa", "change_grounding", "referring_segmentation", "change_segmentation", "counting")

    def check_layout(self, root: Path) -> None:
        """See `Source`."""
        need_folder(root, self.name, EXPECTED)
        parents = [root / split for split in levir.SPLITS if (root / split).is_dir()] or [root]
        for parent in parents:
            missing = [name for name in FOLDERS if not (parent / name).is_dir()]
            if missing:
                raise LayoutError(f"{parent} has no folder {missing[0]}; {self.name} expects {EXPECTED}")

    def keys(self, root: Path) -> list[str]:
        """`split/stem` of every image of the earlier date."""
        splits = [split for split in levir.SPLITS if (root / split).is_dir()]
        if splits:
            return sorted(f"{split}/{stem}" for split in splits for stem in _stems(root / split / "A"))
        lists = _lists(root)
        return sorted(f"{lists.get(stem) or _split_of(stem)}/{stem}" for stem in _stems(root / "A"))

    def samples(self, root: Path, key: str) -> Iterator[Sample]:
        """All samples of one pair."""
        split, _, stem = key.partition("/")
        folder = root / split if (root / split / "A").is_dir() else root
        before, after = (find_image(folder / name, f"{stem}.png") for name in "AB")
        draft = Draft(self.name, split, stem, load_pair(before, after), self.licence)
        labels = load_labels(_label(folder / "label", stem))
        same_size(draft.images[0], labels.shape, f"label/{stem}")
        # Some copies hold 0/1 instead of 0/255, re-encoded ones have noise around both ends.
        changed = labels > (127 if labels.max(initial=0) > 1 else 0)
        yield from change_tasks(draft, levir.mask_regions(changed, "building"), "building")

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Pairs, changed pairs and buildings per split."""
        found: Counter[str] = Counter()
        for sample in samples:
            if sample.task == "change_grounding":
                found[f"pairs/{sample.split}"] += 1
                found[f"changed pairs/{sample.split}"] += bool(sample.regions)
                found[f"buildings/{sample.split}"] += len(sample.regions)
        return found


def _stems(folder: Path) -> list[str]:
    return [path.stem for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS]


def _label(folder: Path, stem: str) -> Path:
    try:
        return find_image(folder, f"{stem}.png")
    except Rejection as error:
        raise Rejection("missing mask", error.detail) from None


def _lists(root: Path) -> dict[str, str]:
    """Split of every stem that `list/<split>.txt` names."""
    found: dict[str, str] = {}
    for split in levir.SPLITS:
        path = root / "list" / f"{split}.txt"
        if path.is_file():
            found.update((Path(line.strip()).stem, split) for line in path.read_text("utf-8").splitlines() if line)
    return found


def _split_of(stem: str) -> str:
    first = stem.split("_")[0]
    return first if first in levir.SPLITS else "train"
