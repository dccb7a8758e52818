"""The `grid` of a region: which cells of its box are inside, as text.

Area-like change (a flood, a clearing, a burn scar) has no shape that a box or two points could stand for. Its region
carries a 16 x 16 occupancy grid of its `bbox_2d`: masks in text by row-wise runs (Text4Seg, Lan et al., arXiv
2410.09855), inside the box only (Text4Seg++, Lan et al., arXiv 2509.06321).

Sixteen rows from top to bottom stand between slashes. A row lists its runs of full cells, each as the letters of its
first and its last column, `a` to `p`: `ap` is a full row, `bdgg` columns 2 to 4 and 7, nothing an empty row. A cell is
full when at least half of its area is inside.

Whatever sixteen rows of letter pairs say is a grid of 16 x 16, so the total is fixed by the schema; run lengths, which
the letters replace, would have to add up, and a slip in one moves the rest of its row. Mean tokens of one grid, over 577
grids of LEVIR-MCI, OSCD and scene floods and clearings, and IoU (times 100) with the true grid after four symbols
slipped by one (`tests/bench/bench_grid.py`):

| form | Llama 2 | geotempo_tiny | after slips |
|---|---|---|---|
| first and last column of each run, letters | 35.6 | 53.7 | 98.0 |
| run lengths of each row, letters | 38.6 | 53.6 | 97.1 |
| rows as four hexadecimal digits | 43.5 | 72.0 | 97.7 |
| run lengths of the whole grid, digits | 70.7 | 75.7 | 74.9 |
| run lengths with labels (Text4Seg) | 198.0 | 288.6 | |
"""

from collections.abc import Iterable

import numpy as np

from geotempo.model.geometry import Box, Geometry, coverage

GRID_CELLS = 16
"""Rows and columns of a grid."""

COLUMNS = "abcdefghijklmnop"
"""A letter for each column."""

ROW = "(?:[a-p][a-p]){0,8}"
"""A row as a regular expression: pairs of letters, eight at most since runs do not touch."""

Cells = tuple[tuple[bool, ...], ...]
"""`GRID_CELLS` rows of as many cells."""

Run = tuple[int, int]
"""First and last column, from 0."""

_HALF = 0.5 - 1e-9


def to_cells(geometry: Geometry, box: Box) -> Cells | None:
    """The cells of a box that lie inside a geometry by half or more.

    Args:
        geometry: Any geometry. What is a box says nothing of its inside and has no cells.
        box: In pixels; the box as it is written, rounding included.

    Returns:
        The cells, or None where there are none: a box, or something so thin that it fills no cell by half.
    """
    if isinstance(geometry, Box):
        return None
    full = coverage(geometry, box, (GRID_CELLS, GRID_CELLS)) >= _HALF
    return tuple(map(tuple, full.tolist())) if full.any() else None


def write_cells(cells: Cells) -> str:
    """The cells as text, for example `ap/ap/bo/` and so on."""
    return "/".join("".join(COLUMNS[first] + COLUMNS[last] for first, last in _runs(row)) for row in cells)


def from_runs(rows: Iterable[Iterable[Run]]) -> Cells:
    """Cells from the runs of `GRID_CELLS` rows; runs may overlap."""
    cells = np.zeros((GRID_CELLS, GRID_CELLS), dtype=np.bool_)
    for row, runs in enumerate(rows):
        for first, last in runs:
            cells[row, first : last + 1] = True
    return tuple(map(tuple, cells.tolist()))


def _runs(row: tuple[bool, ...]) -> list[Run]:
    """The runs of full cells of a row."""
    padded = np.array([False, *row, False], dtype=np.int8)
    starts, stops = np.flatnonzero(np.diff(padded) == 1), np.flatnonzero(np.diff(padded) == -1)
    return [(int(first), int(stop) - 1) for first, stop in zip(starts, stops, strict=True)]
