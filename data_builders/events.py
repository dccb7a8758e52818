"""Splits by event: what a model saw of a disaster tells it what the neighbouring tile looks like."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence

from geotempo.model.errors import InputError
from geotempo.model.records import ImageRecord


def event_names(held_out: str | Sequence[str]) -> tuple[str, ...]:
    """Events of an option that is a list, or text with commas."""
    names = held_out.split(",") if isinstance(held_out, str) else held_out
    return tuple(sorted({name.strip() for name in names if name.strip()}))


def check_events(held_out: Sequence[str], known: Iterable[str], source: str) -> None:
    """Check the events to hold out against those of the data.

    Raises:
        InputError: One is not there, or none would be left to train on.
    """
    there = sorted(set(known))
    odd = [name for name in held_out if name not in there]
    if odd:
        raise InputError(f"held_out names {odd[0]!r}, which {source} does not have here; it has: {', '.join(there)}")
    if held_out and set(held_out) == set(there):
        raise InputError(f"held_out names all events of {source} that are here ({', '.join(there)}); leave one to train on")


def event_split(event: str, held_out: Sequence[str], split: str) -> str:
    """`split`, or where events are held out: val for these and train for all others, whatever folder they are in."""
    if not held_out:
        return split
    return "val" if event in held_out else "train"


def assign_events(events: Collection[str], named: Mapping[str, Sequence[str]] | None, seed: int, splits: Sequence[str]) -> dict[str, str]:
    """One split for each event of a mixture.

    Args:
        events: All of them, as `families.event_name` writes them.
        named: Events by split where they are chosen, the others go to train; None draws a tenth, at least one, for each split
            but train, as long as one is left for train.
        seed: Of the draw, which depends on the names only.
        splits: Splits that there are to be; without train nothing is held out.

    Raises:
        InputError: An event is not there, or is to be in two splits.
    """
    if named is not None:
        given = {name.strip().lower().replace("_", "-").replace(" ", "-"): split for split, names in named.items() for name in names}
        odd = next((name for name in given if name not in events), None)
        if odd is not None:
            raise InputError(f"events names {odd!r}, which no store of the mixture has; they have: {', '.join(sorted(events)) or 'none'}")
        if len(given) < sum(map(len, named.values())):
            raise InputError("events names an event twice; each can be in one split only")
        return {event: given.get(event, "train") for event in events}
    if "train" not in splits:
        return {}
    order = sorted(events, key=lambda event: hashlib.blake2b(f"{seed}:{event}".encode(), digest_size=8).digest())
    share = max(1, round(len(order) / 10))
    found: dict[str, str] = {}
    for split in splits:
        for event in order[len(found) : len(found) + share]:
            if split != "train" and len(found) + 1 < len(order):
                found[event] = split
    return {event: found.get(event, "train") for event in events}


def footprint(image: ImageRecord) -> dict[str, list[float]]:
    """`footprint` of an image in degrees, [lon_min, lat_min, lon_max, lat_max], as a meta entry; empty where unknown."""
    if image.transform is None or image.crs != "EPSG:4326":
        return {}
    a, b, c, d, e, f = image.transform
    corners = [(x, y) for x in (0, image.width) for y in (0, image.height)]
    xs, ys = [a * x + b * y + c for x, y in corners], [d * x + e * y + f for x, y in corners]
    return {"footprint": [round(value, 7) for value in (min(xs), min(ys), max(xs), max(ys))]}
