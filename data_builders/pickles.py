"""Pickle files of plain data, read without running anything that they say.

A pickle is a program. Here it may build lists, dictionaries, tuples, text, bytes, numbers, truth values and None; a
program that names a function or a class, or that would call, import or restore anything, is refused before its next
step.
"""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, NoReturn

from geotempo.model.errors import InputError

MAX_BYTES = 2**30

_GLOBALS = frozenset({"GLOBAL", "STACK_GLOBAL", "INST"})
_DATA = frozenset({
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "NONE", "NEWTRUE", "NEWFALSE",
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "EMPTY_LIST", "LIST", "APPEND", "APPENDS",
    "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
    "PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET", "MEMOIZE",
})
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})


def load_plain(path: Path) -> Any:
    """The data of a pickle file that holds nothing but plain data, of any protocol; text of Python 2 is read as UTF-8.

    Raises:
        InputError: It cannot be read, is larger than `MAX_BYTES`, is no pickle, or holds or does anything else.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} is larger than {MAX_BYTES >> 20} MiB, which no annotation file of this kind is")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    return loads_plain(data, path.name)


def loads_plain(data: bytes, name: str) -> Any:
    """`load_plain` of bytes.

    Args:
        data: The pickle.
        name: What to call it in messages.
    """
    _look_through(data, name)
    try:
        return _Plain(data, name).load()
    except InputError:
        raise
    except (
        pickle.UnpicklingError,
        ValueError,
        EOFError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        OverflowError,
        MemoryError,
        RecursionError,
    ) as error:
        raise _broken(name, error) from None


class _Plain(pickle.Unpickler):
    """An unpickler that knows no names."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8", errors="replace")
        self._name = name

    def find_class(self, module: str, name: str, /) -> NoReturn:
        """Refuse every function and class."""
        raise _refused(self._name, f"names {module}.{name}")

    def persistent_load(self, pid: Any, /) -> NoReturn:
        """Refuse objects of elsewhere."""
        raise _refused(self._name, "refers to an object outside of it")


def _look_through(data: bytes, name: str) -> None:
    """Refuse every step that is not data, up to the first name, which the unpickler itself refuses.

    The unpickler alone would take classes of the extension registry from its cache, and room for any number of memos.
    """
    try:
        for code, value, _ in pickletools.genops(data):
            if code.name in _GLOBALS:
                return
            if code.name not in _DATA:
                raise _refused(name, f"uses the instruction {code.name}")
            if code.name in _PUTS and not 0 <= int(str(value)) <= len(data):
                raise _refused(name, f"asks for room for {value} objects")
    except InputError:
        raise
    except (ValueError, IndexError, OverflowError, RecursionError) as error:
        raise _broken(name, error) from None


def _refused(name: str, what: str) -> InputError:
    return InputError(
        f"{name} {what}, and an annotation file is plain data only (lists, dictionaries, tuples, text, bytes, "
        "numbers): it was not run; get the file from its authors, or save it as plain data"
    )


def _broken(name: str, error: Exception) -> InputError:
    return InputError(
        f"{name} is no whole pickle file ({' '.join(str(error).split())[:120] or type(error).__name__}); copy it again"
    )
