"""The demo: four questions about a shipped sequence, with everything that an answer can become.

The sequence in `demo_data/` is a procedural scene of 2006 on made-up coordinates, none that the model was trained on
(`geotempo.data_builders.scenes.export` says how it was written). It is read, asked and drawn by the code of
`geotempo predict`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geotempo.model.geometry import Box
from geotempo.model.mask_output import MaskMaker
from geotempo.model.predictor import Predictor
from geotempo.model.raster import load_stack
from geotempo.model.records import Region
from geotempo.serve.files import write_all
from geotempo.serve.geojson import features
from geotempo.serve.job import Outcome, answer_question
from geotempo.serve.page import Entry, render_page
from geotempo.serve.report import Targets, contents

DATA = Path(__file__).parent / "demo_data"


@dataclass(frozen=True)
class Ask:
    """One question of the demo.

    Attributes:
        name: Stem of the files it writes.
        title: Heading on the page.
        task: Task of `TASK_QUESTIONS`.
        prompt: Words of the question.
        images: Indices into the sequence.
        regions: Regions that the question names.
        masks: Whether SAM turns the answer's regions into masks.
    """

    name: str
    title: str
    task: str
    prompt: str
    images: tuple[int, ...]
    regions: tuple[Region, ...] = ()
    masks: bool = False


ASKS = (
    Ask("caption", "Change caption", "change_caption", "Describe the changes.", (0, 3)),
    Ask("question", "Change question", "change_vqa", "Has any building been built?", (0, 3)),
    Ask("grounding", "Change grounding with masks", "change_grounding", "Locate the new buildings.", (0, 3), masks=True),
    # The grey roof in the west of the last image; it is in no earlier one.
    Ask("temporal", "Temporal reference", "temporal_referring", "In which images does the building at <region:0> exist?",
        (0, 1, 2, 3), (Region(4, Box(16, 148, 46, 187)),)),
)


def sequence() -> list[Path]:
    """Files of the shipped sequence in time order; the stem is the date."""
    return sorted(DATA.glob("*.tif"))


def run(predictor: Predictor, segmenter: Callable[[], MaskMaker], out: Path, tell: Callable[[str], None]) -> list[Path]:
    """Ask all questions and write overlays, GeoJSON and one page.

    Args:
        predictor: What answers.
        segmenter: Gives the mask maker.
        out: Folder for the files; made if missing.
        tell: Called with a line for each answer.

    Returns:
        The files written, the page first.
    """
    out.mkdir(parents=True, exist_ok=True)
    entries: list[Entry] = []
    files: dict[Path, bytes] = {}
    for ask in ASKS:
        outcome = _answer(ask, predictor, segmenter)
        found = features(outcome)
        wants_regions = ask.masks or outcome.regions
        targets = Targets(geojson=out / f"{ask.name}.geojson" if wants_regions else None, overlay=out / f"{ask.name}.png",
                          masks=out / f"{ask.name}_masks.png" if ask.masks else None)
        files |= contents(outcome, found, targets)
        entries.append(Entry(ask.title, outcome, found))
        tell(f"{ask.title}: {outcome.question}\n  -> {outcome.answer.text or '(no answer)'}")
    page = out / "index.html"
    title = "GeoTempo demo: four questions about four dates"
    write_all(files | {page: render_page(title, entries, quality_notes(predictor.name)).encode("utf-8", errors="replace")})
    return [page, *files]


def _answer(ask: Ask, predictor: Predictor, segmenter: Callable[[], MaskMaker]) -> Outcome:
    paths = [sequence()[index] for index in ask.images]
    stack = load_stack([str(path) for path in paths], [path.stem for path in paths])
    return answer_question(stack, predictor, task=ask.task, prompt=ask.prompt, regions=ask.regions,
                           segmenter=segmenter if ask.masks else None, max_new_tokens=256)


# The figure that says most about each kind of answer in the demo.
HEADLINES = {"change_caption": "bleu4", "change_vqa": "accuracy", "change_grounding": "box_f1", "temporal_referring": "images_accuracy"}


def quality_notes(model: str) -> list[str]:
    """What the model's own scores say of it, in sentences.

    Args:
        model: Checkpoint folder. Its `results.json`, if there is one, is that of a `geotempo eval` run.
    """
    notes = ["The images are a procedural scene that the model has not seen in training; the coordinates are made up."]
    path = Path(model) / "results.json"
    if not path.is_file():
        return notes
    tasks: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["tasks"]
    scores = [f"{task.replace('_', ' ')} {tasks[task][metric]['title']} {tasks[task][metric]['value']:.0f}"
              for task, metric in HEADLINES.items() if metric in tasks.get(task, {})]
    said = f"This is a first, small model. On scenes it has not seen it scores, times 100: {', '.join(scores)}."
    return [*notes, f"{said} Expect wrong answers."]
