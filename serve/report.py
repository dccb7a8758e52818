"""What a user gets for an outcome: the files that were asked for, and the words on the terminal."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from geotempo.model.draw import sheet
from geotempo.model.errors import InputError
from geotempo.serve.geojson import Feature, facts_of, feature_collection, to_bytes
from geotempo.serve.job import Outcome, label_image
from geotempo.serve.page import Entry, picture_rows, render_page, spoken


@dataclass(frozen=True)
class Targets:
    """Files to write; None where one is not wanted.

    Raises:
        InputError: A picture's name does not end in .png.
    """

    geojson: Path | None = None
    masks: Path | None = None
    overlay: Path | None = None
    page: Path | None = None

    def __post_init__(self) -> None:
        for option, path in (("--masks", self.masks), ("--overlay", self.overlay)):
            if path is not None and path.suffix.lower() != ".png":
                raise InputError(f"{option} {str(path)!r} must end in .png; other formats would change the pixels")

    def paths(self) -> list[Path]:
        """The files that are wanted."""
        return [path for path in (self.geojson, self.masks, self.overlay, self.page) if path is not None]


def contents(outcome: Outcome, found: list[Feature], targets: Targets, title: str = "GeoTempo") -> dict[Path, bytes]:
    """The bytes of every file that is wanted.

    Args:
        outcome: The outcome.
        found: Its `geojson.features`.
        targets: Where the files go.
        title: Heading of the page.
    """
    files: dict[Path, bytes] = {}
    if targets.geojson:
        files[targets.geojson] = to_bytes(feature_collection(outcome, found))
    if targets.masks:
        files[targets.masks] = _png(label_image(outcome))
    if targets.overlay:
        files[targets.overlay] = _png(overlay(outcome))
    if targets.page:
        page = render_page(title, [Entry(outcome.task or "Question", outcome, found)])
        files[targets.page] = page.encode("utf-8", errors="replace")
    return files


def overlay(outcome: Outcome) -> Image.Image:
    """The images side by side in time order with regions and masks drawn, question and answer below."""
    rows = picture_rows(outcome)
    return sheet([(picture, caption) for picture, caption, *_ in rows], [regions for _, _, regions, _ in rows],
                 outcome.question_for_people, spoken(outcome), masks_by_image=[masks for *_, masks in rows])


def report(outcome: Outcome, found: list[Feature], written: Sequence[Path], *, as_json: bool = False) -> str:
    """The words on the terminal.

    Args:
        outcome: The outcome.
        found: Its `geojson.features`.
        written: Files that were written.
        as_json: One JSON object instead of lines for people.
    """
    facts = facts_of(outcome, found) | {"files": [str(path) for path in written]}
    if as_json:
        return json.dumps(facts, allow_nan=False)
    lines = [f"note: {note}" for note in facts["notes"]]
    for item in facts["acquisitions"]:
        date = f" ({item['date']})" if item["date"] else ""
        view = f"view {item['view']}, " if item["view"] else ""
        lines.append(f"Image {item['image']}{date}: {item['file']}, {view}bands {', '.join(item['bands'])}")
    if facts["order_assumed"]:
        lines.append("note: dates are missing, so the order given was assumed to be the order in time")
    lines += [f"stretch: {facts['stretch']}", f"model: {outcome.model}", f"question: {outcome.question}",
              f"answer ({outcome.answer.status.value}): {spoken(outcome)}"]
    lines += [f"  repaired: {repair}" for repair in outcome.answer.repairs]
    lines += [f"  Image {item['image']}: {item['date'] or 'no date'}, {item['file']}" for item in facts["images_named"] or ()]
    lines += [_line(feature) for feature in found]
    if found:
        lines.append(f"coordinates: {facts['coordinates']}" + (
            "" if outcome.stack.grid.place else "; the images have no georeference, so there is no area in m2"))
    lines += [f"wrote {path}" for path in written]
    return _printable("\n".join(lines))


def _line(feature: Feature) -> str:
    """One region on one line."""
    item = feature.properties
    box = ", ".join(f"{value:g}" for value in item["bbox_pixels"])
    parts = [f"  region {item['region']}: {item['label'] or '(no label)'}", f"Image {item['image']}"]
    parts += [item["date"]] if item["date"] else []
    parts.append(f"{item['area_m2']:,.1f} m2" if "area_m2" in item else f"{item['area_pixels']:,.0f} pixels")
    parts.append(f"box {box}")
    if item["after"] and item["before"]:
        parts.append(f"changed after {item['after']} and before {item['before']}")
    if not item["assessable"]:
        parts.append(f"NOT ASSESSABLE ({item['reason']})")
    return ", ".join(parts)


def _printable(text: str) -> str:
    """Text that a terminal takes: control characters and lone surrogates escaped, so that a label cannot act."""
    return "".join(c if c == "\n" or c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _png(picture: Image.Image) -> bytes:
    """A picture as PNG."""
    out = io.BytesIO()
    picture.save(out, format="PNG")
    return out.getvalue()
