"""What a file scores before it is published: on labelled images, by the evaluator, as it is.

judge = Judge(candidate, data=None)
judge.exported.miou.all
judge.score(content).miou.all            # of other bytes, on the same images
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from edgeinc import metrics
from edgeinc.data import Data
from edgeinc.errors import DataError, UsageError
from edgeinc.evaluation import evaluate
from edgeinc.evaluation._counts import scored_ids
from edgeinc.progress import SILENT, Progress
from edgeinc.runtimes import Session, open_artifact
from edgeinc.runtimes._update import Candidate
from edgeinc.schema import ArtifactCard, BundleScore, EvalResult


def runtime_of(card: ArtifactCard) -> str:
    """The runtime that judges a file: ONNX Runtime, but what was made for OpenVINO by that."""
    return "openvino" if card.target == "openvino" else "onnxruntime"


@contextmanager
def opened(content: bytes, card: ArtifactCard) -> Iterator[Session]:
    """Bytes that have no file of their own as a session on the CPU.

    Raises:
        MissingError: The runtime is not here.
        EdgeincError: It cannot be loaded.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "candidate.onnx"
        path.write_bytes(content)
        with open_artifact(path, runtime=runtime_of(card), device="cpu") as session:
            yield session


class Judge:
    """Scores files on the same images by the same rules.

    Args:
        candidate: The exported file.
        data: Labelled images; None takes those of the run it lies in.
        data_root: Where named datasets lie.
        limit: Look at the first N images only.
        progress: Told about every image.
    """

    def __init__(
        self,
        candidate: Candidate,
        *,
        data: Data | None,
        data_root: str | None = None,
        limit: int | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self.candidate = candidate
        self._data, self._data_root, self._limit = data, data_root, limit
        self._progress = progress

    @cached_property
    def exported(self) -> EvalResult:
        """The score of the exported file.

        Raises:
            UsageError: There is nothing to score on.
        """
        path, problem = self.candidate.path, "none of its classes occurs in the data"
        try:
            found = self._evaluated(path, self._data, None)
            if found.miou.all is not None:
                return found
        except (DataError, UsageError) as err:
            problem = err.message
        raise UsageError(
            f"there is no evidence for {path}: {problem}",
            hint="name labelled images with --data NAME|PATH; --unscored publishes without a "
            "score, and says so to every device",
        )

    def score(self, content: bytes) -> EvalResult:
        """The score of a file on the images of the exported one.

        Raises:
            UsageError, EdgeincError: As `evaluate`.
        """
        like = self.exported
        if hashlib.sha256(content).hexdigest() == self.candidate.card.sha256:
            return like
        with TemporaryDirectory() as folder:
            path = Path(folder) / "candidate.onnx"
            path.write_bytes(content)
            return self._evaluated(path, like.data, like.convention)

    def held(self, content: bytes, step: int) -> EvalResult | None:
        """The score of what devices hold; None where the data labels no class of it.

        Args:
            content: The file.
            step: The step it is of.
        """
        table = self.candidate.card.table
        classes = scored_ids(table, table.until(step).classes)
        gone = set(self.exported.unlabelled)
        known = any(table.classes[i].name not in gone for i in classes)
        return self.score(content) if known else None

    def _evaluated(self, path: Path, data: Data | None, convention: str | None) -> EvalResult:
        return evaluate(
            path,
            data=data,
            data_root=self._data_root,
            limit=self._limit,
            convention=convention,
            runtime=runtime_of(self.candidate.card),
            device="cpu",
            progress=self._progress,
        )


def score_of(now: EvalResult, before: EvalResult | None) -> BundleScore:
    """What a manifest says of a score.

    Args:
        now: Of the artifact.
        before: Of the parent's, on the same images; forgetting is what its classes lost since.
    """
    return BundleScore(
        dataset=now.data.name,
        images=now.images,
        miou_all=now.miou.all or 0.0,
        miou_old=now.miou.old,
        miou_new=now.miou.new,
        per_class={c.name: c.iou for c in now.classes},
        forgetting=None if before is None else _lost(now, before),
        evaluated_on=now.artifact_sha256,
    )


def _lost(now: EvalResult, before: EvalResult) -> float | None:
    """Mean loss of IoU over the classes that the parent knew, in points."""
    held = {c.name: c.iou for c in before.classes}
    losses = [
        was - c.iou
        for c in now.classes
        if c.iou is not None and (was := held.get(c.name)) is not None
    ]
    return metrics.mean(losses, range(len(losses)))


def unmet(
    score: BundleScore, *, min_miou: float | None, max_drop: float | None, first: bool
) -> tuple[str, ...]:
    """Every gate that a score does not meet, in words.

    Args:
        score: Of the artifact.
        min_miou: Percent over all classes.
        max_drop: Points that the parent's classes may have lost on average.
        first: There is no parent, so nothing can have been lost.
    """
    found = []
    if min_miou is not None and score.miou_all < min_miou:
        found.append(f"mIoU {score.miou_all:.1f} is below {min_miou:g}")
    if max_drop is not None and score.forgetting is not None and score.forgetting > max_drop:
        found.append(
            f"older classes lost {score.forgetting:.1f} points on average, over {max_drop:g}"
        )
    if max_drop is not None and score.forgetting is None and not first:
        found.append(f"what older classes lost is not known: {score.dataset} has none of them")
    return tuple(found)
