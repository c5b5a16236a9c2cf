"""Engines are built in a process of their own, described, and never half written."""

import json
import signal
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from engines import (
    CLASSES,
    SIZE,
    VERSIONS,
    classifier,
    expected,
    scenes,
    write_artifact,
)

from edgeinc.child import Killed
from edgeinc.deploy.build import build, check
from edgeinc.errors import EdgeincError, MissingError, UsageError
from edgeinc.runs import sha256
from edgeinc.runtimes import open_artifact
from edgeinc.runtimes._onnx_file import float_weights, head_weights, initializer_names
from edgeinc.schema import EngineCard, from_json


@pytest.fixture
def artifact(tmp_path):
    return write_artifact(tmp_path / "export")


def header(result):
    """What the fake builder was told."""
    with Path(result.path).open("rb") as file:
        return json.loads(file.readline())


class Notes:
    """Progress that is kept."""

    def __init__(self):
        self.notes = []

    def task(self, name, total, unit="it", done=0):
        self.name = name
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def advance(self, n=1, note=""):
        self.notes.append(note)

    def message(self, text):
        self.notes.append(text)


# ---------------------------------------------------------------------------------- engines


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_is_built_beside_its_file_and_described(version, artifact, machine):
    machine(version)
    result = build(artifact)
    engine = artifact.with_suffix(".engine")
    assert result.path == str(engine)
    text = engine.with_name(engine.name + ".json").read_text(encoding="utf-8")
    card = from_json(EngineCard, text, source="sidecar")
    assert card == result.card
    assert (card.sha256, card.bytes) == (sha256(engine), engine.stat().st_size)
    assert (card.topology_sha256, card.weights_sha256) == ("t", "w")
    assert card.artifact.sha256 == sha256(artifact)
    assert card.artifact.classes == CLASSES
    assert (card.machine.tensorrt, card.machine.gpu) == (version, "NVIDIA Fake")
    assert (card.machine.compute_capability, card.machine.cuda) == ("8.6", "12.6")
    assert card.inputs["images"].opt == (1, *SIZE, 3)
    assert card.inputs["images"].dtype == "uint8"
    assert sorted(p.name for p in artifact.parent.iterdir()) == sorted(
        [artifact.name, "step-0.fp32.json", engine.name, engine.name + ".json"]
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_precision_comes_from_the_file_except_on_8(version, tmp_path, machine):
    machine(version)
    told = header(build(write_artifact(tmp_path, precision="fp16")))
    assert told["typed"] is (not version.startswith("8."))
    assert told["flags"] == (["FP16"] if version.startswith("8.") else [])


@pytest.mark.parametrize("version", VERSIONS)
def test_every_weight_can_be_kept_replaceable(version, tmp_path, machine):
    machine(version)
    result = build(write_artifact(tmp_path, gain=1.0), refit="all")
    told, names = header(result), {"head.weight", "head.bias", "body.gain"}
    old = version.startswith("8.")
    assert told["flags"] == ["REFIT" if old else "REFIT_INDIVIDUAL"]
    assert set(told["refittable"]) == (set() if old else names)
    assert set(result.card.replaceable) == names


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_only_the_head_can_be_kept_replaceable_from_10_on(version, tmp_path, machine):
    machine(version)
    result = build(write_artifact(tmp_path, gain=1.0), refit="head")
    assert header(result)["flags"] == ["REFIT_INDIVIDUAL"]
    assert sorted(result.card.replaceable) == ["head.bias", "head.weight"]


def test_an_engine_is_fixed_unless_asked_for(artifact, machine):
    machine("10.16.1")
    result = build(artifact)
    assert header(result)["flags"] == []
    assert (result.card.replaceable, result.card.fixed_sha256) == ((), "")


def test_a_refittable_engine_that_answers_wrong_never_has_its_name(tmp_path, machine):
    """What is documented of TensorRT 11.3: biases are lost, before anything is refitted."""
    machine("11.4.0", fault="built wrong")
    path = write_artifact(tmp_path, golden=True)
    with pytest.raises(EdgeincError, match="golden question wrong") as caught:
        build(path, refit="all")
    assert "--refit" in caught.value.hint
    assert not path.with_suffix(".engine").exists()
    build(path)  # without, nothing is lost


def test_weights_that_cannot_be_kept_replaceable_are_refused(tmp_path, machine):
    machine("10.16.1")
    with pytest.raises(UsageError, match="int8"):
        build(write_artifact(tmp_path, precision="int8"), refit="all")
    with pytest.raises(EdgeincError, match="there are none") as caught:
        build(write_artifact(tmp_path, head=True), refit="head")
    assert caught.value.hint


def test_what_8_cannot_do_is_refused_with_the_way_out(artifact, machine):
    machine("8.6.1")
    with pytest.raises(UsageError, match=r"TensorRT 10, here is 8\.6\.1") as caught:
        build(artifact, refit="head")
    assert "--refit all" in caught.value.hint
    assert not artifact.with_suffix(".engine").exists()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_dynamic_head_is_bounded_by_a_profile(version, tmp_path, machine):
    machine(version)
    result = build(write_artifact(tmp_path, head=True), max_rows=7)
    assert header(result)["profile"] == {
        "head_weight": [[1, 3], [3, 3], [7, 3]],
        "head_bias": [[1], [3], [7]],
    }
    assert result.card.inputs["head_bias"].max == (7,)


def test_a_file_with_more_classes_than_the_default_bound_sets_its_own(tmp_path, machine):
    machine("10.16.1")
    result = build(write_artifact(tmp_path, head=True), max_rows=2)
    assert result.card.inputs["head_bias"].max == (3,)


@pytest.mark.parametrize(
    ("settings", "share"), [({}, 0.8), ({"integrated": 1}, 0.5)], ids=["desktop", "jetson"]
)
def test_kernels_may_use_a_share_of_the_free_memory(
    settings, share, artifact, machine, monkeypatch
):
    machine("10.16.1", free=1 << 30, **settings)
    result = build(artifact)
    assert header(result)["pools"] == {"WORKSPACE": result.card.workspace_bytes}
    assert result.card.workspace_bytes == int(share * (1 << 30))


def test_timings_are_used_again_but_not_by_another_version(artifact, machine):
    machine("10.16.1")
    assert [build(artifact).card.timing_cache for _ in range(2)] == ["new", "used"]
    machine("11.4.0")
    assert build(artifact).card.timing_cache == "new"


def test_timings_that_are_damaged_are_replaced(artifact, machine, tmp_path):
    machine("10.16.1")
    build(artifact)
    (file,) = (tmp_path / "cache" / "tensorrt").iterdir()
    file.write_bytes(b"junk")
    assert [build(artifact).card.timing_cache for _ in range(2)] == ["new", "used"]


# ---------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"builder": "null"}, MissingError, "no GPU, or no driver.*error: 35"),
        ({"builder": "none"}, MissingError, "no GPU, or no driver"),
        ({"driver": 0}, MissingError, "driver is missing"),
        ({"gpus": 0}, MissingError, "no CUDA GPU"),
        ({"build": "Could not find any implementation for node"}, EdgeincError, "any impl"),
        ({"build": "OutOfMemory: requested 3 GB"}, EdgeincError, "requested 3 GB"),
        ({"die": int(signal.SIGKILL)}, Killed, "killed.*memory ran out"),
        ({"die": int(signal.SIGSEGV)}, EdgeincError, "SIGSEGV.*about to go"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_build_that_fails_is_one_clear_line_and_leaves_nothing(
    settings,
    kind,
    words,
    artifact,
    machine,
):
    machine("10.16.1", **settings)
    with pytest.raises(kind, match=words) as caught:
        build(artifact)
    assert type(caught.value) is kind
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert sorted(p.name for p in artifact.parent.iterdir()) == [
        "step-0.fp32.json",
        "step-0.fp32.onnx",
    ]


def test_a_build_that_fails_leaves_the_earlier_engine_as_it_was(artifact, machine):
    machine("10.16.1")
    before = Path(build(artifact).path).read_bytes()
    machine("10.16.1", die=int(signal.SIGKILL))
    with pytest.raises(EdgeincError):
        build(artifact)
    machine("10.16.1")
    assert artifact.with_suffix(".engine").read_bytes() == before
    open_artifact(artifact.with_suffix(".engine")).close()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell")
def test_a_build_that_eats_memory_is_stopped(artifact, machine):
    machine("10.16.1", eat=400)
    with pytest.raises(EdgeincError, match="more than 300 MB") as caught:
        build(artifact, memory_mb=300)
    assert "--memory" in caught.value.hint


def test_a_long_build_shows_its_phase(artifact, machine):
    machine("10.16.1", hang=2)
    progress = Notes()
    build(artifact, progress=progress)
    assert progress.name == "build step-0.fp32.engine"
    assert any(note.startswith("1 s") for note in progress.notes)


def test_without_tensorrt_it_says_how_to_get_it(artifact):
    if find_spec("tensorrt"):
        pytest.skip("TensorRT is here")
    with pytest.raises(MissingError, match="tensorrt is not installed") as caught:
        build(artifact)
    assert "edgeinc[trt]" in caught.value.hint


def test_what_cannot_be_built_is_refused(artifact, tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        build(tmp_path / "none.onnx")
    with pytest.raises(UsageError, match="cannot build"):
        build(artifact, out=tmp_path / "model.plan")
    with pytest.raises(MissingError, match="CUDA only"):
        build(artifact, device="cpu")
    artifact.write_bytes(artifact.read_bytes() + b" ")
    with pytest.raises(EdgeincError, match="not the file its card describes"):
        build(artifact)


# ---------------------------------------------------------------------------------- command


def command(capsys, *words):
    """(exit code, what `--json` printed, what went to standard error)."""
    from edgeinc.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["build", *map(str, words), "--json"])
    out, err = capsys.readouterr()
    return ended.value.code, json.loads(out) if out else None, err


def test_the_command_builds(artifact, machine, capsys):
    machine("10.16.1")
    code, result, _ = command(
        capsys, artifact, "--refit", "all", "-o", artifact.parent / "a.engine"
    )
    assert code == 0
    assert result["path"] == str(artifact.parent / "a.engine")
    assert (result["card"]["refit"], result["card"]["file"]) == ("all", "a.engine")


def test_the_command_ends_with_4_without_tensorrt(artifact, capsys):
    if find_spec("tensorrt"):
        pytest.skip("TensorRT is here")
    code, _, err = command(capsys, artifact)
    assert code == 4
    assert "edgeinc[trt]" in json.loads(err)["error"]["hint"]


def test_the_command_checks_and_ends_with_3_when_the_file_is_refused(artifact, capsys):
    pytest.importorskip("tensorrt_rtx")
    code, result, _ = command(capsys, artifact, "--trt-check")
    assert (code, result["ok"]) == (0, True)
    artifact.write_bytes(b"junk")
    card = json.loads(artifact.with_suffix(".json").read_text(encoding="utf-8"))
    artifact.with_suffix(".json").write_text(json.dumps({**card, "sha256": sha256(artifact)}))
    code, result, err = command(capsys, artifact, "--trt-check")
    assert (code, result["ok"]) == (3, False)
    assert "cannot read" in json.loads(err)["error"]["message"]


# ---------------------------------------------------------------------------------- names


@pytest.mark.parametrize("head", [False, True])
def test_names_of_weights_are_read_as_onnx_reads_them(tmp_path, head):
    onnx = pytest.importorskip("onnx")
    path = write_artifact(tmp_path, head=head)
    names = tuple(t.name for t in onnx.load(path).graph.initializer)
    assert initializer_names(path.read_bytes()) == names
    assert head_weights(path.read_bytes()) == names  # this file has no other weights
    assert bool(names) is not head


@pytest.mark.parametrize("content", [b"junk that is no message", b"\x3a\xff\x01", b"\x3a\x80"])
def test_what_is_no_onnx_file_is_refused(content):
    with pytest.raises(EdgeincError, match="not an ONNX file"):
        initializer_names(content)


# ---------------------------------------------------------------------------------- rtx


def real_export(folder, network, form=None):
    """A small network as the exporter writes it, with a card."""
    torch = pytest.importorskip("torch")
    from edgeinc.deploy._form import PLAIN
    from edgeinc.deploy._graph import head_of, to_onnx
    from edgeinc.models import create

    form = form or PLAIN
    torch.manual_seed(0)
    model = create(network, (3, 2), {"width": 0.25}).eval()
    path = write_artifact(folder)
    path.write_bytes(to_onnx(model, (64, 96), form).SerializeToString())
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    card |= {"sha256": sha256(path), "precision": form.precision, "head": form.head}
    card |= {"head_shape": head_of(model, form)[0].shape, "batch": form.batch, "size": (64, 96)}
    path.with_suffix(".json").write_text(json.dumps(card), encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=["erfnet", "bisenet"])
def exported(request, tmp_path_factory):
    """A real network's real export."""
    return real_export(tmp_path_factory.mktemp(request.param), request.param)


@pytest.mark.parametrize("network", ["erfnet", "bisenet"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("head", ["static", "capacity", "dynamic"])
def test_nvidias_own_builder_takes_what_is_exported(tmp_path, network, precision, head):
    pytest.importorskip("tensorrt_rtx")
    from edgeinc.deploy._form import Form

    form = Form(head=head, capacity=8, precision=precision)
    result = check(real_export(tmp_path, network, form), targets=("SM86",))
    assert result.ok, result
    assert result.builder.startswith("tensorrt_rtx 1.")
    assert result.layers > 50
    assert [row.target for row in result.builds] == ["SM86"]
    assert all(row.bytes > 100_000 and row.seconds > 0 for row in result.builds)


def test_nvidias_own_builder_takes_any_number_of_images_and_logits(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    from edgeinc.deploy._form import Form

    form = Form(head="dynamic", answer="both", images="float", batch=(1, 2, 4))
    result = check(real_export(tmp_path, "erfnet", form), targets=("SM86", "SM120"))
    assert result.ok, result


def test_every_weight_is_known_to_nvidias_parser_by_its_name(exported):
    """So that each can be made replaceable: no weight is renamed or merged by the parser."""
    rtx = pytest.importorskip("tensorrt_rtx")
    from edgeinc.runtimes._tensorrt import Bindings

    names = [name for name, _ in float_weights(exported.read_bytes())]
    assert len(names) > 50
    assert set(head_weights(exported.read_bytes())) < set(names)
    network = Bindings(rtx).parse(exported.read_bytes())
    assert all(network.network.mark_weights_refittable(name) for name in names)
    assert not network.network.mark_weights_refittable("no.such.weight")


def test_nvidias_own_builder_takes_a_dynamic_head(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    result = check(write_artifact(tmp_path, head=True), targets=("SM86",))
    assert result.ok, result


def test_what_nvidias_parser_refuses_is_told_with_its_place(tmp_path):
    """uint8 that is transposed: ONNX Runtime does it, TensorRT does not."""
    pytest.importorskip("tensorrt_rtx")
    onnx = pytest.importorskip("onnx")
    path = write_artifact(tmp_path)
    model = onnx.load(path)
    turn = onnx.helper.make_node("Transpose", ["images"], ["turned_images"], perm=[0, 2, 1, 3])
    model.graph.node.insert(0, turn)
    model.graph.node[1].input[0] = "turned_images"
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    path.write_bytes(model.SerializeToString())
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    path.with_suffix(".json").write_text(json.dumps({**card, "sha256": sha256(path)}))
    result = check(path, targets=("SM86",))
    assert not result.ok
    assert result.error or result.builds[0].status != "ok"


def test_without_tensorrt_rtx_it_says_how_to_get_it(python, artifact):
    code = (
        "from edgeinc.deploy.build import check\n"
        "from edgeinc.errors import MissingError\n"
        f"try: check({str(artifact)!r})\n"
        "except MissingError as error: print(error.message, error.hint, sep='|')"
    )
    done = python("-c", code, without=["tensorrt-rtx", "tensorrt-rtx-cu13"])
    assert done.stdout == 'tensorrt_rtx is not installed|pip install "edgeinc[trtcheck]"\n'


def test_an_engine_computes_what_its_file_says(artifact, machine):
    machine("11.4.0")
    with open_artifact(build(artifact).path) as session:
        assert np.array_equal(session.run(scenes()), expected(scenes(), *classifier(3)))
