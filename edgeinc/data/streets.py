"""Synthetic street scenes, drawn on demand: for demos and tests, no download.

Eleven classes, 240 scenes to train on and 60 to validate with; there is nothing on disk and
`--data-root` is not used. A scene is a function of its number: every machine sees the same set.

    data = open_dataset("streets")
    image, mask = data.image("train-0007"), data.mask("train-0007")
"""

from __future__ import annotations

from functools import lru_cache

from edgeinc import registry
from edgeinc.data import Dataset, Image, Label, Mask
from edgeinc.data._street_scene import render
from edgeinc.errors import DataError, UsageError
from edgeinc.schema import Size

__all__ = ["LABELS", "Streets", "render"]

LABELS = (
    Label(0, "road", (128, 64, 128)),
    Label(1, "sidewalk", (244, 35, 232)),
    Label(2, "building", (90, 90, 90)),
    Label(3, "sky", (70, 130, 180)),
    Label(4, "tree", (107, 142, 35)),
    Label(5, "pole", (190, 153, 153)),
    Label(6, "sign", (220, 220, 0)),
    Label(7, "car", (0, 0, 142)),
    Label(8, "bus", (0, 160, 150)),
    Label(9, "person", (220, 20, 60)),
    Label(10, "bicycle", (255, 128, 0)),
)

_SIZE = (128, 160)
_IMAGES = {"train": 240, "val": 60}
_FIRST_SEED = {"train": 0, "val": 500_000}


class Streets(Dataset):
    """The built-in set of scenes."""

    @property
    def default_size(self) -> Size:
        return _SIZE

    @property
    def labels(self) -> tuple[Label, ...]:
        return LABELS

    def splits(self) -> tuple[str, ...]:
        return tuple(_IMAGES)

    def ids(self, split: str) -> tuple[str, ...]:
        if split not in _IMAGES:
            raise UsageError(
                f"streets has no split '{split}'", hint=registry.suggest(split, self.splits())
            )
        return tuple(f"{split}-{i:04d}" for i in range(_IMAGES[split]))

    def image(self, image_id: str) -> Image:
        return _scene(image_id)[0].copy()

    def mask(self, image_id: str) -> Mask:
        return _scene(image_id)[1].copy()


@lru_cache(maxsize=512)
def _scene(image_id: str) -> tuple[Image, Mask]:
    """The scene of an id; kept, because training reads every scene many times."""
    split, _, number = image_id.rpartition("-")
    if split not in _IMAGES or not number.isdecimal() or int(number) >= _IMAGES[split]:
        raise DataError(f"streets has no image '{image_id}'", hint="ids are train-0000 to val-0059")
    return render(_FIRST_SEED[split] + int(number), _SIZE)
