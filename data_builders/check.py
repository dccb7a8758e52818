"""`geotempo check`: is a store whole, do its samples hold, and what does the answer grammar cost?

One pass over the images and one over the samples; what is remembered of each takes some bytes, so a store may be of any size.
"""

import hashlib
import io
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from geotempo.data_builders.digests import DigestSet
from geotempo.data_builders.licences import TERMS, known_licence
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.schema import IMAGE_SCHEMA, SAMPLE_SCHEMA, content_id, geometry_to_json, sample_from_row
from geotempo.data_builders.shards import REJECTED
from geotempo.data_builders.source import Source
from geotempo.data_builders.sources import SOURCES, source_class
from geotempo.data_builders.store import Store
from geotempo.model.errors import InputError
from geotempo.model.geometry import Box, Geometry, GridMask, area, bounds, coverage
from geotempo.model.records import Frame, Region, Status

SPLITS = ("train", "val", "test")
MOST_FAULTS = 1000
"""Faults that a report names; the rest is counted."""
BINS = 1000


class Spread:
    """Many shares between 0 and 1 in constant memory: number, mean, lowest, and the median to a thousandth."""

    def __init__(self) -> None:
        self._bins = np.zeros(BINS + 1, dtype=np.int64)
        self._sum = 0.0
        self.lowest = 1.0

    def __len__(self) -> int:
        return int(self._bins.sum())

    def append(self, value: float) -> None:
        """Take a value, 0 to 1."""
        self._bins[min(BINS, max(0, round(value * BINS)))] += 1
        self._sum += value
        self.lowest = min(self.lowest, value)

    @property
    def mean(self) -> float:
        """Of at least one value."""
        return self._sum / len(self)

    @property
    def median(self) -> float:
        """Of at least one value."""
        return float(np.searchsorted(np.cumsum(self._bins), (len(self) + 1) // 2)) / BINS


@dataclass
class Report:
    """Findings of a check.

    Attributes:
        samples: Samples read.
        images: Images read.
        faults: What is wrong, one line each, the first `MOST_FAULTS`; empty for a sound store.
        more_faults: Further faults.
        iou: IoU with the geometry of what each written form leaves of it, by form and kind of geometry.
        disagreements: `dataset/split/item` of pairs whose change flag and mask contradict each other.
        flags: Regions flagged `small` or `border`, each region of an image once.
        unassessable: Regions that the image cannot tell about.
        rejected: Items set aside at building.
    """

    samples: int = 0
    images: int = 0
    faults: list[str] = field(default_factory=list)
    more_faults: int = 0
    iou: dict[str, Spread] = field(default_factory=lambda: defaultdict(Spread))
    disagreements: dict[str, dict[str, int]] = field(default_factory=dict)
    flags: Counter[str] = field(default_factory=Counter)
    unassessable: int = 0
    rejected: int = 0

    def fault(self, text: str) -> None:
        """Note a fault."""
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(text)
        else:
            self.more_faults += 1

    def lines(self) -> list[str]:
        """The report as text, faults last."""
        found = [f"samples {self.samples:,}, images {self.images:,}, rejected items {self.rejected:,}"]
        for kind, values in sorted(self.iou.items()):
            found.append(f"{kind}: {len(values):,} regions, IoU mean {100 * values.mean:.1f}, median {100 * values.median:.1f}, "
                         f"lowest {100 * values.lowest:.1f}")
        found.append(f"flagged regions: {self.flags['small']:,} under 16 px, {self.flags['border']:,} cut by the border; "
                     f"not assessable: {self.unassessable:,}")
        found.append(f"change flag and mask disagree: {len(self.disagreements):,} pairs, kept out of joint samples")
        found += [f"  {name}: changeflag {doubt['changeflag']}, mask pixels {doubt['mask_pixels']:,}"
                  for name, doubt in sorted(self.disagreements.items())]
        found += [f"FAULT {fault}" for fault in self.faults] + ([] if self.faults else ["no fault"])
        return found + ([f"and {self.more_faults:,} more faults"] if self.more_faults else [])


def check_store(store: Store, progress: bool = True) -> Report:
    """Check everything about a store: hashes, schema, images, samples, the way of every geometry through the grammar.

    Args:
        store: An open store.
        progress: Show a progress bar on stderr.

    Returns:
        The report; `faults` is empty for a sound store.
    """
    report = Report()
    for entry in store.manifest["files"]:
        _check_shard(store, entry, report)
    sizes = _check_images(store, report, progress)
    seen, used = Seen(), DigestSet()
    for index in tqdm(range(len(store)), unit="sample", disable=not progress):
        sample = _read(store, index, report)
        if sample is not None:
            used.update(image.id for image in sample.images)
            _check_sample(sample, sizes, seen, report)
    _check_counts(store, used, report)
    return report


def check_across(stores: Sequence[Store]) -> list[str]:
    """Faults of stores that are used together: sample ids that occur in two of them.

    Args:
        stores: Open stores.

    Returns:
        One line for each pair of stores that share ids.
    """
    found = []
    for number, store in enumerate(stores):
        mine = DigestSet()
        mine.update(store.ids)
        for other in stores[number + 1 :]:
            twice = [name for name in other.ids if name in mine]
            if twice:
                found.append(f"{len(twice):,} sample ids of {store.path} occur in {other.path} too, e.g. {twice[0]}")
    return found


class Seen:
    """What samples before have said about their item and its regions."""

    def __init__(self) -> None:
        self.regions, self.unchanged, self.changed = DigestSet(), DigestSet(), DigestSet()
        self.licences: set[str] = set()


def lossy_iou(geometry: Geometry, kept: Box | GridMask) -> float:
    """IoU, by exact areas, of a geometry with the box or grid that the grammar leaves of it, 0 to 1."""
    cells = kept.to_array() if isinstance(kept, GridMask) else np.ones((1, 1), dtype=np.bool_)
    inside = float(coverage(geometry, bounds(kept), cells.shape)[cells].sum()) * bounds(kept).area / cells.size
    return inside / (area(geometry) + area(kept) - inside)


def _check_shard(store: Store, entry: dict[str, Any], report: Report) -> None:
    """Compare a shard's bytes with its hash and its columns with the schema."""
    path = store.path / entry["path"]
    with path.open("rb") as handle:
        if hashlib.file_digest(handle, "sha256").hexdigest() != entry["sha256"]:
            report.fault(f"{entry['path']} has another sha256 than the manifest says")
    schema = SAMPLE_SCHEMA if entry["path"].startswith("samples/") else IMAGE_SCHEMA
    try:
        found = pq.read_schema(path)
    except pa.ArrowException as error:
        report.fault(f"{entry['path']} is no Parquet file: {error}")
        return
    first_format = pa.schema([field for field in schema if field.name != "path"])
    if not found.equals(schema) and not (store.manifest["format_version"] == 1 and found.equals(first_format)):
        report.fault(f"{entry['path']} has other columns than a store's")


def _check_images(store: Store, report: Report, progress: bool) -> dict[str, tuple[int, int]]:
    """Decode every image and compare its hash; give the sizes."""
    sizes = {}
    for name in tqdm(store.image_ids, unit="image", disable=not progress):
        report.images += 1
        try:
            data = store.image_bytes(name)
        except InputError as error:
            report.fault(f"image {name}: {error}")
            continue
        if content_id(data) != name:
            report.fault(f"image {name} has other bytes than its id says")
        try:
            with Image.open(io.BytesIO(data)) as picture:
                picture.load()
                sizes[name] = picture.size
        except (OSError, SyntaxError, ValueError) as error:
            report.fault(f"image {name} cannot be decoded: {error}")
    return sizes


def _read(store: Store, index: int, report: Report) -> Sample | None:
    try:
        # The bytes were checked once; samples need only something in their place.
        return sample_from_row(store.row(index), lambda name: b"")
    except InputError as error:
        report.fault(f"sample {store.ids[index]}: {error}")
        return None


def _check_sample(sample: Sample, sizes: dict[str, tuple[int, int]], seen: Seen, report: Report) -> None:
    report.samples += 1
    for image in sample.images:
        if sizes.get(image.id) != (image.width, image.height):
            report.fault(f"sample {sample.id}: image {image.id} is missing or of another size")
            return
    doubt = sample.meta.get("flag_mask_disagreement")
    if doubt:
        report.disagreements[sample.id.partition("#")[0]] = doubt
        if sample.id.endswith("#change_segmentation:joint"):
            report.fault(f"sample {sample.id} joins a caption with a mask that disagrees with it")
    _check_agreement(sample, bool(doubt), seen, report)
    _check_values(sample, seen, report)
    try:
        _check_regions(sample, seen, report)
    except InputError as error:
        report.fault(f"sample {sample.id}: {error}")


def _check_agreement(sample: Sample, doubted: bool, seen: Seen, report: Report) -> None:
    """No sample lists changes of a pair of which another says that nothing changed, unless the pair is marked as doubtful."""
    item, _, tag = sample.id.partition("#")
    if doubted or "@" in tag:  # controls turn a pair into another one
        return
    if tag == "change_vqa" and sample.target == "no":
        seen.unchanged.add(item)
    elif sample.task in ("change_grounding", "change_segmentation") and sample.target_regions:
        seen.changed.add(item)
    else:
        return
    if item in seen.unchanged and item in seen.changed:
        report.fault(f"sample {sample.id}: its pair has changes by the mask and none by the flag, and is not marked as doubtful")


def _check_values(sample: Sample, seen: Seen, report: Report) -> None:
    """Licence, split, task and labels, against what the source declares."""
    licence = str(sample.meta.get("licence") or "")
    if not licence:
        report.fault(f"sample {sample.id} does not name a licence")
    elif licence not in seen.licences:
        seen.licences.add(licence)
        if known_licence(licence) != licence:
            report.fault(f"sample {sample.id}, and others perhaps: the licence {licence!r} does not begin with an identifier: "
                         f"{', '.join(TERMS)}")
    if sample.split not in SPLITS:
        report.fault(f"sample {sample.id} is in split {sample.split!r}; allowed: {', '.join(SPLITS)}")
    kind = _source(sample.dataset)
    if kind is None:
        return
    if sample.task not in kind.tasks:
        report.fault(f"sample {sample.id} has task {sample.task}, which {sample.dataset} does not declare: {', '.join(kind.tasks)}")
    odd = sorted({region.label for region in sample.regions} - {"", *kind.labels}) if kind.labels else []
    if odd:
        report.fault(f"sample {sample.id} has the label {odd[0]!r}, which {sample.dataset} does not declare: {', '.join(kind.labels)}")


@cache
def _source(dataset: str) -> type[Source] | None:
    return source_class(dataset) if dataset in SOURCES else None


def _check_regions(sample: Sample, seen: Seen, report: Report) -> None:
    """Every new region, and the answer's list as a whole, through `format` and `parse`."""
    from geotempo.model.prompts import frames_of

    frames = frames_of(sample.images)
    for index, region in enumerate(sample.regions):
        # One image carries the same region in several tasks.
        if not seen.regions.add(f"{sample.images[0].id} {region.image} {geometry_to_json(region.geometry)}"):
            continue
        report.flags.update(sample.meta.get("flags", {}).get(str(index), []))
        if not region.assessable:
            report.unassessable += 1
            continue
        for form, grids in (("box", False), ("grid", True)):
            kept = _round_trip([region], frames, sample.id, report, grids)[0].geometry
            assert isinstance(kept, Box | GridMask)  # the grammar leaves nothing else
            if form == "box" or not isinstance(region.geometry, Box):
                report.iou[f"{form} of {_kind(region.geometry)}"].append(lossy_iou(region.geometry, kept))
    targets = sample.target_regions or ()
    if not all(region.assessable for region in targets):
        report.fault(f"sample {sample.id}: its answer lists a region that is not assessable")
        return
    for grids in (False, True):
        _round_trip(targets, frames, sample.id, report, grids)


def _round_trip(regions: Sequence[Region], frames: Sequence[Frame], name: str, report: Report, grids: bool) -> list[Region]:
    """Write and read regions; what comes back must be their declared lossy form, read without repair."""
    from geotempo.model import answer

    expected = [answer.lossy_form(region, frames, grids=grids) for region in regions]
    read = answer.parse(answer.format(regions, frames, points=True, grids=grids), frames)
    if read.status is not Status.OK or sorted(map(repr, read.regions or ())) != sorted(map(repr, expected)):
        report.fault(f"sample {name}: {len(regions)} regions do not survive the answer grammar ({read.status}: "
                             f"{'; '.join(read.repairs) or 'other values'})")
    return expected


def _check_counts(store: Store, used: DigestSet, report: Report) -> None:
    counts, rejected = store.manifest["counts"], store.manifest["rejected"]["total"]
    if len(set(store.ids)) != len(store):
        report.fault("sample ids occur twice")
    for what, said, found in (("samples", counts["samples"], len(store)), ("images", counts["images"], report.images),
                              ("images in use", report.images, len(used))):
        if said != found:
            report.fault(f"{what}: {said} by the manifest, {found} found")
    try:
        with (store.path / REJECTED).open(encoding="utf-8") as handle:
            for line in handle:
                json.loads(line)
                report.rejected += 1
    except (OSError, ValueError) as error:
        report.fault(f"{REJECTED} cannot be read: {error}")
    if report.rejected != rejected:
        report.fault(f"rejected items: {rejected} by the manifest, {report.rejected} in {REJECTED}")


def _kind(geometry: Geometry) -> str:
    return "a box" if isinstance(geometry, Box) else f"a {type(geometry).__name__.lower()}"
