"""A build on a Ray cluster: every task builds one shard, as `geotempo build --shard i/n` does, then they are merged.

All machines of the cluster see the dataset and the output folder under the same paths (NFS, Lustre or the like).
"""

import os
import shutil
from pathlib import Path
from typing import Any

from tqdm import tqdm

from geotempo.data_builders.build import MAX_REJECTED, build_store, plan_of
from geotempo.data_builders.merge import merge_stores
from geotempo.data_builders.reading import Job
from geotempo.data_builders.shards import MANIFEST, Images, refuse_foreign
from geotempo.data_builders.store import read_manifest
from geotempo.model.errors import GeoTempoError, InputError, MissingExtraError

SHARDS_PER_CPU = 2
RETRIES = 2
"""How often Ray starts a shard again whose process died."""


def build_on_ray(name: str, root: Path, out: Path, *, options: dict[str, Any] | None = None, workers: int = 1,
                 max_rejected: float = MAX_REJECTED, progress: bool = True, images: Images = "copy",
                 controls: tuple[str, ...] = (), address: str | None = None, shards: int | None = None,
                 card: bool = False) -> dict[str, Any]:
    """Build the store of a source on a Ray cluster.

    Shards that an interrupted call finished are taken over, those it began go on where they stopped.

    Args:
        name: Source, see `geotempo.data_builders.build.build_store`; so are all arguments that are not explained here.
        root: Its folder, on every machine.
        out: Folder of the store; shards are built in `<out>.shards`.
        options: Keyword arguments of the source's class.
        workers: Processes per shard, which are as many CPUs of the cluster.
        max_rejected: Highest allowed share of rejected items.
        progress: Show a progress bar on stderr.
        images: `copy` or `reference`.
        controls: Control samples to add.
        address: Of the cluster; None is `RAY_ADDRESS`, else a cluster of this machine's CPUs for the time of the call.
        shards: Number of shards; None is `SHARDS_PER_CPU` for each CPU of the cluster.
        card: Also write the dataset card and the contact sheet.

    Returns:
        The manifest.

    Raises:
        MissingExtraError: Ray is not installed.
        InputError: A shard failed, or too much was rejected; what was built is kept.
    """
    ray = _ray()
    job = Job(name, root.resolve(), options or {}, controls)
    source = job.source()
    source.check_layout(root)
    refuse_foreign(out, plan_of(job, source, images))
    started = not ray.is_initialized()
    if started:
        ray.init(address=address or os.environ.get("RAY_ADDRESS"), log_to_driver=False, include_dashboard=False,
                 configure_logging=False)
    try:
        count = shards or max(1, SHARDS_PER_CPU * int(ray.cluster_resources().get("CPU", 1)) // workers)
        common = {"options": job.options, "workers": workers, "images": images, "controls": controls}
        task = ray.remote(num_cpus=workers, max_retries=RETRIES)(_shard)
        folder = out.with_name(out.name + ".shards").resolve()
        places = [folder / f"{number:05d}-of-{count:05d}" for number in range(1, count + 1)]
        waiting = {task.remote(name, job.root, place, (number, count), common): place
                   for number, place in enumerate(places, 1)}
        _wait(ray, waiting, progress)
    finally:
        if started:
            ray.shutdown()
    manifest = merge_stores(places, out, max_rejected, progress, card=card)
    shutil.rmtree(folder)
    return manifest


def _shard(name: str, root: Path, out: Path, shard: tuple[int, int], common: dict[str, Any]) -> str | None:
    """Build one shard where that is not done yet; the message of an error, since not every error can be pickled."""
    job = Job(name, root, common["options"], common["controls"], shard)
    try:
        if (out / MANIFEST).is_file():
            built = read_manifest(out)["builder"]
            plan = plan_of(job, job.source(), common["images"])
            if all(built.get(key) == plan[key] for key in ("source", "version", "options", "controls", "shard", "fingerprint")):
                return None
        out.parent.mkdir(parents=True, exist_ok=True)
        build_store(name, root, out, shard=shard, progress=False, **common)
    except GeoTempoError as error:
        return str(error)
    return None


def _wait(ray: Any, waiting: dict[Any, Path], progress: bool) -> None:
    """Wait for all shards, and only then report the first that failed."""
    failed: list[str] = []
    with tqdm(total=len(waiting), unit="shard", disable=not progress) as bar:
        left = list(waiting)
        while left:
            done, left = ray.wait(left)
            for future in done:
                try:
                    message = ray.get(future)
                except ray.exceptions.RayError as error:
                    message = f"its process died {RETRIES + 1} times ({type(error).__name__}), probably for want of memory"
                if message:
                    failed.append(f"{waiting[future]}: {message}")
                bar.update()
    if failed:
        raise InputError(f"{len(failed)} of {len(waiting)} shards failed, the others are kept; the first: {failed[0]}; "
                         "run the same command again when it is mended")


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "ray", "--engine ray") from None
    return ray
