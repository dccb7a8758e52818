"""A stored sample as the text that a model reads and the text that it should write.

The geometry of a `Sample` becomes text here and nowhere earlier, so one store trains any coordinate convention.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from geotempo.data_builders.sample import IMAGE, REGIONS, Sample
from geotempo.data_builders.store import Store
from geotempo.model import answer, prompts
from geotempo.model.convention import GEOTEMPO, Convention
from geotempo.model.predictor import Request


def to_request(sample: Sample, max_new_tokens: int = 512) -> Request:
    """The sample's last question with its images and regions."""
    return Request(sample.images, sample.question, sample.regions, max_new_tokens)


def ask_again(sample: Sample, question: str) -> Sample:
    """The sample with its last question in other words; image placeholders stay in front."""
    *before, user, assistant = sample.messages
    text = IMAGE * user.text.count(IMAGE) + "\n" + question
    return replace(sample, messages=(*before, replace(user, text=text), assistant))


def target_text(sample: Sample, *, points: bool = False, convention: Convention = GEOTEMPO) -> str:
    """The answer that the sample's last turn asks for, in the answer grammar.

    Args:
        sample: Any sample.
        points: Write two interior points with every region that has them.
        convention: How the model that learns it counts coordinates.
    """
    frames = prompts.frames_of(sample.images, convention)
    regions = sample.target_regions
    if regions is None:
        return prompts.fill_regions(sample.target, sample.regions, frames, convention.mode)
    prose = REGIONS.sub("", sample.target).strip()
    return answer.format(regions, frames, prose=prose, points=points, mode=convention.mode)


def chat(sample: Sample, *, points: bool = False, convention: Convention = GEOTEMPO) -> prompts.Prompt:
    """The whole conversation of a sample, answers included, as a rendered prompt."""
    prompt = prompts.render(to_request(sample), convention)
    text = target_text(sample, points=points, convention=convention)
    prompt.messages.append({"role": "assistant", "content": [{"type": "text", "text": text}]})
    return prompt


def store_texts(folder: Path) -> list[str]:
    """All questions, headers and answers of a store's training split, to train a tokenizer on."""
    store = Store(folder)
    return list(_texts(store))


def _texts(store: Store) -> Iterator[str]:
    for row in store.rows(split="train"):
        sample = store.without_pixels(row)
        prompt = prompts.render(to_request(sample), pictures=False)
        yield "".join(part["text"] for part in prompt.messages[0]["content"] if part["type"] == "text")
        yield target_text(sample)
        yield from sample.meta.get("references", ())
