"""Reading the JSON of one fMoW image: boxes, date, sensor; see `geotempo.data_builders.sources.fmow`."""

from collections.abc import Sequence
from math import ceil
from typing import Any

import shapely

from geotempo.data_builders.source import Rejection
from geotempo.data_builders.tiling import cut
from geotempo.model.dates import AcquisitionDate
from geotempo.model.errors import InputError
from geotempo.model.geometry import Box
from geotempo.model.records import ImageRecord


def bounding_boxes(record: Any, name: str) -> list[dict[str, Any]]:
    """`bounding_boxes` of an image's JSON, checked.

    Raises:
        Rejection: Which assumption fails.
    """
    boxes = record.get("bounding_boxes") if isinstance(record, dict) else None
    if not isinstance(boxes, list) or not boxes:
        raise Rejection("broken annotation", f"{name} has no list bounding_boxes")
    for box in boxes:
        if not isinstance(box, dict) or not isinstance(box.get("category"), str) or not _four(box.get("box")):
            raise Rejection("broken annotation", f"{name}: a bounding box has no category or no box of four numbers "
                                                 "[x, y, width, height]")
    return boxes


def _four(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(isinstance(number, int | float) for number in value)


def image_facts(record: dict[str, Any], name: str) -> dict[str, Any]:
    """Date, sensor and sampling distance as fields of `ImageRecord`.

    Raises:
        Rejection: There is no date, without which there is no order.
    """
    try:
        facts: dict[str, Any] = {"date": AcquisitionDate(str(record["timestamp"]))}
    except (KeyError, InputError) as error:
        raise Rejection("broken annotation", f"{name} has no readable timestamp ({error})") from None
    gsd = record.get("gsd")
    if isinstance(gsd, int | float) and gsd > 0:
        facts["gsd"] = (float(gsd), float(gsd))
    if record.get("sensor_platform_name"):
        facts["sensor"] = str(record["sensor_platform_name"])
    return facts


def pixel_box(values: Sequence[float], image: ImageRecord, name: str) -> Box:
    """[left, top, width, height] clipped to the image.

    Raises:
        Rejection: Nothing of it lies on the image.
    """
    left, top, width, height = values
    edges = max(0.0, float(left)), max(0.0, float(top)), min(left + width, image.width), min(top + height, image.height)
    if edges[0] >= edges[2] or edges[1] >= edges[3]:
        raise Rejection("impossible box", f"{name}: [x, y, width, height] = {list(values)} on an image of {image.width} x "
                                          f"{image.height}")
    return Box(edges[0], edges[1], float(edges[2]), float(edges[3]))


def around(image: ImageRecord, box: Box, margin: float) -> tuple[ImageRecord, Box]:
    """The part of an image around a box, and the box on it."""
    pad = margin * max(box.x2 - box.x1, box.y2 - box.y1)
    left, top = max(0, int(box.x1 - pad)), max(0, int(box.y1 - pad))
    right, bottom = min(image.width, ceil(box.x2 + pad)), min(image.height, ceil(box.y2 + pad))
    part = cut(image, (slice(top, bottom), slice(left, right)))
    return part, Box(box.x1 - left, box.y1 - top, box.x2 - left, box.y2 - top)


def location_bounds(location: Any) -> list[float] | None:
    """Bounds of a WKT polygon in degrees; None where it is none."""
    try:
        shape = shapely.from_wkt(location)
    except (shapely.errors.ShapelyError, TypeError):
        return None
    return None if shape is None or shape.is_empty else [float(value) for value in shape.bounds]
