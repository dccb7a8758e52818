"""RefSegRS: 4,420 referring expressions with masks on 285 scenes of 512 x 512 pixels, 0.13 m, from SkyScapes.

```
images/<number>.tif
masks/<number>.tif                          0/255
output_phrase_{train,val,test}.txt          <number> <phrase>, a line each
```
Yuan et al. 2024, "RRSIS: Referring Remote Sensing Image Segmentation", IEEE TGRS 62. The original files were not seen:
a mask with other values, a line of another form and a phrase without a mask are named. TIFF images become PNG. Each
connected part of a mask is a region. Only what a phrase refers to is labelled, so nothing is denied.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geotempo.data_builders.instances import instances
from geotempo.data_builders.label_tasks import expression_tasks
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import (
    Draft,
    Item,
    RecordSource,
    Rejection,
    find_image,
    load_image,
    load_labels,
    need_folder,
    same_size,
)
from geotempo.model.errors import LayoutError

SPLITS = ("train", "val", "test")
EXPECTED = "images, masks and output_phrase_{train,val,test}.txt"
_LINE = re.compile(r"(\d+)\s+(\S.*)")


class RefSegRs(RecordSource):
    """Masks and boxes of expressions, and expressions of places."""

    name = "refsegrs"
    version = 1
    licence = "CC-BY-4.0; RefSegRS, imagery of SkyScapes, whose terms are those of DLR"
    citation = "Yuan et al. 2024, RRSIS, IEEE TGRS 62"
    evidence = "documentation"
    tasks = ("referring_segmentation", "change_grounding", "region_caption")

    def files(self, root: Path) -> list[Path]:
        """The lists of phrases."""
        return [path for split in SPLITS if (path := root / f"output_phrase_{split}.txt").is_file()]

    def check_layout(self, root: Path) -> None:
        """See `Source`."""
        need_folder(root, self.name, EXPECTED)
        for folder in ("images", "masks"):
            if not (root / folder).is_dir():
                raise LayoutError(f"{root} has no folder {folder}; {self.name} expects {EXPECTED}")
        if not self.files(root):
            raise LayoutError(f"{root} has no output_phrase_*.txt; {self.name} expects {EXPECTED}")
        for path in self.files(root):
            first = next(iter(_lines(path)), "")
            if not _LINE.fullmatch(first):
                raise LayoutError(
                    f"{path.name} begins with {first[:60]!r}; the assumption that a line is <number> <phrase> does not "
                    "hold"
                )

    def items(self, root: Path) -> Iterator[Item]:
        """One item per line."""
        for path in self.files(root):
            for number, line in enumerate(_lines(path)):
                yield Item(f"{path.name}:{number}", line)

    def record_samples(self, root: Path, key: str, record: Any) -> Iterator[Sample]:
        """The samples of one line."""
        match = _LINE.fullmatch(record)
        if match is None:
            raise Rejection("broken line", f"{key}: {record[:60]!r} is no number and phrase")
        stem, phrase = match.group(1), match.group(2).strip().rstrip(". ")
        image = load_image(find_image(root / "images", f"{stem}.tif"))
        mask = load_labels(find_image(root / "masks", f"{stem}.tif"))
        same_size(image, mask.shape, f"masks/{stem}")
        strange = sorted(set(np.unique(mask).tolist()) - {0, 1, 255})
        if strange:
            raise Rejection("unknown mask values", f"masks/{stem} holds {strange[:5]}; expected 0 and 255")
        if not mask.any():
            raise Rejection("empty mask", f"masks/{stem} marks nothing for {phrase!r}")
        split = key.split(".")[0].rsplit("_", 1)[1]
        tag = hashlib.sha256(record.encode()).hexdigest()[:8]
        draft = Draft(
            self.name, split, f"{stem}-{key.rpartition(':')[2]}-{tag}", (image,), self.licence, {"scene": image.id}
        )
        yield from expression_tasks(draft, "0", phrase, instances(mask > 0, 1, ""))

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Expressions per split."""
        return Counter({f"expressions/{samples[0].split}": 1}) if samples else Counter()


def _lines(path: Path) -> Iterator[str]:
    """Lines that are not empty."""
    with path.open(encoding="utf-8", errors="replace") as handle:
        yield from (line.strip() for line in handle if line.strip())
