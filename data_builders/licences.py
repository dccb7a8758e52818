"""Licences of datasets: what may be done with samples built from them.

A source's `licence` is `ID; details`, for example `CC-BY-NC-SA-4.0; xBD`: an identifier of `TERMS`, then whatever a reader
should know besides. Every sample carries it in its meta, and a mixture carries the strictest of its sources.
"""

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


def terms_of(licence: str) -> Terms:
    """What a licence text allows, see `licence_id`."""
    return TERMS[licence_id(licence)]
