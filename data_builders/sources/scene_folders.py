"""Scene classification: UC Merced, NWPU-RESISC45, AID, and any folder of folders, see `ClassFolders`.

| source | folders | images |
|---|---|---|
| nwpu-resisc45 | `<class>/<class>_001..700.jpg` | 31,500 in 45 classes, 256 pixels at 0.2 to 30 m |
| uc-merced | `Images/<class>/<class>00..99.tif` | 2,100 in 21 classes, 256 pixels (a few 253 or 255) at 0.3 m |
| aid | `<Class>/<class>_N.jpg` | 10,000 in 30 classes, 600 pixels at 0.5 to 8 m |
| scene-folders | `<class>/...` | whatever there is |

UC Merced's TIFFs become PNG without loss; airplane01 and airplane02 are one picture, which is stored once and never in
two splits. None has an official split. A folder that is none of a data set's classes is named and set aside.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from geotempo.data_builders.licences import licence_id
from geotempo.data_builders.scene_folders import ClassFolders, readable, same_name, subfolders
from geotempo.data_builders.source import load_image
from geotempo.model.records import ImageRecord


class ListedScenes(ClassFolders):
    """A data set whose classes are known; capitals, blanks, hyphens and underscores of folders do not matter."""

    version = 1
    evidence: ClassVar[Literal["real", "documentation"]] = "real"
    classes: ClassVar[tuple[str, ...]]
    gsd: ClassVar[float | None] = None

    def label(self, folder: str) -> str | None:
        """See `ClassFolders`."""
        return {same_name(label): label for label in self.classes}.get(same_name(folder))

    def named(self, root: Path) -> Sequence[str]:
        """See `ClassFolders`."""
        return sorted(self.classes)

    def images(self, path: Path) -> tuple[ImageRecord, ...]:
        """The picture itself."""
        return (load_image(path, gsd=(self.gsd, self.gsd) if self.gsd else None),)


class SceneFolders(ClassFolders):
    """Any folder of folders: the classes are the folders' names, as words in lower case.

    Args:
        licence: Terms of the images, `ID; details`; nobody else can say.
        dataset: Name of the data set in the samples.
        val_share: Share of each class that is val where the folders tell no split, 0 to below 1.
    """

    name = "scene-folders"
    version = 1
    licence = "unknown; the user says"
    citation = "the user's own data"
    evidence = "real"

    def __init__(self, licence: str = "unknown", dataset: str = "scene-folders", val_share: float = 0.2) -> None:
        super().__init__(val_share)
        licence_id(licence)
        self.licence = licence  # type: ignore[misc]  # here it is not the class that knows
        self.dataset = dataset
        self._named: dict[Path, list[str]] = {}

    def label(self, folder: str) -> str | None:
        """See `ClassFolders`."""
        return readable(folder)

    def named(self, root: Path) -> Sequence[str]:
        """See `ClassFolders`."""
        if root not in self._named:
            self._named[root] = sorted({readable(folder.name) for base in self.split_folders(root).values()
                                        for folder in subfolders(base)})
        return self._named[root]

    def images(self, path: Path) -> tuple[ImageRecord, ...]:
        """The picture itself."""
        return (load_image(path),)


class NwpuResisc45(ListedScenes):
    """NWPU-RESISC45."""

    name = "nwpu-resisc45"
    licence = "unknown; NWPU-RESISC45, imagery Google Earth"
    citation = "Cheng et al. 2017, Remote Sensing Image Scene Classification, Proc. IEEE 105"
    inside = ("NWPU-RESISC45", "")
    classes = (
        "airplane", "airport", "baseball diamond", "basketball court", "beach", "bridge", "chaparral", "church",
        "circular farmland", "cloud", "commercial area", "dense residential", "desert", "forest", "freeway",
        "golf course", "ground track field", "harbor", "industrial area", "intersection", "island", "lake",
        "meadow", "medium residential", "mobile home park", "mountain", "overpass", "palace", "parking lot",
        "railway", "railway station", "rectangular farmland", "river", "roundabout", "runway", "sea ice",
        "ship", "snowberg", "sparse residential", "stadium", "storage tank", "tennis court", "terrace",
        "thermal power station", "wetland",
    )


class UcMerced(ListedScenes):
    """UC Merced Land Use."""

    name = "uc-merced"
    licence = "public-domain; UC Merced Land Use, imagery USGS"
    citation = "Yang and Newsam 2010, Bag-Of-Visual-Words and Spatial Extensions for Land-Use Classification, ACM GIS"
    inside = ("UCMerced_LandUse/Images", "Images", "")
    gsd = 0.3
    classes = (
        "agricultural", "airplane", "baseball diamond", "beach", "buildings", "chaparral", "dense residential",
        "forest", "freeway", "golf course", "harbor", "intersection", "medium residential", "mobile home park",
        "overpass", "parking lot", "river", "runway", "sparse residential", "storage tanks", "tennis court",
    )


class Aid(ListedScenes):
    """AID."""

    name = "aid"
    licence = "unknown; AID, imagery Google Earth"
    citation = "Xia et al. 2017, AID: A Benchmark Data Set for Aerial Scene Classification, IEEE TGRS 55"
    evidence = "documentation"
    inside = ("AID", "")
    classes = (
        "airport", "bare land", "baseball field", "beach", "bridge", "center", "church", "commercial",
        "dense residential", "desert", "farmland", "forest", "industrial", "meadow", "medium residential",
        "mountain", "park", "parking", "playground", "pond", "port", "railway station", "resort", "river",
        "school", "sparse residential", "square", "stadium", "storage tanks", "viaduct",
    )
