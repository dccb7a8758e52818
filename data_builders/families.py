"""Which data sets show the same places, and how the name of a place in one reads in another.

LEVIR-CD is cut up in LEVIR-CC, which is captioned again in LEVIR-MCI and others; SECOND comes back in SECOND-CC and CDVQA; DIOR in
RRSIS-D and DIOR-RSVG; xBD in RSCC and TEOChatlas; fMoW in GeoLLaVA and TEOChatlas. A model trained on one has seen the other.
GeoChat_Instruct takes its images from DOTA, DIOR, FAIR1M, NWPU-RESISC45, RSVQA-LR and FloodNet (arXiv 2311.15826), and is itself
a part of TEOChatlas, UniRS and EarthDial; EarthDial's other parts are those of its published lists and test results, Falcon's those that
the names of its published examples give (AID, RSVQA-HR, DIOR, RSICD, DOTA, WHU-CD, SYSU-CD), which are not all.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

Namer = Callable[[str, str, str], str | None]
"""(scene as its source names it, split, sample's original id) -> the name within the family, None where it cannot be told."""

RESTARTING = frozenset({"s2looking", "sysu-cd", "whu-cd", "clcd", "dsifn", "cdd"})
"""Data sets whose splits may all begin with the same file name; there a name tells a place only within a split."""
CROPS = 16
"""256-pixel crops of a LEVIR-CD tile, row by row."""
TILES = {"train": 445, "val": 64, "test": 128}
"""Tiles of LEVIR-CD, whose numbers begin anew in each split."""

_LEVIR_CC = re.compile(r"(?:levir_)?(?P<split>train|val|test)_(?P<number>\d{6})")
_LEVIR_CD = re.compile(r"(?P<tile>(?:train|val|test)_\d+)(?:_\d{4}_\d{4})?")
_DISASTER = re.compile(r"(?P<event>[a-z0-9-]+)_(?P<number>\d{8})", re.IGNORECASE)
_DIGITS = re.compile(r"(\d{5})(?!\d)")


@dataclass(frozen=True)
class Family:
    """Data sets on the same imagery.

    Attributes:
        name: As in reports.
        namers: By data set, the way from its names to the family's.
        unnamed: Data sets on the same imagery whose names cannot be translated; pictures have to be compared.
    """

    name: str
    namers: Mapping[str, Namer]
    unnamed: tuple[str, ...] = ()


def levir_crop(scene: str, split: str, key: str) -> str | None:
    """The LEVIR-CD tile of a LEVIR-CC name: `<split>_{16 (tile - 1) + 4 row + column + 1:06d}` is a 256-pixel crop of it.

    Found by comparing pixels, for the test tiles 1 to 42; nobody published it. Numbers beyond the last tile of LEVIR-CD name
    places that LEVIR-CD has under another name or not at all.
    """
    match = _LEVIR_CC.fullmatch(scene)
    if match is None:
        return None
    tile = (int(match["number"]) - 1) // CROPS + 1
    return f"{match['split']}_{tile}" if tile <= TILES[match["split"]] else f"crop {match['split']}_{match['number']}"


def levir_tile(scene: str, split: str, key: str) -> str | None:
    """The tile of a LEVIR-CD tile or of a crop `<split>_<tile>_<row>_<column>`."""
    match = _LEVIR_CD.fullmatch(scene)
    return match["tile"] if match else None


def digits(scene: str, split: str, key: str) -> str | None:
    """The five digits that SECOND and DIOR name a picture by, without what a crop or a question adds."""
    match = _DIGITS.match(PurePosixPath(scene).name)
    return match[1] if match else None


def disaster_scene(scene: str, split: str, key: str) -> str | None:
    """`<disaster>_NNNNNNNN` of an xBD tile."""
    match = _DISASTER.match(scene)
    return f"{match['event'].lower()}_{match['number']}" if match else None


def fmow_place(scene: str, split: str, key: str) -> str | None:
    """`<split>/<category>_<n>`: a place of train and one of val of the same name are two places."""
    parts = PurePosixPath(scene).parts
    named = parts[-2] if len(parts) > 1 and parts[-2] in ("train", "val", "test") else split
    return f"{named}/{parts[-1]}" if parts else None


def teochatlas_place(scene: str, split: str, key: str) -> str | None:
    """`fmow_place` of TEOChatlas, whose test samples come from fMoW's val."""
    return fmow_place(scene, "val" if split == "test" else split, key)


def _sysu(scene: str, split: str, key: str) -> str | None:
    name = PurePosixPath(scene).name.removeprefix("sysu_test_")
    return f"{split}/{name}" if name.isdigit() else None


def _qfabric(scene: str, split: str, key: str) -> str | None:
    return scene.removeprefix("qfabric_") or None


_CROPPED: dict[str, Namer] = {name: levir_crop for name in ("levir-cc", "levir-mci", "levir-cdc", "changechat", "unirs")}
FAMILIES = (
    Family("LEVIR", {"levir-cd": levir_tile, **_CROPPED}, ("levir-cd-plus", "levir-ccd", "qag-360k", "earthdial")),
    Family("SECOND", {name: digits for name in ("second", "second-cc", "cdvqa")}, ("qag-360k", "teochatlas")),
    Family("DIOR", {name: digits for name in ("dior", "dior-rsvg", "rrsis-d")},
           ("geochat-instruct", "vrsbench", "teochatlas", "unirs", "earthdial", "falcon")),
    Family("xBD", {name: disaster_scene for name in ("xbd", "rscc", "teochatlas")}, ("earthdial",)),
    Family("fMoW", {"fmow": fmow_place, "geollava": fmow_place, "teochatlas": teochatlas_place}, ("earthdial",)),
    Family("QFabric", {"qfabric": _qfabric, "teochatlas": _qfabric}),
    Family("S2Looking", {}, ("s2looking", "teochatlas")),
    Family("SYSU-CD", {"sysu-cd": _sysu, "sysu-cc": _sysu}, ("earthdial", "falcon")),
    Family("WHU-CD", {}, ("whu-cd", "whu-cdc", "falcon")),
    Family("Dubai", {}, ("dubai-ccd", "earthdial")),
    Family("UC Merced", {}, ("uc-merced", "ucm-captions", "rsivqa", "teochatlas", "earthdial")),
    Family("Sydney", {}, ("sydney-captions", "rsivqa", "earthdial")),
    Family("RSICD", {}, ("rsicd", "rsivqa", "aid", "teochatlas", "earthdial", "falcon")),
    Family("NWPU-RESISC45", {}, ("nwpu-resisc45", "geochat-instruct", "teochatlas", "unirs", "earthdial")),
    Family("NWPU VHR-10", {}, ("nwpu-vhr10", "earthdial")),
    Family("DOTA", {}, ("geopixeld", "vrsbench", "rsivqa", "geochat-instruct", "teochatlas", "unirs", "earthdial", "falcon")),
    Family("RSVG", {}, ("rsvg", "earthdial")),
    Family("RSVQA-LR", {}, ("rsvqa-lr", "geochat-instruct", "teochatlas", "unirs", "earthdial")),
    Family("RSVQA-HR", {}, ("rsvqa-hr", "teochatlas", "earthdial", "falcon")),
)
ORIGINS = {"xbd": "xBD", "fmow": "fMoW", "qfabric": "QFabric"}
"""Family of a sample that names the data set it comes from, as TEOChatlas's do."""


def place_name(dataset: str, split: str, key: str, meta: Mapping[str, Any]) -> str:
    """A name that samples of the same place share, across data sets of a family.

    Args:
        dataset: The sample's data set.
        split: Its split.
        key: Its original id, what stands between `dataset/split/` and `#` in a sample's id.
        meta: Its meta: `scene` as its source names the place, `origin` in a collection of data sets.

    Returns:
        `family/name`; where no family knows the name, `dataset/scene`; and where no scene is given, the item itself.
    """
    scene = str(meta["scene"]) if meta.get("scene") else None
    origin = str(meta["origin"]) if meta.get("origin") else None
    for family in FAMILIES:
        namer = family.namers.get(dataset)
        if namer is None or (dataset == "teochatlas" and ORIGINS.get(origin or "") != family.name):
            continue
        name = namer(scene or key, split, key)
        if name is not None:
            return f"{family.name}/{name}"
    if scene is None or dataset in RESTARTING:
        return f"{dataset}/{split}/{scene or key}"
    return f"{dataset}/{scene}"


def event_name(meta: Mapping[str, Any]) -> str | None:
    """The event, for example a disaster, that a sample is about, written alike in all data sets."""
    event = meta.get("event")
    return str(event).strip().lower().replace("_", "-").replace(" ", "-") or None if event else None


def unnamed_overlaps(train: set[str], evaluation: set[str]) -> list[str]:
    """Pairs of data sets that show the same imagery but whose names of places cannot be compared.

    Args:
        train: Data sets of one side.
        evaluation: Data sets of the other.

    Returns:
        `family: one and other`, sorted.
    """
    found = set()
    for family in FAMILIES:
        known, other = set(family.namers), set(family.unnamed)
        for one in train & (known | other):
            for two in evaluation & (known | other):
                if one != two and (one in other or two in other):
                    found.add(f"{family.name}: {one} and {two}")
    return sorted(found)
