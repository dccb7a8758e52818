"""The user's own objects in COCO format: on single images, or changes on pairs of images.

The root is one `.json` file or a folder with some, also in `annotations/`; several files are several splits, which
their names tell (`instances_train2017.json`, `val.json`). Polygons, run lengths of both kinds and boxes without
outlines are read (Lin et al. 2014, "Microsoft COCO: Common Objects in Context", ECCV). Image names are relative to
`images`, to the file, or to a folder `images`, `<split>`, `images/<split>` or `<name of the file>` beside it.

Pairs: `before` and `after` are folders (`before=A after=B`) or patterns with `{name}` (`before={name}_pre.png`). What
is labelled on an image of a pair is taken as a change: on the later image something that is new, on the earlier one
something that is gone.

A class with a crowd (`iscrowd`) on an image is not asked about there. Each file is indexed once, as encoded JSON.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from geotempo.data_builders.coco_files import CocoFile, image_folders, is_objects, read_coco, split_of, stem_of
from geotempo.data_builders.coco_regions import view_regions
from geotempo.data_builders.label_tasks import absent, by_size, change_tasks, has_mask, object_tasks, region_tasks
from geotempo.data_builders.licences import licence_id
from geotempo.data_builders.own_records import open_image
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Draft, Item, RecordSource, Rejection, same_size
from geotempo.model.errors import InputError, LayoutError
from geotempo.model.records import ImageRecord, Region

SPLITS = ("train", "val", "test")
EXPECTED = "a COCO .json file, or a folder with some (images, annotations, categories)"
NAME = "{name}"
MASK_TASKS = ("referring_segmentation", "change_segmentation")


class Coco(RecordSource):
    """Everything that labelled objects support, or labelled changes.

    Args:
        licence: Terms of the data, `ID; details`, or `unknown`; nobody else can say.
        images: Folder that image names are relative to; empty means by the file.
        before: Folder, or pattern with `{name}`, of the earlier images of pairs; empty for single images.
        after: The same of the later images.
        thing: Name of the class where the file lists no categories.
        exhaustive: Whether all objects of the categories are labelled, so that a class without an object is denied and
            counts are right; if not, only places that are labelled are asked about.
        split: Split of files whose name tells none.
        val_share: Share, 0 to 1, of the images in train that goes to val, chosen by their contents.
        dataset: Name of the data set in the samples.
    """

    name = "coco"
    version = 1
    licence = "unknown; the user says"
    citation = "the user's own data"
    evidence = "real"
    tasks = (
        "referring_segmentation",
        "change_grounding",
        "counting",
        "vqa",
        "region_vqa",
        "change_vqa",
        "change_segmentation",
    )
    chunk = 8

    def __init__(
        self,
        licence: str,
        images: str = "",
        before: str = "",
        after: str = "",
        thing: str = "",
        exhaustive: bool = True,
        split: Literal["train", "val", "test"] = "train",
        val_share: float = 0.0,
        dataset: str = "own",
    ) -> None:
        licence_id(licence)
        if bool(before) != bool(after):
            raise InputError("before and after belong together: give both for pairs, or none for single images")
        if (NAME in before) != (NAME in after) or (before and before == after):
            raise InputError(f"before={before} and after={after}: give two folders, or two patterns with {NAME}")
        if split not in SPLITS or not 0 <= val_share <= 1:
            raise InputError(f"split is {split} and val_share {val_share:g}; allowed: {', '.join(SPLITS)}, and 0 to 1")
        if not re.fullmatch(r"[\w.-]+", dataset):
            raise InputError(f"dataset is {dataset!r}; use letters, digits, '.', '_' and '-'")
        self.images, self.before, self.after, self.thing, self.exhaustive = (
            images,
            before,
            after,
            thing.strip(),
            exhaustive,
        )
        self.split, self.val_share, self.dataset = split, val_share, dataset
        self.licence = licence  # type: ignore[misc]  # here it is not the class that knows
        self._read: dict[Path, CocoFile] = {}

    def files(self, root: Path) -> list[Path]:
        """The root itself, or the annotation files in it."""
        if root.is_file():
            return [root]
        found = sorted(path for folder in (root, root / "annotations") for path in folder.glob("*.json"))
        return [path for path in found if is_objects(path)]

    def check_layout(self, root: Path) -> None:
        """See `Source`; all annotation files are indexed."""
        if not root.exists():
            raise LayoutError(f"{root} is not there; {self.name} expects {EXPECTED}; give its place with --root")
        if not self.files(root):
            raise LayoutError(f"{root} holds no COCO annotation of objects; {self.name} expects {EXPECTED}")
        for path in self.files(root):
            coco = self._coco(path)
            if not coco.classes and not self.thing:
                raise LayoutError(
                    f'{path.name} lists no "categories", so its classes have no names; add them, or name the one class '
                    "with thing=..."
                )
        if self.images and not Path(self.images).is_dir():
            raise LayoutError(f"images={self.images} is no folder; give the one that image names are relative to")
        if not any(True for _ in self.items(root)):
            raise LayoutError(
                f"no image name of {self.files(root)[0].name} fits before={self.before} or after={self.after}"
            )

    def items(self, root: Path) -> Iterator[Item]:
        """One item per image or pair, and one per image id that is not in the list of images."""
        for path in self.files(root):
            coco = self._coco(path)
            groups: dict[str, dict[str, Any]] = {}
            for image, name, width, height in coco.images:
                place, key = self._place(name)
                group = groups.setdefault(key, {"classes": list(coco.classes.values()) or [self.thing],
                                               "outlined": coco.outlined, "views": []})
                group["views"].append(
                    {"place": place, "file": name, "size": [width, height], "objects": self._named(coco, image)}
                )
            for key, group in groups.items():
                yield Item(f"{path.stem}:{key}", {**group, "file": str(path), "key": key})
            for image in coco.orphans:
                yield Item(f"{path.stem}:id {image}", {"orphan": len(coco.objects[image]), "file": str(path)})

    def record_samples(self, root: Path, key: str, record: Any) -> Iterator[Sample]:
        """The samples of one image or pair."""
        path = Path(record["file"])
        if "orphan" in record:
            raise Rejection(
                "image not listed",
                f"{key}: {record['orphan']} annotations name an image that {path.name} does not list",
            )
        if self.before:
            names = [self._member(record["key"], side) for side in (self.before, self.after)]
        else:
            names = [record["views"][0]["file"]]
        images = tuple(open_image(name, self._folders(path)) for name in names)
        same_size(images[0], (images[-1].height, images[-1].width), names[-1])
        regions, crowds = view_regions(record["views"], images)
        classes = [thing for thing in dict.fromkeys(record["classes"]) if thing not in crowds]
        draft = Draft(
            self.dataset,
            self._split(path, images),
            f"{path.stem}/{stem_of(record['key'])}",
            images,
            self.licence,
            {"scene": stem_of(record["key"]), **({"crowds": sorted(crowds)} if crowds else {})},
        )
        if self.before:
            yield from self._changes(draft, regions, classes, record["outlined"] and has_mask(regions))
        elif self.exhaustive:
            yield from object_tasks(draft, [region for region in regions if region.label in classes], classes,
                                    masks=record["outlined"] and has_mask(regions))
        else:
            yield from region_tasks(draft, regions)

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Images or pairs per split, and classes that crowds keep from being asked about."""
        if not samples:
            return Counter()
        first = samples[0]
        return Counter({f"{'pairs' if self.before else 'images'}/{first.split}": 1,
                        "classes of crowds, not asked about": len(first.meta.get("crowds", []))})

    def _changes(
        self, draft: Draft, regions: Sequence[Region], classes: Sequence[str], masks: bool
    ) -> Iterator[Sample]:
        """Changes of each class, and of some that did not change; masks are asked for only where there are outlines."""
        changed = {thing: by_size([region for region in regions if region.label == thing]) for thing in classes}
        present = [thing for thing, found in changed.items() if found]
        denied = absent(present, classes, draft.id("absent")) if self.exhaustive else []
        for thing, found in changed.items():
            if found or thing in denied:
                samples = change_tasks(draft, found, thing, presence=self.exhaustive, count=self.exhaustive)
                yield from (sample for sample in samples if masks or sample.task not in MASK_TASKS)

    def _coco(self, path: Path) -> CocoFile:
        if path not in self._read:
            self._read[path] = read_coco(path)
        return self._read[path]

    def _named(self, coco: CocoFile, image: Any) -> list[dict[str, Any]]:
        """Annotations of an image with the name of their class, None where the file does not know it."""
        names: Mapping[Any, str | None] = coco.classes
        return [{**one, "class": names.get(one.get("category_id")) if names else self.thing} for one in coco.of(image)]

    def _place(self, name: str) -> tuple[int, str]:
        """Acquisition number (1 or 2) and key of an image by its name; the key is what both images of a pair share."""
        for number, side in enumerate((self.before, self.after) if self.before else (), 1):
            if NAME in side:
                match = re.fullmatch(re.escape(side).replace(re.escape(NAME), "(?P<name>.+)"), name)
                match = match or re.fullmatch(re.escape(side).replace(re.escape(NAME), "(?P<name>.+)"), Path(name).name)
                if match:
                    return number, match["name"]
            elif name.startswith(f"{side.rstrip('/')}/"):
                return number, name.removeprefix(f"{side.rstrip('/')}/")
        return (2 if self.before else 1), name

    def _member(self, key: str, side: str) -> str:
        return side.replace(NAME, key) if NAME in side else f"{side.rstrip('/')}/{key}"

    def _folders(self, path: Path) -> list[Path]:
        """Where images may be, the likeliest first."""
        return [Path(self.images)] if self.images else image_folders(path, split_of(path, self.split))

    def _split(self, path: Path, images: Sequence[ImageRecord]) -> str:
        split = split_of(path, self.split)
        digest = hashlib.sha256("\n".join(image.id for image in images).encode()).digest()
        return "val" if split == "train" and int.from_bytes(digest[:8], "big") < self.val_share * 2**64 else split
