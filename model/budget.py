"""Long sequences under a token budget: what a prompt costs, and which dates stay when not all can.

A budget is met only by means that stock engines share: a pixel limit (Qwen-VL), a choice of tiles (LLaVA-NeXT), an
encoder with a smaller grid (chosen when composing), or fewer dates. Nothing is pooled or dropped inside the model. What
is over budget is refused with the numbers and the remedies; it is never cut.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from geotempo.model.errors import InputError
from geotempo.model.records import ImageRecord, time_order


@dataclass(frozen=True)
class Budget:
    """What a prompt costs in tokens.

    Attributes:
        text: Tokens of the words.
        images: Tokens of each image.
        answer: Tokens kept free for the answer.
        limit: Tokens that prompt and answer may have together.
    """

    text: int
    images: tuple[int, ...]
    answer: int
    limit: int

    @property
    def prompt(self) -> int:
        """Tokens of the whole prompt."""
        return self.text + sum(self.images)

    @property
    def fits(self) -> bool:
        """Whether prompt and answer stay within the limit."""
        return self.prompt + self.answer <= self.limit

    def require(self) -> None:
        """Refuse what does not fit.

        Raises:
            InputError: Names what each part takes and how to take less.
        """
        if self.fits:
            return
        spread = sorted(set(self.images))
        each = f"{spread[0]}" if len(spread) == 1 else f"{spread[0]} to {spread[-1]}" if spread else "0"
        count = f"{len(self.images)} image{'' if len(self.images) == 1 else 's'}"
        raise InputError(
            f"{count} of {each} tokens, {self.text} tokens of text and {self.answer} for the answer make "
            f"{self.prompt + self.answer} tokens; the model takes {self.limit}. Give {', or '.join(self._remedies())}")

    def _remedies(self) -> list[str]:
        """What would help, with numbers where they are known."""
        room, spare = self._room(), self.limit - self.prompt
        return [*([f"fewer dates (--max-dates {room})"] if 1 < room < len(self.images) else []),
                *([f"a shorter answer (--max-new-tokens {spare})"] if spare > 0 else []),
                "fewer pixels per image where the base allows it (--max-pixels)",
                "a base that takes more or has a smaller image grid (geotempo compose)"]

    def _room(self) -> int:
        """How many of these images would fit, at the size of the largest."""
        largest = max(self.images, default=0)
        words = self.text / max(1, len(self.images))  # headers grow with the number of images
        return int((self.limit - self.answer) / (largest + words)) if largest else 0


def tokens_per_image(processor: Any, sizes: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Tokens that each image takes in the prompt, without decoding any.

    Args:
        processor: Of one of `geotempo.model.bases.BASES`.
        sizes: (width, height) of each image as it is given to the processor, in pixels.
    """
    if not sizes:
        return ()
    counted = processor._get_num_multimodal_tokens(image_sizes=[(height, width) for width, height in sizes])
    return tuple(int(count) for count in counted["num_image_tokens"])


def measure(processor: Any, token_ids: Sequence[int], image_token: int, sizes: Sequence[tuple[int, int]], answer: int,
            limit: int) -> Budget:
    """The budget of a tokenised prompt.

    Args:
        processor: Its processor.
        token_ids: The prompt, each image either as one token or as all of its tokens.
        image_token: Id of the image token.
        sizes: (width, height) of each image as the processor gets it.
        answer: Tokens kept free for the answer.
        limit: Tokens that the model takes.
    """
    text = sum(1 for token in token_ids if token != image_token)
    return Budget(text, tokens_per_image(processor, sizes), answer, limit)


def thin_dates(images: Sequence[ImageRecord], keep: int, seed: int = 0) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Choose the acquisitions that stay in a sequence that is too long.

    The first and the last acquisition always stay; the others are drawn without replacement, so that no fixed interval
    falls in step with the seasons. All views of an acquisition stay or go together.

    Args:
        images: Of one request, in any order.
        keep: Acquisitions that may stay, 2 or more (1 where there is but one).
        seed: Of the draw; equal seeds keep equal dates whatever the order of the images.

    Returns:
        (kept, left out): request indices, both increasing.

    Raises:
        InputError: `keep` is below 2 and there is more than one acquisition.
    """
    numbers = time_order(images).numbers
    count = max(numbers, default=0)
    if count <= max(keep, 1):
        return tuple(range(len(images))), ()
    if keep < 2:
        raise InputError(f"--max-dates {keep} leaves no sequence: the first and the last of {count} acquisitions stay, so give "
                         "2 or more")
    inner = random.Random(seed).sample(range(2, count), keep - 2)
    chosen = {1, count, *inner}
    kept = tuple(index for index, number in enumerate(numbers) if number in chosen)
    return kept, tuple(index for index in range(len(images)) if index not in kept)
