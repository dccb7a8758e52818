"""Falcon_SFT (FCD-78M): 14 tasks about one image or a pair, from labels to polygons, in millions of records.

```
[FCD/]json_train_taskall/train_task14_all.json                               [{"images": [path(, path)], "conversations":
[FCD/]json_train_taskall/train_task14_all_multi-instructions-version.json      [{"content": question}, {"content": answer}],
[FCD/]TaskNN_<NAME>/{train,test}/..., TaskNN_<NAME>/test/Annotation_test.json    "crop": [x1, y1, x2, y2]?}, ...]
```
Geometry is 0-1000 of width and height: `<box><x1><y1><x2><y2></box>`, `<quad>` with four corners, `<poly>` with any number. The task is
what the path of the file or of the image names (Task01_IMG_CLS), else what question and answer look like. Traps: the key is
`content`, and who speaks may not be said: then questions and answers take turns; the multi-instruction file holds the same records
in other words, so that it is read only where asked for (`instructions`); `crop` is taken for pixels of the stored image, cut out before
use, as no description says more.

The authors put the two images of a pair on the diagonal of a canvas of twice the size, and their inference.py scales polygons of
changes by the size of that canvas. So they are read, on the image in whose quarter they lie: the upper left one is the earlier image,
the lower right one the later. With changes=image they are 0-1000 of the later image, as everywhere else. The first answers are
looked at, and a reading that they contradict is refused.

Yao et al. 2025, "Falcon: A Remote Sensing Vision-Language Foundation Model", arXiv 2503.11070; MIT for the code, nobody states terms for
the collection, whose parts have their own.
"""

import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from geotempo.data_builders.conversations import read_conversation
from geotempo.data_builders.falcon_texts import (
    EARLIER_ON_CANVAS,
    FALCON,
    LATER_ON_CANVAS,
    canvas_image,
    on_canvas,
    unread,
)
from geotempo.data_builders.instructions import conversation_sample, folders, image_named, locate, task_by_form
from geotempo.data_builders.records import Broken, stream_records
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Draft, RecordSource, Rejection, image_from_bytes, load_image, need_folder
from geotempo.data_builders.text_regions import as_list
from geotempo.model.errors import LayoutError
from geotempo.model.records import ImageRecord

EXPECTED = "json_train_taskall/train_task14_all.json or Task*/test/Annotation_test.json, in the root or in FCD/, and the images"
TASKS = {
    "IMG_CLS": "classification", "IMG_CAP": "caption", "IMG_CAP_DETAILED": "caption", "IMG_CT": "counting", "IMG_VQA": "vqa",
    "REG_CLS_HBB": "region_vqa", "REG_CLS_OBB": "region_vqa", "REG_DET_HBB": "change_grounding", "REG_DET_OBB": "change_grounding",
    "REG_VG": "change_grounding", "REG_CAP": "region_caption", "PIX_CLS": "region_vqa", "PIX_SEG": "referring_segmentation",
    "PIX_CHG": "change_segmentation",
}
"""Our task by the name of theirs."""
LISTED = ("change_grounding", "referring_segmentation", "change_segmentation")
LOOKED_AT = 200
_TASK = re.compile(r"(?:^|[/\\])Task\d+_(\w+?)(?=[/\\]|$)")
_TRAIN = {"single": "train_task14_all.json", "multi": "train_task14_all_multi-instructions-version.json"}


class Falcon(RecordSource):
    """One sample per record.

    Args:
        images: Folder that the records' paths begin in, where it is not the root.
        instructions: The training file with one wording per task, or that with several.
        changes: What polygons of changes count on: the canvas of both images, or the later one.
    """

    name = "falcon"
    version = 1
    licence = "unknown; Falcon_SFT, a collection whose parts have terms of their own"
    citation = "Yao et al. 2025, Falcon, arXiv 2503.11070"
    evidence = "documentation"
    tasks = tuple(dict.fromkeys(TASKS.values()))

    def __init__(self, images: str = "", instructions: Literal["single", "multi"] = "single",
                 changes: Literal["canvas", "image"] = "canvas") -> None:
        self.images, self.instructions, self.changes = images, instructions, changes
        self._places: dict[Path, list[Path]] = {}

    def files(self, root: Path) -> list[Path]:
        """See `RecordSource`."""
        tops = [root, root / "FCD"]
        train = [top / "json_train_taskall" / _TRAIN[self.instructions] for top in tops]
        return [*(path for path in train if path.is_file()), *(path for top in tops for path in sorted(top.glob("Task*/test/Annotation_test.json")))]

    def check_layout(self, root: Path) -> None:
        """See `Source`; the first records of each file are looked at."""
        need_folder(root, self.name, EXPECTED)
        if self.images and not Path(self.images).is_dir():
            raise LayoutError(f"images={self.images} is no folder; give the one that the records' paths begin in")
        if not self.files(root):
            raise LayoutError(f"{root} has no {_TRAIN[self.instructions]} and no Annotation_test.json; {self.name} expects {EXPECTED}")
        changes: list[str] = []
        for path in self.files(root):
            for number, record in enumerate(islice(stream_records(path), LOOKED_AT)):
                wrong = record.detail if isinstance(record, Broken) else _wrong(record)
                if wrong and number == 0:
                    raise LayoutError(f"{path.name}, record 0: {wrong}; this is not the file that {self.name} knows")
                if not wrong and len(record["images"]) == 2:
                    changes.append(str(record["conversations"][-1].get("content")))
        self._check_changes(changes)

    def record_samples(self, root: Path, key: str, record: Any) -> Iterator[Sample]:
        """The conversation of one record."""
        if wrong := _wrong(record):
            raise Rejection("broken record", wrong)
        file, _, number = key.rpartition(":")
        images = tuple(_image(locate(name, self.places(root)), record.get("crop")) for name in record["images"])
        turns = [turn if "role" in turn or "from" in turn else {**turn, "role": ("user", "assistant")[place % 2]}
                 for place, turn in enumerate(record["conversations"])]
        conversation = read_conversation(turns, len(images))
        question, answer = conversation.messages[-2:]
        theirs = task_name(file) or task_name(record["images"][0])
        task = TASKS.get(theirs) or task_by_form(_shape(question.text), _shape(answer.text), len(images))
        if task == "counting" and not answer.text.strip().isdecimal():
            task = "vqa"
        split = "test" if Path(file).name == "Annotation_test.json" else "train"
        draft = Draft(self.name, split, f"{Path(file).with_suffix('').as_posix()}:{number}", images, self.licence,
                      {"scene": PurePosixPath(record["images"][0].replace("\\", "/")).stem, **({"task": theirs} if theirs else {})})
        if len(images) == 2 and self.changes == "canvas":
            on = canvas_image("".join(message.text for message in conversation.messages))
            codec = (EARLIER_ON_CANVAS, LATER_ON_CANVAS)[on - 1]
        else:
            on, codec = 0, FALCON
        sample = conversation_sample(draft, task, conversation, (codec,), number=lambda text: on or image_named(text, len(images)),
                                     finish=as_list if task in LISTED else str)
        if left := next(filter(None, (unread(message.text) for message in sample.messages)), ""):
            raise Rejection("impossible polygon", f"{left!r} is no whole <box>, <quad> or <poly>")
        yield sample

    def places(self, root: Path) -> list[Path]:
        """Folders that images are looked for below, looked up once."""
        if root not in self._places:
            self._places[root] = [Path(self.images)] if self.images else folders([root, root / "FCD", root.parent])
        return self._places[root]

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Records by their task, regions."""
        found: Counter[str] = Counter()
        for sample in samples:
            found[f"records/{sample.meta.get('task', 'no task')}"] += 1
            found["regions"] += len(sample.regions)
        return found

    def _check_changes(self, answers: Sequence[str]) -> None:
        """Raise `LayoutError` where the first answers about pairs contradict what `changes` says of their numbers."""
        fits = on_canvas(answers)
        if fits is True and self.changes == "image":
            raise LayoutError("the polygons of each of the first answers about pairs lie in the upper left or the lower right quarter, as places "
                              "of a canvas of both images do; give changes=canvas")
        if fits is False and self.changes == "canvas":
            raise LayoutError("polygons of the first answers about pairs lie outside the quarters where the images are on a canvas of both; "
                              "give changes=image")


def task_name(path: str) -> str:
    """Name of the task in a path (`Task01_IMG_CLS/...`), empty where none is known."""
    found = _TASK.search(path)
    return found.group(1) if found and found.group(1) in TASKS else ""


def _shape(text: str) -> str:
    """A text with a placeholder for geometry, which is how `task_by_form` knows it."""
    return FALCON.pattern.sub("<region:0>", text)


def _image(path: Path, crop: Any) -> ImageRecord:
    """An image, or the part of it that a record takes.

    Raises:
        Rejection: It cannot be used, or the crop is none of this image.
    """
    image = load_image(path)
    if crop is None:
        return image
    if not isinstance(crop, list) or len(crop) != 4 or not all(isinstance(value, int | float) for value in crop):
        raise Rejection("impossible crop", f"crop is {str(crop)[:60]}; expected [x1, y1, x2, y2] in pixels")
    x1, y1, x2, y2 = (round(value) for value in crop)
    if not (0 <= x1 < x2 <= image.width and 0 <= y1 < y2 <= image.height):
        raise Rejection("impossible crop", f"crop is {crop}, {path.name} is {image.width} x {image.height}")
    buffer = io.BytesIO()
    image.rgb().crop((x1, y1, x2, y2)).save(buffer, "PNG")
    return image_from_bytes(buffer.getvalue(), path.name)


def _wrong(record: Any) -> str:
    """Which assumption about a record fails; empty where none does."""
    if not isinstance(record, Mapping):
        return f"a record is {type(record).__name__}, no object"
    images, turns = record.get("images"), record.get("conversations")
    if not isinstance(images, list) or len(images) not in (1, 2) or not all(isinstance(name, str) for name in images):
        return f"images is {str(images)[:60]!r}; expected one or two paths"
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, Mapping) and "content" in turn for turn in turns):
        return "conversations is missing, or its turns have no key 'content'"
    return ""
