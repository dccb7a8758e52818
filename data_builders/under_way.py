"""A folder that takes its name when it is whole: `<out>.building`, held by one process, with a journal inside.

Stores (`shards.Building`) and exports (`exporting.Exporting`) are made in such a folder.
"""

import fcntl
import os
import shutil
from pathlib import Path
from typing import Any, TextIO

from geotempo.data_builders.schema import dumps
from geotempo.model.errors import InputError
from geotempo.model.files import sync, write_text

LOCK = ".lock"
JOURNAL = ".journal"


def beside(out: Path) -> Path:
    """Where the work on a folder happens."""
    return out.with_name(out.name + ".building")


def hold(out: Path) -> TextIO:
    """Make the folder `beside` and keep other processes out of it until the handle is closed.

    Args:
        out: The final folder.

    Raises:
        InputError: Another process holds it.
    """
    folder = beside(out)
    folder.mkdir(parents=True, exist_ok=True)
    handle = (folder / LOCK).open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise InputError(f"another process is writing {out}; wait for it or choose another folder") from None
    return handle


def begin(folder: Path, plan: dict[str, Any]) -> None:
    """Keep what a killed run with the same plan left; empty the folder otherwise.

    Args:
        folder: Held.
        plan: Everything that its bytes depend on.
    """
    written = folder / JOURNAL / "plan.json"
    if written.is_file() and written.read_text(encoding="utf-8") == dumps(plan):
        return
    for path in folder.iterdir():
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_text(written, dumps(plan))


def put_in_place(out: Path) -> None:
    """Give the whole folder its name, in place of what is there, and make that survive a power cut.

    The journal waits beside it under another name until then: a run killed on the way is taken up by `take_back`.
    """
    folder, aside, old = beside(out), _aside(out), out.with_name(out.name + ".old")
    (folder / LOCK).unlink(missing_ok=True)
    shutil.rmtree(old, ignore_errors=True)
    os.replace(folder / JOURNAL, aside)
    if out.exists():
        os.replace(out, old)
    os.replace(folder, out)
    sync(out.parent)
    shutil.rmtree(aside)
    shutil.rmtree(old, ignore_errors=True)


def take_back(out: Path) -> None:
    """Put the journal back that a run moved aside which was killed in `put_in_place`."""
    folder, aside = beside(out), _aside(out)
    if not aside.is_dir():
        return
    if folder.is_dir() and not (folder / JOURNAL).is_dir():
        os.replace(aside, folder / JOURNAL)
    else:
        shutil.rmtree(aside)


def _aside(out: Path) -> Path:
    return out.with_name(out.name + ".journal")
