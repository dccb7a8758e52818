"""The one interface between whoever asks and whatever answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from geotempo.model.convention import Convention
from geotempo.model.records import ImageRecord, Region


@dataclass(frozen=True)
class Request:
    """A question about a sequence of images.

    Attributes:
        images: In the order in which the user gave them; the predictor sorts by date.
        question: Text; `<region:i>` placeholders refer to `regions`.
        regions: Regions that the question names.
        max_new_tokens: Limit of the answer's length in tokens.
    """

    images: tuple[ImageRecord, ...]
    question: str
    regions: tuple[Region, ...] = ()
    max_new_tokens: int = 512


@dataclass(frozen=True)
class Reply:
    """Raw text of an answer and why it ended (`stop` or `length`)."""

    text: str
    finish_reason: str


class Predictor(Protocol):
    """Answers requests with text; `geotempo.model.answer.parse` reads it."""

    @property
    def name(self) -> str:
        """Name or folder of the model, for reports."""

    @property
    def convention(self) -> Convention:
        """How the model counts coordinates; its answers are read with it."""

    def predict(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer each request, greedily and in order."""
