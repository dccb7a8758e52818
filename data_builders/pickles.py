"""Reading a pickle from a dataset without running it: only plain data comes out, everything else is refused by name."""

import io
import pickle
from pathlib import Path
from typing import Any

from geotempo.model.errors import LayoutError


BROKEN = (EOFError, ValueError, LookupError, AttributeError, TypeError, MemoryError, OverflowError)
"""What the unpickler raises on bytes that are no whole pickle, besides its own error."""


class _PlainUnpickler(pickle.Unpickler):
    """Builds None, bool, numbers, texts, tuples, lists and dictionaries, for which no global is looked up.

    Whatever a pickle runs (a class, `os.system`, `copyreg`), it must first name as a global, an extension code or a
    persistent id.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Refuse every global, also those that an extension code stands for."""
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        """Refuse every persistent id."""
        raise pickle.UnpicklingError(f"it asks for the persistent object {str(pid)[:40]!r}")


def load_plain(path: Path) -> Any:
    """Content of a pickle file that holds plain data only.

    Args:
        path: For example `refs(unc).p` of the RefCOCO family.

    Raises:
        LayoutError: The file cannot be read, is no whole pickle, or asks for anything that plain data does not need.
    """
    try:
        data = path.read_bytes()
        return _PlainUnpickler(io.BytesIO(data), encoding="utf-8").load()
    except OSError as error:
        raise LayoutError(f"cannot read {path}: {error.strerror}") from None
    except pickle.UnpicklingError as error:
        raise LayoutError(f"{path} is refused: {error}; a pickle of a dataset may hold lists, dictionaries, texts and numbers "
                          "only; get it from its publisher, or ask for JSON") from None
    except BROKEN as error:
        raise LayoutError(f"{path} is no whole pickle ({type(error).__name__}: {error}); copy it again") from None
