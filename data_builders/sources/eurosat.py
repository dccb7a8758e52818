"""EuroSAT: ten kinds of land use in 27,000 Sentinel-2 images of 64 pixels at 10 m, as pictures or with all 13 bands.

```
2750/<Class>/<Class>_N.jpg                                                        bands=rgb
ds/images/remote_sensing/otherDatasets/sentinel_2/tif/<Class>/<Class>_N.tif       bands=ms; also tif/, EuroSATallBands/
```
The TIFFs hold uint16 top-of-atmosphere reflectance * 10000 of B01 to B12 with B8A last, which is not the order of
Sentinel-2 products. They become named views that share one acquisition. There is no official split.

Helber et al. 2019, "EuroSAT: A Novel Dataset and Deep Learning Benchmark for Land Use and Land Cover Classification",
IEEE JSTARS 12.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from geotempo.data_builders.schema import content_id
from geotempo.data_builders.source import Rejection, load_image
from geotempo.data_builders.sources.scene_folders import ListedScenes
from geotempo.model.bandplan import Spectral
from geotempo.model.errors import InputError
from geotempo.model.raster import load_stack
from geotempo.model.records import ImageRecord
from geotempo.model.views import view_named

BANDS = "B01,B02,B03,B04,B05,B06,B07,B08,B09,B10,B11,B12,B8A"
VIEWS = ("true colour", "false colour", "NDVI")
PLACES = {
    "rgb": ("2750", "EuroSAT/2750", "EuroSAT_RGB", ""),
    "ms": ("ds/images/remote_sensing/otherDatasets/sentinel_2/tif", "tif", "EuroSATallBands", "EuroSAT_MS", ""),
}


class EuroSat(ListedScenes):
    """EuroSAT.

    Args:
        bands: `rgb` for the JPEGs, `ms` for views of the 13 bands.
        views: Names of the views that `ms` shows, see `geotempo.model.views`.
        val_share: Share of each class that is val where the folders tell no split.
    """

    name = "eurosat"
    licence = "MIT; EuroSAT, contains modified Copernicus Sentinel data"
    citation = "Helber et al. 2019, EuroSAT, IEEE JSTARS 12"
    evidence = "documentation"
    classes = ("annual crop", "forest", "herbaceous vegetation", "highway", "industrial", "pasture", "permanent crop",
               "residential", "river", "sea lake")

    def __init__(self, bands: Literal["rgb", "ms"] = "rgb", views: tuple[str, ...] = VIEWS,
                 val_share: float = 0.2) -> None:
        super().__init__(val_share)
        if bands not in PLACES:
            raise InputError(f"bands is {bands!r}; allowed: {', '.join(PLACES)}")
        self.bands = bands
        self.views = tuple(view_named(view).name for view in views)

    @property
    def inside(self) -> tuple[str, ...]:  # type: ignore[override]
        """See `ClassFolders`."""
        return PLACES[self.bands]

    def images(self, path: Path) -> tuple[ImageRecord, ...]:
        """The picture, or the views of the bands."""
        if self.bands == "rgb":
            return (load_image(path, sensor="Sentinel-2", gsd=(10.0, 10.0)),)
        spectral = Spectral(views=self.views, products=("sentinel-2-l1c",), band_names=BANDS, offsets=(0,))
        try:
            stack = load_stack([str(path)], spectral=spectral)
        except InputError as error:
            name = f"{path.parent.name}/{path.name}"
            raise Rejection("unsupported image", str(error).replace(str(path), name)) from None
        return tuple(replace(image, id=content_id(image.encoded()), gsd=image.gsd or (10.0, 10.0))
                     for image in stack.images)
