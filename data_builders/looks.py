"""How a picture looks, in 24 numbers and a thumbnail: found again after re-encoding, rescaling and in a crop of its tile.

The difference hash (Krawetz 2013, "Kind of Like That"): a grey picture is shrunk, and a bit says whether a pixel is brighter than
its neighbour, here once along rows and once along columns. Pictures that differ in few bits are compared by a 16 x 16 thumbnail.
Pictures of 512 pixels and more are looked at as a whole and by their cells of 256 pixels, as the field cuts them.
"""

import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from geotempo.data_builders.store import Store
from geotempo.model.errors import InputError
from geotempo.model.files import write_atomic

CACHE = "looks-1.parquet"
"""Beside a store's manifest; the number changes with the way of looking."""
BITS, THUMB, CELL = 128, 16, 256
LEAST_CONTRAST = 2.0
"""Standard deviation of a thumbnail in grey levels, below which pictures cannot be told apart: plain water, a cloud, black."""
CHUNK = 64

U8 = npt.NDArray[np.uint8]
SCHEMA = pa.schema([("id", pa.string()), ("x", pa.int32()), ("y", pa.int32()), ("bits", pa.binary(BITS // 8)),
                    ("thumb", pa.binary(THUMB * THUMB))])


class Look(NamedTuple):
    """A picture or one of its cells.

    Attributes:
        id: Of the image.
        x: Left edge of the cell in pixels, -1 for the whole.
        y: Its top edge, -1 for the whole.
        bits: Difference hash, 16 bytes.
        thumb: 16 x 16 grey levels, 256 bytes.
    """

    id: str
    x: int
    y: int
    bits: bytes
    thumb: bytes


class Looks(NamedTuple):
    """Many looks as arrays: `owner` (N,) index into `ids`, `bits` (N, 16), `thumbs` (N, 256) of uint8; cells included."""

    ids: list[str]
    owner: npt.NDArray[np.int64]
    bits: U8
    thumbs: U8


def looks_of(image_id: str, data: bytes) -> list[Look]:
    """Looks at a picture and, where it is 512 pixels or more, at its cells.

    Args:
        image_id: Its id.
        data: Its encoded bytes.

    Raises:
        InputError: It cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            grey = picture.convert("RGB").convert("L")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"image {image_id} cannot be decoded: {error}; geotempo check lists all that cannot") from None
    found = [Look(image_id, -1, -1, *_seen(grey))]
    if min(grey.size) >= 2 * CELL:
        found += [Look(image_id, x, y, *_seen(grey.crop((x, y, x + CELL, y + CELL))))
                  for y in range(0, grey.height - CELL + 1, CELL) for x in range(0, grey.width - CELL + 1, CELL)]
    return found


def _seen(grey: Image.Image) -> tuple[bytes, bytes]:
    across = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), np.int16)
    down = np.asarray(grey.resize((8, 9), Image.Resampling.BOX), np.int16)
    bits = np.packbits(np.concatenate([(across[:, 1:] > across[:, :-1]).ravel(), (down[1:] > down[:-1]).ravel()]))
    return bits.tobytes(), np.asarray(grey.resize((THUMB, THUMB), Image.Resampling.BOX), np.uint8).tobytes()


def look_at(store: Store, image_ids: Sequence[str], workers: int = 1, decode: bool = True) -> Looks:
    """Looks of images of a store; those seen for the first time are added to `looks-1.parquet` beside its manifest.

    Args:
        store: Any store.
        image_ids: Images of it, each once.
        workers: Processes that decode.
        decode: Look at images for the first time too; else only those come back that were looked at before.

    Raises:
        InputError: An image cannot be read.
    """
    table = _cached(store)
    known = set(table.column("id").unique().to_pylist())
    fresh = [name for name in image_ids if name not in known] if decode else []
    if fresh:
        parts = [pa.Table.from_pylist([look._asdict() for look in looks], SCHEMA) for looks in _fresh(store, fresh, workers)]
        table = pa.concat_tables([table, *parts]).combine_chunks()
        _keep(store, table)
    return _arrays(table, list(image_ids))


def unseen(store: Store, image_ids: Sequence[str]) -> int:
    """How many of these images `look_at` would have to decode."""
    known = set(_cached(store).column("id").unique().to_pylist())
    return sum(name not in known for name in image_ids)


def _cached(store: Store) -> pa.Table:
    try:
        table = pq.read_table(store.path / CACHE)
    except (OSError, pa.ArrowException):  # not there, or half a file: it is made anew
        return SCHEMA.empty_table()
    return table if table.schema.equals(SCHEMA) else SCHEMA.empty_table()


def _keep(store: Store, table: pa.Table) -> None:
    if os.access(store.path, os.W_OK):  # a store on a read-only disk is looked at each time
        write_atomic(store.path / CACHE, lambda path: pq.write_table(table, path, compression="zstd"))


def _fresh(store: Store, names: Sequence[str], workers: int) -> Iterator[list[Look]]:
    chunks = [names[start:start + CHUNK] for start in range(0, len(names), CHUNK)]
    if workers <= 1 or len(chunks) < 2:
        for chunk in chunks:
            yield [look for name in chunk for look in looks_of(name, store.image_bytes(name))]
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _open, (store.path,)) as pool:
        yield from pool.map(_work, chunks)


_store: list[Store] = []


def _open(path: Path) -> None:
    _store[:] = [Store(path)]


def _work(names: Sequence[str]) -> list[Look]:
    return [look for name in names for look in looks_of(name, _store[0].image_bytes(name))]


def _arrays(table: pa.Table, ids: list[str]) -> Looks:
    place = {name: number for number, name in enumerate(ids)}
    owner = np.array([place.get(name, -1) for name in table.column("id").to_pylist()], dtype=np.int64)
    chosen = np.flatnonzero(owner >= 0)
    part = table.take(pa.array(chosen))
    bits = np.frombuffer(b"".join(part.column("bits").to_pylist()), np.uint8).reshape(-1, BITS // 8)
    thumbs = np.frombuffer(b"".join(part.column("thumb").to_pylist()), np.uint8).reshape(-1, THUMB * THUMB)
    return Looks(ids, owner[chosen], bits, thumbs)
