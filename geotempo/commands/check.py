"""`geotempo check`."""

from pathlib import Path

import typer


def check(store: Path = typer.Argument(help="Folder of a store.")) -> None:
    """Check a store: hashes, schema, images, every geometry through the answer grammar; list doubtful labels."""
    from geotempo.data_builders.check import check_store
    from geotempo.data_builders.store import Store
    from geotempo.model.errors import InputError

    report = check_store(Store(store))
    typer.echo("\n".join(report.lines()))
    if report.faults:
        raise InputError(f"{store} has {len(report.faults)} faults, the first: {report.faults[0]}; build it again")
