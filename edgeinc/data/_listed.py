"""A data set whose splits are known as soon as it is opened: a table of ids, asked by name."""

from __future__ import annotations

from abc import abstractmethod

from edgeinc import registry
from edgeinc.data import Dataset
from edgeinc.errors import UsageError
from edgeinc.schema import Size

__all__ = ["Listed", "training_size"]

_LONGEST = 512


class Listed(Dataset):
    """Base of formats that list their images themselves."""

    @property
    @abstractmethod
    def _ids(self) -> dict[str, tuple[str, ...]]:
        """Ids by split, `train` first."""

    @property
    def default_size(self) -> Size:
        """The first image's size, reduced to at most 512 pixels on the longer side."""
        height, width = self.image(next(iter(self._ids.values()))[0]).shape[:2]
        return training_size((height, width))

    def splits(self) -> tuple[str, ...]:
        return tuple(self._ids)

    def ids(self, split: str) -> tuple[str, ...]:
        if split not in self.splits():
            raise UsageError(
                f"{self.root} has no split '{split}'", hint=registry.suggest(split, self.splits())
            )
        return self._ids[split]


def training_size(size: Size) -> Size:
    """A size (height, width) to train at: at most 512 pixels on the longer side."""
    factor = min(1.0, _LONGEST / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
