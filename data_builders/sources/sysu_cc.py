"""SYSU-CC: CDChat's captions and boxes of the changed test pairs of SYSU-CD, 256 pixels at 0.5 m.

```
sysu_test_captions.json           {"images": [{"file_name", "folder_name", "width", "height", "ischange", "captions",
                                               "attribute": {"region_properties": [{"box", "area", ...}]}}]}
test/{time1,time2}/00000.png      the images of SYSU-CD, published apart; also test/{A,B}, test/{T1,T2}
```
3,774 entries with one caption each. A box is x1, y1, x2, y2 in pixels with the far edges outside (0 to 256). The file
leaves the unchanged pairs out, so that asking whether anything changed would have one answer. The file names begin with
`sysu_test_`, those of SYSU-CD do not; both are looked for.

Noman et al. 2024, "CDChat: A Large Multimodal Model for Remote Sensing Change Description"; imagery: Shi et al. 2021,
SYSU-CD.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from geotempo.data_builders.captions import SPLITS, clean_caption, pair_captions, stream_entries
from geotempo.data_builders.label_tasks import GROUNDING, by_size, list_sample, plural
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Draft, FolderSource, Rejection, find_image, load_pair, need_folder, same_size
from geotempo.data_builders.wordings import ask
from geotempo.model.errors import InputError, LayoutError
from geotempo.model.geometry import Box
from geotempo.model.records import Region

FILE = "sysu_test_captions.json"
PREFIX = "sysu_test_"
DATES = (("time1", "time2"), ("A", "B"), ("T1", "T2"))
THING, LABEL = "area", "changed area"
KEYS = ("file_name", "folder_name", "width", "height", "captions", "attribute")


class SysuCc(FolderSource):
    """Change captions, and grounding and number of the changed areas.

    Args:
        images: Folder of SYSU-CD with `test/{time1,time2}`; empty where it is the root.
    """

    name = "sysu-cc"
    version = 1
    licence = "unknown; CDChat captions, SYSU-CD imagery (academic)"
    citation = "Noman et al. 2024, CDChat; imagery: Shi et al. 2021, SYSU-CD, IEEE TGRS 60"
    evidence = "real"
    tasks = ("change_caption", "change_grounding", "counting")

    def __init__(self, images: str = "") -> None:
        self.images = images
        self._entries: dict[Path, dict[str, Any]] = {}

    def check_layout(self, root: Path) -> None:
        """See `Source`."""
        need_folder(root, self.name, f"{FILE} and test/{{time1,time2}} of SYSU-CD")
        first: dict[str, Any] = next(iter(self.entries(root).values()), {})
        missing = [key for key in KEYS if key not in first]
        if missing:
            raise LayoutError(f"the first entry of {root / FILE} has no {missing[0]!r}; {self.name} expects "
                              f"{', '.join(KEYS)}")

    def entries(self, root: Path) -> dict[str, Any]:
        """Entries of the caption file by `split/stem`, read once; a name that comes again gets its number behind it."""
        if root not in self._entries:
            if not (root / FILE).is_file():
                raise LayoutError(f"{root} has no {FILE}; {self.name} expects it beside SYSU-CD's test/{{time1,time2}}")
            found: dict[str, Any] = {}
            for number, entry in enumerate(stream_entries(root / FILE)):
                key = _key(entry) or f"{FILE}:{number}"
                found[f"{key}@{number}" if key in found else key] = entry
            self._entries[root] = found
        return self._entries[root]

    def keys(self, root: Path) -> list[str]:
        """`split/stem` of every entry, in the file's order."""
        return list(self.entries(root))

    def samples(self, root: Path, key: str) -> Iterator[Sample]:
        """All samples of one pair."""
        entry = self.entries(root)[key]
        if "@" in key:
            raise Rejection("repeated item", f"{FILE}: {entry['file_name']} stands there before")
        split, _, stem = key.partition("/")
        try:
            captions = [text for text in map(_caption, entry["captions"]) if text]
            boxes = [region["box"] for region in entry["attribute"]["region_properties"]]
            size, name = (entry["height"], entry["width"]), str(entry["file_name"])
        except (KeyError, TypeError, AttributeError) as error:
            raise Rejection("broken annotation", f"{FILE}: {key} has no readable {error}") from None
        if split not in SPLITS:
            raise Rejection("unknown split", f"{FILE}: {key}; allowed: {', '.join(SPLITS)}")
        if not captions:
            raise Rejection("missing caption", f"{FILE}: {key} has no caption")
        images = load_pair(*self._files(root, split, name))
        same_size(images[0], size, f"{FILE}: {key}")
        draft = Draft(self.name, split, stem, images, self.licence, {"scene": stem.removeprefix(PREFIX)})
        regions = by_size([_region(box, key, *size) for box in boxes])
        yield from pair_captions(draft, captions)
        tag = f"{GROUNDING}:areas"
        question = ask(GROUNDING, draft.id(tag), thing=THING, things=plural(THING))
        yield list_sample(draft, tag, GROUNDING, question, regions)
        tag = "counting:areas"
        question = ask("counting.changed", draft.id(tag), thing=THING, things=plural(THING))
        yield draft.sample(tag, "counting", question, str(len(regions)))

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Pairs and areas per split."""
        found: Counter[str] = Counter()
        for sample in samples:
            if sample.task == GROUNDING:
                found[f"pairs/{sample.split}"] += 1
                found[f"areas/{sample.split}"] += len(sample.regions)
        return found

    def _files(self, root: Path, split: str, name: str) -> tuple[Path, Path]:
        """The images of an entry, under either name.

        Raises:
            Rejection: They are missing.
        """
        base = root / self.images / split
        dates = next((pair for pair in DATES if (base / pair[0]).is_dir()), DATES[0])
        bare = name.removeprefix(PREFIX)
        try:
            return find_image(base / dates[0], bare), find_image(base / dates[1], bare)
        except Rejection:
            return find_image(base / dates[0], name), find_image(base / dates[1], name)


def _key(entry: Any) -> str:
    """`split/stem`; empty where an entry does not say it."""
    try:
        return f"{entry['folder_name']}/{Path(entry['file_name']).stem}"
    except (KeyError, TypeError):
        return ""


def _caption(text: str) -> str:
    """A caption without its final period, where it is one sentence."""
    return text.strip() if ". " in text.strip() else clean_caption(text)


def _region(box: Any, key: str, height: int, width: int) -> Region:
    """A box on the later image.

    Raises:
        Rejection: It is no box, is empty, or leaves the image.
    """
    try:
        x1, y1, x2, y2 = map(float, box)
        if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
            raise ValueError("it is empty or leaves the image")
        return Region(2, Box(x1, y1, x2, y2), LABEL)
    except (TypeError, ValueError, InputError) as error:
        what = f"{FILE}: {key} has the box {box} on {width} x {height} pixels ({error})"
        raise Rejection("impossible box", what) from None
