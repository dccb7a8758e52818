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
from dataclasses import replace
from pathlib import Path

import shapely

from geotempo.data_builders.instances import mask_points
from geotempo.data_builders.label_states import state_tasks
from geotempo.data_builders.label_tasks import PER_CLASS, unnamed
from geotempo.data_builders.qfabric_labels import (
    DATES,
    STATUSES,
    TYPES,
    Site,
    dated_images,
    features,
    meaning,
    pixel_polygon,
    shown,
)
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Draft, FolderSource, Rejection, need_folder
from geotempo.data_builders.tiling import Tiles, check_tile
from geotempo.data_builders.wordings import ask
from geotempo.data_builders.xbd_labels import polygon_of
from geotempo.model.errors import InputError, LayoutError
from geotempo.model.geo import Georeference
from geotempo.model.geometry import rasterize
from geotempo.model.raster import load_stack
from geotempo.model.records import ImageRecord, Region

LABELS = (".geojson", ".json")
EXPECTED = f"[{{train,val,test}}/]<location>/ with {DATES} dated images and one GeoJSON"


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
            dated_images(folder)
            for number, feature in enumerate(features(_label(folder))):
                meaning(feature, f"{folder.name}, feature {number}", self.type_key, self.status_key)
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
        meta = {"scene": location, "city": city(location), "set_aside": dict(sorted(aside.items()))}
        tiles = Tiles(images, self.tile)
        for name, window in tiles:
            inside = [(site, shape) for site in sites if (shape := shown(site.shape, window)) is not None]
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
        for number, feature in enumerate(features(_label(folder))):
            kind, states = meaning(feature, f"{folder.name}, feature {number}", self.type_key, self.status_key)
            try:
                yield Site(str(number), pixel_polygon(feature.get("geometry"), place, image), kind, states)
            except InputError as error:
                aside[str(error)] += 1


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


def _read(folder: Path) -> tuple[ImageRecord, ...]:
    """The five images on one grid."""
    dated = dated_images(folder)
    try:
        return load_stack([str(path) for _, path in dated], [day for day, _ in dated]).images
    except InputError as error:
        raise Rejection("broken image", f"{folder.name}: {str(error).replace(str(folder), folder.name)}") from None


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
    region = Region(DATES, polygon_of(shape))
    return replace(region, points=mask_points(rasterize(region.geometry, image.height, image.width)))
