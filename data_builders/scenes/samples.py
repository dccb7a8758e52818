"""From one scene to samples of every task that it supports, with exact answers.

Each sample stands for itself: a question about one image carries that image only, one about a pair of a longer
sequence carries the pair or the whole sequence. Region numbers count the images that the sample carries, from 1.
"""

import numpy as np

from geotempo.data_builders.sample import Sample
from geotempo.data_builders.scenes import tasks_change, tasks_image, tasks_time
from geotempo.data_builders.scenes.desk import Desk, image_records
from geotempo.data_builders.scenes.scene import SceneOptions
from geotempo.data_builders.scenes.world import generate
from geotempo.model.errors import InputError

_SPLIT_STEP = 10**9
_SPLITS = ("train", "val", "test")


def scene_samples(seed: int, index: int, *, size: int = 256, dates: int | None = None, split: str = "train",
                  options: SceneOptions = SceneOptions()) -> list[Sample]:
    """Samples of scene `index` for every task that the scene supports.

    Args:
        seed: Series.
        index: Number in the series, 0 or more and below a billion; splits never share a scene.
        size: Side of the images in pixels.
        dates: Number of images 1..8; None draws it: mostly 2.
        split: train, val or test.
        options: What may happen.

    Returns:
        Samples with ids `scenes-{seed}/{split}/{index}#{task}`, `-2` and so on after further ones of a task.

    Raises:
        InputError: An argument is out of range.
    """
    if split not in _SPLITS:
        raise InputError(f"unknown split {split!r} of scenes; allowed: {', '.join(_SPLITS)}")
    if not 0 <= index < _SPLIT_STEP:
        raise InputError(f"the index of a scene must be 0 or more and below {_SPLIT_STEP}, got {index}")
    number = index + _SPLITS.index(split) * _SPLIT_STEP
    scene = generate(seed, number, size=size, dates=dates, options=options)
    desk = Desk(scene, f"scenes-{seed}", split, index, image_records(scene), np.random.default_rng([seed, number, 9]))
    tasks_image.add(desk)
    if len(scene.images) > 1:
        tasks_change.add(desk)
        tasks_time.add(desk)
    return desk.samples
