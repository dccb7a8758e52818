"""Read image files of any kind into `ImageRecord`s: bands chosen, one stretch for the sequence, one grid.

Plain 8-bit PNG, JPEG and WebP files are taken byte for byte. Everything else goes through GDAL (rasterio, extra
`[geo]`): bands are chosen by name or colour interpretation, values become 8-bit by one stretch stated for the whole
sequence, and georeferenced images on different grids are warped onto the reference grid. No torch.
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from geotempo.model.dates import AcquisitionDate
from geotempo.model.display import Array, BandTable, Stretch, choose_bands, find_stretch
from geotempo.model.errors import InputError, MissingExtraError
from geotempo.model.geo import Georeference
from geotempo.model.geometry import BoolArray, Mask
from geotempo.model.records import ImageRecord, Transform, time_order

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
class Source:
    """An image file that was opened once: what it is, before its pixels are read.

    Attributes:
        path: As the user gave it.
        grid: Size and place.
        plain: The encoded bytes of a plain 8-bit image; None for what GDAL reads.
        notes: What a user should know about this file.
    """

    path: str
    grid: Grid
    plain: bytes | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stack:
    """A sequence ready to be asked about, in the order in which the user gave it.

    Attributes:
        images: All of one size; on one grid where they are georeferenced.
        files: The path of each.
        grid: The common size and place.
        bands: Names of the bands shown, per image.
        stretch: How values became 8 bits.
        notes: What was done to the images, one sentence each.
    """

    images: tuple[ImageRecord, ...]
    files: tuple[str, ...]
    grid: Grid
    bands: tuple[tuple[str, ...], ...]
    stretch: Stretch
    notes: tuple[str, ...] = ()


def load_stack(files: Sequence[str], dates: Sequence[str] = (), *, bands: str | None = None,
               stretch: str | None = None, reference: str | None = None) -> Stack:
    """Read a sequence of image files.

    Args:
        files: One or more paths, or names that GDAL opens.
        dates: One date per file, or none.
        bands: Bands to show, see `choose_bands`.
        stretch: Stretch, see `find_stretch`.
        reference: The file whose grid the others are warped onto; the latest one by default.

    Returns:
        The sequence in the order given.

    Raises:
        InputError: A file cannot be read, the dates do not fit, or the images cannot be laid on each other.
        MissingExtraError: A file needs GDAL and rasterio is not installed.
    """
    days = _dates(files, dates)
    sources = [open_source(file) for file in files]
    chief = _reference(sources, days, reference)
    _check_together(sources)
    notes = [note for source in sources for note in source.notes]
    read = []
    for source in sources:
        warp = source.grid.place is not None and not source.grid.same_as(chief.grid)
        if warp:
            notes.append(f"{source.path} was warped onto the grid of {chief.path} (bilinear)")
        read.append(_read(source, chief.grid if warp else None, bands))
    values = [(array, valid) for array, valid, _ in read]
    shown = find_stretch(values, stretch, files)
    grid, names = chief.grid, tuple(labels for *_, labels in read)
    images = tuple(_record(source, day, grid, item, shown) for source, day, item in zip(sources, days, read, strict=True))
    return Stack(images, tuple(files), grid, names, shown, tuple(notes))


def open_source(path: str) -> Source:
    """Open one file and say what it is.

    Raises:
        InputError: The file is missing, no image, too large, or has a georeference that cannot be used.
    """
    file = Path(path)
    if file.is_dir():
        raise InputError(f"{path!r} is a folder; give the image files in it")
    plain = _open_plain(file) if file.is_file() else None
    if plain is not None:
        return plain
    with _gdal(path) as rasterio, rasterio.open(path) as dataset:
        if dataset.count == 0:
            inside = ", ".join(dataset.subdatasets[:3]) or "nothing"
            raise InputError(f"{path!r} is a container, not one raster; give one of the rasters in it: {inside}")
        if any(np.issubdtype(np.dtype(kind), np.complexfloating) for kind in dataset.dtypes if kind != "complex_int16"):
            raise InputError(f"{path!r} holds complex values; convert it to amplitude first")
        grid, notes = _grid_of(rasterio, dataset, path)
        _check_size(path, grid.width, grid.height)
        return Source(path, grid, None, notes)


def _open_plain(file: Path) -> Source | None:
    """A plain 8-bit PNG, JPEG or WebP file; None for anything else."""
    try:
        data = file.read_bytes() if file.stat().st_size else b""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as picture:
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
    return Source(str(file), Grid(width, height, None), data)


def _check_size(path: str, width: int, height: int) -> None:
    """Refuse what would not fit in memory."""
    if width * height > MAX_PIXELS:
        raise InputError(f"{path!r} is {width} x {height}; at most {MAX_PIXELS // 10**6} million pixels are read at once: "
                         "cut it into tiles, e.g. with gdal_retile.py, or ask about a part (gdal_translate -srcwin)")


@contextmanager
def _gdal(path: str) -> Iterator[Any]:
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


def _dates(files: Sequence[str], dates: Sequence[str]) -> list[AcquisitionDate | None]:
    """One date per file, or none at all."""
    if not files:
        raise InputError("no image was given; give one or more image files")
    if dates and len(dates) != len(files):
        raise InputError(f"{len(files)} images and {len(dates)} dates were given; give --date once for each image, "
                         "in the same order, or not at all")
    return [AcquisitionDate(text) for text in dates] if dates else [None] * len(files)


def _reference(sources: Sequence[Source], days: Sequence[AcquisitionDate | None], wanted: str | None) -> Source:
    """The file whose grid all share: the one asked for, or the latest."""
    if wanted is not None:
        for source in sources:
            if source.path == wanted or Path(source.path) == Path(wanted):
                return source
        raise InputError(f"--reference {wanted!r} is none of the images; give one of them")
    stand_ins = [ImageRecord(s.path, s.grid.width, s.grid.height, path=s.path, date=day)
                 for s, day in zip(sources, days, strict=True)]
    return sources[time_order(stand_ins).order[-1]]


def _check_together(sources: Sequence[Source]) -> None:
    """Refuse images that cannot be laid on each other."""
    first = sources[0]
    for other in sources[1:]:
        if (first.grid.place is None) != (other.grid.place is None):
            bare = first if first.grid.place is None else other
            raise InputError(f"{bare.path!r} has no georeference while another image has one; georeference it too, or "
                             "give all of them as plain images")
        a, b = first.grid, other.grid
        if a.place is None and (a.width, a.height) != (b.width, b.height):
            raise InputError(f"{first.path!r} is {a.width} x {a.height} and {other.path!r} is {b.width} x {b.height}; images "
                             "without georeference must be of one size: crop or resize them to the same ground")


def _read(source: Source, onto: Grid | None, bands: str | None) -> tuple[Array, BoolArray, tuple[str, ...]]:
    """Values (bands, H, W), valid pixels (H, W) and band names of a source, warped onto a grid if one is given."""
    if source.plain is not None:
        return _read_plain(source.path, source.plain, bands)
    with _gdal(source.path) as rasterio, rasterio.open(source.path) as dataset:
        names = tuple(name or None for name in dataset.descriptions)
        table = BandTable(source.path, names, tuple(c.name.lower() for c in dataset.colorinterp))
        numbers = choose_bands(table, bands)
        warp = _warp_options(rasterio, dataset, onto)
        if warp is None:
            array, valid = _values(dataset, numbers)
        else:
            with rasterio.vrt.WarpedVRT(dataset, **warp) as warped:
                array, valid = _values(warped, numbers)
        if onto is not None and not valid.any():
            raise InputError(f"{source.path!r} does not overlap the reference image; leave it out or choose another "
                             "--reference")
        if len(numbers) == 1 and dataset.colorinterp[numbers[0] - 1].name == "palette" and array.dtype == np.uint8:
            return _coloured(array[0], dataset.colormap(numbers[0])), valid, ("palette",) * 3
        return array, valid, tuple(table.label(number) for number in numbers)


def _warp_options(rasterio: Any, dataset: Any, onto: Grid | None) -> dict[str, Any] | None:
    """Arguments of `WarpedVRT`; None where the pixels are read as they lie."""
    gcps, gcp_crs = dataset.gcps
    by_gcps = bool(gcps and gcp_crs and not (dataset.crs and not dataset.transform.is_identity))
    if onto is None and not by_gcps:
        return None
    palette = any(colour.name == "palette" for colour in dataset.colorinterp)
    alpha = any(colour.name == "alpha" for colour in dataset.colorinterp)
    method = rasterio.enums.Resampling.nearest if palette else rasterio.enums.Resampling.bilinear
    options: dict[str, Any] = {"resampling": method, "add_alpha": not alpha and dataset.nodata is None}
    if by_gcps:
        options |= {"src_crs": gcp_crs, "crs": gcp_crs}
    if onto is not None and onto.place is not None:
        options |= {"crs": onto.place.crs, "transform": rasterio.Affine(*onto.place.transform),
                    "width": onto.width, "height": onto.height}
    return options


def _values(dataset: Any, numbers: Sequence[int]) -> tuple[Array, BoolArray]:
    """Bands of a dataset, and its pixels with data: not alpha 0, not nodata in all of the bands, no NaN."""
    array = dataset.read(list(numbers))
    valid = np.zeros(array.shape[1:], dtype=np.bool_)
    for number in dict.fromkeys(numbers):
        valid |= dataset.read_masks(number) > 0
    for number, colour in enumerate(dataset.colorinterp, 1):
        if colour.name == "alpha":  # GDAL's masks heed alpha only as band 2 of 2 or 4 of 4
            valid &= dataset.read(number) > 0
    if np.issubdtype(array.dtype, np.floating):
        valid &= np.isfinite(array).all(axis=0)
    return array, valid


def _coloured(indices: Array, colours: dict[int, tuple[int, int, int, int]]) -> Array:
    """Palette indices (H, W) as (3, H, W) of uint8."""
    table = np.zeros((256, 3), dtype=np.uint8)
    for index, colour in colours.items():
        table[index] = colour[:3]
    return np.moveaxis(table[indices], -1, 0)


def _read_plain(path: str, data: bytes, bands: str | None) -> tuple[Array, BoolArray, tuple[str, ...]]:
    """Values of a plain image as red, green, blue; transparent pixels hold no data."""
    with Image.open(io.BytesIO(data)) as picture:
        whole = picture.convert("RGBA") if "A" in picture.getbands() or "transparency" in picture.info else None
        rgb = np.moveaxis(np.asarray((whole or picture).convert("RGB")), -1, 0)
    valid = np.asarray(whole)[..., 3] > 0 if whole else np.ones(rgb.shape[1:], dtype=np.bool_)
    names = ("red", "green", "blue")
    numbers = choose_bands(BandTable(path, names, names), bands)
    return rgb[[number - 1 for number in numbers]], valid, tuple(names[number - 1] for number in numbers)


def _record(source: Source, day: AcquisitionDate | None, grid: Grid,
            read: tuple[Array, BoolArray, tuple[str, ...]], stretch: Stretch) -> ImageRecord:
    """The record of an image that was read: original bytes where nothing was done to them, else a lossless PNG."""
    array, valid, names = read
    data = source.plain
    if data is None or stretch.method != "none" or names != ("red", "green", "blue"):
        data = _png(stretch.apply(array, valid))
    place = grid.place
    height, width = valid.shape
    return ImageRecord(
        id=source.path, width=width, height=height, data=data, date=day,
        gsd=place.gsd(width, height) if place else None, bands=names, crs=place.crs if place else None,
        transform=_six(place.transform) if place else None,
        valid=None if valid.all() else Mask.from_array(valid),
    )


def _six(values: Sequence[float]) -> Transform:
    """Six numbers as plain floats."""
    a, b, c, d, e, f = (float(value) for value in values)
    return a, b, c, d, e, f


def _png(channels: Array) -> bytes:
    """(1 or 3, H, W) of uint8 as a PNG in mode RGB."""
    rgb = np.moveaxis(np.broadcast_to(channels, (3, *channels.shape[1:])), 0, -1)
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(out, format="PNG")
    return out.getvalue()
