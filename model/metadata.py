"""What stands beside and inside a raster file: a STAC item, tags, identifiers in names. No torch, no GDAL.

A STAC item is looked for as `NAME.tif.json` or `NAME.json`, then among the other small JSON files of the folder: the
one with an asset whose `href` ends in the file's name. Both ways of writing bands are read: `eo:bands` with
`raster:bands` (STAC 1.0) and `bands` with `eo:` and `raster:` fields (STAC 1.1).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_MAX_BYTES = 4_000_000  # of a JSON file that can be a STAC item
_MAX_FILES = 200  # JSON files of a folder that are looked into


@dataclass(frozen=True)
class BandFacts:
    """What a STAC item says of one band; None where it is silent."""

    name: str | None = None
    common: str | None = None
    wavelength: float | None = None
    scale: float | None = None
    offset: float | None = None


@dataclass(frozen=True)
class Facts:
    """What is known of a file besides its pixels.

    Attributes:
        texts: Names, ids, collections and tag values in which a product identifier may stand; the most telling first.
        properties: Properties of the STAC item.
        bands: What the item says of each band, in the file's order; empty without an item.
        tags: Tags of the file (GDAL metadata).
    """

    texts: tuple[str, ...] = ()
    properties: Mapping[str, Any] = field(default_factory=dict)
    bands: tuple[BandFacts, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)


def facts_of(path: str, tags: Mapping[str, str] | None = None) -> Facts:
    """Everything that is known of a file.

    Args:
        path: Of the file; it need not exist (GDAL names are allowed).
        tags: Its GDAL metadata.
    """
    file, tags = Path(path), dict(tags or {})
    item, asset = _item_of(file) or ({}, {})
    ids = [item.get("collection"), item.get("id")]
    absolute = file.absolute()
    # Four folders up holds the name of a .SAFE product; a longer way up says nothing about the file.
    names = [file.name, *(folder.name for folder in list(absolute.parents)[:5])]
    texts = [text for text in (*ids, *names, *tags.values()) if isinstance(text, str) and text]
    properties = item.get("properties")
    return Facts(tuple(texts), properties if isinstance(properties, dict) else {}, _bands(asset), tags)


def _item_of(file: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The STAC item of a file, and the file's asset in it."""
    for candidate in _candidates(file):
        item = _read(candidate)
        if item is None:
            continue
        for asset in item.get("assets", {}).values():
            if isinstance(asset, dict) and _basename(asset.get("href")) == file.name:
                return item, asset
    return None


def _candidates(file: Path) -> Iterator[Path]:
    """JSON files that may describe a file, the likeliest first."""
    if not file.is_file():
        return
    beside = [file.with_name(file.name + ".json"), file.with_suffix(".json")]
    yield from (path for path in beside if path.is_file())
    others = sorted(path for path in file.parent.glob("*.json") if path not in beside)
    yield from others[:_MAX_FILES]


def _read(path: Path) -> dict[str, Any] | None:
    """A STAC item; None for any other file."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            return None
        item = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    is_item = isinstance(item, dict) and item.get("type") == "Feature" and "stac_version" in item
    return item if is_item and isinstance(item.get("assets"), dict) else None


def _basename(href: Any) -> str:
    """Last part of a path or URL."""
    return str(href).split("?", 1)[0].replace("\\", "/").rsplit("/", 1)[-1] if isinstance(href, str) else ""


def _bands(asset: Mapping[str, Any]) -> tuple[BandFacts, ...]:
    """What an asset says of its bands, in their order; numbers given once for the asset hold for all of them."""
    lists = [[band if isinstance(band, dict) else {} for band in value] for value in
             (asset.get(key) for key in ("bands", "eo:bands", "raster:bands")) if isinstance(value, list)]
    count = max(map(len, lists), default=0)
    merged: list[dict[str, Any]] = [{} for _ in range(count)]
    for bands in lists:
        for whole, band in zip(merged, bands, strict=False):
            whole.update({key.removeprefix("eo:").removeprefix("raster:"): value for key, value in band.items()})
    for band in merged:
        for key in ("scale", "offset"):
            band.setdefault(key, asset.get(f"raster:{key}"))
    return tuple(BandFacts(_text(band.get("name")), _text(band.get("common_name")),
                           _number(band.get("center_wavelength", band.get("wavelength_um"))),
                           _number(band.get("scale")), _number(band.get("offset"))) for band in merged)


def _text(value: Any) -> str | None:
    """A text, or None."""
    return value if isinstance(value, str) and value else None


def _number(value: Any) -> float | None:
    """A number, or None."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
