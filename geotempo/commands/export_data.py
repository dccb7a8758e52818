"""`geotempo export-data`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class Trainer(StrEnum):
    """Whose format is written."""

    trl = "trl"
    llamafactory = "llamafactory"
    swift = "swift"


class Grids(StrEnum):
    """Which regions carry a grid."""

    none = "none"
    areas = "areas"
    all = "all"


class Mode(StrEnum):
    """How coordinates are counted."""

    geotempo = "geotempo"
    teochat = "teochat"


def export_data(
    store: Annotated[Path, typer.Argument(help="Folder of a store.")],
    trainer: Annotated[Trainer, typer.Option("--format", help="The trainer.")],
    out: Annotated[Path, typer.Option(help="New folder; it appears when it is whole.")],
    base: Annotated[str | None, typer.Option(help="Folder or hub name of the model to train: decides how coordinates are counted and "
                                                  "fills the configuration.")] = None,
    convention: Annotated[Mode | None, typer.Option(help="geotempo: 0-1000; teochat: TEOChat's. Left out: the base's.")] = None,
    points: Annotated[bool, typer.Option("--points", help="Answers carry two interior points per region, for masks.")] = False,
    grids: Annotated[Grids, typer.Option(help="Which regions carry a 16 x 16 grid of their box.")] = Grids.none,
    max_rejected: Annotated[float, typer.Option(min=0.0, max=1.0, help="Highest allowed share of unusable samples.")] = 0.05,
) -> None:
    """Write a store as training data for TRL, LLaMA-Factory or ms-swift, with a configuration that is ready to run."""
    from geotempo.data_builders.format_guides import Trainee, read_trainee
    from geotempo.data_builders.format_samples import Look
    from geotempo.data_builders.formats import export_store
    from geotempo.model.convention import GEOTEMPO, TEOCHAT

    trainee, counted = (Trainee(), GEOTEMPO) if base is None else read_trainee(base)
    if convention is not None:
        counted = TEOCHAT if convention is Mode.teochat else GEOTEMPO
    look = Look(points, grids.value, counted)
    manifest = export_store(store, trainer.value, out, look=look, trainee=trainee, max_rejected=max_rejected)
    typer.echo(summary(manifest, out))


def summary(manifest: dict[str, Any], out: Path) -> str:
    """What an export prints: samples and rows by split, and what was set aside."""
    rejected = manifest["rejected"]
    lines = [("samples set aside", rejected["total"])] + [(f"  {reason}", count) for reason, count in rejected["by_reason"].items()]
    for split, counts in manifest["counts"].items():
        lines.append((f"split {split}: samples", counts["samples"]))
        if counts["rows"] != counts["samples"]:
            lines.append((f"split {split}: rows, one for each answer", counts["rows"]))
    width = max(len(name) for name, _ in lines)
    table = "\n".join(f"{name:<{width}}  {number:>9,}" for name, number in lines)
    named = f"; what was set aside stands in {out / 'rejected.jsonl'}" if rejected["total"] else ""
    return f"{table}\n{out} is ready to train on: see {out / 'README.md'}{named}"
