"""A byte-level BPE tokenizer for models trained from scratch.

All 256 bytes are in the vocabulary, so any text and any constrained grammar can be written; digits stand alone, so a
coordinate is spelled hundreds first; the boilerplate of the answer grammar costs one token a piece.
"""

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

BOS, EOS, PAD, IMAGE = "<s>", "</s>", "<pad>", "<image>"
GRAMMAR_PIECES = ('[{"image":', ',{"image":', ',"bbox_2d":[', ',"points":[[', "],[", "]]", '],"label":"', ']],"label":"', '"}')

# GPT-2's split with digits one by one; the blank before a word stays with the word.
_SPLIT = Regex(r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer on texts; equal texts in equal order give equal bytes.

    Args:
        texts: Training texts.
        vocab_size: Upper limit of the vocabulary, special tokens and grammar pieces included (at least 300).

    Returns:
        A fast tokenizer with BOS, EOS, PAD and `<image>`.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(_SPLIT, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(GRAMMAR_PIECES),
        special_tokens=[PAD, BOS, EOS, IMAGE],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # Longest first would not matter to the matcher; the order only fixes the ids.
    tokenizer.add_tokens([AddedToken(piece, normalized=False, special=False) for piece in GRAMMAR_PIECES])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD,
        extra_special_tokens={"image_token": IMAGE}, clean_up_tokenization_spaces=False, padding_side="right",
    )
