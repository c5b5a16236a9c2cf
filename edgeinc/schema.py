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
from typing import Any, Literal, NamedTuple, TypeVar

from edgeinc.errors import EdgeincError

SCHEMA_VERSION = 1
VOID = 255
"""The label without loss and without metric, in every mask edgeinc reads, trains on or writes."""

IMPORT = "import"
"""The method of a step 0 that was made from published weights, see `StepInfo.method`."""

Background = Literal["none", "real", "virtual"]
Color = tuple[int, int, int]
Size = tuple[int, int]
T = TypeVar("T")


class Normalisation(NamedTuple):
    """What is subtracted from an image and what it is divided by, per RGB channel, for 0 to 255."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalisation((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
"""The statistics of ImageNet: what edgeinc trains with."""

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

Selection = Literal["listed", "overlapped", "disjoint", "partitioned"]
"""Which images belong to a step. `listed`: those the plan lists, and where it lists none those of
`overlapped`: images that show a class of the step. `disjoint`: of these, the ones that show no
class of a later step. `partitioned`: every image belongs to one of the classes it shows, drawn at
random, and to the step of that class."""

Labels = Literal["new-only", "new-and-old"]
"""Which classes keep their label in the images of a step."""


@dataclass(frozen=True)
class ScenarioStep:
    """Classes and images of one step.

    `part` = (i, n): the i-th of n contiguous parts (from 1) of every sequence of the split.
    `sequences`: every image of these recordings or cities. `images`: explicit image ids.
    """

    classes: tuple[str, ...]
    part: tuple[int, int] | None = None
    images: tuple[str, ...] | None = None
    sequences: tuple[str, ...] | None = None
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Scenario:
    """The plan of a benchmark: which classes and which images at each step, with which labels."""

    name: str
    steps: tuple[ScenarioStep, ...]
    selection: Selection = "listed"
    labels: Labels = "new-only"
    background: Background | None = None
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Convention:
    """What a pixel or image without a learned class counts as, in training and in testing.

    `train_void`, `test_future` (classes not learned yet) and `test_other` (id 0 of ADE20K) say
    what becomes of such pixels; `test_images`: every image, or those that show a learned class;
    `absent`: what a class without a pixel adds to a mean; `eval_size`: `full`, `center512` or HxW;
    `mean`: the mean that the source prints as its mIoU of all classes.
    """

    name: str
    summary: str
    train_void: Literal["void", "background"] = "void"
    test_future: Literal["void", "background"] = "void"
    test_other: Literal["scored", "void"] = "scored"
    test_images: Literal["all", "learned"] = "all"
    absent: Literal["skip", "zero"] = "skip"
    eval_size: str = "full"
    mean: Literal["with-background", "without-background"] = "with-background"
    __pydantic_config__ = _STRICT


# ---------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class SourceRef:
    """A further source of labelled images."""

    name: str
    root: str
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class DataRef:
    """Where labelled images came from: the plug-in that reads them and their folder.

    `more`: further sources whose images were joined to these.
    """

    name: str
    root: str
    more: tuple[SourceRef, ...] = ()
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
    """What holds for every step of a run, in `run.json`.

    `mean`, `std`: how the network's images are normalised, see `Normalisation`.
    """

    model: str
    model_options: dict[str, Any]
    size: Size
    created: str
    scenario: Scenario | None = None
    mean: tuple[float, float, float] = IMAGENET.mean
    std: tuple[float, float, float] = IMAGENET.std
    schema_version: int = SCHEMA_VERSION
    __pydantic_config__ = _STRICT

    @property
    def normalisation(self) -> Normalisation:
        """How the network's images are normalised."""
        return Normalisation(self.mean, self.std)


# ---------------------------------------------------------------------------------- evaluation


@dataclass(frozen=True)
class Miou:
    """Mean IoU in percent over groups of classes; None where a group has no class in the data."""

    all: float | None
    old: float | None
    new: float | None
    all_without_background: float | None
    old_without_background: float | None = None
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class ClassScore:
    """IoU of one class. `forgetting`: IoU after its own step minus now, in points.

    `pixels_true` and `pixels_predicted` are those among the pixels that were compared.
    """

    id: int
    name: str
    iou: float | None
    step: int
    forgetting: float | None = None
    pixels_true: int | None = None
    pixels_predicted: int | None = None
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class TaskScore:
    """Mean IoU of the classes that were born together, under the joint decision.

    `alone`: the same classes decided among themselves only, on their own pixels only: the
    single-task mIoU of the literature, which no confusion with another task can lower.
    """

    step: int
    classes: tuple[str, ...]
    miou: float | None
    alone: float | None = None
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class UnionScore:
    """Mean IoU over the classes of several steps, decided among these, on their pixels only."""

    steps: tuple[int, ...]
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

    `grid`: the pixels that were compared. `convention`: the rules of scoring. `absent`: classes
    without a pixel in truth and prediction. `history`: the steps up to this one, oldest first, as
    far as they were scored on the same images by the same rules. `gates`: the thresholds that were
    not met. `unions`: the classes of steps 0 to k among themselves, for each k.
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


@dataclass(frozen=True)
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
class ConventionDetails:
    """What `edgeinc show convention:NAME` says: the rules, and each of them as a sentence."""

    convention: Convention
    rules: tuple[str, ...]
    schema_version: int = SCHEMA_VERSION
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class ScenarioDetails:
    """What `edgeinc show SCENARIO` says: the plan, and in words what each step sees.

    `images` has one sentence per step; `labels` and `background` hold for all of them.
    """

    scenario: Scenario
    images: tuple[str, ...]
    labels: str
    background: str
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
class SplitStep:
    """What one step of a plan sees of a dataset.

    `images`: how many to train on, `held_out` of them kept out; `test`: how many images of `val`
    show a class learned so far, None without `val`; `ids`: which to train on, where asked for.
    """

    index: int
    classes: tuple[str, ...]
    images: int
    held_out: int
    test: int | None
    ids: tuple[str, ...] | None = None
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class DataSplit:
    """A plan applied to a dataset; `unused` images of `train` belong to no step."""

    data: DataRef
    scenario: str
    selection: Selection
    labels: Labels
    background: Background
    total: int
    unused: int
    steps: tuple[SplitStep, ...]
    schema_version: int = SCHEMA_VERSION
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class WrittenFile:
    """A file or folder a command wrote (`data preview`, `data synth`, `data convert`).

    `note`: what else to know about it.
    """

    path: str
    images: int
    note: str = ""
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
