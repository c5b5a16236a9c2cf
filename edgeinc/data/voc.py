"""Pascal VOC 2012 with the SegmentationClassAug masks: 20 classes of objects and a background.

Needs JPEGImages/, SegmentationClassAug/ (SegmentationClass/ for what is not in it) and the lists
in ImageSets/Segmentation/, in a folder that may also stand inside VOC2012/ or VOCdevkit/VOC2012/.

    train    the 10,582 images of train_aug.txt (or trainaug.txt; also read beside JPEGImages/).
             The list comes with SegmentationClassAug; the 1,464 images of train.txt are never
             taken in its place
    val      the 1,449 images of val.txt

A list line is an id, or the path of an image and whatever follows. Label 255 is void.

    data = open_dataset("voc", data_root="/data")      # reads /data/voc
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path, PureWindowsPath

from edgeinc.data._official import Official, read_lines
from edgeinc.data._palette import palette_labels
from edgeinc.errors import DataError
from edgeinc.schema import Size

LABELS = palette_labels(
    (
        "background",
        *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
        *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
        *("train", "tvmonitor"),
    )
)

_LISTS = {"train": ("train_aug.txt", "trainaug.txt"), "val": ("val.txt",)}
_LIST_FOLDERS = ("ImageSets/Segmentation", "ImageSets/SegmentationAug", "")
_SBD = "http://home.bharathh.info/pubs/codes/SBD/download.html"
_LIST = "dataset/train.txt of https://github.com/DrSleep/tensorflow-deeplab-resnet"


class Voc(Official):
    """One copy of the data set."""

    background = "real"
    homepage = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
    fixed_labels = LABELS

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether the folder has images and segmentation lists, and no table of an export."""
        base = _base(root)
        return (
            (base / "JPEGImages").is_dir()
            and (base / "ImageSets" / "Segmentation").is_dir()
            and not (base / "labelmap.txt").exists()
        )

    @property
    def default_size(self) -> Size:
        return 512, 512

    @cached_property
    def _folder(self) -> Path:
        return _base(self.root)

    @property
    def _way_out(self) -> str:
        return (
            f"obtain VOC 2012 from {self.homepage}; "
            f"SegmentationClassAug holds the SBD masks of {_SBD} as PNG"
        )

    def _place(self, split: str) -> Path:
        folders = [*(self._folder / folder for folder in _LIST_FOLDERS), self.root]
        places = [folder / name for folder in folders for name in _LISTS[split]]
        return next((path for path in places if path.is_file()), places[0])

    def _read(self, split: str) -> tuple[str, ...]:
        path, hint = self._place(split), self._way_out
        if split == "train":
            hint += f"; the list is {_LIST}, VOC's own train.txt is not taken in its place"
        lines = read_lines(path, hint=hint)
        # Windows paths may be written with either slash, so they read every form of list.
        stems = tuple(PureWindowsPath(line.split()[0]).stem for line in lines)
        if len(set(stems)) < len(stems):
            twice = next(s for s in stems if stems.count(s) > 1)
            raise DataError(f"{path} lists '{twice}' twice", hint="remove one of the two lines")
        return stems

    def _files(self, image_id: str) -> tuple[Path, Path]:
        self._split_of(image_id)
        image = self._folder / "JPEGImages" / f"{image_id}.jpg"
        mask = self._folder / "SegmentationClassAug" / f"{image_id}.png"
        if not mask.is_file():
            plain = self._folder / "SegmentationClass" / f"{image_id}.png"
            mask = plain if plain.is_file() else mask
        return image, mask


def _base(root: Path) -> Path:
    """The folder of the images: `root`, or where the archives unpack to below it."""
    candidates = (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012")
    return next((path for path in candidates if (path / "JPEGImages").is_dir()), root)
