"""Build a TensorRT engine from an exported file, on the device that will run it.

Rules: TensorRT works in a process of its own, because it may crash or eat all memory; the engine
gets its name when it is whole, and its sidecar (`NAME.engine.json`) after it; an engine whose
sidecar is missing or older is refused when it is opened, so no order of events runs a wrong one.

    result = build("step-1.fp32.onnx")
    result.path                          # step-1.fp32.engine
    check("step-1.fp32.onnx").ok         # would it build? needs no GPU
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgeinc import __version__, host
from edgeinc.child import run_child
from edgeinc.clock import written_now
from edgeinc.deploy._recipe import MAX_ROWS, input_shapes
from edgeinc.errors import EdgeincError, MissingError, UsageError
from edgeinc.progress import SILENT, Progress
from edgeinc.runs import sha256, write_atomic
from edgeinc.runtimes._card import read_card, verified
from edgeinc.runtimes._engine import sidecar_path
from edgeinc.runtimes._head import HEAD_BIAS, HEAD_WEIGHT
from edgeinc.runtimes._onnx_file import metadata
from edgeinc.runtimes._refit import fixed_sha256
from edgeinc.runtimes.tensorrt import TensorRT, device_index
from edgeinc.schema import (
    ArtifactCard,
    BuildResult,
    EngineCard,
    EngineCheck,
    InputShapes,
    Machine,
    Refit,
    TargetBuild,
    to_dict,
    to_json,
)

TARGETS = ("SM80", "SM86", "SM89", "SM120")
"""GPU generations that `check` builds for: Ampere (two), Ada and Blackwell.

Turing (SM75) is left out: there TensorRT for RTX has no fp32 matrix product, which TensorRT has.
"""
CHILD = "edgeinc.deploy._build_child"


def build(
    artifact: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    refit: Refit = "none",
    max_rows: int = MAX_ROWS,
    profile: Mapping[str, InputShapes] | None = None,
    device: str = "auto",
    memory_mb: int | None = None,
    progress: Progress = SILENT,
) -> BuildResult:
    """Build the engine of an exported file and its sidecar.

    Args:
        artifact: The .onnx file.
        out: The .engine file to write; None takes the artifact's name beside it.
        refit: Which weights can be replaced later without a build: those of the head, or all.
            Both keep TensorRT from merging these weights, so the engine may be slower.
        max_rows: Rows a dynamic head may grow to; the file's own where that is more.
        profile: Shapes of inputs that are dynamic, where the default does not suit.
        device: `auto`, `cuda` or `cuda:N`.
        memory_mb: More memory than this ends the build; None allows most of what is free.
        progress: Told about the phases of the build.

    Raises:
        UsageError: No such file, or a name or option that does not fit.
        MissingError: There is no TensorRT, no driver or no GPU.
        EdgeincError: The file was changed, TensorRT built nothing, crashed, or needed too much
            memory.
        RunError: The disk is full.
    """
    path, card = _artifact(artifact)
    target = Path(out) if out else path.with_suffix(".engine")
    if target.suffix != ".engine":
        raise UsageError(f"cannot build {target}", hint="give a file name that ends in .engine")
    if refit != "none" and card.precision == "int8":
        raise UsageError(
            f"{path} is int8, and no other weights fit its ranges: they are calibrated with them",
            hint="leave --refit out, or export in fp16",
        )
    index = device_index(device)
    state = TensorRT.availability()
    if not state.ok:
        raise MissingError(f"cannot build an engine: {state.reason}", hint=state.fix)
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder,
        progress.task(f"build {target.name}", None, "phase") as task,
    ):
        engine = Path(folder) / "engine"
        job = {
            "do": "build",
            "onnx": str(path),
            "engine": str(engine),
            "precision": card.precision,
            "refit": refit,
            "size": card.size,
            "head_shape": card.head_shape,
            "rows": _rows(card),
            "max_rows": max_rows,
            "profile": _profile(card, profile, max_rows),
            "device": index,
        }
        limit = None if memory_mb is None else memory_mb * 10**6
        facts = run_child(CHILD, job, task=task, memory_bytes=limit)
        source = path.read_bytes()
        entries = metadata(source) if card.head == "dynamic" else {}
        facts["rows"] = {k: entries[k] for k in (HEAD_WEIGHT, HEAD_BIAS) if k in entries}
        facts["fixed_sha256"] = fixed_sha256(source, facts["replaceable"])
        described = _engine_card(target, engine, card, refit, facts)
        write_atomic(target, engine.read_bytes())
        write_atomic(sidecar_path(target), to_json(described).encode())
    return BuildResult(str(target), str(sidecar_path(target)), described)


def check(
    artifact: str | os.PathLike[str],
    *,
    targets: Sequence[str] = TARGETS,
    max_rows: int = MAX_ROWS,
    progress: Progress = SILENT,
) -> EngineCheck:
    """Let NVIDIA's own parser and builder (TensorRT for RTX) try a file; needs no GPU.

    It finds what other runtimes do not mind. It says nothing about speed, and TensorRT itself may
    still differ in what it takes.

    Args:
        artifact: The .onnx file.
        targets: GPU generations to build for.
        max_rows: Rows a dynamic head may grow to.
        progress: Told about the phases.

    Raises:
        UsageError: No such file.
        MissingError: `tensorrt_rtx` is not installed.
        EdgeincError: The file was changed, or the builder crashed.
    """
    path, card = _artifact(artifact)
    if find_spec("tensorrt_rtx") is None:
        raise MissingError("tensorrt_rtx is not installed", hint='pip install "edgeinc[trtcheck]"')
    with progress.task(f"check {path.name}", None, "phase") as task:
        job = {
            "do": "check",
            "onnx": str(path),
            "precision": card.precision,
            "rows": _rows(card),
            "max_rows": max_rows,
            "profile": _profile(card, None, max_rows),
            "targets": list(targets),
        }
        facts = run_child(CHILD, job, task=task)
    builds = tuple(TargetBuild(**row) for row in facts["builds"])
    error = facts.get("error", "")
    return EngineCheck(
        str(path),
        facts["builder"],
        facts["layers"],
        builds,
        ok=not error and all(row.status == "ok" for row in builds),
        error=error,
    )


def _artifact(artifact: str | os.PathLike[str]) -> tuple[Path, ArtifactCard]:
    """The file and its card, once they are known to belong together."""
    path = Path(artifact)
    if path.suffix != ".onnx" or not path.is_file():
        kind = "is not an .onnx file" if path.exists() else "does not exist"
        raise UsageError(
            f"{path} {kind}", hint="make one with `edgeinc export RUN`, or take RUN/export/*.onnx"
        )
    card = verified(path, read_card(path))
    if card.parity is not None and not card.parity.passed:
        raise EdgeincError(
            f"{path} does not agree with the network it was exported from",
            hint="export it again",
        )
    return path, card


def _rows(card: ArtifactCard) -> int:
    """How many the classifier has now: those of the classes, and one that is no class, if any."""
    return card.head_shape[0] or len(card.classes)


def _profile(
    card: ArtifactCard, given: Mapping[str, InputShapes] | None, max_rows: int
) -> dict[str, Any]:
    """Shapes of the inputs that are open, and what the caller wants otherwise."""
    found = input_shapes(card, max_rows=max_rows)
    shapes = {name: shape for name, shape in found.items() if shape.min != shape.max}
    return {name: _bounds(shape) for name, shape in {**shapes, **(given or {})}.items()}


def _bounds(shape: InputShapes) -> dict[str, Any]:
    return {key: value for key, value in to_dict(shape).items() if key != "dtype"}


def _engine_card(
    target: Path, engine: Path, card: ArtifactCard, refit: Refit, facts: dict[str, Any]
) -> EngineCard:
    packages = ("numpy", "onnxruntime")
    inputs = {
        name: InputShapes(
            tuple(shape["min"]), tuple(shape["opt"]), tuple(shape["max"]), shape["dtype"]
        )
        for name, shape in facts["inputs"].items()
    }
    return EngineCard(
        file=target.name,
        sha256=sha256(engine),
        bytes=engine.stat().st_size,
        topology_sha256=card.topology_sha256,
        weights_sha256=card.weights_sha256,
        machine=Machine(**facts["machine"]),
        precision=card.precision,
        refit=refit,
        inputs=inputs,
        workspace_bytes=facts["workspace_bytes"],
        timing_cache=facts["timing_cache"],
        seconds=facts["seconds"],
        peak_mb=facts["peak_mb"],
        artifact=card,
        versions={
            "edgeinc": __version__,
            **{name: v for name in packages if (v := host.installed(name))},
        },
        created=written_now(),
        rows=facts["rows"],
        replaceable=tuple(facts["replaceable"]),
        fixed_sha256=facts["fixed_sha256"],
    )
