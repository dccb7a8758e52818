"""`geotempo leaks`."""

import json
from pathlib import Path
from typing import Annotated

import typer


def leaks(
    train: Annotated[Path, typer.Argument(help="Store that a model is trained on.")],
    evaluation: Annotated[Path, typer.Argument(metavar="EVAL", help="Store that it is evaluated on; may be the same one.")],
    train_split: Annotated[str | None, typer.Option(help="Only this split of TRAIN; left out: all, or train where both are one store.")] = None,
    eval_split: Annotated[str | None, typer.Option(help="Only this split of EVAL; left out: all, or all but train where both are one.")] = None,
    pictures: Annotated[bool, typer.Option(help="Compare how pictures look, too; the first time every image is decoded.")] = True,
    workers: Annotated[int, typer.Option(min=1, help="Processes that decode images.")] = 1,
    out: Annotated[Path | None, typer.Option(help="File for everything that was found, as JSON.")] = None,
) -> None:
    """Find what an evaluation shares with training: images, places, events. Exit code 1 where it shares anything."""
    from geotempo.data_builders.leaks import find_leaks
    from geotempo.data_builders.store import Store
    from geotempo.model.errors import InputError
    from geotempo.model.files import write_text

    stores = Store(train), Store(evaluation)
    same = train.resolve() == evaluation.resolve()
    if same and train_split is None:
        train_split = "train"
    mine = stores[0].rows(split=train_split)
    theirs = [row for row in stores[1].rows(split=eval_split)
              if not (same and eval_split is None and stores[1].facts(row).split == train_split)]
    if not mine or not theirs:
        raise InputError(f"{train if not mine else evaluation} has no sample to compare; give --train-split and --eval-split")
    found = find_leaks([(stores[0], mine)], [(stores[1], theirs)], most_new=None if pictures else 0, workers=workers)
    typer.echo("\n".join(found.lines()))
    if out is not None:
        write_text(out, json.dumps(found.to_dict(), ensure_ascii=False, indent=1) + "\n")
    if found.shared:
        raise typer.Exit(1)
