"""A 32,000-piece SentencePiece model in which the fixture's pieces stand at the fixture's ids.

The fixture's ids are those of Llama's tokenizer.model, which may not be part of this repository. Text and ids together
say which piece each id is; the rest of the vocabulary is made up here. Scores do not follow ids, as little as an importer
may assume so.
"""

import json
import re
from pathlib import Path
from typing import Any

SIZE = 32000
# Words that the fixture has in more than one piece. The blank of SentencePiece is "▁".
_CUT = {"▁polite": "▁pol ite", "▁chronological": "▁chron ological", "▁Classify": "▁Class ify", "▁ASSISTANT": "▁A SS IST ANT",
        "▁USER": "▁US ER", "USER": "US ER", "▁capturing": "▁capt uring", "Identify": "Ident ify", "▁bounding": "▁bound ing",
        "▁Were": "▁W ere"}


def fixture_cases(folder: Path) -> dict[str, Any]:
    """tokenization.json of the parity fixture."""
    found: dict[str, Any] = json.loads((folder / "tokenization.json").read_text(encoding="utf-8"))
    return found


def cut(text: str, blank: bool = True) -> list[str]:
    """Pieces of a text between specials, with or without the blank before it."""
    written = ("▁" if blank else "") + text.replace(" ", "▁")
    words = re.findall(r"▁?(?:[A-Za-z]+|\[)|▁|\]\.|\],|\n|.", written) if text else []
    return [piece for word in words for piece in _CUT.get(word, word).split(" ")]


def known_pieces(cases: dict[str, Any], texts: dict[str, str]) -> dict[int, str]:
    """Pieces by id, from the whole prompts (`texts`, by the key prefix of their ids) and the ids of the fixture."""
    found: dict[int, str] = {}
    for prefix, text in texts.items():
        for legacy in (True, False):
            pieces = ["<s>"]
            for n, chunk in enumerate(text.split("<image>")):
                pieces += ["<image>"] * (n > 0)
                for k, part in enumerate(chunk.split("</s>")):
                    pieces += ["</s>"] * (k > 0) + cut(part, blank=legacy or k == 0)
            ids = cases[f"{prefix}_legacy_{legacy}"]
            assert len(ids) == len(pieces), "the texts are cut otherwise than the fixture"
            for i, piece in zip(ids, pieces, strict=True):
                assert found.setdefault(i, piece) == piece, f"id {i} would be {found[i]!r} and {piece!r}"
    assert len(set(found.values())) == len(found)
    return {i: piece for i, piece in found.items() if i > 258}


def model_bytes(known: dict[int, str]) -> bytes:
    """The serialised model; every known piece can be reached by merging from the left."""
    from sentencepiece import sentencepiece_model_pb2 as proto

    steps = {piece[:k] for piece in known.values() for k in range(2, len(piece) + 1)}
    # What begins with a blank is merged first, so that a word's beginning is never eaten by a piece inside it.
    ranks = {piece: rank for rank, piece in enumerate(sorted(steps, key=lambda p: (not p.startswith("▁"), len(p), p)))}
    letters = {letter for piece in known.values() for letter in piece}
    others = iter(sorted((steps | letters) - set(known.values())))
    model = proto.ModelProto()
    for i in range(SIZE):
        if i < 259:
            name, kind = (["<unk>", "<s>", "</s>"][i], (2, 3, 3)[i]) if i < 3 else (f"<0x{i - 3:02X}>", 6)
            model.pieces.add(piece=name, score=0.0, type=kind)
        else:
            name = known.get(i) or next(others, f"\ue000{i}")  # the rest cannot occur: a private character
            model.pieces.add(piece=name, score=-float(ranks.get(name, SIZE + i)), type=1)
    model.trainer_spec.model_type, model.trainer_spec.byte_fallback, model.trainer_spec.vocab_size = 2, True, SIZE
    model.normalizer_spec.name, model.normalizer_spec.add_dummy_prefix = "identity", True
    model.normalizer_spec.remove_extra_whitespaces = False
    serialised: bytes = model.SerializeToString()
    return serialised
