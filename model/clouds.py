"""Pixels that show no ground: clouds and their shadows, from a quality layer or from a mask of the user. No torch.

| layer | cloud | no data |
|---|---|---|
| Sentinel-2 scene classification (SCL) | 3 cloud shadow, 8, 9 cloud, 10 thin cirrus | 0 no data, 1 saturated or defective |
| Landsat Collection 2 QA_PIXEL | bits 1 dilated cloud, 2 cirrus, 3 cloud, 4 cloud shadow | bit 0 fill |
| mask file (`--cloud-mask`) | any value but 0 | - |

Sources: Sentinel-2 Level-2A Algorithm Theoretical Basis Document (scene classification); USGS Landsat Collection 2
Quality Assessment Bands.
"""

from pathlib import Path

import numpy as np

from geotempo.model.bandfolder import band_in
from geotempo.model.bands import QUALITY, Role
from geotempo.model.display import Array
from geotempo.model.errors import InputError
from geotempo.model.geometry import BoolArray
from geotempo.model.source import Grid, Source, open_file, read

_SCL_CLOUD, _SCL_EMPTY = (3, 8, 9, 10), (0, 1)
_QA_CLOUD, _QA_EMPTY = 0b11110, 0b1


def clouds_of(role: Role | None, values: Array) -> tuple[BoolArray, BoolArray]:
    """(cloud, no data), each (H, W), of a quality layer.

    Args:
        role: "scl", "qa_pixel", or None for a mask in which any value but 0 is cloud.
        values: (H, W) of the layer, whole numbers.
    """
    if role == "scl":
        return np.isin(values, _SCL_CLOUD), np.isin(values, _SCL_EMPTY)
    if role == "qa_pixel":
        bits = values.astype(np.int64)
        return (bits & _QA_CLOUD) > 0, (bits & _QA_EMPTY) > 0
    return values != 0, np.zeros(values.shape, dtype=np.bool_)


def own_clouds(source: Source, roles: tuple[Role | None, ...], grid: Grid) -> tuple[BoolArray, BoolArray] | None:
    """(cloud, no data) on a grid from the image's own quality layer; None where it has none."""
    layers = [i for i, role in enumerate(roles) if role in QUALITY]
    if not layers:
        return None
    pixels = read(source, layers[:1], grid, nearest=True)
    values = pixels.values[layers[0]]
    cloud, empty = clouds_of(roles[layers[0]], values)
    there = pixels.seen(layers[:1])  # beyond the layer's rim nothing is said
    return cloud & there, empty & there


def file_clouds(path: str, image: Source, grid: Grid) -> tuple[BoolArray, BoolArray]:
    """(cloud, no data) on a grid from a mask file, an SCL or a QA_PIXEL file (by its name).

    Raises:
        InputError: The file cannot be read, has several bands, or cannot be laid on the image.
    """
    mask = open_file(path)
    bands = [i for i, layer in enumerate(mask.layers) if layer.colour != "alpha"]
    if mask.plain is None and len(bands) != 1:
        raise InputError(f"--cloud-mask {path!r} has {len(bands)} bands; give a file with one, in which any value but 0 is "
                         "cloud")
    placed = mask.grid.place is not None and grid.place is not None
    if not placed and (mask.grid.width, mask.grid.height) != (grid.width, grid.height):
        raise InputError(f"--cloud-mask {path!r} is {mask.grid.width} x {mask.grid.height} and {image.path!r} is "
                         f"{grid.width} x {grid.height}; without georeference both must be of one size")
    onto = grid if placed else mask.grid
    pixels = read(mask, bands, onto, nearest=True)
    role = (band_in(Path(path).stem) or "").lower()
    cloud, empty = clouds_of(role if role in QUALITY else None, np.maximum.reduce([pixels.values[i] for i in bands]))
    there = pixels.seen(bands)
    if placed and not there.any():
        raise InputError(f"--cloud-mask {path!r} does not overlap {image.path!r}; give the mask of that image")
    return cloud & there, empty & there
