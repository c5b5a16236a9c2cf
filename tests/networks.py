"""Exported networks of three weights, as bytes, for tests that need a real file."""

import numpy as np
import pytest

from edgeinc.schema import ArtifactCard, ClassInfo

SIZE = (32, 48)


def weighted(helper, types):
    """Scores that are the channels times their weights."""
    return [helper.make_node("Mul", ["floats", "weights"], ["scores"])]


def network(weights, *, golden=None, classes=3, scored=weighted):
    """An export whose class is the channel that is brightest after weighting, as bytes.

    Args:
        weights: Of the three channels.
        golden: More entries of its metadata.
        classes: In its table.
        scored: Given onnx's helper and types, other nodes that make `scores` of `floats`.
    """
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto as T
    from onnx import helper

    from edgeinc.runtimes._card import to_metadata

    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=T.FLOAT),
        *scored(helper, T),
        helper.make_node("ArgMax", ["scores"], ["ids"], axis=3, keepdims=0),
        helper.make_node("Cast", ["ids"], ["classes"], to=T.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "brightest",
        [helper.make_tensor_value_info("images", T.UINT8, ["n", *SIZE, 3])],
        [helper.make_tensor_value_info("classes", T.UINT8, ["n", *SIZE])],
        [onnx.numpy_helper.from_array(np.asarray(weights, np.float32), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    card = ArtifactCard(
        file="model.onnx", sha256="", bytes=0, model="brightest", method="joint", step=0,
        classes=tuple(ClassInfo(i, f"c{i}", (i, i, i), 0) for i in range(classes)),
        background="none", size=SIZE, precision="fp32", head="static", decision="argmax",
        input="uint8 NHWC", output="classes", mean=(0.0,) * 3, std=(1.0,) * 3, opset=17,
        topology_sha256="0" * 64, weights_sha256="1" * 64, parent_sha256="",
        versions={"edgeinc": "0.1.0"}, created="", batch=(1, 1, 8),
    )  # fmt: skip
    for key, value in {**to_metadata(card), **(golden or {})}.items():
        model.metadata_props.add(key=key, value=value)
    return model.SerializeToString()


def brightest(images):
    return images.argmax(3).astype(np.uint8)
