"""ChangeChat-87k and -105k: conversations about the pairs of LEVIR-CC: captions, yes or no, counts, places, free questions, dialogues.

```
[annotations/]changechat_*_{train,train_loc,test_binary,test_count,test_loc,test_dialog,test_open}.json
    [{"id", "image": ["train/A/train_000001.png", "train/B/train_000001.png"], "changeflag", "conversations": [{"from", "value"}]}]
[annotations/]changechat_*_test.json      [{"image_A", "image_B", "captions": [5 sentences], "changeflag"}]
images/{train,val,test}/{A,B}/*.png       of LEVIR-CC; or images=DIR
```
Paths are relative to images/. Places are cells of a 3 x 3 grid, named TL TC TR CL CC CR BL BC BR or in words (`top-left`), for roads and
buildings each: `roads ['top-left'], buildings []`. They stay in the answer and are regions besides (their indices are
`meta["polygons"]`). Traps: the captions file has other keys; `train_loc` holds as many records as `train` (which of them are
the same is not documented), so that `train` chooses; records may name pairs that LEVIR-CC ships but does not annotate.

Deng et al. 2026, "DeltaVLM: Interactive Remote Sensing Image Change Analysis via Instruction-Guided Difference Perception", Remote Sensing
18(4), arXiv 2507.22346; Deng et al. 2024, ChangeChat, arXiv 2409.08582. Annotations CC BY 4.0, images of LEVIR-CC for academic use.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from geotempo.data_builders.captions import clean_caption, pair_captions
from geotempo.data_builders.conversations import read_conversation
from geotempo.data_builders.instructions import conversation_sample, folders, locate, task_by_form
from geotempo.data_builders.records import Broken, stream_records
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Draft, RecordSource, Rejection, load_pair, need_folder
from geotempo.model.errors import LayoutError
from geotempo.model.geometry import Box, GridMask
from geotempo.model.records import ImageRecord, Region

EXPECTED = "changechat_*.json and LEVIR-CC's images/{train,val,test}/{A,B}, or images=DIR"
CELLS = {f"{row}{column}": (line, place) for line, row in enumerate("TCB") for place, column in enumerate("LCR")}
"""(row, column) of each cell of the grid."""
_ROWS, _COLUMNS = {"top": "T", "center": "C", "middle": "C", "bottom": "B"}, {"left": "L", "center": "C", "middle": "C", "right": "R"}
_CELL = re.compile(r"\b(?:([TCB][LCR])|(top|center|middle|bottom)[ -](left|center|middle|right))\b")
_THING = re.compile(r"\b(roads?|buildings?)\b", re.IGNORECASE)
_ASKS_PLACES = re.compile(r"\b3 ?[x\u00d7*] ?3\b|\bgrid\b", re.IGNORECASE)
_KIND = re.compile(r"_(train_loc|train|test_\w+|test|val\w*)$")


class ChangeChat(RecordSource):
    """One conversation per record; of the captions file, what `levir-cc` makes of a pair.

    Args:
        images: LEVIR-CC's folder of images where it is not below the root.
        train: Which training file to read: train, train_loc or both.
    """

    name = "changechat"
    version = 1
    licence = "academic; ChangeChat (annotations CC-BY-4.0), imagery LEVIR-CC, Google Earth"
    citation = "Deng et al. 2026, DeltaVLM, Remote Sensing 18(4), arXiv 2507.22346"
    evidence = "documentation"
    tasks = ("change_caption", "change_vqa", "counting")

    def __init__(self, images: str = "", train: Literal["train", "train_loc", "both"] = "both") -> None:
        self.images, self.train = images, train
        self._places: dict[Path, list[Path]] = {}

    def files(self, root: Path) -> list[Path]:
        """See `RecordSource`."""
        unwanted = {"train": "train_loc", "train_loc": "train", "both": ""}[self.train]
        found = sorted([*root.glob("changechat*.json"), *root.glob("annotations/changechat*.json")])
        return [path for path in found if kind_of(path.name) not in ("", unwanted)]

    def check_layout(self, root: Path) -> None:
        """See `Source`; the first record of each file is looked at."""
        need_folder(root, self.name, EXPECTED)
        if self.images and not Path(self.images).is_dir():
            raise LayoutError(f"images={self.images} is no folder; give LEVIR-CC's folder of images")
        if not self.files(root):
            raise LayoutError(f"{root} has no changechat_*_train.json and no other of its files; {self.name} expects {EXPECTED}")
        for path in self.files(root):
            first = next(stream_records(path), None)
            wrong = first.detail if isinstance(first, Broken) else _wrong(first)
            if wrong:
                raise LayoutError(f"{path.name}, record 0: {wrong}; this is not the file that {self.name} knows")

    def record_samples(self, root: Path, key: str, record: Any) -> Iterator[Sample]:
        """The conversation of one record, or the captions of one pair."""
        if wrong := _wrong(record):
            raise Rejection("broken record", wrong)
        file, _, number = key.rpartition(":")
        names = (record["image_A"], record["image_B"]) if "captions" in record else record["image"]
        before, after = (locate(name, self.places(root)) for name in names)
        images = load_pair(before, after)
        kind = kind_of(file)
        scene = PurePosixPath(names[0].replace("\\", "/")).stem
        flag = {"changeflag": int(record["changeflag"] > 0)} if isinstance(record.get("changeflag"), int | float) else {}
        draft = Draft(self.name, kind.partition("_")[0], f"{Path(file).stem}:{number}", images, self.licence,
                      {"scene": scene, "kind": kind, **flag})
        if "captions" in record:
            yield from _captions(draft, record)
            return
        conversation = read_conversation(record["conversations"], 2)
        question, answer = conversation.messages[-2:]
        regions = place_regions(answer.text, images[1]) if kind.endswith("loc") or _ASKS_PLACES.search(question.text) else []
        task = task_by_form(question.text, answer.text, 2)
        if task not in self.tasks:
            task = "change_vqa"
        if answer.text.strip().rstrip(".").isdecimal():
            task = "counting"
        yield conversation_sample(draft, task, conversation, (), extra=regions)

    def places(self, root: Path) -> list[Path]:
        """Folders that images are looked for below, looked up once."""
        if root not in self._places:
            self._places[root] = folders([Path(self.images)] if self.images else [root / "images", root.parent / "images", root])
        return self._places[root]

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Records by kind."""
        return Counter({f"records/{samples[0].meta['kind']}": 1}) if samples else Counter()


def kind_of(file: str) -> str:
    """What a file holds: train, train_loc, test, test_binary, ...; empty for another file."""
    match = _KIND.search(Path(file).stem)
    return match.group(1) if match else ""


def place_regions(answer: str, image: ImageRecord) -> list[Region]:
    """The cells of a 3 x 3 grid that an answer names, one region for roads and one for buildings, on Image 2.

    Args:
        answer: `roads ['top-left', 'center-center'] buildings []` or `Buildings: TL, CC`; cells before any thing have no label.
        image: The later image, whose thirds the cells are.
    """
    found: dict[str, set[tuple[int, int]]] = {}
    pieces = _THING.split(answer)
    for label, text in zip(["", *pieces[1::2]], pieces[::2], strict=True):
        for short, row, column in _CELL.findall(text):
            cell = CELLS[short or _ROWS[row] + _COLUMNS[column]]
            found.setdefault(label.lower().rstrip("s"), set()).add(cell)
    whole = Box(0, 0, image.width, image.height)
    return [Region(2, GridMask(whole, tuple(tuple((row, column) in cells for column in range(3)) for row in range(3))), label)
            for label, cells in found.items()]


def _captions(draft: Draft, record: Mapping[str, Any]) -> Iterator[Sample]:
    """The samples of a record of the captions file."""
    captions = [clean_caption(text) for text in record["captions"] if isinstance(text, str)]
    if not any(captions):
        raise Rejection("missing caption", f"{record['image_A']} has no sentence")
    changed = draft.meta.get("changeflag")
    yield from pair_captions(draft, [text for text in captions if text], None if changed is None else bool(changed))


def _wrong(record: Any) -> str:
    """Which assumption about a record fails; empty where none does."""
    if not isinstance(record, Mapping):
        return f"a record is {type(record).__name__}, no object" if record is not None else "there is none"
    if "captions" in record:
        names: Any = [record.get("image_A"), record.get("image_B")]
        right = isinstance(record["captions"], list)
    else:
        names, right = record.get("image"), isinstance(record.get("conversations"), list)
    if not isinstance(names, list) or len(names) != 2 or not all(isinstance(name, str) for name in names):
        return f"image is {str(names)[:60]!r}; expected the paths of a pair"
    return "" if right else "it has neither a list of captions nor one of conversations"
