"""Exported files: their cards, their speed, what was made with them."""

from __future__ import annotations

from dataclasses import field
from typing import Any, Literal

from edgeinc.schema._document import SCHEMA_VERSION, Background, Size, document
from edgeinc.schema._plans import ClassInfo, ClassTable
from edgeinc.schema._runs import DataRef, Host

HeadMode = Literal["static", "capacity", "dynamic"]
Precision = Literal["fp32", "fp16", "int8"]
Answer = Literal["classes", "logits", "both"]


@document
class ClassLoss:
    """IoU of one class, percent, by torch and by the file; None where it does not occur."""

    name: str
    reference_iou: float | None
    iou: float | None

    @property
    def points(self) -> float | None:
        """What the file loses, in points of IoU; None where one of both is not known."""
        if self.iou is None or self.reference_iou is None:
            return None
        return self.reference_iou - self.iou


@document
class Parity:
    """Agreement of an exported file with torch on real images, in percent of pixels.

    `worst_class_iou`: the smallest IoU, over classes, between the two sets of predicted masks.
    `gate`: percent that must agree; 0 where it is only reported. `scored`: labelled images on which
    both were scored: `miou` of the file, `reference_miou` of torch, and no more than `miou_gate`
    points between them; None where there were no labels.
    """

    images: int
    agreement: float
    worst_class: str
    worst_class_iou: float
    gate: float
    passed: bool
    scored: int = 0
    miou: float | None = None
    reference_miou: float | None = None
    miou_gate: float | None = None
    losses: tuple[ClassLoss, ...] = ()

    @property
    def miou_loss(self) -> float | None:
        """What the file loses, in points of mIoU; None where it was not scored."""
        if self.miou is None or self.reference_miou is None:
            return None
        return self.reference_miou - self.miou

    @property
    def unmet(self) -> tuple[str, ...]:
        """Every gate that was not met, in words."""
        found = []
        if self.agreement < self.gate:
            found.append(
                f"{self.agreement:.3f} % of pixels agree with torch, the gate is {self.gate} %"
            )
        loss = self.miou_loss
        if loss is not None and self.miou_gate is not None and loss > self.miou_gate:
            found.append(f"{loss:.2f} points of mIoU are lost, the gate is {self.miou_gate}")
        return tuple(found)


@document
class ArtifactCard:
    """The JSON beside an exported file, `NAME.json` for `NAME.onnx`.

    `head_shape`: rows, positions and channels of the classifier, see `deploy._heads`; (0, 0, 0) in
    files that were exported before there were head modes. `body_sha256`: hash of the weights but
    for those of a classifier that is an input. `batch`: fewest, usual and most images of a call. Of
    int8: `target` is the runtime it was made for, `quantizer` what made it, `excluded` the layers
    that stayed float beside the first and the head, `calibration` how many images its ranges are
    from.
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
    body_sha256: str = ""
    parity: Parity | None = None
    recipe: dict[str, Any] | None = None
    target: str = ""
    quantizer: str = ""
    excluded: tuple[str, ...] = ()
    calibration: int = 0
    schema_version: int = SCHEMA_VERSION

    @property
    def table(self) -> ClassTable:
        return ClassTable(self.classes, self.background)


@document
class TargetBuild:
    """The build for one GPU generation (`SM86`). `status` is `ok` or the reason why not."""

    target: str
    status: str
    seconds: float | None = None
    bytes: int | None = None


@document
class EngineCheck:
    """Whether NVIDIA's parser and builder take a file. `error` is "" when the parser took it."""

    path: str
    builder: str
    layers: int
    builds: tuple[TargetBuild, ...]
    ok: bool
    error: str = ""
    schema_version: int = SCHEMA_VERSION


@document
class ExportResult:
    """What `export` wrote.

    `engine` is "" when none was built, and `note` says why; `triton` is the model's folder in a
    model repository, or "".
    """

    path: str
    card: ArtifactCard
    engine: str = ""
    recipe: str = ""
    note: str = ""
    check: EngineCheck | None = None
    triton: str = ""
    schema_version: int = SCHEMA_VERSION


Scope = Literal["infer", "io", "e2e"]
"""What a timed frame consists of; `BenchResult.scopes` says it in words."""


@document
class BenchRow:
    """One variant in one scope. Every figure is None when `status` is `skipped: reason`.

    `agreement`: percent of pixels decided as `reference` decides: torch in fp32, or, where torch is
    not here, another variant of the same network in fp32. `gate`: `met`, `reference`, or
    `missed: reason` and `not judged: reason`; "" where nothing was measured. `watts`: mean over the
    variant's own turns, the idle board included; `joules`: those of one frame. `throttled`: None
    where nobody watched throughout. `celsius`: the hottest sensor. `gpu_mb`: the GPU's memory that
    the session took, None where its runtime cannot tell. `note`: why two rows are one measurement.

    `update_from`: the file of the step before, "" where there is no such step. `update_way` and
    `update_bytes`: how a session that serves it comes to serve this one, as in `UpdatePlan`.
    `update_s`: seconds until this one could answer, golden check included; `update_lost`: frames
    without an answer while a thread kept asking; both None where that was not measured.
    `update_why`: the reason for the way, or for nothing being measured.
    """

    artifact: str
    runtime: str
    provider: str
    precision: str
    scope: Scope
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
    miou_old: float | None = None
    miou_new: float | None = None
    agreement: float | None = None
    watts: float | None = None
    joules: float | None = None
    throttled: bool | None = None
    gpu_mhz: float | None = None
    cpu_mhz: float | None = None
    celsius: float | None = None
    gpu_mb: float | None = None
    note: str = ""
    reference: str = ""
    gate: str = ""
    update_from: str = ""
    update_way: str = ""
    update_bytes: int | None = None
    update_s: float | None = None
    update_lost: int | None = None
    update_why: str = ""


@document
class BenchChoice:
    """The fastest variant of one network at one size that meets the gates of its precision.

    `why` says it in one line, with what was measured.
    """

    artifact: str
    runtime: str
    precision: str
    scope: Scope
    size: Size
    fps: float
    why: str


@document
class PowerMeter:
    """What measured watts. `covers`: the whole board, or no more than the GPU or the CPU."""

    name: str
    covers: Literal["board", "gpu", "cpu"]
    idle_watts: float | None = None


@document
class Board:
    """A Jetson as it was set while a benchmark ran; "" and None where the system does not tell.

    `clocks_locked`: `jetson_clocks` holds CPU and GPU at their highest clocks. `mhz`: clocks at
    the beginning, by `cpu`, `gpu` and `emc`. `celsius`: temperatures at the beginning, by sensor.
    """

    model: str
    l4t: str = ""
    power_mode: str = ""
    clocks_locked: bool | None = None
    mhz: dict[str, float] = field(default_factory=dict)
    celsius: dict[str, float] = field(default_factory=dict)


@document
class BenchDelta:
    """One row against the same row of an earlier benchmark.

    `slower_percent`: change of p50, negative where it became faster. `miou_points`: change of
    mIoU, None where one of both was not scored. `regression`: what became worse, or "".
    """

    artifact: str
    runtime: str
    scope: Scope
    p50_ms: float | None
    base_p50_ms: float
    slower_percent: float | None
    miou_points: float | None = None
    regression: str = ""


@document
class BenchComparison:
    """A benchmark against an earlier one. `note` names what makes the two hard to compare."""

    path: str
    created: str
    tolerance: float
    rows: tuple[BenchDelta, ...]
    note: str = ""


@document
class BenchResult:
    """A benchmark of several variants, interleaved in one session on one machine.

    `finished`: False in the file of a benchmark that was interrupted. `gates`: thresholds that
    were not met, and regressions. `table` and `chart`: further files that were written, or "".
    `best`: for every network and size of which several variants were timed, the one to take; none
    where no variant was judged to meet its gates.
    """

    rows: tuple[BenchRow, ...]
    host: Host
    scopes: dict[str, str]
    created: str
    data: DataRef | None = None
    images: int = 0
    path: str = ""
    schema_version: int = SCHEMA_VERSION
    finished: bool = True
    board: Board | None = None
    meters: tuple[PowerMeter, ...] = ()
    comparison: BenchComparison | None = None
    gates: tuple[str, ...] = ()
    table: str = ""
    chart: str = ""
    best: tuple[BenchChoice, ...] = ()


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
