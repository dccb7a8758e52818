"""LEVIR-CC: pairs with five captions each, `LevirCCcaptions.json` and `images/<split>/{A,B}`.

The image folder holds more pairs than the file annotates, and the pairs that did not change all have the same five
sentences.
"""

from pathlib import Path
from typing import ClassVar, Literal

from geotempo.data_builders import levir
from geotempo.data_builders.captions import CaptionedPairs, CaptionRecord
from geotempo.data_builders.source import find_image


class LevirCC(CaptionedPairs):
    """Change captions and yes/no questions (Liu et al. 2022, TGRS)."""

    name = "levir-cc"
    version = 1
    licence = levir.LICENCE
    citation = "Liu et al. 2022, Remote Sensing Image Change Captioning With Dual-Branch Transformers, IEEE TGRS"
    evidence: ClassVar[Literal["real", "documentation"]] = "real"
    folders: tuple[str, ...] = ("A", "B")

    def check_layout(self, root: Path) -> None:
        """See `Source`."""
        levir.check_caption_layout(root, self.name, self.folders)

    def read_records(self, root: Path) -> dict[str, CaptionRecord]:
        """See `CaptionedPairs`."""
        return levir.read_captions(root)

    def image_files(self, root: Path, record: CaptionRecord) -> tuple[Path, Path]:
        """See `CaptionedPairs`."""
        folder = root / "images" / record.folder
        return find_image(folder / "A", record.filename), find_image(folder / "B", record.filename)
