"""What a record of TEOChatlas means (see `sources.teochatlas`): origin, task, place, dates, outlines."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import shapely
from shapely import wkt

from geotempo.data_builders.instructions import read_date
from geotempo.data_builders.source import Rejection
from geotempo.data_builders.xbd_labels import simple_polygon
from geotempo.model.dates import AcquisitionDate
from geotempo.model.errors import InputError
from geotempo.model.geometry import Polygon
from geotempo.model.records import ImageRecord, Region

OUTLINE_SIDE = 256
"""Pixels that the WKT outlines count along each side, whatever the image has."""

ORIGINS = {
    "xbd": "CC-BY-NC-SA-4.0; xBD",
    "s2looking": "academic; S2Looking",
    "qfabric": "academic; QFabric",
    "fmow": "academic; fMoW Challenge Public License",
    "geochat": "academic; GeoChat_Instruct, imagery of DOTA, DIOR, FAIR1M and others",
    "abcd": "unknown; ABCD",
    "cdvqa": "academic; CDVQA, imagery SECOND",
    "aid": "unknown; AID, imagery Google Earth",
    "ucmerced": "public-domain; UC Merced, imagery USGS",
    "lrben": "CC-BY-4.0; RSVQA LR",
    "hrben": "CC-BY-4.0; RSVQA HR",
}
"""Licence by origin. A record whose origin is not among them is set aside."""

_CHANGE_QA = ("change_or_not", "increase_or_not", "decrease_or_not", "change_ratio", "change_ratio_types",
              "largest_change", "smallest_change", "change_to_what")
_SINGLE_QA = ("presence", "comp", "rural_urban")
TASK_NAMES = {
    "change_detection_classification": "damage",
    "change_detection_localization": "change_grounding",
    "change_detection_detection": "change_grounding",
    "spatial_referring_expression": "change_grounding",
    "region_based_question_answering": "region_vqa",
    "region_based_temporal_question_answering": "region_vqa",
    "temporal_referring_expression": "temporal_referring",
    "change_question_answering": "change_vqa",
    **dict.fromkeys(_CHANGE_QA, "change_vqa"),
    **dict.fromkeys(_SINGLE_QA, "vqa"),
}
"""Our task by the `task` of a record."""
BY_COUNT = {"scene_classification": ("classification", "temporal_classification"),
            "question_answering": ("vqa", "change_vqa")}
"""Our tasks for one image and for several."""

_XBD = re.compile(r"(?P<event>[a-z]+(?:-[a-z]+)+)_(?P<number>\d{8})(?:_|$)")
_QFABRIC = re.compile(r"(?P<location>\d+)\.d\d+\.\d{8}")
_FMOW = re.compile(r"(?P<place>[a-z_-]+_\d+)_\d+(?:_(?:ms)?rgb)?$")


def origin_of(record: Mapping[str, Any], file: str) -> str:
    """Data set that a record comes from: its `dataset`, or where that is missing the name of its evaluation file.

    Raises:
        Rejection: Neither tells.
    """
    said = str(record.get("dataset") or file)
    name = re.sub(r"[^a-z0-9]", "", said.lower())
    found = next((origin for origin in ORIGINS if name.startswith(origin)), None)
    found = found or next((origin for origin in ORIGINS if PurePosixPath(file).stem.lower().startswith(origin)), None)
    if found is None:
        raise Rejection("unknown origin", f"dataset {said!r}; known: {', '.join(ORIGINS)}")
    return found


def task_of(name: Any, count: int) -> str:
    """Our task.

    Args:
        name: `task` of a record.
        count: Number of its images.

    Raises:
        Rejection: The task is unknown.
    """
    said = str(name or "").strip().lower()
    if said.endswith("region_captioning"):
        return "region_caption"
    if said in TASK_NAMES:
        return TASK_NAMES[said]
    if said in BY_COUNT:
        return BY_COUNT[said][count > 1]
    raise Rejection("unknown task", f"task {name!r}; known: {', '.join((*TASK_NAMES, *BY_COUNT))}")


def tidy(question: str) -> str:
    """A question without the slips of the templates it was made from: `ship.. Include`, `[1, 2, 3, 4]. ?`."""
    return re.sub(r"\.\s*\?", "?", re.sub(r"\.{2}(?=\s)", ".", question))


def place_of(origin: str, images: Sequence[str], split: str) -> dict[str, str]:
    """`event` and `scene` as far as the name of the first image tells, so that leaks between splits are found.

    Places of one name in fMoW's train and val are two places; the training file is made from the former, the test files
    from the latter.
    """
    stem = PurePosixPath(images[0].replace("\\", "/")).stem
    match origin:
        case "xbd" if (found := _XBD.search(stem)) is not None:
            return {"event": found["event"], "scene": f"{found['event']}_{found['number']}"}
        case "qfabric" if (found := _QFABRIC.match(stem)) is not None:
            return {"scene": f"qfabric_{found['location']}"}
        case "fmow" if (found := _FMOW.match(stem)) is not None:
            return {"scene": f"fmow/{'train' if split == 'train' else 'val'}/{found['place']}"}
    return {}


def dates_of(record: Mapping[str, Any], count: int) -> list[AcquisitionDate | None]:
    """A date or None for each image.

    Raises:
        Rejection: Their number is another one than that of the images, or one is no date.
    """
    given = record.get("timestamp") or []
    given = [given] if isinstance(given, str) else given
    if given and len(given) != count:
        raise Rejection("dates and images differ", f"{len(given)} timestamps for {count} images")
    return [read_date(text) for text in given] or [None] * count


def sensors_of(record: Mapping[str, Any], count: int) -> list[str | None]:
    """A sensor or None for each image; a single one holds for all."""
    given = record.get("sensor") or []
    given = [given] * count if isinstance(given, str) else list(given)
    return [str(name) if name else None for name in given] if len(given) == count else [None] * count


def outlines(polygon: Any, image: ImageRecord, number: int) -> tuple[list[Region], Counter[str]]:
    """WKT outlines as regions.

    Args:
        polygon: Text, list of texts, or nothing; in 256ths of the image, x right, y down. An empty text stands for
            none.
        image: The image that they lie on.
        number: Its number.

    Returns:
        (regions in pixels, clipped to the image; how many cannot be used, by reason).
    """
    texts = [polygon] if isinstance(polygon, str) else list(polygon or ())
    regions: list[Region] = []
    unusable: Counter[str] = Counter()
    scale = (image.width / OUTLINE_SIDE, image.height / OUTLINE_SIDE)
    for text in texts:
        if isinstance(text, str) and not text.strip():
            continue
        try:
            parts = shapely.get_parts(wkt.loads(text)).tolist()
        except (shapely.errors.ShapelyError, ValueError, TypeError):
            unusable["unreadable WKT"] += 1
            continue
        for part in parts or [shapely.Polygon()]:
            try:
                shape = simple_polygon(part.wkt, OUTLINE_SIDE, OUTLINE_SIDE)
            except InputError as error:
                unusable[str(error)] += 1
            else:
                rings = [_ring(ring.coords, scale) for ring in (shape.exterior, *shape.interiors)]
                regions.append(Region(number, Polygon(rings[0], tuple(rings[1:]))))
    return regions, unusable


def _ring(points: Any, scale: tuple[float, float]) -> tuple[tuple[float, float], ...]:
    """A ring in pixels, not closed."""
    return tuple((float(x) * scale[0], float(y) * scale[1]) for x, y, *_ in list(points)[:-1])
