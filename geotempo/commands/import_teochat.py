"""`geotempo import-teochat`."""

from pathlib import Path
from typing import Annotated

import typer


def import_teochat(
    source: Annotated[str, typer.Argument(help="TEOChat checkpoint or LoRA run: folder or hub name.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    vision: Annotated[str | None, typer.Option(help="LanguageBind_Image: folder, hub name or its config.json.")] = None,
    base: Annotated[str | None, typer.Option(help="The model under a LoRA run: folder or hub name.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float16, bfloat16 or float32; by default as stored.")] = None,
    image_processor: Annotated[str, typer.Option(help="exact, or stock (without GeoTempo, other pixels).")] = "exact",
    other_base_name: Annotated[bool, typer.Option(help="The base is a renamed copy of the adapter's.")] = False,
) -> None:
    """Convert an original TEOChat checkpoint into a folder that transformers and vLLM load."""
    from geotempo.model.teochat_import import ImportPlan, import_teochat, locate

    plan = ImportPlan(
        locate(source), out, vision=locate(vision) if vision else None, base=locate(base) if base else None,
        dtype=dtype, image_processor=image_processor, other_base_name=other_base_name,
    )
    done = import_teochat(plan)
    typer.echo(f"wrote {out}: {done.parameters / 1e6:.1f} M parameters in {done.dtype}, {done.image_tokens} tokens per "
               f"image; image tower from {done.tower_from}; {len(done.dropped)} tensors left out by design")
    if image_processor == "exact":
        typer.echo("images are prepared by TeoChatImageProcessor: transformers and vLLM need geotempo installed, or "
                   "trust_remote_code for the copy in the folder (--image-processor stock needs neither and gives "
                   "other pixels)")
