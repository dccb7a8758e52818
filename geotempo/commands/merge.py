"""`geotempo merge`."""

from pathlib import Path
from typing import Annotated

import typer


def merge(
    stores: Annotated[list[Path], typer.Argument(help="Stores: the shards of one build, or any others.")],
    out: Annotated[Path, typer.Option(help="Folder of the new store; it appears when the store is whole.")],
    max_rejected: Annotated[float, typer.Option(min=0.0, max=1.0, help="Highest allowed share of unusable items.")] = 0.05,
) -> None:
    """Join the shards of a build (`--shard i/n`), or any stores of different samples, into one store."""
    from geotempo.commands.build import summary
    from geotempo.data_builders.merge import merge_stores

    typer.echo(summary(merge_stores(stores, out, max_rejected, card=True), out))
