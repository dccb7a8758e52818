"""What a store tells about itself: a Hugging Face dataset card, README.md, and a contact sheet, contact.png."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from geotempo.data_builders.licences import combine, hub_licence
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.show import sample_sheet
from geotempo.data_builders.store import Store
from geotempo.model.draw import PER_ROW
from geotempo.model.errors import InputError
from geotempo.model.files import write_atomic, write_text

CARD, SHEET = "README.md", "contact.png"
MOST = 15
"""Samples on a contact sheet."""
COLUMNS, WIDTH, GAP, MARGINS = 3, 640, 12, 82
"""Columns of the sheet, their width, the space between samples and the one around images, in pixels."""
GOLDEN = 0.618034
"""Steps of this share of the store come near no place twice."""
LONGEST = 360
"""Characters of a text on the sheet."""
HUB_TASKS = {
    "caption": "image-to-text", "change_caption": "image-to-text", "vqa": "visual-question-answering",
    "change_vqa": "visual-question-answering", "region_vqa": "visual-question-answering", "region_caption": "image-to-text",
    "change_grounding": "object-detection", "referring_segmentation": "image-segmentation",
    "change_segmentation": "image-segmentation", "semantic_change": "image-segmentation", "damage": "image-classification",
    "temporal_referring": "visual-question-answering", "temporal_classification": "image-classification",
    "classification": "image-classification", "counting": "visual-question-answering",
}
"""Task categories of the Hub."""
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"))


def write_card(folder: Path) -> None:
    """Write the card and the contact sheet of a whole store; equal stores get equal bytes.

    Args:
        folder: Of the store.
    """
    store = Store(folder)
    write_text(folder / CARD, card_text(store.manifest))
    picture = contact_sheet(store)
    if picture is not None:
        write_atomic(folder / SHEET, lambda temporary: picture.save(temporary, "PNG", optimize=True))


def card_text(manifest: Mapping[str, Any]) -> str:
    """The card: metadata for the Hub, then counts, licences, sources and how to read the store."""
    counts, builder = manifest["counts"], manifest["builder"]
    licence = combine(list(counts["by_licence"]) or ["unknown"])
    names = sorted(counts["by_source"])
    splits = sorted(counts["by_split"])
    front = {
        "license": hub_licence(licence), **({"license_name": licence.text} if hub_licence(licence) == "other" else {}),
        "language": ["en"], "task_categories": sorted({HUB_TASKS[task] for task in counts["by_task"]}),
        "size_categories": [next((name for most, name in SIZES if counts["samples"] < most), "n>10M")],
        "tags": ["remote-sensing", "earth-observation", "change-detection", *names],
        "configs": [
            {"config_name": "samples", "default": True,
             "data_files": [{"split": split, "path": f"samples/{split}-*.parquet"} for split in splits]},
            {"config_name": "images", "data_files": [{"split": "images", "path": "images/*.parquet"}]},
        ],
    }
    return "\n".join(["---", yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(), "---", "",
                      *_body(manifest, names, builder, licence.text)])


def contact_sheet(store: Store, most: int = MOST) -> Image.Image | None:
    """Samples of all tasks and splits side by side, as `geotempo show` draws one.

    Args:
        store: Any store.
        most: Number of samples.

    Returns:
        A picture of 256 colours, or None for an empty store.
    """
    cells = [cell for index in _chosen(store, most) if (cell := _cell(store, index)) is not None]
    if not cells:
        return None
    heights, places = [GAP] * COLUMNS, []
    for cell in cells:
        column = heights.index(min(heights))
        places.append((GAP + column * (WIDTH + GAP), heights[column]))
        heights[column] += cell.height + GAP
    canvas = Image.new("RGB", (GAP + COLUMNS * (WIDTH + GAP), max(heights)), (226, 229, 233))
    for cell, place in zip(cells, places, strict=True):
        canvas.paste(cell, place)
    # Colours of its own for every sheet; satellite images lose next to nothing and the file half its size.
    return canvas.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def _chosen(store: Store, most: int) -> list[int]:
    """Rows of all tasks in turn, from other splits and other places of the store each time."""
    groups: dict[str, dict[str, list[int]]] = {}
    for index in range(len(store)):
        facts = store.facts(index)
        groups.setdefault(facts.task, {}).setdefault(facts.split, []).append(index)
    picked: dict[int, None] = {}
    for pick in range(4 * most):
        splits = list(groups.values())[pick % len(groups)] if groups else {}
        if splits and len(picked) < most:
            rows = splits[sorted(splits)[(pick // len(groups) + pick) % len(splits)]]
            picked[rows[int((0.5 + pick * GOLDEN) % 1 * len(rows))]] = None
    return list(picked)


def _cell(store: Store, index: int) -> Image.Image | None:
    try:
        sample = _shortened(store[index])
        side = (WIDTH - MARGINS) // min(PER_ROW, max(2, len(sample.images)))
        picture = sample_sheet(sample, largest=side)
    except InputError:  # `geotempo check` names it; the card is no place to fail
        return None
    cell = Image.new("RGB", (WIDTH, picture.height), (255, 255, 255))
    cell.paste(picture, (0, 0))  # what is wider, as a long row of views may be, is cut
    return cell


def _shortened(sample: Sample) -> Sample:
    """The last question and its answer, long texts cut between words, without references."""
    first = sample.messages[:-2]
    images = "".join(message.text for message in first).count("<image>")
    question, answer = sample.messages[-2:]
    turns = (replace(question, text="<image>" * images + _cut(question.text)), replace(answer, text=_cut(answer.text)))
    return replace(sample, messages=turns, meta={**sample.meta, "references": []})


def _cut(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    images = text.count("<image>")
    kept = text.replace("<image>", "")[:LONGEST]
    return "<image>" * images + kept[: kept.rfind(" ") if " " in kept else None] + " …"


def _body(manifest: Mapping[str, Any], names: Sequence[str], builder: Mapping[str, Any], licence: str) -> Iterator[str]:
    counts, rejected = manifest["counts"], manifest["rejected"]
    yield from (f"# {', '.join(names) or 'an empty store'}", "")
    yield (f"{counts['samples']:,} questions with answers on {counts['images']:,} images, made by GeoTempo {manifest['geotempo']} "
           f"from {builder['source']}" + (f" with {json.dumps(builder['options'])}" if builder["options"] else "") + ".")
    yield from ("", f"![Some of the samples]({SHEET})", "")
    for title, kind in (("split", "by_split"), ("task", "by_task"), ("dataset", "by_source"), ("licence", "by_licence")):
        yield from (f"| {title} | samples |", "|---|---|", *(f"| {name} | {count:,} |" for name, count in counts[kind].items()), "")
    yield from (f"Licence of the whole: {licence}", "")
    if manifest.get("citation"):
        yield from (f"Cite: {manifest['citation']}", "")
    kept = manifest["items"] - rejected["total"]
    yield f"Of {manifest['items']:,} items {kept:,} were kept and {rejected['total']:,} set aside" + (
        ": " + ", ".join(f"{count:,} {reason}" for reason, count in rejected["by_reason"].items()) + " (rejected.jsonl)."
        if rejected["total"] else ".")
    yield from ("", "```python", "from datasets import load_dataset", "",
                'samples = load_dataset("DIR", "samples")   # messages, regions as structured geometry, ids of images',
                'images = load_dataset("DIR", "images")     # id (sha256), size, encoded bytes or path', "```", "")
