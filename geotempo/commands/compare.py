"""`geotempo compare`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from geotempo.model.errors import InputError

_AGAINST = "--against"


class ListsAfterAgainst(TyperCommand):
    """Lets `--against` take all folders up to the next option, which click's options cannot."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Name the option again before each of its folders."""
        spelled, inside = [], False
        for argument in args:
            if argument.startswith("-"):
                inside = argument == _AGAINST
                spelled += [] if inside else [argument]
            else:
                spelled += [_AGAINST, argument] if inside else [argument]
        if args and args[-1] == _AGAINST:
            spelled.append(_AGAINST)  # click says that its folder is missing
        return super().parse_args(ctx, spelled)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two scored runs; with --against the runs (seeds) of the first system.")],
    against: Annotated[list[Path] | None, typer.Option(
        _AGAINST, help="The runs (seeds) of the second system, one or more folders.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the numbers as JSON.")] = None,
) -> None:
    """Differences of two systems on the same samples: paired 95 % intervals, paired tests, Holm's correction.

    Bold differences have an interval that excludes zero. Image sets are drawn and exchanged as a whole; several runs of
    a system are pooled.
    """
    import json

    from geotempo.eval.compare import compare_runs, table
    from geotempo.model.files import write_text

    first, second = (runs, list(against)) if against else (runs[:1], runs[1:])
    if not against and len(runs) != 2:
        raise InputError(f"two runs are compared, got {len(runs)}; to pool several seeds: geotempo compare A1 A2 A3 --against B1 B2 B3")
    found = compare_runs(first, second)
    typer.echo(f"A: {', '.join(map(str, first))}\nB: {', '.join(map(str, second))}\n\n{table(found)}")
    if out:
        write_text(out, json.dumps([item.to_json() for item in found], indent=1) + "\n")
