"""LEVIR-CD: building change masks. Split folders with 1024-pixel tiles, or the widespread 256-pixel crops.

```
{train,val,test}/{A,B,label}/<name>.png        tiles
{A,B,label}/<name>.png [list/{train,val,test}.txt]   crops; without lists the split is the name's first word
[LEVIR_CD_name_coords.json]                    longitude and latitude of the tiles' corners, from STANet's repository
```
A crop is named `<split>_<tile>_<row>_<column>`, row first, in pixels of the tile; all crops of a tile are one scene.

Chen and Shi 2020, "A Spatial-Temporal Attention-Based Method and a New Dataset for Remote Sensing Image Change
Detection", Remote Sensing 12(10).
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

from geotempo.data_builders import levir
from geotempo.data_builders.change_masks import ChangeMasks, PairLayout
from geotempo.data_builders.source import Rejection, load_json
from geotempo.data_builders.tiling import Window
from geotempo.model.errors import LayoutError

TILE = 1024  # pixels of a tile's side
COORDINATES = "LEVIR_CD_name_coords.json"
_CROP = re.compile(r"(?P<tile>.+_\d+)_(?P<row>\d{4})_(?P<column>\d{4})")


class LevirCd(ChangeMasks):
    """Yes/no, counting, grounding and masks of changed buildings."""

    name = "levir-cd"
    version = 2  # samples name their scene, so that crops of one tile are not held to be apart
    licence = levir.LICENCE
    citation = "Chen and Shi 2020, LEVIR-CD, Remote Sensing 12(10)"
    evidence = "real"
    labels = ("building",)
    layout = PairLayout(("A", "B", "label"), "building", "building", split_in_name=True)

    def check_layout(self, root: Path) -> None:
        """See `Source`."""
        super().check_layout(root)
        _coordinates(root)

    def facts(self, root: Path, stem: str, window: Window) -> dict[str, Any]:
        """The tile as the scene; its footprint, or that of the crop, where the coordinates are there."""
        match = _CROP.fullmatch(stem)
        tile, row, column = (match["tile"], int(match["row"]), int(match["column"])) if match else (stem, 0, 0)
        corners = _coordinates(root).get(f"{tile}.png")
        if corners is None:
            return {"scene": tile}
        left, top, right, bottom = corners
        rows, columns = ([(start + edge) / TILE for edge in (side.start, side.stop)]
                         for start, side in zip((row, column), window, strict=True))
        west, east = (left + part * (right - left) for part in columns)
        north, south = (top + part * (bottom - top) for part in rows)
        return {"scene": tile, "footprint": [west, south, east, north]}


def _coordinates(root: Path) -> dict[str, list[float]]:
    """By tile: longitude of the left edge, latitude of the top, longitude of the right, latitude of the bottom.

    Raises:
        LayoutError: The file has another structure.
    """
    path = root / COORDINATES
    return _read_coordinates(path, path.stat().st_mtime_ns) if path.is_file() else {}


@cache
def _read_coordinates(path: Path, changed: int) -> dict[str, list[float]]:
    """`_coordinates` of a file; `changed` is when it was last written, so that a new file is read anew."""
    try:
        found = {str(name): [float(value) for value in corners] for name, corners in load_json(path).items()}
    except (Rejection, AttributeError, TypeError, ValueError) as error:
        raise LayoutError(f"{path} has no coordinates ({error!r}); expected a JSON object of four numbers by image name") from None
    odd = next((name for name, corners in found.items()
                if len(corners) != 4 or corners[0] >= corners[2] or corners[3] >= corners[1]), None)
    if odd is not None:
        raise LayoutError(f"{path}: {odd} has the corners {found[odd]}; expected [left, top, right, bottom] in degrees, "
                          "left below right and bottom below top")
    return found
