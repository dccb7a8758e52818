"""The page of watched samples: images with regions, the right answer and the model's answers over time. One HTML file."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from itertools import groupby
from typing import Any

from geotempo.data_builders.sample import REGION, Sample
from geotempo.data_builders.show import caption
from geotempo.eval.answerers import request_of
from geotempo.eval.reading import Reading, read, true_regions
from geotempo.finetune.curves import Chart, Curve, charts, svg
from geotempo.model.convention import Convention
from geotempo.model.draw import PALETTE, Colour, draw_regions
from geotempo.model.geometry import Mask, bounds
from geotempo.model.records import Region, time_order
from geotempo.serve.page import ASKED_COLOUR, STATUS_WORDS, STYLE, data_url, outlines

Row = dict[str, Any]
"""A line of the journal: step, id, task, and either text, finish_reason, metric and score, or error."""

REFERENCE: Colour = PALETTE[1]  # blue
ANSWERED: Colour = PALETTE[5]   # orange; told apart from blue with every kind of colour vision
_MAX_SIDE = 640  # pixels of a picture on the page
_STYLE = """
:root{--curve-0:#0b6bcb;--curve-1:#d95f02;--curve-2:#1b9e77;--curve-3:#7b5aa6;--reference:#0b6bcb;--answered:#c25e00}
@media(prefers-color-scheme:dark){:root{--curve-0:#6cb3ff;--curve-1:#ff9a4d;--curve-2:#4fd1a5;--curve-3:#bfa2ff;--reference:#6cb3ff;--answered:#ffa452}}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(460px,100%),1fr));gap:20px 28px}.charts h3{font-size:.95rem;margin:0 0 4px;display:flex;flex-wrap:wrap;gap:2px 14px}
.chart{position:static;display:block;width:100%;height:auto}.chart text{fill:var(--soft);stroke:none;font:400 12px system-ui,sans-serif}
.chart .rule{stroke:var(--line);stroke-width:1}.chart polyline{fill:none;stroke-width:2;stroke-linejoin:round}
.key{font-weight:400;color:var(--soft)}.key i{display:inline-block;width:1.1em;height:3px;border-radius:2px;margin-right:5px;vertical-align:4px}
.pair{display:grid;grid-template-columns:minmax(0,1fr) minmax(0,1.7fr);gap:20px;margin-top:16px}@media(max-width:760px){.pair{grid-template-columns:minmax(0,1fr)}}
.pair h3{font-size:.9rem;margin:0 0 6px}.say{white-space:pre-wrap;overflow-wrap:anywhere}.reference h3{color:var(--reference)}.answers h3{color:var(--answered)}
.list{max-height:26em;overflow-y:auto;border:1px solid var(--line);border-radius:8px}
.list label{display:block;padding:8px 12px;border-left:3px solid transparent;cursor:pointer}.list label+label{border-top:1px solid var(--line)}
.list .head{display:flex;flex-wrap:wrap;gap:2px 10px;align-items:baseline;font-size:.85rem;color:var(--soft);font-variant-numeric:tabular-nums}.list .head b{color:var(--ink)}
.list .say{max-height:7.5em;overflow-y:auto}
.pick{position:absolute;opacity:0;pointer-events:none}.picture .over{display:none}.over path[stroke-width="2"]{stroke-dasharray:8 4}section{position:relative}
.legend{display:flex;flex-wrap:wrap;gap:2px 18px;font-size:.85rem;color:var(--soft);margin:0 0 8px}
@media(prefers-color-scheme:dark){.ok{color:#58c98b}.repaired,.truncated{color:#e8a33d}.refused,.invalid{color:#ff7b72}}
"""


@dataclass(frozen=True)
class Watched:
    """A sample on the page.

    Attributes:
        sample: With its images.
        reference: Its answer as training teaches it.
    """

    sample: Sample
    reference: str

    @cached_property
    def question(self) -> str:
        """The question in words."""
        return REGION.sub(lambda found: f"the marked place in Image {self.sample.regions[int(found[1])].image}", self.sample.question)

    @cached_property
    def pictures(self) -> list[tuple[int, tuple[int, int], str]]:
        """Per image: acquisition number where its regions are drawn on it, else 0; size; the figure's fixed inside."""
        order, sample = time_order(self.sample.images), self.sample
        asked = request_of(sample, sample.images, 1).regions
        figures = []
        for index in order.order:
            number, image = order.numbers[index], sample.images[index]
            mine = number if index == order.index_of(number) else 0  # further views of an acquisition stay free to look at
            fixed = [(replace(region, label=""), colour) for regions, colour in ((asked, ASKED_COLOUR), (true_regions(sample), REFERENCE))
                     for region in regions if region.image == mine]
            # a mask alone may look like the roof that it covers
            fixed += [(replace(region, geometry=bounds(region.geometry)), colour) for region, colour in fixed
                      if colour == ASKED_COLOUR and isinstance(region.geometry, Mask)]
            painted = [(region, colour) for region, colour in fixed if isinstance(region.geometry, Mask)]
            shown = draw_regions(image.rgb(), [region for region, _ in painted], palette=[colour for _, colour in painted], tags=False)
            shown.thumbnail((_MAX_SIDE, _MAX_SIDE))
            size = image.width, image.height
            figures.append((mine, size, f'<img alt="{escape(caption(number, image))}" src="{data_url(shown)}">'
                            + outlines(size, [region for region, _ in fixed], [colour for _, colour in fixed])))
        return figures

    @cached_property
    def captions(self) -> list[str]:
        """One per picture, in the same order."""
        order = time_order(self.sample.images)
        return [caption(order.numbers[index], self.sample.images[index]) for index in order.order]


@dataclass(frozen=True)
class Answered:
    """The same answer at one or more evaluations in a row.

    Attributes:
        steps: Optimizer steps of these evaluations.
        row: The last of their lines.
        reading: The answer as it is read; None where there is none.
    """

    steps: tuple[int, ...]
    row: Row
    reading: Reading | None

    @property
    def regions(self) -> tuple[Region, ...]:
        """Regions that the answer lists."""
        return (self.reading.answer.regions or ()) if self.reading else ()

    @property
    def when(self) -> str:
        """Its steps in words."""
        first, last = self.steps[0], self.steps[-1]
        if first == last:
            return "before training" if first == 0 else f"step {first}"
        return f"steps {first} to {last}, {len(self.steps)} times the same"


def answers_of(watched: Watched, rows: Iterable[Row], convention: Convention) -> list[Answered]:
    """A sample's answers in the order of time; equal ones in a row are one."""
    mine = sorted((row for row in rows if row["id"] == watched.sample.id), key=lambda row: int(row["step"]))
    out = []
    for _, group in groupby(mine, key=lambda row: (row.get("text"), row.get("error"))):
        same = list(group)
        row = same[-1]
        reading = read(watched.sample, row["text"], row["finish_reason"], convention) if "text" in row else None
        out.append(Answered(tuple(int(entry["step"]) for entry in same), row, reading))
    return out


def render_page(name: str, watched: Sequence[Watched], rows: Sequence[Row], history: Sequence[Mapping[str, Any]],
                convention: Convention, split: str) -> str:
    """The page.

    Args:
        name: Of the run.
        watched: The samples in the order to show.
        rows: Lines of the journal.
        history: `log_history` of the run, for the curves.
        convention: How the model counts coordinates.
        split: Where the samples are from.

    Returns:
        HTML with all pictures inside, no scripts and no links to other files.
    """
    steps = sorted({int(row["step"]) for row in rows})
    until = f", answered {len(steps)} times, last at step {steps[-1]}" if steps else ""
    told = "held out" if split == "val" else "also trained on, for nothing was held out"
    lead = f"{len(watched)} samples of split {split}, {told}{until}. Answers are greedy. Choose an answer to see its regions."
    shown = [(entry, answers_of(entry, rows, convention)) for entry in watched]
    most = max((len(answers) for _, answers in shown), default=0)
    body = "".join(_section(number, entry, answers) for number, (entry, answers) in enumerate(shown))
    title = f"{escape(name)} while it learns"
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width,initial-scale=1"><title>{title}</title>'
            f'<style>{STYLE}{_STYLE}{_picking(most)}</style></head><body><main><h1>{title}</h1><p class="soft">{escape(lead)}</p>'
            f"{_charts(rows, history)}{body}</main></body></html>\n")


def _picking(most: int) -> str:
    """Rules that show the regions of the chosen answer and mark it: without scripts, one for each place in a list."""
    return "".join(f".p{i}:checked~.pictures .o{i}{{display:block}}.p{i}:checked~.pair .l{i}{{border-left-color:var(--answered);"
                   f"background:color-mix(in srgb,var(--answered) 9%,transparent)}}.p{i}:focus-visible~.pair .l{i}"
                   "{outline:2px solid var(--mark)}" for i in range(most))


def _charts(rows: Sequence[Row], history: Sequence[Mapping[str, Any]]) -> str:
    """The loss, and the mean score of the samples by metric; nothing before there are two points of a curve."""
    wanted = [*(chart for chart in charts(history) if chart.title == "loss"), *_scores(rows)]
    figures = []
    for chart in wanted:
        keys = "".join(f'<span class="key"><i style="background:var(--curve-{number})"></i>{escape(line.name)}</span>'
                       for number, line in enumerate(chart.curves))
        figures.append(f'<div><h3>{escape(chart.title[0].upper() + chart.title[1:])}{keys}</h3>{svg(chart, 560, 240)}</div>')
    return f'<section class="charts">{"".join(figures)}</section>' if figures else ""


def _scores(rows: Sequence[Row]) -> list[Chart]:
    """Mean score over the samples that a metric applies to, by step."""
    points: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        if row.get("score") is not None:
            points.setdefault(str(row["metric"]), {}).setdefault(int(row["step"]), []).append(float(row["score"]))
    curves = []
    for metric, by_step in points.items():
        steps = tuple(sorted(by_step))
        most = max(len(values) for values in by_step.values())
        name = f"{metric} ({most} sample{'s' * (most > 1)})"
        curves.append(Curve(name, steps, tuple(sum(by_step[step]) / len(by_step[step]) for step in steps)))
    return [Chart("mean score of the watched samples", tuple(curves[:4]))] if curves else []


def _section(number: int, watched: Watched, answers: Sequence[Answered]) -> str:
    """One sample: its pictures, the right answer, the answers with the newest first."""
    last = len(answers) - 1
    picks = "".join(f'<input class="pick p{i}" type="radio" name="s{number}" id="s{number}a{i}"{" checked" * (i == last)}>'
                    for i in range(len(answers)))
    listed = "".join(_answer(number, i, answers[i]) for i in reversed(range(len(answers)))) or '<label class="soft">none yet</label>'
    marks = "".join(f'<span><span class="chip" style="background:rgb{colour};border:1px solid var(--line)"></span>{words}</span>'
                    for colour, words, seen in (
                        (ASKED_COLOUR, "asked for", request_of(watched.sample, watched.sample.images, 1).regions),
                        (REFERENCE, "reference", true_regions(watched.sample)),
                        (ANSWERED, "answer, dashed", any(answer.regions for answer in answers))) if seen)
    return (f'<section>{picks}<h2>{escape(watched.sample.task.replace("_", " "))} <span class="soft">{escape(watched.sample.id)}</span></h2>'
            f'<p>{escape(watched.question)}</p><div class="legend">{marks}</div><div class="pictures">{_pictures(watched, answers)}</div><div class="pair">'
            f'<div class="reference"><h3>Reference</h3><div class="say">{escape(watched.reference)}</div>{_others(watched)}</div>'
            f'<div class="answers"><h3>Answers, the newest first</h3><div class="list">{listed}</div></div></div></section>')


def _others(watched: Watched) -> str:
    """Further right answers, where a sample has any."""
    texts = [text for text in watched.sample.meta.get("references", ()) if text != watched.reference]
    items = "".join(f'<div class="say">{escape(str(text))}</div>' for text in texts)
    return f'<details><summary class="soft">{len(texts)} other right answer{"s" * (len(texts) > 1)}</summary>{items}</details>' if texts else ""


def _pictures(watched: Watched, answers: Sequence[Answered]) -> str:
    figures = []
    for (number, size, inside), words in zip(watched.pictures, watched.captions, strict=True):
        over = []
        for i, answer in enumerate(answers):
            mine = [replace(region, label="") for region in answer.regions if region.image == number]
            over.append(f'<div class="over o{i}">{outlines(size, mine, [ANSWERED] * len(mine))}</div>' if mine else "")
        figures.append(f'<figure><div class="picture">{inside}{"".join(over)}</div><figcaption>{escape(words)}</figcaption></figure>')
    return "".join(figures)


def _answer(number: int, place: int, answer: Answered) -> str:
    """One entry of the list."""
    row, reading = answer.row, answer.reading
    head = [f"<b>{answer.when}</b>"]
    if reading:
        head.append(f'<span class="status {reading.status.value}" style="margin:0">{STATUS_WORDS[reading.status]}</span>')
    if row.get("score") is not None:
        head.append(f"<span>{escape(str(row['metric']))} {row['score']:g}</span>")
    return f'<label class="l{place}" for="s{number}a{place}"><div class="head">{"".join(head)}</div><div class="say">{_said(row)}</div></label>'


def _said(row: Row) -> str:
    """The text of an answer, or what stands in its place."""
    if "error" in row:
        return f'<span class="soft">not answered: {escape(str(row["error"]))}</span>'
    text = str(row["text"])
    blank = f"({len(text)} blanks)" if text else "(nothing)"
    return escape(text) if text.strip() else f'<span class="soft">{blank}</span>'
