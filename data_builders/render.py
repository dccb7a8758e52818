"""A stored sample as the text that a model reads and the text that it should write.

The geometry of a `Sample` becomes text here and nowhere earlier, so one store trains any coordinate convention.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from geotempo.data_builders.sample import IMAGE, REGIONS, Sample, region_indices, without_regions
from geotempo.data_builders.store import Store
from geotempo.model import answer, prompts
from geotempo.model.answer_parse import holds_regions
from geotempo.model.convention import GEOTEMPO, Convention
from geotempo.model.predictor import Request
from geotempo.model.records import Region

TRANSITION = " -> "
"""Stands in the labels of land-cover transitions, `from -> to`."""

AREAS = frozenset({"flooded area", "cleared forest", "burn scar", "urban change", "new road", "road"})
"""Labels of regions that are areas.

Chosen by what each form can reach at best (`geotempo ceilings` on 150 scenes, OSCD and the validation images of LEVIR-MCI
and NWPU VHR-10, with the embedded SAM, whose masks give way to the box where it thinks little of them; mean IoU times 100):

| regions | box | box, points, SAM | grid | written as |
|---|---|---|---|---|
| scenes: flooded area | 56.1 | 56.8 | 87.3 | grid |
| scenes: cleared forest | 67.8 | 87.0 | 92.7 | grid |
| scenes: new road | 29.6 | 31.8 | 81.0 | grid |
| scenes: transitions of land cover | 59.6 | 72.7 | 91.0 | grid |
| OSCD: urban change | 63.3 | 50.6 | 98.7 | grid |
| scenes: new building | 73.7 | 90.5 | 96.3 | box and points |
| LEVIR-MCI: building | 57.7 | 54.6 | 93.9 | box and points |
| NWPU VHR-10: all classes | 51.8 | 53.9 | 87.9 | box and points |

A grid costs 54 tokens a region with the embedded tokenizer (36 with that of Llama 2), two points 17. Areas are few and
large; buildings come by the dozen, and a SAM that knows such images (the embedded one knows scenes only) makes good masks
of them from box and points. Where there is no such SAM and the goal lies above the box's ceiling, `all` writes a grid
for everything.
"""

Grids = Literal["none", "areas", "all"]
"""Which regions are written with a grid: none, those that are `area_like`, or all that are more than a box."""


def to_request(sample: Sample, max_new_tokens: int = 512) -> Request:
    """The sample's last question with its images and regions."""
    return Request(sample.images, sample.question, sample.regions, max_new_tokens)


def ask_again(sample: Sample, question: str) -> Sample:
    """The sample with its last question in other words; image placeholders stay in front."""
    *before, user, assistant = sample.messages
    text = IMAGE * user.text.count(IMAGE) + "\n" + question
    return replace(sample, messages=(*before, replace(user, text=text), assistant))


def answer_again(sample: Sample, reference: str) -> Sample:
    """The sample with another of its references in its last answer; what else the answer holds (regions) stays."""
    *before, assistant = sample.messages
    text = assistant.text.replace(sample.meta["references"][0], reference, 1)
    return replace(sample, messages=(*before, replace(assistant, text=text)))


def area_like(region: Region) -> bool:
    """Whether a region is an area whose box and points say little, so that its answer should carry a grid.

    Decided by the label alone, which the model knows when it writes: `AREAS`, and every transition of land cover.
    """
    return region.label in AREAS or TRANSITION in region.label


def target_text(sample: Sample, *, points: bool = False, grids: Grids = "none",
                convention: Convention = GEOTEMPO) -> str:
    """The answer that the sample's last turn asks for, in the answer grammar.

    Args:
        sample: Any sample.
        points: Write two interior points with every region that has them.
        grids: Which regions are written with a grid.
        convention: How the model that learns it counts coordinates.
    """
    return _answer_text(sample, sample.target, points, grids, convention)


def _answer_text(sample: Sample, text: str, points: bool, grids: Grids, convention: Convention) -> str:
    """One assistant turn of a sample in the answer grammar."""
    frames = prompts.frames_of(sample.images, convention)
    match = REGIONS.search(text)
    if match is not None:
        regions: Sequence[Region] = [sample.regions[int(index)] for index in match.group(1).split(",") if index]
        prose = REGIONS.sub("", text).strip()
    else:
        regions, prose = _named(sample, text), without_regions(text)
        if not regions or convention.mode != "geotempo" or holds_regions(prose, convention.mode):
            return prompts.fill_regions(text, sample.regions, frames, convention.mode)
    chosen = area_like if grids == "areas" else grids == "all"
    return answer.format(regions, frames, prose=prose, points=points, grids=chosen, mode=convention.mode)


def _named(sample: Sample, text: str) -> tuple[Region, ...]:
    """The regions inside a sentence, if its words name all of them ("a ship <region:0> near the pier <region:1>").

    They are written as the grammar wants it, in a list after the sentence, where labels tell which is which. Where a place has
    no other name than its coordinates ("the one at <region:0>"), these have to stay in the sentence.
    """
    regions = [sample.regions[index] for index in dict.fromkeys(region_indices(text))]
    named = all(region.label and region.assessable and region.label in text for region in regions)
    return answer.select(regions)[0] if named else ()


def chat(sample: Sample, *, points: bool = False, grids: Grids = "none", convention: Convention = GEOTEMPO,
         pictures: bool = True) -> prompts.Prompt:
    """The whole conversation of a sample, all turns and answers included, as a rendered prompt.

    Args:
        sample: Any sample.
        points: Write two interior points with every region that has them.
        grids: Which regions are written with a grid.
        convention: How the model that learns it is asked and counts coordinates.
        pictures: Decode the images; False where only the texts are needed.
    """
    opening = sample.messages[0].text.replace(IMAGE, "").strip()
    prompt = prompts.render(Request(sample.images, opening, sample.regions), convention, pictures=pictures)
    for message in sample.messages[1:]:
        if message.role == "assistant":
            text = _answer_text(sample, message.text, points, grids, convention)
        else:
            text = prompts.fill_regions(message.text.replace(IMAGE, "").strip(), sample.regions, prompt.frames, convention.mode)
        prompt.messages.append({"role": message.role, "content": [{"type": "text", "text": text}]})
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
