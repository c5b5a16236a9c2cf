"""Synthesised images in a run: kept as tensors for training, and as pictures to look at.

    RUN/inverted/PARENT/KEY/batch-000.safetensors    what `methods._inversion.invert` returns
                           batch-000.part.safetensors    a batch that is not finished
                           000-car.png ...           the same images, rounded to 8 bits

PARENT is the start of the hash of the weights they were made from, KEY that of everything else they
depend on. An extension of the same network with the same options finds them, whether it is
repeated or was begun with `edgeinc invert`. Nothing else reads this folder: exports, reports and
updates never contain it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from edgeinc.data._files import encode_png
from edgeinc.errors import RunError
from edgeinc.runs import Run, write_atomic
from edgeinc.schema import Normalisation, StepInfo

__all__ = ["FOLDER", "Gallery", "picture"]

FOLDER = "inverted"
_DIGITS = 12


class Gallery:
    """The store of one network's synthesised images; see `methods.Store`.

    Args:
        run: The run.
        parent: The step whose network they are made from.
    """

    def __init__(self, run: Run, parent: StepInfo) -> None:
        self.folder = run.path / FOLDER / parent.weights_sha256[:_DIGITS]
        self.normalisation = run.info.normalisation
        self.names = [entry.name for entry in parent.classes]

    def file(self, name: str) -> Path:
        """Where tensors of a name lie."""
        return self.folder / f"{name}.safetensors"

    def load(self, name: str) -> dict[str, Tensor] | None:
        """What was saved, or None.

        Raises:
            RunError: The file is damaged.
        """
        file = self.file(name)
        if not file.exists():
            return None
        try:
            return load_file(file)
        except SafetensorError as err:
            raise RunError(f"{file} is damaged: {err}", hint="delete it; it is made again") from err

    def save(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Write tensors atomically, and their images as pictures before.

        Raises:
            RunError: The disk is full.
        """
        file = self.file(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        if "images" in tensors:
            self._draw(file.parent, file.stem, tensors)
        write_atomic(file, save({k: v.cpu().contiguous() for k, v in tensors.items()}))

    def drop(self, name: str) -> None:
        """Delete what was saved."""
        self.file(name).unlink(missing_ok=True)

    def _draw(self, folder: Path, stem: str, tensors: dict[str, Tensor]) -> None:
        images, wished = tensors["images"], tensors["wished"].tolist()
        first = int(stem.rpartition("-")[2]) * len(images)
        for index, (image, classes) in enumerate(zip(images, wished, strict=True)):
            shown = "+".join(_in_file_names(self.names[c]) for c in classes)
            content = encode_png(picture(image, self.normalisation))
            write_atomic(folder / f"{first + index:03d}-{shown}.png", content)


def picture(image: Tensor, normalisation: Normalisation) -> npt.NDArray[np.uint8]:
    """A normalised image (3, H, W) as RGB (H, W, 3) uint8."""
    mean, std = (np.array(values) for values in normalisation)
    values = image.float().permute(1, 2, 0).numpy() * std + mean
    pixels: npt.NDArray[np.uint8] = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return pixels


def _in_file_names(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)
