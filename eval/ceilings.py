"""Oracle ceilings: what each written form of a region can reach at best.

The true geometry is written as an answer, read back, turned into a mask and compared with the true mask. No model that
writes this form can do better, but for luck; a goal above the ceiling asks for another form.

| form | written | mask |
|---|---|---|
| box | box | the box's pixels |
| SAM | box and two points | SAM, prompted with both |
| grid | box and 16 x 16 cells | the cells' pixels |
| grid+SAM | box, points and cells | SAM, with the cells as its mask prompt too |

Scores: mean IoU over regions; cumulated IoU over the images of a sample (oIoU: all intersections by all unions of
masks); characters and tokens of a region as it is written.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from tqdm import tqdm

from geotempo.data_builders.schema import geometry_to_json
from geotempo.data_builders.store import Store
from geotempo.eval.predictions import append, digest
from geotempo.model import answer, prompts
from geotempo.model.errors import InputError
from geotempo.model.files import write_text
from geotempo.model.geometry import BoolArray, Box, Mask, rasterize
from geotempo.model.records import Region

FORMS = ("box", "SAM", "grid", "grid+SAM")
EVERY = "all"
FORMAT_VERSION = 1
_FLUSH = 16  # units between two syncs of the partial file
_WRITTEN = {"box": (False, False), "SAM": (True, False), "grid": (False, True), "grid+SAM": (True, True)}  # points, grid

Row = dict[str, Any]
Count = Callable[[str], int]


class Segmenter(Protocol):
    """Regions to masks, with grids as mask prompts, as `geotempo.model.grid_prompt` does."""

    def segment(self, image: Image.Image, regions: Sequence[Region]) -> list[Mask]:
        """One mask per region of one RGB picture, in order."""


@dataclass(frozen=True)
class Unit:
    """Regions of one sample that no earlier sample of the same images had."""

    store: Store
    row: int
    regions: tuple[int, ...]

    @property
    def key(self) -> str:
        """Dataset and sample."""
        return self.store.ids[self.row]


def plan(stores: Sequence[Store], tasks: Sequence[str] | None = None, split: str | None = None,
         limit: int | None = None) -> list[Unit]:
    """The regions to measure: assessable, more than a box, each place on an image once.

    Args:
        stores: Open stores.
        tasks: Only samples of these tasks; None takes all.
        split: Only this split.
        limit: Only so many samples of each store.

    Raises:
        InputError: There is none.
    """
    units: list[Unit] = []
    for store in stores:
        seen: set[tuple[str, str]] = set()
        found: list[Unit] = []
        for row in store.rows(split=split, tasks=tasks):
            sample = store.without_pixels(row)
            fresh = []
            for index, region in enumerate(sample.regions):
                key = (sample.images[region.image - 1].id, geometry_to_json(region.geometry))
                if region.assessable and not isinstance(region.geometry, Box) and key not in seen:
                    seen.add(key)
                    fresh.append(index)
            if fresh:
                found.append(Unit(store, row, tuple(fresh)))
        units += found[:limit]
    if not units:
        raise InputError("no sample of these stores, tasks and split has a region that is more than a box; there is no "
                         "ceiling to measure")
    return units


def measure(units: Sequence[Unit], out: Path, segmenter: Segmenter | None, count: Count, *, name: str = "",
            progress: bool = True) -> dict[str, Any]:
    """Measure all units and write the results; a killed measurement goes on where it stopped.

    Args:
        units: From `plan`.
        out: JSON file to write; `OUT.part` beside it holds what is done so far.
        segmenter: For the forms with SAM; None leaves them out.
        count: Tokens of a text.
        name: What identifies segmenter and tokenizer; a partial file of another name is refused.
        progress: Show a progress bar on stderr.

    Returns:
        The content of the JSON file.

    Raises:
        InputError: `OUT.part` belongs to another measurement.
    """
    stores = sorted({digest(unit.store.manifest) for unit in units})
    identity = {"version": FORMAT_VERSION, "name": name, "sam": segmenter is not None, "stores": stores,
                "units": digest([[unit.key, unit.regions] for unit in units])}
    part = out.with_name(out.name + ".part")
    done = _resume(part, identity)
    waiting: list[Row] = []
    for number in tqdm(range(len(done), len(units)), initial=len(done), total=len(units), unit="sample", disable=not progress):
        waiting.append(measure_unit(units[number], segmenter, count))
        if len(waiting) == _FLUSH or number == len(units) - 1:
            append(part, [json.dumps(row).encode() + b"\n" for row in waiting])
            done, waiting = done + waiting, []
    results = {"identity": identity, "results": summarise(done)}
    write_text(out, json.dumps(results, indent=1) + "\n")
    part.unlink(missing_ok=True)
    return results


def measure_unit(unit: Unit, segmenter: Segmenter | None, count: Count) -> Row:
    """One sample's regions in every form.

    Returns:
        `set`, `id`, `regions` (label; per form IoU, characters, tokens) and `unions` (label or `all`, per form
        intersection and union in pixels, summed over the sample's images).
    """
    sample = unit.store[unit.row]
    frames = prompts.frames_of(sample.images)
    regions = [sample.regions[index] for index in unit.regions]
    facts: list[Row] = [{"label": region.label} for region in regions]
    unions: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for number in sorted({region.image for region in regions}):
        mine = [i for i, region in enumerate(regions) if region.image == number]
        image = sample.images[number - 1]
        picture = image.rgb()
        truths = [rasterize(regions[i].geometry, image.height, image.width) for i in mine]
        for form in FORMS if segmenter else ("box", "grid"):
            points, grids = _WRITTEN[form]
            texts = [answer.format([regions[i]], frames, points=points, grids=grids) for i in mine]
            read = [region for text in texts for region in answer.parse(text, frames).regions or ()]
            made = _masks(read, picture, segmenter if form.endswith("SAM") else None)
            for i, text, truth, mask in zip(mine, texts, truths, made, strict=True):
                facts[i][form] = [_iou(mask, truth), len(text) - 2, count(text[1:-1])]
            for label in {EVERY, *(regions[i].label for i in mine)}:
                chosen = [k for k, i in enumerate(mine) if label in (EVERY, regions[i].label)]
                shared, every = _counts(_any(made[k] for k in chosen), _any(truths[k] for k in chosen))
                unions[label][form][0] += shared
                unions[label][form][1] += every
    return {"set": sample.dataset, "id": unit.key, "regions": facts, "unions": unions}


def summarise(rows: Sequence[Row]) -> list[Row]:
    """Scores of each set as a whole and of each of its labels.

    Returns:
        Rows with `set`, `label` (`all` first, then by number of regions), `regions` (how many), and per form `iou` and
        `oiou` (0 to 1), `characters` and `tokens` per region.
    """
    regions: dict[tuple[str, str], list[Row]] = defaultdict(list)
    unions: dict[tuple[str, str], list[dict[str, list[int]]]] = defaultdict(list)
    for row in rows:
        for fact in row["regions"]:
            regions[row["set"], EVERY].append(fact)
            regions[row["set"], fact["label"]].append(fact)
        for label, counts in row["unions"].items():
            unions[row["set"], label].append(counts)
    order = sorted(regions, key=lambda key: (key[0], key[1] != EVERY, -len(regions[key]), key[1]))
    return [{"set": key[0], "label": key[1], "regions": len(regions[key])}
            | {form: _scores(form, regions[key], unions[key]) for form in FORMS if form in regions[key][0]} for key in order]


def table(results: dict[str, Any], least: int = 1) -> str:
    """The results in Markdown.

    Args:
        results: Content of the JSON file.
        least: Labels with fewer regions have no row.
    """
    rows = results["results"]
    forms = [form for form in FORMS if form in rows[0]]
    head = ["set", "label", "regions", *(f"{form}: mIoU / oIoU" for form in forms), "tokens " + " / ".join(forms)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        if row["regions"] >= least or row["label"] == EVERY:
            scores = [f"{100 * row[form]['iou']:.1f} / {100 * row[form]['oiou']:.1f}" for form in forms]
            tokens = " / ".join(f"{row[form]['tokens']:.0f}" for form in forms)
            lines.append("| " + " | ".join([row["set"], row["label"], f"{row['regions']:,}", *scores, tokens]) + " |")
    return "\n".join(lines)


def token_counter(folder: Path | None = None) -> tuple[Count, str]:
    """A function that counts the tokens of a text, and twelve digits that name the vocabulary.

    Args:
        folder: With a `tokenizer.json`; None is that of the embedded model.

    Raises:
        InputError: There is none.
    """
    from tokenizers import Tokenizer

    path = (folder or Path(str(files("geotempo.model"))) / "weights" / "geotempo_tiny") / "tokenizer.json"
    try:
        text = path.read_text(encoding="utf-8")
        known = "model" in json.loads(text)
    except (OSError, ValueError, TypeError):
        known = False
    if not known:
        raise InputError(f"{str(path)!r} is missing or no tokenizer; name a folder with a tokenizer.json")
    tokenizer = Tokenizer.from_str(text)
    return (lambda given: len(tokenizer.encode(given, add_special_tokens=False).ids)), digest(text)[:12]


def weights_digest(parameters: Iterable[tuple[str, Any]]) -> str:
    """Twelve digits that name a model's weights.

    Args:
        parameters: Names and torch tensors, as `Module.named_parameters` gives them.
    """
    total = hashlib.sha256()
    for name, tensor in parameters:
        total.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return total.hexdigest()[:12]


def _masks(regions: Sequence[Region], picture: Image.Image, segmenter: Segmenter | None) -> list[BoolArray]:
    """The mask of each region that was read: SAM's, or its own geometry's pixels."""
    if segmenter is None:
        return [rasterize(region.geometry, picture.height, picture.width) for region in regions]
    return [mask.to_array() for mask in segmenter.segment(picture, regions)]


def _any(masks: Iterable[BoolArray]) -> BoolArray:
    """Union of one or more masks."""
    return np.asarray(np.any(np.stack(list(masks)), axis=0))


def _counts(mask: BoolArray, truth: BoolArray) -> tuple[int, int]:
    """Pixels of intersection and union."""
    return int(np.count_nonzero(mask & truth)), int(np.count_nonzero(mask | truth))


def _iou(mask: BoolArray, truth: BoolArray) -> float:
    """IoU of two masks; a true mask is never empty, or it would have been no region."""
    shared, every = _counts(mask, truth)
    return shared / every if every else 0.0


def _scores(form: str, regions: Sequence[Row], unions: Sequence[dict[str, list[int]]]) -> Row:
    """Means over regions, and the cumulated IoU."""
    iou, characters, tokens = (float(value) for value in np.mean([fact[form] for fact in regions], axis=0))
    shared, every = (int(value) for value in np.sum([counts[form] for counts in unions], axis=0))
    return {"iou": iou, "oiou": shared / every if every else 0.0, "characters": characters, "tokens": tokens}


def _resume(part: Path, identity: dict[str, Any]) -> list[Row]:
    """Rows of an earlier, unfinished measurement; begins the file where there is none."""
    if not part.exists():
        part.parent.mkdir(parents=True, exist_ok=True)
        append(part, [json.dumps(identity).encode() + b"\n"])
        return []
    data = part.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    try:
        found, *rows = [json.loads(line) for line in whole.splitlines()]
    except ValueError:
        found, rows = None, []
    if found != identity:
        raise InputError(f"{part} belongs to another measurement; remove it or choose another --out")
    if len(whole) < len(data):  # a line half written when the run was killed
        with part.open("r+b") as file:
            file.truncate(len(whole))
    return rows
