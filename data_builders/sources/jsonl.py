"""The user's own conversations about images, in the formats of LLaVA, TEOChat, ms-swift and OpenAI.

The root is one `.json` file (an array), one `.jsonl` file (a record per line), or a folder of such files; all of one format,
which is told by the keys of the first records (`geotempo.data_builders.own_records`). Image paths are relative to the folder of
the records or to `images`, absolute, or those of another machine, whose leading folders are left out until the rest is found.

Images are put in time order where every one of a record has a date. TEOChat's texts count them in that order; in the other
formats they are counted as listed, and a record whose texts number images that would move is set aside. Further fields are
used where they are there: `id`, `task`, `sensor` and `gsd` (one, or one per image), `references` (all right answers), and
`scene`, `event`, `footprint`, by which leaks between splits are found; without `scene`, the same images are one.
"""

import difflib
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from geotempo.data_builders.instructions import in_time, read_date
from geotempo.data_builders.licences import licence_id
from geotempo.data_builders.own_boxes import Boxes, codecs_of
from geotempo.data_builders.own_records import (
    KEYS,
    Format,
    first_records,
    formats_of,
    keys_of,
    open_image,
    read_record,
    shared_format,
)
from geotempo.data_builders.own_samples import facts_of, image_facts, own_sample, scene_of, task_like, words_alone
from geotempo.data_builders.records import stream_records
from geotempo.data_builders.sample import TASKS, Sample
from geotempo.data_builders.source import Draft, Item, RecordSource, Rejection
from geotempo.model.dates import AcquisitionDate
from geotempo.model.errors import InputError, LayoutError
from geotempo.model.prompts import VIDEO

SUFFIXES = (".json", ".jsonl", ".ndjson")
DATES = ("timestamp", "timestamps", "dates", "date")
SPLITS = ("train", "val", "test")
EXPECTED = "a .json array, a .jsonl file, or a folder of them"

_NUMBERED = re.compile(r"\b(?:image|picture|frame)s? #?\d|\b(?:first|second|third|last|earlier|later|latest) (?:image|picture|frame)",
                       re.IGNORECASE)


class Jsonl(RecordSource):
    """One sample per record.

    Args:
        licence: Terms of the data, `ID; details`, or `unknown`; nobody else can say.
        format: How the records are written; `auto` tells it by their keys.
        images: Folder that image paths are relative to; empty means that of the records.
        split: Split of all samples.
        val_share: Share, 0 to 1, that goes to val instead, chosen by `scene` where the record has one, else by the contents of the
            images, so that all records about one scene or the same images fall together.
        task: Task of all samples; `auto` takes each record's own, or what its question and answer look like.
        boxes: How texts write boxes: `teochat` `[x1, y1, x2, y2]` in percent, `geochat` `{<x1><y1><x2><y2>|<angle>}` in percent,
            `0-1000` and `pixels` `[x1, y1, x2, y2]`; `none` leaves numbers alone. The `objects` of ms-swift are always read.
        dates: Field with a date per image; empty takes timestamp, timestamps, dates or date where there is one.
        text_only: Keep records without images, as conversations in words; else they are set aside.
        dataset: Name of the data set in the samples.
    """

    name = "jsonl"
    version = 1
    licence = "unknown; the user says"
    citation = "the user's own data"
    evidence = "documentation"
    tasks = TASKS

    def __init__(self, licence: str, format: Literal["auto", "llava", "teochat", "swift", "openai"] = "auto", images: str = "",
                 split: Literal["train", "val", "test"] = "train", val_share: float = 0.0, task: str = "auto",
                 boxes: Boxes = "none", dates: str = "", text_only: bool = False, dataset: str = "own") -> None:
        licence_id(licence)
        for option, value, allowed in (("format", format, ("auto", *get_args(Format))), ("split", split, SPLITS),
                                       ("task", task, ("auto", *TASKS)), ("boxes", boxes, get_args(Boxes))):
            if value not in allowed:
                raise InputError(f"{option} is {value!r}; allowed: {', '.join(allowed)}")
        if not 0 <= val_share <= 1 or (val_share and split != "train"):
            raise InputError(f"val_share is {val_share:g} and split is {split}; val_share is 0 to 1, and takes from train only")
        if not re.fullmatch(r"[\w.-]+", dataset):
            raise InputError(f"dataset is {dataset!r}; use letters, digits, '.', '_' and '-'")
        self.format, self.images, self.split, self.val_share = format, images, split, val_share
        self.task, self.boxes, self.dates, self.text_only, self.dataset = task, boxes, dates, text_only, dataset
        self._format: Format | None = None
        self.licence = licence  # type: ignore[misc]  # here it is not the class that knows

    def files(self, root: Path) -> list[Path]:
        """The root itself, or the annotation files in it."""
        if root.is_file():
            return [root]
        return sorted(path for path in root.glob("*") if path.suffix.lower() in SUFFIXES and path.is_file())

    def check_layout(self, root: Path) -> None:
        """See `Source`; the first records of each file are looked at."""
        if not root.exists():
            raise LayoutError(f"{root} is not there; {self.name} expects {EXPECTED}; give its place with --root")
        if not self.files(root) or self.files(root)[0].suffix.lower() not in SUFFIXES:
            raise LayoutError(f"{root} is no annotation file and holds none; {self.name} expects {EXPECTED}")
        if self.images and not Path(self.images).is_dir():
            raise LayoutError(f"images={self.images} is no folder; give the one that image paths are relative to")
        kind = self.format_of(root)
        first = [(where, record) for where, record in first_records(self.files(root)) if isinstance(record, Mapping)]
        self._check_dates([record for _, record in first])
        self._check_images(root, kind, first)

    def format_of(self, root: Path) -> Format:
        """The format of the records, see `shared_format`."""
        if self._format is None:
            self._format = shared_format(self.files(root), None if self.format == "auto" else self.format)
        return self._format

    def items(self, root: Path) -> Iterator[Item]:
        """See `Source`; keys name the file without folders."""
        for path in self.files(root):
            for number, record in enumerate(stream_records(path)):
                yield Item(f"{path.name}:{number}", record)

    def record_samples(self, root: Path, key: str, record: Any) -> Iterator[Sample]:
        """The conversation of one record."""
        kind = self.format_of(root)
        if not formats_of(record):
            raise Rejection("broken record", f"{keys_of(record)}; a record has one of {', '.join(KEYS)}")
        own = read_record(record, kind)
        count = len(own.images)
        if not count and (not self.text_only or VIDEO in str(own.turns)):
            raise Rejection("no image", "the record names no image; where that is meant, build with text_only=true")
        dates = self._dates(record, count)
        order, numbers = in_time(dates)
        if kind != "teochat" and order != sorted(order) and _NUMBERED.search(str(own.turns)):
            raise Rejection("order unclear", "the texts number the images as listed, which is not their order in time; list them in "
                                             "that order")
        facts = [{"date": dates[index], **image_facts(record, index, count)} for index in range(count)]
        images = tuple(open_image(own.images[index], self._places(root), **facts[index]) for index in order)
        meta = {"format": kind, "scene": scene_of(images, own), **facts_of(record)}
        draft = Draft(self.dataset, self._split(meta["scene"]), key, images, self.licence, meta)
        sample = own_sample(draft, own, codecs_of(self.boxes), numbers) if count else words_alone(draft, own)
        yield self._named(draft, sample, record.get("task"))

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Records per format and regions."""
        found: Counter[str] = Counter()
        for sample in samples:
            found[f"records/{sample.meta['format']}"] += 1
            found["regions"] += len(sample.regions)
        return found

    def _named(self, draft: Draft, sample: Sample, said: Any) -> Sample:
        """The sample under its task."""
        task = self.task if self.task != "auto" else task_like(sample, said)
        meta = {**sample.meta, **({"question_type": str(said)} if said and said != task else {})}
        return replace(sample, id=draft.id(task), task=task, meta=meta)

    def _places(self, root: Path) -> list[Path]:
        """Folders that image paths may be relative to."""
        return [Path(self.images)] if self.images else [root.parent if root.is_file() else root]

    def _split(self, scene: str) -> str:
        """The split of a scene."""
        digest = hashlib.sha256(scene.encode()).digest()
        return "val" if int.from_bytes(digest[:8], "big") < self.val_share * 2**64 else self.split

    def _dates(self, record: Mapping[str, Any], count: int) -> list[AcquisitionDate | None]:
        """A date or None for each image."""
        field = self.dates or next((name for name in DATES if record.get(name)), "")
        given = record.get(field) or [None] * count
        given = given if isinstance(given, list) else [given]
        if len(given) != count:
            raise Rejection("dates and images differ", f"{len(given)} entries of {field} for {count} images")
        return [read_date(text) for text in given]

    def _check_dates(self, records: Sequence[Mapping[str, Any]]) -> None:
        """A field that no record has is a slip of the pen."""
        if self.dates and not any(self.dates in record for record in records):
            known = list(dict.fromkeys(str(name) for record in records for name in record))
            near = difflib.get_close_matches(self.dates, known, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise LayoutError(f"dates={self.dates}, but none of the first {len(records)} records has this field; {hint}they have: "
                              f"{', '.join(known)}")

    def _check_images(self, root: Path, kind: Format, records: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """That not every image of the first records is missing."""
        missing = None
        for where, record in records:
            try:
                own = read_record(record, kind)
                for name in own.images:
                    open_image(name, self._places(root))
                    return
            except Rejection as error:
                missing = missing or (f"{where}: {error.detail}" if error.reason == "missing image" else None)
        if missing:
            raise LayoutError(f"no image of the first {len(records)} records is there ({missing}); give their folder with images=DIR")
