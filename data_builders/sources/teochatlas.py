"""TEOChatlas: instructions on one to eight images in time order; xBD, S2Looking, QFabric, fMoW, GeoChat_Instruct.

```
train/instruct.json       an array of 766 MB, streamed; 554,071 records
eval/<name>.json          17 files, see `EVAL`; split test
images                    unpacked from the tar files below root, train/, eval/ or a folder directly in one of these
```
A record has `video` (always a list of paths), `conversations`, `timestamp` (a date per image, or empty), `task`, and
perhaps `dataset`, `polygon` (WKT in 256ths of the image), `lat_lon`, `sensor`, `metadata`. Traps: images are not always
in time order and are sorted by their dates; without a date for each of them their order stays. Paths begin with
`TEOChatlas/` or other folders that are left out until the rest is found. The training file has no outlines. Boxes are
percents `[x_min, y_min, x_max, y_max]` of the whole image, and those that rounding left without width are set aside
with their record. The sentence before `<video>` is left out (our prompt writes dates and sensors itself) and stands in
the meta. Some records of the GeoChat part have no image. A request for boxes that is answered by a sentence without any
gets the empty list after it. Test samples keep the question as it was in `original_question`.

Irvin et al. 2025, "TEOChat: A Large Vision-Language Assistant for Temporal Earth Observation Data", ICLR, arXiv
2410.06234. Licence: that of the data set that a record comes from.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from geotempo.data_builders.conversations import read_conversation
from geotempo.data_builders.geochat_tags import geochat_task, in_words, untagged
from geotempo.data_builders.instructions import check_images, conversation_sample, folders, image_named, in_time, locate
from geotempo.data_builders.records import Broken, stream_records
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Draft, RecordSource, Rejection, load_image, need_folder
from geotempo.data_builders.teochat_records import (
    ORIGINS,
    dates_of,
    origin_of,
    outlines,
    place_of,
    sensors_of,
    task_of,
    tidy,
)
from geotempo.data_builders.text_regions import GEOCHAT, TEOCHAT, as_list
from geotempo.model.errors import InputError, LayoutError

TRAIN = "train/instruct.json"
EVAL = tuple(f"eval/{name}.json" for name in (
    "ABCD", "AID", "CDVQA", "HRBEN", "LRBEN", "UCMerced", "QFabric_RQA2", "QFabric_RQA5_RTQA5", "QFabric_TRE_RTQA",
    "S2Looking_Change_Detection", "S2Looking_RQA", "S2Looking_SRE_QA", "fMoW_High_Res", "fMoW_Low_Res",
    "xBD_Change_Detection_Localization", "xBD_Change_Detection_Classification", "xBD_SRE_QA_RQA"))
NAMES = (TRAIN, *EVAL)
EXPECTED = f"{TRAIN} or eval/*.json, and the unpacked images"
LOOKED_AT = 8


class Teochatlas(RecordSource):
    """All records of TEOChatlas as conversations.

    Args:
        files: Which annotation files, `train/instruct.json` or just `instruct`; empty takes those that are there. A
            list, or text with commas.
        images: Folder of the images where it is not below the root.
        origins: Data sets that the records come from, see `ORIGINS`; empty takes all. A list, or text with commas.
    """

    name = "teochatlas"
    version = 1
    licence = "unknown; TEOChatlas, each sample carries the terms of the data set that it comes from"
    citation = "Irvin et al. 2025, TEOChat, ICLR, arXiv 2410.06234"
    evidence = "documentation"
    tasks = ("caption", "vqa", "change_vqa", "region_vqa", "region_caption", "change_grounding", "damage",
             "temporal_referring", "temporal_classification", "classification")

    def __init__(self, files: str | tuple[str, ...] = (), images: str = "",
                 origins: str | tuple[str, ...] = ()) -> None:
        self.names = tuple(map(_full_name, _listed(files)))
        self.images = images
        self.origins = tuple(name.lower() for name in _listed(origins))
        for name in self.origins:
            if name not in ORIGINS:
                raise InputError(f"teochatlas has no origin {name!r}; allowed: {', '.join(ORIGINS)}")
        self._places: dict[Path, list[Path]] = {}

    def files(self, root: Path) -> list[Path]:
        """See `RecordSource`."""
        return [root / name for name in NAMES if (name in self.names if self.names else (root / name).is_file())]

    def check_layout(self, root: Path) -> None:
        """See `Source`; the first records of each file are looked at."""
        need_folder(root, self.name, EXPECTED)
        if not self.files(root):
            raise LayoutError(f"{root} has no {TRAIN} and no eval/*.json; {self.name} expects {EXPECTED}")
        if self.images and not Path(self.images).is_dir():
            raise LayoutError(f"images={self.images} is no folder; give the one that holds the unpacked images")
        for path in self.files(root):
            if not path.is_file():
                raise LayoutError(f"{path} is not there; {self.name} expects {EXPECTED}")
            for number, record in enumerate(islice(stream_records(path), LOOKED_AT)):
                wrong = record.detail if isinstance(record, Broken) else _wrong(record)
                if wrong:
                    raise LayoutError(f"{path}, record {number}: {wrong}; this is not the TEOChatlas that {self.name} "
                                      "knows")
            check_images(self._first_images(path), self.places(root), path.name, f"unpack the tar files below {root}, "
                         "give images=DIR, or choose with origins= those data sets that are unpacked")

    def _first_images(self, path: Path) -> Iterator[str]:
        """The first image of each chosen record."""
        for record in stream_records(path):
            if isinstance(record, Broken) or _wrong(record) or not record.get("video"):
                continue
            try:
                if not self.origins or origin_of(record, path.name) in self.origins:
                    yield record["video"][0]
            except Rejection:
                continue

    def record_samples(self, root: Path, key: str, record: Any) -> Iterator[Sample]:
        """The conversation of one record."""
        wrong = _wrong(record)
        if wrong:
            raise Rejection("broken record", wrong)
        file, _, number = key.rpartition(":")
        names = record.get("video") or []
        origin = origin_of(record, file)
        if self.origins and origin not in self.origins:
            return
        if not names:
            raise Rejection("no image", "video is empty or missing: a question without an image")
        dates, sensors = dates_of(record, len(names)), sensors_of(record, len(names))
        order, numbers = in_time(dates)
        turns, tags = untagged(record["conversations"])
        conversation = read_conversation(turns, len(names), numbers)
        geochat = origin == "geochat"
        named = not geochat or str(record.get("task")).endswith("region_captioning")
        task = task_of(record.get("task"), len(names)) if named else geochat_task(conversation.messages, tags)
        images = tuple(load_image(locate(names[index], self.places(root)), date=dates[index], sensor=sensors[index])
                       for index in order)
        on = image_named(conversation.messages[-2].text, len(images))
        extra, unusable = outlines(record.get("polygon"), images[on - 1], on)
        facts = {"tags": tags if any(tags) else None, "polygons_unusable": dict(unusable),
                 "lat_lon": record.get("lat_lon"), "metadata": record.get("metadata"),
                 "question_type": record.get("task")}
        split = "train" if file == TRAIN else "test"
        if split == "test":  # the published scores hang on the very words
            facts["original_question"] = record["conversations"][-2].get("value")
        draft = Draft(self.name, split, f"{Path(file).stem}:{number}", images, ORIGINS[origin],
                      {"origin": origin, **place_of(origin, [names[index] for index in order], split),
                       "record": {"file": file, "number": int(number)}})

        def begin(place: int, question: str) -> str:
            return in_words(tidy(question), tags[place], draft.id(f"{task}:{place}"))

        yield conversation_sample(draft, task, conversation, (TEOCHAT, GEOCHAT), extra=extra, begin=begin,
                                  finish=as_list if task == "change_grounding" else str,
                                  **{name: fact for name, fact in facts.items() if fact})

    def places(self, root: Path) -> list[Path]:
        """Folders that images are looked for below, looked up once."""
        if root not in self._places:
            tops = [Path(self.images)] if self.images else [root, root / "train", root / "eval", root / "images"]
            self._places[root] = folders(tops)
        return self._places[root]

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Records per origin, outlines kept and unusable."""
        found: Counter[str] = Counter()
        for sample in samples:
            found[f"records/{sample.meta['origin']}"] += 1
            found["outlines"] += len(sample.meta.get("polygons", ()))
            for reason, count in sample.meta.get("polygons_unusable", {}).items():
                found[f"unusable outlines/{reason}"] += count
        return found


def _listed(names: str | Sequence[str]) -> list[str]:
    """Names of an option that is a list, or text with commas."""
    return [name.strip() for name in (names.split(",") if isinstance(names, str) else names) if name.strip()]


def _full_name(name: str) -> str:
    """An annotation file by its whole name or its stem.

    Raises:
        InputError: There is no such file in TEOChatlas.
    """
    for known in NAMES:
        if name in (known, Path(known).name, Path(known).stem):
            return known
    raise InputError(f"teochatlas has no file {name!r}; allowed: {', '.join(Path(known).stem for known in NAMES)}")


def _wrong(record: Any) -> str:
    """Which assumption about a record fails; empty where none does."""
    if not isinstance(record, Mapping):
        return f"a record is {type(record).__name__}, no object"
    video = record.get("video")
    if video is not None and not (isinstance(video, list) and all(isinstance(name, str) for name in video)):
        return f"video is {str(video)[:60]!r}; expected a list of paths"
    if not isinstance(record.get("conversations"), list):
        return "conversations is missing or no list"
    return ""
