"""Batches as a pure function of the iteration: that is what makes a killed run resumable.

Which images an iteration sees, in which order and how they are augmented depends on (seed, step,
iteration) alone, never on how many threads read ahead or on what ran before. Decoded images stay
in memory up to a budget, so an epoch after the first decodes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter
from typing import NamedTuple

import numpy as np

from edgeinc.data import Dataset, Image, Mask
from edgeinc.data._augment import augment
from edgeinc.data._files import read_pair
from edgeinc.data._labels import Remap
from edgeinc.schema import Size

CACHE_BYTES = 2 << 30
"""Decoded images kept in memory; beyond it they are read again every epoch."""


class Batch(NamedTuple):
    """`images` (B, H, W, 3) and `labels` (B, H, W), uint8; `wait_s`: how long training waited.

    `iteration`: what it was made for.
    """

    images: Image
    labels: Mask
    wait_s: float
    iteration: int


class Batches:
    """The images of one step, as batches by iteration.

    Args:
        dataset: Where they are read from.
        ids: The images of the step.
        remap: Dataset ids to ids of the network; see `_labels.training_remap`.
        size: (height, width) of what comes out.
        batch_size: Images in a batch; an epoch drops what does not fill one.
        seed: Together with `step`, decides order and augmentation.
        step: Step of the run.
        workers: Threads that prepare batches ahead; 0 prepares each when it is asked for.
        color_jitter: See `_augment.augment`.
    """

    def __init__(
        self,
        dataset: Dataset,
        ids: Sequence[str],
        *,
        remap: Remap,
        size: Size,
        batch_size: int,
        seed: int,
        step: int,
        workers: int,
        color_jitter: float = 0.2,
    ) -> None:
        self.dataset, self.ids, self.remap, self.size = dataset, tuple(ids), remap, size
        self.batch_size = min(batch_size, len(ids))
        self.seed, self.step, self.workers = seed, step, workers
        self.color_jitter = color_jitter
        self._cache: dict[str, tuple[Image, Mask]] = {}
        self._cached_bytes = 0

    @property
    def per_epoch(self) -> int:
        """Batches in one pass over the images."""
        return len(self.ids) // self.batch_size

    def order(self, epoch: int) -> list[int]:
        """Positions of the images in the order the epoch shows them."""
        rng = np.random.default_rng([self.seed, self.step, epoch])
        return [int(i) for i in rng.permutation(len(self.ids))]

    def make(self, iteration: int) -> tuple[Image, Mask]:
        """Prepare one batch: `images` (B, H, W, 3) and `labels` (B, H, W), both uint8.

        Raises:
            DataError: An image or a mask cannot be read.
        """
        epoch, position = divmod(iteration, self.per_epoch)
        first = position * self.batch_size
        images = np.empty((self.batch_size, *self.size, 3), np.uint8)
        labels = np.empty((self.batch_size, *self.size), np.uint8)
        for slot, index in enumerate(self.order(epoch)[first : first + self.batch_size]):
            rng = np.random.default_rng([self.seed, self.step, iteration, slot])
            image, mask = self._read(self.ids[index])
            images[slot], mask = augment(
                image, mask, rng=rng, size=self.size, color_jitter=self.color_jitter
            )
            labels[slot] = self.remap(self.ids[index])[mask]
        return images, labels

    def stream(self, first: int, last: int) -> Iterator[Batch]:
        """The batches of iterations `first` to `last` - 1, prepared ahead by the workers.

        Raises:
            DataError: An image or a mask cannot be read.
        """
        if self.workers == 0:
            for iteration in range(first, last):
                start = perf_counter()
                images, labels = self.make(iteration)
                yield Batch(images, labels, perf_counter() - start, iteration)
            return
        with ThreadPoolExecutor(self.workers) as pool:
            ahead: deque[Future[tuple[Image, Mask]]] = deque()
            try:
                for iteration in range(first, last):
                    while len(ahead) <= 2 * self.workers and iteration + len(ahead) < last:
                        ahead.append(pool.submit(self.make, iteration + len(ahead)))
                    start = perf_counter()
                    images, labels = ahead.popleft().result()
                    yield Batch(images, labels, perf_counter() - start, iteration)
            finally:
                for future in ahead:
                    future.cancel()

    def _read(self, image_id: str) -> tuple[Image, Mask]:
        if image_id in self._cache:
            return self._cache[image_id]
        pair = read_pair(self.dataset, image_id)
        size = pair[0].nbytes + pair[1].nbytes
        if self._cached_bytes + size <= CACHE_BYTES:
            self._cache[image_id] = pair
            self._cached_bytes += size
        return pair
