"""Which band of a file is which part of the spectrum: by name, wavelength or scheme, never by guess. No torch, no GDAL.

A band's *role* is the common name of the STAC Electro-Optical extension ("red", "nir", "swir16", ...), a polarisation
("vv", "vh", "hh", "hv"), or a quality layer ("scl", "qa_pixel"). "B4" alone is no role: red on Sentinel-2 and
Landsat 8, near infrared on Landsat 5. A named product (`geotempo.model.products`) decides such names.
"""

import re
from collections.abc import Mapping, Sequence

Role = str

POLARISATIONS = ("vv", "vh", "hh", "hv")
QUALITY = ("scl", "qa_pixel")
"""Layers that classify pixels: Sentinel-2 scene classification, Landsat Collection 2 pixel quality."""

_WAVELENGTHS: dict[Role, tuple[float, float]] = {  # micrometres of the band's centre; STAC eo extension 2.0
    "coastal": (0.40, 0.45), "blue": (0.45, 0.53), "green": (0.53, 0.60), "red": (0.62, 0.69),
    "rededge071": (0.69, 0.73), "rededge075": (0.73, 0.76), "rededge078": (0.76, 0.79), "nir": (0.79, 0.90),
    "nir09": (0.90, 1.00), "cirrus": (1.35, 1.40), "swir16": (1.55, 1.75), "swir22": (2.08, 2.35),
}

_SAME_FOR_ALL: dict[str, Role] = {
    "r": "red", "g": "green", "b": "blue", "infrared": "nir", "nearinfrared": "nir", "coastalaerosol": "coastal",
    "swir1": "swir16", "swir2": "swir22", "nirnarrow": "nir08", "narrownir": "nir08", "qapixel": "qa_pixel",
    "swir16": "swir16", "swir22": "swir22", "nir08": "nir08", "nir09": "nir09", "pan": "pan", "cirrus": "cirrus",
    "rededge1": "rededge071", "rededge2": "rededge075", "rededge3": "rededge078",
    **{name: name for name in ("coastal", "blue", "green", "red", "nir", "scl", *POLARISATIONS)},
    **{name: name for name in ("rededge071", "rededge075", "rededge078")},
}
_POLARISED = re.compile(r"(?:sigma0|gamma0|beta0|amplitude|intensity|db|lin|power|rtc|norlim|nort)+")

SENTINEL2: dict[str, Role] = {
    "B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge071", "B06": "rededge075",
    "B07": "rededge078", "B08": "nir", "B8A": "nir08", "B09": "nir09", "B10": "cirrus", "B11": "swir16",
    "B12": "swir22", "SCL": "scl",
}
LANDSAT_OLI: dict[str, Role] = {
    "B1": "coastal", "B2": "blue", "B3": "green", "B4": "red", "B5": "nir", "B6": "swir16", "B7": "swir22",
    "QA_PIXEL": "qa_pixel",
}
LANDSAT_TM: dict[str, Role] = {
    "B1": "blue", "B2": "green", "B3": "red", "B4": "nir", "B5": "swir16", "B7": "swir22", "QA_PIXEL": "qa_pixel",
}
_ONLY_SENTINEL2 = {"B08", "B8A", "B12"}  # zero-padded names that no Landsat product uses


def canonical(name: str) -> str:
    """A band name in one spelling: `SR_B04`, `band 4`, `b4` -> `B4`; `B08A` -> `B8A`; others in lower case."""
    text = name.strip()
    match = re.fullmatch(r"(?:SR_|TOA_)?(?:B|band)[ _]?0*(\d{1,2})(a?)", text, re.IGNORECASE)
    return f"B{match[1]}{match[2].upper()}" if match else text.lower()


def role_of_name(name: str | None) -> Role | None:
    """Role of a name that means the same whatever the sensor; None where it does not."""
    if not name:
        return None
    text = re.sub(r"[^a-z0-9]", "", name.lower())
    if text in _SAME_FOR_ALL:
        return _SAME_FOR_ALL[text]
    bare = _POLARISED.sub("", text)
    return bare if bare in POLARISATIONS else None


def role_of_wavelength(micrometres: float | None) -> Role | None:
    """Role of a central wavelength (STAC eo ranges); None outside all of them."""
    if micrometres is None:
        return None
    hits = [role for role, (low, high) in _WAVELENGTHS.items() if low <= micrometres < high]
    return hits[0] if hits else None


def identify(names: Sequence[str | None], *, common: Sequence[str | None] | None = None,
             wavelengths: Sequence[float | None] | None = None,
             scheme: Mapping[str, Role] | None = None) -> tuple[Role | None, ...]:
    """The role of each band.

    The first that knows a band decides: the product's scheme, the common name of the metadata, the wavelength, a name
    that means the same for every sensor, and last Sentinel-2's zero-padded names (B02, B03 and B04 also of HLS).

    Args:
        names: Of each band, None where the file gives none.
        common: STAC common names of each band.
        wavelengths: Central wavelengths of each band in micrometres.
        scheme: Band name -> role of the product that the file is known to be.

    Returns:
        One role per band, None where nothing tells.
    """
    by_product = {canonical(name): role for name, role in (scheme or {}).items()}
    padded = _padded(names)
    found = []
    for i, name in enumerate(names):
        said = common[i] if common else None
        wave = wavelengths[i] if wavelengths else None
        found.append(by_product.get(canonical(name or "")) or role_of_name(said) or role_of_wavelength(wave)
                     or role_of_name(name) or padded.get(name or ""))
    return tuple(found)


def with_colours(roles: Sequence[Role | None], colours: Sequence[str]) -> tuple[Role | None, ...]:
    """Roles, completed by GDAL's colour interpretation ("red", "green", "blue") where no band has that role yet."""
    given = set(roles)
    return tuple(role or (colour if colour in ("red", "green", "blue") and colour not in given else None)
                 for role, colour in zip(roles, colours, strict=True))


def _padded(names: Sequence[str | None]) -> Mapping[str, Role]:
    """Roles of zero-padded names: all of Sentinel-2's where a band is there that only it has, else three colours."""
    given = {name for name in names if name}
    scheme = SENTINEL2 if given & _ONLY_SENTINEL2 else {key: SENTINEL2[key] for key in ("B02", "B03", "B04")}
    return {spelling: role for key, role in scheme.items() for spelling in (key, key.lower())}
