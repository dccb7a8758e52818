"""RSVG (GeoVG): 7,933 referring expressions with boxes on 4,239 Google Earth images of 1,024 x 1,024 pixels.

```
*{train,val,test}*.json        an array of {image, question, bbox}, by other names too, see `NAMES`
images/<name>                  or beside the lists
```
Sun et al. 2022, "Visual Grounding in Remote Sensing Images", ACM Multimedia. Neither an original file nor its exact
description was seen, so each assumption is checked on the user's files: that a record has an image, an expression and
four numbers, and whether these are two corners or x, y, width, height. Corners need x1 < x2, and x + width must lie on
the image; where both readings fit all boxes, the option `boxes` has to say it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from geotempo.data_builders.label_tasks import expression_tasks
from geotempo.data_builders.question_files import find_in
from geotempo.data_builders.records import Broken, stream_records
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.segmentations import inside_box
from geotempo.data_builders.source import Draft, RecordSource, Rejection, load_image, need_folder
from geotempo.model.errors import InputError, LayoutError
from geotempo.model.records import Region

SPLITS = ("train", "val", "test")
NAMES = {"image": ("image", "image_name", "file_name", "filename", "img", "image_id"),
         "expression": ("question", "expression", "phrase", "sentence", "description", "query", "caption"),
         "box": ("bbox", "box")}
FOLDERS = ("images", "Images", "JPEGImages", "rsvg_images", "")
SIDE = 1024
EXPECTED = "*train*.json, *val*.json, *test*.json (arrays of records) and images"


class Rsvg(RecordSource):
    """Boxes of expressions, and expressions of places.

    Args:
        boxes: `xyxy` two corners, `xywh` a corner and a size; `auto` takes what fits all of them.
    """

    name = "rsvg"
    version = 1
    licence = "unknown; RSVG, imagery Google Earth"
    citation = "Sun et al. 2022, GeoVG, ACM Multimedia"
    evidence = "documentation"
    tasks = ("change_grounding", "region_caption")

    def __init__(self, boxes: Literal["auto", "xyxy", "xywh"] = "auto") -> None:
        if boxes not in ("auto", "xyxy", "xywh"):
            raise InputError(f"boxes is {boxes!r}; allowed: auto, xyxy, xywh")
        self.boxes = boxes

    def files(self, root: Path) -> list[Path]:
        """The lists, split by split."""
        return [path for split in SPLITS for path in sorted(root.glob(f"*{split}*.json"))]

    def check_layout(self, root: Path) -> None:
        """See `Source`; all records are looked at."""
        need_folder(root, self.name, EXPECTED)
        if not self.files(root):
            raise LayoutError(f"{root} has no list of records; {self.name} expects {EXPECTED}")
        for path in self.files(root):
            first = next(stream_records(path), None)
            missing = [what for what in NAMES if not isinstance(first, Mapping) or _value(first, what) is None]
            if missing:
                raise LayoutError(
                    f"{path.name}: the first record has no {', '.join(missing)}; the assumption that one of "
                    f"{', '.join(NAMES[missing[0]])} names it does not hold"
                )
        self._convention(root)

    def record_samples(self, root: Path, key: str, record: Any) -> Iterator[Sample]:
        """The samples of one record."""
        if not isinstance(record, Mapping) or any(_value(record, what) is None for what in NAMES):
            raise Rejection("broken record", f"{key} has no image, expression or box")
        phrase = " ".join(str(_value(record, "expression")).split()).rstrip(". ")
        numbers = _numbers(record)
        if not phrase or numbers is None:
            raise Rejection("broken record", f"{key} has no words, or no four numbers as a box")
        name = str(_value(record, "image"))
        image = load_image(find_in([root / folder for folder in FOLDERS if (root / folder).is_dir()],
                                   name if Path(name).suffix else f"{name}.jpg"))
        convention = self._convention(root)
        x, y, a, b = numbers
        box = inside_box((x, y, x + a, y + b) if convention == "xywh" else (x, y, a, b), image.height, image.width, key)
        file, _, number = key.rpartition(":")
        split = next(split for split in SPLITS if split in Path(file).stem)
        draft = Draft(self.name, split, f"{Path(name).stem}-{number}", (image,), self.licence,
                      {"scene": Path(name).stem, "boxes_as": convention})
        yield from expression_tasks(draft, "0", phrase, [Region(1, box)])

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Expressions per split, and how the boxes were read."""
        if not samples:
            return Counter()
        return Counter({f"expressions/{samples[0].split}": 1, f"boxes read as {samples[0].meta['boxes_as']}": 1})

    def _convention(self, root: Path) -> str:
        if self.boxes != "auto":
            return self.boxes
        return _fitting(tuple((path, path.stat().st_mtime_ns) for path in self.files(root)))


@lru_cache(maxsize=4)
def _fitting(files: tuple[tuple[Path, int], ...]) -> str:
    """The reading of boxes that fits all records.

    Raises:
        LayoutError: Neither does, or both do.
    """
    wrong: Counter[str] = Counter()
    total = 0
    for path, _ in files:
        for record in stream_records(path):
            numbers = None if isinstance(record, Broken) or not isinstance(record, Mapping) else _numbers(record)
            if numbers is not None:
                x, y, a, b = numbers
                total += 1
                wrong.update(
                    name for name, bad in (("xyxy", x >= a or y >= b), ("xywh", x + a > SIDE or y + b > SIDE)) if bad
                )
    fitting = [name for name in ("xyxy", "xywh") if wrong[name] <= total / 100]  # one in a hundred may be a slip
    if total and len(fitting) == 1:
        return fitting[0]
    raise LayoutError(
        f"of {total} boxes {wrong['xyxy']} cannot be two corners and {wrong['xywh']} cannot be x, y, width, height on "
        f"{SIDE} x {SIDE} pixels, which does not tell how they are meant; say it with boxes=xyxy or boxes=xywh"
    )


def _value(record: Mapping[str, Any], what: str) -> Any:
    return next((record[name] for name in NAMES[what] if record.get(name) is not None), None)


def _numbers(record: Mapping[str, Any]) -> tuple[float, float, float, float] | None:
    try:
        x, y, a, b = (float(value) for value in _value(record, "box"))
    except (TypeError, ValueError):
        return None
    return x, y, a, b
