"""The exported file decides as the network does, describes itself, and keeps its structure."""

import copy
import json
import logging
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from torch import nn  # noqa: E402

from edgeinc.data import open_dataset  # noqa: E402
from edgeinc.deploy import export as module  # noqa: E402
from edgeinc.deploy._graph import to_onnx  # noqa: E402
from edgeinc.deploy.export import export, read_card  # noqa: E402
from edgeinc.errors import EdgeincError, MissingError, UsageError  # noqa: E402
from edgeinc.models import create  # noqa: E402
from edgeinc.models._fold import fold_batch_norms  # noqa: E402
from edgeinc.runs import create_run, sha256  # noqa: E402
from edgeinc.runtimes import open_artifact  # noqa: E402
from edgeinc.runtimes._topology import topology_sha256  # noqa: E402
from edgeinc.schema import (  # noqa: E402
    ArtifactCard,
    ClassInfo,
    DataRef,
    Host,
    RunInfo,
    StepInfo,
    from_json,
)

SIZES = {"erfnet": (48, 64), "bisenet": (64, 96)}
OPTIONS = {"width": 0.25}
CLASSES = (
    ClassInfo(0, "road", (128, 64, 128), 0),
    ClassInfo(1, "straße", (90, 90, 90), 0),
    ClassInfo(2, "sky", (70, 130, 180), 0),
    ClassInfo(3, "car", (0, 0, 142), 1),
    ClassInfo(4, "bus", (0, 160, 150), 1),
)


def trained(name, seed=0):
    """A network whose BatchNorms and biases are what training leaves: anything but neutral."""
    torch.manual_seed(seed)
    model = create(name, (3, 2), OPTIONS)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.weight, 1, 0.3)
            nn.init.normal_(m.bias, 0, 0.3)
            m.running_mean.normal_(0, 0.3)
            m.running_var.uniform_(0.5, 2)
    model.eval()
    # Centred logits, so that several classes win somewhere.
    scene = open_dataset("streets").image("val-0000")[None]
    with torch.inference_mode():
        centre = model(model.normalise(torch.from_numpy(scene))).logits.mean((0, 2, 3))
        for layer, values in zip(model.heads()[0], centre.split(model.steps), strict=True):
            layer.bias -= values
    return model


def blank(name):
    """The same network with every bias zero and every BatchNorm the identity."""
    model = create(name, (3, 2), OPTIONS)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.zeros_(parameter)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.ones_(m.weight)
    return model.eval()


def make_run(folder, model, name, data=None):
    from safetensors.torch import save_file

    run = create_run(folder, RunInfo(name, OPTIONS, SIZES[name], "2026-01-01T00:00:00Z"))
    parent = ""
    for index, count in enumerate((3, 5)):
        run.folder(index).mkdir()
        weights = run.folder(index) / "weights.safetensors"
        state = model.state_dict() if index else create(name, (3,), OPTIONS).state_dict()
        save_file(state, weights)
        run.write_step(
            StepInfo(
                index=index,
                status="done",
                method="finetune",
                method_options={},
                new_classes=tuple(c.name for c in CLASSES if c.step == index),
                classes=CLASSES[:count],
                background="none",
                data=data or DataRef("streets", "/nowhere"),
                images=1,
                images_sha256="",
                settings={},
                host=Host("Linux x86_64", "3.12", "cpu", 2, 8.0, {}),
                command="",
                started="2026-01-01T00:00:00Z",
                iterations=1,
                parent_sha256=parent,
                weights_sha256=sha256(weights),
            )
        )
        parent = sha256(weights)
    return run.path


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """On a machine that is busy with other tests, torch's threads would wait for one another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeinc.host.cores", lambda: 1)
        yield


@pytest.fixture(scope="module", params=["erfnet", "bisenet"])
def exported(request, tmp_path_factory):
    """(network, its run, what export returned) for one network of each kind."""
    model = trained(request.param)
    run = make_run(tmp_path_factory.mktemp(request.param) / "run", model, request.param)
    return model, run, export(run)


@pytest.fixture
def erfnet_run(tmp_path):
    return make_run(tmp_path / "run", trained("erfnet"), "erfnet")


@pytest.fixture
def quick(monkeypatch, exported_graph):
    """Skips what takes seconds, where a test is about what surrounds it."""
    monkeypatch.setattr(module, "IMAGES", 2)
    monkeypatch.setattr("edgeinc.deploy._graph.to_onnx", lambda *_: copy.deepcopy(exported_graph))


@pytest.fixture(scope="module")
def exported_graph():
    return to_onnx(trained("erfnet"), SIZES["erfnet"])


# ---------------------------------------------------------------------------------- the graph


def test_the_file_decides_as_the_network(exported):
    model, _, result = exported
    session = onnxruntime.InferenceSession(result.path, providers=["CPUExecutionProvider"])
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    height, width = result.card.size
    assert (taken.name, taken.type, taken.shape) == (
        "images",
        "tensor(uint8)",
        [1, height, width, 3],
    )
    assert (given.name, given.type, given.shape) == ("classes", "tensor(uint8)", [1, height, width])
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (1, height // 8, width // 8, 3)).repeat(8, 1).repeat(8, 2)
    with torch.inference_mode():
        mean, std = torch.tensor(model.mean), torch.tensor(model.std)
        x = ((torch.from_numpy(images) - mean) / std).float().permute(0, 3, 1, 2)
        logits = model(x).logits[0].numpy()
    ids = session.run(None, {"images": images.astype(np.uint8)})[0][0]
    assert len(np.unique(ids)) > 1
    top = np.sort(logits, 0)
    clear = top[-1] - top[-2] > 1e-4  # a tie may go either way
    assert np.array_equal(ids[clear], logits.argmax(0)[clear])
    assert clear.mean() > 0.99


def test_parity_is_measured_on_images_of_the_run(exported):
    parity = exported[2].card.parity
    assert parity.passed
    assert parity.images == 8
    assert 99.9 <= parity.agreement <= 100
    assert parity.worst_class in [c.name for c in CLASSES]
    assert exported[2].note == ""


def test_nothing_of_training_is_left_in_the_graph(exported):
    model, _, result = exported
    graph = onnx.load(result.path).graph
    kinds = {node.op_type for node in graph.node}
    assert not kinds & {"BatchNormalization", "Dropout", "Identity", "Expand", "Shape", "Gather"}
    names = {t.name for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    assert not [name for name in names if name.startswith("aux") or "running" in name]
    head = "head" if "head.weight" in names else "classifier.head"
    assert {f"{head}.weight", f"{head}.bias"} <= names
    own = {n for n, _ in model.named_parameters()}
    convolutions = {n for n in names if "conv" in n and n.endswith(".weight")}
    assert convolutions
    assert convolutions <= own


def test_structure_and_names_do_not_depend_on_the_weights(exported):
    _, _, result = exported
    one = onnx.load(result.path)
    other = to_onnx(blank(result.card.model), result.card.size)
    assert topology_sha256(other) == topology_sha256(one) == result.card.topology_sha256
    shapes = [{t.name: tuple(t.dims) for t in g.graph.initializer} for g in (one, other)]
    assert shapes[0] == shapes[1]


def test_the_file_names_no_folder_of_this_machine(exported):
    content = Path(exported[2].path).read_bytes()
    for text in ("site-packages", "edgeinc/", ".py", "torch", str(Path.home()), str(Path.cwd())):
        assert text.encode() not in content


def test_opset_and_ir_version_are_what_devices_read(exported):
    model = onnx.load(exported[2].path)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    assert model.ir_version == 10
    assert exported[2].card.opset == 18


def test_uint8_is_cast_before_it_is_transposed_and_only_from_float(exported):
    """TensorRT transposes no uint8 and converts to it from floats only; ONNX Runtime does both."""
    model = onnx.shape_inference.infer_shapes(onnx.load(exported[2].path))
    kinds = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    kinds["images"] = onnx.TensorProto.UINT8
    kinds["classes"] = onnx.TensorProto.UINT8
    users = [n.op_type for n in model.graph.node for i in n.input if kinds.get(i) == 2]
    makers = [n for n in model.graph.node for o in n.output if kinds.get(o) == 2]
    assert users == ["Cast"]
    assert [(n.op_type, kinds[n.input[0]]) for n in makers] == [("Cast", onnx.TensorProto.FLOAT)]


def test_a_tensorrt_parser_takes_the_file_and_builds_it(exported):
    trt = pytest.importorskip("tensorrt_rtx")
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    parsed = parser.parse(Path(exported[2].path).read_bytes())
    assert parsed, [str(parser.get_error(i)) for i in range(parser.num_errors)]
    assert network.get_input(0).dtype == network.get_output(0).dtype == trt.uint8
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None
    assert engine.nbytes > 10_000


# ---------------------------------------------------------------------------------- folding


class Corners(nn.Module):
    """Every place a BatchNorm can be in."""

    def __init__(self):
        super().__init__()
        self.plain = nn.Conv2d(4, 6, 3, bias=False)
        self.plain_bn = nn.BatchNorm2d(6)
        self.up = nn.ConvTranspose2d(6, 8, 3, stride=2, groups=2)
        self.up_bn = nn.BatchNorm2d(8, eps=1e-3)
        self.grouped = nn.Conv2d(8, 8, 3, groups=4)
        self.grouped_bn = nn.BatchNorm2d(8)
        self.shared = nn.Conv2d(8, 8, 1)
        self.shared_bn = nn.BatchNorm2d(8)
        self.twice = nn.Conv2d(8, 8, 1)
        self.twice_bn = nn.BatchNorm2d(8)
        self.lone_bn = nn.BatchNorm2d(16)

    def forward(self, x):
        x = self.grouped_bn(self.grouped(self.up_bn(self.up(self.plain_bn(self.plain(x))))))
        y = self.shared(x)
        x = y + self.shared_bn(y)  # the convolution has another reader
        x = self.twice_bn(self.twice(self.twice(x)))  # and this one another use
        return self.lone_bn(torch.cat([x, -x], 1))


def test_folding_changes_no_output_wherever_the_batch_norm_is():
    torch.manual_seed(0)
    model = Corners().eval()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.weight)
            nn.init.normal_(m.bias)
            m.running_mean.normal_()
            m.running_var.uniform_(0.1, 3)
    x = torch.randn(2, 4, 9, 7)
    folded = fold_batch_norms(copy.deepcopy(model))
    with torch.inference_mode():
        torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-4)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    gone = [n for n in ("plain", "up", "grouped") if hasattr(getattr(folded, f"{n}_bn"), "weight")]
    assert gone == []
    assert torch.equal(folded.shared.weight, model.shared.weight)
    assert torch.equal(folded.twice.weight, model.twice.weight)


def test_export_leaves_the_network_as_it_was():
    model = trained("erfnet")
    before = copy.deepcopy(model.state_dict())
    to_onnx(model, SIZES["erfnet"])
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


# ---------------------------------------------------------------------------------- the card


def test_the_card_tells_what_the_file_is(exported):
    _, run, result = exported
    path, card = Path(result.path), result.card
    assert path == run / "export" / "step-1.fp32.onnx"
    assert (card.file, card.sha256, card.bytes) == (path.name, sha256(path), path.stat().st_size)
    assert card == from_json(ArtifactCard, path.with_suffix(".json").read_bytes(), source="card")
    assert card == read_card(path)
    step = json.loads((run / "step-1" / "step.json").read_text(encoding="utf-8"))
    assert (card.weights_sha256, card.parent_sha256) == (
        step["weights_sha256"],
        step["parent_sha256"],
    )
    assert card.parent_sha256 == sha256(run / "step-0" / "weights.safetensors")
    assert (card.step, card.method, card.classes) == (1, "finetune", CLASSES)
    assert card.versions["torch"] == torch.__version__


def test_a_file_without_its_card_still_describes_itself(exported, tmp_path):
    result = exported[2]
    alone = tmp_path / "copied.onnx"
    alone.write_bytes(Path(result.path).read_bytes())
    card = read_card(alone)
    same = [
        *["sha256", "bytes", "model", "method", "step", "classes", "background", "size"],
        *["precision", "head", "decision", "input", "output", "mean", "std", "opset"],
        *["topology_sha256", "weights_sha256", "parent_sha256"],
    ]
    assert [getattr(card, n) for n in same] == [getattr(result.card, n) for n in same]
    assert card.file == "copied.onnx"
    assert card.versions["edgeinc"] == result.card.versions["edgeinc"]
    metadata = {p.key: p.value for p in onnx.load(alone).metadata_props}
    assert json.loads(metadata["palette"]) == [list(c.color) for c in CLASSES]
    with open_artifact(alone) as session:
        assert session.table.classes == CLASSES


def test_a_file_that_was_changed_is_not_opened(exported, tmp_path):
    path = tmp_path / "step-1.fp32.onnx"
    content = bytearray(Path(exported[2].path).read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    path.with_suffix(".json").write_bytes(
        Path(exported[2].path).with_suffix(".json").read_bytes(),
    )
    with pytest.raises(EdgeincError, match=r"step-1\.fp32\.onnx.*sha256") as caught:
        open_artifact(path)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.clear(), "not exported by edgeinc"),
        (lambda p: p.update(classes="[{"), "classes is '\\[{'"),
        (lambda p: p.update(step='"one"'), "step: "),
        (lambda p: p.update(head="none"), "head: "),
        (lambda p: p.pop("model"), "model: "),
    ],
    ids=["foreign", "not JSON", "wrong type", "unknown value", "missing"],
)
def test_foreign_and_damaged_metadata_is_refused(exported_graph, tmp_path, change, message):
    graph = copy.deepcopy(exported_graph)
    properties = {
        **dict.fromkeys(("model", "method", "precision", "decision", "input", "output"), "x"),
        **{f"{k}_sha256": "0" * 64 for k in ("topology", "weights", "parent")},
        **{"head": "static", "background": "none", "edgeinc": "0.1.0", "step": "1", "opset": "18"},
        **{"classes": "[]", "size": "[48, 64]", "mean": "[1.0, 1.0, 1.0]", "std": "[1.0, 1, 1]"},
    }
    path = tmp_path / "a.onnx"
    onnx.helper.set_model_props(graph, properties)
    onnx.save(graph, path)
    assert read_card(path).size == (48, 64)
    change(properties)
    onnx.helper.set_model_props(graph, properties)
    onnx.save(graph, path)
    with pytest.raises(EdgeincError, match=message):
        read_card(path)
    with pytest.raises(EdgeincError, match=message):
        open_artifact(path)


def test_what_is_no_onnx_file_is_refused(tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(EdgeincError, match=r"a\.onnx"):
        read_card(path)
    with pytest.raises(EdgeincError, match=r"a\.onnx"):
        open_artifact(path)


# ---------------------------------------------------------------------------------- the outcome


@pytest.mark.usefixtures("quick")
def test_the_same_weights_give_the_same_bytes_wherever_they_are_written(erfnet_run, tmp_path):
    one, two = export(erfnet_run), export(erfnet_run, out=tmp_path / "new" / "other.onnx")
    assert two.path == str(tmp_path / "new" / "other.onnx")
    assert (tmp_path / "new" / "other.json").is_file()
    assert one.card.sha256 == two.card.sha256


@pytest.mark.usefixtures("quick")
def test_a_file_that_fails_the_comparison_never_has_the_good_name(erfnet_run, monkeypatch):
    good = Path(export(erfnet_run, trt=True).path)
    monkeypatch.setitem(module.GATES, "fp32", 100.1)
    result = export(erfnet_run, trt=True)
    assert result.path == f"{good}.rejected"
    assert not result.card.parity.passed
    assert result.card.parity.gate == 100.1
    assert not result.recipe
    assert sorted(p.name for p in good.parent.iterdir()) == [
        "step-1.fp32.onnx.json",
        "step-1.fp32.onnx.rejected",
    ]
    monkeypatch.setitem(module.GATES, "fp32", 99.9)
    export(erfnet_run)
    assert sorted(p.name for p in good.parent.iterdir()) == [
        "step-1.fp32.json",
        "step-1.fp32.onnx",
    ]


def test_a_file_that_decides_differently_is_rejected(erfnet_run, monkeypatch, exported_graph):
    dataset = open_dataset("streets")
    ids = dataset.ids("val")
    with open_artifact(erfnet_run) as network:
        images = [dataset.image(ids[i * len(ids) // 8]) for i in range(8)]
        masks = [network.run(cv2.resize(image, (64, 48))[None]) for image in images]
    share = np.bincount(np.concatenate(masks).ravel(), minlength=5) / (8 * 48 * 64)
    constant = int(share.argmax())
    bias = np.zeros((5, 1), np.float32)
    bias[constant] = 99
    graph = copy.deepcopy(exported_graph)
    for tensor in graph.graph.initializer:
        if tensor.name == "head.bias":  # one class wins everywhere
            tensor.CopyFrom(onnx.numpy_helper.from_array(bias, "head.bias"))
    monkeypatch.setattr("edgeinc.deploy._graph.to_onnx", lambda *_: graph)
    result = export(erfnet_run)
    assert result.path.endswith(".rejected")
    parity = result.card.parity
    assert 0 < share[constant] < 0.999
    assert parity.agreement == pytest.approx(100 * share[constant])
    assert parity.worst_class_iou == 0
    assert share[[c.name for c in CLASSES].index(parity.worst_class)] > 0


def test_fp16_that_overflows_is_rejected_and_fp32_is_not(tmp_path, monkeypatch):
    """Scores of one decision may be any multiple of another's; half floats end at 65504."""
    monkeypatch.setattr(module, "IMAGES", 2)
    model = trained("erfnet")
    (head,) = model.heads()
    for parameter in head.parameters():
        parameter.data *= 1e6
    run = make_run(tmp_path / "run", model, "erfnet")
    assert export(run, limit=0).card.parity.passed
    half = export(run, precision="fp16", limit=0)
    assert half.path.endswith("step-1.fp16.onnx.rejected")
    assert half.card.parity.agreement < 99.5
    assert "99.5 %" in half.card.parity.unmet[0]


@pytest.mark.usefixtures("quick")
def test_without_its_data_a_run_is_compared_on_noise_and_says_so(tmp_path):
    gone = DataRef("camvid", "/nowhere/camvid")
    run = make_run(tmp_path / "run", trained("erfnet"), "erfnet", gone)
    result = export(run)
    assert result.card.parity.passed
    assert "noise" in result.note
    assert "/nowhere/camvid" in result.note
    assert export(run, data="streets").note == ""


@pytest.mark.usefixtures("quick")
def test_the_recipe_tells_a_device_how_to_build_the_engine(erfnet_run):
    result = export(erfnet_run, trt=True)
    recipe = json.loads(Path(result.recipe).read_text(encoding="utf-8"))
    assert Path(result.recipe) == erfnet_run / "export" / "step-1.fp32.trt.json"
    assert (recipe["onnx"], recipe["sha256"]) == ("step-1.fp32.onnx", result.card.sha256)
    always = [1, 48, 64, 3]
    shapes = {"min": always, "opt": always, "max": always}
    assert recipe["inputs"] == {"images": {"dtype": "uint8", **shapes}}
    assert recipe["outputs"]["classes"]["shape"] == [1, 48, 64]
    assert ["--stronglyTyped" in recipe["commands"][v] for v in ("8.6", "10", "11")] == [
        *[False, True, False]
    ]
    assert all("--onnx=step-1.fp32.onnx" in c for c in recipe["commands"].values())
    assert "TensorRT" in result.note
    assert result.engine == ""


@pytest.mark.usefixtures("quick")
def test_a_card_that_was_left_without_its_recipe_needs_none(erfnet_run):
    assert export(erfnet_run).recipe == ""


def test_required_tensorrt_fails_before_any_work(erfnet_run):
    if module.tensorrt_version():
        pytest.skip("TensorRT is here")
    with pytest.raises(MissingError, match="TensorRT") as caught:
        export(erfnet_run, require_trt=True)
    assert caught.value.exit_code == 4
    assert "--require-trt" in caught.value.hint
    assert not (erfnet_run / "export").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "int4"}, "int4"),
        ({"step": 7}, "no step 7"),
        ({"out": "model.engine"}, r"model\.engine"),
        ({"data": "camvit"}, "camvit"),
    ],
    ids=["precision", "step", "file name", "data"],
)
def test_what_cannot_be_exported_is_refused_with_a_way_out(erfnet_run, arguments, message):
    with pytest.raises(UsageError, match=message) as caught:
        export(erfnet_run, **arguments)
    assert caught.value.hint
    assert not (erfnet_run / "export").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no run at"):
        export(tmp_path)


@pytest.mark.usefixtures("quick")
def test_progress_reaches_its_total(erfnet_run):
    class Counter:
        total = done = 0

        @contextmanager
        def task(self, name, total, unit="it", done=0):
            self.total += total
            yield self

        def advance(self, n=1, note=""):
            self.done += n

        def message(self, text):
            pass

    progress = Counter()
    export(erfnet_run, progress=progress)
    assert progress.done == progress.total > 2


def test_a_fresh_process_prints_nothing_and_writes_the_same_bytes(python, exported, tmp_path):
    _, run, result = exported
    if result.card.model != "erfnet":
        pytest.skip("one network is enough")
    out = tmp_path / "again.onnx"
    one = "import edgeinc.host; edgeinc.host.cores = lambda: 1"
    code = f"{one}; edgeinc.export({str(run)!r}, out={str(out)!r})"
    done = python("-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sha256(out) == result.card.sha256


def test_the_exporters_loggers_are_left_as_they_were(exported_graph):
    assert logging.getLogger("torch.onnx").level == logging.NOTSET


def test_without_torch_export_says_how_to_get_it(python, tmp_path):
    code = (
        "import edgeinc\n"
        "from edgeinc.errors import MissingError\n"
        "try:\n"
        "    edgeinc.export('run')\n"
        "except MissingError as err:\n"
        "    print(err.message, '|', err.hint)"
    )
    done = python("-c", code, without=["torch", "onnx", "onnxscript"])
    assert done.stderr == ""
    assert "torch" in done.stdout
    assert "edgeinc[train]" in done.stdout
