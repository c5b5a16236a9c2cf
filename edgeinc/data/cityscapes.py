"""Cityscapes with fine labels: street scenes of 21 cities, 19 classes in the official order.

Needs leftImg8bit/SPLIT/CITY/*_leftImg8bit.png and gtFine/SPLIT/CITY/*_gtFine_labelIds.png as the
archives unpack. Splits are `train` (2,975 images) and `val` (500); `test` has no public labels.
The labels 0 to 33 of the files become the 19 training ids, and every label outside them is void.
`sequence` is the city.

    data = open_dataset("cityscapes", data_root="/data")      # reads /data/cityscapes
    data.image("aachen_000000_000019")
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeinc.data import Label, Mask
from edgeinc.data._files import checked_ids, read_mask
from edgeinc.data._official import Official, file_names
from edgeinc.errors import DataError
from edgeinc.schema import VOID, Size

LABELS = (
    Label(0, "road", (128, 64, 128)),
    Label(1, "sidewalk", (244, 35, 232)),
    Label(2, "building", (70, 70, 70)),
    Label(3, "wall", (102, 102, 156)),
    Label(4, "fence", (190, 153, 153)),
    Label(5, "pole", (153, 153, 153)),
    Label(6, "traffic light", (250, 170, 30)),
    Label(7, "traffic sign", (220, 220, 0)),
    Label(8, "vegetation", (107, 142, 35)),
    Label(9, "terrain", (152, 251, 152)),
    Label(10, "sky", (70, 130, 180)),
    Label(11, "person", (220, 20, 60)),
    Label(12, "rider", (255, 0, 0)),
    Label(13, "car", (0, 0, 142)),
    Label(14, "truck", (0, 0, 70)),
    Label(15, "bus", (0, 60, 100)),
    Label(16, "train", (0, 80, 100)),
    Label(17, "motorcycle", (0, 0, 230)),
    Label(18, "bicycle", (119, 11, 32)),
)

_FILE_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""What `LABELS` are in the files, in the same order."""
_ALL_FILE_IDS = range(34)

_TO_LABEL = np.full(256, VOID, np.uint8)
_TO_LABEL[list(_FILE_IDS)] = np.arange(len(LABELS))

_IMAGE_END = "_leftImg8bit.png"
_MASK_END = "_gtFine_labelIds.png"
_OTHER_MASK_END = "_gtFine_labelTrainIds.png"


class Cityscapes(Official):
    """One copy of the data set."""

    homepage = "https://www.cityscapes-dataset.com"
    fixed_labels = LABELS

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether the folder has the images and the fine labels."""
        return (root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir()

    @property
    def default_size(self) -> Size:
        return 512, 1024

    def sequence(self, image_id: str) -> str:
        """The city."""
        return image_id.partition("_")[0]

    def mask(self, image_id: str) -> Mask:
        path = self._files(image_id)[1]
        other = path.with_name(f"{image_id}{_OTHER_MASK_END}")
        if not path.is_file() and other.is_file():
            raise DataError(
                f"mask {path} is missing, and {other.name} beside it is not read",
                hint=f"restore the labelIds files, they are in gtFine of {self.homepage}",
            )
        stored = read_mask(self._present(path, "mask"))
        return _TO_LABEL[checked_ids(stored, _ALL_FILE_IDS, path)]

    def _place(self, split: str) -> Path:
        return self.root / "leftImg8bit" / split

    def _read(self, split: str) -> tuple[str, ...]:
        ids: list[str] = []
        for city in file_names(self._place(split), hint=self._way_out):
            folder = self._place(split) / city
            if folder.is_file():
                continue
            for name in file_names(folder, hint=self._way_out):
                if not name.endswith(_IMAGE_END):
                    continue
                if self.sequence(name) != city:
                    raise DataError(
                        f"{folder / name} is not of the city '{city}'",
                        hint="names start with their city, such as aachen_000000_000019",
                    )
                ids.append(name.removesuffix(_IMAGE_END))
        return tuple(ids)

    def _files(self, image_id: str) -> tuple[Path, Path]:
        place = Path(self._split_of(image_id)) / self.sequence(image_id)
        return (
            self.root / "leftImg8bit" / place / f"{image_id}{_IMAGE_END}",
            self.root / "gtFine" / place / f"{image_id}{_MASK_END}",
        )
