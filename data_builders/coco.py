"""COCO annotation files: images with their objects.

Lin et al. 2014, "Microsoft COCO: Common Objects in Context", ECCV. A file is read as a whole, because its annotations must be
joined with their images and stand in any order: about six times its size in memory, 600 MB for one of 100 MB.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from geotempo.data_builders.segmentations import boxed, segmented
from geotempo.model.errors import LayoutError
from geotempo.model.records import Region


@dataclass(frozen=True)
class CocoImage:
    """An image of a COCO file.

    Attributes:
        name: `file_name`, as written.
        width: Columns; None where the file does not say.
        height: Rows.
        objects: Its annotations as written.
    """

    name: str
    width: int | None
    height: int | None
    objects: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class CocoFile:
    """A COCO annotation file.

    Attributes:
        images: By id, in the file's order.
        classes: Names by category id, `_` as a blank.
        orphans: Annotations of images that the file does not list.
    """

    images: Mapping[Any, CocoImage]
    classes: Mapping[Any, str]
    orphans: int


def read_coco(path: Path) -> CocoFile:
    """Read a COCO annotation file; kept until the file changes.

    Raises:
        LayoutError: Unreadable, no JSON, or without images, annotations or categories; the one that is missing is named.
    """
    try:
        return _read(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise LayoutError(f"cannot read {path}: {error.strerror}") from None


@lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> CocoFile:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LayoutError(f"{path} is no JSON ({error}); copy it again") from None
    missing = [key for key in ("images", "annotations", "categories") if not (isinstance(raw, dict) and isinstance(raw.get(key), list))]
    if missing:
        raise LayoutError(f"{path} is no COCO annotation: it has no list {missing[0]!r}; expected images, annotations and categories")
    try:
        classes = {entry["id"]: " ".join(str(entry["name"]).replace("_", " ").split()) for entry in raw["categories"]}
        objects: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
        for entry in raw["annotations"]:
            objects[entry["image_id"]].append(entry)
        images = {entry["id"]: CocoImage(str(entry["file_name"]), _side(entry.get("width")), _side(entry.get("height")),
                                         tuple(objects.pop(entry["id"], ()))) for entry in raw["images"]}
    except (KeyError, TypeError, ValueError) as error:
        raise LayoutError(f"{path} is no COCO annotation ({error!r}); images need id and file_name, annotations image_id, "
                          "categories id and name") from None
    return CocoFile(images, classes, sum(map(len, objects.values())))


def object_region(entry: Mapping[str, Any], label: str, size: tuple[int, int], number: int = 1) -> Region:
    """An annotation as a region: its outline or mask where it has a segmentation, else its box.

    Args:
        entry: With `segmentation`, or `bbox` [x, y, w, h] in pixels.
        label: Of the region.
        size: (width, height) of the image.
        number: Acquisition on which it lies.

    Raises:
        Rejection: Neither is usable.
    """
    width, height = size
    if entry.get("segmentation"):
        return segmented(entry["segmentation"], height, width, label, number)
    return boxed(entry.get("bbox"), height, width, label, number)


def _side(value: Any) -> int | None:
    return int(value) if value else None
