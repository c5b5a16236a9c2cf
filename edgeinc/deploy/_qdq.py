"""Surgery on graphs with quantisation: which layers there are, and which of them are int8.

A *layer* is one convolution with what follows it up to the next one: additions, activations,
poolings. It is named as in the network (`encoder.3.conv1x3_2`). Always float are the preprocessing,
the first convolution with what follows it, and the head: the last matrix product and everything
after it.

Quantizers differ in what they offer for leaving layers out, and in what they leave quantised around
such a layer. So the whole body is quantised once, and a layer is made float by putting the nodes of
the float graph back: no second calibration, and the same for every quantizer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeinc.errors import EdgeincError
from edgeinc.runtimes._card import IMAGES

if TYPE_CHECKING:
    import onnx

CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class Parts:
    """A float graph as a quantizer sees it.

    Attributes:
        body: From the images to what the head reads.
        layers: Nodes of each layer that may be int8, by the layer's name, in their order.
        outside: Nodes of the body that stay float: preprocessing, first convolutions and what
            follows those.
    """

    body: onnx.ModelProto
    layers: dict[str, frozenset[str]]
    outside: frozenset[str]

    def nodes(self, excluded: Collection[str] = ()) -> frozenset[str]:
        """Nodes that are int8 when some layers are not."""
        kept = (nodes for name, nodes in self.layers.items() if name not in excluded)
        return frozenset[str]().union(*kept)


def parts(graph: onnx.ModelProto) -> Parts:
    """Find body, layers and head of a float graph that `_graph.to_onnx` made.

    Raises:
        EdgeincError: It has no matrix product as its classifier, or nothing that can be int8.
    """
    import onnx.utils

    nodes = list(graph.graph.node)
    makers = {output: i for i, node in enumerate(nodes) for output in node.output}
    parents = [{makers[name] for name in node.input if name in makers} for node in nodes]
    seeing = _descendants(parents, (i for i, n in enumerate(nodes) if IMAGES in n.input))
    products = [i for i, node in enumerate(nodes) if node.op_type == "MatMul" and i in seeing]
    last = [i for i in products if not (_descendants(parents, [i]) - {i}) & set(products)]
    if not last:
        raise EdgeincError(
            "this graph has no matrix product as its classifier, so nothing says where it ends",
            hint="export without --precision int8",
        )
    head = _descendants(parents, last)
    features = {
        name
        for i in head
        for name in nodes[i].input
        if name in makers and makers[name] in seeing - head
    }
    shaped = onnx.shape_inference.infer_shapes(graph)
    body = onnx.utils.Extractor(shaped).extract_model([IMAGES], sorted(features))
    names = {node.name for node in body.graph.node}
    layers, outside = _layers(nodes, parents, {i for i in seeing if nodes[i].name in names})
    if not layers:
        raise EdgeincError(
            "this graph has no convolution behind its first one, so nothing can be int8",
            hint="export without --precision int8",
        )
    return Parts(body, layers, frozenset(outside))


def _descendants(parents: list[set[int]], roots: Iterable[int]) -> set[int]:
    """Nodes that depend on some, themselves included. Nodes of a graph are in order."""
    found = set(roots)
    for i, above in enumerate(parents):
        if above & found:
            found.add(i)
    return found


def _layers(
    nodes: list[onnx.NodeProto], parents: list[set[int]], body: set[int]
) -> tuple[dict[str, frozenset[str]], set[str]]:
    """Each node of the body by the nearest convolution before it; the first ones are outside."""
    owner: dict[int, int] = {}
    first: set[int] = set()
    for i in sorted(body):
        above = max((owner[p] for p in parents[i] if p in owner), default=None)
        if nodes[i].op_type in CONVOLUTIONS:
            owner[i] = i
            if above is None:
                first.add(i)
        elif above is not None:
            owner[i] = above
    layers: dict[str, set[str]] = {}
    outside = {nodes[i].name for i in body if i not in owner}
    for i, convolution in sorted(owner.items()):
        if convolution in first:
            outside.add(nodes[i].name)
        else:
            layers.setdefault(_layer_name(nodes[convolution]), set()).add(nodes[i].name)
    return {name: frozenset(found) for name, found in layers.items()}, outside


def _layer_name(node: onnx.NodeProto) -> str:
    return str(node.input[1]).removesuffix(".weight")


def mixed(
    base: onnx.ModelProto, quantised: onnx.ModelProto, chosen: Collection[str]
) -> onnx.ModelProto:
    """A float graph in which some nodes are what a quantizer made of them.

    Args:
        base: The float graph.
        quantised: What a quantizer made of it or of its body. Nodes and tensors that were in it
            before have their names; a node may be gone because it was fused.
        chosen: Names of nodes of `base` to take from `quantised`.

    Returns:
        The graph with exactly the nodes and initializers that its outputs need, in order.
    """
    import onnx

    own = {node.name for node in base.graph.node}
    taken = [n for n in quantised.graph.node if n.name in chosen or n.name not in own]
    kept = [n for n in base.graph.node if n.name not in chosen]
    of_base = {t.name: t for t in base.graph.initializer}
    of_quantised = {t.name: t for t in quantised.graph.initializer}
    # A quantizer may give its dequantised bias the name of the float one, so where a name leads to
    # depends on who reads it.
    outputs = [output.name for output in base.graph.output]
    needed = _needed([(n, of_base) for n in kept] + [(n, of_quantised) for n in taken], outputs)
    initializers: dict[str, onnx.TensorProto] = {}
    # The nodes of the float graph come first: they keep the names of their weights.
    for node, source in sorted(needed, key=lambda pair: pair[1] is not of_base):
        for at, name in enumerate(node.input):
            if name not in source:
                continue
            tensor = source[name]
            if name in initializers and not _same(initializers[name], tensor):
                tensor = onnx.TensorProto()
                tensor.CopyFrom(source[name])
                tensor.name = node.input[at] = f"{name}_int8"
            initializers[tensor.name] = tensor
    result = onnx.ModelProto()
    result.CopyFrom(base)
    del result.graph.node[:], result.graph.initializer[:], result.graph.value_info[:]
    result.graph.node.extend(node for node, _ in needed)
    result.graph.initializer.extend(initializers[name] for name in sorted(initializers))
    return result


def _same(one: onnx.TensorProto, other: onnx.TensorProto) -> bool:
    return one is other or one.SerializeToString() == other.SerializeToString()


_Owned = tuple["onnx.NodeProto", dict[str, "onnx.TensorProto"]]
"""A node, and the initializers of the graph it is from."""


def _needed(nodes: list[_Owned], outputs: list[str]) -> list[_Owned]:
    """Copies of the nodes that some outputs need, each behind those it reads from."""
    import onnx

    makers = {output: pair for pair in nodes for output in pair[0].output if output}
    order: list[_Owned] = []
    seen: set[int] = set()
    stack = [(makers[name], False) for name in reversed(outputs) if name in makers]
    while stack:
        (node, own), ready = stack.pop()
        if ready:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            order.append((copy, own))
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append(((node, own), True))
            read = [n for n in reversed(node.input) if n in makers and n not in own]
            stack += [(makers[name], False) for name in read]
    return order
