"""OSCD (Onera Satellite Change Detection): urban change between two Sentinel-2 dates of 24 cities.

```
*Images/<city>/{imgs_1,imgs_2}_rect/B02.tif ..      16-bit, 10 m, the second date registered to the first
*Images/<city>/{imgs_1,imgs_2}/*_B02.tif ..         16-bit, as cut out; the dates may differ in size
*Images/<city>/pair/{img1,img2}.png                 8-bit quick looks, each date stretched on its own
*Images/<city>/dates.txt                            date_1: 20161130 / date_2: 20170829
*{Train,Test} Labels/<city>/cm/cm.png               0/255, RGBA or grey
*{Train,Test} Labels/<city>/cm/<city>-cm.tif        1 no change, 2 change; by the README 0 and 1
```
(`*` is `Onera Satellite Change Detection dataset - `.) Red, green and blue come from the registered bands, else from
the bands as cut out, else from the quick looks, and are shown with one stretch for both dates, percentiles 2-98, so
that haze is not a change. Only urban change is labelled: fields and woods that look different are no change here, so
nobody is asked whether anything has changed at all.

Caye Daudt et al. 2018, "Urban Change Detection for Multispectral Earth Observation Using Convolutional Neural
Networks", IGARSS. Change maps CC BY-NC-SA; images contain modified Copernicus Sentinel data 2015-2018.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from geotempo.data_builders.instances import flag_meta, instances
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Draft, FolderSource, Rejection, listing, load_labels, need_folder
from geotempo.data_builders.tiling import as_record, check_tile, windows
from geotempo.data_builders.wordings import ask
from geotempo.model.dates import AcquisitionDate
from geotempo.model.display import find_stretch
from geotempo.model.errors import LayoutError
from geotempo.model.geometry import BoolArray

PREFIX = "Onera Satellite Change Detection dataset - "
SPLITS = {"train": "Train Labels", "test": "Test Labels"}
EXPECTED = f'"{PREFIX}Images" and "{PREFIX}Train Labels" (or Test Labels) with a folder per city'
BANDS = ("B04", "B03", "B02")
LABEL, THINGS = "urban change", "urban areas"
_DATE = re.compile(r"date_([12])\s*:\s*(\d{4})(\d{2})(\d{2})")


class Oscd(FolderSource):
    """Grounding and masks of urban change.

    Args:
        tile: Longest side of a sample's images in pixels; a city is cut into tiles of about equal size. 0 keeps it whole.
    """

    name = "oscd"
    version = 2  # samples name their scene
    licence = "CC-BY-NC-SA-4.0; OSCD change maps, modified Copernicus Sentinel data 2015-2018"
    citation = "Caye Daudt et al. 2018, OSCD, IGARSS"
    evidence = "real"
    tasks = ("change_grounding", "change_segmentation")
    labels = (LABEL,)

    def __init__(self, tile: int = 256) -> None:
        self.tile = check_tile(tile)

    def check_layout(self, root: Path) -> None:
        """See `Source`."""
        need_folder(root, self.name, EXPECTED)
        if not _images(root).is_dir() or not any(_labels(root, split).is_dir() for split in SPLITS):
            raise LayoutError(f"{root} has no images or no labels; {self.name} expects {EXPECTED}")

    def keys(self, root: Path) -> list[str]:
        """`split/city` of every labelled city."""
        return sorted(f"{split}/{path.name}" for split in SPLITS if _labels(root, split).is_dir()
                      for path in _labels(root, split).iterdir() if path.is_dir())

    def samples(self, root: Path, key: str) -> Iterator[Sample]:
        """Two samples of each tile of a city."""
        split, _, city = key.partition("/")
        changed = _change_map(_labels(root, split) / city / "cm", city)
        pictures = [np.asarray(picture) for picture in _pictures(_images(root) / city, city)]
        for picture in pictures:
            if picture.shape[:2] != changed.shape:
                raise Rejection("size mismatch", f"{city}: the change map is {changed.shape[1]} x {changed.shape[0]}, an image "
                                                 f"{picture.shape[1]} x {picture.shape[0]}")
        dates = _dates(_images(root) / city / "dates.txt")
        for name, window in windows(changed.shape[0], changed.shape[1], self.tile):
            images = tuple(as_record(picture[window], date=date, sensor="Sentinel-2", gsd=(10.0, 10.0), modality="optical",
                                     bands=("red", "green", "blue"))
                           for picture, date in zip(pictures, dates, strict=True))
            yield from _samples(Draft(self.name, split, city + name, images, self.licence, {"scene": city}), changed[window])

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Tiles, changed tiles and changes per split."""
        found: Counter[str] = Counter()
        for sample in samples:
            if sample.task == "change_grounding":
                found[f"tiles/{sample.split}"] += 1
                found[f"changed tiles/{sample.split}"] += bool(sample.regions)
                found[f"changes/{sample.split}"] += len(sample.regions)
        return found


def _images(root: Path) -> Path:
    return root / f"{PREFIX}Images"


def _labels(root: Path, split: str) -> Path:
    return root / f"{PREFIX}{SPLITS[split]}"


def _samples(draft: Draft, changed: BoolArray) -> Iterator[Sample]:
    """Grounding and segmentation of the connected changes, drawn on the later image."""
    regions = instances(changed, 2, LABEL)
    answer, left_out = listing(range(len(regions)))
    facts: dict[str, Any] = {"left_out": left_out, **flag_meta(regions, *changed.shape)}
    for task in ("change_grounding", "change_segmentation"):
        yield draft.sample(task, task, ask(task, draft.id(task), things=THINGS), answer, regions, **facts)


def _change_map(folder: Path, city: str) -> BoolArray:
    """Where the city changed."""
    if (folder / "cm.png").is_file():
        values = load_labels(folder / "cm.png")
        return np.asarray(values > (127 if values.max(initial=0) > 1 else 0))  # some copies hold 0/1
    values = load_labels(folder / f"{city}-cm.tif")
    held = np.unique(values).tolist()
    if held not in ([1, 2], [2], [0, 1], [0]):  # ones alone mean no change in one coding and change in the other
        raise Rejection("unknown mask value", f"{city}-cm.tif holds {held[:5]}; allowed: 1 and 2, or 0 and 1")
    return np.asarray(values == max(1, held[-1]))


def _pictures(folder: Path, city: str) -> list[Image.Image]:
    """Both dates as RGB, from the best form that is there."""
    for ending in ("_rect", ""):
        folders = [folder / f"imgs_{number}{ending}" for number in (1, 2)]
        if all(path.is_dir() for path in folders):
            stacks = [np.stack([_band(path, band) for band in BANDS]) for path in folders]
            pairs = [(stack, np.asarray((stack > 0).any(axis=0))) for stack in stacks]
            stretch = find_stretch(pairs, "2-98", [f"{city}/{path.name}" for path in folders])
            return [Image.fromarray(np.moveaxis(stretch.apply(*pair), 0, 2)) for pair in pairs]
    try:
        return [Image.open(folder / "pair" / f"img{number}.png").convert("RGB") for number in (1, 2)]
    except (OSError, SyntaxError, ValueError):
        raise Rejection("missing image", f"{city} has neither imgs_1 and imgs_2 nor a readable pair/img1.png and img2.png") from None


def _band(folder: Path, band: str) -> npt.NDArray[Any]:
    """One band, (H, W), with the values stored."""
    found = sorted(folder.glob(f"*{band}.tif"))
    if len(found) != 1:
        raise Rejection("missing image", f"{folder.parent.name}/{folder.name} has {len(found)} files *{band}.tif; expected one")
    try:
        return np.asarray(Image.open(found[0]))
    except (OSError, SyntaxError, ValueError):
        raise Rejection("broken image", f"{folder.parent.name}/{folder.name}/{found[0].name} cannot be decoded") from None


def _dates(path: Path) -> tuple[AcquisitionDate | None, AcquisitionDate | None]:
    """The two dates of `dates.txt`; None where it does not say."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    found = {number: AcquisitionDate(f"{year}-{month}-{day}") for number, year, month, day in _DATE.findall(text)}
    return found.get("1"), found.get("2")
