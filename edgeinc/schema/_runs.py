"""What a run folder records: data, settings, machine, steps."""

from __future__ import annotations

from typing import Any, Literal

from edgeinc.schema._document import (
    IMAGENET,
    SCHEMA_VERSION,
    Background,
    Normalisation,
    Size,
    document,
)
from edgeinc.schema._plans import ClassInfo, ClassTable, Scenario


@document
class SourceRef:
    """A further source of labelled images."""

    name: str
    root: str


@document
class DataRef:
    """Where labelled images came from: the plug-in that reads them and their folder.

    `more`: further sources whose images were joined to these.
    """

    name: str
    root: str
    more: tuple[SourceRef, ...] = ()


@document
class Setting:
    """A resolved setting and where its value came from (flag, --set, env, file, run, default)."""

    value: Any
    source: str


@document
class Host:
    """The machine and the versions a result was obtained with."""

    platform: str
    python: str
    cpu: str
    cores: int
    memory_gb: float
    versions: dict[str, str]
    gpu: str = ""


@document
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

    @property
    def table(self) -> ClassTable:
        return ClassTable(self.classes, self.background)


@document
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

    @property
    def normalisation(self) -> Normalisation:
        """How the network's images are normalised."""
        return Normalisation(self.mean, self.std)
