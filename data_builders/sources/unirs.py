"""UniRS: conversations about one image (GeoChat_Instruct), a pair (LEVIR-CC) or a video (ERA) in LLaVA's form.

```
GeoChat_Instruct*.json, LEVIR_CC*.json, ERA*.json (or .jsonl)   [{"id", "image" | "video" | "video_id", "conversations"}]
images and videos                                               below root, images/, Videos/ or a folder directly in one of these
```
`image` is a path, a list of two, or two joined by `###`; `video` is a file and `video_id` one without `.mp4`, in which case the
question may stand in `q` and the answer in `a`. Traps: the tags say nothing, since UniRS takes all of them out and puts its own
in (a pair may come with one `<image>`); paths begin with folders of the authors' machine. Of a video, `frames` frames are taken,
evenly from the first to the last, as its loader does with 8. The GeoChat part is GeoChat_Instruct itself, so that a mixture of
both holds it twice; the pairs of LEVIR-CC have one caption each here, all five in `levir-cc`.

Li et al. 2024, "UniRS: Unifying Multi-temporal Remote Sensing Tasks through Vision Language Models", arXiv 2412.20742;
Mou et al. 2020, ERA, arXiv 2001.11394. Licence: each of the three is for academic use.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from geotempo.data_builders.conversations import read_conversation
from geotempo.data_builders.geochat_tags import geochat_task, in_words, untagged
from geotempo.data_builders.instructions import conversation_sample, folders, locate
from geotempo.data_builders.records import LINES, Broken, stream_records
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Draft, RecordSource, Rejection, load_image, need_folder
from geotempo.data_builders.text_regions import GEOCHAT, as_list
from geotempo.data_builders.videos import need_decoder, read_frames
from geotempo.model.errors import InputError, LayoutError
from geotempo.model.records import ImageRecord

ORIGINS = {"geochat": "academic; GeoChat_Instruct, imagery of DOTA, DIOR, FAIR1M and others", "levir": "academic; LEVIR-CC, imagery "
           "Google Earth", "era": "academic; ERA, videos from YouTube, not to be passed on"}
"""Licence by the beginning of an annotation file's name."""
EXPECTED = "GeoChat_Instruct*.json, LEVIR_CC*.json or ERA*.json, and the images and videos"
SEVERAL = "###"
_TAG = re.compile(r"\n?<(?:image|video)>\n?")


class Unirs(RecordSource):
    """One conversation per record.

    Args:
        images: Folder of images and videos where they are not below the root.
        frames: Frames of a video, 1 to 8.
    """

    name = "unirs"
    version = 1
    licence = "academic; UniRS: GeoChat_Instruct, LEVIR-CC, ERA"
    citation = "Li et al. 2024, UniRS, arXiv 2412.20742"
    evidence = "documentation"
    tasks = ("caption", "vqa", "region_vqa", "region_caption", "change_grounding", "classification", "change_caption",
             "temporal_classification")

    def __init__(self, images: str = "", frames: int = 8) -> None:
        if not 1 <= frames <= 8:
            raise InputError(f"frames is {frames}; allowed: 1 to 8")
        self.images, self.frames = images, frames
        self._places: dict[Path, list[Path]] = {}

    def files(self, root: Path) -> list[Path]:
        """See `RecordSource`."""
        return sorted(path for path in root.iterdir() if path.suffix.lower() in (".json", *LINES) and origin_of(path.name))

    def check_layout(self, root: Path) -> None:
        """See `Source`; the first record of each file is looked at."""
        need_folder(root, self.name, EXPECTED)
        if self.images and not Path(self.images).is_dir():
            raise LayoutError(f"images={self.images} is no folder; give the one that holds the images and videos")
        if not self.files(root):
            raise LayoutError(f"{root} has no annotation file; {self.name} expects {EXPECTED}")
        for path in self.files(root):
            first = next(stream_records(path), None)
            wrong = first.detail if isinstance(first, Broken) else _wrong(first)
            if wrong:
                raise LayoutError(f"{path.name}, record 0: {wrong}; this is not the file that {self.name} knows")
            if origin_of(path.name) == "era":
                need_decoder("the ERA part of UniRS")

    def record_samples(self, root: Path, key: str, record: Any) -> Iterator[Sample]:
        """The conversation of one record."""
        wrong = _wrong(record)
        if wrong:
            raise Rejection("broken record", wrong)
        file, _, number = key.rpartition(":")
        images, name = self._images(root, record)
        turns, tags = untagged(_turns(record))
        conversation = read_conversation(turns, len(images))
        task = _task(conversation.messages, tags, bool(_video(record)), len(images))
        origin = origin_of(file)
        draft = Draft(self.name, "train", f"{Path(file).stem}:{number}", images, ORIGINS[origin],
                      {"origin": origin, "scene": PurePosixPath(name.replace("\\", "/")).stem, **({"tags": tags} if any(tags) else {})})
        yield conversation_sample(draft, task, conversation, (GEOCHAT,),
                                  begin=lambda place, question: in_words(question, tags[place], draft.id(f"{task}:{place}")),
                                  finish=as_list if task == "change_grounding" else str)

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Records per origin, and regions."""
        found: Counter[str] = Counter()
        for sample in samples:
            found[f"records/{sample.meta['origin']}"] += 1
            found["regions"] += len(sample.regions)
        return found

    def _images(self, root: Path, record: Mapping[str, Any]) -> tuple[tuple[ImageRecord, ...], str]:
        """The images of a record, or the frames of its video; and the name of the first."""
        if root not in self._places:
            tops = [Path(self.images)] if self.images else [root, root / "images", root / "Videos"]
            self._places[root] = folders(tops)
        places = self._places[root]
        if video := _video(record):
            return tuple(read_frames(locate(video, places), self.frames)[0]), video
        given = record["image"]
        names = given.split(SEVERAL) if isinstance(given, str) else list(given)
        return tuple(load_image(locate(name, places)) for name in names), names[0]


def origin_of(file: str) -> str:
    """Which of the three sets an annotation file belongs to, by its name; empty for another file."""
    return next((origin for origin in ORIGINS if Path(file).name.lower().startswith(origin)), "")


def _task(messages: Sequence[Any], tags: Sequence[str], video: bool, count: int) -> str:
    """Our task: events of videos, changes of pairs, and what GeoChat's tags and wordings tell of single images."""
    if video:
        return "temporal_classification"
    return "change_caption" if count > 1 else geochat_task(messages, tags)


def _video(record: Mapping[str, Any]) -> str:
    """File of a record's video, empty where it has images."""
    if "image" in record:
        return ""
    return str(record["video"]) if record.get("video") else f"{record['video_id']}.mp4"


def _turns(record: Mapping[str, Any]) -> list[Any]:
    """The turns without image tags."""
    turns = record.get("conversations")
    if turns is None:
        turns = [{"from": "human", "value": record["q"]}, {"from": "gpt", "value": record["a"]}]
    return [{**turn, "value": _TAG.sub("", turn["value"])} if isinstance(turn, Mapping) and isinstance(turn.get("value"), str) else turn
            for turn in turns]


def _wrong(record: Any) -> str:
    """Which assumption about a record fails; empty where none does."""
    if not isinstance(record, Mapping):
        return f"a record is {type(record).__name__}, no object" if record is not None else "there is none"
    image, video = record.get("image"), record.get("video", record.get("video_id"))
    if image is None and video is None:
        return f"it has the keys {', '.join(map(str, record))}; expected image, video or video_id"
    if not isinstance(image if video is None else video, str) and not (isinstance(image, list) and len(image) in (1, 2)):
        return f"image is {str(image)[:60]!r}; expected a path, or two"
    if not isinstance(record.get("conversations"), list) and not ("q" in record and "a" in record):
        return "conversations is missing or no list"
    return ""
