"""Other weights go into an engine that serves: beside it, checked, and then in its place."""

import gc
import json
import threading

import numpy as np
import pytest
from asking import asked_during_updates
from engines import VERSIONS, classifier, expected, loaded, scenes, write_artifact

from edgeinc.deploy.build import build
from edgeinc.deploy.plan_update import measure_update, plan_update
from edgeinc.errors import EdgeincError, UpdateError, UsageError
from edgeinc.runs import sha256
from edgeinc.runtimes import open_artifact
from edgeinc.runtimes._engine import sidecar_path

onnx = pytest.importorskip("onnx")

GAIN = 1.5
"""What the body of every new file multiplies with; the old one's does nothing."""


@pytest.fixture
def new(tmp_path):
    return write_artifact(tmp_path / "new", seed=5, weights="v", gain=GAIN, golden=True)


_built = {}
"""(version, refit) -> contents of the engine and its sidecar: a build takes seconds."""


def engine_of(folder, machine, version="10.16.1", refit="all", **settings):
    machine(version)
    path = write_artifact(folder / "old", gain=1.0, golden=True)
    engine = path.with_suffix(".engine")
    if (version, refit) not in _built:
        build(path, refit=refit)
        _built[version, refit] = content(engine)
    for file, known in zip((engine, sidecar_path(engine)), _built[version, refit], strict=True):
        file.write_bytes(known)
    machine(version, **settings)
    return engine


def old_ids(images):
    return expected(images, *classifier(3, seed=0))


def new_ids(images, gain=GAIN):
    weight, bias = classifier(3, seed=5)
    return expected(images, weight * gain, bias)


def content(engine):
    return engine.read_bytes(), sidecar_path(engine).read_bytes()


def taken():
    """What is held of the GPU: bytes of libraries, and buffers, streams and events."""
    gc.collect()  # an error that a test keeps may hold on to the frames it went through
    cudart = loaded().cudart
    return cudart.reserved, len(cudart.memory), len(cudart.streams), len(cudart.events)


# ---------------------------------------------------------------------------------- done


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_takes_other_weights_and_gives_them_back(version, tmp_path, new, machine):
    engine = engine_of(tmp_path, machine, version)
    before, images = content(engine), scenes(4)
    assert not np.array_equal(old_ids(images), new_ids(images))
    with open_artifact(engine) as session:
        result = session.update(new)
        assert (result.plan.way, result.golden_percent) == ("weights", 100)
        assert "refit of 3 tensors in the engine" in result.plan.reason
        assert result.plan.bytes == 4 * (3 * 3 + 3 + 3)
        assert np.array_equal(session.run(images), new_ids(images))
        assert (session.path, session.sha256) == (new, sha256(new))
        assert session.update(new).plan.way == "nothing"
        session.rollback()
        assert np.array_equal(session.run(images), old_ids(images))
        assert (session.path, session.sha256) == (engine, sha256(engine))
        session.rollback()
        assert np.array_equal(session.run(images), new_ids(images))
    assert taken() == (0, 0, 0, 0)
    # On the disk nothing has changed, so nothing there says what is not so.
    assert content(engine) == before
    with open_artifact(engine) as session:
        assert np.array_equal(session.run(images), old_ids(images))
        session.update(new)
        assert np.array_equal(session.run(images), new_ids(images))


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_an_engine_whose_head_is_replaceable_takes_heads_only(version, tmp_path, new, machine):
    engine = engine_of(tmp_path, machine, version, refit="head")
    head = write_artifact(tmp_path / "head", seed=5, gain=1.0, golden=True)
    with open_artifact(engine) as session:
        with pytest.raises(UpdateError, match=r"weights differ beside the 2 .*--refit head"):
            session.update(new)
        assert "refit of 2 tensors" in session.update(head).plan.reason
        assert np.array_equal(session.run(scenes()), new_ids(scenes(), gain=1.0))


def test_no_frame_is_lost_and_none_is_half_of_each(tmp_path, new, machine):
    engine = engine_of(tmp_path, machine)
    first, images = engine.with_suffix(".onnx"), scenes(2)
    right = {old_ids(images).tobytes(): 0, new_ids(images).tobytes(): 1}
    with open_artifact(engine) as session:
        served = asked_during_updates(session, images, right, (new, first) * 4)
    assert set(served) == {0, 1}
    assert taken() == (0, 0, 0, 0)


def test_an_engine_that_nobody_can_go_back_to_is_given_back(tmp_path, new, machine):
    engine = engine_of(tmp_path, machine)
    first = engine.with_suffix(".onnx")
    with open_artifact(engine) as session:
        session.update(new)
        two = taken()
        for path in (first, new, first):
            session.update(path)
            assert taken() == two


def test_an_update_from_another_thread_works_on_the_same_gpu(tmp_path, new, machine):
    engine = engine_of(tmp_path, machine, gpus=2)
    failed = []
    with open_artifact(engine, device="cuda:1") as session:

        def update():
            try:
                session.update(new)
                session.run(scenes())
            except EdgeincError as err:
                failed.append(err)

        thread = threading.Thread(target=update)
        thread.start()
        thread.join()
        assert not failed
        assert np.array_equal(session.run(scenes()), new_ids(scenes()))
        assert set(loaded().cudart.devices.values()) == {1}


# ---------------------------------------------------------------------------------- planned


def test_a_plan_for_an_engine_needs_no_tensorrt(tmp_path, new, machine, monkeypatch):
    engine = engine_of(tmp_path, machine)
    (tmp_path / "site" / "tensorrt.py").unlink()
    plan = plan_update(engine, new)
    assert (plan.runtime, plan.way) == ("tensorrt", "weights")
    assert plan.reason == "the graph is the same: refit of 3 tensors in the engine"
    assert plan_update(engine, engine.with_suffix(".onnx")).way == "nothing"
    with pytest.raises(UsageError, match="openvino does not serve"):
        plan_update(engine, new, runtime="openvino")
    with pytest.raises(UsageError, match="no such engine"):
        plan_update(tmp_path / "none.engine", new)


def test_an_engine_that_was_not_built_for_it_needs_a_build(tmp_path, new, machine):
    engine = engine_of(tmp_path, machine, refit="none")
    plan = plan_update(engine, new)
    assert plan.way == "rebuild"
    assert "built without replaceable weights (edgeinc build --refit)" in plan.reason
    with open_artifact(engine) as session:
        with pytest.raises(UpdateError, match="built without replaceable weights"):
            session.update(new)
        assert np.array_equal(session.run(scenes()), old_ids(scenes()))


def test_another_graph_needs_a_build(tmp_path, new, machine):
    engine = engine_of(tmp_path, machine)
    card = json.loads(new.with_suffix(".json").read_text(encoding="utf-8"))
    new.with_suffix(".json").write_text(json.dumps({**card, "topology_sha256": "u"}))
    plan = plan_update(engine, new)
    assert (plan.way, plan.reason) == ("rebuild", "another graph: layers or their names differ")


def test_a_refit_is_measured_while_frames_are_asked_for(tmp_path, new, machine, monkeypatch):
    from edgeinc.deploy import plan_update as module

    monkeypatch.setattr(module, "AROUND_S", 0.1)
    found = measure_update(engine_of(tmp_path, machine), new)
    assert (found.result.plan.way, found.lost) == ("weights", 0)
    assert found.frames > 2


def test_the_command_plans_for_an_engine(tmp_path, new, machine, capsys):
    from edgeinc.cli import main

    engine = engine_of(tmp_path, machine)
    with pytest.raises(SystemExit) as ended:
        main(["plan-update", str(engine), str(new), "--json"])
    assert ended.value.code == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["way"], plan["runtime"]) == ("weights", "tensorrt")


# ---------------------------------------------------------------------------------- refused


def rewrite(path, change):
    """Do something to a file, and let its card describe it."""
    model = onnx.load(path)
    change({t.name: t for t in model.graph.initializer}, model)
    path.write_bytes(model.SerializeToString())
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    card |= {"sha256": sha256(path), "bytes": path.stat().st_size}
    path.with_suffix(".json").write_text(json.dumps(card))


def put(tensor, values):
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(values, np.float32), tensor.name))


def not_finite(weights, model):
    put(weights["body.gain"], [1, np.nan, 1])


def another_shape(weights, model):
    put(weights["body.gain"], [1])


def another_type(weights, model):
    values = np.ones(3, np.float16)
    weights["body.gain"].CopyFrom(onnx.numpy_helper.from_array(values, "body.gain"))


def another_name(weights, model):
    weights["body.gain"].name = "elsewhere.gain"


def another_answer(weights, model):
    put(weights["head.bias"], [1e6, 0, 0])


def no_golden(weights, model):
    del model.metadata_props[:]


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (not_finite, {}, r"values in body\.gain that are not finite"),
        (another_shape, {}, r"does not take 1 new values for body\.gain: weights of body\.gain"),
        (another_type, {}, r"does not take 3 new values for body\.gain"),
        (another_name, {}, "rebuild, because the graph is the same, and weights differ beside"),
        (another_answer, {}, "answers its golden question wrong"),
        (no_golden, {}, "has no golden answer"),
        (None, {"fault": "fails"}, "could not exchange the weights"),
        (None, {"fault": "refitted wrong"}, "answers its golden question wrong"),
        (None, {"merged": ["body.gain", "body.more"]}, r"needs new values for body\.more"),
    ],
)
def test_what_is_not_sound_is_refused_and_the_old_weights_serve_on(
    change, settings, message, tmp_path, new, machine
):
    engine = engine_of(tmp_path, machine, **settings)
    if change is not None:
        rewrite(new, change)
    with open_artifact(engine) as session:
        before = session.run(scenes())
        held = taken()
        with pytest.raises(UpdateError, match=message) as refused:
            session.update(new)
        assert "\n" not in refused.value.message
        assert refused.value.hint
        assert refused.value.exit_code == 5
        assert np.array_equal(session.run(scenes()), before)
        assert session.path == engine
        assert taken() == held
        with pytest.raises(UsageError, match="nothing to go back to"):
            session.rollback()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda engine: engine.unlink(), "cannot be read for a second engine"),
        (lambda engine: engine.write_bytes(b"another"), "was replaced since it was opened"),
    ],
)
def test_an_engine_that_is_not_on_the_disk_any_more_serves_on(
    harm, message, tmp_path, new, machine
):
    engine = engine_of(tmp_path, machine)
    with open_artifact(engine) as session:
        before = session.run(scenes())
        harm(engine)
        with pytest.raises(UpdateError, match=message):
            session.update(new)
        assert np.array_equal(session.run(scenes()), before)
        deserialised = len(loaded().deserialised)
    assert deserialised == 1  # what lay there instead was never loaded


def test_a_gpu_without_room_for_a_second_engine_serves_on(tmp_path, new, machine):
    engine = engine_of(tmp_path, machine)
    with open_artifact(engine) as session:
        before, held = session.run(scenes()), taken()
        loaded().cudart.settings["free"] = 0
        with pytest.raises(UpdateError, match="memory of the GPU is used up"):
            session.update(new)
        loaded().cudart.settings["free"] = 4 << 30
        assert np.array_equal(session.run(scenes()), before)
        assert taken() == held
