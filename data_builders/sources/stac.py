"""A local STAC catalogue as time series with labels, see `DatedRasters`.

The root is a folder with `catalog.json` or `collection.json` whose links lead to item files, or a folder of item files,
of STAC 1.0 or 1.1. Items of one collection that show the same ground are one place; each gives one raster (`visual`,
else the asset with data, else the folder of its red, green and blue). Its date is `datetime`, else the interval of
`start_datetime` and `end_datetime`.

A catalogue describes images and answers no question, so labels are needed: an item of the label extension with a
GeoJSON asset, or any GeoJSON file by the option `labels`. Without them nothing is made up: the build is refused. Needs
the extra `[geo]`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from geotempo.data_builders.dated_rasters import DatedRasters, Fault, LeftOut
from geotempo.data_builders.geo_labels import LabelFields
from geotempo.data_builders.geo_tiles import Dated, open_dated
from geotempo.data_builders.raster_dates import stac_date
from geotempo.data_builders.sources.geojson import find_labels
from geotempo.data_builders.stac_items import NoRaster, StacItem, label_assets, raster_of, read_catalogue
from geotempo.model.errors import InputError, LayoutError


class Stac(DatedRasters):
    """Tiles of a STAC catalogue's time series with GeoJSON labels.

    Args:
        asset: Key of the asset to take of each item; empty lets roles and bands tell.
        max_cloud: Items with a higher `eo:cloud_cover`, in percent, are left out.
        **others: As of the source `geojson`; `labels` empty takes the label item of the catalogue, and `class_field`
            empty the first of its `label:properties`.
    """

    name = "stac"

    def __init__(self, class_field: str = "", asset: str = "", max_cloud: float = 100.0, **shared: Any) -> None:
        super().__init__(class_field=class_field or "class", **shared)
        if not 0 <= max_cloud <= 100:
            raise InputError(f"max_cloud is {max_cloud:g}; give a percentage, 0 to 100")
        self.asset, self.max_cloud, self.by_item = asset, max_cloud, not class_field and not shared.get("thing")
        self._sorted: dict[Path, tuple[list[Dated], list[tuple[str, Fault | LeftOut]]]] = {}

    def rasters(self, root: Path) -> list[Dated]:
        """The rasters of all items that can be used."""
        found, others = self._items(root)
        if not found:
            first = next(
                (f"{name}: {why.detail}" for name, why in others if isinstance(why, Fault)),
                f"all have more cloud than {self.max_cloud:g} %",
            )
            raise LayoutError(f"no item of {root} can be used ({first})")
        return found

    def others(self, root: Path) -> Iterator[tuple[str, Fault | LeftOut]]:
        """Items without date or raster, and cloudy ones."""
        return iter(self._items(root)[1])

    def label_file(self, root: Path) -> Path:
        """The file that is named, or the one of the catalogue's label item."""
        if self.label_path:
            return find_labels(root if root.is_dir() else root.parent, self.label_path)
        found = label_assets(read_catalogue(root))
        if not found:
            raise LayoutError(
                f"{root} holds images and no labels, and a sample needs an answer; give polygons with a class and a "
                "date with labels=FILE.geojson, or ask a model about the images with `geotempo predict`"
            )
        if len(found) > 1:
            raise LayoutError(
                f"{root} holds {len(found)} label files ({', '.join(path.name for _, path in found[:3])}); say which "
                "with labels=FILE"
            )
        item, path = found[0]
        named = item.properties.get("label:properties")
        if self.by_item and isinstance(named, list) and named:
            self.fields = LabelFields(str(named[0]), self.fields.start, self.fields.end, self.fields.crs)
        return path

    def _items(self, root: Path) -> tuple[list[Dated], list[tuple[str, Fault | LeftOut]]]:
        """Rasters, and items that are none."""
        if root not in self._sorted:
            found: list[Dated] = []
            others: list[tuple[str, Fault | LeftOut]] = []
            items = read_catalogue(root)
            labelled = {item.file for item, _ in label_assets(items)}
            for item in items:
                if item.file in labelled:
                    continue
                cloud: Any = item.properties.get("eo:cloud_cover")
                if isinstance(cloud, int | float) and cloud > self.max_cloud:
                    others.append((item.id, LeftOut("items with too much cloud")))
                    continue
                try:
                    found.append(_dated(item, self.asset))
                except NoRaster as error:
                    others.append((item.id, Fault(error.reason, str(error))))
                except InputError as error:
                    others.append((item.id, Fault("unusable raster", str(error))))
            self._sorted[root] = found, others
        return self._sorted[root]


def _dated(item: StacItem, asset: str) -> Dated:
    """The raster of an item.

    Raises:
        NoRaster: It has no date, or no raster.
        InputError: The raster cannot be read, or has no georeference.
    """
    date = stac_date(item.properties)
    if date is None:
        raise NoRaster("no date", f"{item.id} has neither datetime nor start_datetime and end_datetime")
    return open_dated(str(raster_of(item, asset)), date, item.id.replace("/", "_").replace("#", "_"), item.collection)
