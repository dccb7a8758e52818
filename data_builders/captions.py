"""Caption files in Karpathy's form, which most captioning data sets of the field share, and samples made of them.

```
{"images": [{"filename": "train_000016.png", "split": "train", "filepath": "train", "changeflag": 1,
             "sentences": [{"raw": " a road appears .", "tokens": ["a", "road", "appears"]}, ...]}, ...]}
```
Only `filename` and `sentences` are always there. Copies leave out `imgid`, `sentid` and `sentids`, which nothing here
needs, `changeflag` (ForestChat), `split` (DUBAI-CCD, whose file names tell it), `raw` or `tokens`.

Karpathy and Fei-Fei 2015, "Deep Visual-Semantic Alignments for Generating Image Descriptions", CVPR.
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ijson

from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Draft, FolderSource, Rejection, load_pair
from geotempo.data_builders.wordings import ask
from geotempo.model.errors import LayoutError

SPLITS = ("train", "val", "test")
EXPECTED = '{"images": [{"filename", "split", "sentences": [{"raw"}]}]}'
_SPELLINGS = {"valid": "val", "validation": "val", "training": "train", "testing": "test"}


@dataclass(frozen=True)
class CaptionRecord:
    """One entry of a caption file.

    Attributes:
        key: `split/stem`; of an entry that cannot be used, or that names a file a second time, also its place.
        split: train, val or test; anything else as it stands.
        folder: `filepath` where the file gives it, else `split` as it stands.
        filename: Image name as given.
        captions: Without surrounding blanks and without the final period; empty sentences are left out.
        empty: Number of sentences left out.
        changed: `changeflag`; where the file has none, whether any caption differs from the stock sentences of the
            data set; None where those are not known either.
        fault: Why the entry cannot be used; None for a sound one.
    """

    key: str
    split: str
    folder: str
    filename: str
    captions: tuple[str, ...]
    changed: bool | None = None
    fault: Rejection | None = None
    empty: int = 0

    @property
    def gaps(self) -> dict[str, int]:
        """`empty_captions`, how many sentences were left out, as a meta entry; empty where none was."""
        return {"empty_captions": self.empty} if self.empty else {}


def read_captions(path: Path, *, split: str = "", stock: Collection[str] = ()) -> dict[str, CaptionRecord]:
    """All entries of a caption file by key, sorted by it.

    Args:
        path: The JSON file; it is streamed.
        split: Split of all entries, where the file's name tells it.
        stock: Captions, in lower case, that say that nothing has changed. They must be all that the data set uses.

    Raises:
        LayoutError: The file is no JSON, has no `images`, or its first entry is no caption entry.
    """
    found = [_record(entry, number, path.name, split, stock) for number, entry in enumerate(stream_entries(path))]
    if not found or found[0].fault:
        reason = found[0].fault if found else 'it has no "images"'
        raise LayoutError(f"{path} is no caption file ({reason}); expected {EXPECTED}")
    return by_key(found)


def stream_entries(path: Path) -> Iterator[Any]:
    """The entries of `images` in a JSON file, one after the other.

    Raises:
        LayoutError: The file cannot be read, or is no whole JSON.
    """
    try:
        with path.open("rb") as handle:
            yield from ijson.items(handle, "images.item", use_float=True)
    except (OSError, ijson.JSONError, ValueError) as error:
        what = " ".join(str(error).split())
        raise LayoutError(f"{path} is no whole JSON file ({what}); copy it again; expected {EXPECTED}") from None


def by_key(records: Iterable[CaptionRecord]) -> dict[str, CaptionRecord]:
    """Records by key, sorted; of several that name one file the first stands, and the others get a key and a fault."""
    found: dict[str, CaptionRecord] = {}
    for number, record in enumerate(records):
        if record.key in found:
            what = f"{record.filename} of {record.split}, entry {number}, was described before"
            fault = Rejection("repeated item", what)
            record = replace(record, key=f"{record.key}@{number}", fault=fault)
        found[record.key] = record
    return dict(sorted(found.items()))


def usable(record: CaptionRecord) -> CaptionRecord:
    """The record, checked.

    Raises:
        Rejection: It is broken or a repetition, has no caption, or an unknown split.
    """
    if record.fault is not None:
        raise record.fault
    if not record.captions:
        raise Rejection("missing caption", f"{record.filename} has no sentence")
    if record.split not in SPLITS:
        raise Rejection("unknown split", f"{record.filename}: {record.split!r}; allowed: {', '.join(SPLITS)}")
    return record


def clean_caption(raw: str) -> str:
    """A caption without surrounding blanks and without the final period."""
    return raw.strip().removesuffix(".").strip()


def pair_captions(draft: Draft, captions: Sequence[str], changed: bool | None = None,
                  wording: str = "change_caption") -> Iterator[Sample]:
    """The caption sample of a pair (answer: the first caption; all of them as references), and yes/no where known.

    Args:
        draft: The pair.
        captions: At least one.
        changed: Whether anything changed; None asks nobody.
        wording: Name of the question in `prompts.yaml`; `change_caption` asks for a sentence.
    """
    tag = "change_caption"
    yield draft.sample(tag, tag, ask(wording, draft.id(tag)), captions[0], references=list(captions))
    if changed is not None:
        tag = "change_vqa"
        yield draft.sample(tag, tag, ask("change_vqa.any", draft.id(tag)), "yes" if changed else "no")


def image_captions(draft: Draft, captions: Sequence[str]) -> Sample:
    """The caption sample of a single image (answer: the first caption; all of them as references)."""
    tag = "caption"
    return draft.sample(tag, tag, ask(tag, draft.id(tag)), captions[0], references=list(captions))


class CaptionedPairs(FolderSource):
    """Pairs of images that a caption file describes; subclasses say where the file and the images are."""

    tasks: tuple[str, ...] = ("change_caption", "change_vqa")

    def __init__(self) -> None:
        self._records: dict[Path, dict[str, CaptionRecord]] = {}

    @abstractmethod
    def read_records(self, root: Path) -> dict[str, CaptionRecord]:
        """The caption files of a folder, see `read_captions`."""

    @abstractmethod
    def image_files(self, root: Path, record: CaptionRecord) -> tuple[Path, Path]:
        """The images of a record, before and after.

        Raises:
            Rejection: One is missing.
        """

    def facts(self, root: Path, record: CaptionRecord) -> dict[str, Any]:
        """Meta of all samples of a pair."""
        return {}

    def records(self, root: Path) -> dict[str, CaptionRecord]:
        """The caption files, read once."""
        if root not in self._records:
            self._records[root] = self.read_records(root)
        return self._records[root]

    def keys(self, root: Path) -> list[str]:
        """`split/stem` of every annotated pair: the file, not the image folder, says which pairs exist."""
        return list(self.records(root))

    def draft(self, root: Path, record: CaptionRecord) -> Draft:
        """Load the two images of a record."""
        images = load_pair(*self.image_files(root, record))
        stem = Path(record.filename).stem
        return Draft(self.name, record.split, stem, images, self.licence, {**self.facts(root, record), **record.gaps})

    def samples(self, root: Path, key: str) -> Iterator[Sample]:
        """Caption of one pair, and yes/no where it is known whether it changed."""
        record = usable(self.records(root)[key])
        yield from pair_captions(self.draft(root, record), record.captions, record.changed)

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Pairs per split and change flag, and captions."""
        found: Counter[str] = Counter()
        for sample in samples:
            if sample.task == "change_caption":
                found[f"pairs/{sample.split}"] += 1
                found[f"captions/{sample.split}"] += len(sample.meta["references"])
            if sample.id.endswith("#change_vqa"):
                found[f"changed pairs/{sample.split}"] += sample.target == "yes"
        return found


def _record(entry: Any, number: int, file: str, split: str, stock: Collection[str]) -> CaptionRecord:
    """An entry, or what is wrong with it."""
    try:
        filename = str(entry["filename"])
        sentences = [clean_caption(_sentence(sentence)) for sentence in entry["sentences"]]
        folder = str(entry.get("filepath") or entry.get("split") or split)
        name = str(split or entry.get("split") or entry["filepath"])
    except (KeyError, TypeError, AttributeError) as error:
        what = error if isinstance(error, KeyError) else "filename, split and sentences"
        fault = Rejection("broken annotation", f"{file}, entry {number} has no readable {what}")
        return CaptionRecord(f"{file}:{number}", "", "", "", (), fault=fault)
    name = _SPELLINGS.get(name.lower(), name)
    captions, flag = tuple(filter(None, sentences)), entry.get("changeflag")
    changed = bool(flag) if flag is not None else any(text.lower() not in stock for text in captions) if stock else None
    key = f"{name}/{Path(filename).stem}"
    return CaptionRecord(key, name, folder, filename, captions, changed, empty=len(sentences) - len(captions))


def _sentence(sentence: Any) -> str:
    """A sentence as written, or put together of its words."""
    raw = sentence.get("raw")
    return str(raw) if raw else " ".join(map(str, sentence["tokens"]))

