"""States become samples: damage after a disaster, and states per date of a sequence (which, since when, until when)."""

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from geotempo.data_builders.label_tasks import PER_CLASS, list_sample, region_facts, slug, unnamed
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Draft, listing
from geotempo.data_builders.wordings import ask
from geotempo.model.records import Region

LEVELS: Final = ("no-damage", "minor-damage", "major-damage", "destroyed")
"""The joint damage scale of xBD, from none to the worst."""

INTACT: Final = ("no-damage", "intact")
"""Names of the first level, no damage, in the scales of the field."""

UNCLASSIFIED: Final = "un-classified"
NONE: Final = "none"
"""Answer where no image shows what is asked for."""


def image_list(numbers: Iterable[int]) -> str:
    """Acquisition numbers (from 1) as `Image 1, Image 3`; `none` for no number."""
    return ", ".join(f"Image {number}" for number in numbers) or NONE


def either(words: Sequence[str]) -> str:
    """`a, b or c`."""
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def damage_tasks(draft: Draft, buildings: Mapping[str, Region], levels: Sequence[str] = LEVELS) -> Iterator[Sample]:
    """Damage of all buildings and of single ones, damaged ones, masks and numbers per level, in which images one is intact.

    Args:
        draft: A pair, before and after.
        buildings: Regions of image 2 by uid, largest first, labelled with a level; those that nobody could grade are
            not assessable. They are stored, and no answer counts on them.
        levels: The scale, from no damage to the worst.
    """
    assessed = {uid: region for uid, region in buildings.items() if region.assessable}
    yield _damage_of_all(draft, list(buildings.values()), levels)
    tag = "change_grounding:damaged"
    damaged = [replace(region, label="damaged building") for region in assessed.values() if region.label != levels[0]]
    yield list_sample(draft, tag, "change_grounding", ask("change_grounding.damage", draft.id(tag)), damaged)
    for level in levels:
        tag = f"counting:{level}"
        count = sum(region.label == level for region in assessed.values())
        yield draft.sample(tag, "counting", ask("counting.damage", draft.id(tag), level=level), str(count))
    yield from _of_level(draft, list(assessed.values()), levels)
    if assessed:
        tag = "change_vqa:damage"
        yield draft.sample(tag, "change_vqa", ask("change_vqa.damage", draft.id(tag)), "yes" if damaged else "no")
    for uid in _chosen(assessed, levels):
        yield from _single(draft, uid, assessed[uid], levels)


def state_tasks(draft: Draft, uid: str, region: Region, states: Sequence[str | None], vocabulary: Sequence[str],
                thing: str) -> Iterator[Sample]:
    """Which images show a place in a state, since and until when, and its state on one date.

    Args:
        draft: A sequence.
        uid: Name of the place, unique in the sequence.
        region: The place.
        states: Its state in each image; None where nobody knows, which leaves questions about the whole sequence out.
        vocabulary: All states that there are.
        thing: What the place is called in the questions.
    """
    place, end = [unnamed(region)], slug(uid)
    known = [number for number, state in enumerate(states, 1) if state is not None]
    if known:
        tag = f"region_vqa:state:{end}"
        number = random.Random(draft.id(tag)).choice(known)
        question = ask("region_vqa.state", draft.id(tag), thing=thing, number=str(number), states=", ".join(vocabulary))
        yield draft.sample(tag, "region_vqa", question, str(states[number - 1]), place)
    if len(known) == len(states) > 1:
        yield from _since_when(draft, end, place, [str(state) for state in states], thing)
        held = [state for state in vocabulary if state in states]
        denied = [state for state in vocabulary if state not in states]
        for state in (*held, *random.Random(draft.id(end)).sample(denied, min(1, len(denied)))):
            tag = f"temporal_referring:{slug(state)}:{end}"
            question = ask("temporal_referring.state", draft.id(tag), thing=thing, state=state)
            yield draft.sample(tag, "temporal_referring", question,
                               image_list(number for number in known if states[number - 1] == state), place)


def _since_when(draft: Draft, end: str, place: Sequence[Region], states: Sequence[str], thing: str) -> Iterator[Sample]:
    """When the last state began and when the first one ended, where it changed at all."""
    if states[0] == states[-1]:
        return
    last = len(states)
    since = next(number for number in range(last, 0, -1) if number == 1 or states[number - 2] != states[-1])
    until = next(number for number in range(1, last + 1) if states[number] != states[0])
    for name, state, number in (("since", states[-1], since), ("until", states[0], until)):
        tag = f"temporal_referring:{name}:{end}"
        question = ask(f"temporal_referring.{name}", draft.id(tag), thing=thing, state=state)
        yield draft.sample(tag, "temporal_referring", question, image_list([number]), place)


def _damage_of_all(draft: Draft, regions: Sequence[Region], levels: Sequence[str]) -> Sample:
    """All buildings are stored; the answer lists the largest assessed ones."""
    answer, left_out = listing([index for index, region in enumerate(regions) if region.assessable])
    counts = {level: sum(region.label == level for region in regions) for level in (*levels, UNCLASSIFIED)}
    question = ask("damage.all", draft.id("damage"), levels=", ".join(levels), either=either(levels))
    return draft.sample("damage", "damage", question, answer, regions, buildings=counts,
                        **region_facts(draft, regions, left_out))


def _of_level(draft: Draft, assessed: Sequence[Region], levels: Sequence[str]) -> Iterator[Sample]:
    """Masks of the buildings of each kind of damage that there is, and of one that there is not."""
    held = {region.label for region in assessed}
    denied = [level for level in levels[1:] if level not in held]
    for level in (*(level for level in levels[1:] if level in held),
                  *random.Random(draft.id("absent")).sample(denied, min(1, len(denied)))):
        tag = f"referring_segmentation:{level}"
        phrase = ask("phrase.damage", draft.id(tag), level=level)
        question = ask("referring_segmentation", draft.id(tag), phrase=phrase)
        yield list_sample(draft, tag, "referring_segmentation", question, [region for region in assessed if region.label == level])


def _chosen(assessed: Mapping[str, Region], levels: Sequence[str]) -> list[str]:
    """A few buildings of each level, by the hash of their uid, so that the choice is neither by size nor by place."""
    shuffled = sorted(assessed, key=lambda uid: hashlib.sha256(uid.encode()).hexdigest())
    return [uid for level in levels for uid in [uid for uid in shuffled if assessed[uid].label == level][:PER_CLASS]]


def _single(draft: Draft, uid: str, building: Region, levels: Sequence[str]) -> Iterator[Sample]:
    """Damage level of one building, and in which images it is damaged or intact."""
    # The label stays neutral: the question must not give the answer away.
    region, damaged = replace(building, label="building"), building.label != levels[0]
    tag = f"damage:{uid}"
    question = ask("damage.region", draft.id(tag), levels=", ".join(levels), either=either(levels))
    yield draft.sample(tag, "damage", question, building.label, [region])
    if damaged:
        tag = f"temporal_referring:damaged:{uid}"
        yield draft.sample(tag, "temporal_referring", ask("temporal_referring.damaged", draft.id(tag)), image_list([2]),
                           [region])
    tag = f"temporal_referring:intact:{uid}"
    yield draft.sample(tag, "temporal_referring", ask("temporal_referring.intact", draft.id(tag)),
                       image_list([1] if damaged else [1, 2]), [region])
