"""What is shown of each image of a sequence: its bands identified, then views or bands chosen. No torch, no GDAL."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from geotempo.model.bandfolder import finest
from geotempo.model.bands import POLARISATIONS, QUALITY, Role, identify, with_colours
from geotempo.model.display import BandTable, choose_bands
from geotempo.model.errors import InputError
from geotempo.model.products import Product, names_of, product_named, product_of
from geotempo.model.records import Modality
from geotempo.model.source import Source
from geotempo.model.views import View, default_view, is_radar, layers_for, view_named


@dataclass(frozen=True)
class Spectral:
    """What a user says of images with more than three colours. Lists hold one entry for all files, or one for each.

    Attributes:
        views: Names of views, see `geotempo.model.views`; empty shows bands, or a known product's usual view.
        products: Keys of `geotempo.model.products.PRODUCTS`.
        band_names: Names of all bands in the file's order, separated by commas; `-` for a band without a name.
        offsets: Sentinel-2 offsets in digital numbers (0 or -1000), see `geotempo.model.radiometry`.
        cloud_masks: Files, see `geotempo.model.clouds`; `none` for an image without one.
    """

    views: tuple[str, ...] = ()
    products: tuple[str, ...] = ()
    band_names: str | None = None
    offsets: tuple[int, ...] = ()
    cloud_masks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Known:
    """An image whose bands are identified.

    Attributes:
        source: The image; its grid is that of the finest band shown once `plan` has chosen.
        product: What it is, where that is known.
        names: Name of each layer, None where nothing gives one.
        roles: Role of each layer, None where nothing tells.
    """

    source: Source
    product: Product | None
    names: tuple[str | None, ...]
    roles: tuple[Role | None, ...]

    @property
    def table(self) -> BandTable:
        """The bands, for choosing by name or number."""
        return BandTable(self.source.path, self.names, tuple(layer.colour for layer in self.source.layers), self.roles)

    @property
    def modality(self) -> Modality | None:
        """Kind of image, where that is known."""
        if is_radar(self.roles):
            return "sar"
        spectral = {role for role in self.roles if role} - {"red", "green", "blue", "pan", *QUALITY, *POLARISATIONS}
        return self.product.modality if self.product else "multispectral" if spectral else None


@dataclass(frozen=True)
class Shot:
    """One picture of an image: a view, or bands without a name.

    Attributes:
        view: The named view; None where bands are shown as they are.
        layers: Indices of the layers that it is made of.
        labels: Names of the picture's channels.
    """

    view: View | None
    layers: tuple[int, ...]
    labels: tuple[str, ...]

    @property
    def name(self) -> str | None:
        """Name of the view."""
        return self.view.name if self.view else None


def each(values: Sequence[str] | Sequence[int], option: str, count: int) -> list[str | int | None]:
    """The value of an option for each file: one for all, or one for each.

    Raises:
        InputError: Another number of values was given.
    """
    if len(values) not in (0, 1, count):
        raise InputError(f"{count} images and {len(values)} values of {option} were given; give {option} once, or once for "
                         "each image in the same order")
    return [values[0]] * count if len(values) == 1 else [*values] or [None] * count


def know(source: Source, product: str | None, band_names: str | None) -> Known:
    """Identify the bands of an image.

    Args:
        source: The image.
        product: The user's `--product`; None lets identifiers in names and metadata tell.
        band_names: The user's `--band-names`.

    Raises:
        InputError: The product is unknown or does not fit the bands, or the names do not.
    """
    layers = source.layers
    data = [i for i, layer in enumerate(layers) if layer.colour != "alpha"]
    names = [layers[i].name for i in data]
    display = all(layers[i].dtype == "uint8" for i in data)
    # What a name says is not true of 8-bit pictures made from the product (Sentinel-2's TCI files).
    found = product_named(product) if product else None if display else product_of(source.facts.texts)
    if band_names is not None:
        names = _user_names(source.path, band_names, len(data))
    elif found is not None and (product or len(data) in found.orders):
        names = list(names_of(found, source.path, names))
    all_names: list[str | None] = [None] * len(layers)
    for i, name in zip(data, names, strict=True):
        all_names[i] = name
    said = [layer.said for layer in layers]
    roles = identify(all_names, common=[band.common for band in said], wavelengths=[band.wavelength for band in said],
                     scheme=found.scheme if found else None)
    roles = with_colours(roles, [layer.colour for layer in layers])
    known = Known(source, found, tuple(all_names), roles)
    if product and found and is_radar(roles) != (found.modality == "sar"):
        bands = ", ".join(map(known.table.label, known.table.data))
        raise InputError(f"{source.path!r} is no {found.key}: its bands are {bands}; give the product that it is, or name "
                         "the bands with --band-names")
    return known


def _user_names(path: str, text: str, count: int) -> list[str | None]:
    """The names of `--band-names`."""
    names = [name.strip() for name in text.split(",")]
    if len(names) != count:
        raise InputError(f"--band-names gives {len(names)} names, {path!r} has {count} bands; give one name for each, in the "
                         "file's order, and - for a band without a name")
    return [name if name not in ("", "-") else None for name in names]


def plan(images: Sequence[Known], bands: str | None, views: Sequence[str]) -> list[tuple[Shot, ...]]:
    """The pictures of each image.

    Named views are made of every image of their kind: optical ones of optical images, radar ones of radar images.
    Without views and bands a sequence of known products shows their usual view (true colour, or the SAR composite),
    and anything else its red, green and blue.

    Args:
        images: Of the sequence.
        bands: The user's `--bands`.
        views: The user's `--view`s.

    Raises:
        InputError: Views and bands exclude each other, a view lacks bands, or the choice of bands is not clear.
    """
    if views and bands is not None:
        raise InputError("--view and --bands were both given; a view chooses its bands itself, so give one of the two")
    if views:
        wanted = list({view.name: view for view in map(view_named, views)}.values())
        return [_views(known, wanted, {is_radar(other.roles) for other in images}) for known in images]
    usual = [default_view(known.roles) if known.product or is_radar(known.roles) else None for known in images]
    if bands is None and all(usual):
        return [(_shot(known, view),) for known, view in zip(images, usual, strict=True) if view]
    return [(_bands(known, bands),) for known in images]


def _views(known: Known, wanted: Sequence[View], kinds: set[bool]) -> tuple[Shot, ...]:
    """The wanted views of one image; `kinds` holds whether radar and whether optical images are in the sequence."""
    radar = is_radar(known.roles)
    mine = [view for view in wanted if (view.modality == "sar") == radar or (view.modality == "sar") not in kinds]
    if not mine:
        kind, instead = ("a radar", "VV") if radar else ("an optical", "'true colour'")
        names = ", ".join(view.name for view in wanted)
        raise InputError(f"{known.source.path!r} is {kind} image, and none of the views {names} can be made of it; add "
                         f"--view {instead}")
    return tuple(_shot(known, view) for view in mine)


def _shot(known: Known, view: View) -> Shot:
    """A view of an image."""
    numbers = known.table.data
    names = [known.table.label(number) for number in numbers]
    picked = layers_for(view, [known.roles[number - 1] for number in numbers], known.source.path, names)
    return Shot(view, tuple(numbers[i] - 1 for i in picked), view.channels([names[i] for i in picked]))


def _bands(known: Known, bands: str | None) -> Shot:
    """Bands of an image without a view's name."""
    numbers = choose_bands(known.table, bands)
    return Shot(None, tuple(number - 1 for number in numbers), tuple(known.table.label(number) for number in numbers))


def narrowed(known: Known, shots: Sequence[Shot]) -> Known:
    """The same image on the grid of the finest band that is shown; says so where coarser ones are resampled."""
    layers = known.source.layers
    chosen = sorted({i for shot in shots for i in shot.layers})
    grid = finest(layers[i] for i in chosen)
    coarse = [known.table.label(i + 1) for i in chosen if not layers[i].grid.same_as(grid)]
    notes = known.source.notes
    if coarse:
        what = f"{', '.join(coarse)} resampled to the grid of the finest band shown"
        notes += (f"{known.source.path}: {what}, {grid.width} x {grid.height} pixels (bilinear)",)
    return replace(known, source=replace(known.source, grid=grid, notes=notes))
