"""What sessions over an exported .onnx file share, whatever executes its graph."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinc.runtimes import Session
from edgeinc.runtimes._card import CLASSES, IMAGES, LOGITS, from_metadata
from edgeinc.runtimes._head import decode
from edgeinc.schema import ArtifactCard

Feeds = dict[str, npt.NDArray[Any]]


class GraphSession(Session):
    """An exported file, opened. A runtime says how one batch of one output is computed."""

    def _describe(
        self,
        path: Path,
        card: ArtifactCard | None,
        metadata: Mapping[str, str],
        *,
        answers: list[str],
        as_float: bool,
    ) -> None:
        """Take over what the file says about itself.

        Args:
            path: The file.
            card: Beside it, verified; None takes what its metadata tells.
            metadata: Of the file.
            answers: Names of the graph's outputs.
            as_float: Whether it takes float32 images.

        Raises:
            EdgeincError: It is not an edgeinc export, or its metadata is damaged.
        """
        if card is None:
            card = from_metadata(path, metadata)
        self.precision, self.size, self.step = card.precision, card.size, card.step
        self.table, self.path, self.sha256 = card.table, path, card.sha256
        self._rows = decode(path, metadata, card.head_shape) if card.head == "dynamic" else {}
        self._low, _, self._high = card.batch
        self._as_float, self._answers = as_float, answers

    @abstractmethod
    def _infer(self, answer: str, feeds: Feeds) -> npt.NDArray[Any]:
        """One output of the graph for one batch, in memory that later calls leave alone."""

    def run(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Segment (N, H, W, 3) uint8 images into (N, H, W) uint8 ids, in batches that fit."""
        self.check(images)
        if not len(images):
            return np.empty((0, *self.size), np.uint8)
        if CLASSES in self._answers:
            return self._computed(images, CLASSES)
        ids: npt.NDArray[np.uint8] = self._computed(images, LOGITS).argmax(1).astype(np.uint8)
        return ids

    def logits(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Scores of every class, (N, C, H, W) float32, where the file was exported with them."""
        if LOGITS not in self._answers:
            return super().logits(images)
        self.check(images)
        classes = len(self.table.classes)
        if not len(images):
            return np.empty((0, classes, *self.size), np.float32)
        return self._computed(images, LOGITS)[:, :classes]

    def _computed(self, images: npt.NDArray[np.uint8], answer: str) -> npt.NDArray[Any]:
        """One output of the graph for all images; the last batch is filled up where it must be."""
        fed: npt.NDArray[Any] = images.astype(np.float32) if self._as_float else images
        parts = []
        for start in range(0, len(fed), self._high):
            batch = fed[start : start + self._high]
            missing = max(0, self._low - len(batch))
            if missing:
                batch = np.concatenate([batch, np.repeat(batch[-1:], missing, 0)])
            found = self._infer(answer, {IMAGES: batch, **self._rows})
            parts.append(found[: len(found) - missing])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
