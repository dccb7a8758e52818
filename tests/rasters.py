"""Rasters and STAC items that tests write: small, georeferenced, with the metadata that real products carry."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

UTM = (10.0, 0.0, 5e5, 0.0, -10.0, 5e6)


def write_tif(path: Path, array: npt.NDArray[Any], *, names: Sequence[str | None] = (), nodata: float | None = None,
              transform: Sequence[float] = UTM, crs: str | None = "EPSG:32633", tags: Mapping[str, str] | None = None,
              scale: tuple[float, float] | None = None) -> str:
    """A GeoTIFF of (bands, H, W), with band names, tags, and scale and offset tags of all bands."""
    import rasterio

    count, height, width = array.shape
    path.parent.mkdir(parents=True, exist_ok=True)
    place = {"crs": crs, "transform": rasterio.Affine(*transform)} if crs else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        out = rasterio.open(path, "w", driver="GTiff", width=width, height=height, count=count, dtype=array.dtype,
                            nodata=nodata, photometric="MINISBLACK", **place)
    with out:
        out.write(array)
        out.update_tags(**(tags or {}))
        for number, name in enumerate(names, 1):
            out.set_band_description(number, name)
        if scale:
            out.scales, out.offsets = (scale[0],) * count, (scale[1],) * count
    return str(path)


def write_item(file: str, properties: Mapping[str, Any], *, bands: Sequence[Mapping[str, Any]] = (), new: bool = False,
               collection: str | None = None, beside: str | None = None) -> None:
    """The STAC item of a file: STAC 1.0 (`eo:bands`, `raster:bands`) or, if `new`, STAC 1.1 (`bands`).

    `bands` holds name, common_name, scale and offset of each band; `beside` is the item's file name.
    """
    asset: dict[str, Any] = {"href": f"https://example.com/a/{Path(file).name}?sig=1", "roles": ["data"]}
    if new:
        prefix = {"common_name": "eo:common_name", "scale": "raster:scale", "offset": "raster:offset"}
        asset["bands"] = [{prefix.get(key, key): value for key, value in band.items()} for band in bands]
    elif bands:
        asset["eo:bands"] = [{key: band[key] for key in ("name", "common_name") if key in band} for band in bands]
        asset["raster:bands"] = [{key: band[key] for key in ("scale", "offset") if key in band} for band in bands]
    item = {"type": "Feature", "stac_version": "1.1.0" if new else "1.0.0", "id": "item", "geometry": None,
            "properties": dict(properties), "assets": {"visual": {"href": "other.tif"}, "data": asset}}
    if collection:
        item["collection"] = collection
    target = Path(file).with_name(beside) if beside else Path(f"{file}.json")
    target.write_text(json.dumps(item), encoding="utf-8")


def reflectance(bands: int, seed: int = 0, size: tuple[int, int] = (40, 50)) -> npt.NDArray[np.float64]:
    """Surface reflectance of a made-up scene, 0.02 to 0.5."""
    return np.random.default_rng(seed).uniform(0.02, 0.5, (bands, *size))
