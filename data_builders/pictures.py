"""Images of samples as files for programs that know nothing of GeoTempo: the very picture that a model is shown."""

import io

from PIL import ExifTags, Image

from geotempo.model import prompts
from geotempo.model.convention import Convention
from geotempo.model.records import ImageRecord

SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
"""Formats that every trainer reads, and how their files end."""


def shown_file(image: ImageRecord, convention: Convention) -> tuple[bytes, str]:
    """The picture that a model is shown of an image, as an encoded file.

    Original bytes are kept where every reader sees in them what `ImageRecord.rgb` sees: RGB, upright, and already of the shape that
    the convention asks for. Anything else (grey, a palette, transparency, an EXIF rotation, TIFF, not square) becomes an
    RGB PNG. Where a model counts pixels of the picture it sees, the picture gets that size, so that no trainer's own limit
    on pixels moves the coordinates.

    Args:
        image: With its bytes.
        convention: Of the model that is trained.

    Returns:
        The file's bytes and its suffix, with the dot.

    Raises:
        InputError: The bytes are no complete image, or of another size than recorded.
    """
    picture = image.rgb()
    shown = prompts.letterbox(picture) if convention.mode == "geotempo" else picture
    if convention.pixels is not None:
        side = convention.pixels.side(shown.width)
        shown = shown if shown.width == side else shown.resize((side, side), Image.Resampling.BICUBIC)
    suffix = _plain_suffix(image.encoded()) if shown is picture else None
    if suffix is not None:
        return image.encoded(), suffix
    buffer = io.BytesIO()
    shown.save(buffer, "PNG")
    return buffer.getvalue(), SUFFIXES["PNG"]


def _plain_suffix(data: bytes) -> str | None:
    """Suffix of a file that every reader sees alike; None for one that some turn, blend or cannot open."""
    with Image.open(io.BytesIO(data)) as header:
        upright = header.getexif().get(ExifTags.Base.Orientation, 1) == 1
        still = getattr(header, "n_frames", 1) == 1
        return SUFFIXES.get(header.format or "") if header.mode == "RGB" and upright and still else None
