"""Samples of a store on their way into another trainer's format: a conversation, and the files of its images."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from geotempo.data_builders import render
from geotempo.data_builders.pictures import shown_file
from geotempo.data_builders.sample import IMAGE
from geotempo.data_builders.store import Store
from geotempo.model.convention import GEOTEMPO, Convention
from geotempo.model.errors import InputError
from geotempo.model.records import ImageRecord

CACHED = 32
"""Prepared pictures in memory: neighbouring samples often share them."""


@dataclass(frozen=True)
class Look:
    """How samples become text and pictures.

    Attributes:
        points: Answers carry two interior points per region.
        grids: Which regions carry a 16 x 16 grid of their box, see `render.Grids`.
        convention: How the model that is trained counts coordinates and is asked.
    """

    points: bool = False
    grids: render.Grids = "none"
    convention: Convention = GEOTEMPO


@dataclass(frozen=True)
class Conversation:
    """A sample in the words and with the images that `geotempo train` would show.

    Attributes:
        id: Of the sample.
        task: Of the sample.
        messages: Chat messages; content is a list of `{"type": "text", "text": ...}` and `{"type": "image"}` parts.
        images: Records without bytes, in the order of the image parts.
    """

    id: str
    task: str
    messages: list[dict[str, Any]]
    images: tuple[ImageRecord, ...]


class SetAsideError(InputError):
    """A sample that a format cannot hold.

    Attributes:
        reason: A few words to count by.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass
class Conversations:
    """The samples of a store as conversations.

    Attributes:
        store: Where they lie.
        look: How they become text and pictures.
        reserved: Words that the trainer would take for something else than text, beside `<image>`.
    """

    store: Store
    look: Look
    reserved: Sequence[str] = ()
    _file: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._file = lru_cache(CACHED)(self._prepare)

    def read(self, row: int) -> Conversation:
        """The conversation of a row of the store.

        Raises:
            SetAsideError: It cannot be rendered, or a text of it holds a reserved word.
        """
        with _setting_aside("unusable sample"):
            sample = self.store.without_pixels(row)
            prompt = render.chat(sample, points=self.look.points, grids=self.look.grids, convention=self.look.convention,
                                 pictures=False)
        for message in prompt.messages:
            for part in message["content"]:
                found = next((word for word in (IMAGE, *self.reserved) if word in part.get("text", "")), None)
                if found is not None:
                    raise SetAsideError("reserved word", f"a text of it holds {found!r}, which the trainer would take for a placeholder")
        images = tuple(sample.images[index] for index in prompt.order.order)
        return Conversation(sample.id, sample.task, prompt.messages, images)

    def file(self, image: ImageRecord) -> tuple[bytes, str]:
        """The picture that a model is shown of an image: encoded file and suffix, see `shown_file`.

        Raises:
            SetAsideError: The image cannot be read.
        """
        with _setting_aside("unreadable image"):
            made: tuple[bytes, str] = self._file(image.id, image.width, image.height)
        return made

    def _prepare(self, image_id: str, width: int, height: int) -> tuple[bytes, str]:
        data = self.store.image_bytes(image_id)
        return shown_file(ImageRecord(image_id, width, height, data=data), self.look.convention)


@contextmanager
def _setting_aside(reason: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise SetAsideError(reason, str(error)) from None
