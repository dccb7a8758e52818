"""`geotempo mix`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Licence(StrEnum):
    """What the mixture is to be used for."""

    any = "any"
    commercial = "commercial"


def mix(
    mixture: Annotated[Path, typer.Argument(help="Mixture file (YAML).")],
    out: Annotated[Path, typer.Option(help="Folder of the new store; it appears when the store is whole.")],
    licence: Annotated[Licence, typer.Option(help="commercial: refuse sources that forbid it, or whose terms are unknown.")] = Licence.any,
) -> None:
    """Draw samples of several stores, by weights, caps and temperatures, into one store."""
    from geotempo.data_builders.mix import mix_stores, summary

    manifest, table = mix_stores(mixture, out, commercial=licence is Licence.commercial)
    typer.echo("\n".join([*summary(manifest, table), f"{out} holds the store"]))
