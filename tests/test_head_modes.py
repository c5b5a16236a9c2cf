"""Head modes and the other forms of a file: all decide as the network, and steps keep the graph."""

import base64
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import edgeinc  # noqa: E402
from edgeinc import registry  # noqa: E402
from edgeinc.deploy._form import Form  # noqa: E402
from edgeinc.deploy._graph import head_of, to_onnx  # noqa: E402
from edgeinc.errors import EdgeincError, UsageError  # noqa: E402
from edgeinc.models import create  # noqa: E402
from edgeinc.runtimes._head import encode  # noqa: E402
from edgeinc.runtimes._topology import topology_sha256  # noqa: E402

SIZE = (64, 96)
STEPS = ((3,), (3, 2), (3, 2, 1))
NETWORKS = registry.names("models")


def network(name, steps=(3, 2), *, seed=0, unknown=False):
    """A small network in which every class wins somewhere: logits of mean 0 and deviation 1."""
    torch.manual_seed(seed)
    model = create(name, steps, {"width": 0.125}).eval()
    if unknown:
        model.add_unknown()
    spread(model)
    return model


@torch.no_grad()
def spread(model):
    """Centre and scale every row of the deciding classifier on a scene."""
    logits = model(model.normalise(torch.from_numpy(scenes(2)))).logits
    mean, deviation = logits.mean((0, 2, 3)), logits.std((0, 2, 3))
    head, start = model.heads()[0], 0
    for layer in head:
        stop = start + layer.bias.numel()
        shape = [1] * 4
        shape[head.class_axis] = stop - start
        layer.weight /= deviation[start:stop].view(shape)
        layer.bias.copy_((layer.bias - mean[start:stop]) / deviation[start:stop])
        start = stop


def scenes(count=1, seed=0):
    """Coarse noise: uint8 images of the exported size."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (count, SIZE[0] // 8, SIZE[1] // 8, 3), np.uint8)
    return small.repeat(8, 1).repeat(8, 2)


def scores(model, images):
    """By what the network decides: logits, or for one with a row of unknown its sigmoids' sums."""
    with torch.no_grad():
        output = model(model.normalise(torch.from_numpy(images)))
        if output.unknown is None:
            return output.logits.numpy()
        p = torch.sigmoid(output.logits)
        p[:, :1] += torch.sigmoid(output.unknown)
        return p.numpy()


def answers(graph, images, rows=None):
    """What ONNX Runtime says of a graph with both outputs."""
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    fed = dict(zip(("head_weight", "head_bias"), rows or (), strict=False))
    return session.run(["classes", "logits"], {"images": images, **fed})


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("unknown", [False, True])
@pytest.mark.parametrize("head", ["static", "capacity", "dynamic"])
def test_every_head_mode_decides_as_the_network(name, head, unknown):
    model, images = network(name, unknown=unknown), scenes()
    form = Form(head=head, capacity=9, answer="both")
    rows = head_of(model, form) if head == "dynamic" else None
    ids, logits = answers(to_onnx(model, SIZE, form), images, rows)
    expected = scores(model, images)
    np.testing.assert_allclose(logits[:, :5], expected, atol=2e-5)
    assert logits.shape[1] == (9 - unknown if head == "capacity" else 5)
    two = np.sort(expected, 1)[:, -2:]
    clear = two[:, 1] - two[:, 0] > 1e-4
    assert clear.mean() > 0.99
    assert len(np.unique(ids)) > 1
    assert (ids == expected.argmax(1))[clear].all()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("unknown", [False, True])
@pytest.mark.parametrize("head", ["capacity", "dynamic"])
def test_steps_and_weights_change_no_node_and_no_name(name, head, unknown):
    graphs = []
    for seed, steps in enumerate(STEPS):
        model = network(name, steps, seed=seed, unknown=unknown)
        if steps == (3, 2):
            for parameter in model.parameters():
                parameter.data.zero_()
        graphs.append(to_onnx(model, SIZE, Form(head=head, capacity=8)))
    assert len({topology_sha256(graph) for graph in graphs}) == 1
    names = [[t.name for t in graph.graph.initializer] for graph in graphs]
    assert names[0] == names[1] == names[2]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_graph_of_step_0_answers_with_the_rows_of_a_later_step(name):
    """The body is the same, the classifier has grown: only its rows are new to the graph."""
    first, images = network(name, (3,)), scenes()
    later = network(name, (3,))
    later.load_state_dict(first.state_dict())
    later.grow(4)
    spread(later)
    form = Form(head="dynamic", answer="both")
    ids, logits = answers(to_onnx(first, SIZE, form), images, head_of(later, form))
    expected = scores(later.eval(), images)
    assert logits.shape == (1, 7, *SIZE)
    np.testing.assert_allclose(logits, expected, atol=2e-5)
    assert ids.max() >= 3


@pytest.mark.parametrize("name", NETWORKS)
def test_rows_without_a_class_never_win(name):
    model = network(name, (2,))
    for head in model.heads():
        for parameter in head.parameters():
            parameter.data.sub_(5)  # logits far below zero
    ids, _ = answers(
        to_onnx(model, SIZE, Form(head="capacity", capacity=20, answer="both")), scenes()
    )
    assert ids.max() < 2


@pytest.mark.parametrize("head", ["capacity", "dynamic"])
def test_a_decoder_of_a_step_of_its_own_is_refused(head):
    model = network("erfnet", (3,))
    model.grow_decoder(2)
    with pytest.raises(UsageError, match="step 1 has a decoder of its own"):
        to_onnx(model.eval(), SIZE, Form(head=head, capacity=8))
    images = scenes()
    ids, logits = answers(to_onnx(model, SIZE, Form(answer="both")), images)
    np.testing.assert_allclose(logits, scores(model, images), atol=2e-5)
    assert (ids == logits.argmax(1)).all()


# ------------------------------------------------------------------------ files and their sessions


@pytest.fixture(scope="module")
def extended(_base_run, tmp_path_factory):
    """A run of two steps."""
    run = tmp_path_factory.mktemp("extended") / "run"
    shutil.copytree(_base_run, run)
    edgeinc.extend(run, new_classes=["car", "tree"], method="finetune")
    return run


@pytest.mark.parametrize("head", ["dynamic", "capacity"])
def test_a_step_has_the_topology_and_the_initializers_of_the_one_before(extended, head):
    results = [edgeinc.export(extended, step=step, head=head) for step in (0, 1)]
    first, second = (result.card for result in results)
    assert first.topology_sha256 == second.topology_sha256
    assert first.weights_sha256 != second.weights_sha256
    names = [[t.name for t in onnx.load(r.path).graph.initializer] for r in results]
    assert names[0] == names[1]
    assert all(result.card.parity.passed for result in results)


FORMS = {
    "fp32.dynamic": {"head": "dynamic"},
    "fp32.capacity8": {"head": "capacity", "capacity": 8},
    "fp32.logits": {"output": "logits"},
    "fp32.capacity8.both": {"head": "capacity", "capacity": 8, "output": "both"},
    "fp32.float": {"input": "float"},
    "fp32.dynamic.batch2-3": {"head": "dynamic", "dynamic_batch": (2, 3, 3)},
    "fp32.batch1-4": {"dynamic_batch": (1, 2, 4)},
    "fp32.dynamic.both.float.batch1-3": {
        "head": "dynamic",
        "output": "both",
        "input": "float",
        "dynamic_batch": (1, 2, 3),
    },
}


@pytest.mark.parametrize("suffix", FORMS)
def test_a_session_answers_the_same_whatever_the_form_of_its_file(extended, suffix, tmp_path):
    result = edgeinc.export(extended, **FORMS[suffix])
    assert result.path.endswith(f"step-1.{suffix}.onnx")
    assert result.card.parity.passed
    images = scenes(5)
    alone = tmp_path / "alone.onnx"  # without its card: the file says it all
    alone.write_bytes(Path(result.path).read_bytes())
    with edgeinc.open_artifact(extended) as network:
        expected = network.run(images)
        logits = network.logits(images)
        names = [c.name for c in network.table.classes]
    for path in (result.path, alone):
        with edgeinc.open_artifact(path) as session:
            assert [c.name for c in session.table.classes] == names
            assert (session.run(images) == expected).mean() > 0.999
            assert session.run(images[:0]).shape == (0, *SIZE)
            if "logits" in suffix or "both" in suffix:
                np.testing.assert_allclose(session.logits(images), logits, atol=1e-3)


def test_another_size_than_that_of_the_training(extended):
    result = edgeinc.export(extended, size=(96, 128), limit=0)
    assert result.path.endswith("step-1.fp32.96x128.onnx")
    assert result.card.parity.passed
    with edgeinc.open_artifact(result.path) as session:
        assert session.size == (96, 128)
        image = np.zeros((1, 96, 128, 3), np.uint8)
        model = edgeinc.open_artifact(extended).model
        with torch.no_grad():
            expected = model(model.normalise(torch.from_numpy(image))).logits.argmax(1)
        assert (session.run(image) == expected.numpy()).mean() > 0.999
    with pytest.raises(UsageError, match="size 97x128 is not divisible by 8"):
        edgeinc.export(extended, size=(97, 128))


def test_fp16_has_its_types_in_the_file(extended):
    result = edgeinc.export(extended, precision="fp16", head="dynamic")
    graph = onnx.load(result.path).graph
    kinds = {t.data_type for t in graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
    assert onnx.TensorProto.FLOAT not in kinds
    assert result.card.precision == "fp16"
    assert result.card.parity.gate == 99.5
    assert result.card.parity.passed
    full = edgeinc.export(extended, head="dynamic")
    assert result.card.bytes < 0.65 * full.card.bytes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp64"}, "precision fp64 is not supported"),
        ({"head": "growing"}, "head mode growing"),
        ({"output": "masks"}, "output masks"),
        ({"input": "bgr"}, "input bgr"),
        ({"head": "capacity", "capacity": 2}, "a capacity of 2 cannot hold 3 classes"),
        ({"head": "capacity", "capacity": 300}, "a capacity of 300"),
        ({"dynamic_batch": (4, 2, 8)}, "batch sizes 4:2:8"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_writes_nothing(base_run, options, message):
    with pytest.raises(UsageError, match=message):
        edgeinc.export(base_run, **options)
    assert not list(base_run.glob("export/*"))


@pytest.mark.parametrize(
    "entry",
    [
        {"head_weight": ""},
        {"head_bias": "AAAA"},
        {"head_weight": "not base64!"},
        encode(np.full((3, 4, 8), np.nan, np.float32), np.zeros(3, np.float32)),
    ],
)
def test_a_damaged_classifier_is_refused_before_anything_is_served(base_run, tmp_path, entry):
    model = onnx.load(edgeinc.export(base_run, head="dynamic").path)
    kept = {p.key: p.value for p in model.metadata_props}
    assert len(base64.b64decode(kept["head_weight"])) == 4 * 3 * 4 * 8
    onnx.helper.set_model_props(model, {**kept, **entry})
    onnx.save(model, tmp_path / "damaged.onnx")
    with pytest.raises(EdgeincError, match="is damaged: head_"):
        edgeinc.open_artifact(tmp_path / "damaged.onnx")
