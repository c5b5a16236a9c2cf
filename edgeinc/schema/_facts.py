"""What commands that inform return: listings, findings, contents of data."""

from __future__ import annotations

from dataclasses import field
from typing import Any, Literal

from edgeinc.schema._document import SCHEMA_VERSION, Background, Color, Size, document
from edgeinc.schema._plans import Convention, Labels, Scenario, Selection
from edgeinc.schema._runs import DataRef, RunInfo, StepInfo
from edgeinc.schema._scores import EvalResult


@document
class Item:
    """One row of `edgeinc ls`."""

    name: str
    summary: str
    available: bool = True
    note: str = ""


@document
class Listing:
    """What `edgeinc ls KIND` found."""

    kind: str
    items: tuple[Item, ...]
    schema_version: int = SCHEMA_VERSION


@document
class Option:
    """One option of a plug-in: a field of its `Config` dataclass."""

    name: str
    type: str
    default: Any
    doc: str


@document
class PluginDetails:
    """What `edgeinc show NAME` says about a plug-in, read from its source without importing it."""

    name: str
    kind: str
    summary: str
    doc: str
    options: tuple[Option, ...]
    path: str
    schema_version: int = SCHEMA_VERSION


@document
class ConventionDetails:
    """What `edgeinc show convention:NAME` says: the rules, and each of them as a sentence."""

    convention: Convention
    rules: tuple[str, ...]
    schema_version: int = SCHEMA_VERSION


@document
class ScenarioDetails:
    """What `edgeinc show SCENARIO` says: the plan, and in words what each step sees.

    `images` has one sentence per step; `labels` and `background` hold for all of them.
    """

    scenario: Scenario
    images: tuple[str, ...]
    labels: str
    background: str
    schema_version: int = SCHEMA_VERSION


@document
class RunSummary:
    """What `edgeinc show RUN` says: the run, its steps, its newest score and its artifacts.

    `pending`: a step that was begun and is not finished.
    """

    path: str
    run: RunInfo
    steps: tuple[StepInfo, ...]
    score: EvalResult | None
    artifacts: tuple[str, ...]
    pending: StepInfo | None = None
    schema_version: int = SCHEMA_VERSION


@document
class Check:
    """One finding of `doctor`; `fix` is the command that mends it."""

    name: str
    status: Literal["ok", "warn", "missing"]
    detail: str
    fix: str = ""


@document
class Diagnosis:
    """What `doctor` found for a purpose (train, export, device, all)."""

    purpose: str
    checks: tuple[Check, ...]
    ok: bool
    schema_version: int = SCHEMA_VERSION


@document
class ClassCount:
    """How much of a class a dataset holds."""

    id: int
    name: str
    color: Color
    images: int
    pixels: int


@document
class DataInfo:
    """A dataset: its classes and how many images each split has."""

    name: str
    root: str
    background: Background
    classes: tuple[str, ...]
    splits: dict[str, int]
    size: Size | None
    schema_version: int = SCHEMA_VERSION


@document
class DataCheck:
    """Every problem of a dataset at once, and its class histogram per split."""

    data: DataRef
    images: dict[str, int]
    counts: dict[str, tuple[ClassCount, ...]]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    ok: bool
    schema_version: int = SCHEMA_VERSION


@document
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


@document
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


@document
class WrittenFile:
    """A file or folder a command wrote (`data preview`, `data synth`, `data convert`).

    `note`: what else to know about it.
    """

    path: str
    images: int
    note: str = ""
    schema_version: int = SCHEMA_VERSION


@document
class DemoRow:
    """One line of the table `edgeinc demo` ends with."""

    step: int
    classes: tuple[str, ...]
    miou_old: float | None
    miou_new: float | None
    miou_all: float | None
    fps: float | None


@document
class DemoResult:
    """The whole story of `edgeinc demo`. `failures` is empty when every gate was met."""

    run: str
    rows: tuple[DemoRow, ...]
    report: str
    picture: str
    seconds: float
    failures: tuple[str, ...] = field(default=())
    schema_version: int = SCHEMA_VERSION
