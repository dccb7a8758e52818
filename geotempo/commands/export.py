"""`geotempo export`: adapters for a serving engine."""

from pathlib import Path
from typing import Annotated

import typer

from geotempo.model.errors import ConfigError


def export(
    adapters: Annotated[list[Path], typer.Argument(help="LoRA adapters of one base.")],
    vllm: Annotated[bool, typer.Option("--vllm", help="For vLLM.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the adapters; by default only what must change is written, beside them.")] = None,
    base: Annotated[str | None, typer.Option(help="Folder or hub name of their base, where they do not say.")] = None,
    name: Annotated[list[str] | None, typer.Option(help="What clients call an adapter, one each; by default the run's folder.")] = None,
    scores: Annotated[Path | None, typer.Option(help="results.json of an evaluation, for the model card of one adapter.")] = None,
) -> None:
    """Check adapters for a serving engine, mend or refuse what it would silently get wrong, and print how to serve them."""
    if not vllm:
        raise ConfigError("name the engine: --vllm")
    if scores is not None and len(adapters) > 1:
        raise ConfigError("--scores is of one model; export the adapters one by one")
    from geotempo.finetune.export import export_vllm
    from geotempo.finetune.model_card import add_scores

    serving = export_vllm(adapters, out, base=base, names=name or ())
    for adapter in serving.adapters:
        typer.echo(f"{adapter.name}: {adapter.folder}" + ("" if adapter.mended else " (vLLM reads it as it is)"))
        for change in adapter.mended:
            typer.echo(f"  {change}")
    if scores is not None:
        add_scores(serving.adapters[0].folder, scores)
    typer.echo("\nServe them, chosen by the request's model:\n")
    typer.echo(serving.command())
    for reason in serving.reasons:
        typer.echo(f"  # {reason}")
    typer.echo("\nOr load them into a running server:\n")
    typer.echo(serving.command(run_time=True))
    for request in serving.load_requests():
        typer.echo(request)
