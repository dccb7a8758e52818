"""A folder of single-band files of one acquisition, read as one multispectral image.

That is how OSCD (`imgs_1/B01.tif`, `imgs_2/T31UDQ_20170829T105019_B02.tif`), Sentinel-2 products (`..._B04_10m.jp2`),
Landsat Collection 2 (`..._SR_B4.TIF`, `..._QA_PIXEL.TIF`) and downloads from catalogues (`red.tif`, `scl.tif`) come. The
band is the last part of a file's name. Of a band that is there at several resolutions the finest file counts.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from geotempo.model.bands import canonical, role_of_name
from geotempo.model.errors import InputError
from geotempo.model.geo import Georeference
from geotempo.model.metadata import Facts
from geotempo.model.source import Grid, Layer, Source, open_file

_SUFFIXES = {".tif", ".tiff", ".jp2", ".img", ".vrt"}
_RESOLUTION = re.compile(r"[_-](10|20|30|60)m$", re.IGNORECASE)
_BAND = re.compile(r"(?:^|[_.-])((?:SR_)?B\d{1,2}A?|SCL|QA_PIXEL|[vh][vh])$", re.IGNORECASE)
_SENTINEL1 = re.compile(r"^s1[a-d]-\w+-\w+-([vh][vh])-", re.IGNORECASE)
_MIN_OVERLAP = 0.5  # of the smaller band's area; less is another place


def open_folder(path: str) -> Source:
    """Open the band files of a folder.

    Raises:
        InputError: The folder holds no band files, a band twice, files of several bands, or files of different places.
    """
    folder = Path(path)
    found: dict[str, list[Path]] = {}
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() in _SUFFIXES):
        name = band_in(file.stem)
        if name is not None:
            found.setdefault(name, []).append(file)
    if not found:
        raise InputError(f"{path!r} is a folder without band files; their names end in the band, such as B04.tif, "
                         "X_B04_10m.jp2, X_SR_B4.TIF or red.tif. Give a folder of these, or the image files themselves")
    layers: list[Layer] = []
    texts, notes = [folder.name], list[str]()
    tags, properties = dict[str, str](), dict[str, Any]()
    for name, files in found.items():
        source = _finest(path, name, files)
        layers.append(replace(source.layers[0], name=name))
        texts += source.facts.texts
        tags |= source.facts.tags
        properties |= source.facts.properties
        notes += source.notes
    grid = finest(layers)
    for layer in layers:
        _check_place(path, layer, grid)
    facts = Facts(tuple(dict.fromkeys(texts)), properties, (), tags)
    return Source(path, grid, tuple(layers), None, facts, tuple(notes))


def band_in(stem: str) -> str | None:
    """The band that a file name (without extension) ends in; None where it names none."""
    stem = _RESOLUTION.sub("", stem)
    if match := _SENTINEL1.match(stem):
        return match[1].upper()
    if match := _BAND.search(stem):
        name = match[1].upper().removeprefix("SR_")
        return "B8A" if canonical(name) == "B8A" else name
    return stem.lower() if role_of_name(stem) else None


def finest(layers: Iterable[Layer]) -> Grid:
    """The grid with the most pixels per area among some layers."""
    return max((layer.grid for layer in layers), key=lambda grid: grid.width * grid.height)


def _finest(path: str, name: str, files: list[Path]) -> Source:
    """The source of a band: the finest of several resolutions of it."""
    sources = [open_file(str(file)) for file in files]
    for source in sources:
        if source.plain is not None or len([layer for layer in source.layers if layer.colour != "alpha"]) != 1:
            raise InputError(f"{source.path!r} is named as band {name} but holds {len(source.layers)} bands; a folder is "
                             "read as one image only where each file is one band. Give that file itself")
    sources.sort(key=lambda source: source.grid.width * source.grid.height)
    if len(sources) > 1 and sources[-1].grid.width == sources[-2].grid.width:
        raise InputError(f"{path!r} holds the band {name} twice ({sources[-2].path!r} and {sources[-1].path!r}); give the "
                         "folder of one acquisition, e.g. OSCD's imgs_1")
    return sources[-1]


def _check_place(path: str, layer: Layer, grid: Grid) -> None:
    """Refuse a band of another place than the finest one's."""
    if layer.grid.place is None or grid.place is None:
        if layer.grid.place is not grid.place or (layer.grid.width, layer.grid.height) != (grid.width, grid.height):
            raise InputError(f"{layer.file!r} cannot be laid on the other bands of {path!r}: band files without "
                             f"georeference must be of one size, here {grid.width} x {grid.height}")
        return
    mine, whole = _footprint(layer.grid, layer.grid.place, grid.place), shapely.box(0, 0, grid.width, grid.height)
    if mine.intersection(whole).area < _MIN_OVERLAP * min(mine.area, whole.area):
        raise InputError(f"{layer.file!r} shows another place than the other bands of {path!r}; a folder is one "
                         "acquisition of one place")


def _footprint(grid: Grid, place: Georeference, onto: Georeference) -> shapely.Polygon:
    """Outline of a grid in the pixels of another one; empty where that cannot be said."""
    corners = np.array([[0, 0], [grid.width, 0], [grid.width, grid.height], [0, grid.height]], dtype=np.float64)
    pixels = onto.pixels(place.lonlat(corners))
    return shapely.Polygon(pixels) if np.isfinite(pixels).all() else shapely.Polygon()
