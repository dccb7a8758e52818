"""Ida-BD: damage by hurricane Ida (2021) in the form of xBD, from masks.

```
images/AOI<n>-tile_<row>-<column>_{pre,post}_disaster.png      1024 pixels, 0.5 m
{masks,targets}/<same as the later image>[_target].png         0 background, 1 no-damage .. 4 destroyed
```
The names do not tell the event, and there are no splits: all tiles neighbour each other. That the scale is xBD's is assumed
(the copy that was described held 0 to 3); a mask with a higher number is set aside by name.

Kaur et al. 2022, "Ida-BD: pre- and post-disaster high-resolution satellite imagery for building damage assessment", DesignSafe-CI.
"""

from geotempo.data_builders.sources.xbd import SPLITS, Xbd
from geotempo.model.errors import InputError


class IdaBd(Xbd):
    """Damage of all buildings and of single ones, grounding of damage, counting, temporal reference.

    Args:
        split: Where all of it goes: neighbouring tiles of one event must not be parted.
        tile: Longest side of a sample's images in pixels; 0 keeps whole tiles of the data set.
    """

    name = "ida-bd"
    version = 1
    licence = "unknown; Ida-BD, imagery WorldView"
    citation = "Kaur et al. 2022, Ida-BD, DesignSafe-CI"
    evidence = "documentation"
    tasks = ("change_vqa", "change_grounding", "referring_segmentation", "damage", "counting", "temporal_referring")

    def __init__(self, split: str = "train", tile: int = 0) -> None:
        super().__init__(tile=tile)
        if split not in SPLITS.values():
            raise InputError(f"split is {split!r}; allowed: train, val, test")
        self.split = split

    def event(self, stem: str) -> str:
        """There is one."""
        return "hurricane-ida"

    def split_of(self, folder: str, stem: str) -> str:
        """That of the option, since there is no official one."""
        return self.split
