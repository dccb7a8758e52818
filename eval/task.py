"""Evaluation tasks as YAML: which samples are asked, how long an answer may be, and how it is scored.

The shape is close to lmms-eval's task files. The shipped ones lie in `geotempo/eval/tasks`; any other file can be
named on the command line by its path.
"""

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from geotempo.data_builders.sample import TASKS
from geotempo.eval.scorers import METRICS
from geotempo.model.errors import ConfigError

SPLITS = ("train", "val", "test")
_REQUIRED = ("task", "tasks", "metrics", "protocol")
_KEYS = (*_REQUIRED, "description", "split", "generation")


@dataclass(frozen=True)
class Task:
    """One evaluation task.

    Attributes:
        task: Its name.
        tasks: Sample tasks that it asks (`geotempo.data_builders.sample.TASKS`).
        metrics: Names in `geotempo.eval.scorers.METRICS`, in the order of the report.
        protocol: Name of the scoring rules, printed with every result.
        description: One line.
        split: Split asked unless the command line names another.
        max_new_tokens: Limit of an answer's length in tokens.
    """

    task: str
    tasks: tuple[str, ...]
    metrics: tuple[str, ...]
    protocol: str
    description: str = ""
    split: str = "val"
    max_new_tokens: int = 512

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the record of a run."""
        return asdict(self)


def task_names() -> list[str]:
    """Names of the shipped tasks, sorted."""
    files = resources.files("geotempo.eval.tasks").iterdir()
    return sorted(Path(file.name).stem for file in files if file.name.endswith(".yaml"))


def load_task(name: str) -> Task:
    """A shipped task by name, or a task file by path.

    Raises:
        ConfigError: There is no such task, or the file has a wrong key or value.
    """
    if name in task_names():
        text = resources.files("geotempo.eval.tasks").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
        return task_from_yaml(text, f"{name}.yaml")
    if name.endswith((".yaml", ".yml")):
        try:
            return task_from_yaml(Path(name).read_text(encoding="utf-8"), name)
        except OSError as error:
            raise ConfigError(f"cannot read the task file {name!r}: {error.strerror}") from None
    raise ConfigError(f"unknown task {name!r}{_nearest(name, task_names())}; "
                      f"allowed: {', '.join(task_names())}, or the path of a .yaml file")


def task_from_yaml(text: str, source: str) -> Task:
    """Read and check a task file.

    Args:
        text: The YAML.
        source: Name for messages.

    Raises:
        ConfigError: Broken YAML, an unknown or missing key, a wrong value.
    """
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not readable YAML: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{source} must be a mapping with the keys {', '.join(_REQUIRED)}")
    for key in value:
        if key not in _KEYS:
            raise ConfigError(f"{source}: unknown key {key!r}{_nearest(str(key), _KEYS)}; allowed: {', '.join(_KEYS)}")
    if missing := [key for key in _REQUIRED if not value.get(key)]:
        raise ConfigError(f"{source}: missing key {missing[0]!r}; needed: {', '.join(_REQUIRED)}")
    split = _chosen(source, "split", [value.get("split", "val")], SPLITS)[0]
    return Task(
        task=str(value["task"]), protocol=str(value["protocol"]), split=split,
        tasks=_chosen(source, "tasks", value["tasks"], TASKS),
        metrics=_chosen(source, "metrics", value["metrics"], tuple(METRICS)),
        description=str(value.get("description", "")),
        max_new_tokens=_max_new_tokens(source, value.get("generation", {})),
    )


def _max_new_tokens(source: str, generation: object) -> int:
    """The one setting of `generation`; decoding is greedy always."""
    if not isinstance(generation, dict) or set(generation) - {"max_new_tokens"}:
        raise ConfigError(f"{source}: generation allows only max_new_tokens (decoding is greedy), got {generation!r}")
    limit = generation.get("max_new_tokens", 512)
    if type(limit) is not int or limit < 1:
        raise ConfigError(f"{source}: max_new_tokens must be a whole number of 1 or more, got {limit!r}")
    return limit


def _chosen(source: str, key: str, given: object, allowed: Sequence[str]) -> tuple[str, ...]:
    """A list of names, each one of `allowed`."""
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not names:
        raise ConfigError(f"{source}: {key} must be a list, got {given!r}")
    for name in names:
        if name not in allowed:
            raise ConfigError(f"{source}: unknown value {name!r} in {key}{_nearest(str(name), allowed)}; "
                              f"allowed: {', '.join(allowed)}")
    return tuple(names)


def _nearest(name: str, allowed: Sequence[str]) -> str:
    """`, did you mean 'x'?` where something is close."""
    close = difflib.get_close_matches(name, allowed, n=1)
    return f", did you mean {close[0]!r}?" if close else ""
