"""`geotempo sources`."""

from typing import Annotated

import typer

WORDS = {"real": "seen real", "documentation": "format from documentation"}


def sources(
    name: Annotated[str | None, typer.Argument(help="A source, to read its layout, traps and options.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="The table as in the README.")] = False,
) -> None:
    """List what `geotempo build` reads: tasks, licence, and whether original files were seen."""
    from geotempo.data_builders.sources import SOURCES, source_class

    if name is not None:
        typer.echo(describe(name))
        return
    rows = [("source", "tasks", "licence", "evidence")]
    for key in SOURCES:
        kind = source_class(key)
        rows.append((key, ", ".join(kind.tasks), kind.licence.partition(";")[0], WORDS[kind.evidence]))
    if markdown:
        rows.insert(1, ("---",) * 4)
        typer.echo("\n".join("| " + " | ".join(row) + " |" for row in rows))
        return
    widths = [max(len(row[column]) for row in rows) for column in (0, 2, 3)]
    for key, tasks, licence, evidence in rows:
        typer.echo(f"{key:<{widths[0]}}  {licence:<{widths[1]}}  {evidence:<{widths[2]}}  {tasks}")


def describe(name: str) -> str:
    """Everything about a source: what its module says, its options, licence and citation."""
    import inspect
    import sys

    from geotempo.data_builders.options import described
    from geotempo.data_builders.sources import source_class

    kind = source_class(name)
    module = inspect.cleandoc(sys.modules[kind.__module__].__doc__ or "")
    options = described(kind)
    lines = [f"{name}: {WORDS[kind.evidence]}", "", module, "", inspect.cleandoc(kind.__doc__ or ""), "", f"tasks: {', '.join(kind.tasks)}",
             f"licence: {kind.licence}", f"cite: {kind.citation}"]
    lines += ["options: " + ("; ".join(options) if options else "none")]
    return "\n".join(lines)
