"""Labels of your own in COCO's format: on single images, or changes between two images of one name.

```
<root>/*.json, <root>/annotations/*.json      one or several files; the split is in the name (train, val, test), else by hash
<root>/[images/][<split>/]<file_name>         single images
<root>/<before>/<file_name>, <root>/<after>/<file_name>     pairs, with the options before and after
```
Lin et al. 2014, "Microsoft COCO: Common Objects in Context", ECCV. Traps: `bbox` is [x, y, width, height]; a segmentation is a
list of polygons, run lengths, or compressed run lengths; `iscrowd` marks groups that cannot be counted, so their class is
neither counted nor denied on that image; categories without a single object are still denied, because COCO's labels are
exhaustive (`negatives=false` for those that are not). An object that cannot be read is set aside with its class on that
image, counted in the summary, and the rest of the image is kept.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from geotempo.data_builders.coco import CocoFile, CocoImage, object_region, read_coco
from geotempo.data_builders.label_tasks import change_tasks, object_tasks
from geotempo.data_builders.licences import licence_id
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Draft, FolderSource, Rejection, load_image, load_pair, need_folder
from geotempo.model.errors import InputError, LayoutError
from geotempo.model.records import ImageRecord, Region

SPLITS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
EXPECTED = "COCO annotation files (*.json) in it or in annotations/, and the images"


class Coco(FolderSource):
    """Objects on images, or changes between pairs, as every task that they support.

    Args:
        files: Annotation files below the root; empty takes all `*.json` there and in `annotations`.
        images: Folder of the images; empty looks in the root, `images`, and folders named like the split.
        before: Folder of the earlier images; makes pairs together with `after`.
        after: Folder of the later images.
        on: Image of a pair on which the objects are outlined, 1 or 2.
        negatives: Whether a category without an object on an image may be denied.
        val_share: Share of the images that becomes val where no file name says a split, 0 to 1.
        licence: Terms of the data, `ID; details`.
        dataset: Name for the samples' ids.
    """

    name = "coco"
    citation = "the user's own data"
    evidence = "real"
    licence = "unknown"
    tasks = ("referring_segmentation", "change_grounding", "change_segmentation", "change_vqa", "counting", "vqa", "region_vqa")

    def __init__(self, files: tuple[str, ...] = (), images: str = "", before: str = "", after: str = "", on: int = 2,
                 negatives: bool = True, val_share: float = 0.1, licence: str = "unknown", dataset: str = "coco") -> None:
        licence_id(licence)
        if bool(before) != bool(after):
            raise InputError("coco makes pairs of two folders; give both before=FOLDER and after=FOLDER")
        if on not in (1, 2) or not 0 <= val_share <= 1:
            raise InputError(f"coco wants on=1 or on=2 and a val_share of 0 to 1, got {on} and {val_share}")
        self.files, self.images, self.pair, self.on = files, images, (before, after) if before else None, on
        self.negatives, self.val_share, self.own_licence, self.dataset = negatives, val_share, licence, dataset

    def check_layout(self, root: Path) -> None:
        """See `Source`."""
        need_folder(root, self.name, EXPECTED)
        if not self._files(root):
            raise LayoutError(f"{root} has no annotation file; {self.name} expects {EXPECTED}")
        for folder in [*(self.pair or ()), *([self.images] if self.images else [])]:
            if not (root / folder).is_dir():
                raise LayoutError(f"{root / folder} is no folder; name one below the root, or an absolute one")
        for path in self._files(root):
            read_coco(path)

    def keys(self, root: Path) -> list[str]:
        """`file:image id` of every image of every file."""
        return [f"{path.relative_to(root).as_posix()}:{key}" for path in self._files(root) for key in read_coco(path).images]

    def samples(self, root: Path, key: str) -> Iterator[Sample]:
        """All samples of one image or pair."""
        file, _, number = key.rpartition(":")
        annotations = read_coco(root / file)
        entry = next(image for name, image in annotations.images.items() if str(name) == number)
        images = self._load(root, file, entry)
        draft = Draft(self.dataset, self._split(file, images), f"{Path(file).stem}:{number}", images, self.own_licence,
                      {"scene": Path(entry.name).stem})
        regions, unsure, aside = self._regions(annotations, entry, images)
        draft.meta.update({"set_aside": dict(sorted(aside.items()))} if aside else {})
        if unsure >= set(annotations.classes.values()):
            raise Rejection("unknown category", f"{entry.name}: an object of a category that the file does not list, so that no class "
                                                "can be counted or denied")
        present = {region.label for region in regions}
        classes = [name for name in annotations.classes.values() if name not in unsure and (self.negatives or name in present)]
        if self.pair is None:
            yield from object_tasks(draft, [region for region in regions if region.label in classes], classes)
            return
        for thing in classes:
            mine = [region for region in regions if region.label == thing]
            if mine or self.negatives:
                yield from change_tasks(draft, mine, thing)

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Images per split, and what was set aside of them."""
        found: Counter[str] = Counter()
        if samples:
            found[f"images/{samples[0].split}"] += 1
            found.update({f"set aside/{reason}": count for reason, count in samples[0].meta.get("set_aside", {}).items()})
        return found

    def _files(self, root: Path) -> list[Path]:
        if self.files:
            return [root / name for name in self.files]
        return [*sorted(root.glob("*.json")), *sorted((root / "annotations").glob("*.json"))]

    def _load(self, root: Path, file: str, entry: CocoImage) -> tuple[ImageRecord, ...]:
        """The image, or both of a pair.

        Raises:
            Rejection: One is missing or broken, or has another size than the file says.
        """
        if self.pair is not None:
            images = load_pair(*(root / folder / entry.name for folder in self.pair))
        else:
            images = (load_image(self._find(root, file, entry.name)),)  # type: ignore[assignment]
        width, height = entry.width or images[0].width, entry.height or images[0].height
        if (images[0].width, images[0].height) != (width, height):
            raise Rejection("size mismatch", f"{entry.name} is {images[0].width} x {images[0].height}, its annotation says "
                                             f"{width} x {height}")
        return images

    def _find(self, root: Path, file: str, name: str) -> Path:
        split = _named_split(file)
        places = [self.images] if self.images else ["", "images", split, f"images/{split}", f"{split}/images", f"{split}2017"]
        for place in places:
            if (root / place / name).is_file():
                return root / place / name
        raise Rejection("missing image", f"{name} is not in {', '.join(repr(place or '.') for place in places)}; give images=FOLDER")

    def _split(self, file: str, images: Sequence[ImageRecord]) -> str:
        named = _named_split(file)
        if named:
            return named
        share = int(hashlib.sha256(images[0].id.encode()).hexdigest()[:8], 16) / 16**8
        return "val" if share < self.val_share else "train"

    def _regions(self, annotations: CocoFile, entry: CocoImage,
                 images: Sequence[ImageRecord]) -> tuple[list[Region], set[str], Counter[str]]:
        """Usable objects, classes whose number is not known here, and what was set aside."""
        regions: list[Region] = []
        unsure: set[str] = set()
        aside: Counter[str] = Counter()
        number = self.on if self.pair else 1
        for annotation in entry.objects:
            label = annotations.classes.get(annotation.get("category_id"))
            try:
                regions.append(_region(annotation, label, images[0], number))
            except Rejection as error:
                aside[error.reason] += 1
                unsure |= {label} if label is not None else set(annotations.classes.values())
        return regions, unsure, aside


def _region(annotation: Any, label: str | None, image: ImageRecord, number: int) -> Region:
    if label is None:
        raise Rejection("unknown category", f"category_id {annotation.get('category_id')!r}")
    if annotation.get("iscrowd"):
        raise Rejection("crowd", f"a group of {label}")
    return object_region(annotation, label, (image.width, image.height), number)


def _named_split(file: str) -> str:
    """The split that a file's name tells; empty where it tells none."""
    words = Path(file).stem.lower().replace("-", "_").replace(".", "_").split("_")
    return next((SPLITS[word.rstrip("0123456789")] for word in words if word.rstrip("0123456789") in SPLITS), "")
