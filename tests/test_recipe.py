"""The recipe of an exported file is enough to build its engine: every input with its bounds."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import edgeinc  # noqa: E402
from edgeinc.schema import InputShapes  # noqa: E402

KINDS = {onnx.TensorProto.UINT8: "uint8", onnx.TensorProto.FLOAT: "float32"}
FORMS = {
    "static": {},
    "dynamic": {"head": "dynamic", "output": "both"},
    "batch": {"head": "dynamic", "dynamic_batch": (2, 3, 5), "input": "float"},
    "capacity": {"head": "capacity", "capacity": 9, "output": "logits"},
}


@pytest.fixture(scope="module")
def recipes(_base_run, tmp_path_factory):
    """Recipe and file of every form."""
    found, folder = {}, tmp_path_factory.mktemp("recipes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeinc.host.cores", lambda: 1)
        for name, form in FORMS.items():
            out = folder / f"{name}.onnx"
            result = edgeinc.export(_base_run, trt=True, limit=0, out=out, **form)
            found[name] = (json.loads(Path(result.recipe).read_text(encoding="utf-8")), out)
    return found


def described(values):
    """Type and shape of every tensor of a graph's interface; -1 for what is open."""
    return {
        v.name: (
            KINDS[v.type.tensor_type.elem_type],
            [d.dim_value or -1 for d in v.type.tensor_type.shape.dim],
        )
        for v in values
    }


@pytest.mark.parametrize("form", FORMS)
def test_every_input_and_output_of_the_graph_is_in_it(recipes, form):
    recipe, path = recipes[form]
    graph = onnx.load(path).graph
    assert {
        name: (each["dtype"], each["shape"]) for name, each in recipe["outputs"].items()
    } == described(graph.output)
    inputs = described(graph.input)
    assert list(recipe["inputs"]) == list(inputs)
    for name, (kind, shape) in inputs.items():
        told = recipe["inputs"][name]
        assert told["dtype"] == kind
        bounds = list(zip(told["min"], told["opt"], told["max"], strict=True))
        assert len(bounds) == len(shape)
        for (low, usual, high), size in zip(bounds, shape, strict=True):
            assert low <= usual <= high
            assert low < high if size == -1 else low == high == size


def test_the_bounds_are_those_that_were_asked_for(recipes):
    images = recipes["batch"][0]["inputs"]["images"]
    assert [images[end] for end in ("min", "opt", "max")] == [[n, 64, 96, 3] for n in (2, 3, 5)]
    rows = recipes["dynamic"][0]["inputs"]["head_bias"]
    assert (rows["min"], rows["opt"], rows["max"]) == ([1], [3], [64])


def test_the_command_has_a_profile_exactly_where_a_shape_is_open(recipes):
    for form, names in (
        *(("static", ()), ("capacity", ()), ("dynamic", ("head_weight", "head_bias"))),
        ("batch", ("images", "head_weight", "head_bias")),
    ):
        recipe, _ = recipes[form]
        for command in recipe["commands"].values():
            for end in ("min", "opt", "max"):
                expected = ",".join(
                    f"{n}:" + "x".join(map(str, recipe["inputs"][n][end])) for n in names
                )
                assert (f" --{end}Shapes={expected}" in command) is bool(names)


@pytest.mark.parametrize("form", ["dynamic", "batch"])
def test_nvidias_builder_builds_from_the_recipe_alone(recipes, form):
    rtx = pytest.importorskip("tensorrt_rtx")
    from edgeinc.runtimes._tensorrt import Bindings

    recipe, path = recipes[form]
    trt = Bindings(rtx)
    profile = {
        name: InputShapes(tuple(each["min"]), tuple(each["opt"]), tuple(each["max"]))
        for name, each in recipe["inputs"].items()
        if each["min"] != each["max"]
    }
    network = trt.parse(path.read_bytes())
    built = trt.build(network, precision=recipe["precision"], profile=profile, target="SM86")
    assert memoryview(built.engine).nbytes > 10_000
