"""CamVid as first published: 701 frames of 960x720, masks in colour, 31 classes and void.

Needs 701_StillsRaw_full/ (or images/) with the frames and LabeledApproved_full/ (or labels/) with
NAME_L.png. The classes are the lines "R G B Name" of label_colors.txt, or the 32 of the publication
where that file is absent. `Void` is void; several colours may carry that name, so a stray colour of
a mask is dealt with by one more line. Splits are the published ones, by rule:

    test     video Seq05VD, and 0001TP from frame 008550 on (the second half)
    val      video 0016E5, frames 07959 to 08159
    train    everything else

The form with 11 classes, in which most results are published, is the data set `camvid`.

    data = open_dataset("camvid32", data_root="/data")      # reads /data/camvid32
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import ClassVar

from edgeinc.data import Label, Mask
from edgeinc.data._files import IMAGE_SUFFIXES, read_color_mask
from edgeinc.data._official import Official, file_names, read_lines
from edgeinc.errors import DataError
from edgeinc.schema import VOID, Color

_TABLE = "label_colors.txt"
_PUBLISHED = """
64 128 64 Animal
192 0 128 Archway
0 128 192 Bicyclist
0 128 64 Bridge
128 0 0 Building
64 0 128 Car
64 0 192 CartLuggagePram
192 128 64 Child
192 192 128 Column_Pole
64 64 128 Fence
128 0 192 LaneMkgsDriv
192 0 64 LaneMkgsNonDriv
128 128 64 Misc_Text
192 0 192 MotorcycleScooter
128 64 64 OtherMoving
64 192 128 ParkingBlock
64 64 0 Pedestrian
128 64 128 Road
128 128 192 RoadShoulder
0 0 192 Sidewalk
192 128 128 SignSymbol
128 128 128 Sky
64 128 192 SUVPickupTruck
0 0 64 TrafficCone
0 64 64 TrafficLight
192 64 128 Train
128 128 0 Tree
192 128 192 Truck_Bus
64 0 64 Tunnel
192 192 0 VegetationMisc
0 0 0 Void
64 192 0 Wall
"""
_IMAGES = ("701_StillsRaw_full", "images")
_MASKS = ("LabeledApproved_full", "labels")


class CamVid32(Official):
    """One copy of the data set. Its frames are listed once, when they are first asked for."""

    homepage = "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/"
    split_names: ClassVar[tuple[str, ...]] = ("train", "val", "test")

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether the folder has the published masks, or labels/ beside a table of colours."""
        return (root / _MASKS[0]).is_dir() or (
            (root / _MASKS[1]).is_dir() and (root / _TABLE).is_file()
        )

    @property
    def labels(self) -> tuple[Label, ...]:
        colors = self._colors.items()
        return tuple(Label(i, name, color) for color, (i, name) in colors if i != VOID)

    def mask(self, image_id: str) -> Mask:
        path = self._present(self._files(image_id)[1], "mask")
        return read_color_mask(path, {color: i for color, (i, _) in self._colors.items()})

    def sequence(self, image_id: str) -> str:
        """The video: what stands before the underscore, such as `0006R0`."""
        return image_id.partition("_")[0]

    @cached_property
    def _colors(self) -> dict[Color, tuple[int, str]]:
        """Colour -> (id, name), the classes in id order."""
        path = self.root / _TABLE
        if not path.is_file():
            return _read_table(_PUBLISHED.strip().split("\n"), path)
        return _read_table(read_lines(path, hint=self._way_out), path)

    @cached_property
    def _frames(self) -> dict[str, Path]:
        """Image id -> image file, sorted by id."""
        folder = self._place("train")
        found: dict[str, Path] = {}
        for name in file_names(folder, hint=self._way_out):
            path = folder / name
            if path.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            if path.stem in found:
                raise DataError(
                    f"{found[path.stem].name} and {name} in {folder} share one mask",
                    hint="remove one of them",
                )
            found[path.stem] = path
        return dict(sorted(found.items()))

    def _place(self, split: str) -> Path:
        return self._folder(_IMAGES)

    def _has(self, split: str) -> bool:
        return super()._has(split) and bool(self._read(split))

    def _read(self, split: str) -> tuple[str, ...]:
        return tuple(image_id for image_id in self._frames if published_split(image_id) == split)

    def _files(self, image_id: str) -> tuple[Path, Path]:
        self._split_of(image_id)
        return self._frames[image_id], self._folder(_MASKS) / f"{image_id}_L.png"

    def _folder(self, names: tuple[str, ...]) -> Path:
        folders = [self.root / name for name in names]
        return next((folder for folder in folders if folder.is_dir()), folders[0])


def published_split(image_id: str) -> str:
    """The split a frame belongs to, by its video and its number.

    Source: the division of Brostow et al. (ECCV 2008) in the form of the SegNet tutorial's lists,
    367, 101 and 233 frames.
    """
    video, _, number = image_id.partition("_")
    frame = int(number) if number.isdecimal() else -1
    if video == "Seq05VD" or (video == "0001TP" and frame >= 8550):
        return "test"
    return "val" if video == "0016E5" and 7959 <= frame <= 8159 else "train"


def _read_table(lines: list[str], path: Path) -> dict[Color, tuple[int, str]]:
    """Colour -> (id, name) of "R G B Name" lines; ids count the classes, void has its own.

    Raises:
        DataError: A line is not of that form, or a colour or a class comes twice.
    """
    table: dict[Color, tuple[int, str]] = {}
    names: set[str] = set()
    for line in lines:
        *values, name = [*line.split(maxsplit=3), "", "", "", ""][:4]
        name = name.strip()
        if not all(_is_channel(v) for v in values) or not name or "," in name:
            raise DataError(
                f"{path}: '{line.strip()[:80]}' is not a class",
                hint="write 'R G B Name': values of 0 to 255, a name without a comma",
            )
        red, green, blue = map(int, values)
        color = (red, green, blue)
        if color in table:
            raise DataError(
                f"{path}: color {red} {green} {blue} is given to '{table[color][1]}' and '{name}'",
                hint="give each class a color of its own",
            )
        if name in names:
            raise DataError(f"{path}: '{name}' is given twice", hint="remove one of the two lines")
        if name.lower() == "void":
            table[color] = (VOID, name)
            continue
        table[color] = (len(names), name)
        names.add(name)
    if not names or len(names) > VOID:
        raise DataError(f"{path} lists {len(names)} classes", hint=f"1 to {VOID} can be told apart")
    return table


def _is_channel(value: str) -> bool:
    return value.isascii() and value.isdigit() and len(value) <= 3 and int(value) <= 255
