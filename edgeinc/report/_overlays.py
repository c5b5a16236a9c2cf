"""Pictures of what the network saw before and after its newest step.

The same images every time: the list of the validation split is cut into equal parts, and from
each comes the image with the most pixels of the newest classes. Neighbouring frames of a video
look alike; parts of the list do not.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

import cv2
import numpy as np

from edgeinc import draw
from edgeinc.data import Dataset, Image, open_dataset
from edgeinc.data._index import count_pixels
from edgeinc.data._labels import evaluation_remap
from edgeinc.errors import EdgeincError
from edgeinc.evaluation import predict_native
from edgeinc.progress import Progress
from edgeinc.report._evidence import Evidence
from edgeinc.runtimes import Session, open_artifact
from edgeinc.schema import ClassTable, StepInfo

_IMAGES = 5
_WIDTH = 420
"""Pixels a picture of the page is at most wide."""
_ALPHA = 0.6
_SPLIT = "val"


class Panel(NamedTuple):
    """A picture as a data URI, and what it shows."""

    name: str
    uri: str


class Overlays(NamedTuple):
    """Rows of panels: input, truth, before (from the second step on), after.

    `missing` says why there are none.
    """

    rows: tuple[tuple[str, tuple[Panel, ...]], ...] = ()
    runtimes: tuple[str, ...] = ()
    missing: str = ""


def overlays(evidence: Evidence, *, progress: Progress) -> Overlays:
    """Draw the pictures, or say why they cannot be drawn here."""
    step = evidence.newest
    shown = [s for s in evidence.steps if s.index >= step.index - 1]
    try:
        data = open_dataset(step.data)
        chosen = _choose(data, step, progress)
        if not chosen:
            return Overlays(missing=f"No {_SPLIT} image of {step.data.name} shows a new class.")
        with ExitStack() as stack:
            sessions = [stack.enter_context(_open(evidence, s)) for s in shown]
            rows = []
            with progress.task("overlays", total=len(chosen), unit="image") as task:
                for image_id in chosen:
                    rows.append((image_id, _row(data, image_id, step.table, sessions)))
                    task.advance(note=image_id)
            used = tuple(f"step {s.step}: {s.runtime}, {s.precision}" for s in sessions)
        return Overlays(tuple(rows), used)
    except EdgeincError as err:
        return Overlays(missing=f"{err.message[:1].upper()}{err.message[1:]}.")


def _open(evidence: Evidence, step: StepInfo) -> Session:
    """The step's exported file where it can be opened, as its figures are the file's; else torch.

    Raises:
        EdgeincError: Neither can be opened on this machine.
    """
    folder = evidence.run.path / "export"
    for card in evidence.cards:
        if card.step == step.index and card.precision == "fp32":
            try:
                return open_artifact(folder / card.file)
            except EdgeincError:
                break
    return open_artifact(evidence.run.folder(step.index))


def _choose(data: Dataset, step: StepInfo, progress: Progress) -> list[str]:
    """From each part of the split, the image with the most pixels of the step's new classes."""
    ids = data.ids(_SPLIT)
    remap = evaluation_remap(data, step.table)
    new = [c.id for c in step.table.of_step(step.index)]
    counts = count_pixels(data, ids, progress=progress)
    shown = [row[np.isin(remap(i), new)].sum() for i, row in zip(ids, counts, strict=True)]
    parts = np.array_split(np.arange(len(ids)), min(_IMAGES, len(ids)))
    best = [max(part.tolist(), key=shown.__getitem__) for part in parts]
    return [ids[i] for i in best if shown[i]]


def _row(
    data: Dataset, image_id: str, table: ClassTable, sessions: Sequence[Session]
) -> tuple[Panel, ...]:
    image = data.image(image_id)
    truth = evaluation_remap(data, table)(image_id)[data.mask(image_id)]
    colors = draw.palette(table.classes)
    pictures = [("input", image), ("truth", draw.overlay(image, truth, colors, alpha=_ALPHA))]
    names = [f"step {sessions[0].step}"] if len(sessions) == 1 else ["before", "after"]
    for name, session in zip(names, sessions, strict=True):
        ids = predict_native(session, image)
        pictures.append((name, draw.overlay(image, ids, colors, alpha=_ALPHA)))
    return tuple(Panel(name, _uri(picture)) for name, picture in pictures)


def _uri(picture: Image) -> str:
    height, width = picture.shape[:2]
    if width > _WIDTH:
        size = (_WIDTH, max(1, round(height * _WIDTH / width)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    content = cv2.imencode(
        ".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 82]
    )[1]
    return f"data:image/jpeg;base64,{b64encode(content.tobytes()).decode()}"
