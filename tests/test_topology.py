"""The topology hash: blind to weights, sharp for everything else."""

import copy

import pytest

onnx = pytest.importorskip("onnx")
np = pytest.importorskip("numpy")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from edgeinc.runtimes._topology import topology_sha256  # noqa: E402


def graph(*, weight=0.5, scale=2.0, shape=(1, 12), pads=(1, 1, 1, 1)):
    """images -> Conv -> Mul by a Constant -> Reshape by an int64 initializer -> ids."""
    nodes = [
        helper.make_node("Conv", ["images", "conv.weight"], ["a"], name="n1", pads=list(pads)),
        helper.make_node("Constant", [], ["k"], value_floats=[scale]),
        helper.make_node("Mul", ["a", "k"], ["b"]),
        helper.make_node("Reshape", ["b", "shape"], ["ids"]),
    ]
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 1, 3, 4])]
    outputs = [helper.make_tensor_value_info("ids", TensorProto.FLOAT, list(shape))]
    initializers = [
        numpy_helper.from_array(np.full((1, 1, 3, 3), weight, np.float32), "conv.weight"),
        numpy_helper.from_array(np.asarray(shape, np.int64), "shape"),
    ]
    body = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def changed(change):
    model = copy.deepcopy(graph())
    change(model)
    return model


def rename_weight(model):
    model.graph.initializer[0].name = model.graph.node[0].input[1] = "conv2.weight"


def half_weight(model):
    values = np.full((1, 1, 3, 3), 0.5, np.float16)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "conv.weight"))


def metadata(model):
    helper.set_model_props(model, {"step": "3"})
    model.doc_string = model.graph.doc_string = model.graph.node[0].doc_string = "text"
    model.graph.node[0].name = "another"
    model.graph.name = "another"
    model.producer_name, model.producer_version, model.ir_version = "someone", "9", 11


def value_info(model):
    model.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, None))


def initializer_order(model):
    first, second = (copy.deepcopy(t) for t in model.graph.initializer)
    del model.graph.initializer[:]
    model.graph.initializer.extend([second, first])


def raw_as_floats(model):
    tensor = helper.make_tensor("conv.weight", TensorProto.FLOAT, (1, 1, 3, 3), [7.0] * 9)
    model.graph.initializer[0].CopyFrom(tensor)


def attribute_order(model):
    node = model.graph.node[0]
    node.attribute.append(helper.make_attribute("group", 1))
    attributes = [copy.deepcopy(a) for a in reversed(node.attribute)]
    del node.attribute[:]
    node.attribute.extend(attributes)


@pytest.mark.parametrize(
    "model",
    [
        graph(weight=0.0),
        graph(weight=-3.0),
        changed(metadata),
        changed(value_info),
        changed(initializer_order),
        changed(raw_as_floats),
    ],
    ids=["zero", "weights", "metadata", "value info", "initializer order", "encoding"],
)
def test_the_hash_ignores(model):
    assert topology_sha256(model) == topology_sha256(graph())


@pytest.mark.parametrize(
    "model",
    [
        graph(scale=4.0),
        graph(shape=(1, 3, 4)),
        graph(pads=(0, 0, 0, 0)),
        changed(rename_weight),
        changed(half_weight),
        changed(lambda m: setattr(m.graph.node[2], "op_type", "Add")),
        changed(lambda m: setattr(m.opset_import[0], "version", 17)),
        changed(lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[2], "dim_value", 5)),
        changed(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 10)),
        changed(lambda m: m.graph.node.append(m.graph.node[2])),
    ],
    ids=[
        *["constant", "shape values", "attribute", "name", "dtype", "operator", "opset"],
        *["input size", "input type", "node added"],
    ],
)
def test_the_hash_sees(model):
    assert topology_sha256(model) != topology_sha256(graph())


def test_the_order_of_attributes_does_not_matter():
    one, two = graph(), changed(attribute_order)
    one.graph.node[0].attribute.append(helper.make_attribute("group", 1))
    assert topology_sha256(one) == topology_sha256(two)


def test_values_of_shapes_with_equal_form_are_structure():
    one, two = graph(shape=(3, 4)), graph(shape=(4, 3))
    for model in (one, two):
        del model.graph.output[0].type.tensor_type.shape.dim[:]
    assert topology_sha256(one) != topology_sha256(two)


def test_graphs_inside_attributes_count():
    def branching(factor):
        def branch(name):
            node = helper.make_node("Constant", [], [name], value_float=factor)
            value = helper.make_tensor_value_info(name, TensorProto.FLOAT, [])
            return helper.make_graph([node], name, [], [value])

        node = helper.make_node(
            "If", ["flag"], ["y"], then_branch=branch("yes"), else_branch=branch("no")
        )
        flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
        return helper.make_model(helper.make_graph([node], "g", [flag], [y]))

    assert topology_sha256(branching(1.0)) == topology_sha256(branching(1.0))
    assert topology_sha256(branching(1.0)) != topology_sha256(branching(2.0))


def test_a_graph_that_hides_structure_is_refused():
    model = graph()
    model.functions.append(onnx.FunctionProto(name="f", domain="x"))
    with pytest.raises(ValueError, match="local functions"):
        topology_sha256(model)
