"""The hash of a graph without its weights: equal hashes mean that weights can be exchanged.

What counts, in this order:

1. the opset imports, sorted by domain;
2. the graph's inputs and outputs in their order: name, element type, dimensions;
3. the nodes in their order: operator, domain, names of inputs and outputs, and every attribute in
   the order of the names with its value; tensors held by attributes (`Constant`) count with their
   values, graphs held by attributes count as graphs;
4. the initializers in the order of their names: name, element type, dimensions, and for int64 and
   bool the values too, because those are shapes, axes, indices and flags, hence structure.

What does not count: values of every other initializer (the weights), metadata, doc strings, names
of nodes and of the graph, recorded types of intermediate values, the IR version and the producer.

    topology_sha256(onnx.load("step-0.fp32.onnx", load_external_data=False))
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx


def topology_sha256(model: onnx.ModelProto) -> str:
    """Hash of everything but the weights, hexadecimal.

    Raises:
        ValueError: The model has local functions, sparse initializers, or attributes of a kind
            that edgeinc's graphs do not have.
    """
    if model.functions:
        raise ValueError("a graph with local functions has no topology hash; inline them first")
    content = {
        "opsets": sorted([o.domain, o.version] for o in model.opset_import),
        "graph": _graph(model.graph),
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def body_sha256(model: onnx.ModelProto) -> str:
    """Hash of names and values of all initializers, hexadecimal.

    Where the classifier is an input of the graph, this is the hash of everything else.
    """
    digest = hashlib.sha256()
    for tensor in sorted(model.graph.initializer, key=lambda t: t.name):
        digest.update(tensor.name.encode() + b"\0")
        digest.update(_content(tensor).encode())
    return digest.hexdigest()


def _graph(graph: onnx.GraphProto) -> dict[str, Any]:
    if graph.sparse_initializer:
        raise ValueError("a graph with sparse initializers has no topology hash")
    return {
        "inputs": [_value(v) for v in graph.input],
        "outputs": [_value(v) for v in graph.output],
        "nodes": [
            [
                node.op_type,
                node.domain,
                list(node.input),
                list(node.output),
                {a.name: _attribute(a) for a in node.attribute},
            ]
            for node in graph.node
        ],
        "initializers": [_initializer(t) for t in sorted(graph.initializer, key=lambda t: t.name)],
    }


def _value(info: onnx.ValueInfoProto) -> list[Any]:
    tensor = info.type.tensor_type
    return [info.name, tensor.elem_type, [d.dim_param or d.dim_value for d in tensor.shape.dim]]


def _initializer(tensor: onnx.TensorProto) -> list[Any]:
    from onnx import TensorProto

    structure = tensor.data_type in (TensorProto.INT64, TensorProto.BOOL)
    return [
        tensor.name,
        tensor.data_type,
        list(tensor.dims),
        _content(tensor) if structure else None,
    ]


def _content(tensor: onnx.TensorProto) -> str:
    from onnx.numpy_helper import to_array

    return to_array(tensor).tobytes().hex()


def _attribute(attribute: onnx.AttributeProto) -> list[Any]:
    from onnx import AttributeProto
    from onnx.helper import get_attribute_value

    kind = attribute.type
    if kind == AttributeProto.TENSOR:
        tensor = attribute.t
        return [kind, tensor.data_type, list(tensor.dims), _content(tensor)]
    if kind == AttributeProto.GRAPH:
        return [kind, _graph(attribute.g)]
    value = get_attribute_value(attribute)
    if kind == AttributeProto.STRING:
        return [kind, value.hex()]
    if kind == AttributeProto.STRINGS:
        return [kind, [v.hex() for v in value]]
    if kind in (AttributeProto.INT, AttributeProto.FLOAT):
        return [kind, value]
    if kind in (AttributeProto.INTS, AttributeProto.FLOATS):
        return [kind, list(value)]
    raise ValueError(f"attribute {attribute.name} of kind {kind} has no place in a topology hash")
