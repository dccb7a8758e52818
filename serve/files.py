"""Output files that appear all together and whole, or not at all."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from geotempo.model.errors import InputError


def check_targets(targets: Iterable[Path], inputs: Iterable[str] = ()) -> None:
    """Refuse output files that could not be written, before any work is done.

    Args:
        targets: Files to be written.
        inputs: Files that are read and must not be overwritten.

    Raises:
        InputError: A folder is missing or not writable, two outputs share a name, or an output is an input.
    """
    taken = {Path(name).resolve() for name in inputs}
    for target in targets:
        folder = target.parent
        if not folder.is_dir():
            raise InputError(f"the folder {str(folder)!r} for {target.name!r} does not exist; make it first: mkdir -p {folder}")
        if target.is_dir():
            raise InputError(f"the output {str(target)!r} is a folder; give a file name")
        if not os.access(folder, os.W_OK):
            raise InputError(f"the folder {str(folder)!r} is not writable; choose another output")
        if target.resolve() in taken:
            raise InputError(f"the output {str(target)!r} is named twice or is an input; give each output its own name")
        taken.add(target.resolve())


def write_all(contents: Mapping[Path, bytes]) -> None:
    """Write files aside, flush all of them to disk, then give each its name.

    Raises:
        InputError: The disk refuses; no file has appeared then, unless the last step itself failed.
    """
    aside = {target: target.with_name(f".{target.name}.{os.getpid()}.part") for target in contents}
    try:
        for target, data in contents.items():
            with aside[target].open("wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
        for target, part in aside.items():
            part.replace(target)
    except OSError as error:
        raise InputError(f"cannot write {error.filename or 'the outputs'!r}: {error.strerror}; free space or choose "
                         "another folder") from None
    finally:
        for part in aside.values():
            part.unlink(missing_ok=True)
