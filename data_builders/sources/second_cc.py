"""SECOND-CC: 6,041 pairs with five captions each and land-cover maps of both dates, 256 pixels, cut from SECOND.

```
SECOND-CC-AUG.json                              Karpathy's form, with filepath (the split) and changeflag
{train,val,test}/{rgb,sem}/{A,B}/<filename>     images and maps, before and after
```
The maps have SECOND's colours where something changed and white elsewhere. In the copies with added pairs ("AUG") those
of the added ones are brightened with their images: each channel of a colour is 80 higher, at most 255. Loaders in use
know some of these colours, and one of them takes the bright low vegetation, (80, 208, 80), for trees. Names are
`<SECOND name>_<row>_<column>.png` as far as is known; the first part is the `scene`.

Karaca et al. 2025, "Robust Change Captioning in Remote Sensing: SECOND-CC Dataset and MModalCC Framework", IEEE JSTARS.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from geotempo.data_builders.captions import CaptionedPairs, CaptionRecord, pair_captions, read_captions, usable
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.semantic import SECOND, ClassMap, Palette, from_to_regions, from_to_tasks, load_class_map
from geotempo.data_builders.source import Rejection, find_image, need_folder, same_size
from geotempo.model.errors import LayoutError

EXPECTED = "SECOND-CC-AUG.json and {train,val,test}/{rgb,sem}/{A,B}"
BRIGHT = Palette("SECOND, brightened by 80", SECOND.background, {
    name: (min(red + 80, 255), min(green + 80, 255), min(blue + 80, 255))
    for name, (red, green, blue) in SECOND.colours.items()})
_SCENE = re.compile(r"(\d{5})(?:_|$)")


class SecondCc(CaptionedPairs):
    """Change captions, yes/no, and everything that transitions of land cover support.

    Args:
        maps: Use the maps; false makes captions only, for copies without maps or with others.
    """

    name = "second-cc"
    version = 1
    licence = "academic; SECOND-CC, SECOND"
    citation = "Karaca et al. 2025, SECOND-CC, IEEE JSTARS; imagery: Yang et al. 2021, SECOND, IEEE TGRS 60"
    evidence = "documentation"
    tasks = ("change_caption", "change_vqa", "semantic_change", "referring_segmentation", "region_vqa")

    def __init__(self, maps: bool = True) -> None:
        super().__init__()
        self.maps = maps

    def check_layout(self, root: Path) -> None:
        """See `Source`."""
        need_folder(root, self.name, EXPECTED)
        splits = sorted({record.folder for record in self.records(root).values() if record.fault is None})
        present, kinds = [name for name in splits if (root / name).is_dir()], ("rgb", "sem") if self.maps else ("rgb",)
        for split, kind, date in product(present or splits[:1], kinds, "AB"):
            folder = f"{split}/{kind}/{date}"
            if not (root / folder).is_dir():
                hint = "; maps=false makes captions only" if kind == "sem" else ""
                raise LayoutError(f"{root} has no folder {folder}; {self.name} expects {EXPECTED}{hint}")

    def read_records(self, root: Path) -> dict[str, CaptionRecord]:
        """See `CaptionedPairs`."""
        named = root / "SECOND-CC-AUG.json"
        found = [named] if named.is_file() else sorted(root.glob("SECOND*CC*.json"))
        if len(found) != 1:
            raise LayoutError(f"{root} has {len(found)} files SECOND*CC*.json; {self.name} expects {EXPECTED}")
        return read_captions(found[0])

    def image_files(self, root: Path, record: CaptionRecord) -> tuple[Path, Path]:
        """See `CaptionedPairs`."""
        folder = root / record.folder / "rgb"
        return find_image(folder / "A", record.filename), find_image(folder / "B", record.filename)

    def facts(self, root: Path, record: CaptionRecord) -> dict[str, Any]:
        """See `CaptionedPairs`."""
        stem = Path(record.filename).stem
        match = _SCENE.match(stem)
        return {"scene": match[1] if match else stem}

    def samples(self, root: Path, key: str) -> Iterator[Sample]:
        """Caption and yes/no of one pair, then its transitions, where the flag does not deny them."""
        record = usable(self.records(root)[key])
        draft = self.draft(root, record)
        if not self.maps:
            yield from pair_captions(draft, record.captions, record.changed)
            return
        folder = root / record.folder / "sem"
        before, after = (_load_map(folder / date / record.filename) for date in "AB")
        for date, labels in (("A", before), ("B", after)):
            same_size(draft.images[0], labels.shape, f"sem/{date}/{record.filename}")
        regions = from_to_regions(before, after, SECOND.classes)
        doubt = record.changed is not None and record.changed != bool(regions)
        if doubt:
            pixels = int(((before > 0) & (after > 0) & (before != after)).sum())
            facts = {"changeflag": int(bool(record.changed)), "mask_pixels": pixels}
            draft = replace(draft, meta={**draft.meta, "flag_mask_disagreement": facts})
        # Whether anything changed is asked once: by the maps where they and the flag agree, else by the flag.
        yield from pair_captions(draft, record.captions, record.changed if doubt else None)
        yield from (sample for sample in from_to_tasks(draft, regions, SECOND.classes)
                    if not (doubt and sample.id.endswith("#change_vqa")))

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Pairs, captions and changed pairs per split, regions per transition, and disagreements."""
        found = super().tally(samples)
        for sample in samples:
            if sample.task == "semantic_change":
                found.update(region.label for region in sample.regions)
                found[f"flag and maps disagree/{sample.split}"] += "flag_mask_disagreement" in sample.meta
        return found


def _load_map(path: Path) -> ClassMap:
    """Class numbers of a map in SECOND's colours, as they are or brightened.

    Raises:
        Rejection: Missing or broken, or a colour is neither.
    """
    try:
        return load_class_map(path, SECOND)
    except Rejection as error:
        if error.reason != "unknown colour":
            raise
        try:
            return load_class_map(path, BRIGHT)
        except Rejection:
            raise error from None
