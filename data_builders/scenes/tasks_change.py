"""Tasks about two dates: captions, questions, grounding, segmentation, land-cover transitions and damage."""

from geotempo.data_builders.scenes import language
from geotempo.data_builders.scenes.desk import Desk, View
from geotempo.data_builders.scenes.facts import Change, change_captions, changes_between, transitions
from geotempo.data_builders.scenes.scene import CHANGE_KINDS, GRADES, SceneObject

_MAX_REGIONS = 32


def add(desk: Desk) -> None:
    """Add the samples about a pair of dates; each task draws its own pair."""
    for task in (_caption, _any_change, _kind_questions, _how_many, _region_question, _region_caption, _ground_all,
                 _ground_kind, _refer, _segment, _segment_caption, _semantic, _damage_all, _damage_one):
        view = _draw_view(desk)
        task(desk, view, changes_between(desk.scene, view.first, view.last))


def _draw_view(desk: Desk) -> View:
    """The pair of a short sequence; in a longer one a random pair, three times in four one that holds a change."""
    count = len(desk.records)
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    changed = [pair for pair in pairs if changes_between(desk.scene, *pair)]
    return desk.view(*desk.pick(changed if changed and desk.rng.random() < 0.75 else pairs))


def _hidden(changes: list[Change], kind: str = "") -> bool:
    """Whether cloud hides a change (of a kind), so that its absence could not be claimed."""
    return any(not change.assessable for change in changes if kind in ("", change.kind))


def _caption(desk: Desk, view: View, changes: list[Change]) -> None:
    captions = change_captions(desk.scene, view.first, view.last)
    desk.add("change_caption", view, desk.ask("change_caption", span=view.span), captions[0],
             desk.hidden_regions(view), captions)


def _any_change(desk: Desk, view: View, changes: list[Change]) -> None:
    seen = any(change.assessable for change in changes)
    if seen or not changes:
        desk.add("change_vqa", view, desk.ask("any_change", span=view.span), "yes" if seen else "no")


def _kind_questions(desk: Desk, view: View, changes: list[Change]) -> None:
    """One yes and one no, where the pair has both."""
    happened = sorted({change.kind for change in changes if change.assessable})
    absent = [kind for kind in CHANGE_KINDS if kind not in happened and not _hidden(changes, kind)]
    for answer, kinds in (("yes", happened), ("no", absent)):
        if kinds:
            desk.add("change_vqa", view, desk.ask(desk.pick(kinds), span=view.span), answer)


def _how_many(desk: Desk, view: View, changes: list[Change]) -> None:
    """A number as a change question and another one as counting; 0 stays rarer than the rest together."""
    for task in ("change_vqa", "counting"):
        counts = {kind: sum(change.kind == kind for change in changes) for kind in language.DONE
                  if not _hidden(changes, kind)}
        kinds = [kind for kind, count in counts.items() if count] if desk.rng.random() < 0.7 else list(counts)
        if kinds:
            kind = desk.pick(kinds)
            desk.add(task, view, desk.ask("how_many", done=language.DONE[kind], span=view.span), str(counts[kind]))


def _fates(desk: Desk, view: View, changes: list[Change]) -> list[tuple[SceneObject, int, str]]:
    """Buildings of a pair: object, the date that shows it, and what happened as a short answer."""
    changed = {change.item.id: change for change in changes}
    out = []
    for item in desk.scene.of_kind("building"):
        change = changed.get(item.id)
        if change is None and not (item.there(view.first) and item.there(view.last) and item.grades[view.last] == 0):
            continue
        date = change.date if change else view.last
        word = "no change" if change is None else GRADES[change.grade] if change.kind == "damaged" else change.kind
        # The region is shown on a date on which it can be seen; the question may still be beyond the other date.
        if item.assessable(date):
            out.append((item, date, word if item.assessable(view.first, view.last) else language.NOT_ASSESSABLE))
    return out


def _pick_fate(desk: Desk, view: View, changes: list[Change]) -> tuple[SceneObject, int, str] | None:
    """A building of the pair, every kind of fate equally likely."""
    fates = _fates(desk, view, changes)
    if not fates:
        return None
    word = desk.pick(sorted({word for _, _, word in fates}))
    return desk.pick([fate for fate in fates if fate[2] == word])


def _region_question(desk: Desk, view: View, changes: list[Change]) -> None:
    fate = _pick_fate(desk, view, changes)
    if fate is not None:
        item, date, word = fate
        desk.add("region_vqa", view, desk.ask("region_change", region="<region:0>", span=view.span), word,
                 [desk.object_region(view, item, date, "building")])


def _region_caption(desk: Desk, view: View, changes: list[Change]) -> None:
    fate = _pick_fate(desk, view, changes)
    if fate is None or fate[2] == language.NOT_ASSESSABLE:
        return
    item, date, word = fate
    what, harm = f"building with a {item.colour} roof", word.replace("-", " ")
    captions = {
        "no change": (f"the {what} has not changed", f"the {what} is still there", "the building is unchanged"),
        "built": (f"a {what} has been built", f"there is a new {what}", "a building has been built"),
        "demolished": (f"the {what} has been demolished", f"the {what} has been removed", "a building is gone"),
        "destroyed": (f"the {what} has been destroyed", f"only debris is left of the {what}",
                      "the building has been destroyed"),
    }.get(word, (f"the {what} shows {harm}", f"there is {harm} to the {what}", f"the building shows {harm}"))
    desk.add("region_caption", view, desk.ask("region_change_caption", region="<region:0>", span=view.span),
             captions[0], [desk.object_region(view, item, date, "building")], captions)


def _ground_all(desk: Desk, view: View, changes: list[Change]) -> None:
    desk.add_list("change_grounding", view, desk.ask("ground_all", span=view.span),
                  desk.changed_regions(view, changes))


def _ground_kind(desk: Desk, view: View, changes: list[Change]) -> None:
    """One kind of change; now and then one that did not happen."""
    happened = sorted({change.kind for change in changes})
    absent = [kind for kind in CHANGE_KINDS if kind not in happened]
    kind = desk.pick(happened if happened and (not absent or desk.rng.random() < 0.75) else absent)
    chosen = [change for change in changes if change.kind == kind]
    desk.add_list("change_grounding", view, desk.ask("ground", phrase=language.PHRASES[kind], span=view.span),
                  desk.changed_regions(view, chosen))


def _refer(desk: Desk, view: View, changes: list[Change]) -> None:
    """Referring expression over time, for one kind of change that can be seen."""
    kinds = sorted({change.kind for change in changes if change.assessable})
    if kinds:
        kind = desk.pick(kinds)
        question = desk.ask("refer", phrase=language.PHRASES[kind] + view.span)
        desk.add_list("referring_segmentation", view, question,
                      desk.changed_regions(view, [change for change in changes if change.kind == kind]))


def _segment(desk: Desk, view: View, changes: list[Change]) -> None:
    desk.add_list("change_segmentation", view, desk.ask("segment", span=view.span),
                  desk.changed_regions(view, changes))


def _segment_caption(desk: Desk, view: View, changes: list[Change]) -> None:
    captions = change_captions(desk.scene, view.first, view.last)
    desk.add_list("change_segmentation", view, desk.ask("segment_caption", span=view.span),
                  desk.changed_regions(view, changes), prose=captions[0], references=captions)


def _semantic(desk: Desk, view: View, changes: list[Change]) -> None:
    """Regions in the later image, labelled `from -> to`."""
    regions = [desk.region(view, view.last, mask, label) for change in changes if change.assessable
               for mask, label in transitions(desk.scene, change, view.first, view.last)]
    desk.add_list("semantic_change", view, desk.ask("semantic", span=view.span), regions[:_MAX_REGIONS])


def _gradable(desk: Desk, view: View) -> list[SceneObject]:
    """Buildings that stood undamaged on the earlier date and can be judged on both."""
    return [item for item in desk.scene.of_kind("building")
            if item.there(view.first) and item.there(view.last) and item.grades[view.first] == 0
            and item.assessable(view.first, view.last)]


def _damage_all(desk: Desk, view: View, changes: list[Change]) -> None:
    """Every building with its grade; sequences without damage are asked one time in five."""
    items = _gradable(desk, view)
    if items and (any(item.grades[view.last] for item in items) or desk.rng.random() < 0.2):
        regions = [desk.object_region(view, item, view.last, GRADES[item.grades[view.last]]) for item in items]
        desk.add_list("damage", view, desk.ask("damage_all", span=view.span), regions)


def _damage_one(desk: Desk, view: View, changes: list[Change]) -> None:
    items = _gradable(desk, view)
    grades = sorted({item.grades[view.last] for item in items})
    if not grades or (grades == [0] and desk.rng.random() < 0.7):
        return
    grade = desk.pick(grades)
    item = desk.pick([item for item in items if item.grades[view.last] == grade])
    desk.add("damage", view, desk.ask("damage_one", region="<region:0>", span=view.span), GRADES[grade],
             [desk.object_region(view, item, view.last, "building")])
