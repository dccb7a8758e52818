"""GeoLLaVA: what changed between two dates at a place of fMoW, in words.

```
annotations/updated_{train,val}_annotations.json, sample_annotations.json (10,000 of train)
            [{"video": "<place>_<image1>-<place>_<image2>.mp4", "conversations": [{"from", "value"}]}]
annotations/updated_{train,val}_pairs_sheet.{xlsx,csv}    category, location_id, image1, timestamp1, image_path1, image2, ...
updated_{train,val}_videos/<video>                        two frames each
```
The images are the JPEGs of fMoW (`images`, or below the root: `{train,val}/<category>/<place>/<place>_<n>_rgb.jpg`) where they are
there, else the frames of the videos. Traps: image numbers are not in time order, and the answer tells of image1 first, so a pair
whose dates say otherwise is set aside; the paths of the sheet begin with `/Datasets`; categories hold hyphens
(`single-unit_residential`); a place of train and a place of val of the same name are two places, so `scene` holds the split and no
image is looked for without it. Dates come from the sheet, else from fMoW's JSON beside the image; for train no sheet is published.

Elgendy et al. 2024, "GeoLLaVA: Efficient Fine-Tuned Vision-Language Models for Temporal Change Detection in Remote Sensing",
arXiv 2410.19552. Of the original files only the sheet of val was seen (6,042 pairs, all of them in time order).
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from geotempo.data_builders.conversations import read_conversation
from geotempo.data_builders.fmow_labels import image_facts
from geotempo.data_builders.instructions import conversation_sample, folders, read_date
from geotempo.data_builders.records import Broken, stream_records
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.sheets import SUFFIXES, read_sheet
from geotempo.data_builders.source import Draft, RecordSource, Rejection, load_image, load_json, need_folder
from geotempo.data_builders.videos import need_decoder, read_frames
from geotempo.model.errors import LayoutError
from geotempo.model.records import ImageRecord

FILES = {"updated_train_annotations.json": "train", "updated_val_annotations.json": "val"}
SAMPLE = "sample_annotations.json"
COLUMNS = ("category", "location_id", "image1", "timestamp1", "image_path1", "image2", "timestamp2", "image_path2")
EXPECTED = "annotations/updated_{train,val}_annotations.json, and fMoW's images or updated_{train,val}_videos/"

_VIDEO = re.compile(r"(?P<place>.+_\d+)_(?P<first>\d+)-(?P=place)_(?P<second>\d+)\.mp4")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.\d+)?Z?")


class Pair(NamedTuple):
    """Dates of the two images of a row, as written."""

    date1: str
    date2: str


class Geollava(RecordSource):
    """One conversation about two images per record.

    Args:
        images: Folder of fMoW's images; empty looks below the root, and takes the videos where there are none.
        sample: Read the 10,000 records of `sample_annotations.json` instead of all of train.
    """

    name = "geollava"
    version = 1
    licence = "unknown; GeoLLaVA states none, imagery fMoW Challenge Public License"
    citation = "Elgendy et al. 2024, GeoLLaVA, arXiv 2410.19552"
    evidence = "documentation"
    tasks = ("change_caption",)

    def __init__(self, images: str = "", sample: bool = False) -> None:
        self.images, self.sample = images, sample
        self._places: dict[Path, list[Path]] = {}
        self._pairs: dict[Path, dict[tuple[str, str, int, int], Pair]] = {}

    def files(self, root: Path) -> list[Path]:
        """See `RecordSource`."""
        names = [SAMPLE, "updated_val_annotations.json"] if self.sample else list(FILES)
        return [path for name in names if (path := root / "annotations" / name).is_file()]

    def check_layout(self, root: Path) -> None:
        """See `Source`; the first record of each file is looked at."""
        need_folder(root, self.name, EXPECTED)
        if self.images and not Path(self.images).is_dir():
            raise LayoutError(f"images={self.images} is no folder; give the one that holds fMoW's train/ and val/")
        if not self.files(root):
            raise LayoutError(f"{root} has no annotation file{' named ' + SAMPLE if self.sample else ''}; {self.name} expects {EXPECTED}")
        if self._videos(root, "train") or self._videos(root, "val"):
            need_decoder("GeoLLaVA's videos, without fMoW's images,")
        for path in self.files(root):
            first = next(stream_records(path), None)
            wrong = first.detail if isinstance(first, Broken) else _wrong(first)
            if wrong:
                raise LayoutError(f"{path.name}, record 0: {wrong}; this is not the file that {self.name} knows")
        self.pairs(root)

    def record_samples(self, root: Path, key: str, record: Any) -> Iterator[Sample]:
        """The conversation of one record."""
        wrong = _wrong(record)
        if wrong:
            raise Rejection("broken record", wrong)
        file, _, number = key.rpartition(":")
        split = FILES.get(Path(file).name, "train")
        found = _VIDEO.fullmatch(record["video"])
        if found is None:
            raise Rejection("unknown name", f"video {record['video']!r}; expected <place>_<image1>-<place>_<image2>.mp4")
        place, first, second = found["place"], int(found["first"]), int(found["second"])
        pair = self.pairs(root).get((split, place, first, second))
        images = self._frames(root, split, record["video"], pair) or self._jpegs(root, split, place, (first, second), pair)
        dates = [image.date for image in images]
        if dates[0] and dates[1] and dates[0].sort_key > dates[1].sort_key:
            raise Rejection("order unclear", f"{record['video']}: image {first} is of {dates[0]}, image {second} of {dates[1]}, while "
                                             "the answer tells of the former first")
        conversation = read_conversation(record["conversations"], 2)
        draft = Draft(self.name, split, f"{Path(file).stem}:{number}", images, self.licence,
                      {"scene": f"fmow/{split}/{place}", "category": place.rpartition("_")[0], "pair": [first, second]})
        yield conversation_sample(draft, "change_caption", conversation, ())

    def pairs(self, root: Path) -> dict[tuple[str, str, int, int], Pair]:
        """Rows of the sheets by (split, place, number of the first image, of the second)."""
        if root not in self._pairs:
            paths = [path for split in ("train", "val") for suffix in SUFFIXES
                     if (path := root / "annotations" / f"updated_{split}_pairs_sheet{suffix}").is_file()]
            self._pairs[root] = {key: pair for path in paths for key, pair in read_pairs(path, path.name.split("_")[1])}
        return self._pairs[root]

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Pairs per split, and how many of them have dates."""
        found: Counter[str] = Counter()
        for sample in samples:
            found[f"pairs/{sample.split}"] += 1
            found["pairs with dates"] += all(image.date for image in sample.images)
        return found

    def _frames(self, root: Path, split: str, video: str, pair: Pair | None) -> tuple[ImageRecord, ...] | None:
        """The two frames of a video; None where fMoW's images are to be used."""
        folder = self._videos(root, split)
        if folder is None:
            return None
        images, total = read_frames(folder / video, 2)
        if total != 2:
            raise Rejection("another number of frames", f"{video} has {total} frames; expected 2")
        dates = (pair.date1, pair.date2) if pair else (None, None)
        return tuple(ImageRecord(image.id, image.width, image.height, data=image.data, date=read_date(date and _utc(date)))
                     for image, date in zip(images, dates, strict=True))

    def _jpegs(self, root: Path, split: str, place: str, numbers: Sequence[int], pair: Pair | None) -> tuple[ImageRecord, ...]:
        """The two images of fMoW with what is known of them."""
        folder = Path(split, place.rpartition("_")[0], place)
        images = []
        for number, date in zip(numbers, (pair.date1, pair.date2) if pair else ("", ""), strict=True):
            path = self._jpeg(root, folder / f"{place}_{number}_rgb.jpg")
            facts: dict[str, Any] = {}
            if path.with_suffix(".json").is_file():
                facts = image_facts(load_json(path.with_suffix(".json")), path.name)
            images.append(load_image(path, **{**facts, **({"date": read_date(_utc(date))} if date else {})}))
        return tuple(images)

    def _jpeg(self, root: Path, name: Path) -> Path:
        """An image of fMoW. Its whole path counts: without the split it may be that of another place."""
        for folder in self._folders(root):
            if (folder / name).is_file():
                return folder / name
        raise Rejection("missing image", name.as_posix())

    def _folders(self, root: Path) -> list[Path]:
        if root not in self._places:
            self._places[root] = folders([Path(self.images)] if self.images else [root, root / "images"])
        return self._places[root]

    def _videos(self, root: Path, split: str) -> Path | None:
        """Folder of the videos of a split, where they are there and fMoW's images are not."""
        folder = root / f"updated_{split}_videos"
        if self.images or not folder.is_dir() or any((place / split).is_dir() for place in self._folders(root)):
            return None
        return folder


def read_pairs(path: Path, split: str) -> Iterator[tuple[tuple[str, str, int, int], Pair]]:
    """Rows of a sheet with their keys, see `Geollava.pairs`.

    Raises:
        LayoutError: A column is missing, a number is none, or a path names another image than its row.
    """
    for row in read_sheet(path, COLUMNS):
        try:
            first, second = int(float(row["image1"])), int(float(row["image2"]))
            place = f"{row['category']}_{int(float(row['location_id']))}"
        except ValueError as error:
            raise LayoutError(f"{path}: {error} in the row {row}") from None
        for number, name in ((first, row["image_path1"]), (second, row["image_path2"])):
            if not name.endswith(f"/{place}/{place}_{number}_rgb.jpg"):
                raise LayoutError(f"{path}: the row of {place} names image {number}, but its path is {name}")
        yield (split, place, first, second), Pair(row["timestamp1"], row["timestamp2"])


def _utc(text: str) -> str:
    """A timestamp of the sheet, which is in UTC as fMoW's are, in the form of RFC 3339."""
    match = _TIME.fullmatch(text.strip())
    return f"{match[1]}T{match[2]}Z" if match else text


def _wrong(record: Any) -> str:
    """Which assumption about a record fails; empty where none does."""
    if not isinstance(record, Mapping):
        return f"a record is {type(record).__name__}, no object" if record is not None else "there is none"
    if not isinstance(record.get("video"), str):
        return f"video is {str(record.get('video'))[:60]!r}; expected the name of a video"
    if not isinstance(record.get("conversations"), list):
        return "conversations is missing or no list"
    return ""
