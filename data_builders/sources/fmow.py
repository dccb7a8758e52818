"""fMoW (Functional Map of the World): what a place is used for, over a sequence of images from different sensors.

```
{train,val,test,seq}/<category>/<category>_<location>/<category>_<location>_<t>_{rgb,msrgb}.jpg with a JSON of the same name
```
JSON of an image: `timestamp`, `gsd`, `cloud_cover`, `sensor_platform_name`, `country_code` and
`bounding_boxes` [{`category`, `box` [x, y, width, height], `raw_location` WKT}].
`<t>` is not in time order, so images are sorted by their timestamps; one that cannot be used is set aside, not its place.
Images of one place differ in size, and each has a box of its own. The pan-sharpened `rgb` is taken, `msrgb` where it is alone.
`test` and `seq` as released have no categories in their paths; they are read once they are put into such folders with the
authors' mapping file. `false_detection` is a category too.

Christie et al. 2018, "Functional Map of the World", CVPR. Licence: fMoW Challenge Public License.
"""

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from geotempo.data_builders.fmow_labels import around, bounding_boxes, image_facts, location_bounds, pixel_box
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Draft, FolderSource, Rejection, load_image, load_json, need_folder
from geotempo.data_builders.wordings import ask
from geotempo.model.errors import InputError, LayoutError
from geotempo.model.geometry import Box
from geotempo.model.records import ImageRecord, Region

SPLITS = {"train": "train", "val": "val", "test": "test", "seq": "test"}
EXPECTED = "{train,val,test,seq}/<category>/<category>_<location>/<category>_<location>_<t>_rgb.jpg and .json"
T = TypeVar("T")
_NAME = re.compile(r"(?P<place>.+_\d+)_(?P<number>\d+)_(?P<kind>rgb|msrgb)\.json")


@dataclass(frozen=True)
class View:
    """One image of a place.

    Attributes:
        image: With date, sensor and sampling distance.
        box: The place on it.
        facts: `cloud_cover` and `country_code` as given, and the box's `footprint` in degrees where known.
    """

    image: ImageRecord
    box: Box
    facts: dict[str, Any]


class Fmow(FolderSource):
    """Use of the place, from the whole sequence, from one image, and from the marked place.

    Args:
        max_images: Most images of a sample, 1 to 16; a longer sequence is thinned evenly and keeps its ends.
        choices: Categories that a question offers, the right one among them; 0 offers all that the folders have.
        margin: Cut every image to its box and so many times the box's longer side around it; None keeps whole images, which
            have up to some 5,000 pixels a side.
    """

    name = "fmow"
    version = 1
    licence = "academic; fMoW Challenge Public License"
    citation = "Christie et al. 2018, Functional Map of the World, CVPR"
    evidence = "documentation"
    tasks = ("temporal_classification", "classification", "region_vqa")

    def __init__(self, max_images: int = 8, choices: int = 10, margin: float | None = None) -> None:
        if not 1 <= max_images <= 16 or choices < 0 or choices == 1 or (margin is not None and margin < 0):
            raise InputError(f"fmow needs max_images of 1 to 16, choices of 0 or from 2 and a margin from 0, got {max_images}, "
                             f"{choices}, {margin}")
        self.max_images, self.choices, self.margin = max_images, choices, margin

    def check_layout(self, root: Path) -> None:
        """See `Source`; the first image's JSON is looked at as well."""
        need_folder(root, self.name, EXPECTED)
        first = next(iter(self.keys(root)), None)
        if first is None:
            raise LayoutError(f"{root} has no folder of a place; {self.name} expects {EXPECTED}")
        path = _jsons(root / first)[0]
        try:
            bounding_boxes(load_json(path), path.name)
        except Rejection as error:
            raise LayoutError(f"{path} is not as {self.name} expects: {error.detail}") from None

    def keys(self, root: Path) -> list[str]:
        """`split/category/place` of every folder that holds a JSON of an image."""
        return sorted(f"{split}/{category.name}/{place.name}" for split in SPLITS if (root / split).is_dir()
                      for category in (root / split).iterdir() if category.is_dir()
                      for place in category.iterdir() if place.is_dir() and _jsons(place))

    def samples(self, root: Path, key: str) -> Iterator[Sample]:
        """All samples of one place."""
        split, category, place = key.split("/")
        aside: Counter[str] = Counter()
        dated = _in_time_order(_jsons(root / key), aside)
        views = []
        for path, record in thinned(dated, self.max_images):
            try:
                views.append(self._view(path, record, category))
            except Rejection as error:
                aside[error.reason] += 1
        if not views:
            raise Rejection("no usable image", f"{key}: {dict(sorted(aside.items()))}")
        meta = {"scene": place, "thinned": len(dated) - min(len(dated), self.max_images), "set_aside": dict(sorted(aside.items())),
                "views": [view.facts for view in views],
                **({"footprint": views[-1].facts["footprint"]} if "footprint" in views[-1].facts else {})}
        draft = Draft(self.name, SPLITS[split], place, tuple(view.image for view in views), self.licence, meta)
        yield from self._questions(draft, category, views, _categories(root))

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Places and images per split, places per category."""
        found: Counter[str] = Counter()
        for sample in samples:
            if sample.id.endswith("#classification"):
                found[f"places/{sample.split}"] += 1
                found[f"images/{sample.split}"] += len(sample.meta["views"])
                found[f"category/{sample.target}"] += 1
                found.update({f"set aside/{reason}": count for reason, count in sample.meta["set_aside"].items()})
        return found

    def _questions(self, draft: Draft, category: str, views: Sequence[View], categories: Sequence[str]) -> Iterator[Sample]:
        answer, last = words(category), views[-1]
        kinds = self._offered(draft, category, categories)
        if len(views) > 1:
            tag = "temporal_classification"
            region = Region(len(views), last.box)
            yield draft.sample(tag, tag, ask("temporal_classification.place", draft.id(tag), kinds=kinds), answer, [region])
        single = replace(draft, images=(last.image,))
        tag = "classification"
        yield single.sample(tag, tag, ask("classification.place", draft.id(tag), kinds=kinds), answer, [Region(1, last.box)])
        tag = "region_vqa"
        yield single.sample(tag, tag, ask("region_vqa.class", draft.id(tag)), answer, [Region(1, last.box)])

    def _offered(self, draft: Draft, category: str, categories: Sequence[str]) -> str:
        """The categories to choose from, in an order that tells nothing."""
        rng = random.Random(draft.id("kinds"))
        others = [name for name in categories if name != category]
        offered = [category, *(rng.sample(others, min(len(others), self.choices - 1)) if self.choices else others)]
        rng.shuffle(offered)
        return ", ".join(map(words, offered))

    def _view(self, path: Path, record: dict[str, Any], category: str) -> View:
        """One image with the box of the folder's category."""
        boxes = [entry for entry in bounding_boxes(record, path.name) if entry["category"] == category]
        if not boxes:
            raise Rejection("broken annotation", f"{path.name} has no box of {category}")
        facts = {name: record[name] for name in ("cloud_cover", "country_code") if record.get(name) is not None}
        image = load_image(path.with_suffix(".jpg"), **image_facts(record, path.name))
        box = pixel_box(boxes[0]["box"], image, path.name)
        place = location_bounds(boxes[0].get("raw_location"))
        if self.margin is not None:
            image, box = around(image, box, self.margin)
        return View(image, box, {**facts, **({"footprint": place} if place else {})})


def words(category: str) -> str:
    """A category as it is written in questions and answers."""
    return category.replace("_", " ")


def thinned(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of a sequence, evenly spread, first and last among them; the last where there may be one only."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[-1]]
    return [items[round(number * (len(items) - 1) / (count - 1))] for number in range(count)]


def _in_time_order(paths: Sequence[Path], aside: Counter[str]) -> list[tuple[Path, dict[str, Any]]]:
    """JSON files with their content by timestamp; those without a readable one are counted in `aside`."""
    found = []
    for path in paths:
        try:
            record = load_json(path)
            bounding_boxes(record, path.name)
            found.append((image_facts(record, path.name)["date"].sort_key, path, record))
        except Rejection as error:
            aside[error.reason] += 1
    return [(path, record) for _, path, record in sorted(found, key=lambda entry: entry[:2])]


def _jsons(folder: Path) -> list[Path]:
    """JSON files of the images of a place, `rgb` before `msrgb` of the same number."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match and (match["kind"] == "rgb" or match["number"] not in found):
            found[match["number"]] = path
    return [found[number] for number in sorted(found, key=int)]


def _categories(root: Path) -> list[str]:
    """All categories that any split has."""
    return sorted({path.name for split in SPLITS if (root / split).is_dir() for path in (root / split).iterdir() if path.is_dir()})
