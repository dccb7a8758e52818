"""Arrow shards as Hugging Face `datasets` saves them (`save_to_disk`), read as a stream of rows.

```
<part>/state.json                     {"_data_files": [{"filename": "data-00000-of-00002.arrow"}, ...], "_fingerprint", ...}
<part>/data-00000-of-0000N.arrow      a stream of record batches
```
"""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from geotempo.data_builders.records import BROKEN_FILE, Broken
from geotempo.model.errors import LayoutError

STATE = "state.json"


def shards(folder: Path) -> list[Path]:
    """Arrow files of a part, in the order of its state file.

    Raises:
        LayoutError: The state file is none, or names a file that is not there.
    """
    try:
        names = [entry["filename"] for entry in json.loads((folder / STATE).read_text(encoding="utf-8"))["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LayoutError(f"{folder}/{STATE} is no state of `datasets` ({error!r}); expected a list _data_files") from None
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise LayoutError(f"{folder} has no {missing[0]}, which its {STATE} names; copy it again")
    return [folder / name for name in names]


def columns(path: Path) -> list[str]:
    """Names of a shard's columns.

    Raises:
        LayoutError: It is no Arrow stream.
    """
    try:
        with pa.memory_map(str(path)) as handle, pa.ipc.open_stream(handle) as stream:
            return list(stream.schema.names)
    except (pa.ArrowException, OSError) as error:
        raise LayoutError(f"{path} is no Arrow stream ({_plain(error)}); copy it again") from None


def rows(path: Path, wanted: Collection[str]) -> Iterator[dict[str, Any] | Broken]:
    """Rows of a shard, one record batch in memory at a time; last a `Broken` where it breaks off.

    Args:
        path: The shard.
        wanted: Columns to read; those that it has not are left out.
    """
    try:
        with pa.memory_map(str(path)) as handle, pa.ipc.open_stream(handle) as stream:
            names = [name for name in stream.schema.names if name in wanted]
            for batch in stream:
                for row in range(batch.num_rows):
                    yield {name: batch.column(name)[row].as_py() for name in names}
    except (pa.ArrowException, OSError) as error:
        yield Broken(BROKEN_FILE, f"{path.parent.name}/{path.name} is no whole Arrow stream ({_plain(error)}); copy it again")


def _plain(error: Exception) -> str:
    return " ".join(str(error).split())
