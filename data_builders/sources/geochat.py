"""GeoChat_Instruct and VRSBench: conversations about one image, with boxes in angle brackets and task tags.

```
GeoChat_Instruct.json | VRSBench_train.json     [{"id", "image": "x.jpg", "conversations": [{"from", "value"}]}]
VRSBench_EVAL_{Cap,referring,vqa}.json          [{"image_id": "x.png", "question", "ground_truth", "type"}]; split test
images                                          below root, images/, a folder directly in one of these (Images_train/),
                                                or where GeoChat's archive puts them, share/softwares/kartik/...
```
Boxes are percents: GeoChat `{<x1><y1><x2><y2>|<theta>}`, turned by theta degrees around the centre; VRSBench without
theta. Words in `<p>...</p>` are what the boxes after them show, `<delim>` stands between several. `[refer]`,
`[identify]`, `[grounding]`, `[vqa]`, `[caption]` before a question name the task; they stand in the meta. Traps: some
records of GeoChat have no image; the `id` of VRSBench is the same in all records, so the number of the record is used;
the tag may stand in front of a bare phrase or box. Paths may begin with folders of the machine where they were written.
Whether theta turns clockwise is not documented; it is read as GeoChat's demo draws it.

Kuckreja et al. 2024, "GeoChat: Grounded Large Vision-Language Model for Remote Sensing", CVPR, arXiv 2311.15826.
Li et al. 2024, "VRSBench: A Versatile Vision-Language Benchmark Dataset for Remote Sensing Image Understanding",
NeurIPS, arXiv 2406.12384. Licence: imagery of DOTA and DIOR is for academic use.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from geotempo.data_builders.conversations import read_conversation
from geotempo.data_builders.geochat_tags import geochat_task, in_words, untagged
from geotempo.data_builders.instructions import check_images, conversation_sample, folders, locate
from geotempo.data_builders.records import Broken, stream_records
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Draft, RecordSource, Rejection, load_image, need_folder
from geotempo.data_builders.text_regions import GEOCHAT, VRSBENCH, Codec, as_list
from geotempo.model.errors import LayoutError

LOOKED_AT = 8
UNPACKED = "share/softwares/kartik/GeoChat_finetuning/final_images_llava"


class GeochatInstruct(RecordSource):
    """All conversations about one image of GeoChat_Instruct.

    Args:
        images: Folder of the images where it is not below the root.

    Attributes:
        train: Name of the training file.
        tests: Task tag of each test file by its name.
        codec: How boxes are written.
    """

    name = "geochat-instruct"
    version = 1
    licence = "academic; GeoChat_Instruct, imagery of DOTA, DIOR, FAIR1M and others"
    citation = "Kuckreja et al. 2024, GeoChat, CVPR, arXiv 2311.15826"
    evidence = "documentation"
    tasks = ("caption", "vqa", "region_vqa", "region_caption", "change_grounding", "classification")
    train: ClassVar[str] = "GeoChat_Instruct.json"
    tests: ClassVar[dict[str, str]] = {}
    codec: ClassVar[Codec] = GEOCHAT

    def __init__(self, images: str = "") -> None:
        self.images = images
        self._places: dict[Path, list[Path]] = {}

    def files(self, root: Path) -> list[Path]:
        """See `RecordSource`."""
        return [root / name for name in (self.train, *self.tests) if (root / name).is_file()]

    def check_layout(self, root: Path) -> None:
        """See `Source`; the first records are looked at."""
        names = " or ".join((self.train, *self.tests))
        need_folder(root, self.name, f"{names}, and the unpacked images")
        if not self.files(root):
            raise LayoutError(f"{root} has no {names}; {self.name} expects it and the unpacked images")
        if self.images and not Path(self.images).is_dir():
            raise LayoutError(f"images={self.images} is no folder; give the one that holds the unpacked images")
        for path in self.files(root):
            for number, record in enumerate(islice(stream_records(path), LOOKED_AT)):
                wrong = record.detail if isinstance(record, Broken) else _wrong(self.as_conversation(path.name, record))
                if wrong:
                    raise LayoutError(f"{path.name}, record {number}: {wrong}; this is not the file that {self.name} "
                                      "knows")
            whole = (record for record in stream_records(path) if not isinstance(record, Broken))
            records = (self.as_conversation(path.name, record) for record in whole)
            pictures = (record["image"] for record in records if not _wrong(record) and record.get("image"))
            check_images(pictures, self.places(root), path.name, f"unpack the archives below {root}, or give images=DIR")

    def record_samples(self, root: Path, key: str, record: Any) -> Iterator[Sample]:
        """The conversation of one record."""
        file, _, number = key.rpartition(":")
        record = self.as_conversation(file, record)
        wrong = _wrong(record)
        if wrong:
            raise Rejection("broken record", wrong)
        name = record.get("image")
        if not name:
            raise Rejection("no image", "image is empty or missing: a question without an image")
        turns, tags = untagged(record["conversations"])
        conversation = read_conversation(turns, 1)
        task = geochat_task(conversation.messages, tags)
        image = load_image(locate(name, self.places(root)))
        facts = {"tags": tags if any(tags) else None, "question_type": record.get("type")}
        split = "test" if file in self.tests else "train"
        draft = Draft(self.name, split, f"{Path(file).stem}:{number}", (image,), self.licence,
                      {"scene": self.scene(PurePosixPath(name).stem), "record": {"file": file, "number": int(number)}})

        def begin(place: int, question: str) -> str:
            return in_words(question, tags[place], draft.id(f"{task}:{place}"))

        yield conversation_sample(draft, task, conversation, (self.codec,), begin=begin,
                                  finish=as_list if task == "change_grounding" else str,
                                  **{fact: value for fact, value in facts.items() if value})

    def as_conversation(self, file: str, record: Any) -> Any:
        """A record of a test file, question and `ground_truth`, as one of the training file; others stay."""
        if file not in self.tests or not isinstance(record, Mapping):
            return record
        said = [{"from": "human", "value": record.get("question")},
                {"from": "gpt", "value": record.get("ground_truth")}]
        if isinstance(record.get("question"), str):
            said[0]["value"] = f"[{self.tests[file]}] {record['question']}"
        return {"image": record.get("image_id"), "conversations": said, "type": record.get("type")}

    def places(self, root: Path) -> list[Path]:
        """Folders that images are looked for below, looked up once."""
        if root not in self._places:
            tops = [root, root / "images"]
            tops += [top / UNPACKED for top in tops]
            self._places[root] = folders([Path(self.images)] if self.images else tops)
        return self._places[root]

    def scene(self, stem: str) -> str:
        """Name of the scene that an image shows or is cut from."""
        return stem

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Records by the tag of their last question, regions."""
        found: Counter[str] = Counter()
        for sample in samples:
            found[f"records/{sample.meta.get('tags', [''])[-1] or 'no tag'}"] += 1
            found["regions"] += len(sample.regions)
        return found


class Vrsbench(GeochatInstruct):
    """Captions, referring expressions and questions of VRSBench.

    Args:
        images: Folder of the images where it is not below the root.
    """

    name = "vrsbench"
    licence = "academic; VRSBench, imagery of DOTA and DIOR"
    citation = "Li et al. 2024, VRSBench, NeurIPS, arXiv 2406.12384"
    train = "VRSBench_train.json"
    tests: ClassVar[dict[str, str]] = {"VRSBench_EVAL_Cap.json": "caption", "VRSBench_EVAL_referring.json": "refer",
                                       "VRSBench_EVAL_vqa.json": "vqa"}
    codec = VRSBENCH

    def scene(self, stem: str) -> str:
        """An image is `<scene>_<number of the cut-out>`."""
        return stem.rpartition("_")[0] or stem


def _wrong(record: Any) -> str:
    """Which assumption about a record fails; empty where none does."""
    if not isinstance(record, Mapping):
        return f"a record is {type(record).__name__}, no object"
    if not isinstance(record.get("image") or "", str):
        return f"image is {str(record['image'])[:60]!r}; expected one path"
    if not isinstance(record.get("conversations"), list):
        return "conversations is missing or no list"
    return ""
