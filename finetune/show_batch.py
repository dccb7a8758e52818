"""One batch of a recipe as the trainer will see it: `geotempo train RECIPE --show-batch`.

    recipe --first_batch()--> items, Batch --view()--> BatchView --to_text()--> terminal
                                                                 --to_page()--> OUT/batch.html

Everything is read off the tensors that the model would get: texts are decoded from `input_ids`, what is marked as supervised is
what `labels` say, samples of a pack begin where `position_ids` begin anew, and pictures are `pixel_values` turned back. No weights
are read where the recipe names a base, nothing is trained and no checkpoint is written.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from transformers import AutoModelForImageTextToText, PreTrainedModel, ProcessorMixin, set_seed

from geotempo.finetune.collate import Batch
from geotempo.finetune.dataset import IGNORE, Features
from geotempo.finetune.recipe import Recipe
from geotempo.finetune.train import Data, build_data, build_model, training_arguments
from geotempo.finetune.trainer import GeoTempoTrainer
from geotempo.model.checkpoints import load_processor
from geotempo.model.files import write_text
from geotempo.serve.page import STYLE, data_url

PAGE = "batch.html"
# How a run is spread over processes and what computes it: without a say in what a process's first batch holds.
_NO_MATTER = ("deepspeed", "fsdp", "fsdp_config", "tf32", "bf16", "fp16", "dataloader_num_workers", "report_to", "torch_compile",
              "eval_strategy", "eval_steps", "load_best_model_at_end", "use_liger_kernel")
_OPEN, _CLOSE, _DIM, _PLAIN = "\x1b[30;42m", "\x1b[0m", "\x1b[2m", "\x1b[0m"
_STYLE = """
.say{white-space:pre-wrap;overflow-wrap:anywhere;margin:10px 0}.say mark{background:color-mix(in srgb,#1a7f4b 30%,transparent);color:inherit;border-radius:3px;padding:1px 0}
.say .image{color:var(--soft);border:1px solid var(--line);border-radius:4px;padding:0 4px}.learnt{font:.8rem/1.9 ui-monospace,monospace}
.learnt span{border:1px solid var(--line);border-radius:4px;padding:1px 4px;margin-right:3px;white-space:pre}h3{font-size:1rem;margin:18px 0 6px;overflow-wrap:anywhere}
.pictures{grid-template-columns:repeat(auto-fill,minmax(120px,200px))}h3+.soft{margin:0 0 8px}
"""


@dataclass(frozen=True)
class Piece:
    """Consecutive tokens that are alike.

    Attributes:
        text: What they say; of image tokens, one of them.
        supervised: Whether the loss is computed on them.
        image_tokens: How many image tokens they are; 0 for text.
    """

    text: str
    supervised: bool
    image_tokens: int = 0


@dataclass(frozen=True)
class Shown:
    """A sample in a batch.

    Attributes:
        sample_id: Its id.
        start: Where its first token stands in its row of the batch, from 0.
        pieces: Its tokens.
        tokens: How many they are.
        learnt: The supervised ones, one by one, in the tokenizer's own writing.
        pictures: Per image, what the model sees of it: one picture, or the overview and the tiles of it.
    """

    sample_id: str
    start: int
    pieces: tuple[Piece, ...]
    tokens: int
    learnt: tuple[str, ...]
    pictures: tuple[tuple[Image.Image, ...], ...]


@dataclass(frozen=True)
class Group:
    """Samples of one pack, or the one sample of a padded row, and how many padding tokens follow."""

    samples: tuple[Shown, ...]
    padding: int = 0


@dataclass(frozen=True)
class BatchView:
    """A batch, ready to be shown."""

    groups: tuple[Group, ...]
    packed: bool

    @property
    def samples(self) -> list[Shown]:
        """All samples in order."""
        return [sample for group in self.groups for sample in group.samples]

    @property
    def totals(self) -> str:
        """The batch in numbers."""
        shown = self.samples
        tokens, padding = sum(s.tokens for s in shown), sum(g.padding for g in self.groups)
        learnt = sum(len(s.learnt) for s in shown)
        pictures = sum(p.image_tokens for s in shown for p in s.pieces)
        images = sum(len(s.pictures) for s in shown)
        return (f"{len(shown)} samples, {tokens + padding:,} tokens: {learnt:,} supervised ({100 * learnt / (tokens + padding):.1f} %), "
                f"{pictures:,} of {images} images, {padding:,} padding")

    @property
    def layout(self) -> str:
        """How the samples are laid out, in words."""
        if self.packed:
            count = f"{len(self.groups)} packs end to end" if len(self.groups) > 1 else "one pack"
            return f"{count} in one row; positions begin anew with each sample, so none sees another"
        return f"{len(self.groups)} padded row{'s' * (len(self.groups) > 1)}"


def show_batch(recipe: Recipe, out: Path | None = None, *, colour: bool = False) -> tuple[str, Path]:
    """Render the first batch of a recipe.

    Args:
        recipe: A checked recipe.
        out: Folder of the page; None takes the recipe's `train.output_dir`.
        colour: Mark supervised tokens by terminal colours; else they stand in ⟦brackets⟧.

    Returns:
        The batch as text, and the HTML page that was written.

    Raises:
        ConfigError: As for training.
        InputError: As for training; also a batch without a supervised token.
        ModelError: The base cannot be read.
    """
    items, batch, processor = first_batch(recipe)
    shown = view(items, batch, processor)
    path = (out or Path(recipe.train["output_dir"])) / PAGE
    write_text(path, to_page(shown, Path(recipe.train["output_dir"]).name))
    return to_text(shown, colour=colour), path


def first_batch(recipe: Recipe) -> tuple[list[list[Features]], Batch, ProcessorMixin]:
    """The batch that the first step of a run begins with, on its first process.

    Returns:
        Samples of each pack, or of each row, in order; the collated batch; the processor.
    """
    args = training_arguments({key: value for key, value in recipe.train.items() if key not in _NO_MATTER} | {"report_to": "none"})
    set_seed(args.seed)
    model, processor = _without_weights(recipe, args)
    data = build_data(recipe, args, model, processor)
    # The Trainer's own loader draws the samples; the model has no say in it.
    trainer = GeoTempoTrainer(model=nn.Identity(), args=args, train_dataset=data.train, data_collator=data.collator,
                              learning_rates={}, lengths=data.lengths.tolist())
    drawn = next(iter(trainer.get_train_dataloader().batch_sampler))
    items = [_as_pack(data, index) for index in drawn]
    return items, data.collator(items if recipe.data.pack_tokens else [item[0] for item in items]), processor


def _as_pack(data: Data, index: int) -> list[Features]:
    item = data.train[index]
    return item if isinstance(item, list) else [item]


def _without_weights(recipe: Recipe, args: Any) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The recipe's model, for its config and names; of a base, without reading its weights."""
    if recipe.model.base is None:
        return build_model(recipe, args)
    config, processor = load_processor(recipe.model.base, recipe.model.max_pixels)
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config), processor


def view(items: Sequence[Sequence[Features]], batch: Batch, processor: ProcessorMixin) -> BatchView:
    """Read a batch.

    Args:
        items: Samples of each pack or row, as `Collator` got them.
        batch: What it made of them.
        processor: Of the model.
    """
    packed = "attention_mask" not in batch
    groups = []
    spans = iter(_restarts(batch)) if packed else None
    for row, item in enumerate(items):
        if spans is not None:
            groups.append(Group(tuple(_shown(sample, batch, 0, *next(spans), processor) for sample in item)))
            continue
        length, width = int(batch["attention_mask"][row].sum()), batch["input_ids"].shape[1]
        groups.append(Group((_shown(item[0], batch, row, 0, length, processor),), width - length))
    return BatchView(tuple(groups), packed)


def _restarts(batch: Batch) -> Iterator[tuple[int, int]]:
    """(start, end) of each sample of a packed row, told by the restarts of its positions."""
    counted = batch["position_ids"].reshape(-1, batch["input_ids"].shape[1])[0]  # of Qwen-VL's four, the first counts tokens
    starts = [*torch.nonzero(counted == 0).flatten().tolist(), len(counted)]
    return pairwise(starts)


def _shown(sample: Features, batch: Batch, row: int, start: int, end: int, processor: ProcessorMixin) -> Shown:
    ids, labels = batch["input_ids"][row, start:end], batch["labels"][row, start:end]
    learnt = processor.tokenizer.convert_ids_to_tokens(labels[labels != IGNORE].tolist())
    return Shown(sample["sample_id"], start, tuple(pieces(ids, labels, processor)), end - start, tuple(learnt),
                 tuple(tuple(tiles) for tiles in pictures(sample["images"], processor.image_processor)))


def pieces(ids: torch.Tensor, labels: torch.Tensor, processor: ProcessorMixin) -> Iterator[Piece]:
    """Tokens as text, cut where supervision or images begin and end.

    Args:
        ids: (T,) token ids.
        labels: (T,) the same where supervised, else `IGNORE`.
        processor: Of the model.
    """
    tokenizer, image = processor.tokenizer, processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    rows = zip(ids.tolist(), (labels != IGNORE).tolist(), strict=True)
    seen: list[int] = []
    for (supervised, is_image), group in groupby(rows, key=lambda row: (row[1], row[0] == image)):
        tokens = [token for token, _ in group]
        before = tokenizer.decode(seen, clean_up_tokenization_spaces=False)
        seen += tokens[:1] if is_image else tokens
        if is_image:
            yield Piece(str(processor.image_token), supervised, len(tokens))
            continue
        # Decoded alone, a stretch would lose the blank that its first token begins with.
        after = tokenizer.decode(seen, clean_up_tokenization_spaces=False)
        own = after[len(before):] if after.startswith(before) else tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        yield Piece(own, supervised)


def pictures(images: dict[str, torch.Tensor], processor: Any) -> list[list[Image.Image]]:
    """What a model sees of each image of a sample, turned back into pictures.

    Args:
        images: As in `Features`: `pixel_values` of shape (images, 3, H, W), or (images, tiles, 3, H, W), the overview first, or of
            Qwen-VL (patches, values) with `image_grid_thw` (images, 3).
        processor: The image processor.
    """
    if "pixel_values" not in images:
        return []
    pixels = images["pixel_values"].float()
    if "image_grid_thw" in images:
        grids = images["image_grid_thw"].tolist()
        parts = torch.split(pixels, [t * h * w for t, h, w in grids])
        return [[_picture(_unfold(part, grid, processor), processor)] for part, grid in zip(parts, grids, strict=True)]
    if pixels.ndim == 4:
        return [[_picture(one, processor)] for one in pixels]
    return [[_picture(tile, processor) for tile in tiles if tile.any()] for tiles in pixels]  # zeros fill up missing tiles


def _unfold(patches: torch.Tensor, grid: Sequence[int], processor: Any) -> torch.Tensor:
    """Qwen-VL's patches (t h w, 3 f p p), in merged blocks, as one picture (3, h p, w p); a still image is repeated in time."""
    times, high, wide = grid
    m, p = processor.merge_size, processor.patch_size
    blocks = patches.reshape(times, high // m, wide // m, m, m, 3, -1, p, p)[0, :, :, :, :, :, 0]
    return blocks.permute(4, 0, 2, 5, 1, 3, 6).reshape(3, high * p, wide * p)


def _picture(pixels: torch.Tensor, processor: Any) -> Image.Image:
    """Normalised pixels (3, H, W) as a picture."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    levels = ((pixels * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).numpy())


def to_text(shown: BatchView, *, colour: bool) -> str:
    """A batch for the terminal.

    Args:
        shown: The batch.
        colour: Mark supervised tokens by colours; else they stand in ⟦brackets⟧.
    """
    lines = [shown.layout, shown.totals]
    for number, group in enumerate(shown.groups, 1):
        what = "pack" if shown.packed else "row"
        lines += ["", f"{what} {number}" + (f", {group.padding:,} padding tokens behind" if group.padding else "")]
        for sample in group.samples:
            lines += [f"  {sample.sample_id}: {_facts(sample)}", f"    {_coloured(sample.pieces, colour).strip()}".replace("\n", "\n    ")]
    return "\n".join(lines)


def _facts(sample: Shown) -> str:
    count = len(sample.pictures)
    return (f"tokens {sample.start:,} to {sample.start + sample.tokens - 1:,} of the row, {len(sample.learnt)} of {sample.tokens:,} "
            f"supervised, {count} image{'s' * (count != 1)}")


def _coloured(parts: Sequence[Piece], colour: bool) -> str:
    out = []
    for piece in parts:
        text = f"{piece.text} x {piece.image_tokens}" if piece.image_tokens else piece.text
        if piece.supervised:
            out.append(f"{_OPEN}{text}{_CLOSE}" if colour else f"⟦{text}⟧")
        else:
            out.append(f"{_DIM}{text}{_PLAIN}" if colour and piece.image_tokens else text)
    return "".join(out)


def to_page(shown: BatchView, name: str) -> str:
    """A batch as an HTML page with its pictures inside, without scripts or links to other files.

    Args:
        shown: The batch.
        name: Of the run.
    """
    body = "".join(
        f"<section><h2>{'Pack' if shown.packed else 'Row'} {number}</h2>"
        + (f'<p class="soft">{group.padding:,} padding tokens behind</p>' if group.padding else "")
        + "".join(_section(sample) for sample in group.samples) + "</section>"
        for number, group in enumerate(shown.groups, 1))
    title = f"First batch of {escape(name)}"
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width,initial-scale=1"><title>{title}</title><style>{STYLE}{_STYLE}</style></head>'
            f'<body><main><h1>{title}</h1><p class="soft">{escape(shown.layout)}. {escape(shown.totals)}. Marked text is what the loss '
            f"is computed on; pictures are what the model sees.</p>{body}</main></body></html>\n")


def _section(sample: Shown) -> str:
    """One sample on the page."""
    figures = "".join(
        f'<figure><img alt="Image {number}" src="{data_url(tile)}"><figcaption>Image {number}'
        + (f", {'overview' if place == 0 else f'tile {place}'}" if len(tiles) > 1 else "") + f", {tile.width} x {tile.height}</figcaption></figure>"
        for number, tiles in enumerate(sample.pictures, 1) for place, tile in enumerate(tiles))
    text = "".join(_marked(piece) for piece in sample.pieces)
    learnt = "".join(f"<span>{escape(token)}</span>" for token in sample.learnt)
    return (f'<h3>{escape(sample.sample_id)}</h3><p class="soft">{escape(_facts(sample))}</p><div class="pictures">{figures}</div>'
            f'<div class="say">{text}</div><details><summary class="soft">Supervised tokens one by one</summary>'
            f'<div class="learnt">{learnt}</div></details>')


def _marked(piece: Piece) -> str:
    text = escape(piece.text)
    if piece.image_tokens:
        text = f'<span class="image">{text} x {piece.image_tokens}</span>'
    return f"<mark>{text}</mark>" if piece.supervised else text
