"""Everything edgeinc writes to disk or prints with `--json`, as frozen dataclasses.

Rules: a document carries `schema_version`; reading is strict (an unknown key, a missing key or a
wrong type is refused with its place); IoU and mIoU are percent (0 to 100), None where a class is
absent from the data; times carry their unit in the name; sizes are (height, width) in pixels.

    text = to_json(result)
    again = from_json(EvalResult, text, source="eval.json")
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar

from edgeinc.errors import EdgeincError

SCHEMA_VERSION = 1
VOID = 255
"""The label without loss and without metric, in every mask edgeinc reads, trains on or writes."""

Background = Literal["none", "real", "virtual"]
Color = tuple[int, int, int]
Size = tuple[int, int]
T = TypeVar("T")

_STRICT = {"extra": "forbid", "allow_inf_nan": False}


# ---------------------------------------------------------------------------------- classes


@dataclass(frozen=True)
class ClassInfo:
    """One class of a network. `id` is the value in predicted masks; `step` its step of birth."""

    id: int
    name: str
    color: Color
    step: int
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class ClassTable:
    """The classes of a network in id order. Ids and colours of older steps never change."""

    classes: tuple[ClassInfo, ...]
    background: Background = "none"
    __pydantic_config__ = _STRICT

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes)

    @property
    def last_step(self) -> int:
        return max((c.step for c in self.classes), default=-1)

    def of_step(self, step: int) -> tuple[ClassInfo, ...]:
        """The classes born at `step`."""
        return tuple(c for c in self.classes if c.step == step)

    def until(self, step: int) -> ClassTable:
        """The table as it was after `step`."""
        return ClassTable(tuple(c for c in self.classes if c.step <= step), self.background)


# ---------------------------------------------------------------------------------- scenarios


@dataclass(frozen=True)
class ScenarioStep:
    """Classes and images of one step.

    `part` = (i, n): the i-th of n contiguous parts (from 1) of every sequence of the split.
    `images`: explicit image ids. Neither: every image that shows a class of the step (overlapped).
    """

    classes: tuple[str, ...]
    part: tuple[int, int] | None = None
    images: tuple[str, ...] | None = None
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Scenario:
    """The plan of a benchmark: which classes and which images at each step."""

    name: str
    steps: tuple[ScenarioStep, ...]
    __pydantic_config__ = _STRICT


# ---------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class DataRef:
    """Where labelled images came from: the plug-in that reads them and their folder."""

    name: str
    root: str
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Setting:
    """A resolved setting and where its value came from (flag, --set, env, file, run, default)."""

    value: Any
    source: str
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Host:
    """The machine and the versions a result was obtained with."""

    platform: str
    python: str
    cpu: str
    cores: int
    memory_gb: float
    versions: dict[str, str]
    gpu: str = ""
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class StepInfo:
    """One step of a run, in `step-N/step.json`. `classes` is the whole table after the step."""

    index: int
    status: Literal["planned", "running", "done"]
    method: str
    method_options: dict[str, Any]
    new_classes: tuple[str, ...]
    classes: tuple[ClassInfo, ...]
    background: Background
    data: DataRef
    images: int
    images_sha256: str
    settings: dict[str, Setting]
    host: Host
    command: str
    started: str
    iterations: int
    seconds: float = 0.0
    parent_sha256: str = ""
    weights_sha256: str = ""
    schema_version: int = SCHEMA_VERSION
    __pydantic_config__ = _STRICT

    @property
    def table(self) -> ClassTable:
        return ClassTable(self.classes, self.background)


@dataclass(frozen=True)
class RunInfo:
    """What holds for every step of a run, in `run.json`."""

    model: str
    model_options: dict[str, Any]
    size: Size
    created: str
    scenario: Scenario | None = None
    schema_version: int = SCHEMA_VERSION
    __pydantic_config__ = _STRICT


# ---------------------------------------------------------------------------------- evaluation


@dataclass(frozen=True)
class Miou:
    """Mean IoU in percent over groups of classes; None where a group has no class in the data."""

    all: float | None
    old: float | None
    new: float | None
    all_without_background: float | None
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class ClassScore:
    """IoU of one class. `forgetting`: IoU after its own step minus now, in points."""

    id: int
    name: str
    iou: float | None
    step: int
    forgetting: float | None = None
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class TaskScore:
    """Mean IoU of the classes that were born together, under the joint decision."""

    step: int
    classes: tuple[str, ...]
    miou: float | None
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class StepScore:
    """The same images scored after another step: one row of the forgetting matrix."""

    step: int
    miou: Miou
    hiou: float | None
    iou: dict[str, float | None]
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class EvalResult:
    """Scores of one session on one split.

    `history`: the steps up to this one, oldest first, as far as they were scored on the same
    images. `gates`: the thresholds that were not met.
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
    schema_version: int = SCHEMA_VERSION
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class LearnResult:
    """What `train` and `extend` return: the steps that were done, and the score of the last."""

    run: str
    steps: tuple[StepInfo, ...]
    score: EvalResult | None = None
    schema_version: int = SCHEMA_VERSION
    __pydantic_config__ = _STRICT


# ---------------------------------------------------------------------------------- artifacts


@dataclass(frozen=True)
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
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class ArtifactCard:
    """The JSON beside an exported file, `NAME.json` for `NAME.onnx`."""

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
    head: Literal["static", "capacity", "dynamic"]
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
    parity: Parity | None = None
    recipe: dict[str, Any] | None = None
    schema_version: int = SCHEMA_VERSION
    __pydantic_config__ = _STRICT

    @property
    def table(self) -> ClassTable:
        return ClassTable(self.classes, self.background)


@dataclass(frozen=True)
class ExportResult:
    """What `export` wrote. `engine` is "" when none was built; `note` says why."""

    path: str
    card: ArtifactCard
    engine: str = ""
    recipe: str = ""
    note: str = ""
    schema_version: int = SCHEMA_VERSION
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
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
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
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
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class PredictResult:
    """Files that `predict` wrote, and the speed it ran at."""

    source: str
    artifact: str
    runtime: str
    frames: int
    fps: float
    outputs: tuple[str, ...]
    schema_version: int = SCHEMA_VERSION
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class ReportResult:
    """The page that `report` wrote."""

    path: str
    run: str
    steps: int
    bytes: int
    schema_version: int = SCHEMA_VERSION
    __pydantic_config__ = _STRICT


# ---------------------------------------------------------------------------------- information


@dataclass(frozen=True)
class Item:
    """One row of `edgeinc ls`."""

    name: str
    summary: str
    available: bool = True
    note: str = ""
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Listing:
    """What `edgeinc ls KIND` found."""

    kind: str
    items: tuple[Item, ...]
    schema_version: int = SCHEMA_VERSION
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Option:
    """One option of a plug-in: a field of its `Config` dataclass."""

    name: str
    type: str
    default: Any
    doc: str
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class PluginDetails:
    """What `edgeinc show NAME` says about a plug-in, read from its source without importing it."""

    name: str
    kind: str
    summary: str
    doc: str
    options: tuple[Option, ...]
    path: str
    schema_version: int = SCHEMA_VERSION
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class RunSummary:
    """What `edgeinc show RUN` says: the run, its steps, its newest score and its artifacts."""

    path: str
    run: RunInfo
    steps: tuple[StepInfo, ...]
    score: EvalResult | None
    artifacts: tuple[str, ...]
    schema_version: int = SCHEMA_VERSION
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Check:
    """One finding of `doctor`; `fix` is the command that mends it."""

    name: str
    status: Literal["ok", "warn", "missing"]
    detail: str
    fix: str = ""
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` found for a purpose (train, export, device, all)."""

    purpose: str
    checks: tuple[Check, ...]
    ok: bool
    schema_version: int = SCHEMA_VERSION
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class ClassCount:
    """How much of a class a dataset holds."""

    id: int
    name: str
    color: Color
    images: int
    pixels: int
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class DataInfo:
    """A dataset: its classes and how many images each split has."""

    name: str
    root: str
    background: Background
    classes: tuple[str, ...]
    splits: dict[str, int]
    size: Size | None
    schema_version: int = SCHEMA_VERSION
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class DataCheck:
    """Every problem of a dataset at once, and its class histogram per split."""

    data: DataRef
    images: dict[str, int]
    counts: dict[str, tuple[ClassCount, ...]]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    ok: bool
    schema_version: int = SCHEMA_VERSION
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class WrittenFile:
    """A file or folder a command wrote (`data preview`, `data synth`)."""

    path: str
    images: int
    schema_version: int = SCHEMA_VERSION
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class DemoRow:
    """One line of the table `edgeinc demo` ends with."""

    step: int
    classes: tuple[str, ...]
    miou_old: float | None
    miou_new: float | None
    miou_all: float | None
    fps: float | None
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class DemoResult:
    """The whole story of `edgeinc demo`. `failures` is empty when every gate was met."""

    run: str
    rows: tuple[DemoRow, ...]
    report: str
    picture: str
    seconds: float
    failures: tuple[str, ...] = field(default=())
    schema_version: int = SCHEMA_VERSION
    __pydantic_config__ = _STRICT


# ---------------------------------------------------------------------------------- reading


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def to_dict(document: Any) -> dict[str, Any]:
    """The document as plain dictionaries, lists and scalars.

    Raises:
        TypeError: `document` is not one of this module's dataclasses.
    """
    if not is_dataclass(document) or isinstance(document, type):
        raise TypeError(f"{type(document).__name__} is not a document of edgeinc.schema")
    return asdict(document)


def to_json(document: Any) -> str:
    """The document as indented JSON with a final newline; NaN is refused."""
    return json.dumps(to_dict(document), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def from_json(kind: type[T], text: str | bytes, *, source: str) -> T:
    """Read a document strictly.

    Args:
        kind: The dataclass expected.
        text: JSON text.
        source: File the text came from, named in the error.

    Raises:
        EdgeincError: Not JSON, written by a newer edgeinc, or not of this shape; the message
            names the file and the place.
    """
    from pydantic import ValidationError

    try:
        version = json.loads(text).get("schema_version", SCHEMA_VERSION)
    except (ValueError, AttributeError) as err:
        raise EdgeincError(
            f"{source} is not a JSON document: {err}", hint="restore the file from a copy"
        ) from err
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise EdgeincError(
            f"{source} has schema version {version}, this edgeinc reads up to {SCHEMA_VERSION}",
            hint="pip install --upgrade edgeinc",
        )
    adapter: Any = _adapter(kind)  # type: ignore[arg-type]  # classes are hashable
    try:
        document: T = adapter.validate_json(text, strict=True)
    except ValidationError as err:
        first = err.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "top level"
        raise EdgeincError(
            f"{source} is not a valid {kind.__name__}: {place}: {first['msg']}",
            hint="the file was edited or damaged; restore it from a copy",
        ) from err
    return document
