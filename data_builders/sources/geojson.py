"""The user's own dated GeoTIFFs with GeoJSON labels: tiles of each date, pairs and sequences, see `DatedRasters`.

The root holds GeoTIFFs (also in folders) and one GeoJSON file with polygons, which have a class and a date. A raster's
date stands in a STAC item beside it (`NAME.tif.json`), in its name (`2021-05-03`, `20210503`, `2021-05`, `2021`) or in
its tags. Labels are in longitude and latitude on WGS 84 (RFC 7946), or in the system of their `crs` member. Rasters
that show the same ground are one place, whatever their grids: they are laid on the latest one's. 8-bit colours stay as
they are; other values get one stretch for all dates. Needs the extra `[geo]`.
"""

from pathlib import Path
from typing import Any

from geotempo.data_builders.dated_rasters import DatedRasters
from geotempo.data_builders.geo_tiles import Dated, open_dated
from geotempo.data_builders.raster_dates import raster_date
from geotempo.model.errors import LayoutError
from geotempo.model.source import open_file

EXTENSIONS = (".tif", ".tiff", ".gtiff")
EXPECTED = "GeoTIFFs with dates, and one .geojson file with labels"


class GeoJson(DatedRasters):
    """Objects on each date, what came and went between consecutive dates, and when single objects appeared.

    Args:
        licence: Terms of the data, `ID; details`, or `unknown`; nobody else can say.
        labels: The GeoJSON file, absolute or below the root; empty takes the only one there.
        class_field: Property of the labels that holds their class.
        thing: One class of all labels, instead of `class_field`.
        date_field: Property with the date from which on an object can be seen; empty where labels hold on every image.
        end_field: Property with the date from which on it is gone.
        labels_crs: Coordinate reference system of the labels, where the file does not say it right.
        date_pattern: Regular expression for the rasters' names whose groups are year, month and day, or one date.
        tile: Longest side of a tile in pixels; 0 for whole rasters.
        overlap: Pixels that neighbouring tiles share.
        bands: Bands to show, as `geotempo predict --bands` takes them; empty takes red, green and blue.
        empty: Share, 0 to 1, of the tiles without labels that is kept.
        added: What happened to what came, for the questions ("buildings that were built").
        removed: What happened to what went.
        split: Split of all samples.
        val_share: Share, 0 to 1, of the places that goes to val; of the tiles where there is one place.
        dataset: Name of the data set in the samples.
    """

    name = "geojson"

    def __init__(self, date_pattern: str = "", **shared: Any) -> None:
        super().__init__(**shared)
        self.date_pattern = date_pattern

    def rasters(self, root: Path) -> list[Dated]:
        """All GeoTIFFs below the root."""
        files = sorted(path for path in root.rglob("*") if path.suffix.lower() in EXTENSIONS)
        if not files:
            raise LayoutError(f"{root} holds no GeoTIFF; {self.name} expects {EXPECTED}")
        return [
            open_dated(str(path), raster_date(path, open_file(str(path)).facts, self.date_pattern)) for path in files
        ]

    def label_file(self, root: Path) -> Path:
        """The file that is named, or the only one."""
        return find_labels(root, self.label_path)


def find_labels(root: Path, name: str) -> Path:
    """The GeoJSON file `name`, absolute, from the working folder or below the root; the only one where it is empty.

    Raises:
        LayoutError: It is missing, or it is not clear which one is meant.
    """
    if name:
        path = next((path for path in (Path(name), root / name) if path.is_file()), None)
        if path is None:
            raise LayoutError(f"labels={name} is no file, neither here nor below {root}")
        return path
    found = sorted(root.rglob("*.geojson"))
    if len(found) != 1:
        listed = ", ".join(path.name for path in found[:3]) or "none"
        raise LayoutError(
            f"{root} holds {len(found)} .geojson files ({listed}); say which one holds the labels with labels=FILE"
        )
    return found[0]
