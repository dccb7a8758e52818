"""`geotempo merge`: stores into a store, or an adapter into its base."""

from pathlib import Path
from typing import Annotated

import typer

from geotempo.model.errors import ConfigError, InputError


def merge(
    inputs: Annotated[list[Path], typer.Argument(help="Stores (the shards of one build, or any others), or one LoRA adapter.")],
    out: Annotated[Path, typer.Option(help="Folder of the new store or checkpoint; it appears when it is whole.")],
    base: Annotated[str | None, typer.Option(help="Adapter: folder or hub name of its base, where it does not say.")] = None,
    scores: Annotated[Path | None, typer.Option(help="Adapter: results.json of an evaluation, for the model card.")] = None,
    max_rejected: Annotated[float | None, typer.Option(
        min=0.0, max=1.0, help="Stores: highest allowed share of unusable items.", show_default="0.05")] = None,
) -> None:
    """Join stores into one (the shards of a build, `--shard i/n`), or merge a LoRA adapter into the 16-bit weights of its base."""
    adapters = [path for path in inputs if (path / "adapter_config.json").is_file()]
    if not adapters:
        if base is not None or scores is not None:
            raise ConfigError(f"--base and --scores belong to an adapter; {', '.join(map(str, inputs))} holds no adapter_config.json")
        _merge_stores(inputs, out, 0.05 if max_rejected is None else max_rejected)
        return
    if len(inputs) > 1:
        others = [str(path) for path in inputs if path not in adapters]
        raise InputError(f"{adapters[0]} is an adapter" + (f" and {others[0]} is none" if others else f" and {adapters[1]} is another")
                         + "; merge one adapter at a time, or only stores")
    if max_rejected is not None:
        raise ConfigError("--max-rejected belongs to stores; an adapter has nothing to reject")
    from geotempo.finetune.adapters import merge_adapter
    from geotempo.finetune.model_card import add_scores

    typer.echo(f"wrote {merge_adapter(adapters[0], out, base=base)}")
    if scores is not None:
        add_scores(out, scores)


def _merge_stores(stores: list[Path], out: Path, max_rejected: float) -> None:
    from geotempo.commands.build import summary
    from geotempo.data_builders.merge import merge_stores

    typer.echo(summary(merge_stores(stores, out, max_rejected, card=True), out))
