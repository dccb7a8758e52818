"""Weights on disk, one tensor at a time: PyTorch `.bin` shards and safetensors in, safetensors shards out.

A file is mapped, not loaded, and tensors are written as they come, so that a checkpoint of any size passes through the
memory of one tensor. Pickles are read with `weights_only`.
"""

import json
import math
import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from geotempo.model.errors import ModelError

_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_MOST = 4 * 2**30  # bytes of a shard that is written


@dataclass(frozen=True)
class Entry:
    """A tensor in a file.

    Attributes:
        file: `.bin` or `.safetensors`.
        name: Its name there.
        shape: Its shape.
        dtype: Its type there.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


class WeightFiles:
    """The tensors of a set of files; one file is open at a time."""

    def __init__(self, files: Iterable[Path]) -> None:
        """Read the names and shapes in every file.

        Raises:
            ModelError: A file is missing, truncated or not what its name says.
        """
        self._open: tuple[Path, Callable[[str], torch.Tensor]] | None = None
        self.entries: dict[str, Entry] = {}
        for file in files:
            with _reading(file):
                read, names = _open(file)
                self.entries |= {name: _entry(file, name, read) for name in names}

    def read(self, name: str) -> torch.Tensor:
        """A tensor, mapped where the file allows it; it is valid until a tensor of another file is read.

        Raises:
            ModelError: The file is damaged.
        """
        entry = self.entries[name]
        with _reading(entry.file):
            if self._open is None or self._open[0] != entry.file:
                self._open = None  # lets go of the last mapping before the next is made
                self._open = entry.file, _open(entry.file)[0]
            return self._open[1](name)

    def close(self) -> None:
        """Let go of the open file."""
        self._open = None


def find_weights(folder: Path, stem: str) -> list[Path]:
    """The weight files of a folder: those that an index names, or the single file; safetensors before `.bin`.

    Args:
        folder: Of a checkpoint.
        stem: File name without ending of the PyTorch form: `pytorch_model`, `adapter_model`.

    Returns:
        Existing files in order of name; empty where the folder has none.

    Raises:
        ModelError: A file that the index names is missing, or shards have no index and are not complete.
    """
    for name, end in ((stem.replace("pytorch_model", "model"), "safetensors"), (stem, "bin")):
        index = folder / f"{name}.{end}.index.json"
        if index.is_file():
            return _indexed(index)
        if (folder / f"{name}.{end}").is_file():
            return [folder / f"{name}.{end}"]
        shards = sorted(folder.glob(f"{name}-*-of-*.{end}"))
        if shards:
            count = int(shards[0].stem.rpartition("-")[2])
            wanted = {f"{name}-{i:05d}-of-{count:05d}.{end}" for i in range(1, count + 1)}
            absent = wanted - {shard.name for shard in shards}
            if absent:
                raise ModelError(f"{folder} lacks the shard {min(absent)} ({len(absent)} of {count} missing); download "
                                 "it again")
            return shards
    return []


def _indexed(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ModelError(f"{index} is not an index of weights (a JSON object with 'weight_map'); download it "
                         "again") from None
    if any(Path(name).name != name for name in names):
        raise ModelError(f"{index} names files outside its folder; only plain file names are allowed")
    absent = [name for name in names if not (index.parent / name).is_file()]
    if absent:
        raise ModelError(f"{index.parent} lacks the shard {absent[0]} that {index.name} names ({len(absent)} of "
                         f"{len(names)} missing); download it again")
    return [index.parent / name for name in names]


def _open(file: Path) -> tuple[Callable[[str], torch.Tensor], list[str]]:
    """A function from names to tensors, and the names."""
    if file.suffix == ".safetensors":
        handle = safe_open(file, framework="pt")
        return handle.get_tensor, list(handle.keys())  # type: ignore[no-untyped-call]
    # Files that torch wrote before 1.6 are no zip archives and cannot be mapped.
    state = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise ModelError(f"{file} does not hold weights by name (a dictionary of tensors)")
    return state.__getitem__, list(state)


def _entry(file: Path, name: str, read: Callable[[str], torch.Tensor]) -> Entry:
    tensor = read(name)
    if not tensor.is_floating_point() and not name.endswith("position_ids"):
        raise ModelError(f"{name} in {file} is stored as {tensor.dtype}: the checkpoint is quantised; give one in "
                         "float16, bfloat16 or float32")
    return Entry(file, name, tuple(tensor.shape), tensor.dtype)


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turn what torch and safetensors raise on a damaged file into a `ModelError`."""
    try:
        yield
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, SafetensorError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"cannot read the weights in {file} (truncated or another kind of file?): {first}") from None


@dataclass(frozen=True)
class Planned:
    """A tensor that is to be written.

    Attributes:
        name: Its name in the result.
        shape: Its shape.
        make: Reads or computes it.
    """

    name: str
    shape: tuple[int, ...]
    make: Callable[[], torch.Tensor]


def write_shards(folder: Path, planned: list[Planned], dtype: torch.dtype, advance: Callable[[int], object]) -> None:
    """Write safetensors shards of at most 4 GiB and their index (one plain file where they fit into one).

    Args:
        folder: Where to.
        planned: In the order in which they are read most cheaply.
        dtype: Stored type of all.
        advance: Told the bytes after each tensor.

    Raises:
        ModelError: A finite value becomes infinite in `dtype`.
    """
    groups: list[list[Planned]] = [[]]
    size = 0
    for tensor in planned:
        more = math.prod(tensor.shape) * dtype.itemsize
        if groups[-1] and size + more > _MOST:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += more
    count = len(groups)
    names = [f"model-{i:05d}-of-{count:05d}.safetensors" if count > 1 else "model.safetensors" for i in range(1, count + 1)]
    for name, group in zip(names, groups, strict=True):
        _write_shard(folder / name, group, dtype, advance)
    if count > 1:
        total = sum(math.prod(tensor.shape) for tensor in planned) * dtype.itemsize
        weight_map = {tensor.name: name for name, group in zip(names, groups, strict=True) for tensor in group}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")


def _write_shard(path: Path, group: list[Planned], dtype: torch.dtype, advance: Callable[[int], object]) -> None:
    """One file in the safetensors format: length of the header, header, values.

    `safetensors.torch.save_file` wants all tensors of a file at once, and copies them; this needs one at a time.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in group:
        end = offset + math.prod(tensor.shape) * dtype.itemsize
        header[tensor.name] = {"dtype": _DTYPES[dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # values start at a multiple of 8
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in group:
            file.write(_stored(tensor, dtype).reshape(-1).view(torch.uint8).numpy().data)
            advance(math.prod(tensor.shape) * dtype.itemsize)


def _stored(tensor: Planned, dtype: torch.dtype) -> torch.Tensor:
    made = tensor.make()
    if dtype == torch.float16 != made.dtype:
        least, most = made.aminmax()
        largest = torch.maximum(-least, most)
        if largest.isfinite() and largest.half().isinf():
            raise ModelError(f"{tensor.name} has values up to {largest:.3g}, which float16 cannot hold; use --dtype "
                             "bfloat16 or float32")
    return made.to(dtype).contiguous()
