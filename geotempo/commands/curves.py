"""`geotempo curves`."""

from pathlib import Path
from typing import Annotated

import typer


def curves(
    run: Annotated[Path, typer.Argument(help="Folder of a training run (train.output_dir), finished, running or killed.")],
    out: Annotated[Path | None, typer.Option(help="PNG file to write; by default RUN/curves.png.")] = None,
) -> None:
    """Draw losses, learning rate, tokens per second and gradient norm of a run, up to its newest checkpoint."""
    from geotempo.finetune.curves import CURVES, draw_png, read_history

    target = out or run / CURVES
    draw_png(read_history(run), target, run.resolve().name)
    typer.echo(f"wrote {target}")
