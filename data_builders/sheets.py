"""Tables that come as Excel sheets or CSV files. Excel needs openpyxl (extra `xlsx`); a sheet exported as CSV does not."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from geotempo.model.errors import LayoutError, MissingExtraError

SUFFIXES = (".csv", ".xlsx")


def read_sheet(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Rows of a table, its first sheet where it has several.

    Args:
        path: `.xlsx` or `.csv`, the names of the columns in the first row.
        columns: Names that must be there.

    Returns:
        Cells as text by column; empty ones are empty text. Rows without any content are left out.

    Raises:
        LayoutError: The file cannot be read, or a column is missing.
        MissingExtraError: An Excel sheet, and openpyxl is not installed.
    """
    rows = _excel(path) if path.suffix.lower() == ".xlsx" else _csv(path)
    names = [str(cell or "").strip() for cell in next(rows, ())]
    missing = [name for name in columns if name not in names]
    if missing:
        raise LayoutError(f"{path} has no column {missing[0]!r}; expected {', '.join(columns)}, it has {', '.join(names) or 'none'}")
    for row in rows:
        cells = ["" if cell is None else str(cell).strip() for cell in row]
        if any(cells):
            yield dict(zip(names, cells, strict=False))


def _csv(path: Path) -> Iterator[Sequence[Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            yield from csv.reader(handle)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LayoutError(f"cannot read {path}: {error}") from None


def _excel(path: Path) -> Iterator[Sequence[Any]]:
    try:
        import openpyxl
        from openpyxl.utils.exceptions import InvalidFileException
    except ImportError:
        raise MissingExtraError("openpyxl", "xlsx", f"the sheet {path.name}") from None
    from zipfile import BadZipFile

    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (OSError, BadZipFile, InvalidFileException, KeyError, ValueError) as error:
        raise LayoutError(f"{path} is no Excel sheet ({error}); copy it again") from None
    try:
        yield from book.worksheets[0].iter_rows(values_only=True)
    finally:
        book.close()
