"""What tests of engines start from: an exported file, and a machine with a TensorRT of one kind."""

import ctypes
import json
import os
import sys
from pathlib import Path

import fake_tensorrt
import numpy as np
import pytest

from edgeinc.runs import sha256
from edgeinc.runtimes import _golden
from edgeinc.schema import ArtifactCard, ClassInfo, to_json

VERSIONS = tuple(fake_tensorrt.API)
SIZE = (6, 10)
CLASSES = tuple(ClassInfo(i, name, (i, 0, 0), 0) for i, name in enumerate(("road", "sky", "car")))


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """`machine("10.16.1", **faults)` puts that TensorRT and a GPU here, for children too."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.setenv("EDGEINC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(ctypes, "CDLL", ctypes.CDLL)  # the fake replaces it; this brings it back
    monkeypatch.syspath_prepend(site)
    root = str(Path(__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(site), root)))

    def put(version, **settings):
        tests = str(Path(__file__).parent)
        source = fake_tensorrt.SOURCE.format(tests=tests, version=version)
        (site / "tensorrt.py").write_text(source, encoding="utf-8")
        monkeypatch.setenv("TENSORRT_FAKE", json.dumps(settings))
        monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        for stale in (site / "__pycache__").glob("tensorrt*"):
            stale.unlink()
        sys.modules.pop("tensorrt", None)

    yield put
    sys.modules.pop("tensorrt", None)


def loaded():
    """The fake of this process, once it was imported."""
    return sys.modules["tensorrt"]


def write_artifact(
    folder, *, head=False, precision="fp32", seed=0, weights="w", gain=None, golden=False
):
    """An .onnx file with its card: a 1x1 classifier on RGB.

    Args:
        folder: Where to write `step-0.PRECISION.onnx`.
        head: Whether the classifier comes in through `head_weight` (R, 3) and `head_bias` (R,).
        precision: Of the name and the card.
        seed: Of the weights.
        weights: Their hash in the card.
        gain: What the image is multiplied by, a weight `body.gain`; None has no such weight.
        golden: Whether the file carries a golden question and its answer.
    """
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto as T
    from onnx import helper, numpy_helper

    height, width = SIZE
    weight, bias = classifier(len(CLASSES), seed)
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=T.FLOAT),
        helper.make_node("Transpose", ["head_weight"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["floats", "turned"], ["scores"]),
        helper.make_node("Add", ["scores", "head_bias"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["ids"], axis=3, keepdims=0),
        helper.make_node("Cast", ["ids"], ["chosen"], to=T.FLOAT),
        helper.make_node("Cast", ["chosen"], ["classes"], to=T.UINT8),
    ]
    inputs = [helper.make_tensor_value_info("images", T.UINT8, [1, height, width, 3])]
    initializers = []
    if head:
        inputs += [
            helper.make_tensor_value_info("head_weight", T.FLOAT, ["R", 3]),
            helper.make_tensor_value_info("head_bias", T.FLOAT, ["R"]),
        ]
    else:
        for node in nodes:
            node.input[:] = [n.replace("head_", "head.") for n in node.input]
        initializers = [
            numpy_helper.from_array(weight, "head.weight"),
            numpy_helper.from_array(bias, "head.bias"),
        ]
    if gain is not None:
        nodes.insert(1, helper.make_node("Mul", ["floats", "body.gain"], ["body"]))
        nodes[3].input[0] = "body"
        initializers.append(numpy_helper.from_array(np.full(3, gain, np.float32), "body.gain"))
    outputs = [helper.make_tensor_value_info("classes", T.UINT8, [1, height, width])]
    graph = helper.make_graph(nodes, "segmenter", inputs, outputs, initializers)
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    if golden:
        scale = 1.0 if gain is None else gain
        entry = _golden.ask(lambda images: expected(images, weight * scale, bias), SIZE)
        helper.set_model_props(model, entry)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-0.{precision}.onnx"
    path.write_bytes(model.SerializeToString())
    card = ArtifactCard(
        file=path.name,
        sha256=sha256(path),
        bytes=path.stat().st_size,
        model="erfnet",
        method="base",
        step=0,
        classes=CLASSES,
        background="none",
        size=SIZE,
        precision=precision,
        head="dynamic" if head else "static",
        decision="argmax",
        input="images",
        output="classes",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        opset=18,
        topology_sha256="t",
        weights_sha256=weights,
        parent_sha256="",
        versions={"edgeinc": "0"},
        created="2026-01-01T00:00:00+00:00",
    )
    path.with_suffix(".json").write_text(to_json(card), encoding="utf-8")
    return path


def classifier(rows, seed=0):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(rows, 3)).astype(np.float32)
    return weight - weight.mean(1, keepdims=True), rng.normal(size=rows).astype(np.float32)


def expected(images, weight, bias):
    """What the file decides, in numpy."""
    return (images.astype(np.float32) @ weight.T + bias).argmax(-1).astype(np.uint8)


def scenes(count=3, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (count, *SIZE, 3), np.uint8)
