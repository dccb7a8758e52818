"""`geotempo ceilings`."""

from pathlib import Path
from typing import Annotated

import typer


def ceilings(
    stores: Annotated[list[Path], typer.Argument(help="Stores made by `geotempo build`.")],
    out: Annotated[Path, typer.Option(help="JSON file of the results; the table goes to OUT with the ending .md.")],
    tasks: Annotated[list[str] | None, typer.Option(help="Only regions of samples of this task; may be repeated.")] = None,
    split: Annotated[str | None, typer.Option(help="train, val or test; default: all.")] = None,
    sam: Annotated[str | None, typer.Option(help="SAM checkpoint folder or hub name; default: the embedded one.")] = None,
    no_sam: Annotated[bool, typer.Option("--no-sam", help="Only the forms that need no SAM.")] = False,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder with a tokenizer.json; default: the embedded model's.")] = None,
    device: Annotated[str, typer.Option(help="torch device for SAM.")] = "cpu",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N samples with regions of each store.")] = None,
    least: Annotated[int, typer.Option(min=1, help="Labels with fewer regions have no row in the table.")] = 5,
) -> None:
    """Measure what boxes, points, grids and SAM can reach at best on the true regions of stores."""
    from geotempo.data_builders.store import Store
    from geotempo.eval.ceilings import measure, plan, table, token_counter, weights_digest
    from geotempo.model.files import write_text

    segmenter, name = None, ""
    if not no_sam:
        from geotempo.model.grid_prompt import GridSegmenter

        segmenter = GridSegmenter.load(sam, device)
        name = f"{segmenter.name} {weights_digest(segmenter.model.named_parameters())}"
    count, vocabulary = token_counter(tokenizer)
    units = plan([Store(path) for path in stores], tasks, split, limit)
    text = table(measure(units, out, segmenter, count, name=f"{name} {vocabulary}".strip()), least)
    write_text(out.with_suffix(".md"), text + "\n")
    typer.echo(text)
