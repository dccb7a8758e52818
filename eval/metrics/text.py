"""Captions, short answers and numbers: normalisation, exact match, absolute error."""

import re
from collections.abc import Sequence

_SENTENCE_END = re.compile(r"[.?!]")
_KEPT_PUNCTUATION = re.compile(r"([,;])")
_BIN = re.compile(r"(?<![\d.])(\d+)\s*%?\s*(?:_to_|to|-|–)\s*(\d+)(?![\d.]\d)\s*%?")
_WORD = re.compile(r"\d+_to_\d+|\d+\.\d+|[^\W_]+")


def normalise_caption(text: str) -> str:
    """Caption as blank-separated words, protocol `levircc-words-v1`.

    Lower case; `.`, `?` and `!` removed; `,` and `;` as words of their own; white space collapsed. This is what the
    LEVIR-CC code line (Liu et al. 2022, RSICC; Change-Agent `preprocess_data.py`) does to its references. Without it
    a final full stop alone costs a model three quarters of its CIDEr-D, which says nothing about what it saw.

    Args:
        text: Any text.

    Returns:
        Words joined by single blanks; empty where no word is left.
    """
    return " ".join(_KEPT_PUNCTUATION.sub(r" \1 ", _SENTENCE_END.sub("", text.lower())).split())


def normalise_short(text: str) -> str:
    """Short answer or label for comparison, protocol `short-answer-v1`.

    Words and numbers in lower case, joined by single blanks; punctuation and underscores separate words and go.
    Numeric bins keep one form: `0-10%`, `0 to 10` and `0_to_10` (the answers of CDVQA, Yuan et al. 2022) all become
    `0_to_10`. A decimal point stays.

    Args:
        text: Any text.

    Returns:
        Comparable text; empty where nothing is left.
    """
    return " ".join(_WORD.findall(_BIN.sub(r" \1_to_\2 ", text.casefold())))


def caption_match(caption: str, references: Sequence[str]) -> tuple[bool, bool]:
    """Whether a caption equals the first reference, and whether it equals any, word for word.

    Args:
        caption: The model's text.
        references: One or more reference captions.

    Returns:
        (equal to the first, equal to any), after `normalise_caption`; an empty caption equals nothing.
    """
    words = normalise_caption(caption)
    known = [normalise_caption(reference) for reference in references]
    return bool(words) and words == known[0], bool(words) and words in known


def short_match(answer: str, references: Sequence[str]) -> bool:
    """Whether a short answer equals one of the references after `normalise_short`; an empty answer equals nothing."""
    words = normalise_short(answer)
    return bool(words) and words in {normalise_short(reference) for reference in references}


def absolute_error(predicted: float | None, truth: float) -> float:
    """Absolute error of a count, in objects.

    An answer that holds no number cannot be left out, or silence would improve the mean: it counts as the answer 0,
    and as one object wrong where 0 is the truth.

    Args:
        predicted: The number read from the answer, None where there is none.
        truth: The true count.
    """
    return max(abs(truth), 1.0) if predicted is None else abs(predicted - truth)
