"""TRL: Parquet with embedded images, one row for each answer.

Rows are `prompt` and `completion`, for which `SFTTrainer` supervises the completion alone unless told otherwise. Rows of
`messages` would need `assistant_only_loss=True` and a marked template; without them TRL trains on questions and image
tokens, and says nothing. A conversation of several answers becomes that many rows: each holds what was said before.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from geotempo.data_builders.exporting import Part
from geotempo.data_builders.format_samples import Conversation, Conversations
from geotempo.data_builders.schema import Row

GROUP_BYTES = 16 * 2**20
"""Image bytes of a row group, which is what a reader decodes at once."""

_PART = pa.struct([("type", pa.string()), ("text", pa.string())])
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.list_(_PART))]))
_TEXT: dict[str, Any] = {"dtype": "string", "_type": "Value"}
_TURNS = [{"role": _TEXT, "content": [{"type": _TEXT, "text": _TEXT}]}]
# What `datasets` reads to give pictures instead of bytes; lists in brackets are understood by its releases before 4 too.
_FEATURES = {"id": _TEXT, "task": _TEXT, "images": [{"_type": "Image"}], "prompt": _TURNS, "completion": _TURNS}
SCHEMA = pa.schema(
    [("id", pa.string()), ("task", pa.string()), ("images", pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))),
     ("prompt", _MESSAGES), ("completion", _MESSAGES)],
    metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})})


class Trl:
    """Parquet files `data/<split>-NNNNN.parquet` for `datasets.load_dataset(FOLDER)`."""

    reserved: tuple[str, ...] = ()

    def rows(self, conversation: Conversation, source: Conversations, folder: Path) -> list[Row]:
        """One row for each answer; the row's id ends in the answer's number where there are several.

        Raises:
            SetAsideError: An image cannot be read.
        """
        images = [{"bytes": data, "path": image.id + suffix} for image in conversation.images for data, suffix in [source.file(image)]]
        turns = [{"role": message["role"], "content": [{"type": part["type"], "text": part.get("text")} for part in message["content"]]}
                 for message in conversation.messages]
        answers = range(1, len(turns), 2)
        names = [f"{conversation.id}@{number}" for number, _ in enumerate(answers, 1)] if len(answers) > 1 else [conversation.id]
        return [{"id": name, "task": conversation.task, "images": images, "prompt": turns[:end], "completion": [turns[end]]}
                for name, end in zip(names, answers, strict=True)]

    def part(self, folder: Path, name: str) -> Path:
        """File of a part."""
        return folder / "data" / f"{name}.parquet"

    def write(self, path: Path, rows: Iterable[Row]) -> None:
        """Write the rows of a part, a row group at a time."""
        with pq.ParquetWriter(path, SCHEMA, compression="zstd", use_dictionary=["task"], write_statistics=False) as writer:
            for group in _groups(rows):
                writer.write_table(pa.Table.from_pylist(group, schema=SCHEMA))

    def finish(self, folder: Path, parts: Iterable[Part]) -> None:
        """Take away parts of which no sample could be used."""
        for part in parts:
            if not part.rows:
                self.part(folder, part.name).unlink(missing_ok=True)


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows with about `GROUP_BYTES` of images together."""
    group: list[Row] = []
    size = 0
    for row in rows:
        group.append(row)
        size += sum(len(image["bytes"]) for image in row["images"])
        if size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
