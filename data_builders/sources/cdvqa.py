"""CDVQA: questions about the changes of land cover between two aerial images of SECOND, 512 pixels.

```
{Train,Val,Test,Test2}_{images,questions,answers}.json     see `geotempo.data_builders.question_files`
im1/NNNNN.png  im2/NNNNN.png                               of SECOND: before and after; or its root given as images=DIR, where
                                                           they lie in {train,val,test}/ too
```
Traps: the `id` of an image record is not that of a pair: each pair has sixteen records in Val, which are grouped by `file_name`,
so that 6,400 records are 400 pairs with 32 to 49 questions each. `res_x` (".1524m") is a left-over of RSVQA, not SECOND's
resolution, and is left out. The images come with SECOND only. Test2 is a second test set; its samples say so (`subset`) and their
ids begin with it. Answers such as `NVG_surface` and `low_vegetation` are written as in the questions; the original is a reference
too. Shares of the image in percent stay as they are (`10_to_20`), as evaluation expects them.

Yuan et al. 2022, "Change Detection Meets Visual Question Answering", IEEE TGRS 60, arXiv 2112.06343. The annotations are under
Apache-2.0, the images of SECOND are for academic use.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from geotempo.data_builders.question_files import Picture, Question, QuestionFiles, find_in
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Draft, Rejection, find_image, load_pair

WORDS: Final = {"NVG_surface": "non-vegetated ground surface", "low_vegetation": "low vegetation"}
"""Answers in the words of the questions; all others stay as they are."""


class Cdvqa(QuestionFiles):
    """One sample per question about a pair.

    Args:
        images: SECOND's root, or the folder of im1 and im2, where they are not in the root.
    """

    name = "cdvqa"
    version = 1
    licence = "academic; CDVQA (annotations Apache-2.0), imagery SECOND"
    citation = "Yuan et al. 2022, CDVQA, IEEE TGRS 60, arXiv 2112.06343"
    evidence = "real"
    tasks = ("change_vqa",)
    splits: ClassVar[dict[str, str]] = {"Train": "train", "Val": "val", "Test": "test", "Test2": "test"}
    expected = "{Train,Val,Test,Test2}_{images,questions,answers}.json, and im1/ and im2/ of SECOND, or images=DIR"

    def file_name(self, record: Mapping[str, Any]) -> str:
        """See `QuestionFiles`."""
        name = record.get("file_name")
        return name.strip() if isinstance(name, str) else ""

    def picture_samples(self, root: Path, key: str, picture: Picture) -> Iterator[Sample]:
        """The questions about one pair."""
        if not picture.questions:
            raise Rejection("no question", f"{picture.name} has no active question")
        before = find_in(second_folders(Path(self.images) if self.images else root), picture.name)
        pair = load_pair(before, find_image(before.parent.parent / "im2", picture.name))
        stem = Path(picture.name).stem
        split, name = self.names(picture.prefix, stem)
        meta = {"scene": stem, "subset": picture.prefix}
        draft = Draft(self.name, split, name, pair, self.licence, meta)
        for question in picture.questions:
            yield _sample(draft, question)

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Pairs whose images are there, per split."""
        return Counter({f"pairs/{samples[0].split}": 1}) if samples else Counter()


def _sample(draft: Draft, question: Question) -> Sample:
    """A question with its answer in words."""
    spoken = [WORDS.get(answer, answer) for answer in question.answers]
    references = list(dict.fromkeys([*spoken, *question.answers]))
    return draft.sample(f"change_vqa:{question.id}", "change_vqa", question.text, spoken[0],
                        question_type=question.kind, references=references)


def second_folders(root: Path) -> list[Path]:
    """Where the earlier images of SECOND may lie: im1 of the root itself, or of a split."""
    return [parent / "im1" for parent in (root, *(root / split for split in ("train", "val", "test")))]
