"""`geotempo train`: run a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from geotempo.model.errors import ConfigError


def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe file (YAML).")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value, e.g. train.learning_rate=1e-4")] = None,
    restart: Annotated[bool, typer.Option(help="Start anew instead of resuming the last checkpoint.")] = False,
) -> None:
    """Train by a recipe; run the same command again to resume after an interruption."""
    from geotempo.finetune.recipe import parse_recipe, read_yaml

    raw = read_yaml(recipe, overrides or [])
    kind = raw.pop("kind", "llm")
    if kind == "sam":
        from geotempo.finetune import sam

        typer.echo(f"wrote {sam.train(raw, restart=restart)}")
        return
    if kind == "dense":
        from geotempo.finetune import dense

        typer.echo(f"wrote {dense.train(raw, restart=restart)}")
        return
    if kind != "llm":
        raise ConfigError(f"unknown kind {kind!r} of recipe; allowed: llm (the default), dense, sam")
    parsed = parse_recipe(raw)
    from geotempo.finetune.train import train as run

    typer.echo(f"wrote {run(parsed, restart=restart)}")
