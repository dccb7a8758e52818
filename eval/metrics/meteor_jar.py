"""METEOR-1.5 by its own Java program, which the package pycocoevalcap carries; for words this is the literature's METEOR.

Needs `pip install pycocoevalcap` and a `java` on the path. One process scores all captions: the program is asked for
the statistics of each caption only, and `geotempo.eval.metrics.meteor` adds them up, so that they can be bootstrapped.
"""

import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from geotempo.eval.metrics.meteor import without_perfect_chunks
from geotempo.model.errors import InputError, MissingExtraError

FloatArray = npt.NDArray[np.float64]
NAME = "METEOR-1.5"
COLUMNS = 23


def jar_path() -> Path:
    """Where the program lies.

    Raises:
        MissingExtraError: pycocoevalcap is not installed.
        InputError: There is no `java`.
    """
    found = importlib.util.find_spec("pycocoevalcap")
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError("pycocoevalcap", "eval", NAME)
    if shutil.which("java") is None:
        raise InputError(f"{NAME} needs Java, and there is no `java` on the path; install a Java runtime, or use "
                         "METEOR-exact-stem, which needs none")
    return Path(found.submodule_search_locations[0]) / "meteor" / "meteor-1.5.jar"


def available() -> bool:
    """Whether METEOR-1.5 can be computed here."""
    try:
        return jar_path().exists()
    except (MissingExtraError, InputError):
        return False


def jar_statistics(captions: Sequence[str], references: Sequence[Sequence[str]], modules: str = "") -> FloatArray:
    """Statistics of each caption against its best reference, for `meteor.meteor_from_sums`.

    Args:
        captions: n captions as the protocol prepares them.
        references: n lists of one or more references.
        modules: Matchers, such as `exact stem`; empty for all four.

    Returns:
        Array (n, 23): the columns of `meteor.meteor_statistics` for four matchers.

    Raises:
        MissingExtraError: pycocoevalcap is not installed.
        InputError: There is no `java`, or the program failed.
    """
    command = ["java", "-Xmx2G", "-jar", str(jar_path()), "-", "-", "-stdio", "-l", "en", "-norm"]
    command += ["-m", modules] if modules else []
    lines = [" ||| ".join(("SCORE", *map(_line, known), _line(caption)))
             for caption, known in zip(captions, references, strict=True)]
    done = subprocess.run(command, input="".join(line + "\n" for line in lines).encode(errors="replace"),
                          capture_output=True, check=False)
    rows = [line.split() for line in done.stdout.decode().splitlines()]
    if len(rows) != len(captions) or any(len(row) != COLUMNS for row in rows):
        raise InputError(f"the METEOR program gave {len(rows)} lines for {len(captions)} captions: "
                         f"{done.stderr.decode(errors='replace').strip()[:300]}")
    return without_perfect_chunks(np.array(rows, dtype=np.float64).reshape(-1, COLUMNS))


def _line(text: str) -> str:
    """A text without what the program takes for a separator."""
    return " ".join(text.replace("|||", "").split())
