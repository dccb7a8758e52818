"""Tasks about the whole sequence: temporal_referring (`Image k` lists, first date, after and before) and its class."""

from collections.abc import Iterable

from geotempo.data_builders.scenes import language
from geotempo.data_builders.scenes.desk import Desk, View
from geotempo.data_builders.scenes.scene import ChangeEvent, SceneObject

_NAMES = {"building": "the building", "new road": "the road", "flood": "the flood", "clearing": "the clearing"}


def add(desk: Desk) -> None:
    """Add the samples about all images of a sequence."""
    view = View(tuple(range(len(desk.records))), 0, len(desk.records) - 1)
    for task in (_exists, _first, _when, _state, _label):
        task(desk, view)


def image_list(dates: Iterable[int]) -> str:
    """Dates (indices from 0) as `Image 1, Image 3`; `none` for an empty list."""
    return ", ".join(f"Image {date + 1}" for date in dates) or "none"


def _judged(desk: Desk) -> list[SceneObject]:
    """Objects of changing kinds that no cloud hides on any date."""
    return [item for item in desk.scene.objects if item.kind in _NAMES and item.assessable(*range(len(desk.records)))]


def _shown(item: SceneObject) -> list[int]:
    """Dates on which an object exists."""
    return [date for date in range(len(item.masks)) if item.there(date)]


def _exists(desk: Desk, view: View) -> None:
    """In which images an object exists; half of the time one that is not there all the time, where there is one."""
    items = _judged(desk)
    partly = [item for item in items if len(_shown(item)) < len(desk.records)]
    if items:
        item = desk.pick(partly if partly and desk.rng.random() < 0.75 else items)
        date = desk.pick(_shown(item))
        question = desk.ask("exists", thing=_NAMES[item.kind], region="<region:0>")
        desk.add("temporal_referring", view, question, image_list(_shown(item)),
                 [desk.object_region(view, item, date, item.kind)])


def _first(desk: Desk, view: View) -> None:
    items = _judged(desk)
    late = [item for item in items if _shown(item)[0] > 0]
    if items:
        item = desk.pick(late if late and desk.rng.random() < 0.75 else items)
        date = desk.pick(_shown(item))
        question = desk.ask("first", thing=_NAMES[item.kind], region="<region:0>")
        desk.add("temporal_referring", view, question, image_list(_shown(item)[:1]),
                 [desk.object_region(view, item, date, item.kind)])


def _when(desk: Desk, view: View) -> None:
    """Last image before and first image after an object's only change."""
    judged = {item.id for item in _judged(desk)}
    events: dict[int, list[ChangeEvent]] = {}
    for event in desk.scene.events:
        events.setdefault(event.object, []).append(event)
    single = [rows[0] for number, rows in sorted(events.items()) if len(rows) == 1 and number in judged]
    if single:
        event = desk.pick(single)
        item = desk.scene.objects[event.object]
        question = desk.ask("when", thing=_NAMES[item.kind], region="<region:0>")
        desk.add("temporal_referring", view, question, f"after Image {event.after}, before Image {event.before}",
                 [desk.object_region(view, item, desk.pick(_shown(item)), item.kind)],
                 after=event.after, before=event.before)


def _state(desk: Desk, view: View) -> None:
    """In which images a state holds; `none` where it never does."""
    kind = desk.pick(sorted(language.STATES))
    here = [item for item in desk.scene.objects if item.kind in language.STATES]
    if here and desk.rng.random() < 0.8:
        kind = desk.pick(here).kind
    items = desk.scene.of_kind(kind)
    if all(item.assessable(*range(len(desk.records))) for item in items):
        dates = _shown(items[0]) if items else []
        desk.add("temporal_referring", view, desk.ask("state", state=language.STATES[kind]), image_list(dates))


def _label(desk: Desk, view: View) -> None:
    """Class of the sequence: its one kind of change, `mixed change`, or `no change`."""
    if any(not desk.scene.objects[event.object].assessable(event.after - 1, event.before - 1)
           for event in desk.scene.events):
        return
    kinds = sorted({event.kind for event in desk.scene.events})
    label = language.SEQUENCE_LABELS[kinds[0]] if len(kinds) == 1 else "mixed change" if kinds else "no change"
    desk.add("temporal_classification", view, desk.ask("sequence_label"), label)
