"""A predictor that gives a fixed answer, for tests, for oracles and to redraw an answer that was kept."""

from collections.abc import Sequence
from pathlib import Path

from geotempo.model.convention import GEOTEMPO, Convention
from geotempo.model.errors import InputError
from geotempo.model.predictor import Reply, Request


class ReplayPredictor:
    """Answers every request with the same text.

    Args:
        text: The answer.
        name: What reports name as the model.
        convention: How the answer counts coordinates.
    """

    def __init__(self, text: str, name: str = "replay", convention: Convention = GEOTEMPO) -> None:
        self.text = text
        self.name = name
        self.convention = convention

    @classmethod
    def from_file(cls, path: Path) -> "ReplayPredictor":
        """Read the answer from a UTF-8 text file; one line break at its end does not count.

        Raises:
            InputError: The file is missing or no UTF-8.
        """
        try:
            text = path.read_bytes().decode("utf-8")
        except OSError as error:
            raise InputError(f"cannot read the answer file {str(path)!r}: {error.strerror}; give a text file") from None
        except UnicodeDecodeError as error:
            raise InputError(f"the answer file {str(path)!r} is not UTF-8 text ({error.reason} at byte {error.start}); "
                             "save it as UTF-8") from None
        return cls(text.removesuffix("\n").removesuffix("\r"), f"replay of {path.name}")

    def predict(self, requests: Sequence[Request]) -> list[Reply]:
        """The fixed answer, once per request."""
        return [Reply(self.text, "stop") for _ in requests]
