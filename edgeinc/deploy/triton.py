"""An exported file as a model of NVIDIA's Triton inference server.

    DIR/MODEL/config.pbtxt        tensors, batching, where it runs
    DIR/MODEL/labels.txt          line N (from 0) names class id N
    DIR/MODEL/2/model.onnx        version 2 is step 1

Rules: Triton's versions begin at 1 (it ignores a folder called 0), so a version is the step plus
one; Triton serves the highest version unless told otherwise, so a new step takes over, and removing
its folder goes back; ids never move from step to step, so the longest list of labels serves every
version; a version's folder appears whole. What was changed by hand in config.pbtxt stays.

    write_model_repository(Path("runs/full/export/step-1.fp32.onnx"), Path("models"))
"""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

from edgeinc.errors import MissingError, UsageError
from edgeinc.runs import write_atomic
from edgeinc.runtimes._card import CLASSES, IMAGES, LOGITS, read_card, verified
from edgeinc.runtimes._engine import read_engine_card
from edgeinc.runtimes._head import HEAD_WEIGHT, Rows, decode
from edgeinc.schema import ArtifactCard, EngineCard

__all__ = ["model_name", "write_model_repository"]

_ONNX_TYPES: Mapping[int, str] = {1: "FP32", 2: "UINT8", 6: "INT32", 7: "INT64", 10: "FP16"}
"""`TensorProto.DataType` -> `inference.DataType` of Triton, without its `TYPE_`."""
_NUMPY_TYPES = {"float32": "FP32", "uint8": "UINT8", "float16": "FP16"}
_PLATFORMS = {".onnx": "onnxruntime_onnx", ".engine": "tensorrt_plan"}
_RUNTIME = "onnxruntime"
_FILES = {".onnx": "model.onnx", ".engine": "model.plan"}


@dataclass(frozen=True)
class Tensor:
    """An input or output: every dimension, `-1` where it is open; `type` as Triton calls it."""

    name: str
    type: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Source:
    """What is put into the repository; `batch`: fewest, usual and most images of a call."""

    path: Path
    card: ArtifactCard
    batch: tuple[int, int, int]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    rows: Rows

    @property
    def largest_batch(self) -> int:
        """For Triton 0 is "do not touch": the first dimension belongs to the file.

        With a number, Triton takes the first dimension of *every* tensor for the batch, and a
        dynamic head has inputs without one: such a file is never batched.
        """
        low, _, high = self.batch
        return 0 if low == high or self.rows else high


def write_model_repository(path: Path, folder: Path, *, name: str | None = None) -> Path:
    """Put an exported file into a Triton model repository, beside the versions that are there.

    The inputs of a dynamic head are required inputs: every request sends the classifier. That of
    the step lies beside the model, as `head_weight.npy` and `head_bias.npy`.

    Args:
        path: FILE.onnx or FILE.engine, with its card. An engine needs a Triton that has the very
            TensorRT it was built with.
        folder: The repository; made where it is not there.
        name: The model's folder; None takes `model_name`.

    Returns:
        The model's folder.

    Raises:
        UsageError: It is no such file, Triton could not serve it, or the model that is there has
            other tensors or other classes.
        EdgeincError: The file is not the one its card describes.
        MissingError: Reading an .onnx file needs onnx, which is not installed.
    """
    source = _read(path)
    name = name or model_name(path, source.card)
    if re.fullmatch(r"[\w-][\w.-]*", name) is None:
        raise UsageError(
            f"'{name}' cannot be the name of a model",
            hint="use letters, digits, '-', '_' and '.'",
        )
    model = folder / name
    labels = _labels(model / "labels.txt", source.card)
    config = _config(model / "config.pbtxt", model.name, source)
    model.mkdir(parents=True, exist_ok=True)
    write_atomic(model / "labels.txt", labels.encode())
    write_atomic(model / "config.pbtxt", config.encode())
    _write_version(model, source)
    return model


def model_name(path: Path, card: ArtifactCard) -> str:
    """What a file is called in a repository: the same for every step of a run, whatever its form.

    The run's name, else the network's, and what tells the file from others of its step:
    `full-fp16-dynamic`.

    Args:
        path: The file; RUN/export/FILE names the run.
        card: Its card.
    """
    parent = path.resolve().parent
    of_run = parent.name == "export" and (parent.parent / "run.json").is_file()
    low, _, high = card.batch
    parts = [
        parent.parent.name if of_run else card.model,
        "" if card.precision == "fp32" else card.precision,
        "" if card.head == "static" else card.head,
        "" if card.answer == "classes" else card.answer,
        "" if low == high == 1 else f"batch{low}-{high}",
        "" if path.suffix == ".onnx" else "tensorrt",
    ]
    return re.sub(r"[^\w.-]", "-", "-".join(filter(None, parts))).lstrip(".")


def _read(path: Path) -> _Source:
    if path.suffix not in _PLATFORMS or not path.is_file():
        raise UsageError(
            f"{path} is no file that Triton can serve",
            hint="give FILE.onnx of `edgeinc export` or FILE.engine of `edgeinc build`",
        )
    if path.suffix == ".engine":
        source = _read_engine(path, read_engine_card(path))
    else:
        source = _read_onnx(path, verified(path, read_card(path)))
    if path.suffix == ".onnx" and source.card.target not in ("", _RUNTIME):
        raise UsageError(
            f"{path} is int8 for {source.card.target}, and Triton would run it with {_RUNTIME}",
            hint=f"export it with --for {_RUNTIME}, or give the engine that was built from it",
        )
    low, usual, high = source.batch
    if source.largest_batch and low > 1:
        raise UsageError(
            f"{path} takes no fewer than {low} images, and Triton may send one",
            hint=f"export it again with --dynamic-batch 1:{usual}:{high}",
        )
    return source


def _read_onnx(path: Path, card: ArtifactCard) -> _Source:
    try:
        import onnx
    except ImportError as err:
        raise MissingError(
            f"reading the tensors of {path} needs onnx, which is not installed",
            hint="pip install onnx",
        ) from err
    file = onnx.load_model(path)
    metadata = {p.key: p.value for p in file.metadata_props}

    def tensors(values: Sequence[onnx.ValueInfoProto]) -> tuple[Tensor, ...]:
        return tuple(
            Tensor(
                value.name,
                _ONNX_TYPES[value.type.tensor_type.elem_type],
                tuple(
                    d.dim_value if d.HasField("dim_value") else -1
                    for d in value.type.tensor_type.shape.dim
                ),
            )
            for value in values
        )

    rows = decode(path, metadata, card.head_shape) if card.head == "dynamic" else {}
    return _Source(
        path, card, card.batch, tensors(file.graph.input), tensors(file.graph.output), rows
    )


def _read_engine(path: Path, engine: EngineCard) -> _Source:
    card = engine.artifact
    height, width = card.size
    rows = decode(path, engine.rows, card.head_shape) if engine.rows else {}
    inputs = tuple(
        Tensor(
            name,
            _NUMPY_TYPES[shapes.dtype],
            tuple(
                low if low == high else -1 for low, high in zip(shapes.min, shapes.max, strict=True)
            ),
        )
        for name, shapes in engine.inputs.items()
    )
    images = engine.inputs[IMAGES]
    low, usual, high = images.min[0], images.opt[0], images.max[0]
    batch = low if low == high else -1
    classes = -1 if rows else card.head_shape[0] or len(card.classes)
    answers = {
        CLASSES: Tensor(CLASSES, "UINT8", (batch, height, width)),
        LOGITS: Tensor(LOGITS, "FP32", (batch, classes, height, width)),
    }
    names = (CLASSES, LOGITS) if card.answer == "both" else (card.answer,)
    return _Source(
        path, card, (low, usual, high), inputs, tuple(answers[name] for name in names), rows
    )


def _labels(existing: Path, card: ArtifactCard) -> str:
    """The longer of two lists that agree.

    Raises:
        UsageError: They call an id by two names: it is another network.
    """
    names = {c.id: " ".join(c.name.split()) for c in card.classes}
    lines = [names.get(i, "") for i in range(max(names) + 1)]
    there = existing.read_text(encoding="utf-8").splitlines() if existing.exists() else []
    for i, (then, now) in enumerate(zip(there, lines, strict=False)):
        if then != now:
            raise UsageError(
                f"{existing} calls class {i} '{then}', {card.file} calls it '{now}'",
                hint="another network takes another folder or name",
            )
    return "\n".join(there if len(there) > len(lines) else lines) + "\n"


def _config(existing: Path, name: str, source: _Source) -> str:
    """The configuration: the one that is there, as long as it has the same tensors.

    Raises:
        UsageError: It has others; every version of a model shares one configuration.
    """
    contract = _contract(name, source)
    if existing.exists():
        text = existing.read_text(encoding="utf-8")
        if contract in text:
            return text
        raise UsageError(
            f"{existing} has other tensors than {source.path.name}, and versions share them",
            hint=f"remove {existing.parent}, or take another folder or name",
        )
    batching = ""
    if source.largest_batch:
        usual = source.batch[1]
        batching = f"dynamic_batching {{ preferred_batch_size: [ {usual} ] }}\n"
    return (
        "# Written by edgeinc. The tensors are those of the file; what stands below them is yours\n"
        f"# to change and is kept. Versions are steps plus one.\n{contract}"
        f"{batching}instance_group [ {{ count: 1 kind: KIND_AUTO }} ]\n"
    )


def _contract(name: str, source: _Source) -> str:
    """The part that all versions of a model have in common."""
    skip = 1 if source.largest_batch else 0  # Triton adds the batch itself

    def block(kind: str, tensors: Sequence[Tensor]) -> str:
        lines = []
        for tensor in tensors:
            dims = ", ".join(str(n) for n in tensor.shape[skip:])
            labelled = ' label_filename: "labels.txt"' if tensor.name == CLASSES else ""
            lines.append(
                f"  {{ name: {json.dumps(tensor.name)} data_type: TYPE_{tensor.type}"
                f" dims: [ {dims} ]{labelled} }}"
            )
        return f"{kind} [\n" + ",\n".join(lines) + "\n]\n"

    head = ""
    if source.rows:
        head = f"# The classifier is an input: every request sends {HEAD_WEIGHT} and its bias.\n"
    return (
        f"name: {json.dumps(name)}\n"
        f'platform: "{_PLATFORMS[source.path.suffix]}"\n'
        f"max_batch_size: {source.largest_batch}\n"
        f"{head}{block('input', source.inputs)}{block('output', source.outputs)}"
    )


def _write_version(model: Path, source: _Source) -> None:
    """The folder of a version: written under a name that Triton ignores, then renamed."""
    target = model / str(source.card.step + 1)
    work = Path(mkdtemp(dir=model, prefix=".version-"))
    try:
        work.chmod(0o755)
        write_atomic(work / _FILES[source.path.suffix], source.path.read_bytes())
        for name, values in source.rows.items():
            buffer = io.BytesIO()
            np.save(buffer, values)
            write_atomic(work / f"{name}.npy", buffer.getvalue())
        if not target.exists():
            work.replace(target)
            return
        # A folder that is not empty cannot be replaced: the files are, one by one.
        for file in work.iterdir():
            file.replace(target / file.name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
