"""Triton: the repository is one that Triton's own schema and rules take."""

import importlib.util
import json
import shutil
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
from engines import write_artifact  # noqa: E402
from google.protobuf import text_format  # noqa: E402

from edgeinc.deploy.triton import write_model_repository  # noqa: E402
from edgeinc.errors import EdgeincError, UsageError  # noqa: E402
from edgeinc.runs import sha256  # noqa: E402
from edgeinc.runtimes._card import read_card  # noqa: E402
from edgeinc.runtimes._head import encode  # noqa: E402
from edgeinc.schema import ClassInfo, InputShapes, to_json  # noqa: E402

ORT_TYPES = {"tensor(uint8)": "TYPE_UINT8", "tensor(float)": "TYPE_FP32"}
NAMES = ("road", "sky", "car", "bus")


@pytest.fixture(scope="session")
def schema():
    """Triton's `ModelConfig`, from the file its own client ships; gRPC is not needed for it."""
    try:
        files = metadata.files("tritonclient")
    except metadata.PackageNotFoundError:
        pytest.skip("tritonclient is not installed")
    wanted = "tritonclient/grpc/model_config_pb2.py"
    (file,) = (f for f in files if f.as_posix() == wanted)
    spec = importlib.util.spec_from_file_location("model_config_pb2", file.locate())
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parsed(schema, model):
    """A model's configuration; a word that Triton does not know raises."""
    text = (model / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, schema.ModelConfig())


def artifact(folder, *, step=0, head=False, batch=(1, 1, 1), names=NAMES[:3]):
    """A file of a step with its card; the graph's batch is open where it is."""
    path = write_artifact(folder, head=head)
    card = read_card(path)
    graph = onnx.load_model(path)
    if batch[0] != batch[2]:
        for value in (*graph.graph.input[:1], *graph.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    shape = (len(names), 1, 3) if head else (0, 0, 0)
    if head:
        weight = np.arange(3 * len(names), dtype=np.float32).reshape(shape)
        rows = encode(weight, np.ones(len(names), np.float32))
        onnx.helper.set_model_props(graph, rows)
    path = path.rename(folder / f"step-{step}.fp32.onnx")
    path.write_bytes(graph.SerializeToString())
    card = replace(
        card,
        file=path.name,
        sha256=sha256(path),
        step=step,
        classes=tuple(ClassInfo(i, name, (i, 0, 0), 0) for i, name in enumerate(names)),
        batch=batch,
        head_shape=shape,
    )
    path.with_suffix(".json").write_text(to_json(card), encoding="utf-8")
    return path


FORMS = {
    "one image": ({}, 0),
    "any number of images": ({"batch": (1, 4, 8)}, 8),
    "a dynamic head": ({"head": True}, 0),
    "a dynamic head and any number of images": ({"head": True, "batch": (1, 4, 8)}, 0),
}


@pytest.mark.parametrize(("form", "largest"), FORMS.values(), ids=FORMS.keys())
def test_the_configuration_says_what_onnx_runtime_sees(tmp_path, schema, form, largest):
    model = write_model_repository(artifact(tmp_path / "a", **form), tmp_path / "models")
    config = parsed(schema, model)
    assert (config.name, config.platform) == (model.name, "onnxruntime_onnx")
    assert config.max_batch_size == largest
    session = ort.InferenceSession(model / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    for said, real in (
        (config.input, session.get_inputs()),
        (config.output, session.get_outputs()),
    ):
        # Triton's rule: above 0, every tensor has the batch in front and `dims` leaves it out.
        found = [([-1] if largest else []) + list(tensor.dims) for tensor in said]
        shapes = [[n if isinstance(n, int) else -1 for n in tensor.shape] for tensor in real]
        assert found == shapes
        assert [tensor.name for tensor in said] == [tensor.name for tensor in real]
        types = [schema.DataType.Name(tensor.data_type) for tensor in said]
        assert types == [ORT_TYPES[tensor.type] for tensor in real]
    assert config.HasField("dynamic_batching") == bool(largest)
    assert list(config.dynamic_batching.preferred_batch_size) == ([4] if largest else [])
    assert not any(tensor.optional for tensor in config.input)
    (group,) = config.instance_group
    assert (group.count, group.kind) == (1, schema.ModelInstanceGroup.KIND_AUTO)


def test_a_word_that_triton_does_not_know_would_be_found(tmp_path, schema):
    model = write_model_repository(artifact(tmp_path / "a"), tmp_path / "models")
    config = model / "config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size", "max_batch"))
    with pytest.raises(text_format.ParseError):
        parsed(schema, model)


def test_a_version_is_the_step_plus_one_and_holds_the_very_file(tmp_path):
    path = artifact(tmp_path / "a", step=2)
    model = write_model_repository(path, tmp_path / "models")
    assert [f.name for f in sorted(model.iterdir())] == ["3", "config.pbtxt", "labels.txt"]
    assert (model / "3" / "model.onnx").read_bytes() == path.read_bytes()


def test_labels_are_named_by_their_line(tmp_path, schema):
    model = write_model_repository(artifact(tmp_path / "a"), tmp_path / "models")
    assert (model / "labels.txt").read_text() == "road\nsky\ncar\n"
    assert [t.label_filename for t in parsed(schema, model).output] == ["labels.txt"]


def test_rows_of_a_dynamic_head_lie_beside_the_model(tmp_path):
    model = write_model_repository(artifact(tmp_path / "a", head=True), tmp_path / "models")
    weight, bias = (np.load(model / "1" / f"head_{part}.npy") for part in ("weight", "bias"))
    assert weight.tolist() == np.arange(9).reshape(3, 1, 3).tolist()
    assert (weight.dtype, bias.tolist()) == (np.float32, [1, 1, 1])


def test_a_later_step_joins_and_what_was_changed_by_hand_stays(tmp_path, schema):
    models = tmp_path / "models"
    model = write_model_repository(artifact(tmp_path / "a"), models)
    config = model / "config.pbtxt"
    config.write_text(config.read_text().replace("KIND_AUTO", "KIND_CPU"))
    later = artifact(tmp_path / "b", step=1, names=NAMES)
    assert write_model_repository(later, models) == model
    assert {f.name for f in model.iterdir()} == {"1", "2", "config.pbtxt", "labels.txt"}
    assert (model / "labels.txt").read_text() == "road\nsky\ncar\nbus\n"
    assert parsed(schema, model).instance_group[0].kind == schema.ModelInstanceGroup.KIND_CPU
    write_model_repository(tmp_path / "a" / "step-0.fp32.onnx", models)
    assert (model / "labels.txt").read_text().endswith("bus\n"), "an older step takes no label away"


def test_the_same_step_again_replaces_its_file(tmp_path):
    models = tmp_path / "models"
    write_model_repository(artifact(tmp_path / "a", head=True), models)
    again = artifact(tmp_path / "b", head=True)
    file = onnx.load_model(again)
    file.doc_string = "another"
    again.write_bytes(file.SerializeToString())
    card = replace(read_card(again), sha256=sha256(again))
    again.with_suffix(".json").write_text(to_json(card), encoding="utf-8")
    model = write_model_repository(again, models)
    assert (model / "1" / "model.onnx").read_bytes() == again.read_bytes()
    assert {f.name for f in model.iterdir()} == {"1", "config.pbtxt", "labels.txt"}


def test_another_network_under_the_same_name_is_refused_and_changes_nothing(tmp_path):
    models = tmp_path / "models"
    model = write_model_repository(artifact(tmp_path / "a"), models)
    before = {f: f.read_bytes() for f in model.rglob("*") if f.is_file()}
    other = artifact(tmp_path / "b", step=1, names=("road", "tree"))
    with pytest.raises(UsageError, match=r"class 1 'sky', step-1\.fp32\.onnx calls it 'tree'"):
        write_model_repository(other, models)
    batched = artifact(tmp_path / "c", step=1, batch=(1, 2, 4))
    with pytest.raises(UsageError, match="other tensors"):
        write_model_repository(batched, models, name=model.name)
    assert {f: f.read_bytes() for f in model.rglob("*") if f.is_file()} == before


def test_a_name_is_that_of_the_run_for_every_step_and_tells_forms_apart(tmp_path):
    run = tmp_path / "my run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    models = tmp_path / "models"
    names = [
        write_model_repository(artifact(run / "export", **form), models).name
        for form in (
            {},
            {"step": 1, "names": NAMES},
            {"head": True},
            {"batch": (1, 2, 4)},
        )
    ]
    assert names == ["my-run", "my-run", "my-run-dynamic", "my-run-batch1-4"]
    assert write_model_repository(artifact(tmp_path / "x"), tmp_path / "m").name == "erfnet"


REFUSED = {
    "no model": ("notes.txt", "no file that Triton can serve"),
    "not there": ("gone.onnx", "no file that Triton can serve"),
    "rejected": ("step-0.fp32.onnx.rejected", "no file that Triton can serve"),
}


@pytest.mark.parametrize(("file", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_triton_cannot_serve_is_refused(tmp_path, file, said):
    path = artifact(tmp_path)
    if file != "gone.onnx":
        shutil.copy(path, tmp_path / file)
    with pytest.raises(UsageError, match=said) as error:
        write_model_repository(tmp_path / file, tmp_path / "models")
    assert "edgeinc export" in error.value.hint
    assert not (tmp_path / "models").exists()


def test_a_file_that_was_changed_is_not_put_there(tmp_path):
    path = artifact(tmp_path)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(EdgeincError, match="not the file its card describes"):
        write_model_repository(path, tmp_path / "models")


def test_fewest_images_above_one_are_refused(tmp_path):
    path = artifact(tmp_path, batch=(2, 4, 8))
    with pytest.raises(UsageError, match="no fewer than 2 images") as error:
        write_model_repository(path, tmp_path / "models")
    assert "--dynamic-batch 1:4:8" in error.value.hint


def test_int8_for_another_runtime_is_refused(tmp_path):
    path = artifact(tmp_path)
    card = replace(read_card(path), precision="int8", target="tensorrt")
    path.with_suffix(".json").write_text(to_json(card), encoding="utf-8")
    with pytest.raises(UsageError, match="int8 for tensorrt"):
        write_model_repository(path, tmp_path / "models")
    ours = replace(card, target="onnxruntime")
    path.with_suffix(".json").write_text(to_json(ours), encoding="utf-8")
    assert write_model_repository(path, tmp_path / "models").name == "erfnet-int8"


@pytest.mark.parametrize("name", ["../elsewhere", "/elsewhere", ".hidden", "..", "a b"])
def test_a_name_stays_inside_the_repository(tmp_path, name):
    path = artifact(tmp_path)
    with pytest.raises(UsageError, match="cannot be the name"):
        write_model_repository(path, tmp_path / "models", name=name)


def test_an_engine_for_several_images_is_batched_as_it_was_built(tmp_path, machine, schema):
    from edgeinc.deploy.build import build

    machine("10.16.1")
    path = artifact(tmp_path / "a", batch=(1, 4, 8))
    shapes = InputShapes(*((n, 6, 10, 3) for n in (1, 2, 3)))
    engine = Path(build(path, profile={"images": shapes}).path)
    config = parsed(schema, write_model_repository(engine, tmp_path / "models"))
    assert (config.max_batch_size, list(config.input[0].dims)) == (3, [6, 10, 3])


def test_an_engine_is_a_plan_with_the_shapes_it_was_built_for(tmp_path, machine, schema):
    from edgeinc.deploy.build import build

    machine("10.16.1")
    path = artifact(tmp_path / "a", head=False)
    engine = build(path).path
    model = write_model_repository(Path(engine), tmp_path / "models")
    config = parsed(schema, model)
    assert (model.name, config.platform) == ("erfnet-tensorrt", "tensorrt_plan")
    assert (model / "1" / "model.plan").read_bytes() == Path(engine).read_bytes()
    (images,), (classes,) = config.input, config.output
    assert (list(images.dims), list(classes.dims)) == ([1, 6, 10, 3], [1, 6, 10])
    sidecar = json.loads(Path(engine + ".json").read_text())
    assert sidecar["inputs"]["images"]["dtype"] == "uint8"
    assert images.data_type == classes.data_type == schema.TYPE_UINT8


def test_a_real_export_fits(tmp_path, base_run, street_data, schema):
    pytest.importorskip("onnxscript")
    import edgeinc

    result = edgeinc.export(base_run, output="both", dynamic_batch=(1, 2, 4), data=street_data)
    model = write_model_repository(Path(result.path), tmp_path / "models")
    config = parsed(schema, model)
    assert (model.name, config.max_batch_size) == ("run-both-batch1-4", 4)
    assert [list(tensor.dims) for tensor in config.input] == [[64, 96, 3]]
    assert [list(tensor.dims) for tensor in config.output] == [[64, 96], [3, 64, 96]]
    assert (model / "labels.txt").read_text().split() == ["road", "sky", "building"]
