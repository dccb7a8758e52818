"""`geotempo demo`: the whole path on a shipped sequence, offline."""

import time
from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Folder for pictures, GeoJSON and the page.")] = Path("geotempo-demo"),
    model: Annotated[str | None, typer.Option(help="Model folder; default: the embedded geotempo-tiny.")] = None,
) -> None:
    """Ask the embedded model four questions about a shipped sequence of four dates; write pictures, GeoJSON, a page."""
    from geotempo.model.checkpoints import default_model
    from geotempo.model.masks import Segmenter
    from geotempo.serve.demo import run
    from geotempo.serve.hf import HFPredictor

    start = time.perf_counter()
    written = run(HFPredictor(model or default_model()), Segmenter.load, out, typer.echo)
    for path in written:
        typer.echo(f"wrote {path}")
    typer.echo(f"done in {time.perf_counter() - start:.0f} s; open {written[0].resolve().as_uri()}")
