"""Exported files: their cards, their speed, what was made with them."""

from __future__ import annotations

from typing import Any, Literal

from edgeinc.schema._document import SCHEMA_VERSION, Background, Size, document
from edgeinc.schema._plans import ClassInfo, ClassTable
from edgeinc.schema._runs import DataRef, Host

HeadMode = Literal["static", "capacity", "dynamic"]
Precision = Literal["fp32", "fp16", "int8"]
Answer = Literal["classes", "logits", "both"]


@document
class Parity:
    """Agreement of an exported file with torch on real images, in percent of pixels.

    `worst_class_iou`: the smallest IoU, over classes, between the two sets of predicted masks.
    """

    images: int
    agreement: float
    worst_class: str
    worst_class_iou: float
    gate: float
    passed: bool


@document
class ArtifactCard:
    """The JSON beside an exported file, `NAME.json` for `NAME.onnx`.

    `head_shape`: rows, positions and channels of the classifier, see `deploy._heads`; (0, 0, 0) in
    files that were exported before there were head modes. `batch`: fewest, usual and most images
    of a call.
    """

    file: str
    sha256: str
    bytes: int
    model: str
    method: str
    step: int
    classes: tuple[ClassInfo, ...]
    background: Background
    size: Size
    precision: str
    head: HeadMode
    decision: str
    input: str
    output: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    opset: int
    topology_sha256: str
    weights_sha256: str
    parent_sha256: str
    versions: dict[str, str]
    created: str
    head_shape: tuple[int, int, int] = (0, 0, 0)
    batch: tuple[int, int, int] = (1, 1, 1)
    answer: Answer = "classes"
    parity: Parity | None = None
    recipe: dict[str, Any] | None = None
    schema_version: int = SCHEMA_VERSION

    @property
    def table(self) -> ClassTable:
        return ClassTable(self.classes, self.background)


@document
class ExportResult:
    """What `export` wrote. `engine` is "" when none was built; `note` says why."""

    path: str
    card: ArtifactCard
    engine: str = ""
    recipe: str = ""
    note: str = ""
    schema_version: int = SCHEMA_VERSION


@document
class BenchRow:
    """One variant in one scope. Every figure is None when `status` is `skipped: reason`."""

    artifact: str
    runtime: str
    provider: str
    precision: str
    scope: Literal["infer", "e2e"]
    size: Size
    threads: int
    status: str
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    fps: float | None = None
    cov_percent: float | None = None
    frames: int = 0
    miou: float | None = None
    file_bytes: int | None = None
    peak_mb: float | None = None


@document
class BenchResult:
    """A benchmark of several variants, interleaved in one session on one machine."""

    rows: tuple[BenchRow, ...]
    host: Host
    scopes: dict[str, str]
    created: str
    data: DataRef | None = None
    images: int = 0
    path: str = ""
    schema_version: int = SCHEMA_VERSION


@document
class PredictResult:
    """Files that `predict` wrote, and the speed it ran at."""

    source: str
    artifact: str
    runtime: str
    frames: int
    fps: float
    outputs: tuple[str, ...]
    schema_version: int = SCHEMA_VERSION


@document
class ReportResult:
    """The page that `report` wrote."""

    path: str
    run: str
    steps: int
    bytes: int
    schema_version: int = SCHEMA_VERSION
