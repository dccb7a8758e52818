"""Ask and write down: `predictions.jsonl` grows until every planned request is answered. Nothing is scored here."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from tqdm import tqdm

from geotempo.data_builders.store import Store
from geotempo.eval import controls
from geotempo.eval.answerers import Answerer, Item, request_of
from geotempo.eval.plan import Planned, Selection, plan
from geotempo.eval.predictions import (
    PREDICTIONS,
    Row,
    append_rows,
    digest,
    key_of,
    read_lines,
    set_aside_broken_end,
)
from geotempo.eval.reading import read
from geotempo.eval.task import Task
from geotempo.model.errors import GeoTempoError, InputError
from geotempo.model.files import write_text
from geotempo.model.geometry import Mask
from geotempo.model.predictor import Reply
from geotempo.model.records import Region, time_order

RUN = "run.json"
FAILURES = "failures.jsonl"
FORMAT_VERSION = 2


class Segmenter(Protocol):
    """Regions to masks, as `geotempo.model.masks` does. Its `name`, if it has one, goes into the protocol's name."""

    def segment(self, image: Image.Image, regions: Sequence[Region]) -> list[Mask]:
        """One mask per region of one RGB picture, in order."""


def segmenter_name(segmenter: Segmenter | None) -> str | None:
    """The segmenter's own name, else that of its class; None where boxes are the masks."""
    return None if segmenter is None else str(getattr(segmenter, "name", type(segmenter).__name__))


def data_hash(store: Store) -> str:
    """Names a store's content: the manifest lists the SHA-256 of every shard."""
    return digest(store.manifest)


def run(store: Store, selection: Selection, answerer: Answerer, out: Path, batch_size: int = 8,
        segmenter: Segmenter | None = None) -> None:
    """Answer every planned request and write the answers to `OUT/predictions.jsonl`.

    May be killed at any moment: the same call goes on after the last whole line.

    Args:
        store: The samples.
        selection: Which of them.
        answerer: Who answers.
        out: Folder of the run; new, empty, or of the same run.
        batch_size: Requests handed over at once; after each batch the file is synced.
        segmenter: Turns answered regions into masks, which are stored beside the answer.

    Raises:
        InputError: `out` belongs to another run, or some requests failed; what was answered is kept, and the failed
            ones are listed in `OUT/failures.jsonl` and asked again by the next call.
    """
    planned = plan(store, selection)
    identity = _open_run(store, selection, answerer, out, segmenter, planned)
    path = out / PREDICTIONS
    moved = set_aside_broken_end(path)
    if moved:
        tqdm.write(f"a half-written last line ({moved} bytes) of {path} was set aside; its sample is asked again")
    done = _done(path, store, planned, identity) if path.exists() else set()
    todo = [request for request in planned if (request.task.task, store.ids[request.asks]) not in done]
    asker = _Asker(store, answerer, segmenter, selection.control, identity)
    with tqdm(total=len(planned), initial=len(planned) - len(todo), desc="asking", unit="sample") as progress:
        for batch in _batches(todo, batch_size):
            append_rows(path, asker.rows(batch))
            progress.update(len(batch))
    _report_failures(out, asker.failures, len(planned))


@dataclass
class _Asker:
    """Asks batch by batch. What fails is listed with its reason and never answered in its place."""

    store: Store
    answerer: Answerer
    segmenter: Segmenter | None
    control: str | None
    identity: str
    failures: list[Row] = field(default_factory=list)

    def rows(self, batch: Sequence[Planned]) -> list[Row]:
        """Lines of the requests of a batch that could be answered."""
        ready, rows = [], []
        for request in batch:
            try:
                ready.append((request, self._item(request)))
            except GeoTempoError as error:
                self._fail(request, error)
        for (request, item), reply in zip(ready, self._replies([item for _, item in ready]), strict=True):
            if isinstance(reply, GeoTempoError):
                self._fail(request, reply)
            else:
                rows.append(self._row(request, item, reply))
        return rows

    def _item(self, request: Planned) -> Item:
        """Load a request, its images changed by the control."""
        sample = self.store[request.asks]
        truth = sample if request.truth == request.asks else self.store[request.truth]
        images = sample.images
        if self.control == "swap":
            images = controls.with_pictures_of(images, truth.images)
        elif self.control:
            images = controls.perturb(images, self.control)
        return Item(request.task.task, truth, request_of(sample, images, request.task.max_new_tokens))

    def _replies(self, items: Sequence[Item]) -> list[Reply | GeoTempoError]:
        """Replies in order; when a batch fails, each of its requests is asked alone, to find the culprit."""
        if not items:
            return []
        try:
            return list(self.answerer.answer(items))
        except GeoTempoError as error:
            return [error] if len(items) == 1 else [reply for item in items for reply in self._replies([item])]

    def _row(self, request: Planned, item: Item, reply: Reply) -> Row:
        asks, truth = self.store.ids[request.asks], self.store.ids[request.truth]
        row: Row = {
            "task": request.task.task, "id": asks, "truth": truth, "question": item.request.question,
            "images": [image.id for image in item.request.images], "text": reply.text,
            "finish_reason": reply.finish_reason, "model": self.answerer.name,
            "fingerprint": fingerprint(self.identity, request.task, asks, truth),
        }
        if self.segmenter:
            row["masks"] = self._masks(self.segmenter, item, reply)
        return row

    def _masks(self, segmenter: Segmenter, item: Item, reply: Reply) -> list[Row]:
        """COCO masks of the answered regions, in their order."""
        regions = read(item.sample, reply.text, reply.finish_reason, self.answerer.convention).answer.regions or ()
        masks: dict[int, Mask] = {}
        order = time_order(item.request.images)
        for number in sorted({region.image for region in regions}):
            chosen = [index for index, region in enumerate(regions) if region.image == number]
            image = item.request.images[order.index_of(number)]
            found = segmenter.segment(image.rgb(), [regions[index] for index in chosen])
            masks.update(zip(chosen, found, strict=True))
        return [masks[index].to_coco() for index in range(len(regions))]

    def _fail(self, request: Planned, error: GeoTempoError) -> None:
        self.failures.append({"task": request.task.task, "id": self.store.ids[request.asks], "error": str(error)})


def _batches(requests: Sequence[Planned], size: int) -> Iterator[Sequence[Planned]]:
    for start in range(0, len(requests), size):
        yield requests[start : start + size]


def _open_run(store: Store, selection: Selection, answerer: Answerer, out: Path, segmenter: Segmenter | None,
              planned: Sequence[Planned]) -> str:
    """Write `run.json`, or compare with the one that is there; returns the identity that every line carries."""
    fixed: dict[str, Any] = {
        "format_version": FORMAT_VERSION, "data_sha256": data_hash(store), "model": answerer.name,
        "model_fingerprint": answerer.fingerprint, "convention": answerer.convention.to_json(), "control": selection.control,
        "masks": segmenter_name(segmenter),
        "tasks": [task.to_json() for task in selection.tasks],
        "partial": selection.limit is not None or selection.ids is not None,
        "requests": [[p.task.task, store.ids[p.asks], store.ids[p.truth]] for p in planned],
    }
    fixed = json.loads(json.dumps(fixed))
    path = out / RUN
    if path.exists():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        if changed := [key for key in fixed if earlier.get(key) != fixed[key]]:
            raise InputError(f"{out} holds a run with another {changed[0]}; give another --out, or the settings of "
                             "that run")
    elif (out / PREDICTIONS).exists():
        raise InputError(f"{out} holds {PREDICTIONS} but no {RUN}; give another --out")
    else:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {str(out)!r}: {error.strerror}; give another --out") from None
        write_text(path, json.dumps({"data": str(store.path), **fixed}, indent=1, ensure_ascii=False) + "\n")
    return digest([fixed[key] for key in ("data_sha256", "model_fingerprint", "control", "masks")])


def fingerprint(identity: str, task: Task, asks: str, truth: str) -> str:
    """Names one request exactly: data, model, control, task settings, sample."""
    return digest([identity, task.task, task.max_new_tokens, asks, truth])


def _done(path: Path, store: Store, planned: Sequence[Planned], identity: str) -> set[tuple[str, str]]:
    """Keys of the answered requests.

    Raises:
        InputError: A line belongs to another run.
    """
    known = {(p.task.task, store.ids[p.asks]): fingerprint(identity, p.task, store.ids[p.asks], store.ids[p.truth])
             for p in planned}
    rows = read_lines(path)
    for row in rows:
        if known.get(key_of(row)) != row["fingerprint"]:
            raise InputError(f"{path} holds an answer to {row['id']!r} that is not from this run; give another --out")
    return {key_of(row) for row in rows}


def _report_failures(out: Path, failures: Sequence[Row], total: int) -> None:
    path = out / FAILURES
    if not failures:
        path.unlink(missing_ok=True)
        return
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in failures))
    first = failures[0]
    raise InputError(f"{len(failures)} of {total} requests failed and nothing was scored, first {first['id']!r}: "
                     f"{first['error']}; all are listed in {path}; mend them and run the same command again")
