"""Run a network on images, a video or a camera, and write what it sees.

Rules: pictures keep the size of their source (the image is resized to the network's size, its ids
back by nearest neighbour); a mask holds the class ids themselves, in a single-channel PNG whose
palette shows the class colours; a file appears when it is complete, never half written.

    predict("runs/a", "street.jpg", out="seen.jpg")
    predict("runs/a", "images", out="masks", save="mask")
    predict("runs/a", "drive.mp4", out="seen.mp4", compare="runs/a/step-0")
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from shlex import quote
from typing import Literal, get_args

import numpy as np

from edgeinc import draw
from edgeinc.data._files import IMAGE_SUFFIXES, read_image
from edgeinc.errors import DataError, UsageError
from edgeinc.predict._pictures import Save, encoded, palette_png, picture, see, seen
from edgeinc.predict._video import VIDEO_SUFFIXES, predict_video
from edgeinc.progress import SILENT, Progress
from edgeinc.registry import suggest
from edgeinc.runs import write_atomic
from edgeinc.runtimes import Session, open_artifact
from edgeinc.schema import PredictResult

__all__ = ["Save", "predict"]

Kind = Literal["image", "folder", "video", "camera"]

_NAMED = 10
"""Images that a message names at most."""


def predict(
    target: str | os.PathLike[str],
    source: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    step: int | None = None,
    compare: str | os.PathLike[str] | None = None,
    save: Save = "overlay",
    runtime: str | None = None,
    device: str = "auto",
    threads: int = 0,
    progress: Progress = SILENT,
) -> PredictResult:
    """Segment images, a video or a camera's frames and write pictures or masks.

    Args:
        target: A run, a step folder of a run, or an exported file.
        source: An image, a folder of images, a video, or the number of a camera ("0").
        out: File to write for an image, video or camera; folder for a folder of images.
        step: Step of the run `target` instead of its newest.
        compare: A second run, step folder or exported file, shown first, as "before".
        save: `overlay`: the classes over the image; `side-by-side`: the image beside it;
            `mask`: class ids as a PNG (images only).
        runtime: Runtime of both networks; None takes the one that opens the file.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        threads: Threads to compute with; 0 takes every core of this process.
        progress: Receives one unit per image or frame.

    Returns:
        The files written, and the images per second of `target`, resizing included.

    Raises:
        UsageError: Source, `out` and `save` do not fit together, or one of them does not exist.
        DataError: The folder has no images, or an image or video cannot be read. What cannot be
            read in a folder is named when all others are written.
        MissingError: The runtime, device or camera is not here.
        Interrupted: Stopped during a video; what was done is a complete file.
    """
    source, out = os.fspath(source), Path(out)
    kind = _kind(source)
    _check_save(save, kind, compare)
    _check_out(out, source, kind, save)
    images = _image_files(Path(source)) if kind == "folder" else (Path(source),)
    wanted = [(path, of) for path, of in ((compare, None), (target, step)) if path is not None]
    with ExitStack() as stack:
        sessions = [
            stack.enter_context(
                open_artifact(path, step=of, runtime=runtime, device=device, threads=threads)
            )
            for path, of in wanted
        ]
        for session in sessions:  # a first call also pays for memory and kernels: not timed
            session.run(np.zeros((1, *session.size, 3), np.uint8))
        outputs = _out_files(images, out, save) if kind == "folder" else (out,)
        if kind in ("video", "camera"):
            seconds = predict_video(sessions, source, out, save=save, progress=progress)
        else:
            seconds = _images(sessions, images, outputs, save, progress)
    used = sessions[-1]
    return PredictResult(
        source=source,
        artifact=str(used.path),
        runtime=used.runtime,
        frames=len(seconds),
        fps=len(seconds) / sum(seconds),
        outputs=tuple(map(str, outputs)),
    )


def _images(
    sessions: Sequence[Session],
    images: Sequence[Path],
    outputs: Sequence[Path],
    save: Save,
    progress: Progress,
) -> list[float]:
    """Write one picture per image; returns the seconds the last network took for each."""
    seconds, unread = [], list[tuple[str, DataError]]()
    with progress.task("predict", total=len(images), unit="image") as task:
        for path, output in zip(images, outputs, strict=True):
            try:
                seconds.append(_image(sessions, path, output, save))
            except DataError as err:
                unread.append((path.name, err))
            task.advance(note=path.name)
    if unread:
        alone = len(images) == 1
        raise unread[0][1] if alone else _unread(unread, len(images), outputs[0].parent)
    return seconds


def _image(sessions: Sequence[Session], path: Path, output: Path, save: Save) -> float:
    """Write the picture of one image; returns the seconds the last network took."""
    image = read_image(path)
    views = [see(session, image) for session in sessions]
    if save == "mask":
        content = palette_png(views[-1].ids, draw.palette(views[-1].session.table.classes))
    else:
        content = encoded(picture(image, views, save, seen(views)), output.suffix)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(output, content)
    return views[-1].seconds


def _unread(unread: Sequence[tuple[str, DataError]], images: int, out: Path) -> DataError:
    """That some images of a folder could not be read, and what became of the others."""
    names = ", ".join(name for name, _ in unread[:_NAMED])
    more = f" and {len(unread) - _NAMED} more" if len(unread) > _NAMED else ""
    others = f"the other {images - len(unread)} are in {out}"
    return DataError(
        f"{len(unread)} of {images} images could not be read: {names}{more}",
        hint=f"{others if images > len(unread) else 'nothing was written'}; {unread[0][1].message}",
    )


# ------------------------------------------------------------------------------ what is asked


def _kind(source: str) -> Kind:
    path = Path(source)
    if path.is_dir():
        return "folder"
    if not path.exists():
        if source.isdecimal():
            return "camera"
        raise UsageError(
            f"no such source: {source}", hint="an image, a folder, a video or a camera number"
        )
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return "image"
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return "video"
    raise UsageError(
        f"{source} is neither an image nor a video",
        hint=f"known endings: {', '.join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))}",
    )


def _check_save(save: str, kind: Kind, compare: object) -> None:
    if save not in get_args(Save):
        raise UsageError(f"unknown kind of picture '{save}'", hint=suggest(save, get_args(Save)))
    if save == "mask" and kind in ("video", "camera"):
        raise UsageError(
            "a video cannot hold masks: its compression changes the ids",
            hint="leave out --save mask, or give a folder of images",
        )
    if save == "mask" and compare is not None:
        raise UsageError("a mask shows one network only", hint="leave out --compare or --save mask")


def _check_out(out: Path, source: str, kind: Kind, save: Save) -> None:
    """Refuse an `out` that is the source, or not a file or folder as the source needs it."""
    if out.exists() and out.resolve() == Path(source).resolve():
        raise UsageError(f"{out} is the source itself", hint="choose another --out")
    if kind == "folder":
        if out.exists() and not out.is_dir():
            raise UsageError(
                f"{out} is a file; a folder of images is written to a folder",
                hint="choose another --out",
            )
        return
    fitting = (".mp4",) if kind in ("video", "camera") else IMAGE_SUFFIXES
    fitting = (".png",) if save == "mask" else fitting
    if out.is_dir() or out.suffix.lower() not in fitting:
        name = "camera" if kind == "camera" else Path(source).stem
        example = (out if out.is_dir() else out.parent) / f"{name}-{save}{fitting[0]}"
        raise UsageError(
            f"{out} does not name a {'mask' if save == 'mask' else kind} file",
            hint=f"it ends in {' or '.join(fitting)}: --out {quote(str(example))}",
        )


def _image_files(folder: Path) -> tuple[Path, ...]:
    """The images of a folder by name.

    Raises:
        DataError: There is none.
        UsageError: Two have the same stem and would be written to one file.
    """
    by_stem: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if path.stem in by_stem:
            raise UsageError(
                f"{by_stem[path.stem]} and {path.name} would be written to one file",
                hint="rename one of them",
            )
        by_stem[path.stem] = path
    if not by_stem:
        raise DataError(
            f"{folder} holds no images", hint=f"known endings: {', '.join(IMAGE_SUFFIXES)}"
        )
    return tuple(by_stem.values())


def _out_files(images: Sequence[Path], out: Path, save: Save) -> tuple[Path, ...]:
    suffix = ".png" if save == "mask" else ".jpg"
    return tuple(out / f"{path.stem}{suffix}" for path in images)
