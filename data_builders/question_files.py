"""Questions, answers and images in three files per split that refer to each other by id, as RSVQA introduced them.

```
<prefix>_images.json      {"images":    [{"id", "questions_ids", "active", ...}]}
<prefix>_questions.json   {"questions": [{"id", "img_id", "type", "question", "answers_ids", "active"}]}
<prefix>_answers.json     {"answers":   [{"id", "question_id", "answer", "active"}]}
```
Records that are not `active` say nothing else (`{"id": 52, "active": false}`): they are left out and counted. Of the questions
only ids, texts and answers are kept while the files are joined, equal texts once: 1.07 million (as many as RSVQA-HR has) take 0.4 GB.
Lobry et al. 2020, "RSVQA: Visual Question Answering for Remote Sensing Data", IEEE TGRS 58.
"""

import sys
from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from geotempo.data_builders.records import Broken, stream_list
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Item, RecordSource, Rejection, find_image, need_folder
from geotempo.model.errors import LayoutError

LISTS = ("images", "questions", "answers")


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        id: As in the file.
        kind: Its `type`.
        text: The question.
        answers: All active ones.
    """

    id: int
    kind: str
    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """One picture, or a pair of one name, with its questions.

    Attributes:
        prefix: Of the three files, `Val`.
        name: File name.
        records: Image records that have this name.
        facts: The first of them.
        questions: Of all of them, in the order of the file.
    """

    prefix: str
    name: str
    records: int
    facts: Mapping[str, Any]
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Inactive:
    """What a split's files hold that is switched off, by list, for the summary."""

    counts: Mapping[str, int]


def join(root: Path, prefix: str, name_of: Callable[[Mapping[str, Any]], str]) -> Iterator[Picture | Inactive | Broken]:
    """Join the three files of a split.

    Args:
        root: Their folder.
        prefix: What their names begin with.
        name_of: From an image record to the file name of the picture, empty where it names none; records of one name are
            one picture.

    Returns:
        Pictures in the order of the images file; a `Broken` for a question without answer or image and for a file that
        breaks off; last, an `Inactive` where something is.
    """
    faults: list[Broken] = []
    off: Counter[str] = Counter()
    names: dict[Any, str] = {}
    pictures: dict[str, tuple[int, Mapping[str, Any]]] = {}
    for record in _active(root, prefix, "images", faults, off):
        if name := name_of(record):
            names[record["id"]] = name
            count, facts = pictures.get(name, (0, record))
            pictures[name] = count + 1, facts
        else:
            faults.append(Broken("image record without file name", f"{prefix}_images.json, id {record['id']}"))
    answers: defaultdict[Any, tuple[str, ...]] = defaultdict(tuple)
    for record in _active(root, prefix, "answers", faults, off):
        if text := str(record["answer"]).strip():
            answers[record["question_id"]] += (sys.intern(text),)
    questions: defaultdict[str, list[Question]] = defaultdict(list)
    for record in _active(root, prefix, "questions", faults, off):
        name, question = names.get(record["img_id"], ""), _question(record, answers.get(record["id"], ()))
        what = "question without image" if not name else "question without answer" if not question.answers else "empty question"
        if name and question.answers and question.text:
            questions[name].append(question)
        else:
            faults.append(Broken(what, f"{prefix}_questions.json, id {question.id} of image {record['img_id']}: {question.text[:80]!r}"))
    for name, (count, facts) in pictures.items():
        yield Picture(prefix, name, count, facts, tuple(questions.pop(name, ())))
    yield from faults
    if off:
        yield Inactive(dict(off))


def _question(record: Mapping[str, Any], answers: tuple[str, ...]) -> Question:
    """A question with its answers; equal texts are kept once."""
    return Question(record["id"], sys.intern(str(record["type"])), sys.intern(str(record["question"]).strip()), answers)


def _active(root: Path, prefix: str, which: str, faults: list[Broken], off: Counter[str]) -> Iterator[dict[str, Any]]:
    """The active records of a file; others are counted in `off`, what cannot be used is put among `faults`."""
    path = root / f"{prefix}_{which}.json"
    for number, record in enumerate(stream_list(path, which)):
        if isinstance(record, Broken):
            faults.append(record)
        elif wrong := _wrong(record, which):
            faults.append(Broken("broken record", f"{path.name}, record {number}: {wrong}"))
        elif record.get("active", True):
            yield record
        else:
            off[which] += 1


_KEYS = {"images": ("id",), "questions": ("id", "img_id", "type", "question"), "answers": ("question_id", "answer")}


def _wrong(record: Any, which: str) -> str:
    """What is wrong with an active record; empty where nothing is."""
    if not isinstance(record, Mapping):
        return f"{type(record).__name__}, no object"
    if not record.get("active", True):
        return ""
    missing = [key for key in _KEYS[which] if key not in record]
    if missing:
        return f"no key {missing[0]!r}"
    odd = [key for key in _KEYS[which] if isinstance(record[key], bool) or not isinstance(record[key], str | int | float)]
    return f"{odd[0]} is {str(record[odd[0]])[:60]}; expected a text or a number" if odd else ""


class QuestionFiles(RecordSource):
    """A source whose annotations are three files per split; its items are pictures.

    Args:
        images: Folder of the images where they are not below the root.

    Attributes:
        splits: Our split by the prefix of the files.
    """

    chunk = 8
    splits: ClassVar[dict[str, str]]
    expected: ClassVar[str]

    def __init__(self, images: str = "") -> None:
        self.images = images

    @abstractmethod
    def file_name(self, record: Mapping[str, Any]) -> str:
        """File name of the picture of an image record; empty where it names none."""

    @abstractmethod
    def picture_samples(self, root: Path, key: str, picture: Picture) -> Iterator[Sample]:
        """Samples of one picture, see `Source.read`."""

    def prefixes(self, root: Path) -> list[str]:
        """Prefixes of the splits that are there."""
        return [prefix for prefix in self.splits if (root / f"{prefix}_questions.json").is_file()]

    def files(self, root: Path) -> list[Path]:
        """See `RecordSource`."""
        return [root / f"{prefix}_{which}.json" for prefix in self.prefixes(root) for which in LISTS]

    def check_layout(self, root: Path) -> None:
        """See `Source`; the first record of each file is looked at."""
        need_folder(root, self.name, self.expected)
        if self.images and not Path(self.images).is_dir():
            raise LayoutError(f"images={self.images} is no folder; give the one that holds the images")
        if not self.prefixes(root):
            raise LayoutError(f"{root} has no {' or '.join(f'{prefix}_questions.json' for prefix in self.splits)}; "
                              f"{self.name} expects {self.expected}")
        for prefix in self.prefixes(root):
            for which in LISTS:
                first = _first(root / f"{prefix}_{which}.json", which, self.name)
                if which == "images" and first.get("active", True) and not self.file_name(first):
                    raise LayoutError(f"{prefix}_images.json, record 0 names no file; it has the keys {', '.join(first)}")

    def items(self, root: Path) -> Iterator[Item]:
        """See `Source`."""
        for prefix in self.prefixes(root):
            for number, found in enumerate(join(root, prefix, self.file_name)):
                yield Item(f"{prefix}/{found.name}" if isinstance(found, Picture) else f"{prefix}:{number}", found)

    def read(self, root: Path, item: Item) -> Iterator[Sample]:
        """See `Source`."""
        return iter(()) if isinstance(item.record, Inactive) else super().read(root, item)

    def record_samples(self, root: Path, key: str, record: Picture) -> Iterator[Sample]:
        """See `RecordSource`; where a picture is missing the message counts its questions."""
        try:
            yield from self.picture_samples(root, key, record)
        except Rejection as error:
            raise Rejection(error.reason, f"{error.detail} ({len(record.questions)} questions in "
                                          f"{record.prefix}_questions.json)") from None

    def tally_item(self, item: Item) -> Counter[str]:
        """Questions by type, image records and pictures, whether or not their image is there; what is switched off."""
        found: Counter[str] = Counter()
        if isinstance(item.record, Inactive):
            found.update({f"inactive {which}": count for which, count in item.record.counts.items()})
        if isinstance(item.record, Picture):
            found["pictures"] += 1
            found["image records"] += item.record.records
            found["questions"] += len(item.record.questions)
            found.update(f"questions/{question.kind}" for question in item.record.questions)
        return found

    def names(self, prefix: str, stem: str) -> tuple[str, str]:
        """(split, key of the sample ids); where two prefixes are one split, the key names the second of them."""
        split = self.splits[prefix]
        first = next(name for name, other in self.splits.items() if other == split)
        return split, stem if prefix == first else f"{prefix}/{stem}"


def _first(path: Path, which: str, source: str) -> Mapping[str, Any]:
    """The first record of a file.

    Raises:
        LayoutError: The file is missing, or the record is not of the form that is known.
    """
    if not path.is_file():
        raise LayoutError(f"{path} is missing; {source} expects images, questions and answers of each split")
    first = next(stream_list(path, which), None)
    if first is None:
        raise LayoutError(f"{path} has no list {which!r}; {source} expects {{{which!r}: [...]}}")
    if isinstance(first, Broken):
        raise LayoutError(f"{path.parent}: {first.detail}")
    if wrong := _wrong(first, which):
        raise LayoutError(f"{path}, record 0: {wrong}; expected {', '.join(_KEYS[which])}")
    return dict(first)


def metres(values: Sequence[Any]) -> tuple[float, float] | None:
    """Resolutions such as "10m" or ".1524m" as metres; None where one is no positive length."""
    try:
        numbers = [float(str(value).strip().removesuffix("m")) for value in values]
    except ValueError:
        return None
    return (numbers[0], numbers[1]) if len(numbers) == 2 and min(numbers) > 0 else None


def find_in(folders: Sequence[Path], name: str) -> Path:
    """The file of a picture in the first of several folders that has it.

    Raises:
        Rejection: None has it, or the name leads out of them.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise Rejection("missing image", f"{name} leads out of its folder")
    for folder in folders:
        try:
            return find_image(folder, name)
        except Rejection:
            continue
    raise Rejection("missing image", f"{name} is in none of {', '.join(f'{folder.parent.name}/{folder.name}' for folder in folders)}")
