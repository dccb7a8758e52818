"""The stored form of a `Sample`: one Parquet row, readable with pandas, and the way back.

What belongs to one use of an image (date, sensor, GSD, CRS, transform) stands in the sample's row; what belongs to the
picture itself (bytes, size) stands once in the images table, under its content hash.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from geotempo.data_builders.sample import Message, Sample
from geotempo.model.dates import AcquisitionDate
from geotempo.model.errors import InputError
from geotempo.model.geometry import Box, Geometry, GridMask, Mask, Point, Polygon, RotatedBox, bounds
from geotempo.model.records import ImageRecord, Region

Row = dict[str, Any]

CONTENT_ID = re.compile("[0-9a-f]{64}")

MASK_TYPE = pa.struct([("height", pa.int32()), ("width", pa.int32()), ("counts", pa.string())])
IMAGE_USE_TYPE = pa.struct([
    ("image_id", pa.string()), ("width", pa.int32()), ("height", pa.int32()), ("date", pa.string()),
    ("sensor", pa.string()), ("gsd", pa.list_(pa.float64())), ("bands", pa.list_(pa.string())), ("crs", pa.string()),
    ("transform", pa.list_(pa.float64())), ("modality", pa.string()), ("view", pa.string()), ("valid", MASK_TYPE),
    ("acquisition", pa.string()),
])
REGION_TYPE = pa.struct([
    ("image", pa.int32()), ("label", pa.string()), ("x1", pa.float64()), ("y1", pa.float64()), ("x2", pa.float64()),
    ("y2", pa.float64()), ("geometry", pa.string()), ("points", pa.list_(pa.list_(pa.float64()))),
    ("assessable", pa.bool_()), ("reason", pa.string()),
])
SAMPLE_SCHEMA = pa.schema([
    ("id", pa.string()), ("dataset", pa.string()), ("split", pa.string()), ("task", pa.string()),
    ("images", pa.list_(IMAGE_USE_TYPE)),
    ("messages", pa.list_(pa.struct([("role", pa.string()), ("text", pa.string())]))),
    ("n_regions", pa.int32()), ("regions", pa.list_(REGION_TYPE)), ("meta", pa.string()),
])
IMAGE_SCHEMA = pa.schema([
    ("id", pa.string()), ("width", pa.int32()), ("height", pa.int32()), ("n_bytes", pa.int64()), ("data", pa.binary()),
    ("path", pa.string()),
])
"""Exactly one of `data` and `path` is set; `path` is relative to the manifest's `images.root`, or absolute."""


class StoredImage(NamedTuple):
    """A distinct image on its way into a store: its bytes, or the file that holds them.

    Attributes:
        id: Its content hash, see `content_id`.
        width: Columns.
        height: Rows.
        data: Encoded bytes; None where they are read from `path` when they are needed.
        path: File with exactly these bytes, or None.
    """

    id: str
    width: int
    height: int
    data: bytes | None
    path: str | None


class Prepared(NamedTuple):
    """Samples as rows of `SAMPLE_SCHEMA`, and the distinct images that they use."""

    rows: list[Row]
    images: list[StoredImage]


def prepare(samples: Iterable[Sample]) -> Prepared:
    """Turn samples into rows; an image record that several samples share is hashed once.

    A record with a path and a content hash as id (as `load_image` makes them) is not read here: whoever stores its bytes
    compares them with the hash.
    """
    rows: list[Row] = []
    images: dict[str, StoredImage] = {}
    known: dict[int, tuple[ImageRecord, str]] = {}  # the record is kept, so that its address stays its own

    def name_of(image: ImageRecord) -> str:
        if id(image) not in known:
            lazy = image.path is not None and CONTENT_ID.fullmatch(image.id) is not None
            data = None if lazy else image.encoded()
            name = image.id if data is None else content_id(data)
            known[id(image)] = image, name
            images.setdefault(name, StoredImage(name, image.width, image.height, data, image.path))
        return known[id(image)][1]

    for sample in samples:
        rows.append(sample_to_row(sample, name_of))
    return Prepared(rows, list(images.values()))


def content_id(data: bytes) -> str:
    """Id of an image in a store: the SHA-256 of its encoded bytes, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def dumps(value: object) -> str:
    """JSON with sorted keys and no blanks, any unicode as it is, so that equal values give equal bytes."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def geometry_to_json(geometry: Geometry) -> str:
    """A geometry as JSON; the `type` key is box, rotated_box, polygon, mask (COCO RLE) or grid. Coordinates in pixels."""
    match geometry:
        case Box():
            value: Row = {"type": "box", "bbox": geometry.as_tuple()}
        case RotatedBox():
            value = {"type": "rotated_box", "center": [geometry.cx, geometry.cy],
                     "size": [geometry.width, geometry.height], "angle": geometry.angle}
        case Polygon():
            value = {"type": "polygon", "exterior": geometry.exterior, "holes": geometry.holes}
        case Mask():
            value = {"type": "mask", **geometry.to_coco()}
        case GridMask():
            rows = ["".join("01"[cell] for cell in row) for row in geometry.cells]
            value = {"type": "grid", "bbox": geometry.box.as_tuple(), "rows": rows}
    return dumps(value)


def geometry_from_json(text: str) -> Geometry:
    """Inverse of `geometry_to_json`.

    Raises:
        InputError: The text is no such JSON.
    """
    try:
        value = json.loads(text)
        match value["type"]:
            case "box":
                return Box(*value["bbox"])
            case "rotated_box":
                return _rotated_box(value)
            case "polygon":
                return Polygon(_ring(value["exterior"]), tuple(_ring(hole) for hole in value["holes"]))
            case "mask":
                return Mask(value["size"][0], value["size"][1], value["counts"])
            case "grid":
                return GridMask(Box(*value["bbox"]), tuple(tuple(bool(int(cell)) for cell in row) for row in value["rows"]))
            case other:
                raise InputError(f"unknown geometry type {other!r}; allowed: box, rotated_box, polygon, mask, grid")
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{text[:80]!r} is no stored geometry ({error!r})") from None


def sample_to_row(sample: Sample, name_of: Callable[[ImageRecord], str]) -> Row:
    """A sample as a row of `SAMPLE_SCHEMA`, the images' bytes left out.

    Args:
        sample: Any sample.
        name_of: Gives the content hash of an image.

    Raises:
        InputError: A text holds half of a surrogate pair, as a broken JSON escape leaves it: no file can.
    """
    row: Row = {
        "id": sample.id, "dataset": sample.dataset, "split": sample.split, "task": sample.task,
        "images": [_image_to_row(image, name_of(image)) for image in sample.images],
        "messages": [{"role": message.role, "text": message.text} for message in sample.messages],
        "n_regions": len(sample.regions),
        "regions": [_region_to_row(region) for region in sample.regions],
        "meta": dumps(sample.meta),
    }
    texts = [sample.id, row["meta"], *(message.text for message in sample.messages), *(region.label for region in sample.regions),
             *(image.sensor or "" for image in sample.images)]
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"sample {sample.id!a} holds the character {error.object[error.start]!a}, half of a pair, that no file can hold; "
                         "mend the text") from None
    return row


def sample_from_row(row: Mapping[str, Any], read: Callable[[str], bytes]) -> Sample:
    """The sample of a row.

    Args:
        row: A row of `SAMPLE_SCHEMA` as Python values.
        read: Gives the bytes of an image id.

    Raises:
        InputError: A value is not allowed in a `Sample`.
    """
    return Sample(
        id=row["id"], dataset=row["dataset"], split=row["split"], task=row["task"],
        images=tuple(_image_from_row(image, read(image["image_id"])) for image in row["images"]),
        messages=tuple(Message(message["role"], message["text"]) for message in row["messages"]),
        regions=tuple(_region_from_row(region) for region in row["regions"]),
        meta=json.loads(row["meta"]),
    )


def _image_to_row(image: ImageRecord, name: str) -> Row:
    valid = image.valid
    return {
        "image_id": name, "width": image.width, "height": image.height,
        "date": str(image.date) if image.date else None, "sensor": image.sensor, "gsd": image.gsd,
        "bands": image.bands, "crs": image.crs, "transform": image.transform, "modality": image.modality,
        "view": image.view, "acquisition": image.acquisition,
        "valid": {"height": valid.height, "width": valid.width, "counts": valid.counts} if valid else None,
    }


def _image_from_row(row: Mapping[str, Any], data: bytes) -> ImageRecord:
    valid = row["valid"]
    return ImageRecord(
        id=row["image_id"], width=row["width"], height=row["height"], data=data,
        date=AcquisitionDate(row["date"]) if row["date"] else None, sensor=row["sensor"],
        gsd=(row["gsd"][0], row["gsd"][1]) if row["gsd"] else None,
        bands=tuple(row["bands"]) if row["bands"] else None, crs=row["crs"],
        transform=tuple(row["transform"]) if row["transform"] else None, modality=row["modality"], view=row["view"],
        acquisition=row.get("acquisition"),  # stores written before it lack it
        valid=Mask(valid["height"], valid["width"], valid["counts"]) if valid else None,
    )


def _region_to_row(region: Region) -> Row:
    x1, y1, x2, y2 = bounds(region.geometry).as_tuple()
    return {
        "image": region.image, "label": region.label, "x1": x1, "y1": y1, "x2": x2, "y2": y2,
        "geometry": geometry_to_json(region.geometry), "points": region.points, "assessable": region.assessable,
        "reason": region.reason,
    }


def _region_from_row(row: Mapping[str, Any]) -> Region:
    points = row["points"]
    return Region(
        image=row["image"], geometry=geometry_from_json(row["geometry"]), label=row["label"],
        points=((points[0][0], points[0][1]), (points[1][0], points[1][1])) if points else None,
        assessable=row["assessable"], reason=row["reason"],
    )


def _rotated_box(value: Mapping[str, Any]) -> RotatedBox:
    (cx, cy), (width, height) = value["center"], value["size"]
    return RotatedBox(cx, cy, width, height, value["angle"])


def _ring(points: list[list[float]]) -> tuple[Point, ...]:
    return tuple((x, y) for x, y in points)
