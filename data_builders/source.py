"""What a source dataset has to offer, and the helpers that all sources share: checked images, label masks, samples."""

import hashlib
import io
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from geotempo.data_builders.records import Broken, stream_records
from geotempo.data_builders.sample import IMAGE, Message, Sample
from geotempo.data_builders.schema import content_id
from geotempo.model.errors import InputError, LayoutError
from geotempo.model.records import ImageRecord, Region

MAX_REGIONS = 32  # the answer grammar's limit; the largest regions are named, the rest is counted in `left_out`
FORMATS = ("PNG", "JPEG", "WEBP")
REENCODED = ("TIFF", "BMP")  # stored as PNG, pixel for pixel
EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")
REENCODED_EXTENSIONS = (".tif", ".tiff", ".bmp")
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")


class Rejection(InputError):
    """One item of a source that cannot be used; it is listed in `rejected.jsonl` and the build goes on.

    Attributes:
        reason: Short class of the fault, for counting ("missing image").
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True)
class Item:
    """One unit of reading: it is kept or set aside as a whole.

    Attributes:
        key: Name, unique in the source: a pair, tile or sequence; `file:n` for record n (from 0) of an annotation file.
        record: The record itself where a source streams an annotation file; None where the key says it all.
    """

    key: str
    record: Any = None


class Source(ABC):
    """A dataset in its original folder layout. Sources derive from `FolderSource` or `RecordSource`.

    Attributes:
        name: Name on the command line.
        version: Raised whenever the samples of unchanged data change.
        licence: Terms of the data, `ID; details` (see `geotempo.data_builders.licences`), copied into every sample.
        citation: Whom to cite.
        evidence: `real` where the builder was run on original files; `documentation` where only their description was
            seen, so that it must check its assumptions and name the one that fails.
        tasks: Tasks that it can build.
        labels: Labels that its regions may have; empty where any text may stand.
        chunk: Items that go to a worker process together.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    licence: ClassVar[str]
    citation: ClassVar[str]
    evidence: ClassVar[Literal["real", "documentation"]]
    tasks: tuple[str, ...]
    labels: ClassVar[tuple[str, ...]] = ()
    chunk: ClassVar[int] = 1

    @abstractmethod
    def check_layout(self, root: Path) -> None:
        """Look at the folder's layout only.

        Raises:
            LayoutError: What is missing and what is expected.
        """

    @abstractmethod
    def fingerprint(self, root: Path) -> str:
        """Digest of what is to be read; an interrupted build goes on only where it is the same."""

    @abstractmethod
    def items(self, root: Path) -> Iterator[Item]:
        """All items in a fixed order, streamed."""

    def total(self, root: Path) -> int | None:
        """Number of items where it is known beforehand, for the progress bar."""
        return None

    def passed(self) -> float | None:
        """Share of the annotations that `items` has read, 0 to 1, where it is known, for the progress bar."""
        return None

    @abstractmethod
    def read(self, root: Path, item: Item) -> Iterator[Sample]:
        """Samples of one item, in a fixed order.

        Raises:
            InputError: The item is unusable; it is set aside with the message as the reason.
        """

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """What to count over the items for the summary (pairs per split, buildings per class)."""
        return Counter()

    def tally_item(self, item: Item) -> Counter[str]:
        """What to count about an item whether or not it can be used (questions, inactive records)."""
        return Counter()


class FolderSource(Source):
    """A source whose items have names that are known beforehand: files of a folder, entries of a small list."""

    @abstractmethod
    def keys(self, root: Path) -> list[str]:
        """Names of the items, unique, in a fixed order."""

    @abstractmethod
    def samples(self, root: Path, key: str) -> Iterator[Sample]:
        """Samples of one item, see `Source.read`."""

    def fingerprint(self, root: Path) -> str:
        """Digest of the keys."""
        return hashlib.sha256("\n".join(self.keys(root)).encode()).hexdigest()

    def items(self, root: Path) -> Iterator[Item]:
        """See `Source`."""
        return (Item(key) for key in self.keys(root))

    def total(self, root: Path) -> int | None:
        """See `Source`."""
        return len(self.keys(root))

    def read(self, root: Path, item: Item) -> Iterator[Sample]:
        """See `Source`."""
        return self.samples(root, item.key)


class RecordSource(Source):
    """A source that streams annotation files, whose records are never held in memory together."""

    chunk = 32
    _passed: float | None = None

    @abstractmethod
    def files(self, root: Path) -> list[Path]:
        """Annotation files in the order in which they are read."""

    @abstractmethod
    def record_samples(self, root: Path, key: str, record: Any) -> Iterator[Sample]:
        """Samples of one record, see `Source.read`.

        Args:
            root: The dataset's folder.
            key: `file:n`, the file relative to the root and the number of the record from 0.
            record: As parsed from JSON.
        """

    def fingerprint(self, root: Path) -> str:
        """Digest of the files' names and bytes."""
        digest = hashlib.sha256()
        for path in self.files(root):
            with path.open("rb") as handle:
                digest.update(f"{path.name}:{hashlib.file_digest(handle, 'sha256').hexdigest()};".encode())
        return digest.hexdigest()

    def items(self, root: Path) -> Iterator[Item]:
        """See `Source`."""
        files = self.files(root)
        before, total = 0, max(1, sum(path.stat().st_size for path in files))

        def note(read: int) -> None:
            self._passed = (before + read) / total

        for path in files:
            name = path.relative_to(root).as_posix()
            for number, record in enumerate(stream_records(path, note)):
                yield Item(f"{name}:{number}", record)
            before += path.stat().st_size

    def passed(self) -> float | None:
        """See `Source`."""
        return self._passed

    def read(self, root: Path, item: Item) -> Iterator[Sample]:
        """See `Source`."""
        if isinstance(item.record, Broken):
            raise Rejection(item.record.reason, item.record.detail)
        return self.record_samples(root, item.key, item.record)


@dataclass(frozen=True)
class Draft:
    """Everything about one item that its samples share.

    Attributes:
        dataset: Source name.
        split: train, val or test.
        key: Original id of the item.
        images: In time order.
        licence: Terms of the data.
        meta: Facts that go into the meta of every sample.
    """

    dataset: str
    split: str
    key: str
    images: tuple[ImageRecord, ...]
    licence: str
    meta: dict[str, Any] = field(default_factory=dict)

    def id(self, tag: str) -> str:
        """Sample id for a task tag."""
        return f"{self.dataset}/{self.split}/{self.key}#{tag}"

    def sample(self, tag: str, task: str, question: str, answer: str, regions: Sequence[Region] = (),
               **meta: Any) -> Sample:
        """One-turn sample: `<image>` per image, a newline, the question; then the answer."""
        return Sample(
            id=self.id(tag), dataset=self.dataset, split=self.split, task=task, images=self.images,
            messages=(Message("user", IMAGE * len(self.images) + "\n" + question), Message("assistant", answer)),
            regions=tuple(regions), meta={"licence": self.licence, **self.meta, **meta},
        )


def listing(indices: Sequence[int]) -> tuple[str, int]:
    """The placeholder that lists regions, and how many the cap leaves out.

    Args:
        indices: Indices into a sample's regions, largest region first.

    Returns:
        (`<regions:...>` with at most `MAX_REGIONS` indices, number of regions left out).
    """
    named = indices[:MAX_REGIONS]
    return "<regions:" + ",".join(map(str, named)) + ">", len(indices) - len(named)


def find_image(folder: Path, name: str) -> Path:
    """The file `name` in a folder, or one of the same stem with another image extension (re-encoded copies).

    Raises:
        Rejection: There is none.
    """
    path = folder / name
    if path.is_file():
        return path
    for extension in (*EXTENSIONS, *REENCODED_EXTENSIONS):
        if path.with_suffix(extension).is_file():
            return path.with_suffix(extension)
    raise Rejection("missing image", f"{folder.parent.name}/{folder.name}/{name}")


def load_image(path: Path, **facts: Any) -> ImageRecord:
    """Read an 8-bit image and decode it once, so that a truncated file is found now and not in training.

    PNG, JPEG and WebP keep their bytes. TIFF and BMP, which no browser and few loaders of training code read, become
    PNG.

    Args:
        path: The file.
        **facts: Further fields of `ImageRecord` (date, sensor, gsd, ...).

    Returns:
        The record with its content hash as id, and with the file's path, or with the bytes where they are no longer the
        file's own.

    Raises:
        Rejection: Missing, truncated, of another format, or not 8-bit.
    """
    try:
        written = path.stat()
    except OSError as error:
        raise Rejection("missing image", f"{path.parent.name}/{path.name}: {error.strerror}") from None
    stamp = (written.st_mtime_ns, written.st_size)
    width, height, name = _look(path, *stamp)
    if name is None:
        data = _decoded(path, *stamp)[2]
        return ImageRecord(id=content_id(data), width=width, height=height, data=data, **facts)
    return ImageRecord(id=name, width=width, height=height, path=str(path), **facts)


@lru_cache(maxsize=100_000)
def _look(path: Path, changed: int, size: int) -> tuple[int, int, str | None]:
    """Width, height and content hash (None where it is re-encoded) of an image file, read anew when it has changed.

    Annotation files name one image in many records.
    """
    width, height, data, own = _decoded(path, changed, size)
    return width, height, content_id(data) if own else None


@lru_cache(maxsize=8)
def _decoded(path: Path, changed: int, size: int) -> tuple[int, int, bytes, bool]:
    """Width, height, bytes to store, and whether they are the file's own."""
    name = f"{path.parent.name}/{path.name}"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Rejection("missing image", f"{name}: {error.strerror}") from None
    return _storable(data, name)


def image_from_bytes(data: bytes, name: str, **facts: Any) -> ImageRecord:
    """An 8-bit image that a source holds inside another file; see `load_image`.

    Args:
        data: Encoded image.
        name: For messages.
        **facts: Further fields of `ImageRecord`.

    Raises:
        Rejection: Truncated, of another format, or not 8-bit.
    """
    width, height, data, _ = _storable(data, name)
    return ImageRecord(id=content_id(data), width=width, height=height, data=data, **facts)


def _storable(data: bytes, name: str) -> tuple[int, int, bytes, bool]:
    """Width, height, bytes to store, and whether they are the given ones."""
    own = True
    try:
        with Image.open(io.BytesIO(data)) as picture:
            kind, mode, (width, height) = picture.format, picture.mode, picture.size
            picture.load()
            if kind in REENCODED and mode in _PNG_MODES:
                kind, data, own = "PNG", _png(picture), False
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Rejection("broken image", f"{name}: {_plain(error)}") from None
    if kind not in FORMATS or mode.startswith(("I", "F")):
        raise Rejection("unsupported image", f"{name} is {kind} {mode}; allowed: 8-bit {', '.join((*FORMATS, *REENCODED))}")
    return width, height, data, own


def _png(picture: Image.Image) -> bytes:
    """The pixels and the palette of a picture as a PNG, without its tags, so that equal pixels give equal bytes."""
    buffer = io.BytesIO()
    bare = picture.copy()
    bare.info = {key: value for key, value in picture.info.items() if key == "transparency"}
    bare.save(buffer, "PNG")
    return buffer.getvalue()


def load_labels(path: Path) -> npt.NDArray[np.uint8]:
    """Channel 0 of a label image.

    Returns:
        H x W array of the stored values (palette indices of a P image; 0/255 of a 1-bit image).

    Raises:
        Rejection: Missing or broken.
    """
    name = f"{path.parent.name}/{path.name}"
    try:
        with Image.open(path) as picture:
            picture.load()
            array = np.asarray(picture.convert("L") if picture.mode == "1" else picture)
    except FileNotFoundError:
        raise Rejection("missing mask", name) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Rejection("broken mask", f"{name}: {_plain(error)}") from None
    channel = array if array.ndim == 2 else array[..., 0]
    if channel.dtype != np.uint8:
        raise Rejection("unsupported mask", f"{name} has {channel.dtype} values; allowed: 8-bit")
    return channel


def load_pair(before: Path, after: Path) -> tuple[ImageRecord, ImageRecord]:
    """Two images of equal size.

    Raises:
        Rejection: One cannot be used, or the sizes differ.
    """
    first, second = load_image(before), load_image(after)
    same_size(first, (second.height, second.width), f"{after.parent.name}/{after.name}")
    return first, second


def same_size(image: ImageRecord, shape: tuple[int, ...], name: str) -> None:
    """Compare an image's size with the (height, width) of something that belongs to it.

    Raises:
        Rejection: They differ.
    """
    if (image.height, image.width) != shape:
        raise Rejection("size mismatch",
                        f"{name} is {shape[1]} x {shape[0]}, its first image is {image.width} x {image.height}")


def load_json(path: Path) -> Any:
    """Read a JSON file of one item.

    Raises:
        Rejection: Missing or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Rejection("missing annotation", f"{path.parent.name}/{path.name}") from None
    except (OSError, ValueError) as error:
        raise Rejection("broken annotation", f"{path.parent.name}/{path.name}: {_plain(error)}") from None


def need_folder(root: Path, source: str, expected: str) -> None:
    """Check that the root of a dataset is a folder.

    Raises:
        LayoutError: It is not.
    """
    if not root.is_dir():
        raise LayoutError(f"{root} is not a folder; {source} expects {expected}; give its place with --root")


def _plain(error: Exception) -> str:
    """An error's text without object addresses, so that two builds write the same `rejected.jsonl`."""
    text = str(error) or type(error).__name__
    return text.split(" <_io.")[0]
