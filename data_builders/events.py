"""Splits by event: what a model saw of a disaster tells it what the neighbouring tile looks like."""

from collections.abc import Iterable, Sequence

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


def footprint(image: ImageRecord) -> dict[str, list[float]]:
    """`footprint` of an image in degrees, [lon_min, lat_min, lon_max, lat_max], as a meta entry; empty where unknown."""
    if image.transform is None or image.crs != "EPSG:4326":
        return {}
    a, b, c, d, e, f = image.transform
    corners = [(x, y) for x in (0, image.width) for y in (0, image.height)]
    xs, ys = [a * x + b * y + c for x, y in corners], [d * x + e * y + f for x, y in corners]
    return {"footprint": [round(value, 7) for value in (min(xs), min(ys), max(xs), max(ys))]}
