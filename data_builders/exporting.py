"""A folder for another trainer under construction: parts that a killed run need not write again, then one rename.

```
<out>.building/.lock
<out>.building/.journal/plan.json         what is written; parts of another plan are thrown away
<out>.building/.journal/train-00000.json  written last: that part is whole
```
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from geotempo.data_builders import under_way
from geotempo.data_builders.schema import dumps
from geotempo.model.errors import InputError
from geotempo.model.files import write_atomic, write_text

MANIFEST = "geotempo.json"
FORMAT = "geotempo-export"
REJECTED = "rejected.jsonl"


class Part(NamedTuple):
    """Some samples of one split, written.

    Attributes:
        name: `<split>-NNNNN`.
        split: train, val or test.
        samples: Samples that were kept.
        rows: Rows that they became.
        pictured: Whether any of them has an image.
        rejected: Samples set aside, by reason.
    """

    name: str
    split: str
    samples: int
    rows: int
    pictured: bool
    rejected: dict[str, int]


class Exporting:
    """The folder, its parts and its end.

    Args:
        out: Final folder; the work happens in `<out>.building` beside it.
        plan: Everything that the bytes depend on.

    Raises:
        InputError: `out` holds something else, or another process writes it.
    """

    def __init__(self, out: Path, plan: dict[str, Any]) -> None:
        self.out, self.plan = out, plan
        self.folder = under_way.beside(out)
        _refuse_foreign(out, plan["trainer"])
        under_way.take_back(out)
        self._lock = under_way.hold(out)
        self.parts: dict[str, Part] = {}
        self._resume()

    def commit(self, part: Part, rejected: list[dict[str, str]]) -> None:
        """Note a part as whole, its files and images being on disk."""
        write_text(self._journal(part.name), dumps({"part": part._asdict(), "rejected": rejected}))
        self.parts[part.name] = part

    def reasons(self) -> dict[str, int]:
        """Samples set aside, by reason."""
        total: Counter[str] = Counter()
        for part in self.parts.values():
            total.update(part.rejected)
        return dict(sorted(total.items()))

    def rejected(self) -> Iterator[dict[str, str]]:
        """Entries of `rejected.jsonl`, part by part."""
        for name in self.parts:
            yield from json.loads(self._journal(name).read_text(encoding="utf-8"))["rejected"]

    def finish(self, manifest: dict[str, Any]) -> None:
        """Write the manifest and the list of what was set aside, and give the folder its final name."""
        write_atomic(self.folder / REJECTED, self._write_rejected)
        write_text(self.folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
        under_way.put_in_place(self.out)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lock.close()

    def _write_rejected(self, path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="\n") as handle:
            handle.writelines(dumps(entry) + "\n" for entry in self.rejected())

    def _journal(self, name: str) -> Path:
        return self.folder / ".journal" / f"{name}.json"

    def _resume(self) -> None:
        """Take over the parts of a killed run with the same plan; start afresh otherwise."""
        under_way.begin(self.folder, self.plan)
        for path in sorted(self.folder.glob(".journal/*-[0-9]*.json")):
            part = Part(**json.loads(path.read_text(encoding="utf-8"))["part"])
            self.parts[part.name] = part


def _refuse_foreign(out: Path, trainer: str) -> None:
    """Only a missing or empty folder, or an earlier export for the same trainer, may be replaced.

    Raises:
        InputError: `out` is anything else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        found = manifest["trainer"] if manifest["format"] == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if found != trainer:
        held = f"data for {found}" if found else "something that no export wrote"
        raise InputError(f"{out} holds {held}; choose another --out or remove it first")
