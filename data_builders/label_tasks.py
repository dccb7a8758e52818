"""Labels become samples: masks and boxes turned into every task that they can support, with balanced negatives.

Each function takes the `Draft` of one item and its regions, and yields samples whose questions come from
`prompts.yaml`. What is denied (a class that is not there, a kind of change that did not happen) is drawn with a seed
made of the sample's id, at most as often as something is affirmed. Damage and other states per date are in
`geotempo.data_builders.label_states`, changes of land cover in `geotempo.data_builders.semantic`.
"""

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from geotempo.data_builders.instances import flag_meta
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Draft, listing
from geotempo.data_builders.wordings import ask
from geotempo.model.geometry import Box, RotatedBox, area
from geotempo.model.records import Region

GROUNDING: Final = "change_grounding"
"""The task that asks for boxes, of a phrase on one image as well as of changes between several."""

PER_CLASS = 2
"""Regions of each class of an item that get a question of their own."""

_IRREGULAR = {"person": "people", "aircraft": "aircraft", "leaf": "leaves", "roof": "roofs"}
_MASS = frozenset({"water", "vegetation", "ground", "land", "farmland", "grassland", "woodland", "cropland", "grass",
                   "soil", "forest", "surface", "sand", "snow", "ice"})


def plural(thing: str) -> str:
    """Plural of a class name in lower case (`tennis court`, `factory`); what cannot be counted stays as it is."""
    head, _, word = thing.rpartition(" ")
    if is_mass(thing):
        return thing
    if word in _IRREGULAR:
        word = _IRREGULAR[word]
    elif word.endswith(("s", "x", "z", "ch", "sh")):
        word += "es"
    elif word.endswith("y") and word[-2:-1] not in "aeiou":
        word = word[:-1] + "ies"
    else:
        word += "s"
    return f"{head} {word}".strip()


def is_mass(thing: str) -> bool:
    """Whether a class is a cover rather than an object, so that it is not counted (`water`, `low vegetation`)."""
    return thing.rpartition(" ")[2] in _MASS


def slug(text: str) -> str:
    """A text as part of a sample id: without blanks and without the marks that structure ids."""
    return "".join("_" if mark.isspace() or mark in "#@/" else mark for mark in text)


def by_size(regions: Sequence[Region]) -> list[Region]:
    """Regions, largest area first, ties in the order given."""
    return sorted(regions, key=lambda region: -area(region.geometry))


def has_mask(regions: Sequence[Region]) -> bool:
    """Whether all regions have outlines, so that masks may be asked for; true of none at all."""
    return not any(isinstance(region.geometry, Box | RotatedBox) for region in regions)


def region_facts(draft: Draft, regions: Sequence[Region], left_out: int) -> dict[str, Any]:
    """Meta of a sample that lists regions: how many the cap left out, and which are doubtful."""
    first = draft.images[0]
    return {"left_out": left_out, **flag_meta(regions, first.height, first.width)}


def list_sample(draft: Draft, tag: str, task: str, question: str, regions: Sequence[Region], prose: str = "",
                **meta: Any) -> Sample:
    """A sample that is answered by a region list, after a line of prose where there is one.

    Args:
        draft: The item.
        tag: Makes the sample's id.
        task: One of `TASKS`.
        question: From `ask`.
        regions: Largest first, at most `MAX_REGIONS` of which the answer lists.
        prose: The sentence before the list.
        **meta: Further facts.
    """
    answer, left_out = listing(range(len(regions)))
    return draft.sample(tag, task, question, f"{prose}\n{answer}" if prose else answer, regions,
                        **region_facts(draft, regions, left_out), **meta)


def object_tasks(draft: Draft, regions: Sequence[Region], classes: Sequence[str], *,
                 masks: bool | None = None) -> Iterator[Sample]:
    """Everything that labelled objects on one image support: each class on it, classes that are not, single objects.

    Args:
        draft: An item of one image.
        regions: All objects of `classes` on it, labelled with their class.
        classes: The vocabulary. It must be exhaustive: a class without a region is denied.
        masks: Whether the source has outlines; None looks at the regions, which an image without any cannot tell.
    """
    outlined = has_mask(regions) if masks is None else masks
    by_class = {thing: [region for region in regions if region.label == thing] for thing in classes}
    denied = absent([thing for thing, found in by_class.items() if found], classes, draft.id("absent"))
    for thing, found in by_class.items():
        if found or thing in denied:
            yield from class_tasks(draft, thing, found, masks=outlined)
    yield from region_tasks(draft, regions)


def absent(present: Collection[str], classes: Sequence[str], seed: str) -> list[str]:
    """Classes to deny: as many of those that are not there as there are present ones, and one where there is none."""
    missing = [thing for thing in classes if thing not in present]
    return random.Random(seed).sample(missing, min(len(missing), max(1, len(present))))


def class_tasks(draft: Draft, thing: str, regions: Sequence[Region], *, masks: bool = True) -> Iterator[Sample]:
    """Masks (or boxes), number and presence of one class on one image; empty list, 0 and no where there is none."""
    things, tag, ordered = plural(thing), slug(thing), by_size(regions)
    task = "referring_segmentation" if masks else GROUNDING
    name = f"{task}:{tag}"
    question = ask("referring_segmentation" if masks else "grounding", draft.id(name), phrase=f"all {things}")
    yield list_sample(draft, name, task, question, ordered)
    if not is_mass(thing):
        name = f"counting:{tag}"
        yield draft.sample(name, "counting", ask("counting.objects", draft.id(name), things=things), str(len(ordered)))
    name = f"vqa:{tag}"
    wording = "vqa.present_mass" if is_mass(thing) else "vqa.present"
    yield draft.sample(name, "vqa", ask(wording, draft.id(name), things=things), "yes" if ordered else "no")


def region_tasks(draft: Draft, regions: Sequence[Region]) -> Iterator[Sample]:
    """What is at a place: a few objects of each class, answered with the class."""
    for thing in sorted({region.label for region in regions if region.assessable}):
        same = [region for region in regions if region.label == thing and region.assessable]
        chosen = random.Random(draft.id(f"region_vqa:{thing}")).sample(range(len(same)), min(PER_CLASS, len(same)))
        for number in sorted(chosen):
            tag = f"region_vqa:{slug(thing)}-{number}"
            yield draft.sample(tag, "region_vqa", ask("region_vqa.class", draft.id(tag)), thing, [unnamed(same[number])])


def unnamed(region: Region) -> Region:
    """The region without its label, which would give the answer away in a question."""
    return replace(region, label="")


def expression_tasks(draft: Draft, tag: str, phrase: str, regions: Sequence[Region], **meta: Any) -> Iterator[Sample]:
    """A referring expression: its boxes, its masks where there are outlines, and the way back from the place to the words.

    Args:
        draft: The item.
        tag: Unique in the item, for the ids.
        phrase: The expression, without final period.
        regions: What it refers to; none where nothing matches.
        **meta: Further facts for all samples.
    """
    ordered = by_size(regions)
    name = f"{GROUNDING}:{tag}"
    yield list_sample(draft, name, GROUNDING, ask("grounding", draft.id(name), phrase=phrase), ordered, **meta)
    if ordered and has_mask(ordered):
        name = f"referring_segmentation:{tag}"
        question = ask("referring_segmentation", draft.id(name), phrase=phrase)
        yield list_sample(draft, name, "referring_segmentation", question, ordered, **meta)
    if len(ordered) == 1:
        name = f"region_caption:{tag}"
        yield draft.sample(name, "region_caption", ask("region_caption", draft.id(name)), phrase,
                           [unnamed(ordered[0])], references=[phrase], **meta)


def change_tasks(draft: Draft, regions: Sequence[Region], thing: str, *, done: str = "", count: bool = True,
                 presence: bool = True) -> Iterator[Sample]:
    """Presence, grounding, referring and change segmentation, and number, of the changes of one kind of thing.

    Without regions they are the negatives: no, an empty list, 0.

    Args:
        draft: A pair.
        regions: All changes of the thing between the two images, largest first.
        thing: What changed, in the singular (`building`, `cropland area`); the prompts name it, so that an empty
            answer denies it and nothing else.
        done: What happened to it (`built`, `demolished`); empty where the labels only say that it changed.
        count: Whether a region is one thing, so that they can be counted.
        presence: Whether a missing region means that there was none; false where not everything is labelled.
    """
    things, suffix = plural(thing), ".event" if done else ""
    end = f"{slug(things)}{'_' + slug(done) if done else ''}"
    fields = {"thing": thing, "things": things, **({"done": done} if done else {})}
    if presence:
        tag = f"change_vqa:{end}"
        question = ask("change_vqa.event" if done else "change_vqa.things", draft.id(tag), 0, **fields)
        yield draft.sample(tag, "change_vqa", question, "yes" if regions else "no")
    phrase = ask("phrase.event" if done else "phrase.changed", draft.id(end), 0, **fields)
    for task, wording, more in ((GROUNDING, f"{GROUNDING}{suffix}", fields),
                                ("referring_segmentation", "referring_segmentation", {"phrase": phrase}),
                                ("change_segmentation", f"change_segmentation{suffix}", fields)):
        tag = f"{task}:{end}"
        yield list_sample(draft, tag, task, ask(wording, draft.id(tag), 0, **more), regions)
    if count:
        tag = f"counting:{end}"
        question = ask("counting.event" if done else "counting.changed", draft.id(tag), 0, **fields)
        yield draft.sample(tag, "counting", question, str(len(regions)))


def joint_task(draft: Draft, caption: str, references: Sequence[str], things: str, regions: Sequence[Region]) -> Sample:
    """Caption, newline, regions: to be asked only where captions and mask tell the same story.

    Args:
        draft: A pair.
        caption: The sentence of the answer.
        references: All captions.
        things: What the mask holds, in the plural.
        regions: Largest first.
    """
    tag = "change_segmentation:joint"
    question = ask("change_segmentation.joint", draft.id(tag), things=things)
    return list_sample(draft, tag, "change_segmentation", question, regions, caption, references=list(references))


def any_change_task(draft: Draft, changed: bool) -> Sample:
    """Whether anything has changed at all; only for labels that leave no kind of change out."""
    tag = "change_vqa"
    return draft.sample(tag, tag, ask("change_vqa.any", draft.id(tag)), "yes" if changed else "no")
