"""`geotempo masks-eval`: what SAM is worth with true boxes and points as prompts."""

from pathlib import Path
from typing import Annotated

import typer


def masks_eval(
    store: Annotated[list[Path], typer.Argument(help="Stores with masks, made by `geotempo build`.")],
    sam: Annotated[list[str] | None, typer.Option(
        help="SAM or SAM 2 to measure, folder or hub name; several times for several. Default: the embedded sam_tiny.")] = None,
    split: Annotated[list[str] | None, typer.Option(help="Splits; several times for several. Default: val.")] = None,
    task: Annotated[list[str] | None, typer.Option(
        help="Tasks to take masks from. Default: referring_segmentation, change_segmentation, damage.")] = None,
    least_score: Annotated[list[float] | None, typer.Option(
        min=0.0, max=1.0, help="Also with the box in place of masks that SAM itself scores lower; several times for several.")] = None,
    crops: Annotated[bool, typer.Option("--crops/--no-crops", help="Show small objects enlarged.")] = True,
    device: Annotated[str, typer.Option(help="torch device.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Also write the numbers as JSON.")] = None,
) -> None:
    """Mean mask IoU with true boxes and points as prompts, next to the box itself as the mask, as one table."""
    import json

    from geotempo.finetune.sam_data import TASKS
    from geotempo.finetune.sam_eval import evaluate_store, table
    from geotempo.model.files import write_text
    from geotempo.model.masks import Segmenter

    segmenters = {name.rstrip("/"): Segmenter.load(name, device, crops=crops) for name in sam or ()}
    if not segmenters:
        segmenters["sam_tiny"] = Segmenter.load(None, device, crops=crops)
    segmenters |= {f"{name} @ {least:g}": Segmenter(used.model, used.preprocessing, used.name, crops=crops, least_score=least)
                   for name, used in list(segmenters.items()) for least in least_score or ()}
    rows = [evaluate_store(segmenters, folder, part, task or TASKS) for folder in store for part in split or ["val"]]
    typer.echo(table(rows))
    if out:
        write_text(out, json.dumps(rows, indent=1) + "\n")
