"""Local STAC catalogues: items by their links, and the raster of an item. Files are read as the plain JSON they are."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from geotempo.model.errors import LayoutError

RASTERS = (".tif", ".tiff", ".jp2", ".vrt")
ROOTS = ("catalog.json", "collection.json")
COLOURS = {"red", "green", "blue"}


class NoRaster(LayoutError):
    """An item without a raster that can be used.

    Attributes:
        reason: Short class of the fault.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class StacItem:
    """An item file.

    Attributes:
        file: Where it lies; paths are relative to it.
        body: Its JSON.
    """

    file: Path
    body: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Its id, else its file's name."""
        return str(self.body.get("id") or self.file.stem)

    @property
    def collection(self) -> str:
        """Its collection; empty where it names none."""
        return str(self.body.get("collection") or "")

    @property
    def properties(self) -> Mapping[str, Any]:
        """Its properties."""
        found = self.body.get("properties")
        return found if isinstance(found, Mapping) else {}

    @property
    def assets(self) -> dict[str, Mapping[str, Any]]:
        """Its assets by key."""
        found = self.body.get("assets")
        return (
            {str(key): asset for key, asset in found.items() if isinstance(asset, Mapping)}
            if isinstance(found, Mapping)
            else {}
        )

    def path(self, asset: Mapping[str, Any]) -> Path | None:
        """Where an asset lies; None where it is not on this machine."""
        return _local(self.file, asset.get("href"))


def read_catalogue(root: Path) -> list[StacItem]:
    """All items that a catalogue links to, by file; without a catalogue, all item files below the folder.

    Raises:
        LayoutError: There is none, or a linked file cannot be read.
    """
    start = [root / name for name in ROOTS if (root / name).is_file()] if root.is_dir() else [root]
    found = {item.file: item for item in (_linked(start[0], set()) if start else _loose(root))}
    if not found:
        raise LayoutError(
            f"{root} holds no STAC item; expected catalog.json or collection.json with links to local items, or item "
            "files"
        )
    return [found[file] for file in sorted(found)]


def _linked(file: Path, seen: set[Path]) -> Iterator[StacItem]:
    """Items below a catalogue, collection or item file, each file once."""
    file = file.resolve()
    if file in seen:
        return
    seen.add(file)
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LayoutError(
            f"{file.name} of the STAC catalogue cannot be read ({' '.join(str(error).split())[:100]}); copy it again"
        ) from None
    if _is_item(body):
        yield StacItem(file, body)
        return
    for link in body.get("links", []) if isinstance(body, dict) else []:
        if isinstance(link, dict) and link.get("rel") in ("item", "child"):
            target = _local(file, link.get("href"))
            if target is None:
                raise LayoutError(
                    f"{file.name} links to {str(link.get('href'))[:80]}, which is not on this machine; download the "
                    "catalogue"
                )
            yield from _linked(target, seen)


def _loose(root: Path) -> Iterator[StacItem]:
    for file in sorted(root.rglob("*.json")):
        try:
            body = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if _is_item(body):
            yield StacItem(file.resolve(), body)


def _is_item(body: Any) -> bool:
    return isinstance(body, dict) and body.get("type") == "Feature" and "stac_version" in body


def _local(file: Path, href: Any) -> Path | None:
    """A reference of a file as a path."""
    if not isinstance(href, str) or not href:
        return None
    parts = urlparse(href)
    if parts.scheme not in ("", "file"):
        return None
    plain = file.parent / href  # names with % or # are names first
    return plain if plain.exists() else file.parent / unquote(parts.path)


def raster_of(item: StacItem, key: str = "") -> Path:
    """The raster of an item: `visual`, else the only asset with data, else the folder of its colours.

    Args:
        item: The item.
        key: Asset to take; empty lets roles, bands and common names tell.

    Raises:
        NoRaster: There is none, it is missing or remote, or it is not clear which one is meant.
    """
    assets = {name: asset for name, asset in item.assets.items() if _is_raster(asset)}
    if key:
        if key not in assets:
            raise NoRaster(
                "no such asset", f"{item.id} has no raster asset {key!r}; it has: {', '.join(assets) or 'none'}"
            )
        return _file(item, key, assets[key])
    visual = [name for name, asset in assets.items() if name == "visual" or "visual" in _list(asset.get("roles"))]
    data = [name for name, asset in assets.items() if "data" in _list(asset.get("roles"))]
    coloured = [name for name in data or assets if len(_bands(assets[name])) >= 3]
    for choice in (visual, coloured, data, list(assets)):
        if len(choice) == 1:
            return _file(item, choice[0], assets[choice[0]])
    single = {name: common for name, asset in assets.items() for common in _common(name, asset) if common in COLOURS}
    if set(single.values()) == COLOURS:
        files = [_file(item, name, assets[name]) for name in single]
        if len({file.parent for file in files}) == 1:
            return files[0].parent
    raise NoRaster(
        "asset unclear",
        f"{item.id} has {len(assets)} raster assets ({', '.join(list(assets)[:8]) or 'none'}); say which with "
        "asset=KEY",
    )


def _file(item: StacItem, key: str, asset: Mapping[str, Any]) -> Path:
    path = item.path(asset)
    if path is None:
        raise NoRaster(
            "remote asset",
            f"{item.id}: {key} is {str(asset.get('href'))[:80]}, not a file on this machine; download it",
        )
    if not path.is_file():
        raise NoRaster("missing asset", f"{item.id}: {key} is {asset.get('href')}, which is not there")
    return path


def _is_raster(asset: Mapping[str, Any]) -> bool:
    href = str(asset.get("href") or "").split("?")[0].lower()
    kind = str(asset.get("type") or "").lower()
    return not {"thumbnail", "overview", "metadata"} & set(_list(asset.get("roles"))) and (
        href.endswith(RASTERS) or "tiff" in kind or "jp2" in kind
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _bands(asset: Mapping[str, Any]) -> list[Any]:
    """Bands as STAC 1.0 (`eo:bands`) or 1.1 (`bands`) lists them."""
    return _list(asset.get("eo:bands")) or _list(asset.get("bands"))


def _common(name: str, asset: Mapping[str, Any]) -> list[str]:
    """Common name of the band of an asset of one band; its key where bands are not described."""
    bands = [band for band in _bands(asset) if isinstance(band, Mapping)]
    if not bands:
        return [name.lower()]
    return (
        [str(bands[0].get("common_name") or bands[0].get("eo:common_name") or name).lower()] if len(bands) == 1 else []
    )


def label_assets(items: list[StacItem]) -> list[tuple[StacItem, Path]]:
    """GeoJSON files of items of the label extension (or with assets of the role `labels`), with their items."""
    found = []
    for item in items:
        for key, asset in item.assets.items():
            roles = _list(asset.get("roles"))
            if "labels" in roles or (key == "labels" and any(name.startswith("label:") for name in item.properties)):
                path = item.path(asset)
                if path is not None and path.is_file():
                    found.append((item, path))
    return found
