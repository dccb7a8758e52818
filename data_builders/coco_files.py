"""COCO annotation files of any size: streamed, and grouped by image as encoded JSON, never held as objects."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ijson

from geotempo.model.errors import LayoutError

FIELDS = ("segmentation", "bbox", "category_id", "iscrowd", "id")


@dataclass(frozen=True)
class CocoFile:
    """What an annotation file holds.

    Attributes:
        path: The file.
        classes: Names of the categories by id, in the file's order, underscores as blanks; empty where it lists none.
        images: (id, file name, width, height) as they stand there.
        objects: Annotations by image id, each encoded (`FIELDS` only).
        outlined: Whether any annotation has more than a box.
    """

    path: Path
    classes: dict[Any, str]
    images: list[tuple[Any, str, Any, Any]]
    objects: dict[Any, list[bytes]] = field(repr=False)
    outlined: bool

    def of(self, image: Any) -> list[dict[str, Any]]:
        """Annotations of an image."""
        return [json.loads(text) for text in self.objects.get(image, ())]

    @property
    def orphans(self) -> list[Any]:
        """Image ids that annotations name and the list of images does not."""
        known = {image[0] for image in self.images}
        return [image for image in self.objects if image not in known]


def read_coco(path: Path) -> CocoFile:
    """Read an annotation file in three passes.

    Raises:
        LayoutError: It cannot be read, breaks off, or is no COCO annotation of objects.
    """
    objects: dict[Any, list[bytes]] = defaultdict(list)
    classes = {_get(one, "id", path, "categories"): str(_get(one, "name", path, "categories")).replace("_", " ")
               for one in _stream(path, "categories")}
    images = [
        (
            _get(one, "id", path, "images"),
            str(_get(one, "file_name", path, "images")),
            one.get("width"),
            one.get("height"),
        )
        for one in _stream(path, "images")
    ]
    outlined = False
    for one in _stream(path, "annotations"):
        outlined = outlined or bool(one.get("segmentation"))
        kept = {name: one[name] for name in FIELDS if name in one}
        objects[_get(one, "image_id", path, "annotations")].append(json.dumps(kept).encode())
    if not images:
        raise LayoutError(f'{path.name} lists no "images"; expected a COCO annotation: images, annotations, categories')
    return CocoFile(path, classes, images, dict(objects), outlined)


def is_objects(path: Path) -> bool:
    """Whether a JSON file is a COCO annotation of objects: a list of images, and no captions or panoptic segments."""
    try:
        with path.open("rb") as handle:
            if next(ijson.items(handle, "images.item", use_float=True), None) is None:
                return False
        with path.open("rb") as handle:
            first = next(ijson.items(handle, "annotations.item", use_float=True), None)
    except (OSError, ijson.JSONError, ValueError):
        return False
    return first is None or (isinstance(first, dict) and bool({"segmentation", "bbox"} & first.keys()))


def _stream(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """Entries of one of the file's lists."""
    try:
        with path.open("rb") as handle:
            for number, one in enumerate(ijson.items(handle, f"{name}.item", use_float=True)):
                if not isinstance(one, dict):
                    raise LayoutError(f"{path.name}: entry {number} of {name} is no dictionary, as COCO wants it")
                yield one
    except OSError as error:
        raise LayoutError(f"cannot read {path}: {error.strerror}") from None
    except (ijson.JSONError, ValueError) as error:
        raise LayoutError(
            f"{path.name} is no whole JSON file ({' '.join(str(error).split())[:120]}); copy it again"
        ) from None


def _get(one: dict[str, Any], key: str, path: Path, name: str) -> Any:
    if one.get(key) is None or isinstance(one[key], list | dict):
        raise LayoutError(
            f"{path.name}: an entry of {name} has no {key}; expected a COCO annotation: images (id, file_name), "
            "annotations (image_id, category_id, segmentation or bbox), categories (id, name)"
        )
    return one[key]


def split_of(path: Path, default: str) -> str:
    """The split that a file's name tells: `instances_train2017.json`, `valid.json`."""
    told = re.search(r"(?<![a-z])(train|val|test)(?:id)?(?![a-z])", path.stem.lower().replace("_", " "))
    return told.group(1) if told else default


def image_folders(path: Path, split: str) -> list[Path]:
    """Folders in which the images of an annotation file may be, the likeliest first."""
    base = path.parent.parent if path.parent.name == "annotations" else path.parent
    stem = path.stem.removeprefix("instances_")
    names = ("", "images", split, f"images/{split}", stem, f"images/{stem}", "JPEGImages")
    return [base / name for name in names if (base / name).is_dir()]


def stem_of(name: str) -> str:
    """An image's name without its extension, fit for a sample's id."""
    return re.sub(r"\.(?:png|jpe?g|webp|tiff?|bmp)$", "", name, flags=re.IGNORECASE).replace("#", "_")
