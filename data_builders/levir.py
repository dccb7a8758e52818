"""What the LEVIR family shares: the caption file, and the instances of a change mask.

LEVIR-CC: Liu et al. 2022, "Remote Sensing Image Change Captioning With Dual-Branch Transformers", TGRS.
LEVIR-CD: Chen and Shi 2020, "A Spatial-Temporal Attention-Based Method and a New Dataset", Remote Sensing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geotempo.data_builders import captions
from geotempo.data_builders.captions import CaptionRecord
from geotempo.data_builders.instances import instances
from geotempo.data_builders.source import need_folder
from geotempo.model.errors import LayoutError
from geotempo.model.geometry import BoolArray
from geotempo.model.records import Region

LICENCE = "academic; LEVIR, imagery Google Earth"
UNCHANGED = ("no change has occurred", "there is no difference", "the two scenes seem identical",
             "the scene is the same as before", "almost nothing has changed")
"""The five captions of every pair without change."""

NO_CHANGE = frozenset(UNCHANGED)


def caption_file(root: Path) -> Path:
    """The caption JSON of a LEVIR-CC-like folder: `LevirCCcaptions.json`, else the only JSON with "captions" in its name.

    Raises:
        LayoutError: There is none, or several.
    """
    named = root / "LevirCCcaptions.json"
    found = [named] if named.is_file() else sorted(root.glob("*[cC]aptions*.json"))
    if len(found) != 1:
        raise LayoutError(f"{root} has {len(found)} caption files; expected LevirCCcaptions.json beside images/")
    return found[0]


def read_captions(root: Path) -> dict[str, CaptionRecord]:
    """All records of the caption file by key. The file, not the image folder, says which pairs exist.

    Raises:
        LayoutError: The file has not the Karpathy-style structure.
    """
    return captions.read_captions(caption_file(root), stock=NO_CHANGE)


def check_pair_folders(root: Path, source: str, splits: Sequence[str], folders: Sequence[str]) -> None:
    """Check `images/<split>/<folder>` for all splits.

    Raises:
        LayoutError: One is missing.
    """
    for split in splits:
        for folder in folders:
            if not (root / "images" / split / folder).is_dir():
                raise LayoutError(f"{root} has no folder images/{split}/{folder}; {source} expects "
                                  f"images/{{train,val,test}}/{{{','.join(folders)}}}")


def check_caption_layout(root: Path, source: str, folders: Sequence[str]) -> None:
    """Check the caption file and the image folders of at least one of the splits it names.

    Raises:
        LayoutError: What is missing.
    """
    need_folder(root, source, f"LevirCCcaptions.json and images/{{train,val,test}}/{{{','.join(folders)}}}")
    splits = sorted({record.folder for record in read_captions(root).values() if not record.fault})
    present = [split for split in splits if (root / "images" / split).is_dir()]
    check_pair_folders(root, source, present or splits[:1], folders)


def mask_regions(mask: BoolArray, label: str) -> list[Region]:
    """Instances of a change mask on the later image; LEVIR changes are new objects almost without exception."""
    return instances(mask, 2, label)


def agreement(changed: bool, mask: BoolArray) -> dict[str, Any]:
    """Meta entry where the change flag and the mask contradict each other; empty where they agree."""
    pixels = int(np.count_nonzero(mask))
    if changed == (pixels > 0):
        return {}
    return {"flag_mask_disagreement": {"changeflag": int(changed), "mask_pixels": pixels}}
