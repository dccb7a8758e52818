"""Named views: what a picture shows of a multispectral or radar image. No torch, no GDAL.

| view | shows | formula | source | shown as 0 to 255 |
|---|---|---|---|---|
| true colour | red, green, blue | as they are | - | reflectance 0 to 0.3 |
| false colour | nir, red, green | as they are | colour-infrared film convention | reflectance 0 to 0.4 |
| SWIR | swir22, nir, red | as they are | e.g. Landsat 8 bands 7, 5, 4 | reflectance 0 to 0.4 |
| NIR | nir | grey | - | reflectance 0 to 0.5 |
| NDVI | vegetation | (nir - red) / (nir + red) | Rouse et al. 1974 | -1 to 1 |
| NDWI | open water | (green - nir) / (green + nir) | McFeeters 1996 | -1 to 1 |
| NBR | burnt ground | (nir - swir22) / (nir + swir22) | Key and Benson 2006 | -1 to 1 |
| VV | like polarisation | 10 log10(VV) | - | -25 to 0 dB |
| VH | cross polarisation | 10 log10(VH) | - | -30 to -5 dB |
| VV/VH | their ratio | VV in dB - VH in dB | - | 0 to 20 dB |
| SAR composite | VV, VH, VV/VH | as above | common dual-polarisation composite | as above |

These limits hold for known products. Where the product is not known, bands are stretched by the percentiles 2-98 of all
valid, cloud-free pixels of all dates, and 8-bit pictures stay as they are; indices always run from -1 to 1. Where a sensor
has no broad near infrared (role nir), its narrow one (nir08) is taken. Negative reflectances count as 0 in an index, so that
it stays within -1 to 1; where both bands are 0 it has no value.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from geotempo.model.bands import POLARISATIONS, Role
from geotempo.model.errors import InputError
from geotempo.model.radiometry import Floats, Unit
from geotempo.model.records import Modality

_STAND_INS: dict[Role, Role] = {"nir": "nir08"}


@dataclass(frozen=True)
class View:
    """A named view.

    Attributes:
        name: As the prompt says it.
        roles: Bands that it needs.
        low: Value shown as 0, per channel, in `unit`.
        high: Value shown as 255, per channel.
        unit: What the limits are measured in; None for an index, whose limits hold whatever its bands' unit.
        modality: Kind of image it can be made of.
    """

    name: str
    roles: tuple[Role, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    unit: Unit | None = "reflectance"
    modality: Modality = "multispectral"

    @property
    def is_index(self) -> bool:
        """Whether it is a normalised difference of two bands."""
        return self.unit is None

    @property
    def derived(self) -> bool:
        """Whether a channel is computed of several bands."""
        return self.is_index or self.name in ("VV/VH", "SAR composite")

    def channels(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Names of the channels, from the names of the bands in the order of `roles`."""
        if self.is_index:
            return (self.name,)
        if self.name == "SAR composite":
            return (*labels, "VV/VH")
        return (self.name,) if self.name == "VV/VH" else tuple(labels)

    def compute(self, bands: Sequence[Floats]) -> Floats:
        """The channels.

        Args:
            bands: (H, W) of each of `roles`, calibrated, NaN where there is no data.

        Returns:
            (channels, H, W), NaN where there is no data.
        """
        if self.is_index:
            first, second = (np.maximum(band, 0) for band in bands)
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.stack([(first - second) / (first + second)])
        if self.name == "VV/VH":
            return np.stack([bands[0] - bands[1]])
        return np.stack([*bands, bands[0] - bands[1]] if self.name == "SAR composite" else list(bands))


def _optical(name: str, roles: str, high: float) -> View:
    names = tuple(roles.split())
    return View(name, names, (0.0,) * len(names), (high,) * len(names))


def _index(name: str, roles: str) -> View:
    return View(name, tuple(roles.split()), (-1.0,), (1.0,), None)


VIEWS = {view.name: view for view in (
    _optical("true colour", "red green blue", 0.3), _optical("false colour", "nir red green", 0.4),
    _optical("SWIR", "swir22 nir red", 0.4), _optical("NIR", "nir", 0.5),
    _index("NDVI", "nir red"), _index("NDWI", "green nir"), _index("NBR", "nir swir22"),
    View("VV", ("vv",), (-25.0,), (0.0,), "dB", "sar"), View("VH", ("vh",), (-30.0,), (-5.0,), "dB", "sar"),
    View("VV/VH", ("vv", "vh"), (0.0,), (20.0,), "dB", "sar"),
    View("SAR composite", ("vv", "vh"), (-25.0, -30.0, 0.0), (0.0, -5.0, 20.0), "dB", "sar"),
)}
_SPELLINGS = {"true color": "true colour", "false color": "false colour", "rgb": "true colour",
              "swir composite": "SWIR", "sar": "SAR composite"}


def view_named(text: str) -> View:
    """The view of a `--view`; capitals, hyphens and underscores do not matter.

    Raises:
        InputError: There is none of this name; the message offers the nearest.
    """
    wanted = " ".join(text.lower().replace("_", " ").replace("-", " ").split())
    wanted = _SPELLINGS.get(wanted, wanted).lower()
    names = {name.lower(): name for name in VIEWS}
    if wanted in names:
        return VIEWS[names[wanted]]
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.4)
    hint = f"did you mean {names[near[0]]!r}? " if near else ""
    raise InputError(f"unknown view {text!r}; {hint}allowed: {', '.join(VIEWS)}")


def is_radar(roles: Sequence[Role | None]) -> bool:
    """Whether bands are polarisations."""
    return any(role in POLARISATIONS for role in roles)


def layers_for(view: View, roles: Sequence[Role | None], file: str, names: Sequence[str]) -> tuple[int, ...]:
    """Indices of the bands that a view needs, in the order of its roles.

    Args:
        view: The view.
        roles: Role of each band of the file.
        file: Name for messages.
        names: Name of each band, for messages.

    Raises:
        InputError: A band is missing or there twice, or nothing tells which band is which.
    """
    found, missing = [], []
    for role in view.roles:
        hits = [i for i, own in enumerate(roles) if own == role]
        hits = hits or [i for i, own in enumerate(roles) if own == _STAND_INS.get(role, "")]
        if len(hits) > 1:
            raise InputError(f"{file!r} has {len(hits)} bands that are {role}; say which is which with --band-names")
        found += hits
        missing += [] if hits else [role]
    if not missing:
        return tuple(found)
    if not any(roles):
        raise InputError(f"{file!r} does not say which of its {len(roles)} bands is which, so the view {view.name!r} cannot "
                         "be made; name them with --product NAME or --band-names NAME,NAME,... (one name for each band)")
    known = ", ".join(f"{name} ({role})" if role and role != name.lower() else name
                      for name, role in zip(names, roles, strict=True))
    raise InputError(f"the view {view.name!r} needs {' and '.join(missing)}, which {file!r} lacks; it has {known}")


def default_view(roles: Sequence[Role | None]) -> View | None:
    """The view of a known image when the user names none; None where only bands can be shown."""
    have: Mapping[Role | None, bool] = dict.fromkeys(roles, True)
    names = ("SAR composite", "VV", "VH") if is_radar(roles) else ("true colour",)
    return next((VIEWS[name] for name in names if all(role in have for role in VIEWS[name].roles)), None)
