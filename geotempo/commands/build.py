"""`geotempo build`."""

from pathlib import Path
from typing import Any

import typer


def build(
    source: str = typer.Argument(help="levir-cc, levir-mci, levir-cd, oscd, nwpu-vhr10, xbd or scenes."),
    out: Path = typer.Option(..., help="Folder of the store; it appears when the store is whole."),
    root: Path | None = typer.Option(None, help="The dataset in its original folder layout (not for scenes)."),
    workers: int = typer.Option(1, min=1, help="Processes that read items."),
    max_rejected: float = typer.Option(0.05, min=0.0, max=1.0, help="Highest allowed share of unusable items."),
    count: int = typer.Option(1000, min=1, help="scenes: how many."),
    seed: int = typer.Option(0, help="scenes: seed."),
    size: int = typer.Option(256, help="scenes: side of the images in pixels."),
    dates: int | None = typer.Option(None, min=1, max=8, help="scenes: images per scene; left out: 2 to 8."),
    val_share: float = typer.Option(0.1, min=0.0, max=1.0, help="scenes: share of the val split, the last by number."),
    easy: bool = typer.Option(False, help="scenes: few large buildings under mild nuisance."),
) -> None:
    """Read a dataset in its original layout and write a store of samples."""
    from geotempo.data_builders.build import build_store
    from geotempo.model.errors import InputError

    options: dict[str, Any] = {}
    if source == "scenes":
        options = {"count": count, "seed": seed, "size": size, "dates": dates, "val_share": val_share, "easy": easy}
    elif root is None:
        raise InputError(f"{source} is read from a folder; give it with --root DIR")
    manifest = build_store(source, root or Path(), out, options=options, workers=workers, max_rejected=max_rejected)
    typer.echo(summary(manifest, out))


def summary(manifest: dict[str, Any], out: Path) -> str:
    """The table that a build prints: items kept and rejected, samples, and the source's own counts."""
    rejected, counts = manifest["rejected"], manifest["counts"]
    lines = [("items kept", manifest["items"] - rejected["total"]), ("items rejected", rejected["total"])]
    lines += [(f"  {reason}", number) for reason, number in rejected["by_reason"].items()]
    lines += [("images", counts["images"]), ("samples", counts["samples"])]
    lines += [(f"  split {name}", number) for name, number in counts["by_split"].items()]
    lines += [(f"  task {name}", number) for name, number in counts["by_task"].items()]
    lines += list(manifest["tally"].items())
    width = max(len(name) for name, _ in lines)
    table = "\n".join(f"{name:<{width}}  {number:>9,}" for name, number in lines)
    where = f"{out} holds the store" + (f"; see {out / 'rejected.jsonl'}" if rejected["total"] else "")
    return f"{table}\n{where}"
