"""The one error family.

A message says what was given, what is allowed and what to do. The command line prints it on one line and exits
with code 2; anything else that escapes is a bug.
"""

import importlib.util


class GeoTempoError(Exception):
    """Base of every error that a user can cause or mend."""


class InputError(GeoTempoError):
    """A file, an argument or a piece of data that cannot be used as given."""


class LayoutError(InputError):
    """A dataset folder that does not have the layout which its builder expects."""


class ConfigError(GeoTempoError):
    """A recipe or task file with a wrong key or value."""


class ModelError(GeoTempoError):
    """A checkpoint that is missing, incomplete or of the wrong architecture."""


class MissingExtraError(GeoTempoError):
    """An optional dependency that is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}, which is not installed; "
                         f'run: pip install "geotempo[{extra}]"')


def require(package: str, extra: str, purpose: str) -> None:
    """Refuse to begin without an optional package, before anything imports it.

    Args:
        package: As it is imported.
        extra: Extra of GeoTempo that brings it.
        purpose: What needs it, the beginning of the message.

    Raises:
        MissingExtraError: It is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise MissingExtraError(package, extra, purpose)
