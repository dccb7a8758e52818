"""English stems by the Snowball algorithm (Porter 2001, "Porter2"), in the version inside METEOR 1.5.

Written from the algorithm's description at snowballstem.org/algorithms/english; METEOR's jar (2014) carries that
version, in which `commun`, `gener` and `arsen` are the only prefixes that set R1.
"""

import re
from collections.abc import Iterable
from functools import lru_cache

_VOWELS = "aeiouy"
_DOUBLES = ("bb", "dd", "ff", "gg", "mm", "nn", "pp", "rr", "tt")
_WHOLE = {
    "skis": "ski", "skies": "sky", "dying": "die", "lying": "lie", "tying": "tie", "idly": "idl", "gently": "gentl",
    "ugly": "ugli", "early": "earli", "only": "onli", "singly": "singl",
    **{word: word for word in ("sky", "news", "howe", "atlas", "cosmos", "bias", "andes")},
}
_LEFT_ALONE = ("inning", "outing", "canning", "herring", "earring", "proceed", "exceed", "succeed")
_LI_ENDINGS = "cdeghkmnrt"
# Suffixes of step 2 and 3 with what they become; the longest that fits counts, and only it.
_STEP_2 = {
    "tional": "tion", "enci": "ence", "anci": "ance", "abli": "able", "entli": "ent", "izer": "ize", "ization": "ize",
    "ational": "ate", "ation": "ate", "ator": "ate", "alism": "al", "aliti": "al", "alli": "al", "fulness": "ful",
    "ousli": "ous", "ousness": "ous", "iveness": "ive", "iviti": "ive", "biliti": "ble", "bli": "ble", "ogi": "og",
    "fulli": "ful", "lessli": "less", "li": "",
}
_STEP_3 = {"tional": "tion", "ational": "ate", "alize": "al", "icate": "ic", "iciti": "ic", "ical": "ic", "ful": "",
           "ness": "", "ative": ""}
_STEP_4 = ("al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ism", "ate", "iti", "ous",
           "ive", "ize", "ion")

_REGION = re.compile(r"[aeiouy][^aeiouy]")
_VOWEL = re.compile(r"[aeiouy]")


def _longest(word: str, suffixes: Iterable[str]) -> str:
    """The longest of `suffixes` that ends the word; empty where none does."""
    return max((end for end in suffixes if word.endswith(end)), key=len, default="")


def _mark_consonant_y(word: str) -> str:
    """The word with every y that is a consonant (first letter, or after a vowel) as Y."""
    letters = list(word)
    for i, letter in enumerate(letters):
        if letter == "y" and (i == 0 or letters[i - 1] in _VOWELS):
            letters[i] = "Y"
    return "".join(letters)


def _regions(word: str) -> tuple[int, int]:
    """Where R1 and R2 begin: after the first consonant that follows a vowel, and again from there."""
    prefix = next((start for start in ("gener", "commun", "arsen") if word.startswith(start)), "")
    first = len(prefix)
    if not prefix:
        match = _REGION.search(word)
        first = match.end() if match else len(word)
    match = _REGION.search(word, first)
    return first, match.end() if match else len(word)


def _ends_in_short_syllable(word: str) -> bool:
    if len(word) == 2:
        return word[0] in _VOWELS and word[1] not in _VOWELS
    return (len(word) > 2 and word[-1] not in _VOWELS and word[-1] not in "wxY" and word[-2] in _VOWELS
            and word[-3] not in _VOWELS)


def _step_1a(word: str) -> str:
    match _longest(word, ("sses", "ied", "ies", "us", "ss", "s")):
        case "sses":
            return word[:-2]
        case "ied" | "ies":
            return word[:-2] if len(word) > 4 else word[:-1]
        case "s" if _VOWEL.search(word[:-2]):
            return word[:-1]
    return word


def _step_1b(word: str, first: int) -> str:
    end = _longest(word, ("eed", "eedly", "ed", "edly", "ing", "ingly"))
    stem = word[: len(word) - len(end)]
    if end in ("eed", "eedly"):
        return stem + "ee" if len(stem) >= first else word
    if not end or not _VOWEL.search(stem):
        return word
    if stem.endswith(("at", "bl", "iz")):
        return stem + "e"
    if stem.endswith(_DOUBLES):
        return stem[:-1]
    return stem + "e" if len(stem) <= first and _ends_in_short_syllable(stem) else stem


def _step_1c(word: str) -> str:
    return word[:-1] + "i" if len(word) > 2 and word[-1] in "yY" and word[-2] not in _VOWELS else word


def _step_2(word: str, first: int) -> str:
    end = _longest(word, _STEP_2)
    stem = word[: len(word) - len(end)]
    if not end or len(stem) < first or (end == "ogi" and not stem.endswith("l")):
        return word
    if end == "li" and stem[-1:] not in tuple(_LI_ENDINGS):
        return word
    return stem + _STEP_2[end]


def _step_3(word: str, first: int, second: int) -> str:
    end = _longest(word, _STEP_3)
    stem = word[: len(word) - len(end)]
    if not end or len(stem) < first or (end == "ative" and len(stem) < second):
        return word
    return stem + _STEP_3[end]


def _step_4(word: str, second: int) -> str:
    end = _longest(word, _STEP_4)
    stem = word[: len(word) - len(end)]
    if not end or len(stem) < second or (end == "ion" and not stem.endswith(("s", "t"))):
        return word
    return stem


def _step_5(word: str, first: int, second: int) -> str:
    stem = word[:-1]
    if word.endswith("e"):
        return stem if len(stem) >= second or (len(stem) >= first and not _ends_in_short_syllable(stem)) else word
    return stem if word.endswith("ll") and len(stem) >= second else word


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """The stem of an English word in lower case; words of one or two letters stay as they are."""
    if word in _WHOLE:
        return _WHOLE[word]
    if len(word) < 3:
        return word
    word = _mark_consonant_y(word.removeprefix("'"))
    first, second = _regions(word)
    word = word.removesuffix("'").removesuffix("'s") if not word.endswith("'s'") else word[:-3]
    word = _step_1a(word)
    if word not in _LEFT_ALONE:
        word = _step_1c(_step_1b(word, first))
        word = _step_3(_step_2(word, first), first, second)
        word = _step_5(_step_4(word, second), first, second)
    return word.replace("Y", "y")
