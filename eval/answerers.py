"""Who answers: a model, the truth itself (the ceiling of the grammar), or a trivial baseline."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from geotempo.data_builders import render
from geotempo.data_builders.sample import REGION, Sample
from geotempo.eval.predictions import digest
from geotempo.model.convention import GEOTEMPO, Convention
from geotempo.model.errors import InputError
from geotempo.model.predictor import Predictor, Reply, Request
from geotempo.model.records import ImageRecord

_END = 1 << 20  # bytes of each end of a large weight file that go into a fingerprint


@dataclass(frozen=True)
class Item:
    """One request to be answered.

    Attributes:
        task: Name of the evaluation task.
        sample: The sample that holds the right answer.
        request: What is asked; under a control its images are not the sample's.
    """

    task: str
    sample: Sample
    request: Request


class Answerer(Protocol):
    """Answers items; `fingerprint` changes whenever its answers could."""

    @property
    def name(self) -> str:
        """For reports."""

    @property
    def fingerprint(self) -> str:
        """Names the answerer exactly."""

    @property
    def convention(self) -> Convention:
        """How its answers count coordinates."""

    def answer(self, items: Sequence[Item]) -> list[Reply]:
        """One reply per item, in order."""


@dataclass(frozen=True)
class ModelAnswers:
    """Answers of a predictor, which sees the requests only."""

    predictor: Predictor
    fingerprint: str

    @property
    def name(self) -> str:
        """The predictor's name."""
        return self.predictor.name

    @property
    def convention(self) -> Convention:
        """The predictor's convention."""
        return self.predictor.convention

    def answer(self, items: Sequence[Item]) -> list[Reply]:
        """Ask the predictor.

        Raises:
            InputError: It gave back another number of replies.
        """
        replies = self.predictor.predict([item.request for item in items])
        if len(replies) != len(items):
            raise InputError(f"{self.name} gave {len(replies)} replies to {len(items)} requests; mend the predictor")
        return replies


@dataclass(frozen=True)
class OracleAnswers:
    """The true answers, written in the answer grammar: what the grammar costs at best."""

    name: str = "oracle"
    fingerprint: str = "oracle"
    convention: Convention = GEOTEMPO

    def answer(self, items: Sequence[Item]) -> list[Reply]:
        """Write each sample's true answer."""
        return [Reply(render.target_text(item.sample, points=True, grids="areas", convention=self.convention), "stop") for item in items]


@dataclass(frozen=True)
class FixedAnswers:
    """A baseline that never looks: one text per task."""

    name: str
    texts: dict[str, str]
    convention: Convention = GEOTEMPO

    @property
    def fingerprint(self) -> str:
        """Hash of the texts."""
        return digest([self.name, self.texts])

    def answer(self, items: Sequence[Item]) -> list[Reply]:
        """The text of each item's task."""
        return [Reply(self.texts[item.task], "stop") for item in items]


def majority(samples: Iterable[Sample]) -> str:
    """The most frequent right answer, ties to the first in the alphabet.

    Raises:
        InputError: There are no samples.
    """
    counts = Counter(render.target_text(sample) for sample in samples)
    if not counts:
        raise InputError("there are no samples to take the majority answer from; choose another split")
    return min(counts, key=lambda text: (-counts[text], text))


def request_of(sample: Sample, images: Sequence[ImageRecord], max_new_tokens: int) -> Request:
    """A sample's question with the regions that the question names, and no others: the answer does not travel along."""
    named = list(dict.fromkeys(int(index) for index in REGION.findall(sample.question)))
    question = REGION.sub(lambda found: f"<region:{named.index(int(found.group(1)))}>", sample.question)
    return Request(tuple(images), question, tuple(sample.regions[index] for index in named), max_new_tokens)


def model_fingerprint(model: str | Path) -> str:
    """Names a checkpoint exactly enough to notice that it was trained on or replaced.

    Small files are hashed whole; of files over 2 MiB (weights) the size and both ends. A name that is no folder (a
    hub id) stands for itself.

    Args:
        model: Folder or name.
    """
    folder = Path(model)
    if not folder.is_dir():
        return digest(["name", str(model)])
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest([[path.relative_to(folder).as_posix(), path.stat().st_size, _file_hash(path)] for path in files])


def _file_hash(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= 2 * _END:
            return hashlib.sha256(file.read()).hexdigest()
        ends = file.read(_END)
        file.seek(size - _END)
        return hashlib.sha256(ends + file.read(_END)).hexdigest()
