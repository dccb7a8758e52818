"""RRSIS-D: 17,402 referring expressions with masks on DIOR images, 800 x 800 pixels, 0.5 to 30 m.

```
rrsisd/refs(unc).p                        a list of {ref_id, ann_id, image_id, split, sentences: [{raw, sent, ...}]}
rrsisd/instances.json                     COCO: images, annotations (segmentation, bbox), categories
images/rrsisd/JPEGImages/<number>.jpg
```
Liu et al. 2024, "Rotated Multi-Scale Interaction Network for Referring Remote Sensing Image Segmentation", CVPR.

Three traps. The expressions are a pickle, which may run anything: `geotempo.data_builders.pickles` reads plain data
only. A segmentation is a list of polygons or a list of compressed run lengths, whose union is meant. And `bbox`,
nominally x, y, width, height, is said to be two corners: which of them it is, is decided by comparing boxes with masks,
and counted in the summary. Only what is referred to is labelled, so nothing is denied. The original file was not seen.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import ijson

from geotempo.data_builders.box_conventions import Convention, agreeing, deciding
from geotempo.data_builders.label_tasks import expression_tasks
from geotempo.data_builders.pickles import load_plain
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.segmentations import segmented
from geotempo.data_builders.source import Draft, Item, RecordSource, Rejection, find_image, load_image, need_folder
from geotempo.model.errors import InputError, LayoutError
from geotempo.model.geometry import bounds

EXPECTED = "rrsisd/refs(unc).p, rrsisd/instances.json and images/rrsisd/JPEGImages"
SPLITS = ("train", "val", "test")
FIELDS = ("ref_id", "ann_id", "image_id", "split", "sentences")
PROBED = 300
"""Annotations by which the convention of the boxes is decided."""


class RrsisD(RecordSource):
    """Masks and boxes of expressions, and expressions of places."""

    name = "rrsis-d"
    version = 1
    licence = "unknown; RRSIS-D on DIOR images, Google Earth"
    citation = "Liu et al. 2024, RMSIN, CVPR"
    evidence = "documentation"
    tasks = ("referring_segmentation", "change_grounding", "region_caption")

    def files(self, root: Path) -> list[Path]:
        """The pickle and the COCO file."""
        return [_base(root) / "refs(unc).p", _base(root) / "instances.json"]

    def check_layout(self, root: Path) -> None:
        """See `Source`; the first expressions and the boxes are looked at."""
        need_folder(root, self.name, EXPECTED)
        for path in self.files(root):
            if not path.is_file():
                raise LayoutError(f"{root} has no {path.name}; {self.name} expects {EXPECTED}")
        if not _images(root).is_dir():
            raise LayoutError(f"{root} has no folder of images; {self.name} expects {EXPECTED}")
        for number, ref in enumerate(_refs(self.files(root)[0])[:100]):
            missing = [name for name in FIELDS if not isinstance(ref, dict) or name not in ref]
            if missing:
                raise LayoutError(
                    f"refs(unc).p, record {number} has no {', '.join(missing)}; the assumption that each is a "
                    f"dictionary with {', '.join(FIELDS)} does not hold"
                )
        _convention(self.files(root)[1])

    def items(self, root: Path) -> Iterator[Item]:
        """One item per expression's object, with its annotation."""
        refs, instances = self.files(root)
        known, convention = _instances(instances, instances.stat().st_mtime_ns), _convention(instances)
        for number, ref in enumerate(_refs(refs)):
            parts = ref if isinstance(ref, dict) else {}
            yield Item(f"refs(unc).p:{number}", {"ref": ref, "convention": convention,
                                                 "annotation": known["annotations"].get(parts.get("ann_id")),
                                                 "image": known["images"].get(parts.get("image_id"))})

    def record_samples(self, root: Path, key: str, record: Any) -> Iterator[Sample]:
        """All sentences about one object."""
        ref, annotation, entry = record["ref"], record["annotation"], record["image"]
        if annotation is None or entry is None:
            what = "annotation" if annotation is None else "image"
            raise Rejection("missing annotation", f"instances.json has no {what} of reference {ref['ref_id']}")
        if ref["split"] not in SPLITS:
            raise Rejection("unknown split", f"reference {ref['ref_id']} is of split {ref['split']!r}")
        phrases = list(dict.fromkeys(" ".join(str(one.get("raw") or one.get("sent") or "").split()).rstrip(". ")
                                     for one in ref["sentences"]))
        if not any(phrases):
            raise Rejection("empty expression", f"reference {ref['ref_id']} has no words")
        image = load_image(find_image(_images(root), entry["file_name"]))
        if (image.width, image.height) != (entry["width"], entry["height"]):
            raise Rejection(
                "size mismatch",
                f"{entry['file_name']} is {image.width} x {image.height}, its annotation says {entry['width']} x "
                f"{entry['height']}",
            )
        region = segmented(
            annotation["segmentation"], image.height, image.width, entry["classes"].get(annotation["category_id"], "")
        )
        box = agreeing(annotation, bounds(region.geometry), record["convention"], image.height, image.width)
        stem = Path(entry["file_name"]).stem
        draft = Draft(self.name, ref["split"], f"{stem}-{ref['ref_id']}", (image,), self.licence,
                      {"scene": stem, "box": list(box.as_tuple()), "boxes_as": record["convention"]})
        for number, phrase in enumerate(filter(None, phrases)):
            yield from expression_tasks(draft, str(number), phrase, [region])

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Objects and expressions per split, and how the boxes were read."""
        if not samples:
            return Counter()
        first = samples[0]
        return Counter(
            {
                f"objects/{first.split}": 1,
                f"boxes read as {first.meta['boxes_as']}": 1,
                f"expressions/{first.split}": sum(sample.task == "referring_segmentation" for sample in samples),
            }
        )


def _base(root: Path) -> Path:
    return root / "rrsisd" if (root / "rrsisd").is_dir() else root


def _images(root: Path) -> Path:
    for folder in ("images/rrsisd/JPEGImages", "rrsisd/images/rrsisd/JPEGImages", "JPEGImages", "images"):
        if (root / folder).is_dir():
            return root / folder
    return root / "images/rrsisd/JPEGImages"


def _refs(path: Path) -> list[Any]:
    """The expressions' records.

    Raises:
        LayoutError: The pickle is broken, does anything, or holds no list.
    """
    try:
        refs = load_plain(path)
    except InputError as error:
        raise LayoutError(str(error)) from None
    if not isinstance(refs, list) or not refs:
        raise LayoutError(f"{path.name} holds a {type(refs).__name__}, expected a list of references")
    return refs


@cache
def _instances(path: Path, changed: int) -> dict[str, dict[Any, Any]]:
    """Images and annotations by id; `changed` is when the file was written.

    Raises:
        LayoutError: The file is no COCO annotation.
    """
    found: dict[str, dict[Any, Any]] = {}
    try:
        with path.open("rb") as handle:
            classes = {
                one["id"]: str(one["name"]).replace("_", " ")
                for one in ijson.items(handle, "categories.item", use_float=True)
            }
        with path.open("rb") as handle:
            found["images"] = {
                one["id"]: {**one, "classes": classes} for one in ijson.items(handle, "images.item", use_float=True)
            }
        with path.open("rb") as handle:
            found["annotations"] = {one["id"]: one for one in ijson.items(handle, "annotations.item", use_float=True)}
    except (ijson.JSONError, KeyError, TypeError, ValueError) as error:
        raise LayoutError(
            f"{path.name} is no COCO annotation ({error!r}); expected images, annotations and categories"
        ) from None
    return found


def _convention(path: Path) -> Convention:
    """How boxes are written, by those of the first annotations that have a readable mask.

    Raises:
        LayoutError: Neither way fits most of them.
    """
    known = _instances(path, path.stat().st_mtime_ns)
    pairs = []
    for annotation in list(known["annotations"].values())[:PROBED]:
        entry = known["images"].get(annotation.get("image_id"), {})
        try:
            region = segmented(annotation["segmentation"], int(entry["height"]), int(entry["width"]), "")
            pairs.append((annotation["bbox"], bounds(region.geometry)))
        except (Rejection, TypeError, KeyError, ValueError):
            continue
    return deciding(pairs, path.name)
