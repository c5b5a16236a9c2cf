"""How a device makes a TensorRT engine from an exported file.

Engines are bound to a GPU and a TensorRT version, so they are built where they run; what travels
is the ONNX file and this recipe.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeinc.schema import SCHEMA_VERSION, ArtifactCard


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


def recipe(card: ArtifactCard) -> dict[str, Any]:
    """File, hash, shapes, and the command for each generation of TensorRT."""
    height, width = card.size
    engine = Path(card.file).with_suffix(".engine").name
    build = f"trtexec --onnx={card.file} --saveEngine={engine}"
    half = " --fp16" if card.precision == "fp16" else ""
    return {
        "schema_version": SCHEMA_VERSION,
        "onnx": card.file,
        "sha256": card.sha256,
        "precision": card.precision,
        "inputs": {"images": {"dtype": "uint8", "shape": [1, height, width, 3]}},
        "outputs": {"classes": {"dtype": "uint8", "shape": [1, height, width]}},
        "strongly_typed": {"8": False, "10": True, "11": True},
        "build": f"edgeinc build {card.file}",
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
