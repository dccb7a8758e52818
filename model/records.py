"""The central types: an image with its date and georeference, a region on it, an answer about it.

Everything that enters or leaves GeoTempo passes through these. They are frozen, validated on construction and free
of torch.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

from PIL import Image

from geotempo.model.dates import AcquisitionDate
from geotempo.model.errors import InputError
from geotempo.model.geometry import Geometry, Mask, Point

Modality = Literal["optical", "multispectral", "sar"]
Transform = tuple[float, float, float, float, float, float]

GRID = 1000
"""Cells per side that an answer counts in, where the model has no count of its own."""

MAX_GRID = 9999
"""Most cells per side; a coordinate has four digits at most."""


@dataclass(frozen=True)
class ImageRecord:
    """One image of a sequence.

    Attributes:
        id: Stable name; in a store the content hash.
        width: Columns.
        height: Rows.
        data: Encoded 8-bit image (PNG, JPEG, WebP), original bytes. Exactly one of `data` and `path` is set.
        path: File with the encoded image.
        date: Acquisition date at the precision given.
        sensor: Sensor or platform, as text for the prompt ("Sentinel-2").
        gsd: Ground sampling distance (x, y) in metres at the image centre.
        bands: Names of the bands shown, in display order.
        crs: Coordinate reference system, WKT or "EPSG:n".
        transform: Affine (a, b, c, d, e, f): X = a*x + b*y + c, Y = d*x + e*y + f, for x, y in pixels.
        modality: optical, multispectral or sar.
        view: What the picture shows of the acquisition ("true colour", "NIR", "VV").
        valid: Pixels that carry data; None means all.
        acquisition: Name of the acquisition that this is a view of, where date and view do not tell; see `time_order`.
    """

    id: str
    width: int
    height: int
    data: bytes | None = None
    path: str | None = None
    date: AcquisitionDate | None = None
    sensor: str | None = None
    gsd: tuple[float, float] | None = None
    bands: tuple[str, ...] | None = None
    crs: str | None = None
    transform: Transform | None = None
    modality: Modality | None = None
    view: str | None = None
    valid: Mask | None = None
    acquisition: str | None = None

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise InputError(f"image {self.id!r} is {self.width} x {self.height}; both sides must be 1 or more")
        if (self.data is None) == (self.path is None):
            raise InputError(f"image {self.id!r} needs exactly one of data and path")
        if self.valid is not None and (self.valid.height, self.valid.width) != (self.height, self.width):
            raise InputError(f"the valid mask of image {self.id!r} has another size than the image")

    def encoded(self) -> bytes:
        """The encoded image, byte for byte.

        Raises:
            InputError: The file is missing.
        """
        if self.data is not None:
            return self.data
        assert self.path is not None
        try:
            return Path(self.path).read_bytes()
        except OSError as error:
            raise InputError(f"cannot read image {self.path!r}: {error.strerror}") from None

    def rgb(self) -> Image.Image:
        """The decoded picture, mode RGB, width x height.

        Raises:
            InputError: The bytes are no complete image, or the size is not the recorded one.
        """
        name = self.path or self.id
        try:
            picture = Image.open(io.BytesIO(self.encoded()))
            picture.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"{name!r} is not a readable image ({error}); replace or remove the file") from None
        if picture.size != (self.width, self.height):
            raise InputError(f"{name!r} is {picture.width} x {picture.height}, recorded {self.width} x {self.height}")
        return picture.convert("RGB")


@dataclass(frozen=True)
class Region:
    """A place on one acquisition.

    Attributes:
        image: Acquisition number, counted in time order from 1 (the k of `Image k`).
        geometry: In pixels of the image as the user gave it.
        label: Free text, may be empty.
        points: Two points inside the object, for SAM, or None.
        assessable: False where the image cannot tell (cloud, no data, no overlap).
        reason: Why it is not assessable.
    """

    image: int
    geometry: Geometry
    label: str = ""
    points: tuple[Point, Point] | None = None
    assessable: bool = True
    reason: str | None = None

    def __post_init__(self) -> None:
        if self.image < 1:
            raise InputError(f"a region's image number counts from 1, got {self.image}")
        if not self.assessable and not self.reason:
            raise InputError("a region that is not assessable needs a reason (cloud, nodata, no overlap)")


class Status(StrEnum):
    """How an answer was read. Only `ok` was read exactly as the grammar says."""

    OK = "ok"
    REPAIRED = "repaired"
    REFUSED = "refused"
    TRUNCATED = "truncated"
    INVALID = "invalid"


@dataclass(frozen=True)
class Answer:
    """What came back from the model.

    Attributes:
        text: The raw text, unchanged.
        prose: The text without the region list.
        regions: Regions read from it, in the order written; None when the text holds no region list at all
            (an empty tuple is the answer "nothing found").
        status: How it was read.
        repairs: What had to be mended or left out, one short sentence each; empty when `status` is `ok`.
    """

    text: str
    prose: str
    regions: tuple[Region, ...] | None = None
    status: Status = Status.OK
    repairs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frame:
    """What an answer's coordinates span on one image.

    The model may see a letterboxed image; answers count cells 0 to `grid` over the padded square, and everything
    outside this class sees pixels of the user's image.

    Attributes:
        width: Columns of the user's image.
        height: Rows of the user's image.
        span: Pixels (x, y) that 0..grid covers; (width, height) without letterboxing.
        grid: Cells that the span is divided into along each axis, 1 to `MAX_GRID`. Qwen2.5-VL counts pixels of its
            resized input; there it is that input's side.
    """

    width: int
    height: int
    span: tuple[float, float]
    grid: int = GRID

    def __post_init__(self) -> None:
        if not 1 <= self.grid <= MAX_GRID:
            raise InputError(f"a frame is divided into 1 to {MAX_GRID} cells per side, got {self.grid}")

    @classmethod
    def plain(cls, width: int, height: int, grid: int = GRID) -> "Frame":
        """Coordinates span the image itself."""
        return cls(width, height, (float(width), float(height)), grid)

    @classmethod
    def letterboxed(cls, width: int, height: int, grid: int = GRID) -> "Frame":
        """Coordinates span the square that holds the image at its top left; equal to `plain` for square images."""
        side = float(max(width, height))
        return cls(width, height, (side, side), grid)


@dataclass(frozen=True)
class TimeOrder:
    """How the images of a request are numbered.

    Attributes:
        order: Request indices (from 0) in time order.
        numbers: Acquisition number (from 1) of each request index; views of one acquisition share it.
        assumed: True when a date was missing and the request's own order had to be trusted.
    """

    order: tuple[int, ...]
    numbers: tuple[int, ...]
    assumed: bool

    def index_of(self, number: int) -> int:
        """Request index of the first image of acquisition `number`."""
        return self.numbers.index(number)


def time_order(images: Sequence[ImageRecord]) -> TimeOrder:
    """Number the acquisitions of a request.

    Dated images are sorted by date (stable); if any date is missing the request's order is kept and `assumed` is set.
    Images that name the same `acquisition` are views of it and stand together, where its first image stands. Among
    images that name none, those of equal date whose `view` differs, and is given, are views of one acquisition.
    """
    dates = [image.date for image in images]
    assumed = len(images) > 1 and any(date is None for date in dates)
    first: dict[str, int] = {}
    anchors = [i if image.acquisition is None else first.setdefault(image.acquisition, i)
               for i, image in enumerate(images)]
    order = sorted(range(len(images)), key=lambda i: anchors[i])
    if not assumed:
        order.sort(key=lambda i: dates[anchors[i]].sort_key if dates[anchors[i]] else ())  # type: ignore[union-attr]
    numbers = [0] * len(images)
    count, views, last = 0, set[str | None](), None
    for index in order:
        image = images[index]
        if image.acquisition is not None:
            same = anchors[index] != index
        else:
            same = last is not None and image.date == last and bool(image.view) and not {None, image.view} & views
        if same:
            views.add(image.view)
        else:
            count, views = count + 1, {image.view}
            last = image.date if image.acquisition is None else None
        numbers[index] = count
    return TimeOrder(tuple(order), tuple(numbers), assumed)
