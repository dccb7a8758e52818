"""Data products: their band order, what their values mean, and how a file is known to be one. No torch, no GDAL.

| key | bands in documented order | values |
|---|---|---|
| sentinel-2-l1c | B01-B08, B8A, B09-B12 (13) | top-of-atmosphere reflectance = (DN + offset) / 10000 |
| sentinel-2-l2a | B01-B08, B8A, B09, B11, B12 (12), SCL may follow | surface reflectance = (DN + offset) / 10000 |
| landsat-oli-c2-l2 | SR_B1-SR_B7 (7), QA_PIXEL may follow | surface reflectance = DN * 0.0000275 - 0.2 |
| landsat-tm-c2-l2 | SR_B1-SR_B5, SR_B7 (6), QA_PIXEL may follow | surface reflectance = DN * 0.0000275 - 0.2 |
| sentinel-1-grd | VV, VH (2) | sigma0 or gamma0, linear power or dB (float); amplitude (integer) |
| naip | red, green, blue, near infrared (4) | 8-bit display values |

Sources: Sentinel-2 Products Specification Document (offset: see `geotempo.model.radiometry`); USGS Landsat 8-9 and 4-7
Collection 2 Level 2 Science Product Guides; Sentinel-1 Product Specification; USDA NAIP. Value 0 is no data in the first
four. EuroSAT's TIFFs put B8A last: name their bands with `--band-names`.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from geotempo.model.bands import LANDSAT_OLI, LANDSAT_TM, POLARISATIONS, SENTINEL2, Role
from geotempo.model.errors import InputError
from geotempo.model.records import Modality


@dataclass(frozen=True)
class Product:
    """A data product.

    Attributes:
        key: Name for `--product`.
        sensor: As the prompt says it; None where several sensors share the product.
        modality: What kind of image it is.
        scheme: Band name -> role.
        orders: Band names of files whose bands have no names, by the number of bands.
        scale: Reflectance per digital number; None where values are no reflectance.
        offset: Reflectance at digital number 0, where the product fixes it.
        nodata: Digital number without data.
    """

    key: str
    sensor: str | None
    modality: Modality
    scheme: Mapping[str, Role]
    orders: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    scale: float | None = None
    offset: float = 0.0
    nodata: int | None = None


def _orders(names: Sequence[str], *quality: str) -> dict[int, tuple[str, ...]]:
    """The order of the bands, and the one with a quality layer behind them."""
    return {len(names): tuple(names)} | ({len(names) + 1: (*names, *quality)} if quality else {})


_L1C = tuple(name for name in SENTINEL2 if name != "SCL")
_L2A = tuple(name for name in _L1C if name != "B10")
_OLI = tuple(name for name in LANDSAT_OLI if name != "QA_PIXEL")
_TM = tuple(name for name in LANDSAT_TM if name != "QA_PIXEL")
_NAIP: dict[str, Role] = {name: name for name in ("red", "green", "blue", "nir")}

_RADAR: dict[str, Role] = {name.upper(): name for name in POLARISATIONS}
_MANY: Modality = "multispectral"

PRODUCTS = {product.key: product for product in (
    Product("sentinel-2-l1c", "Sentinel-2", _MANY, SENTINEL2, _orders(_L1C), 1e-4, nodata=0),
    Product("sentinel-2-l2a", "Sentinel-2", _MANY, SENTINEL2, _orders(_L2A, "SCL"), 1e-4, nodata=0),
    Product("landsat-oli-c2-l2", "Landsat 8-9", _MANY, LANDSAT_OLI, _orders(_OLI, "QA_PIXEL"), 2.75e-5, -0.2, 0),
    Product("landsat-tm-c2-l2", "Landsat 4-7", _MANY, LANDSAT_TM, _orders(_TM, "QA_PIXEL"), 2.75e-5, -0.2, 0),
    Product("sentinel-1-grd", "Sentinel-1", "sar", _RADAR, {2: ("VV", "VH")}),
    Product("naip", "NAIP", _MANY, _NAIP, _orders(tuple(_NAIP))),
)}

# Identifiers that a file, a folder above it, a tag or a STAC item may carry.
_S2_ID = re.compile(r"S2[A-D]_(?:MSI|OPER_MSI_|USER_MSI_)(L1C|L2A)(?![A-Z0-9])|S2[A-D]_\w{5}_\d{8}_\d+_(L1C|L2A)")
_S2_GRANULE = re.compile(r"(?:^|_)T\d{2}[C-X][A-Z]{2}_\d{8}T\d{6}_(?:B\d[0-9A]|SCL)(_[126]0m)?(?:\.\w+)?$")
_LANDSAT_ID = re.compile(r"L([CTE])0([4-9])_L2S[PR]_\d{6}_\d{8}")
_S1_ID = re.compile(r"S1[A-D]_(?:IW|EW|S[1-6])_GRD[FHM]?_|s1[a-d]-(?:iw|ew|s[1-6])-grd-")
_COLLECTIONS = {  # of the Earth Search, Planetary Computer and Earth Engine catalogues
    "sentinel-2-c1-l2a": "sentinel-2-l2a", "sentinel-2-pre-c1-l2a": "sentinel-2-l2a",
    "sentinel-s2-l2a-cogs": "sentinel-2-l2a", "sentinel-1-rtc": "sentinel-1-grd", "COPERNICUS/S1_GRD": "sentinel-1-grd",
    "COPERNICUS/S2_SR": "sentinel-2-l2a", "COPERNICUS/S2_SR_HARMONIZED": "sentinel-2-l2a",
    "COPERNICUS/S2": "sentinel-2-l1c", "COPERNICUS/S2_HARMONIZED": "sentinel-2-l1c",
}
_BASELINE = re.compile(r"_N(\d{2})(\d{2})_R\d{3}_")
_DAY = re.compile(r"(?<!\d)((?:19|20)\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?:T\d{6})?(?!\d)")


def product_named(key: str) -> Product:
    """The product of a `--product`.

    Raises:
        InputError: There is none of this name; the message offers the nearest.
    """
    if key in PRODUCTS:
        return PRODUCTS[key]
    near = difflib.get_close_matches(key.lower(), PRODUCTS, n=1, cutoff=0.3)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(f"unknown product {key!r}; {hint}allowed: {', '.join(PRODUCTS)}")


def product_of(texts: Iterable[str]) -> Product | None:
    """The product that the first text with a product identifier names; None where none has one.

    Args:
        texts: File and folder names, STAC ids and collections, tag values; the most telling first.
    """
    return next((product for product in map(_product_in, texts) if product is not None), None)


def _product_in(text: str) -> Product | None:
    """The product that one text names."""
    key = _COLLECTIONS.get(text, text)
    if key in PRODUCTS:
        return PRODUCTS[key]
    if match := _S2_ID.search(text):
        return PRODUCTS[f"sentinel-2-{(match[1] or match[2]).lower()}"]
    if match := _S2_GRANULE.search(text):  # Level-2A band files carry their resolution, Level-1C ones do not
        return PRODUCTS["sentinel-2-l2a" if match[1] else "sentinel-2-l1c"]
    if match := _LANDSAT_ID.search(text):
        return PRODUCTS["landsat-oli-c2-l2" if int(match[2]) >= 8 else "landsat-tm-c2-l2"]
    return PRODUCTS["sentinel-1-grd"] if _S1_ID.search(text) else None


def baseline_of(texts: Iterable[str]) -> tuple[int, int] | None:
    """Sentinel-2 processing baseline, (4, 0) for N0400, from the first product identifier among some texts."""
    for text in texts:
        if match := _BASELINE.search(text):
            return int(match[1]), int(match[2])
    return None


def day_of(texts: Iterable[str]) -> str | None:
    """Day of acquisition, YYYY-MM-DD, from the first product identifier among some texts."""
    for text in texts:
        if _product_in(text) is not None and (match := _DAY.search(text)):
            return "-".join(match.groups())
    return None


def names_of(product: Product, file: str, names: Sequence[str | None]) -> tuple[str | None, ...]:
    """Band names of a file of a product: its own ones, or those of the documented order where it gives none.

    Raises:
        InputError: No band has a name and the count fits no documented order.
    """
    if any(names):
        return tuple(names)
    if len(names) in product.orders:
        return product.orders[len(names)]
    orders = "; ".join(f"{count}: {', '.join(order)}" for count, order in product.orders.items())
    raise InputError(f"{file!r} has {len(names)} unnamed bands, which does not fit {product.key} ({orders}); name them "
                     "with --band-names")
