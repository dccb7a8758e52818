"""A scene as georeferenced files: one GeoTIFF per date, named by the date.

The demo's sequence was written by it:

    python -m geotempo.data_builders.scenes.export --seed 77 --index 3 --dates 4 --easy serve/demo_data
"""

import argparse
from pathlib import Path

from geotempo.data_builders.scenes.scene import EASY, Scene, SceneOptions
from geotempo.data_builders.scenes.world import generate
from geotempo.model.errors import InputError, MissingExtraError


def write_geotiffs(scene: Scene, folder: Path, *, crs: str = "EPSG:32632", corner: tuple[float, float] = (500000.0, 5300000.0)
                   ) -> list[Path]:
    """Write every date of a scene as an 8-bit RGB GeoTIFF.

    Args:
        scene: Any scene.
        folder: Existing folder.
        crs: A projected reference system in metres; the place is made up.
        corner: Easting and northing of the outer corner of the top-left pixel.

    Returns:
        The files in time order, named `<date>.tif`.

    Raises:
        InputError: Two images have the same date, or a date that makes no file name.
    """
    try:
        import rasterio
        from rasterio.transform import from_origin
    except ImportError:
        raise MissingExtraError("rasterio", "geo", "writing GeoTIFFs") from None
    names = [str(date).replace("/", "_").replace(":", "") for date in scene.dates]
    if len(set(names)) != len(names):
        raise InputError(f"scene {scene.index} has two images of one date; take another")
    paths = []
    for name, pixels in zip(names, scene.images, strict=True):
        path = folder / f"{name}.tif"
        profile = {"driver": "GTiff", "width": scene.size, "height": scene.size, "count": 3, "dtype": "uint8", "crs": crs,
                   "transform": from_origin(*corner, scene.gsd, scene.gsd), "compress": "deflate", "predictor": 2,
                   "photometric": "RGB"}
        with rasterio.open(path, "w", **profile) as file:
            file.write(pixels.transpose(2, 0, 1))
        paths.append(path)
    return paths


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description="Write a procedural scene as GeoTIFFs.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--index", type=int, default=0)
    parser.add_argument("--dates", type=int, default=2)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--easy", action="store_true")
    args = parser.parse_args()
    options = EASY if args.easy else SceneOptions()
    args.folder.mkdir(parents=True, exist_ok=True)
    for path in write_geotiffs(generate(args.seed, args.index, size=args.size, dates=args.dates, options=options), args.folder):
        print(path)


if __name__ == "__main__":
    main()
