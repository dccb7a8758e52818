"""`geotempo check`: is a store whole, do its samples hold, and what does the answer grammar cost?"""

import hashlib
import io
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from geotempo.data_builders.sample import Sample
from geotempo.data_builders.schema import IMAGE_SCHEMA, SAMPLE_SCHEMA, content_id, geometry_to_json, sample_from_row
from geotempo.data_builders.shards import REJECTED
from geotempo.data_builders.store import Store
from geotempo.model.errors import InputError
from geotempo.model.geometry import Box, Geometry, GridMask, area, bounds, coverage
from geotempo.model.records import Frame, Region, Status


@dataclass
class Report:
    """Findings of a check.

    Attributes:
        samples: Samples read.
        images: Images read.
        faults: What is wrong, one line each; empty for a sound store.
        iou: IoU with the geometry of what each written form leaves of it, by form and kind of geometry.
        disagreements: `dataset/split/item` of pairs whose change flag and mask contradict each other.
        flags: Regions flagged `small` or `border`, each region of an image once.
        unassessable: Regions that the image cannot tell about.
        rejected: Items set aside at building.
    """

    samples: int = 0
    images: int = 0
    faults: list[str] = field(default_factory=list)
    iou: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    disagreements: dict[str, dict[str, int]] = field(default_factory=dict)
    flags: Counter[str] = field(default_factory=Counter)
    unassessable: int = 0
    rejected: int = 0

    def lines(self) -> list[str]:
        """The report as text, faults last."""
        found = [f"samples {self.samples:,}, images {self.images:,}, rejected items {self.rejected:,}"]
        for kind, values in sorted(self.iou.items()):
            found.append(f"{kind}: {len(values):,} regions, IoU mean {100 * float(np.mean(values)):.1f}, "
                         f"median {100 * float(np.median(values)):.1f}, lowest {100 * min(values):.1f}")
        found.append(f"flagged regions: {self.flags['small']:,} under 16 px, {self.flags['border']:,} cut by the border; "
                     f"not assessable: {self.unassessable:,}")
        found.append(f"change flag and mask disagree: {len(self.disagreements):,} pairs, kept out of joint samples")
        found += [f"  {name}: changeflag {doubt['changeflag']}, mask pixels {doubt['mask_pixels']:,}"
                  for name, doubt in sorted(self.disagreements.items())]
        return found + [f"FAULT {fault}" for fault in self.faults] + ([] if self.faults else ["no fault"])


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
    seen: dict[tuple[str, str, int], None] = {}
    used: set[str] = set()
    for index in tqdm(range(len(store)), unit="sample", disable=not progress):
        sample = _read(store, index, report)
        if sample is not None:
            used.update(image.id for image in sample.images)
            _check_sample(sample, sizes, seen, report)
    _check_counts(store, used, report)
    return report


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
            report.faults.append(f"{entry['path']} has another sha256 than the manifest says")
    schema = SAMPLE_SCHEMA if entry["path"].startswith("samples/") else IMAGE_SCHEMA
    try:
        found = pq.read_schema(path)
    except pa.ArrowException as error:
        report.faults.append(f"{entry['path']} is no Parquet file: {error}")
        return
    first_format = pa.schema([field for field in schema if field.name != "path"])
    if not found.equals(schema) and not (store.manifest["format_version"] == 1 and found.equals(first_format)):
        report.faults.append(f"{entry['path']} has other columns than a store's")


def _check_images(store: Store, report: Report, progress: bool) -> dict[str, tuple[int, int]]:
    """Decode every image and compare its hash; give the sizes."""
    sizes = {}
    for name in tqdm(store.image_ids, unit="image", disable=not progress):
        report.images += 1
        try:
            data = store.image_bytes(name)
        except InputError as error:
            report.faults.append(f"image {name}: {error}")
            continue
        if content_id(data) != name:
            report.faults.append(f"image {name} has other bytes than its id says")
        try:
            with Image.open(io.BytesIO(data)) as picture:
                picture.load()
                sizes[name] = picture.size
        except (OSError, SyntaxError, ValueError) as error:
            report.faults.append(f"image {name} cannot be decoded: {error}")
    return sizes


def _read(store: Store, index: int, report: Report) -> Sample | None:
    try:
        # The bytes were checked once; samples need only something in their place.
        return sample_from_row(store.row(index), lambda name: b"")
    except InputError as error:
        report.faults.append(f"sample {store.ids[index]}: {error}")
        return None


def _check_sample(sample: Sample, sizes: dict[str, tuple[int, int]], seen: dict[tuple[str, str, int], None],
                  report: Report) -> None:
    report.samples += 1
    for image in sample.images:
        if sizes.get(image.id) != (image.width, image.height):
            report.faults.append(f"sample {sample.id}: image {image.id} is missing or of another size")
            return
    doubt = sample.meta.get("flag_mask_disagreement")
    if doubt:
        report.disagreements[sample.id.partition("#")[0]] = doubt
        if sample.id.endswith("#change_segmentation:joint"):
            report.faults.append(f"sample {sample.id} joins a caption with a mask that disagrees with it")
    if not sample.meta.get("licence"):
        report.faults.append(f"sample {sample.id} does not name a licence")
    try:
        _check_regions(sample, seen, report)
    except InputError as error:
        report.faults.append(f"sample {sample.id}: {error}")


def _check_regions(sample: Sample, seen: dict[tuple[str, str, int], None], report: Report) -> None:
    """Every new region, and the answer's list as a whole, through `format` and `parse`."""
    from geotempo.model.prompts import frames_of

    frames = frames_of(sample.images)
    for index, region in enumerate(sample.regions):
        # One image carries the same region in several tasks.
        key = (sample.images[0].id, geometry_to_json(region.geometry), region.image)
        if key in seen:
            continue
        seen[key] = None
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
        report.faults.append(f"sample {sample.id}: its answer lists a region that is not assessable")
        return
    for grids in (False, True):
        _round_trip(targets, frames, sample.id, report, grids)


def _round_trip(regions: Sequence[Region], frames: Sequence[Frame], name: str, report: Report, grids: bool) -> list[Region]:
    """Write and read regions; what comes back must be their declared lossy form, read without repair."""
    from geotempo.model import answer

    expected = [answer.lossy_form(region, frames, grids=grids) for region in regions]
    read = answer.parse(answer.format(regions, frames, points=True, grids=grids), frames)
    if read.status is not Status.OK or sorted(map(repr, read.regions or ())) != sorted(map(repr, expected)):
        report.faults.append(f"sample {name}: {len(regions)} regions do not survive the answer grammar ({read.status}: "
                             f"{'; '.join(read.repairs) or 'other values'})")
    return expected


def _check_counts(store: Store, used: set[str], report: Report) -> None:
    counts, rejected = store.manifest["counts"], store.manifest["rejected"]["total"]
    if len(set(store.ids)) != len(store):
        report.faults.append("sample ids occur twice")
    for what, said, found in (("samples", counts["samples"], len(store)), ("images", counts["images"], report.images),
                              ("images in use", report.images, len(used))):
        if said != found:
            report.faults.append(f"{what}: {said} by the manifest, {found} found")
    try:
        text = (store.path / REJECTED).read_text(encoding="utf-8")
        report.rejected = len([json.loads(line) for line in text.splitlines()])
    except (OSError, ValueError) as error:
        report.faults.append(f"{REJECTED} cannot be read: {error}")
    if report.rejected != rejected:
        report.faults.append(f"rejected items: {rejected} by the manifest, {report.rejected} in {REJECTED}")


def _kind(geometry: Geometry) -> str:
    return "a box" if isinstance(geometry, Box) else f"a {type(geometry).__name__.lower()}"
