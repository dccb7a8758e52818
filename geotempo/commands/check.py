"""`geotempo check`."""

from pathlib import Path
from typing import Annotated

import typer


def check(stores: Annotated[list[Path], typer.Argument(metavar="STORE...", help="Folders of stores.")]) -> None:
    """Check stores: hashes, schema, images, every geometry through the answer grammar, labels, ids; list doubtful labels."""
    from geotempo.data_builders.check import check_across, check_store
    from geotempo.data_builders.store import Store
    from geotempo.model.errors import InputError

    opened = [Store(path) for path in stores]
    faults = check_across(opened)
    for store in opened:
        report = check_store(store)
        typer.echo("\n".join([str(store.path)] * (len(opened) > 1) + report.lines()))
        faults += report.faults
    if faults:
        raise InputError(f"{', '.join(map(str, stores))}: {len(faults)} faults, the first: {faults[0]}; build again")
