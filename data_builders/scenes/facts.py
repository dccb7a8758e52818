"""What a scene says about changes between two dates, places and land cover: facts, no wording of questions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geotempo.data_builders.scenes import language
from geotempo.data_builders.scenes.raster import window
from geotempo.data_builders.scenes.scene import (
    APPEARS,
    CHANGE_KINDS,
    COVER,
    FIELD,
    FOREST,
    GRADES,
    ROAD,
    WATER,
    ByteArray,
    ChangeKind,
    Scene,
    SceneObject,
)
from geotempo.model.geometry import BoolArray

NO_DATA = 255
LEAST_PIXELS = 16


@dataclass(frozen=True)
class Change:
    """The net change of one object between two dates.

    Attributes:
        kind: What happened.
        item: The object.
        date: Index of the date whose image shows the object: the earlier one for a demolition, else the later one.
        grade: Index into `GRADES` on the later date.
        assessable: False where cloud hides the place on either date.
    """

    kind: ChangeKind
    item: SceneObject
    date: int
    grade: int
    assessable: bool

    @property
    def label(self) -> str:
        """Label of its region."""
        return language.LABELS[self.kind]


def changes_between(scene: Scene, first: int, last: int) -> list[Change]:
    """Net changes between two dates (indices from 0), ordered by kind, then object.

    What appears and disappears again between the two dates is no change between them.
    """
    out = []
    for item in scene.objects:
        kind, date = _net(item, first, last)
        if kind is not None:
            out.append(Change(kind, item, date, item.grades[last], item.assessable(first, last)))
    return sorted(out, key=lambda change: (CHANGE_KINDS.index(change.kind), change.item.id))


def _net(item: SceneObject, first: int, last: int) -> tuple[ChangeKind | None, int]:
    """Kind of an object's net change, if any, and the date that shows it."""
    was, now = item.there(first), item.there(last)
    if now and not was and item.kind in APPEARS:
        return APPEARS[item.kind], last
    if item.kind == "building" and was and not now:
        return "demolished", first
    if was and now and item.grades[last] != item.grades[first]:
        return "damaged", last
    return None, last


def visible_mask(scene: Scene, item: SceneObject, date: int) -> BoolArray:
    """Pixels of an object on a date that no cloud hides; the object must be there."""
    mask = item.masks[date]
    assert mask is not None
    return mask & ~scene.clouds[date]


def centre(mask: BoolArray) -> tuple[float, float]:
    """Mean (x, y) of a mask's pixel centres."""
    rows, columns = np.nonzero(mask)
    return float(columns.mean() + 0.5), float(rows.mean() + 0.5)


def aligned(scene: Scene, array: ByteArray, source: int, target: int) -> ByteArray:
    """An array in the grid of date `source` moved to the grid of date `target`; `NO_DATA` where nothing falls."""
    rows, columns = window(scene.nuisance[source].shift, scene.size)
    rows2, columns2 = window(scene.nuisance[target].shift, scene.size)
    down, right = rows2.start - rows.start, columns2.start - columns.start
    pad = 8
    wide = np.pad(array, pad, constant_values=NO_DATA)
    return wide[pad + down : pad + down + scene.size, pad + right : pad + right + scene.size]


def transitions(scene: Scene, change: Change, first: int, last: int) -> list[tuple[BoolArray, str]]:
    """Land-cover transitions of one change as (mask in the later image, `from -> to`).

    A building counts as one whole: its other class is the one that covers most of its footprint on the other date. An
    area is split by class; parts below 16 pixels are left out.
    """
    before, after = aligned(scene, scene.land_cover[first], first, last), scene.land_cover[last]
    mask = change.item.masks[change.date]
    assert mask is not None
    inside = aligned(scene, mask.astype(np.uint8), change.date, last) == 1
    inside &= (before != NO_DATA) & ~scene.clouds[last]
    inside &= aligned(scene, scene.clouds[first].astype(np.uint8), first, last) == 0
    if not inside.any():
        return []
    if change.item.kind == "building":
        source, target = (int(np.bincount(cover[inside]).argmax()) for cover in (before, after))
        return [(inside, f"{COVER[source]} -> {COVER[target]}")] if source != target else []
    out = []
    for source in np.unique(before[inside]):
        for target in np.unique(after[inside]):
            part = inside & (before == source) & (after == target)
            if source != target and part.sum() >= LEAST_PIXELS:
                out.append((part, f"{COVER[source]} -> {COVER[target]}"))
    return out


def share(scene: Scene, date: int, cover: int) -> float:
    """Share 0..1 of the cloud-free pixels of an image that a land-cover class takes."""
    clear = ~scene.clouds[date]
    return float((scene.land_cover[date][clear] == cover).mean()) if clear.any() else 0.0


def setting_label(scene: Scene, date: int) -> str | None:
    """Scene class where the image bears it out, else None."""
    if scene.clouds[date].mean() > 0.3:
        return None
    fields, forest, water = (share(scene, date, cover) for cover in (FIELD, FOREST, WATER))
    standing = len([item for item in scene.of_kind("building") if item.there(date)])
    holds = {"residential": standing >= 3, "industrial": standing >= 3, "farmland": fields > 0.25,
             "forest": forest > 0.3, "waterside": water > 0.05 and not scene.of_kind("flood")}
    return scene.setting if holds[scene.setting] else None


def countable(scene: Scene, date: int) -> list[SceneObject] | None:
    """All standing buildings of an image; None where cloud or debris makes their number debatable."""
    present = [item for item in scene.of_kind("building") if item.there(date)]
    hidden = any(item.visible[date] < 1 for item in present)
    return None if hidden or any(item.grades[date] == 3 for item in present) else present


def clauses(scene: Scene, changes: Sequence[Change], variant: int) -> list[str]:
    """Clauses of a change caption, one per kind, in canonical order."""
    groups: dict[str, list[Change]] = {}
    for change in changes:
        name = "destroyed" if change.kind == "damaged" and GRADES[change.grade] == "destroyed" else change.kind
        groups.setdefault(name, []).append(change)
    out = []
    for kind in language.CLAUSES:
        group = groups.get(kind, [])
        if group:
            centres = [centre(visible_mask(scene, change.item, change.date)) for change in group]
            where = "" if kind == "road added" else language.place(centres, scene.size)
            out.append(language.change_clause(kind, len(group), where, variant))
    return out


def change_captions(scene: Scene, first: int, last: int) -> list[str]:
    """Three or more right captions of the change between two dates; the first is the canonical one."""
    seen = [change for change in changes_between(scene, first, last) if change.assessable]
    if not seen:
        cloudy = max(float(scene.clouds[date].mean()) for date in (first, last)) > 0.01
        return list(language.NO_CHANGE_CLOUD if cloudy else language.NO_CHANGE)
    return [language.joined(clauses(scene, seen, variant)) for variant in range(3)]


def image_captions(scene: Scene, date: int) -> list[str]:
    """Three right captions of one image; the first is the canonical one."""
    label = setting_label(scene, date)
    start = language.SETTINGS[label] if label else "an area"
    standing = [item for item in scene.of_kind("building")
                if item.there(date) and item.grades[date] < 3 and item.assessable(date)]
    parts = []
    if standing:
        parts.append("a building" if len(standing) == 1 else f"{language.number(len(standing))} buildings")
    for cover in (ROAD, WATER, FOREST, FIELD):
        if share(scene, date, cover) >= 0.02:
            parts.append(language.COVER_WORDS[COVER[cover]])
    if not parts:
        return [start, f"{start} without buildings", f"there is {start}"]
    items = language.joined(parts)
    return [f"{start} with {items}", f"{items} in {start}", f"there {'are' if len(standing) > 1 else 'is'} {items}"]
