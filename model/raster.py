"""Read image files of any kind into `ImageRecord`s: bands or named views, one stretch for the sequence, one grid.

Each file is opened (`geotempo.model.source`), its bands are identified and the views or bands to show are chosen
(`bandplan`, `products`, `views`), the bands are read onto the reference grid and calibrated (`radiometry`), and each view
becomes 8 bits by one stretch for all dates. Clouds stay visible but count neither in percentiles nor as assessable
(`clouds`). No torch.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from geotempo.model.bandfolder import open_folder
from geotempo.model.bandplan import Known, Shot, Spectral, each, know, narrowed, plan
from geotempo.model.clouds import file_clouds, own_clouds
from geotempo.model.dates import AcquisitionDate
from geotempo.model.display import Array, Stretch, find_stretch
from geotempo.model.errors import InputError
from geotempo.model.geometry import BoolArray, Mask
from geotempo.model.radiometry import Calibration, Evidence, calibrate
from geotempo.model.records import ImageRecord, Transform, time_order
from geotempo.model.source import Grid, Pixels, Source, open_file, read
from geotempo.model.views import View


@dataclass(frozen=True)
class Stack:
    """A sequence ready to be asked about: file by file in the order in which the user gave them, view by view of each.

    Attributes:
        images: All of one size; on one grid where they are georeferenced.
        files: The path of each image; the same for all views of a file.
        grid: The common size and place.
        bands: Names of the channels shown, per image.
        stretches: How values became 8 bits, per image; equal for all images of one view.
        notes: What was done to the images, one sentence each.
        clouds: Pixels under cloud, per image; None where no cloud is known. They are left out of `ImageRecord.valid`.
        requested: Index of the user's file that each image was made of.
    """

    images: tuple[ImageRecord, ...]
    files: tuple[str, ...]
    grid: Grid
    bands: tuple[tuple[str, ...], ...]
    stretches: tuple[Stretch, ...]
    notes: tuple[str, ...] = ()
    clouds: tuple[Mask | None, ...] = ()
    requested: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Scene:
    """One file, read: what the pictures of it are made of."""

    known: Known
    shots: tuple[Shot, ...]
    day: AcquisitionDate | None
    pixels: Pixels
    calibration: Calibration
    cloud: BoolArray | None
    empty: BoolArray | None

    @property
    def path(self) -> str:
        """The file."""
        return self.known.source.path

    def picture(self, shot: Shot) -> tuple[Array, BoolArray]:
        """Values (channels, H, W) of a shot before stretching, and its pixels (H, W) with data, cloud among them."""
        values, raw = self.pixels.values, self.calibration
        seen = self.pixels.seen(shot.layers)
        if raw.as_is and (shot.view is None or (raw.unit == "display" and not shot.view.derived)):
            return self._coloured(shot, np.stack([values[i] for i in shot.layers])), self._there(seen)
        bands = [np.where(self.pixels.masks[i], raw.apply(i, values[i]), np.float32(np.nan)) for i in shot.layers]
        array = shot.view.compute(bands) if shot.view else np.stack(bands)
        return array, self._there(seen & np.isfinite(array).all(axis=0))

    def _there(self, seen: BoolArray) -> BoolArray:
        return seen if self.empty is None else seen & ~self.empty

    def _coloured(self, shot: Shot, array: Array) -> Array:
        """Palette indices as colours; other values as they are."""
        palette = self.known.source.layers[shot.layers[0]].palette
        if len(shot.layers) != 1 or palette is None:
            return array
        table = np.zeros((256, 3), dtype=np.uint8)
        for index, colour in palette.items():
            table[index] = colour[:3]
        return np.moveaxis(table[array[0]], -1, 0)


def load_stack(files: Sequence[str], dates: Sequence[str] = (), *, bands: str | None = None, stretch: str | None = None,
               reference: str | None = None, spectral: Spectral | None = None) -> Stack:
    """Read a sequence of image files.

    Args:
        files: One or more paths, folders of single-band files, or names that GDAL opens.
        dates: One date per file, or none.
        bands: Bands to show, see `choose_bands`.
        stretch: Stretch of pictures that show bands, see `find_stretch`; None means the view's fixed one for known
            products. Values are reflectance or decibels where the product is known.
        reference: The file whose grid the others are warped onto; the latest one by default.
        spectral: Views, products and what else concerns images with more than three colours.

    Returns:
        The sequence in the order given. The views of a file share one acquisition number (`time_order`), dated or not.
        Two files of one date share one where they show different views (Sentinel-1 and Sentinel-2 of a day); where they
        show the same view they are two acquisitions.

    Raises:
        InputError: A file cannot be read, the dates do not fit, a view cannot be made, or the images cannot be laid on
            each other.
        MissingExtraError: A file needs GDAL and rasterio is not installed.
    """
    days, asked = _dates(files, dates), spectral or Spectral()
    products, offsets, masks = (each(values, option, len(files)) for values, option in (
        (asked.products, "--product"), (asked.offsets, "--offset"), (asked.cloud_masks, "--cloud-mask")))
    images = [know(open_source(file), _text(product), asked.band_names)
              for file, product in zip(files, products, strict=True)]
    shots = plan(images, bands, asked.views)
    images = [narrowed(known, mine) for known, mine in zip(images, shots, strict=True)]
    sources = [known.source for known in images]
    chief = _reference(sources, days, reference)
    _check_together(sources)
    told = zip(images, shots, days, map(_number, offsets), map(_text, masks), strict=True)
    scenes = [_scene(*item, chief) for item in told]
    notes = [note for scene in scenes for note in _notes(scene, chief)]
    return _stack(scenes, chief.grid, stretch, notes)


def open_source(path: str) -> Source:
    """Open a file, or a folder of single-band files, and say what it is.

    Raises:
        InputError: It is missing, no image, too large, or has a georeference that cannot be used.
        MissingExtraError: It needs GDAL and rasterio is not installed.
    """
    return open_folder(path) if Path(path).is_dir() else open_file(path)


def _text(value: str | int | None) -> str | None:
    return value if isinstance(value, str) and value != "none" else None


def _number(value: str | int | None) -> int | None:
    return value if isinstance(value, int) else None


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
            raise InputError(f"{first.path!r} is {a.width} x {a.height} and {other.path!r} is {b.width} x {b.height}; "
                             "images without georeference must be of one size: crop or resize them to the same ground")


def _scene(known: Known, shots: tuple[Shot, ...], day: AcquisitionDate | None, offset: int | None, mask: str | None,
           chief: Source) -> _Scene:
    """Read and calibrate the bands of one file on the reference's grid."""
    source, grid = known.source, chief.grid
    chosen = sorted({i for shot in shots for i in shot.layers})
    pixels = read(source, chosen, grid)
    seen = pixels.seen(chosen)
    if not seen.any():
        raise InputError(f"no pixel of {source.path!r} holds data; check the file and its nodata"
                         if source.grid.same_as(grid) else f"{source.path!r} does not overlap the reference image; leave "
                         "it out or choose another --reference")
    evidence = Evidence(source.path, known.product, source.facts, {i: source.layers[i].said for i in chosen},
                        {i: known.roles[i] for i in chosen}, pixels.values, seen, day, offset)
    clouds = file_clouds(mask, source, grid) if mask else own_clouds(source, known.roles, grid)
    cloud, empty = clouds or (None, None)
    return _Scene(known, shots, day, pixels, calibrate(evidence), cloud, empty)


def _notes(scene: _Scene, chief: Source) -> list[str]:
    """What a user should know of one file."""
    source, notes = scene.known.source, [*scene.known.source.notes, *scene.calibration.notes]
    if source.grid.place is not None and not source.grid.same_as(chief.grid):
        notes.append(f"{source.path} was warped onto the grid of {chief.path} (bilinear)")
    indices = [shot.view.name for shot in scene.shots if shot.view and shot.view.is_index]
    if indices and scene.calibration.unit != "reflectance":
        notes.append(f"{source.path}: {', '.join(indices)} made of values that are not known to be reflectance; compare "
                     "dates with care")
    if scene.cloud is not None:
        notes.append(f"{source.path}: {100 * scene.cloud.mean():.1f} % of the pixels lie under cloud or its shadow and are "
                     "not judged")
    return notes


def _stack(scenes: Sequence[_Scene], grid: Grid, wanted: str | None, notes: Sequence[str]) -> Stack:
    """Stretch each view over all files and make the records."""
    made: dict[tuple[int, int], tuple[ImageRecord, Stretch]] = {}
    for name in dict.fromkeys(shot.name for scene in scenes for shot in scene.shots):
        group = [(i, j) for i, scene in enumerate(scenes) for j, shot in enumerate(scene.shots) if shot.name == name]
        pictures = [scenes[i].picture(scenes[i].shots[j]) for i, j in group]
        view = scenes[group[0][0]].shots[group[0][1]].view
        shown = _stretch(view, [scenes[i] for i, _ in group], pictures, wanted)
        for (i, j), picture in zip(group, pictures, strict=True):
            made[i, j] = _record(scenes[i], scenes[i].shots[j], i, grid, picture, shown), shown
    order = [(i, j) for i, scene in enumerate(scenes) for j in range(len(scene.shots))]
    clouds = [None if scene.cloud is None or not scene.cloud.any() else Mask.from_array(scene.cloud) for scene in scenes]
    return Stack(images=tuple(made[key][0] for key in order), files=tuple(scenes[i].path for i, _ in order), grid=grid,
                 bands=tuple(made[key][0].bands or () for key in order), stretches=tuple(made[key][1] for key in order),
                 notes=tuple(notes), clouds=tuple(clouds[i] for i, _ in order), requested=tuple(i for i, _ in order))


def _stretch(view: View | None, scenes: Sequence[_Scene], pictures: Sequence[tuple[Array, BoolArray]],
             wanted: str | None) -> Stretch:
    """The one stretch of a view for all files."""
    files = [scene.path for scene in scenes]
    if view is not None and view.is_index:
        return Stretch("fixed", view.low, view.high)
    units = {scene.calibration.unit: scene.path for scene in scenes}
    if len(units) > 1 and "display" not in units:
        (unit, file), (other, odd) = list(units.items())[:2]
        raise InputError(f"the values of {file!r} are {_UNITS[unit]} and those of {odd!r} are {_UNITS[other]}; one stretch "
                         "cannot fit both: say with --product what each file is")
    if view is not None and view.derived and "display" in units:
        raise InputError(f"{units['display']!r} holds 8-bit display values, of which no ratio can be made; give backscatter "
                         "in dB or linear power, or --view VV")
    if view is not None and wanted is None and set(units) == {view.unit}:
        return Stretch(f"fixed, {view.unit}", view.low, view.high)
    clear = [(array, valid if scene.cloud is None else valid & ~scene.cloud)
             for (array, valid), scene in zip(pictures, scenes, strict=True)]
    return find_stretch(clear if any(valid.any() for _, valid in clear) else pictures, wanted, files)


_UNITS = {"reflectance": "reflectance", "dB": "decibels", "amplitude dB": "uncalibrated amplitudes",
          "display": "8-bit display values", "number": "of no known unit"}


def _record(scene: _Scene, shot: Shot, position: int, grid: Grid, picture: tuple[Array, BoolArray],
            stretch: Stretch) -> ImageRecord:
    """The record of a picture: original bytes where nothing was done to them, else a lossless PNG."""
    array, valid = picture
    source, place, product = scene.known.source, grid.place, scene.known.product
    labels = ("palette",) * 3 if len(array) != len(shot.labels) else shot.labels
    data = source.plain
    if data is None or stretch.method != "none" or shot.layers != (0, 1, 2):
        data = _png(stretch.apply(array, valid))
    height, width = valid.shape
    clear = valid if scene.cloud is None else valid & ~scene.cloud
    # Undated files have no date by which their views could be put together.
    together = str(position + 1) if scene.day is None and len(scene.shots) > 1 else None
    return ImageRecord(
        id=f"{source.path}#{shot.name}" if shot.name else source.path, width=width, height=height, data=data,
        date=scene.day, acquisition=together, modality=scene.known.modality, view=shot.name,
        sensor=product.sensor if product else None, gsd=place.gsd(width, height) if place else None, bands=labels,
        crs=place.crs if place else None, transform=_six(place.transform) if place else None,
        valid=None if clear.all() else Mask.from_array(clear),
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
