"""DIOR-RSVG: 38,320 referring expressions with boxes on DIOR images, 800 x 800 pixels, 0.5 to 30 m.

```
Annotations/<number>.xml       VOC; object: name, bndbox (xmin, ymin, xmax, ymax), description (the expression)
JPEGImages/<number>.jpg
{train,val,test}.txt           running numbers of OBJECTS, from 0, over all XML files in the order of their names
```
Zhan, Xiong and Yuan 2023, "RSVG: Exploring Data and Models for Visual Grounding on Remote Sensing Data", IEEE TGRS 61.

The trap is the numbering: a single XML file that is missing or broken would shift all expressions after it. So all of
them are counted beforehand, and the lists must hold each number once. One image can be in several splits by its
objects; it is the authors' split, and `scene` in the samples' meta lets the leak be found. The lists were seen, the XML
files were not.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from geotempo.data_builders.label_tasks import expression_tasks
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.segmentations import inside_box
from geotempo.data_builders.source import Draft, Item, RecordSource, Rejection, find_image, load_image, need_folder
from geotempo.data_builders.voc import load_voc, text_of
from geotempo.model.errors import LayoutError
from geotempo.model.records import Region

SPLITS = ("train", "val", "test")
CORNERS = ("xmin", "ymin", "xmax", "ymax")
EXPECTED = "Annotations/*.xml, JPEGImages and train.txt, val.txt, test.txt"


class DiorRsvg(RecordSource):
    """Boxes of expressions, and expressions of places."""

    name = "dior-rsvg"
    version = 1
    licence = "unknown; DIOR-RSVG on DIOR images, Google Earth"
    citation = "Zhan et al. 2023, RSVG, IEEE TGRS 61"
    evidence = "documentation"
    tasks = ("change_grounding", "region_caption")

    def files(self, root: Path) -> list[Path]:
        """All annotations and the lists."""
        return [*_annotations(root), *(_lists(root) / f"{split}.txt" for split in SPLITS)]

    def check_layout(self, root: Path) -> None:
        """See `Source`; all annotations are counted."""
        need_folder(root, self.name, EXPECTED)
        for folder in ("Annotations", "JPEGImages"):
            if not (root / folder).is_dir():
                raise LayoutError(f"{root} has no folder {folder}; {self.name} expects {EXPECTED}")
        splits = read_lists(_lists(root))
        try:
            count = sum(len(load_voc(path).findall("object")) for path in _annotations(root))
        except Rejection as error:
            raise LayoutError(
                f"{error}; its objects cannot be counted, and the lists number the objects of all files: copy it again"
            ) from None
        if count != len(splits):
            raise LayoutError(
                f"the lists number {len(splits)} objects and Annotations holds {count}; with files missing, numbers "
                "would point to the wrong expressions: complete the folder"
            )

    def items(self, root: Path) -> Iterator[Item]:
        """One item per object, in the order of their numbers."""
        splits, number = read_lists(_lists(root)), 0
        for path in _annotations(root):
            annotation = load_voc(path)
            name = text_of(annotation, "filename") or f"{path.stem}.jpg"
            for position, thing in enumerate(annotation.findall("object")):
                yield Item(f"{path.stem}:{position}", {
                    "number": number, "split": splits.get(number), "file": name, "name": text_of(thing, "name"),
                    "description": text_of(thing, "description"),
                    "box": [text_of(thing, f"bndbox/{corner}") for corner in CORNERS]})
                number += 1

    def record_samples(self, root: Path, key: str, record: Any) -> Iterator[Sample]:
        """The samples of one object."""
        phrase = record["description"].rstrip(". ")
        if not phrase:
            raise Rejection("empty expression", f"object {record['number']} ({key}) has no description")
        image = load_image(find_image(root / "JPEGImages", Path(record["file"]).name))
        try:
            x1, y1, x2, y2 = (float(value) for value in record["box"])
        except ValueError:
            raise Rejection("impossible box", f"object {record['number']} ({key}): bndbox is {record['box']}") from None
        box = inside_box((x1, y1, x2, y2), image.height, image.width, f"object {record['number']} ({key})")
        draft = Draft(self.name, record["split"], key.replace(":", "-"), (image,), self.licence,
                      {"scene": Path(record["file"]).stem, "object": record["number"]})
        yield from expression_tasks(draft, "0", phrase, [Region(1, box, record["name"])])

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Expressions per split."""
        return Counter({f"expressions/{samples[0].split}": 1}) if samples else Counter()


def read_lists(folder: Path) -> dict[int, str]:
    """Split of every object number.

    Raises:
        LayoutError: A list is missing, holds something else, or the numbers are not 0 to their count without
            repetition.
    """
    found: dict[int, str] = {}
    for split in SPLITS:
        try:
            lines = (folder / f"{split}.txt").read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError):
            raise LayoutError(f"{folder} has no readable {split}.txt; expected {EXPECTED}") from None
        for line in lines:
            if not line.isascii() or not line.isdecimal():
                raise LayoutError(f"{split}.txt holds {line[:40]!r}; expected a number of an object per line")
            if int(line) in found:
                raise LayoutError(
                    f"object {line} is in {found[int(line)]}.txt and in {split}.txt; expected each number once"
                )
            found[int(line)] = split
    if found and max(found) != len(found) - 1:
        raise LayoutError(f"the lists hold {len(found)} numbers up to {max(found)}; expected all from 0 on")
    return found


def _lists(root: Path) -> Path:
    return root if (root / "train.txt").is_file() else root / "DIOR_RSVG_splits"


def _annotations(root: Path) -> list[Path]:
    return _listed(root / "Annotations", (root / "Annotations").stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _listed(folder: Path, changed: int) -> list[Path]:
    """The XML files of a folder by name; `changed` is when files were last added."""
    return sorted(folder.glob("*.xml"))
