"""TensorRT engines: what was built, for which machine, and what a build would give."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from edgeinc.schema._artifacts import ArtifactCard
from edgeinc.schema._document import SCHEMA_VERSION, document

Refit = Literal["none", "head", "all"]
"""Which weights of an engine can be replaced without a build."""


@document
class InputShapes:
    """The shapes an engine takes at one input. A static input has three times the same."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]
    dtype: str = ""


@document
class Machine:
    """What an engine is bound to. A field is "" where the system does not tell.

    `driver` is the version of the kernel driver, `cuda` the newest CUDA that driver can run,
    `l4t` the release of Linux for Tegra on a Jetson.
    """

    tensorrt: str
    gpu: str
    compute_capability: str
    driver: str
    cuda: str
    l4t: str


@document
class EngineCard:
    """The JSON beside an engine, `NAME.engine.json` for `NAME.engine`.

    `topology_sha256` and `weights_sha256` are those of what the engine computes; `artifact` is the
    card of the ONNX file it was built from; `rows` are the classifier of a dynamic head, as that
    file's metadata holds it. `replaceable` names the weights that other values can be given to
    without a build, `fixed_sha256` is the hash of names and values of all other float weights, ""
    where none is replaceable.
    """

    file: str
    sha256: str
    bytes: int
    topology_sha256: str
    weights_sha256: str
    machine: Machine
    precision: str
    refit: Refit
    inputs: dict[str, InputShapes]
    workspace_bytes: int
    timing_cache: Literal["new", "used"]
    seconds: float
    peak_mb: float | None
    artifact: ArtifactCard
    versions: dict[str, str]
    created: str
    rows: dict[str, str] = field(default_factory=dict)
    replaceable: tuple[str, ...] = ()
    fixed_sha256: str = ""
    schema_version: int = SCHEMA_VERSION


@document
class BuildResult:
    """What `build` wrote."""

    path: str
    sidecar: str
    card: EngineCard
    schema_version: int = SCHEMA_VERSION
