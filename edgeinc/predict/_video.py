"""Videos and cameras: frames in, one MP4 out.

Rules: the file gets its name when it is complete; Ctrl-C ends the work, not the file: a camera is
stopped that way, and of a video everything up to there is kept.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from edgeinc.data import Image
from edgeinc.draw import Picture
from edgeinc.errors import DataError, EdgeincError, Interrupted, MissingError
from edgeinc.predict._pictures import Save, known, picture, see
from edgeinc.progress import Progress
from edgeinc.runtimes import Session

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".m4v", ".webm")
"""Endings of files that are read as video."""

DEFAULT_FPS = 25.0
"""Of a source that does not tell its own."""
_WINDOW = 30
"""Frames that the speed in the corner is averaged over."""


class Stream(NamedTuple):
    """An opened source: frames per second, and how many frames it announces (None: endless)."""

    frames: Iterator[Image]
    fps: float
    total: int | None


def predict_video(
    sessions: Sequence[Session], source: str, out: Path, *, save: Save, progress: Progress
) -> list[float]:
    """Write what the networks see in a video or before a camera, the speed in its corner.

    Returns:
        The seconds the last network took for each frame.

    Raises:
        DataError: The video cannot be read.
        MissingError: There is no such camera.
        Interrupted: A video was stopped before its end.
        EdgeincError: No MP4 can be written.
    """
    legend, seconds = known(sessions), list[float]()
    recent: deque[float] = deque(maxlen=_WINDOW)
    stopped = False
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        opened(source) as stream,
        writer(out, stream.fps) as write,
        progress.task("predict", total=stream.total, unit="frame") as task,
    ):
        try:
            for frame in stream.frames:
                views = [see(session, frame) for session in sessions]
                recent.append(views[-1].seconds)
                speed = f"{len(recent) / sum(recent):.1f} FPS"
                write(picture(frame, views, save, legend, corner=speed))
                seconds.append(views[-1].seconds)
                task.advance(note=speed)
        except KeyboardInterrupt:
            stopped = True
        if not seconds:
            raise Interrupted("stopped before the first frame") if stopped else _unreadable(source)
    if stream.total is None:
        return seconds
    if stopped:
        raise Interrupted(f"stopped after {len(seconds)} of {stream.total} frames, kept in {out}")
    if len(seconds) < stream.total:
        progress.message(
            f"{source} ended after {len(seconds)} of the {stream.total} frames it announces"
        )
    return seconds


@contextmanager
def opened(source: str) -> Iterator[Stream]:
    """The frames of a video, or of a camera where the source is its number.

    Raises:
        DataError: The video cannot be read.
        MissingError: There is no such camera.
    """
    camera = source.isdecimal() and not Path(source).exists()
    capture = cv2.VideoCapture(int(source)) if camera else cv2.VideoCapture(source)
    try:
        if not capture.isOpened():
            if camera:
                raise MissingError(
                    f"camera {source} cannot be opened",
                    hint="check that it is connected and that this user may read it",
                )
            raise _unreadable(source)
        fps = capture.get(cv2.CAP_PROP_FPS)
        known_fps = math.isfinite(fps) and 0 < fps <= 1000
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        total = None if camera else max(0, count)
        yield Stream(_frames(capture), fps if known_fps else DEFAULT_FPS, total)
    finally:
        capture.release()


def _frames(capture: cv2.VideoCapture) -> Iterator[Image]:
    while True:
        ok, frame = capture.read()
        if not ok:
            return
        yield np.ascontiguousarray(frame[..., ::-1], dtype=np.uint8)


@contextmanager
def writer(out: Path, fps: float) -> Iterator[Callable[[Picture], None]]:
    """A function that appends a picture; the file is named `out` when the block ends well."""
    part = out.with_name(f".{out.stem}.{os.getpid()}.part.mp4")
    files: list[cv2.VideoWriter] = []

    def write(frame: Picture) -> None:
        # The codec drops the last row or column of an odd size, so it is given an even one.
        height, width = (side + side % 2 for side in frame.shape[:2])
        if not files:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            files.append(cv2.VideoWriter(str(part), code, fps, (width, height)))
            if not files[0].isOpened():
                raise EdgeincError(
                    f"cannot write {out}: this OpenCV has no mp4v encoder, or the folder is full",
                    hint="free some space, or install opencv-python-headless from PyPI",
                )
        padding = ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0))
        files[0].write(np.pad(frame, padding, constant_values=255)[..., ::-1])

    try:
        yield write
        for file in files:
            file.release()
        part.replace(out)
    finally:
        for file in files:
            file.release()
        part.unlink(missing_ok=True)


def _unreadable(source: str) -> DataError:
    return DataError(
        f"{source} is not a video that can be read, or it is damaged",
        hint="play it in a viewer; copy it again or convert it to MP4",
    )
