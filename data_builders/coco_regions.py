"""Annotations of COCO files on images that were read: regions, crowds, and what does not fit."""

from collections.abc import Mapping, Sequence
from typing import Any

from geotempo.data_builders.segmentations import boxed, segmented
from geotempo.data_builders.source import Rejection
from geotempo.model.records import ImageRecord, Region


def view_regions(views: Sequence[Mapping[str, Any]], images: Sequence[ImageRecord]) -> tuple[list[Region], set[str]]:
    """Regions of all images of an item, and the classes that have crowds.

    Args:
        views: For each annotated image `place` (acquisition number), `file` (its name), `size` (width and height by the
            file, or None) and `objects` (annotations with the name of their `class`, None where it is unknown).
        images: One image, or a pair.

    Raises:
        Rejection: An image has another size than the file says, or an annotation no class or no usable geometry.
    """
    regions, crowds = [], set()
    for view in views:
        image = images[0] if len(images) == 1 else images[view["place"] - 1]
        width, height = view["size"]
        if None not in (width, height) and (width, height) != (image.width, image.height):
            raise Rejection(
                "size mismatch",
                f"{view['file']} is {image.width} x {image.height}, its annotation says {width} x {height}",
            )
        for one in view["objects"]:
            if one["class"] is None:
                raise Rejection(
                    "unknown category",
                    f"{view['file']}: annotation {one.get('id')} is of category {one.get('category_id')}, which the "
                    "file does not list",
                )
            if one.get("iscrowd"):
                crowds.add(one["class"])
            else:
                regions.append(_region(one, image, view))
    return regions, crowds


def _region(one: Mapping[str, Any], image: ImageRecord, view: Mapping[str, Any]) -> Region:
    """An annotation as a region; the box where there is no outline."""
    label = f"{view['file']}, annotation {one.get('id')}"
    if one.get("segmentation"):
        found = segmented(one["segmentation"], image.height, image.width, label, view["place"])
    elif one.get("bbox"):
        found = boxed(one["bbox"], image.height, image.width, label, view["place"])
    else:
        raise Rejection("no geometry", f"{label} has neither segmentation nor bbox")
    return Region(found.image, found.geometry, one["class"], found.points)
