"""RSVQA-LR and RSVQA-HR: questions made from OpenStreetMap about single images of Sentinel-2 (10 m) and of the USGS (0.15 m).

```
LR: LR_split_{train,val,test}_{images,questions,answers}.json                 Images_LR/<id>.tif     256 pixels
HR: USGS_split_{train,val,test,test_phili}_{images,questions,answers}.json    Data/<id>.tif, Images/Data/<id>.tif   512 pixels
```
Joined as `geotempo.data_builders.question_files` says. Types of LR: presence, comp, rural_urban, count; of HR: presence, comp,
area, count. A count is the task `counting` where its answer is a number. TIFF files are stored as PNG, pixel for pixel. Of an LR
image `original_name` holds the date, the satellite and the place in its granule (column, row), and `upperleft_map_x/y` are metres
in Web Mercator: between images of one granule they differ by 1 / cos(latitude) times the pixels between them. From these comes
the footprint, good to about one percent of the image's width. `test_phili` of HR (Philadelphia, unseen in training) is test too; its
samples say so (`subset`).

Lobry et al. 2020, "RSVQA: Visual Question Answering for Remote Sensing Data", IEEE TGRS 58, arXiv 2003.07333; CC BY 4.0 (Zenodo
6344334 and 6344367). The source was run on a part of LR; HR is read from its description.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import atan, cos, degrees, exp, isfinite, pi, radians
from pathlib import Path
from typing import Any, ClassVar, Literal

from geotempo.data_builders.question_files import Picture, Question, QuestionFiles, find_in, metres
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Draft, Rejection, load_image
from geotempo.model.dates import AcquisitionDate

SENSORS = {"S2": "Sentinel-2"}
_EARTH = 6378137.0  # metres, radius of Web Mercator's sphere
_SENTINEL = re.compile(r"^(S2[A-Z])_MSIL\w+?_(\d{4})(\d{2})(\d{2})T")


class RsvqaLr(QuestionFiles):
    """One sample per question about an image of Sentinel-2.

    Args:
        images: Folder of the images where they are not below the root.

    Attributes:
        places: Where the images may lie below the root.
    """

    name = "rsvqa-lr"
    version = 1
    licence = "CC-BY-4.0; RSVQA-LR, contains modified Copernicus data and OpenStreetMap"
    citation = "Lobry et al. 2020, RSVQA, IEEE TGRS 58, arXiv 2003.07333"
    evidence: ClassVar[Literal["real", "documentation"]] = "real"
    tasks = ("vqa", "counting")
    splits: ClassVar[dict[str, str]] = {f"LR_split_{split}": split for split in ("train", "val", "test")}
    expected = "LR_split_{train,val,test}_{images,questions,answers}.json and Images_LR/<id>.tif"
    places: ClassVar[tuple[str, ...]] = ("Images_LR", "images", ".")

    def file_name(self, record: Mapping[str, Any]) -> str:
        """See `QuestionFiles`."""
        return f"{record['id']}.tif"

    def picture_samples(self, root: Path, key: str, picture: Picture) -> Iterator[Sample]:
        """The questions about one image."""
        if not picture.questions:
            raise Rejection("no question", f"image {picture.name} has no active question")
        facts = picture.facts
        made = _SENTINEL.match(str(facts.get("original_name", "")))
        image = load_image(self._path(root, picture.name), sensor=SENSORS.get(str(facts.get("sensor")), facts.get("sensor")),
                           gsd=metres((facts.get("res_x"), facts.get("res_y"))),
                           date=AcquisitionDate("-".join(made.groups()[1:])) if made else None)
        split, name = self.names(picture.prefix, Path(picture.name).stem)
        scene = Path(str(facts.get("original_name") or picture.name)).stem
        meta = {"scene": scene, "subset": picture.prefix.rpartition("split_")[2]}
        corners = footprint(facts, (image.width, image.height)) if made else None
        draft = Draft(self.name, split, name, (image,), self.licence, {**meta, **({"footprint": corners} if corners else {})})
        for question in picture.questions:
            yield _sample(draft, question)

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Images that are there, per split."""
        return Counter({f"images/{samples[0].split}": 1}) if samples else Counter()

    def _path(self, root: Path, name: str) -> Path:
        return find_in([Path(self.images)] if self.images else [root / place for place in self.places], name)


class RsvqaHr(RsvqaLr):
    """One sample per question about an aerial image of the USGS.

    Args:
        images: Folder of the images where they are not below the root.
    """

    name = "rsvqa-hr"
    licence = "CC-BY-4.0; RSVQA-HR, imagery USGS, contains OpenStreetMap"
    evidence = "documentation"
    splits: ClassVar[dict[str, str]] = {"USGS_split_train": "train", "USGS_split_val": "val", "USGS_split_test": "test",
                                        "USGS_split_test_phili": "test"}
    expected = "USGS_split_{train,val,test,test_phili}_{images,questions,answers}.json and Data/<id>.tif"
    places: ClassVar[tuple[str, ...]] = ("Data", "Images/Data", "images", ".")


def footprint(facts: Mapping[str, Any], size: tuple[int, int]) -> list[float] | None:
    """Where an image of RSVQA-LR lies.

    Args:
        facts: Its record, with `upperleft_map_x`, `upperleft_map_y` (Web Mercator) and `res_x`, `res_y` ("10m").
        size: Width and height in pixels.

    Returns:
        [lon_min, lat_min, lon_max, lat_max] in degrees; None where the record does not say.
    """
    step = metres((facts.get("res_x"), facts.get("res_y")))
    x, y = facts.get("upperleft_map_x"), facts.get("upperleft_map_y")
    if step is None or not isinstance(x, int | float) or not isinstance(y, int | float) or not (isfinite(x) and isfinite(y)):
        return None
    stretch = 1 / cos(radians(_latitude(y)))
    right, bottom = x + size[0] * step[0] * stretch, y - size[1] * step[1] * stretch
    return [round(value, 6) for value in (degrees(x / _EARTH), _latitude(bottom), degrees(right / _EARTH), _latitude(y))]


def _latitude(y: float) -> float:
    """Degrees of a northing of Web Mercator."""
    return degrees(2 * atan(exp(y / _EARTH)) - pi / 2)


def _sample(draft: Draft, question: Question) -> Sample:
    """A question with its answer."""
    answer = question.answers[0]
    task = "counting" if question.kind == "count" and answer.isdecimal() else "vqa"
    return draft.sample(f"{task}:{question.id}", task, question.text, answer, question_type=question.kind,
                        references=list(dict.fromkeys(question.answers)))
