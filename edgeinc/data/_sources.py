"""Several data sets as one: images of all, classes by name, each label trusted where declared.

Rules: a class that several sources name is one class; an image keeps knowing which classes its own
source labels, so that a class that another source adds is unlabelled in it, never background.
Image ids carry the number of their source: `0/a`, `1/a`.

    data = open_dataset(["buses.zip", "camvid"])
    data.declared("0/a")                     # what buses.zip labels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeinc.data import Dataset, Image, Label, Mask
from edgeinc.errors import DataError, UsageError
from edgeinc.registry import suggest
from edgeinc.schema import VOID, DataRef, Size, SourceRef

__all__ = ["Sources"]


class Sources(Dataset):
    """The joined data set.

    Args:
        sources: At least one; the first names the whole.

    Raises:
        DataError: Together they have more classes than a mask can hold.
    """

    def __init__(self, sources: Sequence[Dataset]) -> None:
        super().__init__(sources[0].root)
        self.sources = tuple(sources)
        real = [s for s in sources if s.background == "real"]
        self.background = "real" if real else "none"
        first = [real[0].labels[0]] if real else []
        named = {label.name: label for s in sources for label in _things(s)}
        joined = [*first, *(v for k, v in named.items() if k not in {b.name for b in first})]
        if len(joined) > VOID:
            raise DataError(
                f"the {len(sources)} sources have {len(joined)} classes", hint=f"at most {VOID}"
            )
        self._labels = tuple(replace(label, id=i) for i, label in enumerate(joined))
        self._tables = tuple(self._table(source) for source in sources)

    def _table(self, source: Dataset) -> npt.NDArray[np.uint8]:
        """Ids of a source to those of the whole (256,)."""
        ids = {label.name: label.id for label in self._labels}
        table = np.full(256, VOID, np.uint8)
        for label in source.labels:
            table[label.id] = ids.get(label.name, 0)
        if source.background == "real":
            table[source.labels[0].id] = 0
        return table

    @property
    def labels(self) -> tuple[Label, ...]:
        return self._labels

    @property
    def default_size(self) -> Size:
        return self.sources[0].default_size

    @property
    def ref(self) -> DataRef:
        first, *more = (source.ref for source in self.sources)
        return replace(first, more=tuple(SourceRef(each.name, each.root) for each in more))

    def splits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for s in self.sources for name in s.splits()))

    def ids(self, split: str) -> tuple[str, ...]:
        if split not in self.splits():
            raise UsageError(f"no split '{split}'", hint=suggest(split, self.splits()))
        return tuple(
            f"{number}/{image_id}"
            for number, source in enumerate(self.sources)
            if split in source.splits()
            for image_id in source.ids(split)
        )

    def image(self, image_id: str) -> Image:
        source, own = self._home(image_id)
        return self.sources[source].image(own)

    def mask(self, image_id: str) -> Mask:
        source, own = self._home(image_id)
        return self._tables[source][self.sources[source].mask(own)]

    def sequence(self, image_id: str) -> str:
        source, own = self._home(image_id)
        return f"{source}/{self.sources[source].sequence(own)}"

    def image_file(self, image_id: str) -> Path | None:
        source, own = self._home(image_id)
        return self.sources[source].image_file(own)

    def mask_files(self, image_id: str) -> tuple[Path, ...]:
        source, own = self._home(image_id)
        return self.sources[source].mask_files(own)

    def notes(self) -> tuple[str, ...]:
        return tuple(note for source in self.sources for note in source.notes())

    def source(self, image_id: str) -> Dataset:
        return self.sources[self._home(image_id)[0]]

    def declared(self, image_id: str) -> frozenset[str]:
        source, own = self._home(image_id)
        return self.sources[source].declared(own)

    def _home(self, image_id: str) -> tuple[int, str]:
        """The source of an image, and its id there."""
        number, slash, own = image_id.partition("/")
        if not slash or not number.isdigit() or int(number) >= len(self.sources):
            raise DataError(
                f"no image '{image_id}' in {len(self.sources)} sources",
                hint="ids begin with the number of their source, as in 0/name",
            )
        return int(number), own


def _things(source: Dataset) -> tuple[Label, ...]:
    """The labels without a real background."""
    return source.labels[source.background == "real" :]
