"""Image files opened but not yet shown: their grid, their bands, and the reading of bands onto a grid.

Plain 8-bit PNG, JPEG and WebP files are taken byte for byte. Everything else goes through GDAL (rasterio, extra
`[geo]`). A folder of single-band files of one acquisition is one source too (`geotempo.model.bandfolder`). No torch.
"""

import io
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from geotempo.model.display import Array
from geotempo.model.errors import InputError, MissingExtraError
from geotempo.model.geo import Georeference
from geotempo.model.geometry import BoolArray
from geotempo.model.metadata import BandFacts, Facts, facts_of

MAX_PIXELS = 100_000_000  # of one image; larger ones belong in tiles
_SAME_GRID_PX = 1e-3  # grids whose corners agree to this are one grid
_PLAIN = {"PNG", "JPEG", "WEBP", "MPO"}
_EIGHT_BIT = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}


@dataclass(frozen=True)
class Grid:
    """Size and place of a raster; `place` is None without a georeference."""

    width: int
    height: int
    place: Georeference | None

    def same_as(self, other: "Grid") -> bool:
        """Whether pixels of both grids cover the same ground."""
        if (self.width, self.height) != (other.width, other.height):
            return False
        if self.place is None or other.place is None:
            return self.place is other.place
        if self.place.crs != other.place.crs:
            return False
        a, b, c, d, e, f = (p - q for p, q in zip(self.place.transform, other.place.transform, strict=True))
        x, y = np.array([0, self.width, 0, self.width]), np.array([0, 0, self.height, self.height])
        ra, rb, _, rd, re, _ = other.place.transform
        u, v, det = a * x + b * y + c, d * x + e * y + f, ra * re - rb * rd
        off = np.hypot((re * u - rb * v) / det, (ra * v - rd * u) / det)
        return bool((off < _SAME_GRID_PX).all())


@dataclass(frozen=True)
class Layer:
    """One band of a source.

    Attributes:
        file: The file that holds it.
        number: Band number in that file, from 1.
        grid: Size and place of that file.
        name: Name that the file or its STAC item gives, else None.
        colour: Colour interpretation as GDAL names it ("red", "gray", "undefined", "alpha", "palette").
        dtype: Type of the values.
        said: What metadata say of it: STAC first, then GDAL's scale and offset tags and wavelength.
        palette: Colour table, where the values are indices.
    """

    file: str
    number: int
    grid: Grid
    name: str | None = None
    colour: str = "undefined"
    dtype: str = "uint8"
    said: BandFacts = field(default_factory=BandFacts)
    palette: Mapping[int, tuple[int, int, int, int]] | None = None


@dataclass(frozen=True)
class Source:
    """An image that was opened once: what it is, before its pixels are read.

    Attributes:
        path: As the user gave it.
        grid: Size and place.
        layers: Its bands, in the file's order, alpha among them.
        plain: The encoded bytes of a plain 8-bit image; None for what GDAL reads.
        facts: What is known besides the pixels.
        notes: What a user should know about this file.
    """

    path: str
    grid: Grid
    layers: tuple[Layer, ...]
    plain: bytes | None = None
    facts: Facts = field(default_factory=Facts)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pixels:
    """Bands of a source as they were read, all on one grid.

    Attributes:
        values: (H, W) of each layer that was read, by its index in `Source.layers`.
        masks: (H, W) of each of these layers, False where it holds no data.
        valid: (H, W), False where an alpha band says that there is nothing.
    """

    values: Mapping[int, Array]
    masks: Mapping[int, BoolArray]
    valid: BoolArray

    def seen(self, layers: Iterable[int]) -> BoolArray:
        """Pixels with data: not transparent, not nodata in all of some layers, finite in each of them."""
        chosen = list(dict.fromkeys(layers))
        seen: BoolArray = np.logical_or.reduce([self.masks[i] for i in chosen]) & self.valid
        for i in chosen:
            if np.issubdtype(self.values[i].dtype, np.floating):
                seen = seen & np.isfinite(self.values[i])
        return seen


def open_file(path: str) -> Source:
    """Open one file and say what it is.

    Raises:
        InputError: The file is missing, no image, too large, or has a georeference that cannot be used.
        MissingExtraError: The file needs GDAL and rasterio is not installed.
    """
    file = Path(path)
    plain = _open_plain(file) if file.is_file() else None
    if plain is not None:
        return plain
    with gdal(path) as rasterio, rasterio.open(path) as dataset:
        if dataset.count == 0:
            inside = ", ".join(dataset.subdatasets[:3]) or "nothing"
            raise InputError(f"{path!r} is a container, not one raster; give one of the rasters in it: {inside}")
        if any(np.issubdtype(np.dtype(kind), np.complexfloating) for kind in dataset.dtypes if kind != "complex_int16"):
            raise InputError(f"{path!r} holds complex values; convert it to amplitude first")
        grid, notes = _grid_of(rasterio, dataset, path)
        _check_size(path, grid.width, grid.height)
        facts = facts_of(path, dataset.tags())
        return Source(path, grid, tuple(_layers(dataset, path, grid, facts)), None, facts, notes)


def _layers(dataset: Any, path: str, grid: Grid, facts: Facts) -> Iterator[Layer]:
    """The bands of an open dataset."""
    fits = len(facts.bands) == dataset.count
    for i in range(dataset.count):
        said = facts.bands[i] if fits else BandFacts()
        scale, offset = dataset.scales[i], dataset.offsets[i]
        tagged = (scale, offset) if (scale, offset) != (1.0, 0.0) else (None, None)
        wavelength = said.wavelength or _micrometres(dataset.tags(i + 1, ns="IMAGERY").get("CENTRAL_WAVELENGTH_UM"))
        said = BandFacts(said.name, said.common, wavelength, tagged[0] if said.scale is None else said.scale,
                         tagged[1] if said.offset is None else said.offset)
        colour = dataset.colorinterp[i].name.lower()
        palette = dataset.colormap(i + 1) if colour == "palette" and dataset.dtypes[i] == "uint8" else None
        yield Layer(path, i + 1, grid, dataset.descriptions[i] or said.name, colour, dataset.dtypes[i], said, palette)


def _micrometres(text: str | None) -> float | None:
    """A wavelength of GDAL's IMAGERY metadata."""
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _open_plain(file: Path) -> Source | None:
    """A plain 8-bit PNG, JPEG or WebP file; None for anything else."""
    try:
        data = file.read_bytes() if file.stat().st_size else b""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            # Pillow logs an error for every TIFF of more than a few bands that it looks at.
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as picture:
                kind, mode, (width, height) = picture.format, picture.mode, picture.size
                if kind not in _PLAIN or mode not in _EIGHT_BIT:
                    return None
                _check_size(str(file), width, height)
                picture.load()
    except UnidentifiedImageError:
        return None
    except Image.DecompressionBombError:
        raise InputError(f"{str(file)!r} has more than {MAX_PIXELS // 10**6} million pixels; cut it into tiles") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{str(file)!r} is not a readable image ({error}); replace the file") from None
    grid, path = Grid(width, height, None), str(file)
    layers = tuple(Layer(path, i, grid, name, name) for i, name in enumerate(("red", "green", "blue"), 1))
    return Source(path, grid, layers, data)


def _check_size(path: str, width: int, height: int) -> None:
    """Refuse what would not fit in memory."""
    if width * height > MAX_PIXELS:
        raise InputError(f"{path!r} is {width} x {height}; at most {MAX_PIXELS // 10**6} million pixels are read at once: "
                         "cut it into tiles, e.g. with gdal_retile.py, or ask about a part (gdal_translate -srcwin)")


@contextmanager
def gdal(path: str) -> Iterator[Any]:
    """rasterio, with its errors about this file turned into `InputError`s."""
    try:
        import rasterio
        from rasterio._err import CPLE_BaseError
        from rasterio.errors import NotGeoreferencedWarning, RasterioError
    except ImportError:
        raise MissingExtraError("rasterio", "geo", f"reading {path!r}") from None
    try:
        with warnings.catch_warnings(), rasterio.Env():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            yield rasterio
    except (RasterioError, CPLE_BaseError, OSError) as error:
        if not Path(path).exists() and ":" not in path and not path.startswith("/vsi"):
            raise InputError(f"no such file: {path!r}; check the path") from None
        raise InputError(f"{path!r} is not a readable image ({_short(error)}); replace the file, or convert it with "
                         "gdal_translate") from None


def _short(error: Exception) -> str:
    """The deepest message of a GDAL error, cut to one line."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return " ".join(str(error).split())[:160]


def _grid_of(rasterio: Any, dataset: Any, path: str) -> tuple[Grid, tuple[str, ...]]:
    """Size and place of a dataset; ground control points are replaced by the regular grid they warp to."""
    gcps, gcp_crs = dataset.gcps
    placed = not dataset.transform.is_identity
    if dataset.crs and placed:
        place = Georeference(_crs_text(dataset.crs), tuple(dataset.transform)[:6])
        return Grid(dataset.width, dataset.height, place), ()
    if gcps and gcp_crs:
        with rasterio.vrt.WarpedVRT(dataset, src_crs=gcp_crs, crs=gcp_crs) as warped:
            place = Georeference(_crs_text(gcp_crs), tuple(warped.transform)[:6])
            grid = Grid(warped.width, warped.height, place)
        return grid, (f"{path} is placed by {len(gcps)} ground control points only; warped to a regular grid of "
                      + f"{grid.width} x {grid.height} pixels",)
    if gcps:
        raise InputError(f"{path!r} has ground control points without a coordinate system; assign one with "
                         "gdal_translate -a_srs EPSG:n")
    if dataset.rpcs is not None:
        raise InputError(f"{path!r} is placed only by rational polynomial coefficients (RPC), which need a height model; "
                         "orthorectify it first, e.g. gdalwarp -rpc -to RPC_DEM=dem.tif")
    note = (f"{path} has a geotransform but no coordinate system, so coordinates are pixels; assign one with "
            + "gdal_edit.py -a_srs EPSG:n",) if placed else ()
    return Grid(dataset.width, dataset.height, None), note


def _crs_text(crs: Any) -> str:
    """"EPSG:n" where that is exactly it, else WKT."""
    code = crs.to_epsg(confidence_threshold=100)
    return f"EPSG:{code}" if code else str(crs.to_wkt())


def read(source: Source, chosen: Iterable[int], grid: Grid, *, nearest: bool = False) -> Pixels:
    """Read bands onto a grid.

    Args:
        source: The image.
        chosen: Indices into `source.layers`.
        grid: Grid to read onto; where a layer lies on another one it is warped.
        nearest: Take the nearest value (classes) instead of the bilinear mean.

    Raises:
        InputError: The file cannot be read.
    """
    wanted = sorted(set(chosen))
    if source.plain is not None:
        return _read_plain(source.plain, wanted)
    values: dict[int, Array] = {}
    masks: dict[int, BoolArray] = {}
    valid = np.ones((grid.height, grid.width), dtype=np.bool_)
    for file in dict.fromkeys(source.layers[i].file for i in wanted):
        mine = [i for i in wanted if source.layers[i].file == file]
        own = source.layers[mine[0]].grid
        onto = None if own.same_as(grid) else grid
        with gdal(file) as rasterio, rasterio.open(file) as dataset:
            options = _warp_options(rasterio, dataset, onto, nearest)
            if options is None:
                valid &= _read_open(dataset, source, mine, values, masks)
            else:
                with rasterio.vrt.WarpedVRT(dataset, **options) as warped:
                    valid &= _read_open(warped, source, mine, values, masks)
    return Pixels(values, masks, valid)


def _read_open(dataset: Any, source: Source, mine: Sequence[int], values: dict[int, Array],
               masks: dict[int, BoolArray]) -> BoolArray:
    """Put the layers of one open dataset into `values` and `masks`; gives what its alpha bands leave."""
    for i in mine:
        number = source.layers[i].number
        values[i], masks[i] = dataset.read(number), dataset.read_masks(number) > 0
    valid = np.ones((dataset.height, dataset.width), dtype=np.bool_)
    for number, colour in enumerate(dataset.colorinterp, 1):
        if colour.name == "alpha":  # GDAL's masks heed alpha only as band 2 of 2 or 4 of 4
            valid &= dataset.read(number) > 0
    return valid


def _warp_options(rasterio: Any, dataset: Any, onto: Grid | None, nearest: bool) -> dict[str, Any] | None:
    """Arguments of `WarpedVRT`; None where the pixels are read as they lie."""
    gcps, gcp_crs = dataset.gcps
    by_gcps = bool(gcps and gcp_crs and not (dataset.crs and not dataset.transform.is_identity))
    if onto is None and not by_gcps:
        return None
    classes = nearest or any(colour.name == "palette" for colour in dataset.colorinterp)
    alpha = any(colour.name == "alpha" for colour in dataset.colorinterp)
    method = rasterio.enums.Resampling.nearest if classes else rasterio.enums.Resampling.bilinear
    options: dict[str, Any] = {"resampling": method, "add_alpha": not alpha and dataset.nodata is None}
    if by_gcps:
        options |= {"src_crs": gcp_crs, "crs": gcp_crs}
    if onto is not None and onto.place is not None:
        options |= {"crs": onto.place.crs, "transform": rasterio.Affine(*onto.place.transform),
                    "width": onto.width, "height": onto.height}
    return options


def _read_plain(data: bytes, wanted: Sequence[int]) -> Pixels:
    """Values of a plain image as red, green, blue; transparent pixels hold no data."""
    with Image.open(io.BytesIO(data)) as picture:
        whole = picture.convert("RGBA") if "A" in picture.getbands() or "transparency" in picture.info else None
        rgb = np.asarray((whole or picture).convert("RGB"))
    valid = np.asarray(whole)[..., 3] > 0 if whole else np.ones(rgb.shape[:2], dtype=np.bool_)
    return Pixels({i: rgb[..., i] for i in wanted}, dict.fromkeys(wanted, valid), valid)
