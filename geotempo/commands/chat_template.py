"""`geotempo chat-template`."""

from pathlib import Path
from typing import Annotated

import typer


def chat_template(
    model: Annotated[str, typer.Argument(help="Folder or hub name of a base.")],
    out: Annotated[Path, typer.Option(help="File to write, for `vllm serve --chat-template`.")],
) -> None:
    """Write the chat template that keeps images between their dates, to serve adapters on an unchanged base."""
    from geotempo.model.checkpoints import load_processor
    from geotempo.model.files import write_text

    _, processor = load_processor(model)
    write_text(out, str(processor.chat_template))
    typer.echo(f"wrote {out}; serve with: vllm serve {model} --chat-template {out}")
