"""The file that describes a mixture of stores, read and checked key by key; see `geotempo.data_builders.mix`."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from geotempo.data_builders.sample import TASKS
from geotempo.model.errors import ConfigError

SPLITS = ("train", "val", "test")
Use = Literal["commercial", "any"]


@dataclass(frozen=True)
class Part:
    """One store of a mixture.

    Attributes:
        store: Its folder.
        weight: Samples of train in proportion to the other parts'; None counts as 1, and without any weight and number of
            samples everything is taken.
        tasks: Tasks to take; None takes all.
        splits: Splits of the store to take; None takes all.
        cap: Most samples of each split.
        cap_per_task: Most samples of each task in each split.
        temperature: In place of the mixture's.
    """

    store: str
    weight: float | None = None
    tasks: tuple[str, ...] | None = None
    splits: tuple[str, ...] | None = None
    cap: int | None = None
    cap_per_task: int | None = None
    temperature: float | None = None

    def takes(self, split: str, task: str) -> bool:
        """Whether samples of a split and task are wanted."""
        return (self.splits is None or split in self.splits) and (self.tasks is None or task in self.tasks)


@dataclass(frozen=True)
class Mixture:
    """A whole mixture.

    Attributes:
        stores: Its parts.
        seed: Of the draw.
        samples: Samples of train, or by split; None takes all, or as many as the weights allow.
        temperature: A task of n samples counts as n ** temperature, 0 to 1.
        splits: Splits that the mixture has.
        licence: `commercial` refuses sources that do not allow it.
        events: `held_out`, `mixed`, or events by split, the others in train.
    """

    stores: tuple[Part, ...]
    seed: int = 0
    samples: int | dict[str, int] | None = None
    temperature: float = 1.0
    splits: tuple[str, ...] = SPLITS
    licence: Use = "any"
    events: str | dict[str, tuple[str, ...]] = "held_out"

    @property
    def weighted(self) -> bool:
        """Whether any part has a weight."""
        return any(part.weight is not None for part in self.stores)

    def wanted(self, split: str) -> int | None:
        """Samples that a split is to have; None for all."""
        if isinstance(self.samples, dict):
            return self.samples.get(split)
        return self.samples if split == "train" else None

    def to_dict(self) -> dict[str, Any]:
        """For the manifest; without what was left out."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None} | {
            "stores": [{key: value for key, value in dataclasses.asdict(part).items() if value is not None} for part in self.stores]}


def read_mixture(path: Path) -> Mixture:
    """Read and check a mixture file.

    Raises:
        ConfigError: Missing, no YAML, or a wrong key (with the nearest known one) or value.
    """
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the mixture {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    return parse_mixture(given, str(path))


def parse_mixture(given: Any, where: str) -> Mixture:
    """A mixture of parsed YAML.

    Args:
        given: The whole file.
        where: Its name, for messages.

    Raises:
        ConfigError: A wrong key or value.
    """
    _keys(given, Mixture, where)
    parts = given.get("stores")
    if not isinstance(parts, list) or not parts:
        raise ConfigError(f"{where} needs stores, a list of one or more `- store: FOLDER`, got {parts!r}")
    stores = tuple(_part(entry, f"{where}, store {number}") for number, entry in enumerate(parts, 1))
    if len({part.store for part in stores}) < len(stores):
        raise ConfigError(f"{where} names a store twice; name it once, with all its tasks")
    mixture = Mixture(**{**given, "stores": stores, "samples": _samples(given.get("samples"), where),
                         "splits": _names(given.get("splits", list(SPLITS)), SPLITS, f"{where}: splits"),
                         "events": _events(given.get("events", "held_out"), where)})
    _whole(mixture.seed, "seed", where)
    _number(mixture.temperature, "temperature", where, most=1)
    if mixture.licence not in get_args(Use):
        raise ConfigError(f"{where}: licence is {mixture.licence!r}; allowed: {', '.join(get_args(Use))}")
    if mixture.samples is None and any((part.temperature if part.temperature is not None else mixture.temperature) != 1 and part.cap is None
                                       and part.weight is None for part in stores):
        raise ConfigError(f"{where}: a temperature below 1 needs samples, cap or weight: how many to draw")
    return mixture


def _part(given: Any, where: str) -> Part:
    _keys(given, Part, where)
    if not isinstance(given.get("store"), str) or not given["store"]:
        raise ConfigError(f"{where} needs store: FOLDER, got {given.get('store')!r}")
    part = Part(**{**given, "tasks": _names(given.get("tasks"), TASKS, f"{where}: tasks"),
                   "splits": _names(given.get("splits"), SPLITS, f"{where}: splits")})
    for key in ("cap", "cap_per_task"):
        if getattr(part, key) is not None:
            _whole(getattr(part, key), key, where, least=1)
    if part.weight is not None:
        _number(part.weight, "weight", where)
        if part.weight == 0:
            raise ConfigError(f"{where}: weight is 0; leave the store out instead")
    if part.temperature is not None:
        _number(part.temperature, "temperature", where, most=1)
    return part


def _samples(given: Any, where: str) -> int | dict[str, int] | None:
    if given is None:
        return None
    if isinstance(given, Mapping):
        _names(list(given), SPLITS, f"{where}: samples")
        for split, count in given.items():
            _whole(count, f"samples.{split}", where)
        return dict(given)
    _whole(given, "samples", where, least=1)
    return int(given)


def _events(given: Any, where: str) -> str | dict[str, tuple[str, ...]]:
    if given in ("held_out", "mixed"):
        return str(given)
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}: events is {given!r}; allowed: held_out, mixed, or lists of events by split, {{val: [...], test: [...]}}")
    _names(list(given), SPLITS[1:], f"{where}: events")
    for split, names in given.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ConfigError(f"{where}: events.{split} must be a list of names, got {names!r}")
    return {split: tuple(names) for split, names in given.items()}


def _names(given: Any, allowed: Iterable[str], where: str) -> Any:
    if given is None:
        return None
    if not isinstance(given, list) or not given:
        raise ConfigError(f"{where} must be a list of one or more names, got {given!r}")
    for name in given:
        _known(name, list(allowed), where)
    return tuple(given)


def _keys(given: Any, kind: type[Part] | type[Mixture], where: str) -> None:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where} must hold keys and values, got {given!r}")
    for key in given:
        _known(key, [entry.name for entry in dataclasses.fields(kind)], where)


def _known(name: Any, allowed: list[str], where: str) -> None:
    if name not in allowed:
        near = difflib.get_close_matches(str(name), allowed, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"{where}: unknown {name!r}; {hint}allowed: {', '.join(allowed)}")


def _whole(value: Any, key: str, where: str, least: int = 0) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{where}: {key} must be a whole number of {least} or more, got {value!r}")


def _number(value: Any, key: str, where: str, most: float = float("inf")) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most or value == float("inf"):
        limit = "" if most == float("inf") else f" and at most {most:g}"
        raise ConfigError(f"{where}: {key} must be a number of 0 or more{limit}, got {value!r}")
