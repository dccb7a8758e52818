"""NWPU VHR-10 with instance masks: ten classes of objects on single images of 0.08 to 2 m, about 1000 x 600 pixels.

```
annotations/NWPU_instances_{train,val}.json    COCO: images, annotations (bbox, segmentation), categories
imgs/<number>.jpg
```
Images: Cheng et al. 2014, "Multi-class geospatial object detection and geographic image classification based on
collection of part detectors", ISPRS Journal 98. Masks: Su et al. 2019, "Object Detection and Instance Segmentation in
Remote Sensing Imagery Based on Precise Mask R-CNN", IGARSS; in this layout with RSPrompter (Chen et al. 2024, IEEE TGRS).

Two traps. Vertices and boxes count whole pixels inclusively (a box is max - min + 1 wide), so the outline belongs to the
object. And copies often hold the training file only: then a fifth of its images, by the hash of their name, is val here,
which no publication means by val.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco

from geotempo.data_builders.instances import mask_points
from geotempo.data_builders.label_tasks import class_tasks
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import (
    Draft,
    FolderSource,
    Rejection,
    find_image,
    load_image,
    load_json,
    need_folder,
)
from geotempo.model.errors import LayoutError
from geotempo.model.geometry import BoolArray, Mask
from geotempo.model.records import Region

SPLITS = ("train", "val", "test")
HELD_OUT = 5  # one image in so many is val where the copy has no file of its own for val
EXPECTED = "annotations/NWPU_instances_{train,val}.json and imgs/"


class NwpuVhr10(FolderSource):
    """Referring segmentation, counting and presence of each class, on single images."""

    name = "nwpu-vhr10"
    version = 1
    licence = "academic; NWPU VHR-10, imagery Google Earth and DGPF Vaihingen"
    citation = "Cheng et al. 2014, ISPRS Journal 98; masks: Su et al. 2019, IGARSS"
    evidence = "real"
    tasks = ("referring_segmentation", "counting", "vqa")

    def check_layout(self, root: Path) -> None:
        """See `Source`."""
        need_folder(root, self.name, EXPECTED)
        if not (root / "imgs").is_dir():
            raise LayoutError(f"{root} has no folder imgs; {self.name} expects {EXPECTED}")
        if not _files(root):
            raise LayoutError(f"{root} has no annotations/NWPU_instances_*.json; {self.name} expects {EXPECTED}")
        for split in _files(root):
            _annotations(root, split)

    def keys(self, root: Path) -> list[str]:
        """`split/stem` of every image that an annotation file names."""
        return sorted(f"{_split(root, split, name)}/{Path(name).stem}"
                      for split in _files(root) for name in _annotations(root, split))

    def samples(self, root: Path, key: str) -> Iterator[Sample]:
        """All samples of one image: the classes on it, and one class that is not."""
        split, _, stem = key.partition("/")
        name, entry = _entry(root, stem)
        image = load_image(find_image(root / "imgs", name))
        if (image.width, image.height) != (entry["width"], entry["height"]):
            raise Rejection("size mismatch", f"imgs/{name} is {image.width} x {image.height}, its annotation says "
                                             f"{entry['width']} x {entry['height']}")
        objects: dict[str, list[Region]] = {thing: [] for thing in entry["classes"]}
        for thing, segmentation in entry["objects"]:
            objects[thing].append(_region(segmentation, thing, image.height, image.width, name))
        draft = Draft(self.name, split, stem, (image,), self.licence)
        absent = [thing for thing, regions in objects.items() if not regions]
        missing = absent[int(hashlib.sha256(stem.encode()).hexdigest(), 16) % len(absent)] if absent else None
        for thing, regions in objects.items():
            if regions or thing == missing:
                yield from class_tasks(draft, thing, regions)

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Images per split, objects per split and class."""
        found: Counter[str] = Counter()
        if samples:
            found[f"images/{samples[0].split}"] += 1
        for sample in samples:
            if sample.task == "referring_segmentation":
                found.update(f"{region.label}/{sample.split}" for region in sample.regions)
        return found


def _files(root: Path) -> list[str]:
    """Splits that have an annotation file."""
    return [split for split in SPLITS if (root / "annotations" / f"NWPU_instances_{split}.json").is_file()]


def _annotations(root: Path, split: str) -> dict[str, dict[str, Any]]:
    """By file name: width, height, names of all classes, and objects as (class, segmentation).

    Raises:
        LayoutError: The file is no COCO annotation.
    """
    path = root / "annotations" / f"NWPU_instances_{split}.json"
    return _read(path, path.stat().st_mtime_ns)


@cache
def _read(path: Path, changed: int) -> dict[str, dict[str, Any]]:
    """`_annotations` of a file; `changed` is when it was last written, so that a new file is read anew."""
    try:
        raw = load_json(path)
        classes = {entry["id"]: str(entry["name"]).replace("_", " ") for entry in raw["categories"]}
        objects: dict[int, list[tuple[str, Any]]] = defaultdict(list)
        for entry in raw["annotations"]:
            objects[entry["image_id"]].append((classes[entry["category_id"]], entry["segmentation"]))
        return {str(entry["file_name"]): {"width": int(entry["width"]), "height": int(entry["height"]),
                                          "classes": list(classes.values()), "objects": objects[entry["id"]]}
                for entry in raw["images"]}
    except (Rejection, KeyError, TypeError, ValueError, AttributeError) as error:
        raise LayoutError(f"{path} is no COCO annotation ({error!r}); expected images, annotations with segmentation, "
                          "and categories") from None


def _split(root: Path, split: str, name: str) -> str:
    if _files(root) != ["train"]:
        return split
    return "val" if int(hashlib.sha256(Path(name).stem.encode()).hexdigest(), 16) % HELD_OUT == 0 else "train"


def _entry(root: Path, stem: str) -> tuple[str, dict[str, Any]]:
    return next((name, entry) for split in _files(root) for name, entry in _annotations(root, split).items()
                if Path(name).stem == stem)


def _region(segmentation: Any, label: str, height: int, width: int, name: str) -> Region:
    """An object's mask with two interior points.

    Raises:
        Rejection: The segmentation is neither polygons nor run lengths, or is empty.
    """
    try:
        mask = _from_runs(segmentation, height, width) if isinstance(segmentation, dict) else \
            _from_polygons(segmentation, height, width)
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise Rejection("broken annotation", f"{name}: {label} has no readable segmentation ({error})") from None
    points = mask_points(mask)
    if points is None:
        raise Rejection("broken annotation", f"{name}: a segmentation of {label} is empty")
    return Region(1, Mask.from_array(mask), label, points)


def _from_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> BoolArray:
    """Union of polygons whose vertices are pixels that belong to the object."""
    picture = Image.new("1", (width, height))
    for ring in polygons:
        ImageDraw.Draw(picture).polygon([(float(x), float(y)) for x, y in np.reshape(ring, (-1, 2))], fill=1, outline=1)
    return np.asarray(picture, dtype=np.bool_)


def _from_runs(runs: Any, height: int, width: int) -> BoolArray:
    if list(runs["size"]) != [height, width]:
        raise ValueError(f"run lengths of size {runs['size']} on an image of {height} rows and {width} columns")
    packed: Any = coco.frPyObjects(runs, height, width) if isinstance(runs["counts"], list) else runs
    return np.asarray(coco.decode(packed), dtype=np.bool_)
