"""OpenVINO: named precision, every form of a file, and a crash of the library is one line."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

import edgeinc
from edgeinc import host
from edgeinc.errors import EdgeincError, MissingError
from edgeinc.runtimes import _first_load, open_artifact, openvino

SIZE = (64, 96)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    monkeypatch.setattr("edgeinc.host.cores", lambda: 1)


def scenes(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 8, 12, 3), np.uint8).repeat(8, 1).repeat(8, 2)


@pytest.mark.parametrize(
    "form",
    [
        {"head": "dynamic", "output": "both"},
        {"head": "capacity", "capacity": 9, "output": "logits"},
        {"dynamic_batch": (2, 2, 3), "output": "both"},
        {"input": "float"},
    ],
    ids=["dynamic", "capacity", "batch", "float"],
)
def test_every_form_of_a_file_gives_what_onnxruntime_gives(base_run, form):
    result = edgeinc.export(base_run, **form)
    Path(result.path).with_suffix(".json").unlink()  # what the file itself tells is enough
    images = scenes(4)
    with (
        open_artifact(result.path, runtime="openvino", threads=1) as session,
        open_artifact(result.path, threads=1) as other,
    ):
        assert (session.runtime, other.runtime) == ("openvino", "onnxruntime")
        assert session.table.names == ("road", "sky", "building")
        ids = session.run(images)
        assert ids.shape == (4, *SIZE)
        assert np.mean(ids == other.run(images)) > 0.999
        if form.get("output"):
            logits = session.logits(images)
            assert logits.shape == (4, 3, *SIZE)
            np.testing.assert_allclose(logits, other.logits(images), atol=1e-3)


@pytest.mark.skipif(not host.computes_bf16(), reason="the processor has no bf16")
def test_f32_is_f32_and_bf16_is_what_it_is_called(base_run):
    """Mantissas of 8 bits leave errors of about 2^-9; f32 leaves none that large."""
    result = edgeinc.export(base_run, output="logits")
    images = scenes(2)
    with open_artifact(base_run, runtime="torch", device="cpu", threads=1) as network:
        expected = network.logits(images)
    errors = {}
    for name in ("openvino", "openvino_bf16"):
        with open_artifact(result.path, runtime=name, threads=1) as session:
            errors[session.precision] = np.abs(session.logits(images) - expected).max()
    scale = np.abs(expected).max()
    assert errors["fp32"] < 1e-4 * scale < errors["bf16"] < 0.1 * scale


def test_bf16_is_not_offered_where_the_processor_has_none(monkeypatch):
    monkeypatch.setattr("edgeinc.host.computes_bf16", lambda: False)
    from edgeinc.registry import load

    state = load("runtimes", "openvino_bf16").availability()
    assert not state.ok
    assert "bf16" in state.reason
    assert load("runtimes", "openvino").availability().ok


@pytest.fixture
def exported(base_run, tmp_path, monkeypatch):
    """A file whose first load is still ahead."""
    monkeypatch.setenv("EDGEINC_CACHE", str(tmp_path / "cache"))
    return edgeinc.export(base_run).path


def test_a_crash_while_loading_is_one_line_and_not_ours(exported, monkeypatch):
    monkeypatch.setattr(openvino, "CHILD", "import ctypes; ctypes.string_at(0)")
    for _ in range(2):  # a crash is no verdict that is kept
        with pytest.raises(EdgeincError, match=r"SIGSEGV.*step-0\.fp32\.onnx") as caught:
            open_artifact(exported, runtime="openvino", threads=1)
        assert f"OpenVINO {host.installed('openvino')}" in caught.value.message
        assert "\n" not in caught.value.message
        assert caught.value.hint


def test_what_openvino_says_of_a_file_it_cannot_load_is_passed_on(exported, monkeypatch):
    monkeypatch.setattr(openvino, "CHILD", "raise SystemExit('operator Foo is unknown')")
    with pytest.raises(EdgeincError, match="operator Foo is unknown"):
        open_artifact(exported, runtime="openvino", threads=1)


def test_a_load_that_never_ends_is_given_up(exported, monkeypatch):
    monkeypatch.setattr(openvino, "CHILD", "import time; time.sleep(60)")
    monkeypatch.setattr(_first_load, "TIMEOUT_S", 0.5)
    with pytest.raises(EdgeincError, match=r"0\.5 s"):
        open_artifact(exported, runtime="openvino", threads=1)


def test_the_child_runs_once_for_a_file_and_again_for_another_version(exported, monkeypatch):
    started = []
    run = subprocess.run

    def counted(command, **kwargs):
        started.append(command)
        return run(command, **kwargs)

    monkeypatch.setattr(_first_load.subprocess, "run", counted)
    for _ in range(2):
        open_artifact(exported, runtime="openvino", threads=1).close()
    assert len(started) == 1
    monkeypatch.setattr("edgeinc.host.installed", lambda package: "1999.1")
    open_artifact(exported, runtime="openvino", threads=1).close()
    assert len(started) == 2
    assert started[0][0] == sys.executable


def test_a_cache_that_cannot_be_written_costs_time_only(exported, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGEINC_CACHE", str(tmp_path / "file"))
    with open_artifact(exported, runtime="openvino", threads=1) as session:
        assert session.run(scenes(1)).shape == (1, *SIZE)


def test_only_the_cpu_is_taken(exported):
    with pytest.raises(MissingError, match="CPU only"):
        open_artifact(exported, runtime="openvino", device="cuda")
