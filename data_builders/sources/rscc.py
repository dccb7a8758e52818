"""RSCC: captions of disasters, as long as a paragraph, of pairs of xBD and EBD in tiles of 512 pixels.

```
<name>.jsonl                                     {"pre_image", "post_image", "change_caption"}, a record per line
xbd/images-w512-h512/<event>/images/<event>_NNNNNNNN_{pre,post}_disaster_part{1..4}.png
EBD/<event>/... , xbd_subset/<event>/images/...
```
Paths are those of the authors' machine; of each, the longest end that exists below the root is taken. The captions were
written by large models (Qwen2.5-VL, QvQ), which the meta says. Files whose name holds `subset` are the benchmark: they
are test, and pairs that stand in them are kept out of train. Lines with `model_id` are answers of models under test, no
captions of the data set.

Chen et al. 2025, "RSCC: A Large-Scale Remote Sensing Change Caption Dataset for Disaster Events".
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from geotempo.data_builders.captions import pair_captions
from geotempo.data_builders.records import stream_records
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Draft, RecordSource, Rejection, load_pair, need_folder
from geotempo.model.errors import LayoutError

KEYS = ("pre_image", "post_image", "change_caption")
EXPECTED = f"*.jsonl with {', '.join(KEYS)}, beside the folders of images"
_NAME = re.compile(r"(?P<scene>(?P<event>.+?)_\d+)_(?:pre|post)_disaster(?:_part\d+)?$")


class Rscc(RecordSource):
    """Change captions."""

    name = "rscc"
    version = 1
    licence = "CC-BY-NC-SA-4.0; RSCC captions CC-BY-4.0, imagery xBD CC BY-NC-SA 4.0 and EBD"
    citation = "Chen et al. 2025, RSCC; imagery: Gupta et al. 2019, xBD, and EBD"
    evidence = "documentation"
    tasks = ("change_caption",)

    def __init__(self) -> None:
        self._held_out: dict[Path, frozenset[str]] = {}

    def check_layout(self, root: Path) -> None:
        """See `Source`."""
        need_folder(root, self.name, EXPECTED)
        if not self.files(root):
            raise LayoutError(f"{root} has no *.jsonl; {self.name} expects {EXPECTED}")
        for path in self.files(root):
            first = next(stream_records(path), None)
            missing = [key for key in KEYS if not isinstance(first, dict) or key not in first]
            if missing:
                raise LayoutError(f"the first line of {path} has no {missing[0]!r}; {self.name} expects {EXPECTED}")

    def files(self, root: Path) -> list[Path]:
        """See `RecordSource`."""
        return sorted(root.glob("*.jsonl"))

    def record_samples(self, root: Path, key: str, record: Any) -> Iterator[Sample]:
        """The caption of one pair."""
        name = _pair(record, key)
        if "model_id" in record:
            raise Rejection("prediction", f"{key} is an answer of {record['model_id']}, no caption of the data set")
        split = "test" if _is_subset(key.rpartition(":")[0]) else "train"
        if split == "train" and name in self._benchmark(root):
            raise Rejection("held out", f"{key}: {name} stands in the benchmark")
        caption = str(record["change_caption"]).strip()
        if not caption:
            raise Rejection("missing caption", f"{key} has an empty change_caption")
        images = load_pair(_place(root, record["pre_image"], key), _place(root, record["post_image"], key))
        match = _NAME.match(name)
        facts = {"event": match["event"], "scene": match["scene"]} if match else {"scene": name}
        file, _, number = key.rpartition(":")
        facts["captions_by"] = "model"
        draft = Draft(self.name, split, f"{Path(file).stem}-{number}", images, self.licence, facts)
        yield from pair_captions(draft, [caption], wording="change_caption.detailed")

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Pairs per split and event."""
        found: Counter[str] = Counter()
        for sample in samples:
            found[f"pairs/{sample.split}"] += 1
            found[f"{sample.meta.get('event', 'unknown event')}/{sample.split}"] += 1
        return found

    def _benchmark(self, root: Path) -> frozenset[str]:
        """Names of the pairs in the benchmark's files, read once."""
        if root not in self._held_out:
            paths = [path for path in self.files(root) if _is_subset(path.name)]
            self._held_out[root] = frozenset(PurePosixPath(str(record["pre_image"])).stem for path in paths
                                             for record in stream_records(path)
                                             if isinstance(record, dict) and "pre_image" in record)
        return self._held_out[root]


def _is_subset(file: str) -> bool:
    return "subset" in file.lower()


def _pair(record: Any, key: str) -> str:
    """Stem of the earlier image, which names the pair.

    Raises:
        Rejection: The record is no record.
    """
    missing = [name for name in KEYS if not isinstance(record, dict) or not isinstance(record.get(name), str)]
    if missing:
        raise Rejection("broken annotation", f"{key} has no text {missing[0]!r}")
    return PurePosixPath(record["pre_image"]).stem


def _place(root: Path, path: str, key: str) -> Path:
    """The file of a path on another machine.

    Raises:
        Rejection: No end of the path exists below the root.
    """
    parts = [part for part in PurePosixPath(path.replace("\\", "/")).parts if part not in ("/", ".", "..")]
    for start in range(len(parts)):
        if (found := root.joinpath(*parts[start:])).is_file():
            return found
    raise Rejection("missing image", f"{key}: {path}")
