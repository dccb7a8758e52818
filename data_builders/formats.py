"""A store as training data for TRL, LLaMA-Factory and ms-swift: their own formats, nothing left to convert by hand.

    Store --Conversations--> texts around images --Trl | Tagged--> rows and images, in parts --guide--> README, configuration

Texts, pictures and answers are those that `geotempo train` makes of the same samples. Only the samples at hand are in
memory; a killed run goes on at its last part, and equal stores give equal bytes.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tqdm import tqdm

from geotempo import __version__
from geotempo.data_builders.exporting import FORMAT, Exporting, Part
from geotempo.data_builders.format_guides import Trainee, guide
from geotempo.data_builders.format_samples import Conversation, Conversations, Look, SetAsideError
from geotempo.data_builders.format_tagged import Tagged
from geotempo.data_builders.format_trl import Trl
from geotempo.data_builders.schema import Row, dumps
from geotempo.data_builders.store import Store
from geotempo.model.errors import InputError
from geotempo.model.files import write_atomic, write_text

PART_SAMPLES = 1000
"""Samples of a part, a number of the input alone: an interrupted and an uninterrupted run give the same bytes."""
MAX_REJECTED = 0.05


class Format(Protocol):
    """How one trainer's files are written."""

    reserved: tuple[str, ...]

    def rows(self, conversation: Conversation, source: Conversations, folder: Path) -> list[Row]:
        """The rows of a sample; image files are written at once."""

    def part(self, folder: Path, name: str) -> Path:
        """File of a part."""

    def write(self, path: Path, rows: Iterable[Row]) -> None:
        """Write the rows of a part."""

    def finish(self, folder: Path, parts: Iterable[Part]) -> None:
        """Bring the parts into their final shape; may run twice."""


def new_format(trainer: str) -> Format:
    """The format of a trainer.

    Raises:
        InputError: There is none of that name.
    """
    match trainer:
        case "trl":
            return Trl()
        case "llamafactory":
            return Tagged(("<video>", "<audio>"))
        case "swift":
            return Tagged(("<video>", "<audio>", "<bbox>", "<ref-object>", "<cot-process>", "<start-image>"))
    raise InputError(f"unknown format {trainer!r}; allowed: trl, llamafactory, swift")


class _Block(NamedTuple):
    """Rows of the store that make one part."""

    name: str
    split: str
    rows: Sequence[int]


def export_store(path: Path, trainer: str, out: Path, *, look: Look | None = None, trainee: Trainee | None = None,
                 max_rejected: float = MAX_REJECTED, progress: bool = True) -> dict[str, Any]:
    """Write a store in the format of another trainer.

    A killed run goes on at its last part when it is started again with the same arguments.

    Args:
        path: Folder of the store.
        trainer: trl, llamafactory or swift.
        out: New folder; it appears when it is whole. An earlier one for the same trainer is replaced.
        look: How samples become text; None writes as `geotempo train` does by default.
        trainee: The model that the configuration names.
        max_rejected: Highest allowed share of samples that cannot be exported, 0 to 1.
        progress: Show a progress bar on stderr.

    Returns:
        The manifest: counts of samples and rows by split, what was set aside, options.

    Raises:
        InputError: The store is damaged, too many samples cannot be exported, or `out` holds something else.
    """
    store, chosen = Store(path), look or Look()
    if not len(store):
        raise InputError(f"{path} holds no sample; there is nothing to export")
    form = new_format(trainer)
    shown = trainee or Trainee()
    plan = {"trainer": trainer, "geotempo": __version__, "options": asdict(chosen), "trainee": asdict(shown),
            "store": sha256(dumps(store.manifest).encode()).hexdigest()}
    with Exporting(out, plan) as exporting:
        _write_parts(exporting, form, Conversations(store, chosen, form.reserved), progress)
        _refuse_excess(exporting, len(store), max_rejected)
        form.finish(exporting.folder, exporting.parts.values())
        manifest = _manifest(exporting, plan, store)
        for name, text in guide(trainer, manifest, store.manifest, shown).items():
            write_text(exporting.folder / name, text)
        exporting.finish(manifest)
        return manifest


def _blocks(store: Store) -> Iterator[_Block]:
    for split in sorted(store.manifest["counts"]["by_split"]):
        rows = store.rows(split=split)
        for number, first in enumerate(range(0, len(rows), PART_SAMPLES)):
            yield _Block(f"{split}-{number:05d}", split, rows[first:first + PART_SAMPLES])


def _write_parts(exporting: Exporting, form: Format, source: Conversations, progress: bool) -> None:
    """Write the parts that are not there yet."""
    rejected = sum(exporting.reasons().values())
    done = sum(part.samples for part in exporting.parts.values()) + rejected
    with tqdm(total=len(source.store), initial=done, unit="sample", disable=not progress) as bar:
        for block in _blocks(source.store):
            if block.name not in exporting.parts:
                part, aside = _write_part(exporting.folder, form, source, block, bar)
                exporting.commit(part, aside)
                rejected += len(aside)
                if rejected:
                    bar.set_postfix(set_aside=rejected)


def _write_part(folder: Path, form: Format, source: Conversations, block: _Block, bar: "tqdm[Any]") -> tuple[Part, list[dict[str, str]]]:
    counts, aside = Counter[str](), list[dict[str, str]]()

    def rows() -> Iterator[Row]:
        for index in block.rows:
            try:
                conversation = source.read(index)
                made = form.rows(conversation, source, folder)
            except SetAsideError as error:
                aside.append({"key": source.store.ids[index], "reason": error.reason, "detail": str(error)})
            else:
                counts.update(samples=1, rows=len(made), images=len(conversation.images))
                yield from made
            bar.update()

    write_atomic(form.part(folder, block.name), lambda temporary: form.write(temporary, rows()))
    reasons = Counter(entry["reason"] for entry in aside)
    return Part(block.name, block.split, counts["samples"], counts["rows"], counts["images"] > 0, dict(sorted(reasons.items()))), aside


def _refuse_excess(exporting: Exporting, total: int, max_rejected: float) -> None:
    """Stop before the folder gets its name when too much was set aside; the work done is kept.

    Raises:
        InputError: More than the share `max_rejected` of the samples, or all of them.
    """
    reasons = exporting.reasons()
    rejected = sum(reasons.values())
    if rejected < total and rejected <= max_rejected * total:
        return
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items(), key=lambda pair: -pair[1]))
    first = next(exporting.rejected())
    raise_it = "" if rejected == total else ", or run again with a higher --max-rejected to keep the others"
    raise InputError(f"{rejected} of {total} samples cannot be exported (allowed: {max_rejected:.0%}): {listed}; the first: "
                     f"{first['key']}: {first['detail']}; mend the store, remove {exporting.folder} and run again{raise_it}")


def _manifest(exporting: Exporting, plan: dict[str, Any], store: Store) -> dict[str, Any]:
    counts: dict[str, Counter[str]] = {}
    for part in exporting.parts.values():
        counts.setdefault(part.split, Counter()).update(samples=part.samples, rows=part.rows)
    reasons = exporting.reasons()
    return {"format": FORMAT, "trainer": plan["trainer"], "geotempo": __version__, "store": plan["store"],
            "source": store.manifest["builder"]["source"], "options": plan["options"], "model": plan["trainee"]["model"],
            "counts": {split: dict(count) for split, count in sorted(counts.items()) if count["samples"]},
            "rejected": {"total": sum(reasons.values()), "by_reason": reasons}}
