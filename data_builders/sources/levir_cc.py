"""LEVIR-CC: pairs with five captions each, `LevirCCcaptions.json` and `images/<split>/{A,B}`."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from geotempo.data_builders import levir
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Draft, FolderSource, find_image, load_pair


class LevirCC(FolderSource):
    """Change captions and yes/no questions (Liu et al. 2022, TGRS)."""

    name = "levir-cc"
    version = 1
    licence = levir.LICENCE
    citation = "Liu et al. 2022, Remote Sensing Image Change Captioning With Dual-Branch Transformers, IEEE TGRS"
    evidence = "real"
    tasks: tuple[str, ...] = ("change_caption", "change_vqa")
    folders: tuple[str, ...] = ("A", "B")

    def __init__(self) -> None:
        self._records: dict[Path, dict[str, levir.CaptionRecord]] = {}

    def check_layout(self, root: Path) -> None:
        """See `Source`."""
        levir.check_caption_layout(root, self.name, self.folders)

    def keys(self, root: Path) -> list[str]:
        """`split/stem` of every annotated pair."""
        return list(self.records(root))

    def records(self, root: Path) -> dict[str, levir.CaptionRecord]:
        """The caption file, read once."""
        if root not in self._records:
            self._records[root] = levir.read_captions(root)
        return self._records[root]

    def draft(self, root: Path, record: levir.CaptionRecord) -> Draft:
        """Load the two images of a record."""
        folder = root / "images" / record.split
        before, after = (find_image(folder / name, record.filename) for name in "AB")
        stem = Path(record.filename).stem
        return Draft(self.name, record.split, stem, load_pair(before, after), self.licence)

    def samples(self, root: Path, key: str) -> Iterator[Sample]:
        """Caption and yes/no of one pair."""
        record = levir.record_of(self.records(root), key)
        yield from levir.caption_samples(self.draft(root, record), record)

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Pairs per split and change flag, and captions."""
        found: Counter[str] = Counter()
        for sample in samples:
            if sample.task == "change_caption":
                found[f"pairs/{sample.split}"] += 1
                found[f"captions/{sample.split}"] += len(sample.meta["references"])
            if sample.task == "change_vqa":
                found[f"changed pairs/{sample.split}"] += sample.target == "yes"
        return found
