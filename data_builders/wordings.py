"""Wordings of the questions: several per task, in `prompts.yaml`, one chosen for each sample by its id."""

import random
from functools import cache
from importlib import resources

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
