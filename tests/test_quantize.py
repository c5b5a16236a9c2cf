"""int8: what is quantised and what is not, the gate on mIoU, and layers that stay float."""

import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import edgeinc  # noqa: E402
from edgeinc.data import open_dataset  # noqa: E402
from edgeinc.deploy._form import Form  # noqa: E402
from edgeinc.deploy._graph import head_of, to_onnx  # noqa: E402
from edgeinc.deploy.export import read_card  # noqa: E402
from edgeinc.deploy.quantize import first_that_passes, quantise  # noqa: E402
from edgeinc.errors import DataError, MissingError, UsageError  # noqa: E402
from edgeinc.models import create  # noqa: E402
from edgeinc.runtimes import open_artifact  # noqa: E402
from edgeinc.runtimes._topology import topology_sha256  # noqa: E402

SIZE = (64, 96)
CONVOLUTIONS = ("Conv", "ConvTranspose")
QDQ = ("QuantizeLinear", "DequantizeLinear")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeinc.host.cores", lambda: 1)
        yield


def network(name="erfnet", seed=0):
    torch.manual_seed(seed)
    return create(name, (3, 2), {"width": 0.125}).eval()


def scenes(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 8, 12, 3), np.uint8).repeat(8, 1).repeat(8, 2)


@pytest.fixture(scope="module")
def graphs():
    """Float graphs by network and head mode."""
    made = {}

    def graph(name="erfnet", head="static"):
        if (name, head) not in made:
            made[name, head] = to_onnx(
                network(name), SIZE, Form(head=head, capacity=9, answer="both")
            )
        return made[name, head]

    return graph


@pytest.fixture(scope="module")
def int8(graphs):
    """Quantised graphs by network, head mode and target."""
    made = {}

    def quantised(name="erfnet", head="static", target="onnxruntime"):
        if target == "openvino":
            pytest.importorskip("nncf")
        key = name, head, target
        if key not in made:
            made[key] = quantise(graphs(name, head), scenes(4), target=target)
        return made[key]

    return quantised


def logits(graph, images, rows=()):
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    fed = dict(zip(("head_weight", "head_bias"), rows, strict=False))
    return session.run(["logits"], {"images": images, **fed})[0]


def makers(graph):
    return {output: node for node in graph.graph.node for output in node.output}


def is_int8(graph, node):
    """Whether activation and weight of a convolution come out of a DequantizeLinear."""
    made = makers(graph)
    kinds = {made[i].op_type == "DequantizeLinear" if i in made else False for i in node.input[:2]}
    assert len(kinds) == 1, f"{node.name} is half quantised"
    return kinds.pop()


def convolutions(graph):
    return {n.name: n for n in graph.graph.node if n.op_type in CONVOLUTIONS}


CASES = [
    ("erfnet", "static", "onnxruntime"),
    ("erfnet", "dynamic", "tensorrt"),
    ("bisenet", "capacity", "onnxruntime"),
    ("erfnet", "dynamic", "openvino"),
]


@pytest.mark.parametrize(("name", "head", "target"), CASES)
def test_every_convolution_is_int8_but_the_first_and_nothing_of_the_head(
    graphs, int8, name, head, target
):
    graph = int8(name, head, target).graph()
    onnx.checker.check_model(graph, full_check=True)
    sources = convolutions(graphs(name, head))
    normalised = next(iter(sources.values())).input[0]
    first = {n for n, node in sources.items() if node.input[0] == normalised}
    assert len(first) == {"erfnet": 1, "bisenet": 2}[name]  # its two paths both read the image
    states = {node.name: is_int8(graph, node) for node in convolutions(graph).values()}
    assert states == {n: n not in first for n in sources}
    made = makers(graph)
    (product,) = (n for n in graph.graph.node if n.op_type == "MatMul")
    behind = {product.output[0]}
    for node in graph.graph.node[list(graph.graph.node).index(product) + 1 :]:
        if behind & set(node.input):
            behind |= set(node.output)
            assert node.op_type not in QDQ
    assert "DequantizeLinear" not in {made[i].op_type for i in product.input if i in made}
    originals = {t.name: t for t in graphs(name, head).graph.initializer}
    for tensor in graph.graph.initializer:
        if tensor.name.startswith(("head.", "classifier.head")):
            assert tensor == originals[tensor.name]


@pytest.mark.parametrize(("name", "head", "target"), CASES)
def test_weights_have_a_scale_for_each_channel_and_lie_within_half_a_step(
    graphs, int8, name, head, target
):
    graph, made = int8(name, head, target).graph(), None
    made = makers(graph)
    values = {t.name: onnx.numpy_helper.to_array(t) for t in graph.graph.initializer}
    floats = {t.name: onnx.numpy_helper.to_array(t) for t in graphs(name, head).graph.initializer}
    sources = convolutions(graphs(name, head))
    for node in convolutions(graph).values():
        if not is_int8(graph, node):
            continue
        source = made[node.input[1]]
        stored, scale = source.input[0], values[source.input[1]]
        expected = floats[sources[node.name].input[1]]
        axis = next((a.i for a in source.attribute if a.name == "axis"), 1)
        assert axis == (1 if node.op_type == "ConvTranspose" else 0)
        assert scale.shape == (expected.shape[axis],)
        if stored in values:
            shape = [-1 if i == axis else 1 for i in range(4)]
            steps = scale.reshape(shape)
            assert values[stored].dtype == np.int8
            assert np.abs(values[stored] * steps - expected).max() <= 0.51 * steps.max()
        else:  # for TensorRT the weight stays float, under its own name, before a pair of nodes
            assert target == "tensorrt"
            assert made[stored].input[0] == sources[node.name].input[1]


@pytest.mark.parametrize(("name", "head", "target"), CASES)
def test_int8_is_near_the_float_graph_and_without_its_layers_it_is_the_float_graph(
    graphs, int8, name, head, target
):
    quantised, base, images = int8(name, head, target), graphs(name, head), scenes(1, seed=1)
    rows = head_of(network(name), Form(head=head)) if head == "dynamic" else ()
    expected = logits(base, images, rows)[:, :5]
    found = logits(quantised.graph(), images, rows)[:, :5]
    assert np.abs(found - expected).max() > 0
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.95
    nothing = quantised.graph(quantised.layers)
    assert not {n.op_type for n in nothing.graph.node} & set(QDQ)
    np.testing.assert_allclose(logits(nothing, images, rows)[:, :5], expected, atol=1e-5)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_an_excluded_layer_is_float_whatever_its_neighbours_are(graphs, int8, target):
    quantised = int8(target=target)
    excluded = quantised.layers[1::2]
    graph = quantised.graph(excluded)
    onnx.checker.check_model(graph, full_check=True)
    layers = {n.name: n.input[1].removesuffix(".weight") for n in convolutions(graphs()).values()}
    states = {layers[node.name]: is_int8(graph, node) for node in convolutions(graph).values()}
    assert {name for name in quantised.layers if not states[name]} == set(excluded)
    images = scenes(1, seed=1)
    expected = logits(graphs(), images)
    noise = [np.abs(logits(g, images) - expected).mean() for g in (graph, quantised.graph())]
    assert noise[0] < noise[1]


@pytest.mark.parametrize("name", ["erfnet", "bisenet"])
@pytest.mark.parametrize("head", ["static", "capacity", "dynamic"])
def test_tensorrt_parses_and_builds_what_is_made_for_it(int8, name, head):
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    graph = int8(name, head, "tensorrt").graph()
    del graph.graph.output[1]
    assert parser.parse(graph.SerializeToString()), parser.get_error(0)
    config = builder.create_builder_config()
    if head == "dynamic":
        profile = builder.create_optimization_profile()
        for taken in list(graph.graph.input)[1:]:
            inner = [d.dim_value for d in taken.type.tensor_type.shape.dim][1:]
            profile.set_shape(taken.name, *((rows, *inner) for rows in (2, 5, 255)))
        config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    assert builder.build_serialized_network(network, config) is not None
    zero_points = {i.input[2] for i in graph.graph.node if i.op_type in QDQ}
    for tensor in graph.graph.initializer:
        if tensor.name in zero_points:  # TensorRT knows symmetric ranges only
            assert not onnx.numpy_helper.to_array(tensor).any()


def test_weights_do_not_change_the_topology(int8):
    other = quantise(
        to_onnx(network(seed=1), SIZE, Form(answer="both")), scenes(3), target="onnxruntime"
    )
    one, excluded = int8(), other.layers[3:5]
    assert topology_sha256(one.graph()) == topology_sha256(other.graph())
    assert topology_sha256(one.graph(excluded)) == topology_sha256(other.graph(excluded))
    assert topology_sha256(one.graph(excluded)) != topology_sha256(one.graph())


# ---------------------------------------------------------------------------------- exclusion


def test_the_layer_with_the_coarsest_weights_is_ranked_first():
    """One channel of one layer is made so large that its neighbours vanish in the range of x."""
    model = network()
    layer = model.decoder[1].conv3x1_2
    with torch.no_grad():  # the activations in front of it lose their resolution
        model.decoder[1].conv1x3_1.bias[0] = 1e4
        layer.weight[:, 0] = 0
    quantised = quantise(to_onnx(model, SIZE), scenes(4), target="onnxruntime")
    assert quantised.ranking()[0].startswith("decoder.1.")


def test_layers_are_excluded_until_the_gate_is_met_and_no_further(int8):
    quantised, tried = int8(), []
    ranking = quantised.ranking()

    def measured(graph, excluded):
        tried.append(excluded)
        return len(excluded)

    assert first_that_passes(quantised, measured, lambda count: count >= 3) == 4
    assert [len(e) for e in tried] == [0, 1, 2, 4]
    assert set(tried[-1]) == set(ranking[:4])
    tried.clear()
    half = len(quantised.layers) // 2
    assert first_that_passes(quantised, measured, lambda count: False) == half
    assert [len(e) for e in tried][-2:] == [32, half] if half > 32 else tried
    tried.clear()
    assert first_that_passes(quantised, measured, lambda count: True) == 0
    assert tried == [()]


# ---------------------------------------------------------------------------------- the export


def own_iou(session, root):
    """IoU by name on every image of `val`, counted here; masks are nearest-neighbour resized."""
    dataset = open_dataset(root)
    names = [label.name for label in dataset.labels]
    hits, unions = np.zeros(3), np.zeros(3)
    for image_id in dataset.ids("val"):
        ids = session.run(dataset.image(image_id)[None])[0]
        truth = dataset.mask(image_id)
        lookup = np.full(256, 255, np.uint8)
        for i, wanted in enumerate(session.table.names):
            lookup[names.index(wanted)] = i
        truth = lookup[truth]
        for i in range(3):
            t, p = truth == i, (ids == i) & (truth != 255)
            hits[i] += (t & p).sum()
            unions[i] += (t | p).sum()
    return 100 * hits / unions


def test_the_loss_of_miou_is_the_files_own_and_names_every_class(base_run, street_data):
    result = edgeinc.export(base_run, precision="int8", max_miou_loss=100)
    card, parity = result.card, result.card.parity
    assert Path(result.path).name == "step-0.int8.onnx"
    assert (card.precision, card.target, card.excluded) == ("int8", "onnxruntime", ())
    assert card.quantizer == f"onnxruntime {ort.__version__}"
    assert card.calibration == 16  # all there are: 20 scenes, every fifth of them `val`
    with (
        open_artifact(result.path, threads=1) as session,
        open_artifact(base_run, runtime="torch", device="cpu", threads=1) as network,
    ):
        assert session.precision == "int8"
        found, expected = own_iou(session, street_data), own_iou(network, street_data)
    assert parity.scored == 4
    assert [loss.name for loss in parity.losses] == list(card.table.names)
    np.testing.assert_allclose([loss.iou for loss in parity.losses], found, atol=1e-6)
    np.testing.assert_allclose([x.reference_iou for x in parity.losses], expected, atol=1e-6)
    assert parity.miou_loss == pytest.approx(expected.mean() - found.mean())
    assert parity.gate == 0
    assert parity.passed
    Path(result.path).with_suffix(".json").unlink()
    assert read_card(Path(result.path)).target == "onnxruntime"


def test_a_file_for_openvino_is_made_by_nncf_and_measured_there(base_run, monkeypatch):
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    opened = []
    from edgeinc.runtimes import openvino

    opening = openvino.OpenVinoSession.__init__
    monkeypatch.setattr(
        openvino.OpenVinoSession,
        "__init__",
        lambda self, path, **k: (opened.append(path), opening(self, path, **k))[1],
    )
    result = edgeinc.export(base_run, precision="int8", target="openvino", max_miou_loss=100)
    assert Path(result.path).name == "step-0.int8-openvino.onnx"
    assert result.card.quantizer.startswith("nncf ")
    assert len(opened) == 1


def test_a_gate_that_cannot_be_met_rejects_the_file_with_its_reason(base_run, monkeypatch):
    from edgeinc.deploy._parity import Labels

    def worse(self, session, progress, scored=Labels._scored):
        """Every file is scored far below the network."""
        from dataclasses import replace

        result = scored(self, session, progress)
        if session.runtime == "torch":
            return result
        return replace(result, miou=replace(result.miou, all=result.miou.all - 50))

    monkeypatch.setattr(Labels, "_scored", worse)
    monkeypatch.setattr("edgeinc.deploy.quantize.Quantised.ranking", lambda s, _: s.layers)
    said = []

    class Told:
        task = staticmethod(edgeinc.progress.SILENT.task)
        message = staticmethod(said.append)

    result = edgeinc.export(base_run, precision="int8", limit=2, calibration=2, progress=Told())
    assert result.path.endswith("step-0.int8.onnx.rejected")
    card = result.card
    assert 30 < len(card.excluded) < 40  # half of the layers of ERFNet
    assert "points of mIoU are lost" in card.parity.unmet[0]
    assert f"{len(card.excluded)} layers stayed float" in result.note
    assert [text.split(": ")[1].split()[0] for text in said[:3]] == ["1", "2", "4"]


def test_fp32_is_scored_too_and_loses_nothing(base_run):
    parity = edgeinc.export(base_run).card.parity
    assert parity.scored == 4
    assert abs(parity.miou_loss) < 0.05
    assert edgeinc.export(base_run, limit=0).card.parity.miou is None


def test_without_real_images_there_is_no_int8(base_run, street_data, tmp_path):
    gone = tmp_path / "moved"
    shutil.copytree(street_data, gone)
    step = base_run / "step-0" / "step.json"
    step.write_text(step.read_text().replace(str(street_data), "/nowhere/street"))
    with pytest.raises(DataError, match="real images") as caught:
        edgeinc.export(base_run, precision="int8")
    assert "--data" in caught.value.hint
    assert not (base_run / "export").exists()
    result = edgeinc.export(base_run, precision="int8", data=gone, max_miou_loss=100)
    assert result.card.calibration == 16


def test_a_quantizer_that_is_missing_says_how_to_get_it(base_run, monkeypatch):
    from edgeinc.deploy import quantize

    find = quantize.find_spec
    monkeypatch.setattr(quantize, "find_spec", lambda n: None if n == "nncf" else find(n))
    with pytest.raises(MissingError, match="nncf") as caught:
        edgeinc.export(base_run, precision="int8", target="openvino")
    assert "edgeinc[quant]" in caught.value.hint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"precision": "int8", "target": "ncnn"}, "ncnn"), ({"target": "openvino"}, "every runtime")],
)
def test_a_target_that_makes_no_sense_is_refused(base_run, arguments, message):
    with pytest.raises(UsageError, match=message):
        edgeinc.export(base_run, **arguments)
