"""EarthDial: conversations about one to four images of many sensors, in the shards of Hugging Face `datasets`.

```
<part>/state.json  <part>/dataset_info.json  <part>/data-00000-of-0000N.arrow      anywhere below root; a record batch stream
train parts   jpg | png | jpg_A, jpg_B[, jpg_C, jpg_D] | jpg_pre, jpg_post, and conversations: LLaVA's turns as JSON text
test parts    the same images; question, and groundtruth or groundtruth0 ... groundtruth4; some have ttype and size_group
```
Images are columns of bytes. `conversations` may be called `conversations_internlm` or `conversations_about_localization`, and in the
parts of NAIP it holds an object that has the list inside. Texts are read by `geotempo.data_builders.earthdial_texts`. Traps: the
number of `<image>` tags is not that of the images; several references are the columns groundtruth0 to 4, of which the last may be
empty, or one list written as JSON; expressions of `[refer]` are bare phrases in the test parts. Rounded boxes may have no width: then
the record is set aside. Parts with columns of bands (`tif_ms`, `rgbi`, `tif_pl`) hold no pictures: name the others with `parts`.
The split is test or val where a folder's name says so. Equal parts of other sources are in here again (GeoChat, LEVIR-CC, xBD,
fMoW, NWPU-RESISC45, RSICD), so that a mixture with those holds them twice.

Soni et al. 2025, "EarthDial: Turning Multi-sensory Earth Observations to Interactive Dialogues", CVPR, arXiv 2412.15190. The code is
under MIT; nobody states terms for the collection, whose parts have their own. Of it, the questions and references in the
authors' result files and the lists of parts were seen, not the shards.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from geotempo.data_builders.arrow_shards import STATE, columns, rows, shards
from geotempo.data_builders.conversations import read_conversation
from geotempo.data_builders.earthdial_texts import (
    ANSWERS,
    EARTHDIAL,
    FACTS,
    TURNS,
    Asked,
    asks,
    boxes_on,
    earthdial_task,
    plain,
    read_question,
    row_facts,
    row_turns,
    split_of,
)
from geotempo.data_builders.geochat_tags import in_words
from geotempo.data_builders.instructions import conversation_sample
from geotempo.data_builders.sample import Message, Sample
from geotempo.data_builders.source import Draft, Item, RecordSource, Rejection, image_from_bytes, need_folder
from geotempo.data_builders.text_regions import as_list
from geotempo.model.errors import LayoutError
from geotempo.model.records import ImageRecord

IMAGES = (("jpg_A", "jpg_B", "jpg_C", "jpg_D"), ("jpg_pre", "jpg_post"), ("jpg",), ("png",))
"""Columns of images in time order; the first group of which a part has any counts."""
BANDS = ("tif_ms", "rgbi", "tif_pl", "mag1c")
EXPECTED = "folders with state.json and data-*.arrow as `datasets` saves them (save_to_disk)"
KNOWN = frozenset({*(name for group in IMAGES for name in group), *TURNS, "question", *ANSWERS, *FACTS})
"""Columns that are read."""


class Earthdial(RecordSource):
    """One sample per row.

    Args:
        parts: Paths of the parts to take, relative to the root, or the last of their folders; all where left out.
    """

    name = "earthdial"
    version = 1
    chunk = 8
    licence = "unknown; EarthDial, a collection whose parts have terms of their own"
    citation = "Soni et al. 2025, EarthDial, CVPR, arXiv 2412.15190"
    evidence = "documentation"
    tasks = ("caption", "change_caption", "vqa", "change_vqa", "region_vqa", "region_caption", "change_grounding", "classification",
             "temporal_classification")

    def __init__(self, parts: tuple[str, ...] = ()) -> None:
        self.parts = parts

    def folders(self, root: Path) -> list[Path]:
        """Folders of the parts, sorted."""
        found = sorted(path.parent for path in root.rglob(STATE))
        wanted = {part.strip("/") for part in self.parts}
        return [path for path in found if not wanted or {path.relative_to(root).as_posix(), path.name} & wanted]

    def files(self, root: Path) -> list[Path]:
        """See `RecordSource`."""
        return [path for folder in self.folders(root) for path in shards(folder)]

    def fingerprint(self, root: Path) -> str:
        """Digest of the state files, which hold a fingerprint of the data, and of the shards' sizes; they may be terabytes."""
        digest = hashlib.sha256()
        for folder in self.folders(root):
            digest.update(f"{folder.relative_to(root)}:".encode() + (folder / STATE).read_bytes())
            digest.update(",".join(str(path.stat().st_size) for path in shards(folder)).encode())
        return digest.hexdigest()

    def check_layout(self, root: Path) -> None:
        """See `Source`; the columns of each part are looked at."""
        need_folder(root, self.name, EXPECTED)
        parts = self.folders(root)
        if not parts:
            chosen = f" called {' or '.join(self.parts)}" if self.parts else ""
            raise LayoutError(f"{root} has no part{chosen}; {self.name} expects {EXPECTED}")
        for folder in parts:
            for path in shards(folder):
                _check_columns(folder.relative_to(root).as_posix(), path)

    def items(self, root: Path) -> Iterator[Item]:
        """See `Source`."""
        for folder in self.folders(root):
            part, number = folder.relative_to(root).as_posix(), 0
            for path in shards(folder):
                for row in rows(path, KNOWN):
                    yield Item(f"{part}:{number}", row)
                    number += 1

    def record_samples(self, root: Path, key: str, record: Any) -> Iterator[Sample]:
        """The conversation of one row."""
        part, _, number = key.rpartition(":")
        turns, references = row_turns(record)
        asked = [read_question(turn["value"]) for turn in turns if asks(turn)]
        if not asked:
            raise Rejection("no conversation", f"the turns are by {', '.join(turn['from'] for turn in turns)}; nobody asks")
        images = _images(record, key, asked[-1])
        draft = Draft(self.name, split_of(part), f"{part}:{number}", images, self.licence, {"part": part, **row_facts(record)})
        yield row_sample(draft, turns, asked, references)

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Rows per part, regions."""
        found: Counter[str] = Counter()
        for sample in samples:
            found[f"rows/{sample.meta['part']}"] += 1
            found["regions"] += len(sample.regions)
        return found


def image_columns(names: Sequence[str]) -> list[str]:
    """Columns of a part's images in time order, empty where it has none."""
    return next((found for group in IMAGES if (found := [name for name in group if name in names])), [])


def _check_columns(part: str, path: Path) -> None:
    """Raise `LayoutError` where a shard lacks a column that is needed."""
    names = columns(path)
    listed = ", ".join(names)
    bands = [name for name in BANDS if name in names]
    if not image_columns(names) and bands:
        raise LayoutError(f"{part} has bands ({', '.join(bands)}), no pictures; name the parts without them with parts=")
    if not image_columns(names):
        raise LayoutError(f"{part} has the columns {listed}; expected jpg, png, jpg_A and jpg_B, or jpg_pre and jpg_post")
    if not any(name in names for name in TURNS) and not ("question" in names and any(name in names for name in ANSWERS)):
        raise LayoutError(f"{part} has the columns {listed}; expected {' or '.join(TURNS)}, or question and groundtruth")


def _images(row: Mapping[str, Any], key: str, asked: Asked) -> tuple[ImageRecord, ...]:
    """Images of a row in time order.

    Raises:
        Rejection: A column is empty, or its bytes are no image.
    """
    found = []
    for name in image_columns(list(row)):
        value = row[name]
        data = value.get("bytes") if isinstance(value, Mapping) else value
        if not isinstance(data, bytes) or not data:
            raise Rejection("missing image", f"{key}: the column {name} holds no bytes")
        found.append(image_from_bytes(data, f"{key}, {name}", **asked.facts))
    return tuple(found)


def row_sample(draft: Draft, turns: Sequence[Mapping[str, str]], asked: Sequence[Asked], references: Sequence[str]) -> Sample:
    """A row as a sample.

    Args:
        draft: The row, with its images.
        turns: From `row_turns`.
        asked: The questions among them.
        references: Of the last answer.

    Raises:
        Rejection: The turns do not alternate, or a box is impossible.
    """
    questions = iter(asked)
    texts = [{"from": turn["from"], "value": next(questions).text if asks(turn) else plain(turn["value"])} for turn in turns]
    conversation = read_conversation(texts, len(draft.images))
    answer = conversation.messages[-1]
    if not EARTHDIAL.pattern.search(answer.text) and references:
        conversation = replace(conversation, messages=(*conversation.messages[:-1], Message(answer.role, references[0])))
    task = earthdial_task(asked[-1], answer.text, len(draft.images))
    facts: dict[str, Any] = {"tags": [one.task for one in asked] if any(one.task for one in asked) else None, "kind_of_image": asked[-1].kind or None,
             "references": list(references) if "caption" in task and "[[" not in references[0] else None}
    sample = conversation_sample(draft, task, conversation, (EARTHDIAL,), number=lambda question: boxes_on(question, len(draft.images)),
                                 begin=lambda place, question: in_words(question, asked[place].task, draft.id(f"{task}:{place}")),
                                 finish=as_list if task == "change_grounding" else str,
                                 **{name: fact for name, fact in facts.items() if fact})
    left = next((message.text for message in sample.messages if "[[" in message.text), "")
    if left:
        raise Rejection("impossible box", f"{left[left.index('[['):][:60]!r} is no list of boxes; a box has 4 numbers, or 5 with its angle")
    return sample
