"""`geotempo build`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from geotempo.commands import export_data
from geotempo.commands.export_data import Trainer


class Engine(StrEnum):
    """Where items are read."""

    process = "process"
    ray = "ray"


class Images(StrEnum):
    """What a store holds of images."""

    copy = "copy"
    reference = "reference"


def build(
    source: Annotated[str, typer.Argument(help="Name of the source; `geotempo sources` lists them.")],
    options: Annotated[list[str] | None, typer.Argument(
        metavar="[KEY=VALUE]...", help="Options of the source; `geotempo sources NAME` lists them.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the store; it appears when the store is whole.")] = ...,  # type: ignore[assignment]
    root: Annotated[Path | None, typer.Option(help="The dataset in its original folder layout (not for scenes).")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that read items.")] = 1,
    images: Annotated[Images, typer.Option(help="Store the images' bytes, or only where they lie.")] = Images.copy,
    controls: Annotated[str, typer.Option(help="Control samples to add: identical, swapped, or both with a comma.")] = "",
    shard: Annotated[str, typer.Option(help="Only part i of n, written i/n; `geotempo merge` joins them.")] = "1/1",
    engine: Annotated[Engine, typer.Option(help="Processes of this machine, or a Ray cluster.")] = Engine.process,
    address: Annotated[str | None, typer.Option(help="ray: its address; left out: RAY_ADDRESS, else this machine.")] = None,
    shards: Annotated[int | None, typer.Option(min=1, help="ray: parts; left out: two for each CPU of the cluster.")] = None,
    max_rejected: Annotated[float, typer.Option(min=0.0, max=1.0, help="Highest allowed share of unusable items.")] = 0.05,
    formats: Annotated[list[Trainer] | None, typer.Option(
        "--format", help="Also write OUT-trl, OUT-llamafactory or OUT-swift for that trainer; may be given more than once.")] = None,
) -> None:
    """Read a dataset in its original layout and write a store of samples."""
    from geotempo.data_builders.build import build_store
    from geotempo.data_builders.formats import export_store
    from geotempo.data_builders.options import read_options
    from geotempo.data_builders.sources import source_class
    from geotempo.model.errors import InputError

    if formats and shard != "1/1":
        raise InputError("--format needs the whole store; merge the shards, then run geotempo export-data STORE --format ...")
    chosen = read_options(source_class(source), options or ())
    if root is None and source != "scenes":
        raise InputError(f"{source} is read from a folder; give it with --root DIR")
    common: dict[str, Any] = {"options": chosen, "workers": workers, "max_rejected": max_rejected, "images": images.value, "card": True,
                              "controls": tuple(name.strip() for name in controls.split(",") if name.strip())}
    if engine is Engine.ray:
        from geotempo.data_builders.cluster import build_on_ray

        if shard != "1/1":
            raise InputError("--engine ray makes the shards itself; give --shards N instead of --shard i/n")
        manifest = build_on_ray(source, root or Path(), out, address=address, shards=shards, **common)
    else:
        manifest = build_store(source, root or Path(), out, shard=read_shard(shard), **common)
    typer.echo(summary(manifest, out))
    for trainer in formats or ():
        beside = out.with_name(f"{out.name}-{trainer.value}")
        typer.echo(export_data.summary(export_store(out, trainer.value, beside), beside))


def read_shard(text: str) -> tuple[int, int]:
    """(i, n) of `i/n`.

    Raises:
        InputError: It is something else, or i is not in 1..n.
    """
    from geotempo.model.errors import InputError

    number, slash, total = text.partition("/")
    if not (slash and number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total)):
        raise InputError(f"--shard must be i/n with i in 1..n, e.g. 3/8, got {text!r}")
    return int(number), int(total)


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
