"""What the LEVIR family shares: the caption file, and the instances of a change mask.

LEVIR-CC: Liu et al. 2022, "Remote Sensing Image Change Captioning With Dual-Branch Transformers", TGRS.
LEVIR-CD: Chen and Shi 2020, "A Spatial-Temporal Attention-Based Method and a New Dataset", Remote Sensing.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geotempo.data_builders.instances import instances
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Draft, Rejection, need_folder
from geotempo.data_builders.wordings import ask
from geotempo.model.errors import LayoutError
from geotempo.model.geometry import BoolArray
from geotempo.model.records import Region

LICENCE = "academic; LEVIR, imagery Google Earth"
SPLITS = ("train", "val", "test")
NO_CHANGE = frozenset({
    "there is no difference", "the two scenes seem identical", "the scene is the same as before",
    "no change has occurred", "almost nothing has changed",
})


@dataclass(frozen=True)
class CaptionRecord:
    """One entry of the caption file.

    Attributes:
        split: train, val or test.
        filename: Image name as given.
        captions: Without surrounding blanks and without the final period.
        changed: `changeflag`; where the file has none, whether any caption differs from the five stock sentences.
    """

    split: str
    filename: str
    captions: tuple[str, ...]
    changed: bool

    @property
    def key(self) -> str:
        """`split/stem`."""
        return f"{self.split}/{Path(self.filename).stem}"


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
    path = caption_file(root)
    try:
        records = [_record(entry) for entry in json.loads(path.read_text(encoding="utf-8"))["images"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LayoutError(f"{path} is no caption file ({error!r}); expected "
                          '{"images": [{"filename", "split", "sentences": [{"raw"}]}]}') from None
    return {record.key: record for record in sorted(records, key=lambda record: record.key)}


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
    splits = sorted({record.split for record in read_captions(root).values()})
    present = [split for split in splits if (root / "images" / split).is_dir()]
    check_pair_folders(root, source, present or splits[:1], folders)


def record_of(records: dict[str, CaptionRecord], key: str) -> CaptionRecord:
    """The record of a key, checked.

    Raises:
        Rejection: It has no caption, or an unknown split.
    """
    record = records[key]
    if not record.captions:
        raise Rejection("missing caption", f"{record.filename} has no sentence")
    if record.split not in SPLITS:
        raise Rejection("unknown split", f"{record.filename}: {record.split!r}; allowed: {', '.join(SPLITS)}")
    return record


def caption_samples(draft: Draft, record: CaptionRecord) -> Iterator[Sample]:
    """The caption sample (answer: the first caption; all of them as references) and yes/no from `changeflag`."""
    tag = "change_caption"
    yield draft.sample(tag, tag, ask(tag, draft.id(tag)), record.captions[0], references=list(record.captions))
    tag = "change_vqa"
    yield draft.sample(tag, tag, ask("change_vqa.any", draft.id(tag)), "yes" if record.changed else "no")


def mask_regions(mask: BoolArray, label: str) -> list[Region]:
    """Instances of a change mask on the later image; LEVIR changes are new objects almost without exception."""
    return instances(mask, 2, label)


def agreement(changed: bool, mask: BoolArray) -> dict[str, Any]:
    """Meta entry where the change flag and the mask contradict each other; empty where they agree."""
    pixels = int(np.count_nonzero(mask))
    if changed == (pixels > 0):
        return {}
    return {"flag_mask_disagreement": {"changeflag": int(changed), "mask_pixels": pixels}}


def clean_caption(raw: str) -> str:
    """A caption without surrounding blanks and without the final period."""
    return raw.strip().removesuffix(".").strip()


def _record(entry: dict[str, Any]) -> CaptionRecord:
    cleaned = [clean_caption(str(sentence["raw"])) for sentence in entry["sentences"]]
    captions = tuple(caption for caption in cleaned if caption)
    flag = entry.get("changeflag")
    changed = bool(flag) if flag is not None else any(text.lower() not in NO_CHANGE for text in captions)
    return CaptionRecord(str(entry.get("split") or entry["filepath"]), str(entry["filename"]), captions, changed)
