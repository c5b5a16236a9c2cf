"""What sessions over an exported .onnx file share, whatever executes its graph."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinc.runtimes._card import CLASSES, IMAGES, LOGITS
from edgeinc.runtimes._head import Rows, decode
from edgeinc.runtimes._update import Candidate, Updatable, read_candidate
from edgeinc.schema import Way

Feeds = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Graph:
    """A loaded graph.

    Attributes:
        infer: One output for one batch, in memory that later calls leave alone; called by several
            threads.
        answers: Names of its outputs.
        as_float: Whether it takes float32 images.
        bind: A call that computes one output for a batch that lies on the device, and leaves it
            there; None where nothing is copied.
    """

    infer: Callable[[str, Feeds], npt.NDArray[Any]]
    answers: tuple[str, ...]
    as_float: bool
    bind: Callable[[str, Feeds], Callable[[], object]] | None = None


@dataclass(frozen=True)
class Live:
    """All that an answer depends on, exchanged as one."""

    graph: Graph
    rows: Rows
    fewest: int
    most: int
    classes: int


class GraphSession(Updatable):
    """An exported file, opened. A runtime says how its graph is loaded."""

    def _open(self, path: Path, ways: tuple[Way, ...]) -> None:
        """Serve a file for the first time.

        Raises:
            EdgeincError: It is not an edgeinc export, is damaged, or cannot be loaded.
        """
        candidate = read_candidate(path)
        self.ways, self._exchange, self.size = ways, Lock(), candidate.card.size
        self._serve(self._loaded(candidate, "reload"), candidate)

    @abstractmethod
    def _graph(self, new: Candidate, way: Way) -> Graph:
        """Load a file's graph (`reload`), or the one that is served with other weights (`weights`).

        Raises:
            EdgeincError: It cannot be loaded.
        """

    def _loaded(self, new: Candidate, way: Way) -> Live:
        card = new.card
        rows = decode(new.path, new.entries, card.head_shape) if card.head == "dynamic" else {}
        if way == "head":
            live: Live = self._live
            return replace(live, rows=rows, classes=len(card.classes))
        fewest, _, most = card.batch
        return Live(self._graph(new, way), rows, fewest, most, len(card.classes))

    def run(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Segment (N, H, W, 3) uint8 images into (N, H, W) uint8 ids, in batches that fit."""
        self.check(images)
        return self._answered(self._live, images)

    def _answered(self, live: Live, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        if not len(images):
            return np.empty((0, *self.size), np.uint8)
        if CLASSES in live.graph.answers:
            return _computed(live, images, CLASSES)
        ids: npt.NDArray[np.uint8] = _computed(live, images, LOGITS).argmax(1).astype(np.uint8)
        return ids

    def logits(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Scores of every class, (N, C, H, W) float32, where the file was exported with them."""
        live: Live = self._live
        if LOGITS not in live.graph.answers:
            return super().logits(images)
        self.check(images)
        if not len(images):
            return np.empty((0, live.classes, *self.size), np.float32)
        return _computed(live, images, LOGITS)[:, : live.classes]


def batches(live: Live, images: npt.NDArray[np.uint8]) -> Iterator[tuple[Feeds, int]]:
    """What the graph is fed for all images, and how many images each feed holds.

    The last batch is filled up where it must be.
    """
    fed: npt.NDArray[Any] = images.astype(np.float32) if live.graph.as_float else images
    for start in range(0, len(fed), live.most):
        batch = fed[start : start + live.most]
        count = len(batch)
        missing = max(0, live.fewest - count)
        if missing:
            batch = np.concatenate([batch, np.repeat(batch[-1:], missing, 0)])
        yield {IMAGES: batch, **live.rows}, count


def _computed(live: Live, images: npt.NDArray[np.uint8], answer: str) -> npt.NDArray[Any]:
    """One output of the graph for all images."""
    parts = [live.graph.infer(answer, feeds)[:count] for feeds, count in batches(live, images)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
