"""TEOChat's tokenizer as a `tokenizer.json`, with the ids of the original.

The original (`tokenizer_image_token`) cuts a prompt at `<image>` and gives every piece to the slow `LlamaTokenizer` of
transformers 4.31, that is to SentencePiece, which puts a blank before each piece, even before one that begins with a
blank. transformers' present `LlamaTokenizer` does not, so the normaliser is built here.

`<image>` takes over the id of the byte piece `<0x00>`. The vocabulary keeps its 32,000 rows, and so logits, loss and
sampling stay the original's, with no extra row that could be sampled, and vLLM and transformers agree on its size. The
piece is free: NUL does not occur in text, and where it does it becomes `<unk>`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.tokenization_utils_base import generate_merges

from geotempo.model.errors import MissingExtraError, ModelError
from geotempo.model.tokenizer import BOS, EOS, IMAGE

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

UNK = "<unk>"
_NUL = "<0x00>"
_BLANK = "▁"  # how SentencePiece writes a blank

# Texts on which the result is compared with SentencePiece itself: blanks, line breaks, runs, digits, marks, bytes.
_PROBES = (
    "", " ", "USER: ", "a", " a", "  two  blanks  ", "line\n\nbreak\ttab", "▁", "aaaaaaa", "==== ----", "0, 8, 49, 53",
    "Image 1: ", "[x_min, y_min, x_max, y_max]", "ASSISTANT:", "don't", "é e\u0301 ﬁ ①", "中文 한국어 Привет", "🙂",
    "\u200b\xa0", "<0x0A>", "Were any buildings torn down between 2016 and 2019?",
)


def build_tokenizer(model_file: Path, legacy: bool) -> PreTrainedTokenizerFast:
    """Make the fast tokenizer that gives the ids of the original, piece by piece around `<image>`.

    Args:
        model_file: `tokenizer.model`: a SentencePiece BPE with byte fallback, as Llama's.
        legacy: `legacy` of tokenizer_config.json. True (4.31's default): a text after `</s>` gets a blank before it as
            well. False: it does not. There the original tokenises with the blank and takes it off the first token, so
            `USER` is `US`, `ER` and not the piece `USER`; the chat template's own `</s>USER:` is reproduced, any other
            text after `</s>` is tokenised without the blank.

    Raises:
        MissingExtraError: sentencepiece is not installed.
        ModelError: The file cannot be read, or is another kind of model.
    """
    pieces = _read(model_file)
    backend = Tokenizer(_bpe(pieces, model_file))
    _set_blanks(backend, pieces, legacy)
    backend.decoder = decoders.Sequence(
        [decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    )
    bos = backend.token_to_id(BOS)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bos)]
    )
    _compare(backend, pieces, legacy, model_file)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=BOS, eos_token=EOS, unk_token=UNK, pad_token=UNK, padding_side="right",
        extra_special_tokens={"image_token": IMAGE}, clean_up_tokenization_spaces=False,
    )


def _read(model_file: Path) -> SentencePieceProcessor:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise MissingExtraError("sentencepiece", "teochat", "reading a tokenizer.model") from None
    try:
        return SentencePieceProcessor(model_file=str(model_file))
    except (OSError, RuntimeError) as error:
        raise ModelError(f"cannot read {model_file} as a SentencePiece model: {error}") from None


def _compare(backend: Tokenizer, pieces: SentencePieceProcessor, legacy: bool, model_file: Path) -> None:
    """Refuse a vocabulary whose ids come out otherwise than SentencePiece and transformers 4.31 give them."""
    after = pieces.encode("USER: a", out_type=str)
    if not legacy:
        after = [piece for piece in (after[0].removeprefix(_BLANK), *after[1:]) if piece]
    expected = {text: pieces.encode(text) for text in _PROBES}
    expected[f"{EOS}USER: a"] = [pieces.eos_id(), *pieces.piece_to_id(after)]
    wrong = [text for text, ids in expected.items() if backend.encode(text, add_special_tokens=False).ids != ids]
    if wrong:
        raise ModelError(f"{model_file} does not tokenise as a Llama vocabulary (BPE, identity normalisation, a blank "
                         f"before the text), seen on {wrong[0]!r}; give the tokenizer.model that belongs to the "
                         "checkpoint")


def _bpe(pieces: SentencePieceProcessor, model_file: Path) -> models.BPE:
    """The vocabulary, with `<image>` in the place of NUL, and the merges in the order of the pieces' scores."""
    ids = range(pieces.get_piece_size())
    vocabulary = {pieces.id_to_piece(i): i for i in ids}
    absent = [piece for piece in (UNK, BOS, EOS, _NUL) if piece not in vocabulary]
    if absent or not pieces.is_byte(vocabulary[_NUL]):
        raise ModelError(f"{model_file} lacks the pieces {absent or [_NUL]}; <image> takes the place of {_NUL}, so a "
                         "vocabulary with byte fallback is needed, as Llama's")
    scores = {pieces.id_to_piece(i): pieces.get_score(i) for i in ids
              if not (pieces.is_byte(i) or pieces.is_control(i) or pieces.is_unknown(i))}
    merges = generate_merges(vocabulary, scores)
    vocabulary[IMAGE] = vocabulary.pop(_NUL)
    return models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, fuse_unk=True, unk_token=UNK)


def _set_blanks(backend: Tokenizer, pieces: SentencePieceProcessor, legacy: bool) -> None:
    """Normalise every piece as SentencePiece does.

    A special token that is not normalised cuts the text before normalisation, so what follows counts as a beginning
    and gets the blank; one that is normalised cuts afterwards. `<s>` is of the first kind in both cases: the chat
    template writes it at the start, where the original has it outside the text.
    """
    beginnings = (BOS, IMAGE) if not legacy else (BOS, IMAGE, EOS, UNK)
    steps: list[normalizers.Normalizer] = [normalizers.Prepend(_BLANK)]
    if not legacy:
        steps += [
            # `</s>` at a beginning stands alone; a blank after it counts as one that was in the text.
            normalizers.Replace(Regex(rf"\A{_BLANK}(?={EOS}|{UNK})"), ""),
            normalizers.Replace(Regex(f"(?<={EOS}|{UNK})[ {_BLANK}]"), 2 * _BLANK),
        ]
        first = pieces.encode("USER:", out_type=str)[0].removeprefix(_BLANK)
        rest = "USER:".removeprefix(first)
        if first:  # only what follows `</s>` can begin without the blank
            start = Regex(rf"\A{re.escape(first)}(?={re.escape(rest)})")
            backend.pre_tokenizer = pre_tokenizers.Split(start, "isolated")
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _BLANK)])
    for normalised, tokens in ((False, beginnings), (True, {EOS, UNK} - set(beginnings))):
        backend.add_special_tokens([AddedToken(token, normalized=normalised, special=True) for token in sorted(tokens)])
