"""`geotempo compose`: build a model from a vision encoder and an LLM."""

from pathlib import Path
from typing import Annotated

import typer


def compose(
    vision: Annotated[str, typer.Option(help="CLIP or SigLIP: hub name, folder, tiny-clip or tiny-siglip.")],
    llm: Annotated[str, typer.Option(help="Llama or Qwen2/3: hub name, folder, tiny-llama or tiny-qwen2.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    corpus: Annotated[Path | None, typer.Option(help="Store whose texts train the tokenizer of a tiny LLM.")] = None,
    vocab_size: Annotated[int, typer.Option(help="Vocabulary of that tokenizer.")] = 1024,
    seed: Annotated[int, typer.Option(help="Seed of all random weights.")] = 0,
) -> None:
    """Compose vision encoder, projector and LLM into one LLaVA checkpoint (transformers and vLLM load it)."""
    from geotempo.model.checkpoints import save_checkpoint
    from geotempo.model.compose import Composition
    from geotempo.model.compose import compose as build

    texts: list[str] = []
    if corpus is not None:
        from geotempo.data_builders.render import store_texts

        texts = store_texts(corpus)
    model, processor = build(Composition(vision, llm, vocab_size=vocab_size, seed=seed), texts)
    save_checkpoint(model, processor, out)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    typer.echo(f"wrote {out}: {millions:.1f} M parameters, {model.config.image_seq_length} tokens per image; "
               "the projector is untrained")
