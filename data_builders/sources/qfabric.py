"""QFabric: building sites over five dates, with what is built and how far it is on each date.

What is assumed, since the original files were never seen; the first location is checked, and the assumption that fails is named:

```
[{train,val,test}/]<location>/*.{tif,tiff,png,jpg}      five images, each with its date in the name (2018-03-21 or 20180321)
[{train,val,test}/]<location>/*.{geojson,json}          one FeatureCollection of Polygons and MultiPolygons of one part
```
Coordinates are degrees (WGS 84) where the images are georeferenced, else pixels. Properties: `change_type`, one of `TYPES`, and
`change_status`, one of `STATUSES` per date, in time order, as a list or as text with commas; other names are given as options.
Without folders for the splits seven tenths of the cities are train, two val and one test, by the hash of the name, which no
publication means by them. City is the location's name up to its last number.

Verma et al. 2021, "QFabric: Multi-Task Change Detection Dataset", CVPR Workshops. Types and statuses as TEOChat lists them.
"""

import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from geotempo.data_builders.instances import mask_points
from geotempo.data_builders.label_states import state_tasks
from geotempo.data_builders.label_tasks import PER_CLASS, unnamed
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Draft, FolderSource, Rejection, load_json, need_folder
from geotempo.data_builders.tiling import Tiles, Window, check_tile
from geotempo.data_builders.wordings import ask
from geotempo.model.errors import InputError, LayoutError
from geotempo.model.geo import Georeference
from geotempo.model.geometry import Polygon, rasterize
from geotempo.model.raster import load_stack
from geotempo.model.records import ImageRecord, Region

TYPES = ("residential", "commercial", "industrial", "road", "demolition", "mega projects")
STATUSES = ("prior construction", "greenland", "land cleared", "excavation", "materials dumped", "construction started",
            "construction midway", "construction done", "operational")
DATES = 5
IMAGES, LABELS = (".tif", ".tiff", ".png", ".jpg", ".jpeg"), (".geojson", ".json")
EXPECTED = f"[{{train,val,test}}/]<location>/ with {DATES} dated images and one GeoJSON"
_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)-?(0[1-9]|1[0-2])-?([0-3]\d)(?!\d)")


@dataclass(frozen=True)
class Site:
    """One polygon.

    Attributes:
        uid: `<number in the file>`, from 0.
        shape: In pixels.
        kind: One of `TYPES`.
        states: One of `STATUSES` per date, in time order.
    """

    uid: str
    shape: shapely.Polygon
    kind: str
    states: tuple[str, ...]


class QFabric(FolderSource):
    """What a site became, its state on a date, in which images a state holds, since and until when.

    Args:
        tile: Longest side of a sample's images in pixels; 0 keeps whole locations. A site is asked about in the tile that holds
            at least half of it.
        type_key: Property with the type of change.
        status_key: Property with the statuses.
    """

    name = "qfabric"
    version = 1
    licence = "academic; QFabric"
    citation = "Verma et al. 2021, QFabric, CVPR Workshops"
    evidence = "documentation"
    tasks = ("region_vqa", "temporal_referring")

    def __init__(self, tile: int = 512, type_key: str = "change_type", status_key: str = "change_status") -> None:
        self.tile, self.type_key, self.status_key = check_tile(tile), type_key, status_key

    def check_layout(self, root: Path) -> None:
        """See `Source`; the first location is read as a whole but for its pixels."""
        need_folder(root, self.name, EXPECTED)
        first = next(iter(self.keys(root)), None)
        if first is None:
            raise LayoutError(f"{root} has no folder with a GeoJSON; {self.name} expects {EXPECTED}")
        folder = _folder(root, first)
        try:
            _images(folder)
            for number, feature in enumerate(_features(_label(folder))):
                self._meaning(feature, number, folder.name)
        except Rejection as error:
            raise LayoutError(f"{folder} is not as {self.name} assumes: {error.detail}") from None

    def keys(self, root: Path) -> list[str]:
        """`split/location` of every folder that holds a GeoJSON."""
        splits = [split for split in ("train", "val", "test") if (root / split).is_dir()]
        if splits:
            return sorted(f"{split}/{path.name}" for split in splits for path in (root / split).iterdir() if _labelled(path))
        return sorted(f"{city_split(path.name)}/{path.name}" for path in root.iterdir() if _labelled(path))

    def samples(self, root: Path, key: str) -> Iterator[Sample]:
        """All samples of one location."""
        split, _, location = key.partition("/")
        folder = _folder(root, key)
        images = _read(folder)
        aside: Counter[str] = Counter()
        sites = list(self._sites(folder, images[-1], aside))
        meta = {"scene": location, "event": city(location), "set_aside": dict(sorted(aside.items()))}
        tiles = Tiles(images, self.tile)
        for name, window in tiles:
            inside = [(site, shape) for site in sites if (shape := _inside(site.shape, window)) is not None]
            if inside:
                draft = Draft(self.name, split, location + name, tiles.at(window), self.licence, meta)
                yield from _tile_samples(draft, inside)

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Locations and sites that are asked about per split, and what was set aside."""
        found: Counter[str] = Counter()
        if samples:
            found[f"locations/{samples[0].split}"] += 1
            found.update({f"set aside/{reason}": count for reason, count in samples[0].meta["set_aside"].items()})
        for sample in samples:
            if "#region_vqa:type:" in sample.id:
                found[f"sites/{sample.split}"] += 1
        return found

    def _sites(self, folder: Path, image: ImageRecord, aside: Counter[str]) -> Iterator[Site]:
        """Sites of a location; those whose geometry is of no use are counted in `aside`."""
        place = Georeference(image.crs, image.transform) if image.crs and image.transform else None
        for number, feature in enumerate(_features(_label(folder))):
            kind, states = self._meaning(feature, number, folder.name)
            try:
                yield Site(str(number), _shape(feature.get("geometry"), place, image), kind, states)
            except InputError as error:
                aside[str(error)] += 1

    def _meaning(self, feature: dict[str, Any], number: int, name: str) -> tuple[str, tuple[str, ...]]:
        """Type and statuses of a feature.

        Raises:
            Rejection: A property is missing or says something unknown.
        """
        properties = feature.get("properties") or {}
        for option, key in (("type_key", self.type_key), ("status_key", self.status_key)):
            if key not in properties:
                raise Rejection("broken annotation", f"{name}, feature {number} has no property {key!r}; it has "
                                                     f"{', '.join(sorted(properties)) or 'none'}; name the right one with {option}")
        kind, given = words(properties[self.type_key]), properties[self.status_key]
        states = tuple(map(words, given.split(",") if isinstance(given, str) else given if isinstance(given, list) else ()))
        if kind not in TYPES:
            raise Rejection("unknown type", f"{name}, feature {number}: {properties[self.type_key]!r}; allowed: {', '.join(TYPES)}")
        if len(states) != DATES or not set(states) <= set(STATUSES):
            raise Rejection("unknown status", f"{name}, feature {number}: {given!r}; allowed: {DATES} of {', '.join(STATUSES)}")
        return kind, states


def words(value: Any) -> str:
    """A type or status as TEOChat writes it: lower case, blanks."""
    return " ".join(str(value).lower().replace("_", " ").replace("-", " ").split())


def city(location: str) -> str:
    """The city of a location: its name without the numbers at its end."""
    return re.sub(r"[\s_.-]*\d+$", "", location) or location


def city_split(location: str) -> str:
    """Split of a location by its city, where the copy has no folders for splits."""
    part = int(hashlib.sha256(city(location).encode()).hexdigest(), 16) % 10
    return "train" if part < 7 else "val" if part < 9 else "test"


def _folder(root: Path, key: str) -> Path:
    split, _, location = key.partition("/")
    return root / split / location if (root / split).is_dir() else root / location


def _labelled(folder: Path) -> bool:
    return folder.is_dir() and any(path.suffix.lower() in LABELS for path in folder.iterdir())


def _label(folder: Path) -> Path:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in LABELS)
    if len(found) != 1:
        raise Rejection("broken annotation", f"{folder.name} has {len(found)} label files ({', '.join(path.name for path in found)}); "
                                             "expected one GeoJSON")
    return found[0]


def _images(folder: Path) -> list[tuple[str, Path]]:
    """Dates and files in time order.

    Raises:
        Rejection: There are not five of them, each with a date of its own in its name.
    """
    found = []
    for path in folder.iterdir():
        if path.suffix.lower() in IMAGES:
            match = _DATE.search(path.stem)
            if match is None:
                raise Rejection("missing date", f"{folder.name}/{path.name} has no date such as 2018-03-21 or 20180321 in its name")
            found.append(("-".join(match.groups()), path))
    if len({day for day, _ in found}) != DATES or len(found) != DATES:
        raise Rejection("missing image", f"{folder.name} has {len(found)} images of {len({day for day, _ in found})} dates; expected "
                                         f"{DATES} of {DATES}")
    return sorted(found)


def _read(folder: Path) -> tuple[ImageRecord, ...]:
    """The five images on one grid."""
    dated = _images(folder)
    try:
        return load_stack([str(path) for _, path in dated], [day for day, _ in dated]).images
    except InputError as error:
        raise Rejection("broken image", f"{folder.name}: {str(error).replace(str(folder), folder.name)}") from None


def _features(path: Path) -> list[dict[str, Any]]:
    label = load_json(path)
    features = label.get("features") if isinstance(label, dict) else None
    if not isinstance(features, list) or not all(isinstance(feature, dict) for feature in features):
        raise Rejection("broken annotation", f"{path.parent.name}/{path.name} is no FeatureCollection")
    return features


def _shape(geometry: Any, place: Georeference | None, image: ImageRecord) -> shapely.Polygon:
    """A GeoJSON geometry as a polygon in pixels, clipped to the image.

    Raises:
        InputError: With a short reason, when nothing of use is left.
    """
    try:
        shape = shapely.geometry.shape(geometry)
    except (shapely.errors.ShapelyError, AttributeError, KeyError, TypeError, ValueError, IndexError):
        raise InputError("unreadable geometry") from None
    if place is not None:
        shape = shapely.transform(shape, place.pixels)
        if not np.isfinite(shapely.get_coordinates(shape)).all():
            raise InputError("outside the projection")
    whole = shapely.make_valid(shape).intersection(shapely.box(0, 0, image.width, image.height))
    parts = [part for part in shapely.get_parts(whole).tolist() if isinstance(part, shapely.Polygon) and part.area > 0]
    if not parts:
        raise InputError("outside the image" if shape.area else "no area")
    if len(parts) > 1:
        raise InputError("several parts")
    return parts[0]


def _inside(shape: shapely.Polygon, window: Window) -> shapely.Polygon | None:
    """The part of a polygon that lies in a window, in its pixels; None where that is less than half of it or not one piece."""
    rows, columns = window
    part = shape.intersection(shapely.box(columns.start, rows.start, columns.stop, rows.stop))
    if not isinstance(part, shapely.Polygon) or part.area < shape.area / 2 or part.is_empty:
        return None
    return shapely.transform(part, lambda xy: xy - [columns.start, rows.start])


def _tile_samples(draft: Draft, sites: Sequence[tuple[Site, shapely.Polygon]]) -> Iterator[Sample]:
    """Type and states of a few sites of each type."""
    for kind in TYPES:
        same = [entry for entry in sites if entry[0].kind == kind]
        for number in sorted(random.Random(draft.id(kind)).sample(range(len(same)), min(PER_CLASS, len(same)))):
            site, shape = same[number]
            region = _region(shape, draft.images[-1])
            tag = f"region_vqa:type:{site.uid}"
            question = ask("region_vqa.development", draft.id(tag), kinds=", ".join(TYPES))
            yield draft.sample(tag, "region_vqa", question, kind, [unnamed(region)])
            yield from state_tasks(draft, site.uid, region, site.states, STATUSES, "site")


def _region(shape: shapely.Polygon, image: ImageRecord) -> Region:
    """A site on the latest image."""
    rings = [tuple((float(x), float(y)) for x, y, *_ in ring.coords[:-1]) for ring in (shape.exterior, *shape.interiors)]
    region = Region(DATES, Polygon(rings[0], tuple(rings[1:])))
    return replace(region, points=mask_points(rasterize(region.geometry, image.height, image.width)))
