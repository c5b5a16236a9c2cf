"""How a device makes a TensorRT engine from an exported file.

Engines are bound to a GPU and a TensorRT version, so they are built where they run; what travels
is the ONNX file and this recipe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeinc.errors import as_typed
from edgeinc.runtimes._card import CLASSES, IMAGES, LOGITS
from edgeinc.runtimes._head import HEAD_BIAS, HEAD_WEIGHT
from edgeinc.schema import SCHEMA_VERSION, ArtifactCard, InputShapes, to_dict

MAX_ROWS = 64
"""Classes an engine with a dynamic head takes, unless told otherwise."""


def recipe_path(path: Path) -> Path:
    """Where the recipe of an exported file lies."""
    return path.with_suffix(".trt.json")


def tensorrt_version() -> str:
    """The version of TensorRT that can be imported here, "" where none can."""
    try:
        import tensorrt
    except (ImportError, OSError):  # OSError: the bindings are here, a library of theirs is not
        return ""
    return str(tensorrt.__version__)


def input_shapes(card: ArtifactCard, *, max_rows: int = MAX_ROWS) -> dict[str, InputShapes]:
    """Every input of the graph: fewest, usual and most of each dimension, and its type.

    Args:
        card: Of the exported file.
        max_rows: Rows a dynamic head may grow to; the file's own where that is more.
    """
    low, usual, high = ((count, *card.size, 3) for count in card.batch)
    kind = "float32" if card.input.startswith(f"{IMAGES}: float32") else "uint8"
    found = {IMAGES: InputShapes(low, usual, high, kind)}
    if card.head == "dynamic" and card.head_shape[0]:  # else only the graph knows its head
        rows, *rest = card.head_shape
        most = max(rows, max_rows)
        for name, each in ((HEAD_WEIGHT, tuple(rest)), (HEAD_BIAS, ())):
            found[name] = InputShapes((1, *each), (rows, *each), (most, *each), "float32")
    return found


def _outputs(card: ArtifactCard) -> dict[str, dict[str, Any]]:
    """Every output of the graph; -1 where an input decides."""
    count = card.batch[0] if card.batch[0] == card.batch[2] else -1
    rows = -1 if card.head == "dynamic" else card.head_shape[0]
    known = {
        CLASSES: {"dtype": "uint8", "shape": [count, *card.size]},
        LOGITS: {"dtype": "float32", "shape": [count, rows, *card.size]},
    }
    names = (CLASSES, LOGITS) if card.answer == "both" else (card.answer,)
    return {name: known[name] for name in names}


def _shape_options(inputs: Mapping[str, InputShapes]) -> str:
    """What trtexec is told of the inputs whose shape is open: a profile."""
    options = ""
    for end in ("min", "opt", "max"):
        shapes = ",".join(
            f"{name}:{'x'.join(map(str, getattr(shape, end)))}"
            for name, shape in inputs.items()
            if shape.min != shape.max
        )
        options += f" --{end}Shapes={shapes}" if shapes else ""
    return options


def recipe(card: ArtifactCard) -> dict[str, Any]:
    """File, hash, shapes, and the command for each generation of TensorRT."""
    inputs = input_shapes(card)
    engine = Path(card.file).with_suffix(".engine").name
    build = f"trtexec --onnx={card.file} --saveEngine={engine}{_shape_options(inputs)}"
    half = " --fp16" if card.precision == "fp16" else ""
    return {
        "schema_version": SCHEMA_VERSION,
        "onnx": card.file,
        "sha256": card.sha256,
        "precision": card.precision,
        "inputs": {name: to_dict(shape) for name, shape in inputs.items()},
        "outputs": _outputs(card),
        "strongly_typed": {"8": False, "10": True, "11": True},
        "build": as_typed("build", card.file),
        "commands": {
            "8.6": f"{build}{half}",
            "10": f"{build} --stronglyTyped",
            "11": build,
        },
        "notes": [
            "Build on the device that runs the engine; keep the ONNX file and its card beside it.",
            "`edgeinc build` writes the sidecar that edgeinc checks before it opens an engine; "
            "trtexec does not, so its engines are for other programs.",
            "TensorRT 10 and 11 compute in the types of the ONNX file; 8.6 takes flags.",
        ],
    }


def recipe_json(card: ArtifactCard) -> bytes:
    """The recipe as it is written."""
    return (json.dumps(recipe(card), indent=2) + "\n").encode()


def engine_note() -> str:
    """Why there is no engine, and how to go on."""
    return (
        "TensorRT is not importable here, so no engine was built: copy the .onnx, its .json "
        "and the .trt.json to the device and run `edgeinc build` there"
    )
