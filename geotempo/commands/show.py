"""`geotempo show`."""

from pathlib import Path

import typer


def show(
    store: Path = typer.Argument(help="Folder of a store."),
    sample_id: str = typer.Option(..., "--id", help="Sample id, as in the store's `id` column."),
    out: Path = typer.Option(..., help="PNG file to write."),
) -> None:
    """Draw a sample: images side by side with dates, regions, question and answer."""
    from geotempo.data_builders.show import sample_sheet
    from geotempo.data_builders.store import Store
    from geotempo.model.draw import save_png

    sample = Store(store).by_id(sample_id)
    save_png(sample_sheet(sample), out)
    typer.echo(f"{out} shows {sample.id}")
