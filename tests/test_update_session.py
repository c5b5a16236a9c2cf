"""A session serves another file: by the cheapest way, without losing a frame, or not at all."""

import base64
import json
import shutil
import threading
import zlib
from pathlib import Path
from time import sleep

import numpy as np
import pytest
from asking import asked_during_updates

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import edgeinc  # noqa: E402
from edgeinc.errors import EdgeincError, UpdateError, UsageError  # noqa: E402
from edgeinc.runtimes import _golden, open_artifact  # noqa: E402
from edgeinc.runtimes._onnx_file import float_weights, metadata  # noqa: E402

SIZE = (64, 96)


@pytest.fixture(scope="module")
def run(_base_run, tmp_path_factory):
    """Steps 1 and 2 train a classifier only (`linear`), step 3 everything."""
    folder = tmp_path_factory.mktemp("updates") / "run"
    shutil.copytree(_base_run, folder)
    for name, method in (("car", "linear"), ("tree", "linear"), ("bus", "finetune")):
        edgeinc.extend(folder, new_classes=[name], method=method)
    return folder


@pytest.fixture(scope="module")
def files(run, tmp_path_factory):
    """Every step in every head mode, without cards: the files describe themselves."""
    folder = tmp_path_factory.mktemp("files")
    for head, steps in (("dynamic", range(4)), ("capacity", range(2)), ("static", range(2))):
        for step in steps:
            out = folder / f"{step}-{head}.onnx"
            edgeinc.export(run, step=step, head=head, capacity=8, out=out)
            out.with_suffix(".json").unlink()
    return folder


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (2, 8, 12, 3), np.uint8).repeat(8, 1).repeat(8, 2)


def changed(source, target, change):
    """A copy of a file after something was done to its message."""
    model = onnx.load(source)
    change(model)
    onnx.save(model, target)
    return target


def entries(**new):
    def change(model):
        kept = {p.key: p.value for p in model.metadata_props}
        onnx.helper.set_model_props(model, {**kept, **new})

    return change


# ---------------------------------------------------------------------------------- which way


@pytest.mark.parametrize(
    ("old", "new", "way"),
    [
        ("0-dynamic", "0-dynamic", "nothing"),
        ("0-dynamic", "2-dynamic", "head"),
        ("2-dynamic", "1-dynamic", "head"),
        ("2-dynamic", "3-dynamic", "weights"),
        ("0-capacity", "1-capacity", "weights"),
        ("0-static", "1-static", "reload"),
        ("0-dynamic", "1-capacity", "reload"),
    ],
)
def test_the_cheapest_way_is_taken_and_answers_as_a_session_of_its_own(
    files, images, old, new, way
):
    old, new = files / f"{old}.onnx", files / f"{new}.onnx"
    with open_artifact(old) as session, open_artifact(new) as fresh:
        before = session.run(images)
        result = session.update(new)
        assert result.plan.way == way
        assert np.array_equal(session.run(images), fresh.run(images))
        assert (session.step, session.sha256) == (fresh.step, fresh.sha256)
        assert session.table == fresh.table
        if way != "nothing":
            assert result.golden_percent == 100
            assert np.array_equal(session.run_before(images), before)
            session.rollback()
            assert np.array_equal(session.run(images), before)
            assert session.path == old


def test_the_exchange_waits_until_its_caller_lets_go(files, images):
    with open_artifact(files / "0-dynamic.onnx") as session:
        between = threading.Lock()
        with between:
            thread = threading.Thread(
                target=lambda: session.update(files / "2-dynamic.onnx", between=between)
            )
            thread.start()
            sleep(0.5)
            assert session.step == 0  # ready since long
            with pytest.raises(UsageError):
                session.run_before(images)
        thread.join(30)
        assert session.step == 2


def test_a_plan_counts_what_has_to_travel(files):
    from edgeinc.deploy.plan_update import plan_update

    grown = plan_update(files / "0-dynamic.onnx", files / "2-dynamic.onnx")
    rows, positions, channels = 5, 4, 8
    assert (grown.way, grown.bytes) == ("head", 4 * rows * (positions * channels + 1))
    assert (grown.added, grown.removed) == (("car", "tree"), ())
    trained = plan_update(files / "2-dynamic.onnx", files / "3-dynamic.onnx")
    graph = onnx.load(files / "3-dynamic.onnx").graph
    floats = [t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert trained.bytes == sum(len(t.raw_data) for t in floats)
    assert "static head" in plan_update(files / "0-static.onnx", files / "1-static.onnx").reason
    engine = plan_update(files / "2-dynamic.onnx", files / "3-dynamic.onnx", runtime="tensorrt")
    assert engine.way == "rebuild"


def test_weights_in_the_same_graph_are_bit_equal_to_a_fresh_session(run, images, tmp_path):
    paths = [
        edgeinc.export(run, step=s, head="dynamic", output="both", out=tmp_path / f"{s}.onnx").path
        for s in (2, 3)
    ]
    with open_artifact(paths[0]) as session, open_artifact(paths[1]) as fresh:
        assert session.update(paths[1]).plan.way == "weights"
        assert session.logits(images).tobytes() == fresh.logits(images).tobytes()


def test_no_frame_is_lost_and_none_is_half_of_each(files, images):
    old, new = files / "0-dynamic.onnx", files / "2-dynamic.onnx"
    with open_artifact(old) as session, open_artifact(new) as fresh:
        right = {session.run(images).tobytes(): 0, fresh.run(images).tobytes(): 1}
        assert len(right) == 2
        served = asked_during_updates(session, images, right, (new, old) * 5)
    assert set(served) == {0, 1}


@pytest.mark.parametrize("version", ["8.6.1", "11.4.0"])
def test_an_engine_takes_rows_while_it_serves(files, images, machine, tmp_path, version):
    from edgeinc.deploy.build import build

    machine(version)
    shutil.copy(files / "0-dynamic.onnx", tmp_path / "0.onnx")
    engine = build(tmp_path / "0.onnx").path
    new = files / "2-dynamic.onnx"
    with open_artifact(engine) as session, open_artifact(new) as fresh:
        before = session.run(images)
        assert session.update(new).plan.way == "head"
        assert np.array_equal(session.run(images), fresh.run(images))
        assert session.table == fresh.table
        session.rollback()
        assert np.array_equal(session.run(images), before)
        with pytest.raises(UpdateError, match="built without replaceable weights"):
            session.update(files / "3-dynamic.onnx")
        with pytest.raises(UpdateError, match="needs an engine of its own"):
            session.update(files / "3-dynamic.onnx", at_most="rebuild")
        assert np.array_equal(session.run(images), before)


@pytest.mark.parametrize("version", ["8.6.1", "11.4.0"])
def test_an_engine_that_was_built_for_it_takes_every_later_step(
    files, images, machine, tmp_path, version
):
    from edgeinc.deploy.build import build

    machine(version)
    shutil.copy(files / "0-dynamic.onnx", tmp_path / "0.onnx")
    result = build(tmp_path / "0.onnx", refit="all")
    names = {name for name, _ in float_weights((files / "0-dynamic.onnx").read_bytes())}
    assert set(result.card.replaceable) == names
    with open_artifact(result.path) as session:
        for step, way in ((1, "head"), (3, "weights"), (2, "weights"), (1, "head")):
            new = files / f"{step}-dynamic.onnx"
            found = session.update(new)
            assert (found.plan.way, found.golden_percent) == (way, 100)
            with open_artifact(new) as fresh:
                assert np.array_equal(session.run(images), fresh.run(images))
                assert session.table == fresh.table


def test_an_update_is_measured_while_frames_are_asked_for(files):
    from edgeinc.deploy.plan_update import measure_update

    pair = (files / "0-dynamic.onnx", files / "2-dynamic.onnx")
    found = measure_update(*pair, threads=1, around_s=0.2)
    assert found.result.plan.way == "head"
    assert found.lost == 0
    assert found.frames > 5
    assert 0 < found.usual_ms <= 1000
    assert found.longest_ms > 0
    assert found.result.switch_ms < found.result.ready_ms < 1000


# ---------------------------------------------------------------------------------- refused


def renamed(model):
    kept = {p.key: p.value for p in model.metadata_props}
    onnx.helper.set_model_props(model, {**kept, "classes": kept["classes"].replace("sky", "sea")})


def not_finite(model):
    tensor = next(t for t in model.graph.initializer if t.name.endswith("conv.weight"))
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[7] = np.nan
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def other_weights(model):
    tensor = next(t for t in model.graph.initializer if t.name == "head.bias")
    golden = json.loads(next(p.value for p in model.metadata_props if p.key == "golden"))
    ids = np.frombuffer(zlib.decompress(base64.b64decode(golden["ids"])), np.uint8)
    values = np.zeros(onnx.numpy_helper.to_array(tensor).shape, np.float32)
    values[np.bincount(ids, minlength=4).argmin()] = 1e3  # wins everywhere
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def lost_tensor(model):
    next(t for t in model.graph.initializer if t.name.endswith("conv.weight")).name = "elsewhere"


@pytest.mark.parametrize(
    ("old", "new", "change", "message"),
    [
        ("0-dynamic", "2-dynamic", renamed, r"gives id 1 another meaning: it was sky .* sea"),
        ("2-dynamic", "3-dynamic", not_finite, r"values in .*conv.weight that are not finite"),
        ("0-capacity", "1-capacity", other_weights, "answers its golden question wrong"),
        ("2-dynamic", "3-dynamic", lost_tensor, r"has no .*conv.weight"),
        ("0-static", "1-static", lost_tensor, "cannot load"),
        ("0-dynamic", "2-dynamic", entries(head_bias="AAAA"), "is damaged: head_bias"),
        ("0-dynamic", "2-dynamic", entries(golden="{}"), "golden answer in the file is damaged"),
        ("0-dynamic", "2-dynamic", entries(size="[96, 64]"), r"size was \(64, 96\)"),
        ("0-dynamic", "2-dynamic", entries(answer="logits"), "answer was classes"),
    ],
)
def test_what_is_not_sound_is_refused_and_the_old_file_serves_on(
    files, images, tmp_path, old, new, change, message
):
    bad = changed(files / f"{new}.onnx", tmp_path / "bad.onnx", change)
    with open_artifact(files / f"{old}.onnx") as session:
        before, table = session.run(images), session.table
        with pytest.raises(UpdateError, match=message) as refused:
            session.update(bad)
        assert refused.value.exit_code == 5
        assert np.array_equal(session.run(images), before)
        assert session.table == table
        with pytest.raises(UsageError, match="nothing to go back to"):
            session.rollback()
        session.update(files / f"{new}.onnx")  # the sound one is taken after all


def test_truncated_weights_are_refused(files, images, tmp_path):
    whole = (files / "3-dynamic.onnx").read_bytes()
    bad = tmp_path / "bad.onnx"
    with open_artifact(files / "2-dynamic.onnx") as session:
        before = session.run(images)
        for share in (0.3, 0.7, 0.999):
            bad.write_bytes(whole[: int(share * len(whole))])
            with pytest.raises(EdgeincError):
                session.update(bad)
        assert np.array_equal(session.run(images), before)


def test_a_card_of_another_file_is_refused(files, run, tmp_path):
    path = Path(edgeinc.export(run, step=3, head="dynamic", out=tmp_path / "3.onnx").path)
    path.write_bytes((files / "2-dynamic.onnx").read_bytes())
    with (
        open_artifact(files / "0-dynamic.onnx") as session,
        pytest.raises(EdgeincError, match="is not the file its card describes"),
    ):
        session.update(path)


def test_no_dearer_way_than_allowed_is_taken(files):
    with open_artifact(files / "2-dynamic.onnx") as session:
        with pytest.raises(UpdateError, match="needs more than the way that is allowed, head"):
            session.update(files / "3-dynamic.onnx", at_most="head")
        assert session.update(files / "1-dynamic.onnx", at_most="head").plan.way == "head"


# ---------------------------------------------------------------------------------- its parts


def test_what_a_file_says_is_read_as_onnx_reads_it(files):
    path = files / "1-capacity.onnx"
    model = onnx.load(path)
    assert metadata(path.read_bytes()) == {p.key: p.value for p in model.metadata_props}
    expected = {
        t.name: onnx.numpy_helper.to_array(t)
        for t in model.graph.initializer
        if t.data_type == onnx.TensorProto.FLOAT
    }
    found = dict(float_weights(path.read_bytes()))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[n], v.ravel()) for n, v in expected.items())


def test_the_golden_image_is_the_same_everywhere():
    """By the formula, in plain integers: not by numpy's."""
    made = _golden.image((40, 64), 3)[0]
    for y, x, c in ((0, 0, 0), (17, 33, 1), (39, 63, 2)):
        mixed = (y // 16) * 73856093 % 2**32 ^ (x // 16) * 19349663 % 2**32
        mixed ^= c * 83492791 % 2**32 ^ 3 * 2654435761 % 2**32
        mixed = mixed * 2246822519 % 2**32
        assert made[y, x, c] == (mixed ^ mixed >> 15) % 200 + (y % 16 + x % 16) * 55 // 30
    assert not np.array_equal(made, _golden.image((40, 64), 4)[0])


def test_a_file_that_is_none_is_named(tmp_path):
    """Also where its name holds a word of the message."""
    path = tmp_path / "this" / "is.onnx"
    path.parent.mkdir()
    path.write_bytes(b"\x0a\xff")
    with pytest.raises(EdgeincError, match="is not an ONNX file") as caught:
        edgeinc.open_artifact(path)
    assert caught.value.message.startswith(f"{path} is not an ONNX file: ")
