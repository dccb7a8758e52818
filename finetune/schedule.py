"""The learning-rate schedule of our own training loops."""

import math


def warmup_cosine(step: int, warmup: int, steps: int, floor: float = 0.0) -> float:
    """Factor of the peak learning rate: linear warm-up, then a cosine from 1 to `floor`.

    Args:
        step: Step from 0.
        warmup: Steps of warm-up.
        steps: Steps in all.
        floor: Factor at the end, 0 to 1.
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
