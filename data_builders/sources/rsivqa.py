"""RSIVQA: questions about single images of UC Merced, Sydney, AID, HRRSD and DOTA, one text line each.

```
<part>/*.txt        1.tif:What is the theme of this picture?farmland
<part>/1.tif        or below <part>/images, <part>/imgs, images/<part>, or images=DIR
```
A line is the image up to the first `:`, then the question up to the last `?`, then the answer. Traps: questions whose noun was
lost ("How many  in the picture?twelve", 294 of the 4,895 lines of UCM) are set aside, which is more than the 5 % that a
build allows by itself: use --max-rejected 0.07. The images are not in the repository; UCM's are those of UCM-Captions (1.tif to
2100.tif). Counts are words ("twelve"), so that they are `vqa` and no numbers; "zero" and "i cannot see it" are answers. The theme
of an image is asked in two files. There is no split: all is train.

Zheng et al. 2022, "Mutual Attention Inception Network for Remote Sensing Visual Question Answering", IEEE TGRS 60. Nobody stated
a licence. The source was run on the lines of the UCM part.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from geotempo.data_builders.question_files import find_in
from geotempo.data_builders.records import Broken
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Draft, Item, RecordSource, Rejection, load_image, need_folder
from geotempo.model.errors import LayoutError

EXPECTED = "<part>/*.txt with lines such as `1.tif:What is the theme of this picture?farmland`, and the images"
_KINDS = (("theme", "theme"), ("how many", "count"), ("location", "location"), ("contain", "presence"))
_NO_NOUN = re.compile(r"\b(?:how many|the|a|an)  (?:in|is|are)\b", re.IGNORECASE)


class Rsivqa(RecordSource):
    """One sample per line.

    Args:
        images: Folder of the images where they are not below the root.
    """

    name = "rsivqa"
    version = 1
    licence = "unknown; RSIVQA, imagery UC Merced, Sydney, AID, HRRSD, DOTA"
    citation = "Zheng et al. 2022, RSIVQA, IEEE TGRS 60"
    evidence = "real"
    tasks = ("vqa", "classification")

    def __init__(self, images: str = "") -> None:
        self.images = images

    def files(self, root: Path) -> list[Path]:
        """See `RecordSource`."""
        return sorted([*root.glob("*.txt"), *root.glob("*/*.txt")])

    def check_layout(self, root: Path) -> None:
        """See `Source`; the first line of each file is looked at."""
        need_folder(root, self.name, EXPECTED)
        if self.images and not Path(self.images).is_dir():
            raise LayoutError(f"images={self.images} is no folder; give the one that holds the images")
        if not self.files(root):
            raise LayoutError(f"{root} has no text file; {self.name} expects {EXPECTED}")
        for path in self.files(root):
            first = next(self._lines(path), "")
            if parse(first) is None:
                raise LayoutError(f"{path}, line 1 is {first[:80]!r}; {self.name} expects {EXPECTED}")

    def items(self, root: Path) -> Iterator[Item]:
        """See `Source`."""
        for path in self.files(root):
            name = path.relative_to(root).as_posix()
            for number, line in enumerate(self._lines(path)):
                if line.strip():
                    parsed = parse(line)
                    yield Item(f"{name}:{number}", parsed or Broken("broken record", f"{name}, line {number + 1}: {line[:80]!r}"))

    def record_samples(self, root: Path, key: str, record: Any) -> Iterator[Sample]:
        """The question of one line."""
        picture, question, answer = record
        file, _, number = key.rpartition(":")
        if _NO_NOUN.search(question):
            raise Rejection("question without its noun", f"{file}, line {int(number) + 1}: {question!r}")
        if not answer or question == "?":
            raise Rejection("empty answer" if question != "?" else "empty question", f"{file}, line {int(number) + 1}")
        part = Path(file).parent
        image = load_image(find_in(self._places(root, part), picture))
        kind = next((kind for words, kind in _KINDS if words in question.lower()), "other")
        scene = "/".join([*part.parts, Path(picture).stem])
        draft = Draft(self.name, "train", f"{Path(file).with_suffix('').as_posix()}:{number}", (image,), self.licence,
                      {"scene": scene, "question_type": kind})
        task = "classification" if kind == "theme" else "vqa"
        yield draft.sample(task, task, question, answer, references=[answer])

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Questions by type."""
        return Counter(f"questions/{sample.meta['question_type']}" for sample in samples)

    def _places(self, root: Path, part: Path) -> list[Path]:
        """Folders that the images of a part may lie in."""
        if self.images:
            return [Path(self.images), Path(self.images) / part]
        return [root / part, root / part / "images", root / part / "imgs", root / "images" / part, root / "images"]

    @staticmethod
    def _lines(path: Path) -> Iterator[str]:
        with path.open(encoding="utf-8", errors="replace") as handle:
            yield from (line.rstrip("\r\n") for line in handle)


def parse(line: str) -> tuple[str, str, str] | None:
    """(file name, question with its question mark, answer) of a line; None where it has no `:` or no `?` after it."""
    picture, colon, rest = line.partition(":")
    question, mark, answer = rest.rpartition("?")
    return (picture.strip(), question.strip() + "?", answer.strip()) if colon and mark and picture.strip() else None
