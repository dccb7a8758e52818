"""Captions of single images: RSICD, UCM-Captions and Sydney-Captions, five sentences each.

```
[annotations_rsicd/]dataset_rsicd.json | dataset.json     Karpathy's form, the official one
[RSICD_images|rsicd_images|images|imgs]/<filename>
```
or, instead of the JSON, the files of CLIP-rsicd:
```
textaug_{train,valid,test}_rsicd.jsonl     {"filename": "rsicd_images/airport_1.jpg", "captions": [5 sentences]}
```
There some of the five sentences are translations of the others into another language and back. An original ends with a
blank and a period (" ."), a translation with a period alone; of the 1,093 test images, the sentences kept by that rule
are those that EarthDial's results quote as the ground truth, image by image. Translations are no references unless
asked for. Originals that were equal stand there once, so that an image may have fewer than five. Three sentences are
empty; the meta says so.

RSICD: Lu et al. 2018, "Exploring Models and Data for Remote Sensing Image Caption Generation", IEEE TGRS 56.
UCM-Captions and Sydney-Captions: Qu et al. 2016, "Deep semantic understanding of high resolution remote sensing image",
CITS. UCM-Captions names the images of UC Merced 1.tif to 2100.tif.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from geotempo.data_builders.captions import CaptionRecord, by_key, clean_caption, image_captions, read_captions, usable
from geotempo.data_builders.records import stream_records
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Draft, FolderSource, Rejection, find_image, load_image, need_folder
from geotempo.model.errors import LayoutError

PLACES = ("", "RSICD_images", "rsicd_images", "images", "imgs", "Images")
_SPLIT = re.compile(r"(?:^|_)(train|valid|val|test)(?:_|$)")
_ORIGINAL = " ."


class ImageCaptions(FolderSource):
    """Captions of single images.

    Args:
        variants: Take the back-translated sentences of CLIP-rsicd's files for references too.
    """

    version = 1
    tasks = ("caption",)
    files: ClassVar[tuple[str, ...]] = ("dataset.json",)

    def __init__(self, variants: bool = False) -> None:
        self.variants = variants
        self._records: dict[Path, dict[str, CaptionRecord]] = {}
        self._places: dict[tuple[Path, str], tuple[Path, ...]] = {}

    @property
    def expected(self) -> str:
        """The layout in words."""
        files, places = " or ".join(self.files), ", ".join(PLACES[1:])
        return f"{files}, or *_{{train,valid,test}}_*.jsonl, and images in one of {places}"

    def check_layout(self, root: Path) -> None:
        """See `Source`."""
        need_folder(root, self.name, self.expected)
        self.records(root)

    def records(self, root: Path) -> dict[str, CaptionRecord]:
        """All entries by key, read once; the official file goes before the files of CLIP-rsicd.

        Raises:
            LayoutError: There is neither.
        """
        if root not in self._records:
            official = self._official(root)
            self._records[root] = read_captions(official) if official else by_key(
                _json_lines(root, self.name, self.expected, self.variants))
        return self._records[root]

    def _official(self, root: Path) -> Path | None:
        """The file in Karpathy's form: by its name, else the only `dataset*.json`; None where there is none.

        Raises:
            LayoutError: There are several, and none has the official name.
        """
        folders = [root, *sorted(root.glob("annotations*"))]
        named = [folder / name for name in self.files for folder in folders if (folder / name).is_file()]
        found = named[:1] or sorted(root.glob("dataset*.json"))
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise LayoutError(f"{root} has {names}; leave one of them, or call it {self.files[0]}")
        return found[0] if found else None

    def keys(self, root: Path) -> list[str]:
        """`split/stem` of every captioned image."""
        return list(self.records(root))

    def samples(self, root: Path, key: str) -> Iterator[Sample]:
        """The caption of one image."""
        record = usable(self.records(root)[key])
        image = load_image(self._find(root, record.filename))
        stem = Path(record.filename).stem
        facts = {"scene": stem, **record.gaps}
        yield image_captions(Draft(self.name, record.split, stem, (image,), self.licence, facts), record.captions)

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Images and captions per split."""
        found: Counter[str] = Counter()
        for sample in samples:
            found[f"images/{sample.split}"] += 1
            found[f"captions/{sample.split}"] += len(sample.meta["references"])
            found[f"empty captions/{sample.split}"] += sample.meta.get("empty_captions", 0)
        return +found

    def _find(self, root: Path, filename: str) -> Path:
        """The image of an entry, whose name may hold a folder of its author's.

        Raises:
            Rejection: It is in none of the known places.
        """
        parent, name = str(Path(filename).parent), Path(filename).name
        if (root, parent) not in self._places:
            places = dict.fromkeys((parent, *PLACES))
            self._places[root, parent] = tuple(root / place for place in places if (root / place).is_dir())
        for folder in self._places[root, parent]:
            try:
                return find_image(folder, name)
            except Rejection:
                continue
        tried = ", ".join(f"{place}/" for place in PLACES[1:])
        raise Rejection("missing image", f"{filename} in none of {root.name}/, {tried}")


class Rsicd(ImageCaptions):
    """10,921 images of 224 pixels in 30 classes."""

    name = "rsicd"
    licence = "unknown; RSICD, imagery Google Earth, Baidu Map, MapABC, Tianditu"
    citation = "Lu et al. 2018, RSICD, IEEE TGRS 56"
    evidence = "real"
    files = ("dataset_rsicd.json", "dataset.json")


class UcmCaptions(ImageCaptions):
    """2,100 images of UC Merced."""

    name = "ucm-captions"
    licence = "unknown; UCM-Captions, imagery USGS public domain"
    citation = "Qu et al. 2016, UCM-Captions, CITS; imagery: Yang and Newsam 2010, UC Merced"
    evidence = "documentation"
    files = ("dataset_ucm.json", "dataset.json")


class SydneyCaptions(ImageCaptions):
    """613 images of Sydney, 500 pixels at 0.5 m, in 7 classes."""

    name = "sydney-captions"
    licence = "unknown; Sydney-Captions, imagery Google Earth"
    citation = "Qu et al. 2016, Sydney-Captions, CITS"
    evidence = "documentation"
    files = ("dataset_sydney.json", "dataset.json")


def _json_lines(root: Path, source: str, expected: str, variants: bool) -> Iterator[CaptionRecord]:
    """The entries of CLIP-rsicd's files; the name of each tells the split.

    Raises:
        LayoutError: There is no file, or its first line is no such entry.
    """
    found = {path: match[1] for path in sorted(root.glob("*.jsonl")) if (match := _SPLIT.search(path.stem))}
    if not found:
        raise LayoutError(f"{root} has no caption file; {source} expects {expected}")
    for path, split in found.items():
        for number, entry in enumerate(stream_records(path)):
            record = _entry(entry, path.name, number, "val" if split == "valid" else split, variants)
            if number == 0 and record.fault is not None:
                raise LayoutError(f"{path} is no caption file ({record.fault}); expected filename and captions in each "
                                  "line")
            yield record


def _entry(entry: object, file: str, number: int, split: str, variants: bool) -> CaptionRecord:
    """An entry, or what is wrong with it."""
    try:
        filename, sentences = entry["filename"], [str(text) for text in entry["captions"]]  # type: ignore[index]
    except (KeyError, TypeError):
        fault = Rejection("broken annotation", f"{file}, entry {number} has no filename or no captions")
        return CaptionRecord(f"{file}:{number}", "", "", "", (), fault=fault)
    originals = [text for text in sentences if text.endswith(_ORIGINAL)]
    kept = sentences if variants or not originals else originals
    captions = tuple(filter(None, map(clean_caption, kept)))
    key = f"{split}/{Path(filename).stem}"
    return CaptionRecord(key, split, split, str(filename), captions, empty=len(kept) - len(captions))
