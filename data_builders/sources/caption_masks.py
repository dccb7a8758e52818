"""Captioned pairs with a mask of one kind of change, in the layout of LEVIR-MCI: LEVIR-CDC, WHU-CDC, Forest-Change.

```
<name>captions.json                                 LevirCCcaptions.json, whuCCcaptions.json, ForestChatcaptions.json
images/{train,val,test}/{A,B,label}/<filename>      before, after, mask 0/255 or 0/1
```
LEVIR-CDC has LEVIR-CC's pairs and sentences with masks of buildings only, so a label with LEVIR-MCI's value for roads is
refused. WHU-CDC's file has LEVIR-CC's keys and its five sentences for what did not change; its numbers run on from split
to split, with gaps, and its captions tell of roads and trees too, which the masks do not have. Forest-Change states
neither `changeflag` nor `imgid`: there the sentences say whether the forest changed, and the joint samples and the meta
compare that with the mask. Nobody is asked whether anything changed at all where no flag says it.

LEVIR-CDC and WHU-CDC: published with "RS-CDC" on the Hugging Face hub. Forest-Change: Brock et al., "Forest-Chat".
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from geotempo.data_builders import captions, levir
from geotempo.data_builders.captions import CaptionRecord, pair_captions, usable
from geotempo.data_builders.change_masks import find_label
from geotempo.data_builders.instances import instances
from geotempo.data_builders.label_tasks import by_size, change_tasks, joint_task, plural
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Rejection, load_labels, same_size
from geotempo.data_builders.sources.levir_cc import LevirCC
from geotempo.model.geometry import BoolArray


class CaptionMasks(LevirCC):
    """Captions, yes/no, grounding, masks and numbers, and caption and mask jointly."""

    evidence = "documentation"
    tasks = ("change_caption", "change_vqa", "change_grounding",
             "referring_segmentation", "change_segmentation", "counting")
    folders = ("A", "B", "label")
    thing: ClassVar[str] = "building"
    done: ClassVar[str] = ""
    label: ClassVar[str] = "building"
    count: ClassVar[bool] = True
    hint: ClassVar[str] = ""

    def read_records(self, root: Path) -> dict[str, CaptionRecord]:
        """See `CaptionedPairs`; only a flag in the file counts as one."""
        return captions.read_captions(levir.caption_file(root))

    def facts(self, root: Path, record: CaptionRecord) -> dict[str, Any]:
        """See `CaptionedPairs`."""
        return {"scene": Path(record.filename).stem}

    def samples(self, root: Path, key: str) -> Iterator[Sample]:
        """All samples of one pair; the joint caption + mask sample only where caption and mask agree."""
        record = usable(self.records(root)[key])
        draft = self.draft(root, record)
        path = find_label(root / "images" / record.folder / "label", Path(record.filename).stem)
        mask = self.mask(path)
        same_size(draft.images[0], mask.shape, f"label/{path.name}")
        told = record.changed
        if told is None:
            told = any(caption.lower() not in levir.NO_CHANGE for caption in record.captions)
        doubt = levir.agreement(told, mask)
        draft = replace(draft, meta={**draft.meta, **doubt})
        yield from pair_captions(draft, record.captions, record.changed)
        regions = by_size(instances(mask, 2, self.label))
        yield from change_tasks(draft, regions, self.thing, done=self.done, count=self.count)
        if not doubt:
            yield joint_task(draft, record.captions[0], record.captions, plural(self.thing), regions)

    def mask(self, path: Path) -> BoolArray:
        """Where a label says that something changed, (H, W).

        Raises:
            Rejection: It holds other values than 0 and 255, or 0 and 1.
        """
        values = load_labels(path)
        held = set(np.unique(values).tolist())
        if not (held <= {0, 255} or held <= {0, 1}):
            odd = sorted(held - {0, 1, 255})[:5] or [1, 255]
            raise Rejection("unknown mask value", f"label/{path.name} holds {odd}; {self.name} expects 0 and 255, or 0 "
                                                  f"and 1{self.hint}")
        return np.asarray(values > 0)


class LevirCdc(CaptionMasks):
    """LEVIR-CC's pairs and captions with masks of changed buildings."""

    name = "levir-cdc"
    hint = "; 128 is the road of LEVIR-MCI: build levir-mci"


class WhuCdc(CaptionMasks):
    """7,434 pairs of Christchurch with captions and masks of changed buildings, 256 pixels at 0.075 m."""

    name = "whu-cdc"
    licence = "academic; WHU building change detection dataset"
    citation = "WHU-CDC (RS-CDC); imagery: Ji et al. 2019, IEEE TGRS 57(1)"


class ForestChange(CaptionMasks):
    """Deforestation between two dates, with captions and masks."""

    name = "forest-change"
    licence = "unknown; Forest-Change"
    citation = "Brock et al., Forest-Chat"
    thing, done, label, count = "forest area", "cleared", "cleared forest", False
