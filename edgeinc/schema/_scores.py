"""Scores, and what the commands that learn return."""

from __future__ import annotations

from edgeinc.schema._document import SCHEMA_VERSION, Size, document
from edgeinc.schema._runs import DataRef, StepInfo


@document
class Miou:
    """Mean IoU in percent over groups of classes; None where a group has no class in the data."""

    all: float | None
    old: float | None
    new: float | None
    all_without_background: float | None
    old_without_background: float | None = None


@document
class ClassScore:
    """IoU of one class. `forgetting`: IoU after its own step minus now, in points.

    `pixels_true` and `pixels_predicted` are those among the pixels that were compared.
    `iou_ignoring_background`: where a virtual background is never decided for, if that was counted.
    """

    id: int
    name: str
    iou: float | None
    step: int
    forgetting: float | None = None
    pixels_true: int | None = None
    pixels_predicted: int | None = None
    iou_ignoring_background: float | None = None


@document
class TaskScore:
    """Mean IoU of the classes that were born together, under the joint decision.

    `alone`: the same classes decided among themselves only, on their own pixels only: the
    single-task mIoU of the literature, which no confusion with another task can lower.
    """

    step: int
    classes: tuple[str, ...]
    miou: float | None
    alone: float | None = None


@document
class UnionScore:
    """Mean IoU over the classes of several steps, decided among these, on their pixels only."""

    steps: tuple[int, ...]
    miou: float | None


@document
class StepScore:
    """The same images scored after another step: one row of the forgetting matrix."""

    step: int
    miou: Miou
    hiou: float | None
    iou: dict[str, float | None]


@document
class EvalResult:
    """Scores of one session on one split.

    `grid`: the pixels that were compared. `convention`: the rules of scoring. `absent`: labelled
    classes without a pixel in truth and prediction. `unlabelled`: classes that the data does not
    label; they have no IoU and are in no mean. `history`: the steps up to this one, oldest first,
    as far as they were scored on the same images by the same rules. `gates`: the thresholds that
    were not met. `unions`: the classes of steps 0 to k among themselves, for each k.
    `miou_ignoring_background`: means where a virtual background is never decided for.
    """

    source: str
    step: int
    runtime: str
    artifact_sha256: str
    data: DataRef
    split: str
    images: int
    grid: str
    miou: Miou
    hiou: float | None
    classes: tuple[ClassScore, ...]
    tasks: tuple[TaskScore, ...]
    absent: tuple[str, ...] = ()
    history: tuple[StepScore, ...] = ()
    gates: tuple[str, ...] = ()
    limit: int | None = None
    convention: str = "default"
    unions: tuple[UnionScore, ...] = ()
    miou_ignoring_background: Miou | None = None
    unlabelled: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION


@document
class LearnResult:
    """What `train` and `extend` return: the steps that were done, and the score of the last."""

    run: str
    steps: tuple[StepInfo, ...]
    score: EvalResult | None = None
    schema_version: int = SCHEMA_VERSION


@document
class ImportResult:
    """What `import` took from a file of published weights, tensor by tensor.

    `matched` counts the tensors of the file that are in the network now. `dropped`: names in the
    file, or one output of them, and why they are not. `filled`: tensors of the network that the
    file does not have, and what they hold instead. `mean` and `std` are for values of 0 to 1.
    """

    run: str
    step: StepInfo
    file: str
    sha256: str
    format: str
    size: Size
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    normalisation: str
    matched: int
    dropped: dict[str, str]
    filled: dict[str, str]
    notes: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION


@document
class InvertedClass:
    """Images made of one class.

    `found`: percent of them in which the network sees the class; `area`: its mean share of their
    pixels in percent.
    """

    name: str
    images: int
    found: float
    area: float


@document
class InvertResult:
    """Images that `invert` made from a network, or found made.

    `bn_noise`, `bn_images`: the BatchNorm terms of the loss at the start and at the end; `seconds`:
    how long the images took when they were made; `out`: where pictures were copied to, or "".
    """

    run: str
    step: int
    folder: str
    images: int
    found: float
    classes: tuple[InvertedClass, ...]
    bn_noise: float
    bn_images: float
    seconds: float
    out: str = ""
    schema_version: int = SCHEMA_VERSION
