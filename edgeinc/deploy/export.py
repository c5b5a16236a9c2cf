"""Export a step as an ONNX file that describes itself and was compared with the network.

Preprocessing and decision are in the graph: `images` uint8 (1, H, W, 3) RGB in, `classes` uint8
(1, H, W) out. A file whose decisions differ from the trained network's never gets its good name.

    result = export("runs/camvid-erfnet")
    result.path                       # runs/camvid-erfnet/export/step-0.fp32.onnx
    result.card.parity.agreement      # 100.0
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypedDict

from edgeinc import __version__, host
from edgeinc.clock import written_now
from edgeinc.data import Image
from edgeinc.deploy._form import CAPACITY, GATES, MIOU_LOSS, Form, form_of, inputs, outputs, suffix
from edgeinc.deploy._parity import Labels, compare, labels_of
from edgeinc.deploy._probe import calibration_images, run_probe
from edgeinc.deploy._recipe import engine_note, recipe_json, recipe_path, tensorrt_version
from edgeinc.deploy.build import build, check
from edgeinc.deploy.quantize import check_quantizer, first_that_passes, quantise
from edgeinc.deploy.triton import write_model_repository
from edgeinc.errors import MissingError, RunError, UsageError
from edgeinc.progress import SILENT, Progress
from edgeinc.registry import load
from edgeinc.runs import Run, open_run, write_atomic
from edgeinc.runtimes._card import card_path, read_card, to_metadata
from edgeinc.runtimes._engine import sidecar_path
from edgeinc.runtimes._golden import ask
from edgeinc.runtimes._head import encode
from edgeinc.runtimes._topology import body_sha256, topology_sha256
from edgeinc.runtimes.torch import TorchSession
from edgeinc.schema import (
    ArtifactCard,
    ExportResult,
    Parity,
    Size,
    StepInfo,
    to_json,
)

if TYPE_CHECKING:
    import onnx

__all__ = ["export", "read_card"]

IMAGES = 8
LABELLED, CALIBRATION = 100, 64
"""Images to score on and to calibrate with, unless told."""
REJECTED = ".rejected"


def export(
    run: str | os.PathLike[str],
    *,
    step: int | None = None,
    precision: str = "fp32",
    target: str = "onnxruntime",
    size: Size | None = None,
    head: str = "static",
    capacity: int = CAPACITY,
    output: str = "classes",
    input: str = "uint8",
    dynamic_batch: tuple[int, int, int] | None = None,
    trt: bool = False,
    trt_check: bool = False,
    require_trt: bool = False,
    triton: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    limit: int = LABELLED,
    calibration: int = CALIBRATION,
    max_miou_loss: float = MIOU_LOSS,
    progress: Progress = SILENT,
) -> ExportResult:
    """Export a finished step and compare the file with the network on real images.

    In int8, the layers that hurt most stay float until the file loses no more mIoU than it may;
    where half of them do not suffice, it is rejected. See `quantize`.

    Args:
        run: The run's folder.
        step: Which step; None takes the newest.
        precision: `fp32`, `fp16` or `int8`: the types in the file, which TensorRT 10 and 11
            compute in.
        target: `onnxruntime`, `openvino` or `tensorrt`: the runtime that int8 is made for.
        size: (height, width) of the images it takes; None takes the size it was trained with.
        head: `static`: as many classes as there are. `capacity`: room for later ones in the same
            graph. `dynamic`: the classifier is an input of the graph, with any number of classes.
        capacity: Rows of the classifier in head mode `capacity`.
        output: `classes`, `logits` (float32 (N, C, H, W), the decision is their argmax), or `both`.
        input: `uint8`, or `float` for runtimes that take no other: float32, still 0 to 255.
        dynamic_batch: Fewest, usual and most images of a call; None fixes one.
        trt: Also build the TensorRT engine, or, where that is not here, write how the device does.
        trt_check: Also let NVIDIA's parser and builder try the file; needs no GPU.
        require_trt: As `trt`, and fail at once where TensorRT cannot be imported.
        triton: Also put the file into this Triton model repository, as version step + 1.
        out: The .onnx file to write; None takes RUN/export/step-N.PRECISION.onnx.
        data: Dataset to compare on and to calibrate with; None takes the run's.
        data_root: Where named datasets lie.
        limit: Labelled images to score file and network on; 0 scores neither.
        calibration: Images of the training split that int8 takes its ranges from.
        max_miou_loss: Points of mIoU that the file may lose where it is scored.
        progress: Told about the parts of the work.

    Returns:
        The file and its card. Where `card.parity.passed` is False, the file is called
        FILE.onnx.rejected and nothing is left under the good name.

    Raises:
        UsageError: No such run or step, or a precision or file name that is not supported.
        RunError: The step is unfinished, its weights were changed, or hold NaN.
        MissingError: The exporter's packages, the quantizer, or TensorRT where it is required, are
            not here.
        DataError: The data asked for cannot be read, or there is no real image to calibrate with.
        EdgeincError: The quantizer failed, or the runtime crashed on what it made.
    """
    _check_tools(require_trt)
    form = form_of(precision, head, capacity, output, input, dynamic_batch, target)
    opened = open_run(run)
    info = opened.step(step)
    from edgeinc.models import check_size

    size = opened.info.size if size is None else size
    check_size(opened.info.model, size)
    other = "" if size == opened.info.size else f".{size[0]}x{size[1]}"
    path = Path(out or opened.path / "export" / f"step-{info.index}.{suffix(form)}{other}.onnx")
    if path.suffix != ".onnx":
        raise UsageError(f"cannot export to {path}", hint="give a file name that ends in .onnx")
    where: _Where = {"data": data, "data_root": data_root}
    images = run_probe(info.data, **where, count=IMAGES, size=size)
    shown: tuple[Image, ...] = ()
    if form.precision == "int8":
        check_quantizer(form.target)
        shown = calibration_images(info.data, **where, count=calibration)
    network = TorchSession(opened.folder(info.index), device="cpu", threads=0, size=size)
    _refuse_not_finite(network, info.index)
    labels = labels_of(opened, network, info.data, **where, limit=limit)
    judge = _Judge(network, images.images, labels, max_miou_loss, progress)
    content, card, parity_note = _build(opened, info, form, judge, shown)
    path, card = _write(path, content, card)
    notes = [parity_note]
    if card.parity is not None and not images.real:
        notes.append(f"compared with torch on {images.source}")
    notes.append(labels.note)
    if card.parity is not None and card.excluded and not card.parity.passed:
        notes.append(f"rejected although {len(card.excluded)} layers stayed float")
    if card.target == "tensorrt" and card.parity is not None:
        notes.append("compared in ONNX Runtime: an engine is measured where it is built")
    result = ExportResult(str(path), card)
    good = not path.name.endswith(REJECTED)
    if good and (trt or require_trt):
        write_atomic(recipe_path(path), recipe_json(card))
        result = replace(result, recipe=str(recipe_path(path)))
        if tensorrt_version():
            result = replace(result, engine=build(path, progress=progress).path)
        else:
            notes.append(engine_note())
    if good and trt_check:
        result = replace(result, check=check(path, progress=progress))
    if good and triton is not None:
        source = Path(result.engine) if card.target == "tensorrt" and result.engine else path
        result = replace(result, triton=str(write_model_repository(source, Path(triton))))
    return replace(result, note="; ".join(filter(None, notes)))


def _check_tools(require_trt: bool) -> None:
    """Refuse what cannot succeed, before any work."""
    for package in ("torch", "onnx", "onnxscript"):
        if find_spec(package) is None:
            raise MissingError(
                f"export needs {package}, which is not installed",
                hint='pip install "edgeinc[train]"',
            )
    if require_trt and not tensorrt_version():
        raise MissingError(
            "TensorRT was required and cannot be imported",
            hint="leave out --require-trt to get the ONNX file and the build recipe",
        )


def _refuse_not_finite(network: TorchSession, step: int) -> None:
    for name, values in network.model.state_dict().items():
        if not values.isfinite().all():
            raise RunError(
                f"{name} of step {step} holds values that are not finite",
                hint="train the step again; a lower --lr often helps",
            )


class _Where(TypedDict):
    """Which data was asked for."""

    data: str | os.PathLike[str] | None
    data_root: str | os.PathLike[str] | None


@dataclass(frozen=True)
class _Judge:
    """Compares a file's content with the network, before it gets a name."""

    network: TorchSession
    images: Sequence[Image]
    labels: Labels
    max_miou_loss: float
    progress: Progress

    def parity(
        self, graph: onnx.ModelProto, form: Form
    ) -> tuple[Parity | None, dict[str, str], str]:
        """The outcome, the file's golden question, and why there are none."""
        name = "openvino" if form.target == "openvino" else "onnxruntime"
        runtime = load("runtimes", name)
        state = runtime.availability()
        if not state.ok:
            return None, {}, f"not compared with torch: {state.reason} ({state.fix})"
        with TemporaryDirectory() as folder:
            candidate = Path(folder) / "candidate.onnx"
            candidate.write_bytes(graph.SerializeToString())
            with runtime.open(candidate, device="cpu") as session:
                progress, count = self.progress, len(self.images)
                with progress.task("compare with torch", count, "img") as task:
                    gate = GATES[form.precision]
                    parity = compare(self.network, session, self.images, gate=gate, task=task)
                judged = self.labels.judged(
                    parity, session, gate=self.max_miou_loss, progress=progress
                )
                return judged, ask(session.run, session.size), ""


_Built = tuple[bytes, ArtifactCard, str]
"""The file's content, its card, and a note where it was not compared."""


def _build(
    run: Run, info: StepInfo, form: Form, judge: _Judge, calibration: Sequence[Image]
) -> _Built:
    """Make the graph; in int8, leave out layers until the gate is met."""
    import onnx

    from edgeinc.deploy._graph import head_of, to_onnx

    model, progress = judge.network.model, judge.progress
    with progress.task(f"export step {info.index}", 1, "graph") as task:
        graph = to_onnx(model, judge.network.size, form)
        onnx.checker.check_model(graph, full_check=True)
        task.advance()
    weight, bias = head_of(model, form)

    def finished(graph: onnx.ModelProto, excluded: tuple[str, ...] = ()) -> _Built:
        card = _card(run, info, form, judge.network, graph, weight.shape)
        if calibration:
            quantizer = check_quantizer(form.target)
            card = replace(card, target=form.target, quantizer=quantizer, excluded=excluded)
            card = replace(card, calibration=len(calibration))
        metadata = to_metadata(card)
        if form.head == "dynamic":
            metadata |= encode(weight, bias)
        onnx.helper.set_model_props(graph, metadata)
        parity, golden, note = judge.parity(graph, form)
        onnx.helper.set_model_props(graph, {**metadata, **golden})
        content = graph.SerializeToString(deterministic=True)
        card = replace(card, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
        return content, replace(card, parity=parity), note

    if not calibration:
        return finished(graph)
    quantised = quantise(graph, calibration, target=form.target, progress=progress)
    return first_that_passes(quantised, finished, _passed, progress)


def _passed(built: _Built) -> bool:
    parity = built[1].parity
    return parity is None or parity.passed


def _card(
    run: Run,
    info: StepInfo,
    form: Form,
    network: TorchSession,
    graph: onnx.ModelProto,
    head_shape: tuple[int, ...],
) -> ArtifactCard:
    """What is known before the file exists: hash and size of the file are filled in later."""
    versions = {p: host.installed(p) for p in ("torch", "onnx", "onnxscript", "onnxruntime")}
    rows, positions, channels = head_shape
    return ArtifactCard(
        file="",
        sha256="",
        bytes=0,
        model=run.info.model,
        method=info.method,
        step=info.index,
        classes=info.classes,
        background=info.background,
        size=network.size,
        precision=form.precision,
        head=form.head,
        decision=network.model.decision,
        input=inputs(form, network.size, (rows, positions, channels)),
        output=outputs(form, network.size, rows),
        mean=network.model.mean,
        std=network.model.std,
        opset=next(o.version for o in graph.opset_import if not o.domain),
        topology_sha256=topology_sha256(graph),
        weights_sha256=info.weights_sha256,
        parent_sha256=info.parent_sha256,
        versions={"edgeinc": __version__, **{k: v for k, v in versions.items() if v}},
        created=written_now(),
        head_shape=(rows, positions, channels),
        batch=form.batch,
        answer=form.answer,
        body_sha256=body_sha256(graph),
    )


def _write(path: Path, content: bytes, card: ArtifactCard) -> tuple[Path, ArtifactCard]:
    """Write file and card; a file that failed the comparison gets another name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rejected = path.with_name(path.name + REJECTED)
    # No earlier outcome stays beside this one. Until the new card is written the file describes
    # itself; with another file's card it would not open.
    engine = path.with_suffix(".engine")
    cards = (card_path(rejected), card_path(path), sidecar_path(engine), recipe_path(path))
    for stale in (rejected, *cards, engine):
        stale.unlink(missing_ok=True)
    if card.parity is not None and not card.parity.passed:
        path.unlink(missing_ok=True)
        path = rejected
    card = replace(card, file=path.name)
    write_atomic(path, content)
    write_atomic(card_path(path), to_json(card).encode())
    return path, card
