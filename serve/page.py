"""One HTML page that needs nothing but itself: pictures, answers and regions of one or more questions."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import shapely
from PIL import Image

from geotempo.model.draw import Colour, colours, draw_regions
from geotempo.model.geometry import BoolArray, GridMask, Mask, bounds, to_shape
from geotempo.model.records import Region, Status
from geotempo.serve.geojson import Feature, facts_of
from geotempo.serve.job import Outcome

ASKED_COLOUR: Colour = (255, 255, 255)
"""Colour of the regions that the question speaks of."""
_MAX_SIDE = 1024  # pixels of a picture on the page
STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5b6675;--line:#d8dee6;--card:#fff;--ground:#f3f5f8;--mark:#0b6bcb}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#9aa6b5;--line:#333d4b;--card:#1a212b;--ground:#11161d;--mark:#6cb3ff}}
*{box-sizing:border-box}body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:24px 20px 60px}h1{font-size:1.6rem;margin:0 0 4px}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:20px;margin-top:24px}
h2{font-size:1.1rem;margin:0 0 12px}.soft{color:var(--soft);font-size:.875rem}.answer{font-size:1.15rem;margin:6px 0 14px;white-space:pre-wrap;overflow-wrap:anywhere}
.status{display:inline-block;border:1px solid currentColor;border-radius:99px;padding:0 9px;font-size:.78rem;margin-left:8px;vertical-align:2px}
.ok{color:#1a7f4b}.repaired,.truncated{color:#b26a00}.refused,.invalid{color:#c62828}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(340px,100%),1fr));gap:14px}figure{margin:0}
img{width:100%;height:auto;border-radius:6px;border:1px solid var(--line);display:block}.picture{position:relative}svg{position:absolute;inset:0;width:100%;height:100%;overflow:visible}
path{fill:none;vector-effect:non-scaling-stroke}text{paint-order:stroke;stroke:#000;font-weight:600}figcaption{font-size:.85rem;margin-top:4px;overflow-wrap:anywhere}
.table{overflow-x:auto}table{border-collapse:collapse;width:100%;margin-top:16px;font-size:.9rem}
th,td{text-align:left;padding:5px 10px 5px 0;border-bottom:1px solid var(--line);vertical-align:top}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.chip{display:inline-block;width:.8em;height:.8em;border-radius:3px;margin-right:6px}details{margin-top:12px}pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.85rem}
"""
"""Style sheet of GeoTempo's pages, light and dark."""
STATUS_WORDS = {
    Status.OK: "read exactly", Status.REPAIRED: "repaired", Status.TRUNCATED: "cut off", Status.REFUSED: "refused",
    Status.INVALID: "unreadable",
}
"""How an answer was read, in words; the style sheet has a class by the name of each status."""


@dataclass(frozen=True)
class Entry:
    """A question on the page: a heading, the outcome and its features."""

    title: str
    outcome: Outcome
    features: list[Feature]


def render_page(title: str, entries: Sequence[Entry], notes: Sequence[str] = ()) -> str:
    """The page.

    Args:
        title: Heading.
        entries: Questions in the order to show.
        notes: Sentences below the heading.

    Returns:
        HTML with all pictures inside, no scripts and no links to other files.
    """
    lead = "".join(f'<p class="soft">{escape(note)}</p>' for note in notes)
    body = "".join(_section(entry) for entry in entries)
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width,initial-scale=1"><title>{escape(title)}</title>'
            f"<style>{STYLE}</style></head><body><main><h1>{escape(title)}</h1>{lead}{body}</main></body></html>\n")


def picture_rows(outcome: Outcome) -> list[tuple[Image.Image, str, list[Region], list[BoolArray | None] | None]]:
    """Per image in time order: picture, caption, its regions (those of the question first), their masks.

    Of several views of one acquisition the first carries the regions.
    """
    rows = []
    for index in outcome.order.order:
        number = outcome.order.numbers[index]
        first = index == outcome.order.index_of(number)  # further views of an acquisition stay free to look at
        mine = [i for i, region in enumerate(outcome.regions) if region.image == number and first]
        asked = [replace(region, label=region.label or "asked") for region in outcome.asked if region.image == number and first]
        masks: list[BoolArray | None] | None = None
        if outcome.masks:
            masks = [*[None] * len(asked), *[outcome.masks[i].to_array() for i in mine]]
        image = outcome.stack.images[index]
        caption = " · ".join([f"Image {number}", *(str(fact) for fact in (image.date, image.view) if fact)])
        rows.append((image.rgb(), caption, [*asked, *[outcome.regions[i] for i in mine]], masks))
    return rows


def spoken(outcome: Outcome) -> str:
    """The answer in words: the prose, and the number of regions where it lists any."""
    regions = outcome.answer.regions
    count = None if regions is None else "nothing found" if not regions else f"{len(regions)} region{'s' * (len(regions) > 1)}"
    words = [part for part in (outcome.answer.prose, count) if part]
    return "\n".join(words) or "(no answer)"


def _section(entry: Entry) -> str:
    """One question."""
    outcome, facts = entry.outcome, facts_of(entry.outcome, entry.features)
    status = outcome.answer.status
    badge = f'<span class="status {status.value}">{STATUS_WORDS[status]}</span>'
    notes = list(facts["repairs"]) + list(facts["notes"])
    if outcome.order.assumed:
        notes.append("Dates are missing: the order of the images as given was assumed to be the order in time.")
    return (f"<section><h2>{escape(entry.title)}</h2>"
            f'<div class="soft">Question</div><div>{escape(outcome.question_for_people)}</div>'
            f'<div class="soft" style="margin-top:8px">Answer{badge}</div><div class="answer">{escape(spoken(outcome))}</div>'
            f'<div class="pictures">{_pictures(outcome)}</div>{_table(outcome, facts)}'
            + "".join(f'<p class="soft">{escape(note)}</p>' for note in notes)
            + f'<p class="soft">Model: {escape(outcome.model)} · bands: {escape(_bands(facts))} · '
            f'stretch: {escape(facts["stretch"])} · coordinates: {escape(facts["coordinates"])}</p>'
            f"<details><summary class=\"soft\">Answer as the model wrote it</summary><pre>{escape(facts['text'])}</pre></details>"
            "</section>")


def _bands(facts: dict[str, Any]) -> str:
    """Bands shown, once if they are the same for all images."""
    shown = [", ".join(item["bands"]) for item in facts["acquisitions"]]
    return " | ".join(dict.fromkeys(shown))


def _pictures(outcome: Outcome) -> str:
    """Figures with the regions drawn in the colours of the table."""
    palette = dict(zip(map(id, outcome.regions), colours(outcome.regions), strict=True))
    figures = []
    for (picture, caption, regions, masks), index in zip(picture_rows(outcome), outcome.order.order, strict=True):
        picked = [palette.get(id(region), ASKED_COLOUR) for region in regions]
        fills = _filled(regions, masks)
        shown = draw_regions(picture, [fill for _, fill in fills], palette=[picked[i] for i, _ in fills], tags=False)
        shown.thumbnail((_MAX_SIDE, _MAX_SIDE))
        name = outcome.stack.files[index].replace("\\", "/").rsplit("/", 1)[-1]
        figures.append(f'<figure><div class="picture"><img alt="{escape(caption)}" src="{data_url(shown)}">'
                       f"{outlines(picture.size, regions, picked)}</div>"
                       f'<figcaption><b>{escape(caption)}</b> <span class="soft">{escape(name)}</span></figcaption></figure>')
    return "".join(figures)


def _filled(regions: Sequence[Region], masks: Sequence[BoolArray | None] | None) -> list[tuple[int, Region]]:
    """What is painted into the picture: masks and grids, as (position, region with that geometry)."""
    filled = []
    for i, region in enumerate(regions):
        mask = masks[i] if masks else None
        if mask is not None:
            filled.append((i, replace(region, geometry=Mask.from_array(mask))))
        elif isinstance(region.geometry, Mask | GridMask):
            filled.append((i, region))
    return filled


def outlines(size: tuple[int, int], regions: Sequence[Region], palette: Sequence[Colour]) -> str:
    """Outlines and labels as SVG over a picture, so that they stay crisp at any size of the page."""
    width, height = size
    text_size = max(size) / 24
    items = []
    for region, colour in zip(regions, palette, strict=True):
        box = bounds(region.geometry)
        paint = "rgb({},{},{})".format(*colour[:3])
        if not isinstance(region.geometry, Mask):
            rings = [ring for part in shapely.get_parts(to_shape(region.geometry)) for ring in (part.exterior, *part.interiors)]
            path = "".join("M" + " ".join(f"{x:g},{y:g}" for x, y in ring.coords) for ring in rings)
            items += [f'<path d="{path}" stroke="#000" stroke-width="4"/>', f'<path d="{path}" stroke="{paint}" stroke-width="2"/>']
        if not region.label:
            continue
        above, below = box.y1 - text_size / 3, box.y2 + text_size
        y = above if box.y1 > 1.3 * text_size else below if below < height else box.y1 + text_size
        items.append(f'<text x="{box.x1:g}" y="{y:g}" fill="{paint}">{escape(_short(region.label))}</text>')
    return (f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" font-size="{text_size:g}" '
            f'stroke-width="{text_size / 6:g}">{"".join(items)}</svg>' if items else "")


def _short(label: str) -> str:
    """A label that fits on a picture."""
    return label if len(label) <= 28 else label[:27] + "…"


def _table(outcome: Outcome, facts: dict[str, Any]) -> str:
    """The regions as a table; nothing where the answer lists none."""
    if not facts["regions"]:
        return ""
    area = "m²" if outcome.stack.grid.place else "pixels²"
    head = f'<tr><th>Region</th><th>Label</th><th>Image</th><th>Date</th><th class="n">Area ({area})</th><th>Pixels</th><th>Note</th></tr>'
    rows = []
    for item, colour in zip(facts["regions"], colours(outcome.regions), strict=True):
        note = item["reason"] or (f"between {item['after']} and {item['before']}" if item["after"] and item["before"] else "")
        size = item.get("area_m2", item["area_pixels"])
        box = ", ".join(f"{value:g}" for value in item["bbox_pixels"])
        chip = f'<span class="chip" style="background:rgb{tuple(colour[:3])}"></span>'
        rows.append(f'<tr><td>{chip}{item["region"]}</td><td>{escape(item["label"])}</td><td>{item["image"]}</td>'
                    f'<td>{escape(item["date"] or "–")}</td><td class="n">{size:,.0f}</td><td>{box}</td><td>{escape(note)}</td></tr>')
    return f'<div class="table"><table>{head}{"".join(rows)}</table></div>'


def data_url(picture: Image.Image) -> str:
    """A picture as a `data:` URL."""
    out = io.BytesIO()
    picture.convert("RGB").save(out, format="JPEG", quality=90, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")
