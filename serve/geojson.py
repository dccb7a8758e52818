"""An outcome as GeoJSON (RFC 7946) and as plain facts for people and programs.

Georeferenced images give longitude and latitude on WGS 84 with geodesic areas. Plain images give pixel coordinates; the
file then says `"crs": null` and `"coordinates": "pixels"`, because RFC 7946 knows nothing but WGS 84.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from shapely.geometry.polygon import orient

from geotempo.model.geo import Georeference, SurfaceShape, geodesic_area, pixel_shape, to_lonlat
from geotempo.model.geometry import Box, Geometry, GridMask, Mask, Polygon, RotatedBox, bounds, rasterize
from geotempo.model.records import Region
from geotempo.serve.job import Outcome

_DECIMALS = 9  # of a degree: 0.1 mm
_SOURCES: dict[type, str] = {Box: "box", RotatedBox: "rotated box", Polygon: "polygon", Mask: "mask", GridMask: "grid"}


@dataclass(frozen=True)
class Feature:
    """A region with its place.

    Attributes:
        geometry: In lon/lat, or in pixels without a georeference; None where the region lies outside the image.
        properties: JSON-serialisable facts.
    """

    geometry: SurfaceShape | None
    properties: dict[str, Any]


def features(outcome: Outcome) -> list[Feature]:
    """One feature per region of the answer, in its order."""
    place = outcome.stack.grid.place
    return [_feature(outcome, i, region, place) for i, region in enumerate(outcome.regions)]


def _feature(outcome: Outcome, i: int, region: Region, place: Georeference | None) -> Feature:
    """The feature of region i."""
    drawn = _drawn(region, outcome.masks[i] if outcome.masks else None)
    pixels = pixel_shape(drawn, outcome.stack.grid.width, outcome.stack.grid.height)
    shape = None if pixels.is_empty else to_lonlat(pixels, place) if place else _counter_clockwise(pixels)
    facts: dict[str, Any] = {"region": i + 1, "label": region.label} | _image_facts(outcome, region.image)
    facts["after"], facts["before"] = outcome.change_dates(region)
    facts["bbox_pixels"] = [round(float(value), 3) for value in bounds(region.geometry).as_tuple()]
    facts["geometry_source"] = _SOURCES[type(drawn)]
    facts["area_pixels"] = round(float(pixels.area), 3)
    if place:
        facts["area_m2"] = round(geodesic_area(shape), 3) if shape is not None else 0.0
    facts["assessable"], facts["reason"] = region.assessable, region.reason
    if shape is None:
        facts["assessable"], facts["reason"] = False, "no overlap: the region lies outside the image"
    index = outcome.order.index_of(region.image)
    facts |= {"bands": list(outcome.stack.bands[index]), "stretch": _stretch_text(outcome, index),
              "crs": place.crs if place else None, "model": outcome.model, "question": outcome.question,
              "status": outcome.answer.status.value}
    return Feature(shape, facts)


def _drawn(region: Region, mask: Mask | None) -> Geometry:
    """The mask; the region's own geometry where the mask is missing, empty or nothing but the region's pixels."""
    if mask is None:
        return region.geometry
    array = mask.to_array()
    plain = not array.any() or np.array_equal(array, rasterize(region.geometry, *array.shape))
    return region.geometry if plain else mask


def _image_facts(outcome: Outcome, number: int) -> dict[str, Any]:
    """Acquisition number, request index, date and file."""
    index = outcome.order.index_of(number)
    date = outcome.stack.images[index].date
    return {"image": number, "request_index": outcome.stack.requested[index], "date": str(date) if date else None,
            "file": outcome.stack.files[index]}


def _stretch_text(outcome: Outcome, index: int) -> str:
    """The stretch in words, with the bands of one image."""
    return outcome.stack.stretches[index].describe(outcome.stack.bands[index])


def facts_of(outcome: Outcome, found: list[Feature]) -> dict[str, Any]:
    """Everything about an outcome but the geometries, JSON-serialisable.

    Args:
        outcome: The outcome.
        found: Its `features`.
    """
    stack, answer, place = outcome.stack, outcome.answer, outcome.stack.grid.place
    acquisitions = []
    for index in outcome.order.order:
        facts = _image_facts(outcome, outcome.order.numbers[index])
        facts |= {"request_index": stack.requested[index], "file": stack.files[index], "view": stack.images[index].view,
                  "bands": list(stack.bands[index])}
        acquisitions.append(facts)
    named = outcome.named_images
    return {
        "model": outcome.model, "task": outcome.task, "question": outcome.question,
        "text": answer.text, "prose": answer.prose, "status": answer.status.value, "repairs": list(answer.repairs),
        "regions": None if answer.regions is None else [feature.properties for feature in found],
        "images_named": None if named is None else [_image_facts(outcome, number) for number in named],
        "acquisitions": acquisitions, "order_assumed": outcome.order.assumed,
        "coordinates": "longitude, latitude (WGS 84)" if place else "pixels",
        "crs": place.crs if place else None, "stretch": "; ".join(dict.fromkeys(_stretch_text(outcome, index) for index in outcome.order.order)),
        "width": stack.grid.width, "height": stack.grid.height, "notes": [*stack.notes, *outcome.notes],
    }


def feature_collection(outcome: Outcome, found: list[Feature]) -> dict[str, Any]:
    """The GeoJSON FeatureCollection of an outcome.

    The answer as a whole stands in the foreign member `geotempo`; there `"regions": null` means that the answer lists no
    regions at all, and 0 that nothing was found.

    Args:
        outcome: The outcome.
        found: Its `features`.
    """
    whole = facts_of(outcome, found)
    whole["regions"] = None if whole["regions"] is None else len(found)
    items = [{"type": "Feature", "id": feature.properties["region"], "properties": feature.properties,
              "geometry": _geometry(feature.geometry)} for feature in found]
    collection: dict[str, Any] = {"type": "FeatureCollection"}
    if outcome.stack.grid.place is None:
        collection |= {"crs": None, "coordinates": "pixels"}
    return collection | {"geotempo": whole, "features": items}


def to_bytes(value: dict[str, Any]) -> bytes:
    """JSON as UTF-8, indented, ending in a line break.

    Characters that UTF-8 cannot hold (lone surrogates in a label) are written as escapes.
    """
    text = json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode("ascii")


def _counter_clockwise(shape: SurfaceShape) -> SurfaceShape:
    """The same polygons with exterior rings in positive orientation."""
    parts = [orient(part, 1.0) for part in shapely.get_parts(shape)]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def _geometry(shape: SurfaceShape | None) -> dict[str, Any] | None:
    """A GeoJSON geometry with rounded coordinates."""
    if shape is None:
        return None
    rounded = shapely.transform(shape, lambda xy: np.round(xy, _DECIMALS))
    result: dict[str, Any] = shapely.geometry.mapping(rounded)
    return result
