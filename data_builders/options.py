"""Options of a source from the command line: `key=value`, checked against its class."""

import difflib
import inspect
import types
from collections.abc import Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from geotempo.data_builders.source import Source
from geotempo.model.errors import ConfigError


def read_options(kind: type[Source], given: Sequence[str]) -> dict[str, Any]:
    """Keyword arguments of a source's class.

    Args:
        kind: The class; its `__init__` says which options there are and of which type.
        given: `key=value`, the value in YAML; a list is written `[a, b]` or, where nothing else fits, `a`.

    Raises:
        ConfigError: No `=`, an unknown key (the nearest is named), a key given twice, a value of another type, or an
            option that is missing.
    """
    allowed = _parameters(kind)
    found: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{text!r} is no option; write key=value, e.g. {next(iter(allowed), 'key')}=...")
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"{kind.name} has no option {key!r}; {hint}it has: {', '.join(allowed) or 'none'}")
        if key in found:
            raise ConfigError(f"the option {key!r} is given twice; give it once")
        found[key] = _value(kind, key, value, allowed[key][0])
    missing = [key for key, (_, default) in allowed.items() if default is inspect.Parameter.empty and key not in found]
    if missing:
        raise ConfigError(f"{kind.name} needs the option {missing[0]}=...; `geotempo sources {kind.name}` describes it")
    return found


def described(kind: type[Source]) -> list[str]:
    """`name: type = default` of every option of a source."""
    lines = []
    for name, (hint, default) in _parameters(kind).items():
        kind_of = getattr(hint, "__name__", None) if isinstance(hint, type) and not get_args(hint) else None
        text = kind_of or str(hint).replace("typing.", "")
        lines.append(f"{name}: {text}" + ("" if default is inspect.Parameter.empty else f" = {default!r}"))
    return lines


def _parameters(kind: type[Source]) -> dict[str, tuple[Any, Any]]:
    """Type and default of every option by name; a class that hands on `**others` has those of its base too."""
    found: dict[str, tuple[Any, Any]] = {}
    for owner in kind.mro():
        make = vars(owner).get("__init__")
        if make is None or owner is object:
            continue
        hints, parameters = get_type_hints(make), inspect.signature(make).parameters.values()
        own = {parameter.name: (hints[parameter.name], parameter.default) for parameter in list(parameters)[1:]
               if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)}
        found = {**own, **found}
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def _value(kind: type[Source], key: str, text: str, hint: Any) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"the value of {key}={text!r} is no YAML; put quotes around it") from None
    for candidate in (value, text, [value], [text]):
        fitted = _fit(candidate, hint)
        if fitted is not _NO:
            return fitted
    expected = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")
    raise ConfigError(f"{kind.name}: {key} must be {expected}, got {text!r}")


_NO = object()


def _fit(value: Any, hint: Any) -> Any:
    """The value as the type asks for it, or `_NO`."""
    origin, members = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return next((fitted for member in members if (fitted := _fit(value, member)) is not _NO), _NO)
    if origin is Literal:
        return value if value in members else _NO
    if origin in (tuple, list):
        fitted = [_fit(item, members[0]) for item in value] if isinstance(value, list) else [_NO]
        return _NO if any(item is _NO for item in fitted) else origin(fitted)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is type(None):
        return None if value is None else _NO
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    return _NO
