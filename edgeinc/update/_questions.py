"""Golden answers beside those in the file: real images that may be published.

asks = questions(Path("golden.npz"), card)
answered(asks, content, card, gate)      # bytes of the file that devices ask with
"""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinc.errors import UpdateError, UsageError
from edgeinc.schema import ArtifactCard
from edgeinc.update._evidence import opened

MAX_BYTES = 16 << 20
"""Of the images and answers; every device fetches and keeps them."""


@dataclass(frozen=True)
class Questions:
    """`images` (N, H, W, 3) uint8 RGB of `path`, and the right `ids` (N, H, W) uint8 if known."""

    path: Path
    images: npt.NDArray[np.uint8]
    ids: npt.NDArray[np.uint8] | None


def answered(asks: Questions, content: bytes, card: ArtifactCard, percent: float) -> bytes:
    """What devices will be asked, with the answers that the published file gives here.

    Args:
        asks: The images.
        content: The published file.
        card: Its card.
        percent: Of the ids of every image that have to be right.

    Raises:
        UpdateError: An answer is not right.
    """
    with opened(content, card) as session:
        answers = np.concatenate([session.run(image[None]) for image in asks.images])
    if asks.ids is not None:
        right = 100 * (answers == asks.ids).mean(axis=(1, 2))
        worst = int(right.argmin())
        if right[worst] < percent:
            raise UpdateError(
                f"image {worst} of {asks.path} is answered wrong: {right[worst]:.1f} % of the ids "
                f"agree, the gate is {percent:g} %",
                hint="look at the step, or leave out `ids` where they are another network's",
            )
    packed = io.BytesIO()
    np.savez_compressed(packed, images=asks.images, ids=answers)
    return packed.getvalue()


def questions(path: Path, card: ArtifactCard) -> Questions:
    """Read images of an .npz file, in the artifact's size.

    Raises:
        UsageError: There is no such file, or it holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            images: Any = file["images"]
            ids: Any = file.get("ids")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as err:
        raise UsageError(
            f"{path} holds no golden images: {err}",
            hint="numpy.savez_compressed(FILE, images=images), uint8 (N, H, W, 3)",
        ) from err
    shape = (*card.size, 3)
    if images.dtype != np.uint8 or images.shape[1:] != shape or not 0 < images.nbytes <= MAX_BYTES:
        raise UsageError(
            f"images of {path} are {images.dtype} {images.shape}",
            hint=f"uint8 (N, {shape[0]}, {shape[1]}, 3), at most {MAX_BYTES >> 20} MiB of them",
        )
    if ids is not None and (ids.dtype != np.uint8 or ids.shape != images.shape[:3]):
        raise UsageError(
            f"ids of {path} are {ids.dtype} {ids.shape}", hint=f"uint8 {images.shape[:3]}"
        )
    return Questions(path, images, ids)
