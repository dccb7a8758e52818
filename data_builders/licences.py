"""Licences of datasets: what may be done with samples built from them.

A source's `licence` is `ID; details`, for example `CC-BY-NC-SA-4.0; xBD`: an identifier of `TERMS`, then whatever a reader
should know besides. Every sample carries it in its meta, and a mixture carries the strictest of its sources.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from geotempo.model.errors import InputError


@dataclass(frozen=True)
class Terms:
    """What a licence allows.

    Attributes:
        commercial: Commercial use.
        derivatives: Passing on changed copies (a caption dataset made from it, a tuned model's training set).
        share_alike: Derivatives must carry the same licence.
        known: False where nobody stated terms; then nothing may be assumed.
    """

    commercial: bool
    derivatives: bool = True
    share_alike: bool = False
    known: bool = True


TERMS = {
    "public-domain": Terms(commercial=True),
    "CC0-1.0": Terms(commercial=True),
    "MIT": Terms(commercial=True),
    "Apache-2.0": Terms(commercial=True),
    "CC-BY-4.0": Terms(commercial=True),
    "CC-BY-SA-4.0": Terms(commercial=True, share_alike=True),
    "CC-BY-NC-4.0": Terms(commercial=False),
    "CC-BY-NC-SA-4.0": Terms(commercial=False, share_alike=True),
    "CC-BY-NC-ND-4.0": Terms(commercial=False, derivatives=False),
    "academic": Terms(commercial=False),
    "unknown": Terms(commercial=False, derivatives=False, known=False),
}
"""Terms by identifier, from the freest to the strictest. `academic` is any "for research only" in words of its own."""


def licence_id(licence: str) -> str:
    """Identifier of a licence text `ID; details`.

    Raises:
        InputError: The text does not begin with an identifier of `TERMS`.
    """
    name = licence.partition(";")[0].strip()
    if name not in TERMS:
        raise InputError(f"unknown licence {name!r}; allowed: {', '.join(TERMS)}, then a semicolon and details")
    return name


def known_licence(text: str) -> str:
    """A licence text as the functions here take it: one without an identifier, as earlier stores have, counts as unknown."""
    return text if text.partition(";")[0].strip() in TERMS else f"unknown; {text}"


def terms_of(licence: str) -> Terms:
    """What a licence text allows, see `licence_id`."""
    return TERMS[licence_id(licence)]


@dataclass(frozen=True)
class Combined:
    """What holds for samples of several sources together.

    Attributes:
        ids: Identifiers of the sources' licences, from the strictest to the freest.
        terms: What all of them allow.
        text: In words: the strictest, then what else holds.
    """

    ids: tuple[str, ...]
    terms: Terms
    text: str


def combine(licences: Sequence[str]) -> Combined:
    """The strictest terms of several licences.

    Args:
        licences: Texts `ID; details`, at least one; see `known_licence` for others.
    """
    order = list(TERMS)
    ids = sorted({licence_id(known_licence(text)) for text in licences}, key=lambda name: -order.index(name))
    each = [TERMS[name] for name in ids]
    terms = Terms(commercial=all(one.commercial for one in each), derivatives=all(one.derivatives for one in each),
                  share_alike=any(one.share_alike for one in each), known=all(one.known for one in each))
    limits = [words for words, holds in (("terms partly unknown", not terms.known), ("no commercial use", not terms.commercial),
                                         ("no derivatives", terms.known and not terms.derivatives),
                                         ("share alike", terms.share_alike)) if holds]
    alike = [name for name in ids if TERMS[name].share_alike]
    forbidden = any(one.known and not one.derivatives for one in each)  # unknown terms are said to be unknown already
    if (alike and forbidden) or len(alike) > 1:  # each share-alike licence demands itself for the whole
        limits.append("which cannot be met together: ask the owners before you pass it on")
    return Combined(tuple(ids), terms, " + ".join(ids) + (f" ({', '.join(limits)})" if limits else ""))


def hub_licence(combined: Combined) -> str:
    """Identifier for the metadata of a card on the Hugging Face Hub."""
    if len(combined.ids) > 1 or combined.ids[0] in ("public-domain", "academic"):
        return "other"
    return combined.ids[0].lower()
