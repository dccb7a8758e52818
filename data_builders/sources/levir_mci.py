"""LEVIR-MCI: LEVIR-CC plus `images/<split>/label`, channel 0 of it 0 background, 128 road, 255 building.

Liu et al. 2024, "Change-Agent: Towards Interactive Comprehensive Remote Sensing Change Interpretation and Analysis".
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from geotempo.data_builders import levir
from geotempo.data_builders.captions import pair_captions, usable
from geotempo.data_builders.label_tasks import by_size, change_tasks, joint_task, plural
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Rejection, find_image, load_labels, same_size
from geotempo.data_builders.sources.levir_cc import LevirCC

CLASSES = {"building": 255, "road": 128}


class LevirMci(LevirCC):
    """LEVIR-CC's samples, and grounding, counting and masks of changed buildings and roads."""

    name = "levir-mci"
    citation = "Liu et al. 2024, Change-Agent, IEEE TGRS"
    tasks = ("change_caption", "change_vqa", "change_grounding",
             "referring_segmentation", "change_segmentation", "counting")
    labels = tuple(CLASSES)
    folders = ("A", "B", "label")

    def samples(self, root: Path, key: str) -> Iterator[Sample]:
        """All samples of one pair; the joint caption + mask sample only where flag and mask agree."""
        record = usable(self.records(root)[key])
        draft = self.draft(root, record)
        path = _label_file(root / "images" / record.folder / "label", record.filename)
        labels = load_labels(path)
        same_size(draft.images[0], labels.shape, f"label/{path.name}")
        odd = sorted(set(np.unique(labels).tolist()) - {0, *CLASSES.values()})
        if odd:
            raise Rejection("unknown mask value", f"label/{path.name} holds {odd[:5]}; allowed: 0, 128 road, "
                                                  "255 building; JPEG copies of a label cannot be used")
        doubt = levir.agreement(bool(record.changed), labels > 0)
        draft = replace(draft, meta=doubt)
        yield from pair_captions(draft, record.captions, record.changed)
        regions = {name: levir.mask_regions(labels == value, name) for name, value in CLASSES.items()}
        # A mask without roads may only mean that this copy has no road labels: no road question without a road.
        present = [name for name in CLASSES if name == "building" or regions[name]]
        for name in present:
            yield from change_tasks(draft, regions[name], name, presence=False)
        if not doubt:
            things = " and ".join(plural(name) for name in present)
            joint = by_size([region for name in present for region in regions[name]])
            yield joint_task(draft, record.captions[0], record.captions, things, joint)

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """LEVIR-CC's counts, instances per class and split, and pairs whose flag and mask disagree."""
        found = super().tally(samples)
        for sample in samples:
            if sample.task == "change_grounding":
                things = sample.id.rpartition(":")[2]
                found[f"{things}/{sample.split}"] += len(sample.regions)
            if sample.task == "change_caption":
                found[f"flag and mask disagree/{sample.split}"] += "flag_mask_disagreement" in sample.meta
        return found


def _label_file(folder: Path, filename: str) -> Path:
    """The label of a pair; re-encoded copies keep labels as PNG beside JPEG images."""
    try:
        return find_image(folder, Path(filename).with_suffix(".png").name)
    except Rejection as error:
        raise Rejection("missing mask", error.detail) from None
