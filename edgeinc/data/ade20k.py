"""ADE20K in the form of SceneParse150: 150 classes of scenes, and id 0 for everything else.

Needs images/training/, images/validation/ (JPEG) and annotations/ with the same folders (PNG), in
a folder that may also stand inside ADEChallengeData2016/. Splits are `train` (20,210 images) and
`val` (2,000). Ids are those of the files: 0 is `other`, and 1 to 150 are sorted by how common they
are.

    data = open_dataset("ade20k", data_root="/data")      # reads /data/ade20k
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from edgeinc.data._official import Official, file_names
from edgeinc.data._palette import palette_labels
from edgeinc.schema import Size

# The first name of each line of objectInfo150.txt. Line 90 starts with "television" in one edition
# and with "television receiver", as here, in the names published networks carry.
_NAMES = """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person,
earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea,
mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion,
base, box, column, signboard, chest of drawers, counter, sand, sink, skyscraper, fireplace,
refrigerator, grandstand, path, stairs, runway, case, pool table, pillow, screen door, stairway,
river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop, stove,
palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light,
truck, tower, chandelier, awning, streetlight, booth, television receiver, airplane, dirt track,
apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship,
fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall,
tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal,
bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray,
ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
"""

LABELS = palette_labels(("other", *" ".join(_NAMES.split()).split(", ")))

_FOLDERS = {"train": "training", "val": "validation"}


class Ade20k(Official):
    """One copy of the data set."""

    background = "real"
    homepage = "http://sceneparsing.csail.mit.edu"
    fixed_labels = LABELS

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether the folder has images and annotations for training."""
        base = _base(root)
        return all((base / kind / "training").is_dir() for kind in ("images", "annotations"))

    @property
    def default_size(self) -> Size:
        return 512, 512

    @cached_property
    def _folder(self) -> Path:
        return _base(self.root)

    def _place(self, split: str) -> Path:
        return self._folder / "images" / _FOLDERS[split]

    def _read(self, split: str) -> tuple[str, ...]:
        names = file_names(self._place(split), hint=self._way_out)
        return tuple(name.removesuffix(".jpg") for name in names if name.endswith(".jpg"))

    def _files(self, image_id: str) -> tuple[Path, Path]:
        folder = _FOLDERS[self._split_of(image_id)]
        return (
            self._folder / "images" / folder / f"{image_id}.jpg",
            self._folder / "annotations" / folder / f"{image_id}.png",
        )


def _base(root: Path) -> Path:
    """The folder of images and annotations: `root`, or where the archive unpacks to below it."""
    inner = root / "ADEChallengeData2016"
    return inner if inner.is_dir() else root
