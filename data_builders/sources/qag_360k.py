"""QAG-360K: questions about the changes between two images, with a short answer and a mask that shows it.

```
<split>/json/<Split>.json               {"question": [{"id", "img_id": "00001.png", "type", "question", "answer"}]}
<split>/image/{im1,im2}/<img_id>        before and after; or images=DIR
<split>/mask/<id>.png                   0/255, one per QUESTION id; or masks=DIR
```
So the authors' training script (like413/VisTA, VisTA/train.py) names its folders for train and val. Flatter layouts are read too:
every JSON file with a list `question`, in the root or a folder, whose split is what its name says; im1 and im2 beside it, in image/,
images/ or a folder of the split's name; masks in mask, masks, label and labels. Masks are thresholded at one half, as the authors'
loader does. Answers are those of CDVQA and green_house, road, bridge, others, written as in `cdvqa`; the original is a reference too.
The pairs are those of Hi-UCD, SECOND and LEVIR-CD, so that a model must not be tested on one and trained on the other. The test
set is given on request.

Li et al. 2024, "Show Me What and Where has Changed? Question Answering and Grounding for Remote Sensing Change Detection",
arXiv 2410.23828; CC BY-NC 4.0, for research, not to be passed on.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from geotempo.data_builders.instances import instances
from geotempo.data_builders.label_tasks import list_sample
from geotempo.data_builders.question_files import find_in
from geotempo.data_builders.records import Broken, stream_list
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import (
    Draft,
    Item,
    RecordSource,
    Rejection,
    find_image,
    load_labels,
    load_pair,
    need_folder,
    same_size,
)
from geotempo.data_builders.sources.cdvqa import WORDS
from geotempo.data_builders.wordings import ask
from geotempo.model.errors import LayoutError

EXPECTED = '<split>/json/<Split>.json {"question": [...]}, <split>/image/{im1,im2}/ and <split>/mask/<id>.png, or images=DIR and masks=DIR'
KEYS = ("id", "img_id", "type", "question", "answer")
MASKS = ("mask", "masks", "label", "labels")
THINGS = frozenset({"NVG_surface", "buildings", "low_vegetation", "playgrounds", "trees", "water", "green_house", "road", "bridge"})
_SPLIT = re.compile(r"(?:^|[^a-z])(train|val|valid|test)(?:[^a-z]|$)", re.IGNORECASE)


class Qag360k(RecordSource):
    """Of each question the answer, and the answer with its mask.

    Args:
        images: Folder of im1 and im2 where they are not below the root.
        masks: Folder of the masks where it has another name.
    """

    name = "qag-360k"
    version = 1
    licence = "CC-BY-NC-4.0; QAG-360K, for research only, not to be passed on; imagery Hi-UCD, SECOND, LEVIR-CD"
    citation = "Li et al. 2024, QAG-360K, arXiv 2410.23828"
    evidence = "documentation"
    tasks = ("change_vqa", "change_segmentation")

    def __init__(self, images: str = "", masks: str = "") -> None:
        self.images, self.masks = images, masks

    def files(self, root: Path) -> list[Path]:
        """See `RecordSource`."""
        found = sorted(path for pattern in ("*.json", "*/*.json", "*/json/*.json") for path in root.glob(pattern))
        return [path for path in found if next(_questions(path), None) is not None]

    def check_layout(self, root: Path) -> None:
        """See `Source`; the first question of each file is looked at, and its images and its mask are looked for."""
        need_folder(root, self.name, EXPECTED)
        for option, value in (("images", self.images), ("masks", self.masks)):
            if value and not Path(value).is_dir():
                raise LayoutError(f"{option}={value} is no folder")
        if not self.files(root):
            raise LayoutError(f"{root} has no JSON file with a list 'question'; {self.name} expects {EXPECTED}")
        for path in self.files(root):
            first = next(_questions(path))
            wrong = first.detail if isinstance(first, Broken) else _wrong(first)
            if wrong:
                raise LayoutError(f"{path}, question 0: {wrong}")
            for what, there in (("im1", self._parents(root, path, "im1")), ("im2", self._parents(root, path, "im2")),
                                ("mask", self._mask_folders(root, path))):
                if not any(folder.is_dir() for folder in there):
                    raise LayoutError(f"{root} has no folder of {what} for {path.name}; {self.name} expects {EXPECTED}")

    def items(self, root: Path) -> Iterator[Item]:
        """See `Source`."""
        for path in self.files(root):
            name = path.relative_to(root).as_posix()
            yield from (Item(f"{name}:{number}", record) for number, record in enumerate(_questions(path)))

    def record_samples(self, root: Path, key: str, record: Any) -> Iterator[Sample]:
        """The two samples of one question."""
        if wrong := _wrong(record):
            raise Rejection("broken record", wrong)
        file = root / key.rpartition(":")[0]
        picture, number = str(record["img_id"]), record["id"]
        before = find_in(self._parents(root, file, "im1"), picture)
        pair = load_pair(before, find_image(before.parent.parent / "im2", picture))
        mask = self._mask(root, file, f"{number}.png")
        same_size(pair[0], mask.shape, f"mask {number}.png")
        answer = WORDS.get(record["answer"], record["answer"].replace("green_house", "greenhouse"))
        references = list(dict.fromkeys([answer, record["answer"]]))
        scene = Path(picture).stem
        draft = Draft(self.name, split_of(file), f"{file.relative_to(root).with_suffix('').as_posix()}:{number}", pair, self.licence,
                      {"scene": scene, "question_type": record["type"], "references": references})
        yield draft.sample("change_vqa", "change_vqa", record["question"], answer)
        tag = "change_segmentation"
        label = answer if record["answer"] in THINGS else "changed area"
        yield list_sample(draft, tag, tag, ask("change_segmentation.answer", draft.id(tag), question=record["question"]),
                          instances(mask > 127, 2, label), answer)

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Questions by type, and those whose mask is empty."""
        found: Counter[str] = Counter()
        for sample in samples:
            if sample.task == "change_segmentation":
                found[f"questions/{sample.meta['question_type']}"] += 1
                found["empty masks"] += not sample.regions
        return found

    def _mask(self, root: Path, file: Path, name: str) -> Any:
        """The mask of a question, H x W.

        Raises:
            Rejection: It is missing or broken.
        """
        for folder in self._mask_folders(root, file):
            if (folder / name).is_file():
                return load_labels(folder / name)
        raise Rejection("missing mask", f"{name} is in none of {', '.join(folder.name for folder in self._mask_folders(root, file))}")

    def _parents(self, root: Path, file: Path, folder: str) -> list[Path]:
        """Where im1 or im2 of a file's questions may be."""
        if self.images:
            return [Path(self.images) / folder]
        return list(dict.fromkeys(parent / inside / folder for parent in _near(root, file) for inside in ("", "image", "images")))

    def _mask_folders(self, root: Path, file: Path) -> list[Path]:
        """Where the masks of a file's questions may be."""
        if self.masks:
            return [Path(self.masks), Path(self.masks) / split_of(file)]
        return list(dict.fromkeys(parent / name for parent in _near(root, file) for name in MASKS))


def _near(root: Path, file: Path) -> list[Path]:
    """Folders that belong to an annotation file: that of its split first, since questions are numbered anew in each."""
    split = split_of(file)
    own = [file.parent.parent] if file.parent.name == "json" and file.parent != root else []
    return [*own, file.parent / split, root / split, file.parent, root / "images" / split, root]


def split_of(file: Path) -> str:
    """Split that the name of a file, or of its folder, says; train where neither does."""
    match = _SPLIT.search(file.stem) or _SPLIT.search(file.parent.name)
    return {"valid": "val"}.get(match.group(1).lower(), match.group(1).lower()) if match else "train"


def _questions(path: Path) -> Iterator[Any]:
    """Entries of the list `question`; last a `Broken` where the file breaks off."""
    return stream_list(path, "question")


def _wrong(record: Any) -> str:
    """Which assumption about a question fails; empty where none does."""
    if not isinstance(record, Mapping):
        return f"a question is {type(record).__name__}, no object"
    missing = [key for key in KEYS if key not in record]
    if missing:
        return f"it has no key {missing[0]!r}; expected {', '.join(KEYS)}"
    if not isinstance(record["id"], int) and not (isinstance(record["id"], str) and Path(record["id"]).name == record["id"]):
        return f"id is {str(record['id'])[:60]!r}; expected a number or the name of a mask"
    empty = [key for key in ("img_id", "question", "answer", "type") if not isinstance(record[key], str) or not record[key].strip()]
    return f"{empty[0]} is {record[empty[0]]!r}; expected words" if empty else ""
