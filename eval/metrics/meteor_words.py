"""METEOR 1.5's words: what its `-norm` makes of an English line, and which words it counts as function words.

Written from the behaviour of the normaliser in Denkowski and Lavie 2014 (github.com/cmu-mtlab/meteor), itself after
the tokenizer of Moses. Of the abbreviations before which a full stop stays, single capitals and those in lower case
are known here; titles ("Mr.") are not, which captions do not hold.
"""

import re
from functools import lru_cache

_FREQUENT = (
    "the , . to of and a in that for \" is on 's it with was as said at he by be from have has are his but an this not "
    "i will ’ they ) -rrb- ( -lrb- who their had we which were been more or s its would about new one after you : also "
    "up when there than $ all out her people she year two - can if last first “ over other ” into some what so -- no "
    "time years could ? 't — '")
FUNCTION_WORDS = frozenset(_FREQUENT.split())
"""The 93 words whose relative frequency in METEOR's English corpus is above one in a thousand (`english.words`)."""

_LETTERS = "A-Za-zŠŽšžŸÀ-ÖØ-öø-žЀ-ӿԀ-ԧꙀ-ꙮ꙾-ꚗᴀ-ᵿ"
_ALNUM = "0-9" + _LETTERS
_PLAIN = re.compile(r"[0-9A-Za-z ]*")
_ABBREVIATIONS = frozenset(("v", "vs", "i.e", "rev", "e.g"))
_BEFORE_NUMBERS = frozenset(("No", "Art", "pp"))
# In this order, each applied to the whole line.
_RULES = tuple((re.compile(pattern), replacement) for pattern, replacement in (
    (rf"([^{_ALNUM}\t-\r \.'`,\-‘’])", r" \1 "),
    (r"([^0-9]),([^0-9])", r"\1 , \2"), (r"([0-9]),([^0-9])", r"\1 , \2"), (r"([^0-9]),([0-9])", r"\1 , \2"),
    (r"[`‘’]", "'"), (r"[“”]|''", ' " '), (r"–|--", "-"),
    (rf"([{_ALNUM}.])-([{_ALNUM}])", r"\1 \2"),
    (rf"([^{_LETTERS}])'([^{_LETTERS}])", r"\1 ' \2"), (rf"([^{_LETTERS}0-9])'([{_LETTERS}])", r"\1 ' \2"),
    (rf"([{_LETTERS}])'([^{_LETTERS}])", r"\1 ' \2"), (rf"([{_LETTERS}])'([{_LETTERS}])", r"\1 '\2"),
    (r"([0-9])'(s)", r"\1 '\2"),
))
_DOTS = re.compile(r"\.\.+")
_LETTER = re.compile(f"[{_LETTERS}]")


def _without_dot(word: str, following: str) -> str:
    """A word that ends in a full stop, with the stop kept, dropped or apart."""
    stem = word[:-1]
    if "." in stem and _LETTER.search(stem):
        return word.replace(".", "")
    kept = stem in _ABBREVIATIONS or (len(stem) == 1 and "A" <= stem <= "Z") or "a" <= following[:1] <= "z"
    if kept or (stem in _BEFORE_NUMBERS and "0" <= following[:1] <= "9"):
        return word
    return stem + " ."


@lru_cache(maxsize=65536)
def normalise(line: str) -> tuple[str, ...]:
    """The words METEOR compares, in lower case.

    Args:
        line: One line of text.
    """
    if _PLAIN.fullmatch(line):
        return tuple(line.lower().split())
    line = f" {line} "
    # Several dots become a word of their own, out of the way of the rule for the last one.
    pattern, replacement = _RULES[0]
    line = _DOTS.sub(lambda match: " " + "\0" * len(match.group()) + " ", pattern.sub(replacement, line))
    for pattern, replacement in _RULES[1:]:
        line = pattern.sub(replacement, line)
    words = line.split()
    followed = zip(words, [*words[1:], ""], strict=False)
    line = " ".join(_without_dot(word, following) if len(word) > 1 and word.endswith(".") else word
                    for word, following in followed)
    return tuple(line.replace("\0", ".").lower().split())
