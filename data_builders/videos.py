"""Frames of video files, for the sets that store image sequences as videos. Needs PyAV (extra `video`)."""

from pathlib import Path
from typing import Any

import numpy as np

from geotempo.data_builders.source import Rejection
from geotempo.data_builders.tiling import as_record
from geotempo.model.errors import MissingExtraError
from geotempo.model.records import ImageRecord

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv")


def need_decoder(purpose: str) -> None:
    """Check that videos can be decoded.

    Raises:
        MissingExtraError: PyAV is not installed.
    """
    try:
        import av  # noqa: F401
    except ImportError:
        raise MissingExtraError("av", "video", purpose) from None


def read_frames(path: Path, count: int) -> tuple[list[ImageRecord], int]:
    """Frames of a video, spread evenly from the first to the last.

    Args:
        path: The file.
        count: How many frames are wanted at most.

    Returns:
        (RGB frames in order, as PNG; number of frames of the video).

    Raises:
        Rejection: The video is missing, has no frames, or cannot be decoded.
    """
    import av

    name = f"{path.parent.name}/{path.name}"
    if not path.is_file():
        raise Rejection("missing video", name)
    try:
        with av.open(str(path)) as container:
            total = sum(1 for _ in container.decode(video=0))
        wanted = set(np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()) if total else set()
        with av.open(str(path)) as container:
            frames: list[Any] = [frame.to_ndarray(format="rgb24") for number, frame in enumerate(container.decode(video=0))
                                 if number in wanted]
    except (av.FFmpegError, IndexError, OSError) as error:
        raise Rejection("broken video", f"{name}: {type(error).__name__}") from None
    if not frames:
        raise Rejection("broken video", f"{name} has no frames")
    return [as_record(frame) for frame in frames], total
