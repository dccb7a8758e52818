"""DUBAI-CCD and LEVIR-CCD: 500 pairs each with five captions, in the layout of their authors.

```
description_jsontr_te_val/{Train,Validation,Test}_*.json    Karpathy's form; the file's name tells the split
[imgs_tiles/]RGB/{500_2000,500_2010}/<filename>             before and after, 50 x 50 pixels of Landsat 7, TIFF or PNG
```
No flag says which pairs changed, and the sentences for those that did not are free ("Everything remains the same", "All
is the same in this area"), so that nobody is asked whether anything changed. LEVIR-CCD is said to come in the same
form; what its image folders are called was not stated, so some names are tried and the options name others.

Hoxha et al. 2022, "Change Captioning: A New Paradigm for Multitemporal Remote Sensing Image Analysis", IEEE TGRS 60.
"""

from pathlib import Path
from typing import Any

from geotempo.data_builders.captions import CaptionedPairs, CaptionRecord, read_captions
from geotempo.data_builders.source import find_image, need_folder
from geotempo.model.errors import LayoutError

SPLITS = {"train": "train", "validation": "val", "val": "val", "test": "test"}


class DubaiCcd(CaptionedPairs):
    """Change captions of 30 m images of Dubai, 2000 and 2010.

    Args:
        before: Folder of the earlier images, relative to the root; empty tries the known ones.
        after: Folder of the later images.
    """

    name = "dubai-ccd"
    version = 1
    licence = "academic; DUBAI-CCD, Landsat 7"
    citation = "Hoxha et al. 2022, Change Captioning, IEEE TGRS 60"
    evidence = "documentation"
    tasks = ("change_caption",)
    places: tuple[tuple[str, str], ...] = tuple(
        (f"{folder}500_2000", f"{folder}500_2010") for folder in ("imgs_tiles/RGB/", "RGB/", "images/", ""))

    def __init__(self, before: str = "", after: str = "") -> None:
        super().__init__()
        self.before, self.after = before, after

    def check_layout(self, root: Path) -> None:
        """See `Source`."""
        need_folder(root, self.name, "description_jsontr_te_val/{Train,Validation,Test}_*.json and "
                                     f"{' and '.join(self.places[0])}")
        self._folders(root)
        self.records(root)

    def read_records(self, root: Path) -> dict[str, CaptionRecord]:
        """See `CaptionedPairs`; the split is that of the file's name."""
        found: dict[str, CaptionRecord] = {}
        for path, split in _files(root).items():
            found |= read_captions(path, split=split)
        return dict(sorted(found.items()))

    def image_files(self, root: Path, record: CaptionRecord) -> tuple[Path, Path]:
        """See `CaptionedPairs`."""
        before, after = self._folders(root)
        name = Path(record.filename).name
        return find_image(before, name), find_image(after, name)

    def facts(self, root: Path, record: CaptionRecord) -> dict[str, Any]:
        """See `CaptionedPairs`."""
        return {"scene": Path(record.filename).stem}

    def _folders(self, root: Path) -> tuple[Path, Path]:
        """Folders of the earlier and the later images.

        Raises:
            LayoutError: Of no naming are both there.
        """
        given = ((self.before, self.after),) if self.before and self.after else self.places
        for before, after in given:
            if (root / before).is_dir() and (root / after).is_dir():
                return root / before, root / after
        tried = "; ".join(" and ".join(pair) for pair in given)
        raise LayoutError(f"{root} has no folders of earlier and later images; looked for {tried}; "
                          "name others with the options before=FOLDER and after=FOLDER")


class LevirCcd(DubaiCcd):
    """Change captions of 500 pairs of 256 pixels at 0.5 m, cut from LEVIR-CD."""

    name = "levir-ccd"
    licence = "academic; LEVIR-CCD, imagery Google Earth"
    places = (("imgs_tiles/RGB/A", "imgs_tiles/RGB/B"), ("RGB/A", "RGB/B"), ("images/A", "images/B"), ("A", "B"),
              ("im1", "im2"), ("before", "after"))


def _files(root: Path) -> dict[Path, str]:
    """Split of each caption file.

    Raises:
        LayoutError: There is none, a name does not begin with a split, or two files are of one split.
    """
    folder = root / "description_jsontr_te_val"
    paths = sorted((folder if folder.is_dir() else root).glob("*.json"))
    found = {path: SPLITS.get(path.stem.split("_")[0].lower(), "") for path in paths}
    odd = [path.name for path, split in found.items() if not split]
    if odd or not found or len(set(found.values())) < len(found):
        names = ", ".join(path.name for path in paths) or "none"
        raise LayoutError(f"{folder} must hold one JSON file per split, whose names begin with Train_, Validation_ and "
                          f"Test_; found: {names}")
    return found
