"""`geotempo train`: run a recipe."""

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe file (YAML).")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value, e.g. train.learning_rate=1e-4")] = None,
    restart: Annotated[bool, typer.Option(help="Start anew instead of resuming the last checkpoint.")] = False,
) -> None:
    """Train by a recipe; run the same command again to resume after an interruption."""
    from geotempo.finetune.recipe import parse_recipe, read_yaml

    raw = read_yaml(recipe, overrides or [])
    if raw.pop("kind", "llm") == "sam":
        from geotempo.finetune import sam

        typer.echo(f"wrote {sam.train(raw)}")
        return
    parsed = parse_recipe(raw)
    from geotempo.finetune.train import train as run

    typer.echo(f"wrote {run(parsed, restart=restart)}")
