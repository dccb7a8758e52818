"""Procedural scenes as a source: unlimited, rights-free sequences with exact ground truth."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from geotempo.data_builders.sample import TASKS, Sample
from geotempo.data_builders.source import FolderSource
from geotempo.model.errors import InputError


class Scenes(FolderSource):
    """Generated scenes, numbered from 0; the last ones by number are the validation split.

    Args:
        count: Number of scenes.
        seed: Seed of the generator.
        size: Side of the images in pixels.
        dates: Images per scene; None lets the generator choose.
        val_share: Share of the scenes that become val, 0 to 1.
        easy: Few large buildings under mild nuisance (`EASY`) instead of the full range.
    """

    name = "scenes"
    version = 1
    licence = "Apache-2.0; generated"
    citation = "GeoTempo procedural scenes"
    evidence = "real"
    tasks = TASKS

    def __init__(self, count: int = 1000, seed: int = 0, size: int = 256, dates: int | None = None,
                 val_share: float = 0.1, easy: bool = False) -> None:
        if count < 1 or size < 32 or not 0 <= val_share <= 1:
            raise InputError(f"scenes need count >= 1, size >= 32 and a val share of 0 to 1, "
                             f"got {count}, {size}, {val_share}")
        self.count, self.seed, self.size, self.dates = count, seed, size, dates
        self.easy = easy
        self.first_val = count - round(count * val_share)

    def check_layout(self, root: Path) -> None:
        """There is no folder to check."""

    def keys(self, root: Path) -> list[str]:
        """`split/number`."""
        return sorted(f"{'train' if index < self.first_val else 'val'}/{index:07d}" for index in range(self.count))

    def samples(self, root: Path, key: str) -> Iterator[Sample]:
        """All samples of one scene."""
        from geotempo.data_builders.scenes.samples import scene_samples
        from geotempo.data_builders.scenes.scene import EASY, SceneOptions

        split, _, number = key.partition("/")
        options = EASY if self.easy else SceneOptions()
        yield from scene_samples(self.seed, int(number), size=self.size, dates=self.dates, split=split, options=options)

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Scenes per split and number of dates."""
        found: Counter[str] = Counter()
        if samples:
            found[f"scenes/{samples[0].split}"] += 1
            found[f"scenes of {max(len(sample.images) for sample in samples)} dates"] += 1
        return found
