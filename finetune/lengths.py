"""Tokens of every sample before training: what does not fit is set aside and named, never cut."""

import hashlib
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm
from transformers import ProcessorMixin

from geotempo.finetune.dataset import Mixture
from geotempo.finetune.recipe import DataSection
from geotempo.model.errors import InputError
from geotempo.model.files import write_text

SHOWN = 3
Lengths = npt.NDArray[np.int32]


def measure(mixture: Mixture, processor: ProcessorMixin, section: DataSection, cache: Path) -> Lengths:
    """Tokens of each sample, read from the texts and the images' sizes; kept in a file, so that a resumed run does not count again.

    Args:
        mixture: The samples.
        processor: Of the base; its template, vocabulary and image settings decide.
        section: The data section that chose the samples.
        cache: File (`.npy`), replaced when it belongs to other samples or another processor.

    Returns:
        Shape (N,), in the mixture's order.
    """
    key = _key(mixture, processor, section)
    tag = cache.with_suffix(".json")
    kept = _kept(cache, tag, key)
    if kept is not None and len(kept) == len(mixture):
        return kept
    counted = (part.length(index) for part in mixture.parts for index in range(len(part)))
    lengths = np.fromiter(tqdm(counted, "counting tokens", len(mixture), unit=" samples", leave=False, mininterval=0.5, delay=2),
                          np.int32, len(mixture))
    cache.parent.mkdir(parents=True, exist_ok=True)
    tag.unlink(missing_ok=True)  # never a key beside other lengths
    np.save(cache, lengths)
    write_text(tag, json.dumps(key))
    return lengths


def _kept(cache: Path, tag: Path, key: dict[str, str]) -> Lengths | None:
    """Lengths that an earlier run counted for the same key; a damaged file counts as none."""
    try:
        if json.loads(tag.read_text(encoding="utf-8")) == key:
            found: Lengths = np.load(cache, allow_pickle=False)
            return found
    except (OSError, ValueError, EOFError):
        pass
    return None


def _key(mixture: Mixture, processor: ProcessorMixin, section: DataSection) -> dict[str, str]:
    """What lengths depend on, hashed."""
    words = processor.tokenizer.backend_tokenizer.to_str() if hasattr(processor.tokenizer, "backend_tokenizer") else ""
    parts = {"samples": "\n".join(mixture.ids), "stores": json.dumps(mixture.fingerprint, sort_keys=True), "words": words,
             "template": processor.chat_template, "images": processor.image_processor.to_json_string(),
             "text": json.dumps([section.points, section.grids, section.questions, section.references, section.augment.get("turns")],
                                                            sort_keys=True)}
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in parts.items()}


def set_aside(mixture: Mixture, lengths: Lengths, section: DataSection, limit: int, out: Path) -> Lengths:
    """Leave out what is longer than the model, the recipe or a pack allows; name it in `out` and say how much it is.

    Args:
        mixture: The samples; shortened.
        lengths: Tokens of each.
        section: The data section: `max_tokens`, `pack_tokens`, `pack_images`.
        limit: Tokens that the model takes.
        out: File, JSON lines of id, tokens, images and the reason; removed if nothing is left out.

    Returns:
        Tokens of each sample that stays.

    Raises:
        InputError: Nothing stays.
    """
    bounds = {"the model": limit, "data.max_tokens": section.max_tokens, "data.pack_tokens": section.pack_tokens}
    name, most = min(((name, bound) for name, bound in bounds.items() if bound is not None), key=lambda pair: pair[1])
    images, ids = np.asarray(mixture.image_counts), mixture.ids
    long, many = lengths > most, images > (section.pack_images or np.iinfo(np.int32).max)
    left = np.flatnonzero(long | many)
    out.unlink(missing_ok=True)
    if not len(left):
        return lengths
    rows = [{"id": ids[index], "tokens": int(lengths[index]), "images": int(images[index]),
             "reason": f"over {most} tokens ({name})" if long[index] else f"over {section.pack_images} images (data.pack_images)"}
            for index in left]
    write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    first = ", ".join(f"{row['id']} ({row['tokens']} tokens, {row['images']} images)" for row in rows[:SHOWN])
    told = f"{len(left)} of {len(mixture)} samples do not fit {most} tokens ({name})" + (
        f" and {section.pack_images} images a pack" if section.pack_images else "")
    if len(left) == len(mixture):
        raise InputError(f"{told}, e.g. {first}; raise the limit, or take fewer images, smaller max_pixels or max_regions")
    print(f"set aside: {told}, e.g. {first}; all are named in {out}")
    mixture.keep(np.flatnonzero(~(long | many)).tolist())
    return lengths[~(long | many)]
