"""GeoPixelD: descriptions of single images whose phrases have masks, for grounded conversation.

```
GeoPixelD.json              [{"id", "image": path, "polygons": path, "conversations": [{"from": "human"}, {"from": "bot"}]}]
<split>/<name>.png          image, 800 pixels
<split>/<name>.json         {"polygons": [per [SEG]: [per part: [[x, y], ...]]], "img", "gcg_description"}
```
In the answers `<p> tennis court-1 </p> [SEG]` names a phrase and the n-th [SEG] has the n-th entry of `polygons`. Traps: the
answering role is "bot"; the paths begin with folders of the authors' tree (`data/GeoPixelD/train/...`); the outlines run over the
pixels that belong to the object, one pixel from vertex to vertex, so that masks, not polygons, hold them exactly. The number
of `tennis court-1` only counts within the description: what is asked for besides are all objects of a name, since a description
names what it sees of a kind.

Shabbir et al. 2025, "GeoPixel: Pixel Grounding Large Multimodal Model in Remote Sensing", arXiv 2501.13925; CC BY 4.0, imagery
of DOTA for academic use.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from geotempo.data_builders.conversations import in_front, read_conversation
from geotempo.data_builders.instances import flag_meta, mask_points
from geotempo.data_builders.instructions import folders, locate
from geotempo.data_builders.label_tasks import by_size, list_sample, plural, slug
from geotempo.data_builders.records import Broken, stream_records
from geotempo.data_builders.sample import Message, Sample
from geotempo.data_builders.source import Draft, RecordSource, Rejection, load_image, load_json, need_folder
from geotempo.data_builders.wordings import ask
from geotempo.model.errors import LayoutError
from geotempo.model.geometry import BoolArray, Mask
from geotempo.model.records import ImageRecord, Region

EXPECTED = "GeoPixelD*.json, and the images and polygon files that it names"
LOOKED_AT = 8
SEG = re.compile(r"(?:<p>((?:(?!</p>).)*)</p>\s*)?\[SEG\]", re.DOTALL)
_PHRASE = re.compile(r"<p>\s*((?:(?!</p>).)*?)\s*</p>", re.DOTALL)
_COUNTED = re.compile(r"[-_ ]\d+$")
_LOOSE = re.compile(r"\s+(?=[,.;:])")


class GeoPixelD(RecordSource):
    """The description with its masks inside, and the mask of every kind of object that it names.

    Args:
        images: Folder of images and polygon files where they are not below the root.
    """

    name = "geopixeld"
    version = 1
    licence = "academic; GeoPixelD (annotations CC-BY-4.0), imagery DOTA"
    citation = "Shabbir et al. 2025, GeoPixel, arXiv 2501.13925"
    evidence = "real"
    tasks = ("caption", "referring_segmentation")

    def __init__(self, images: str = "") -> None:
        self.images = images
        self._places: dict[Path, list[Path]] = {}

    def files(self, root: Path) -> list[Path]:
        """See `RecordSource`."""
        return sorted(root.glob("GeoPixelD*.json"))

    def check_layout(self, root: Path) -> None:
        """See `Source`; the first records are looked at."""
        need_folder(root, self.name, EXPECTED)
        if self.images and not Path(self.images).is_dir():
            raise LayoutError(f"images={self.images} is no folder; give the one that holds images and polygon files")
        if not self.files(root):
            raise LayoutError(f"{root} has no GeoPixelD*.json; {self.name} expects {EXPECTED}")
        for path in self.files(root):
            for number, record in enumerate(islice(stream_records(path), LOOKED_AT)):
                wrong = record.detail if isinstance(record, Broken) else _wrong(record)
                if wrong:
                    raise LayoutError(f"{path.name}, record {number}: {wrong}; this is not the file that {self.name} knows")

    def record_samples(self, root: Path, key: str, record: Any) -> Iterator[Sample]:
        """The conversation of one record, and a question about each kind of object in it."""
        if wrong := _wrong(record):
            raise Rejection("broken record", wrong)
        image = load_image(locate(record["image"], self.places(root)))
        entries = load_json(locate(record["polygons"], self.places(root)))
        outlines = entries.get("polygons") if isinstance(entries, Mapping) else None
        if not isinstance(outlines, list):
            raise Rejection("broken annotation", f"{record['polygons']} has no list 'polygons'")
        messages = read_conversation(record["conversations"], 1).messages
        count = sum(len(SEG.findall(message.text)) for message in messages)
        if count != len(outlines):
            raise Rejection("masks and phrases differ", f"the answers hold {count} [SEG] and {record['polygons']} has {len(outlines)} entries")
        turns, regions = _marked(messages, outlines, image, record["polygons"])
        file, _, number = key.rpartition(":")
        stem = PurePosixPath(record["image"]).stem
        split = split_of(record["image"])
        draft = Draft(self.name, split, f"{Path(file).stem}:{number}", (image,), self.licence, {"scene": stem.partition("_")[0]})
        meta = {"licence": self.licence, **draft.meta, **flag_meta(regions, image.height, image.width)}
        yield Sample(draft.id("caption"), self.name, split, "caption", draft.images, in_front(turns, 1), tuple(regions), meta)
        yield from _kinds(draft, regions)

    def places(self, root: Path) -> list[Path]:
        """Folders that images are looked for below, looked up once."""
        if root not in self._places:
            self._places[root] = folders([Path(self.images)] if self.images else [root, root / "images"])
        return self._places[root]

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Descriptions per split, masks."""
        found: Counter[str] = Counter()
        for sample in samples:
            if sample.task == "caption":
                found[f"descriptions/{sample.split}"] += 1
                found["masks"] += len(sample.regions)
        return found


def split_of(path: str) -> str:
    """The split that a folder of an image's path names; train where none does."""
    parts = [part.lower() for part in PurePosixPath(path.replace("\\", "/")).parts[:-1]]
    return next((split for split in ("val", "test") if split in parts), "train")


def _marked(messages: Sequence[Message], outlines: Sequence[Any], image: ImageRecord,
            name: str) -> tuple[list[Message], list[Region]]:
    """Messages with placeholders in the place of [SEG], and the regions."""
    regions: list[Region] = []

    def placed(match: re.Match[str]) -> str:
        words = (match.group(1) or "").strip()
        regions.append(_region(outlines[len(regions)], words, image, f"{name}, [SEG] {len(regions)}"))
        return f"{words} <region:{len(regions) - 1}>".strip()

    texts = [_LOOSE.sub("", _PHRASE.sub(r"\1", SEG.sub(placed, message.text))) for message in messages]
    return [Message(message.role, text) for message, text in zip(messages, texts, strict=True)], regions


def _region(parts: Any, label: str, image: ImageRecord, name: str) -> Region:
    """The mask of one phrase.

    Raises:
        Rejection: The parts are no lists of points on the image, or they cover no pixel.
    """
    try:
        mask = outlined(parts, image.height, image.width)
    except (TypeError, ValueError) as error:
        raise Rejection("broken annotation", f"{name}: no outline ({error})") from None
    points = mask_points(mask)
    if points is None:
        raise Rejection("broken annotation", f"{name}: its outline covers no pixel of the image")
    return Region(1, Mask.from_array(mask), label, points)


def outlined(parts: Sequence[Sequence[Sequence[float]]], height: int, width: int) -> BoolArray:
    """Union of closed outlines that run over pixels of the object.

    Args:
        parts: Each a list of [x, y], pixel indices.
        height: Rows of the image.
        width: Columns of the image.

    Raises:
        ValueError: A part is no list of points, or some lie beyond the image.
    """
    picture = Image.new("1", (width, height))
    for part in parts:
        vertices = np.asarray(part, dtype=np.float64)
        if vertices.ndim != 2 or vertices.shape[1] != 2 or not np.isfinite(vertices).all():
            raise ValueError(f"a part has the shape {vertices.shape}, expected points [x, y]")
        if (vertices < 0).any() or (vertices > (width, height)).any():
            raise ValueError(f"a part reaches beyond the image of {width} x {height} pixels")
        if len(vertices) == 1:
            vertices = np.repeat(vertices, 2, axis=0)
        ImageDraw.Draw(picture).polygon([(float(x), float(y)) for x, y in vertices], fill=1, outline=1)
    return np.asarray(picture, dtype=np.bool_)


def _kinds(draft: Draft, regions: Sequence[Region]) -> Iterator[Sample]:
    """All objects of each name, numbers left out."""
    kinds: dict[str, list[Region]] = {}
    for region in regions:
        if region.label:
            kinds.setdefault(_COUNTED.sub("", region.label).lower(), []).append(region)
    for kind, same in kinds.items():
        tag = f"referring_segmentation:{slug(kind)}"
        phrase = f"the {plural(kind) if len(same) > 1 else kind}"
        question = ask("referring_segmentation", draft.id(tag), phrase=phrase)
        yield list_sample(draft, tag, "referring_segmentation", question, by_size(same))


def _wrong(record: Any) -> str:
    """Which assumption about a record fails; empty where none does."""
    if not isinstance(record, Mapping):
        return f"a record is {type(record).__name__}, no object"
    for key in ("image", "polygons"):
        if not isinstance(record.get(key), str):
            return f"{key} is {str(record.get(key))[:60]!r}; expected a path"
    return "" if isinstance(record.get("conversations"), list) else "conversations is missing or no list"
