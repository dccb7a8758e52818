"""Wordings of the questions: several per task, in `prompts.yaml`, one chosen for each sample by its id."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from string import Formatter

import yaml

from geotempo.model.errors import ConfigError


@cache
def wordings() -> dict[str, list[str]]:
    """All wordings by name."""
    text = resources.files("geotempo.data_builders").joinpath("prompts.yaml").read_text(encoding="utf-8")
    value: dict[str, list[str]] = yaml.safe_load(text)
    return value


def ask(name: str, sample_id: str, seed: int = 0, **fields: str) -> str:
    """The question of a sample: the same id always gets the same wording, whatever else is built.

    Args:
        name: Name in `prompts.yaml`.
        sample_id: Id of the sample.
        seed: Another seed gives another choice.
        **fields: Values of the wording's `{...}` fields.

    Raises:
        ConfigError: There is no such name, or a field is missing.
    """
    if name not in wordings():
        raise ConfigError(f"prompts.yaml has no wording {name!r}; it has: {', '.join(sorted(wordings()))}")
    chosen = random.Random(f"{seed}:{sample_id}").choice(wordings()[name])
    try:
        return chosen.format(**fields)
    except KeyError as error:
        raise ConfigError(f"the wording {chosen!r} of {name!r} needs the field {error}") from None


@dataclass(frozen=True)
class Asked:
    """What a question was made of.

    Attributes:
        name: Name in `prompts.yaml`.
        form: Which of its wordings, from 0.
        fields: Values of the wording's fields.
    """

    name: str
    form: int
    fields: dict[str, str]

    @property
    def text(self) -> str:
        """The question."""
        return wordings()[self.name][self.form].format(**self.fields)


def recognise(question: str, names: Sequence[str]) -> Asked | None:
    """The wording and the fields that give a question; the inverse of `ask`.

    Args:
        question: Its text.
        names: Names in `prompts.yaml` to look among; of several that fit, the one with the most words of its own.

    Returns:
        None where no wording gives this text.
    """
    for name, form, pattern in _patterns(tuple(names)):
        if (match := pattern.fullmatch(question)) is not None:
            return Asked(name, form, match.groupdict())
    return None


@cache
def _patterns(names: tuple[str, ...]) -> list[tuple[str, int, re.Pattern[str]]]:
    """Names with the patterns of their wordings, those with the longest fixed text first."""
    found = []
    for name in names:
        for form, wording in enumerate(wordings()[name]):
            parts = list(Formatter().parse(wording))
            text = "".join(re.escape(fixed) + (f"(?P<{field}>.+?)" if field else "") for fixed, field, *_ in parts)
            found.append((-sum(len(fixed) for fixed, *_ in parts), name, form, re.compile(text)))
    return [(name, form, pattern) for _, name, form, pattern in sorted(found, key=lambda entry: entry[:3])]
