"""LLaMA-Factory and ms-swift: JSON lines with `<image>` in the texts, and image files beside them, each once.

Both train on the assistant's turns alone, all of them. Paths are relative to the folder.
"""

import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from geotempo.data_builders.digests import DigestSet
from geotempo.data_builders.exporting import Part
from geotempo.data_builders.format_samples import Conversation, Conversations
from geotempo.data_builders.pictures import SUFFIXES
from geotempo.data_builders.sample import IMAGE
from geotempo.data_builders.schema import Row, dumps
from geotempo.model.files import sync, write_atomic
from geotempo.model.records import ImageRecord

SYNCING = 8
"""Files synced to disk at a time."""
JOURNAL = ".journal"
"""Parts lie where `Exporting` clears up once the folder has its name: until then a killed run may need them again."""


class Tagged:
    """Files `<split>.jsonl` of `messages` and `images`, and `images/xx/<sha256>.png`.

    Args:
        reserved: Words that the trainer takes for placeholders, beside `<image>`.
    """

    def __init__(self, reserved: tuple[str, ...]) -> None:
        self.reserved = reserved
        self._written = DigestSet()
        self._unsynced: list[Path] = []

    def rows(self, conversation: Conversation, source: Conversations, folder: Path) -> list[Row]:
        """The row of a sample; images that are not there yet are written.

        Raises:
            SetAsideError: An image cannot be read.
        """
        images = [self._image(image, source, folder) for image in conversation.images]
        messages = [{"role": message["role"], "content": "".join(part.get("text", IMAGE) for part in message["content"])}
                    for message in conversation.messages]
        return [{"id": conversation.id, "task": conversation.task, "messages": messages, "images": images}]

    def part(self, folder: Path, name: str) -> Path:
        """File of a part, until the end."""
        return folder / JOURNAL / f"{name}.jsonl"

    def write(self, path: Path, rows: Iterable[Row]) -> None:
        """Write the rows of a part, those with images first, see `finish`; their images are then on disk."""
        with path.open("w", encoding="utf-8", newline="\n") as handle:
            without = []
            for row in rows:
                line = dumps(row) + "\n"
                if row["images"]:
                    handle.write(line)
                else:
                    without.append(line)
            handle.writelines(without)
        with ThreadPoolExecutor(SYNCING) as pool:  # waits for the disk only
            list(pool.map(sync, self._unsynced))
        self._unsynced.clear()

    def finish(self, folder: Path, parts: Iterable[Part]) -> None:
        """Join the parts of each split.

        `datasets` takes the type of a column from the first lines of a file, and of `"images": []` alone it learns none. So
        samples with images come first.
        """
        files: dict[str, list[Path]] = {}
        for part in sorted(parts, key=lambda part: not part.pictured):
            files.setdefault(part.split, []).append(self.part(folder, part.name))
        for split, paths in files.items():
            write_atomic(folder / f"{split}.jsonl", lambda whole, paths=paths: _join(paths, whole))  # type: ignore[misc]

    def _image(self, image: ImageRecord, source: Conversations, folder: Path) -> str:
        """Relative path of an image's file, written if this run has not seen it yet."""
        stem = f"images/{image.id[:2]}/{image.id}"
        # The recorded size is part of what was checked: a picture seen under another one has to be refused.
        key = f"{image.id} {image.width} {image.height}"
        if key in self._written:
            return next(stem + suffix for suffix in SUFFIXES.values() if (folder / (stem + suffix)).exists())
        data, suffix = source.file(image)
        path = folder / (stem + suffix)
        # What a killed run left may be cut off after a power failure.
        if not path.exists() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.part")
            temporary.write_bytes(data)
            os.replace(temporary, path)
            self._unsynced.append(path)
        self._written.add(key)
        return stem + suffix


def _join(paths: Iterable[Path], whole: Path) -> None:
    with whole.open("wb") as out:
        for path in paths:
            with path.open("rb") as part:
                shutil.copyfileobj(part, out)
