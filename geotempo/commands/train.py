"""`geotempo train`: run a recipe."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from geotempo.model.errors import ConfigError, require


def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe file (YAML).")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value, e.g. train.learning_rate=1e-4")] = None,
    restart: Annotated[bool, typer.Option(help="Start anew instead of resuming the last checkpoint.")] = False,
    show_batch: Annotated[bool, typer.Option("--show-batch", help="Show the first batch, supervised tokens marked, and train nothing.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for batch.html; by default the recipe's train.output_dir.")] = None,
) -> None:
    """Train by a recipe; run the same command again to resume after an interruption."""
    from geotempo.finetune.recipe import parse_recipe, read_yaml

    raw = read_yaml(recipe, overrides or [])
    kind = raw.pop("kind", "llm")
    if out is not None and not show_batch:
        raise ConfigError("--out is the folder of --show-batch; where a run is written, train.output_dir says")
    if show_batch and kind != "llm":
        raise ConfigError(f"--show-batch shows texts and their supervised tokens, which recipes of kind {kind!r} have none of")
    if kind == "sam":
        from geotempo.finetune import sam

        typer.echo(f"wrote {sam.train(raw, restart=restart)}")
        return
    require("accelerate", "train", "training")
    if kind == "dense":
        from geotempo.finetune import dense

        typer.echo(f"wrote {dense.train(raw, restart=restart)}")
        return
    if kind != "llm":
        raise ConfigError(f"unknown kind {kind!r} of recipe; allowed: llm (the default), dense, sam")
    parsed = parse_recipe(raw)
    if show_batch:
        _show(parsed, out)
        return
    from geotempo.finetune.train import train as run

    typer.echo(f"wrote {run(parsed, restart=restart)}")


def _show(recipe: Any, out: Path | None) -> None:
    """Print the first batch and write its page; colours where a person looks, unless https://no-color.org asks for none."""
    from geotempo.finetune.show_batch import show_batch

    text, page = show_batch(recipe, out, colour=sys.stdout.isatty() and not os.environ.get("NO_COLOR"))
    typer.echo(f"{text}\n\n{page} shows it with its images; nothing was trained")
