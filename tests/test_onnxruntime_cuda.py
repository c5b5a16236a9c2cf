"""ONNX Runtime on CUDA: what lies on the GPU is bound to its address and not copied.

There is no GPU here: the session computes on the CPU and says that it is CUDA, and a value for the
GPU is one of the host, with a note of where it was asked for.
"""

import numpy as np
import pytest
from engines import classifier, expected, scenes, write_artifact

from edgeinc.runtimes import open_artifact

ort = pytest.importorskip("onnxruntime")
CUDA = "CUDAExecutionProvider"


class Binding:
    """A real binding, of which outputs on the GPU are on the host."""

    def __init__(self, session, asked):
        self.real, self.asked, self.waited = ort.IOBinding(session), asked, 0

    def bind_ortvalue_input(self, name, value):
        self.real.bind_ortvalue_input(name, value)

    def bind_output(self, name, device_type, device_id):
        self.asked.append((name, device_type, device_id))
        self.real.bind_output(name, "cpu", 0)

    def synchronize_outputs(self):
        self.waited += 1


class Session(ort.InferenceSession):
    """One that says it is on CUDA."""

    bindings = asked = None
    runs = 0

    def __init__(self, content, options, providers):
        assert providers[0][0] == CUDA
        super().__init__(content, options, providers=["CPUExecutionProvider"])

    def get_providers(self):
        return [CUDA, "CPUExecutionProvider"]

    def io_binding(self):
        self.bindings.append(Binding(self, self.asked))
        return self.bindings[-1]

    def run_with_iobinding(self, binding):
        type(self).runs += 1
        super().run_with_iobinding(binding.real)


@pytest.fixture
def cuda(monkeypatch):
    real = ort.OrtValue.ortvalue_from_numpy

    def place(array, device_type="cpu", device_id=0):
        Session.asked.append((array.shape, device_type, device_id))
        return real(array)

    monkeypatch.setattr(Session, "bindings", [])
    monkeypatch.setattr(Session, "asked", [])
    monkeypatch.setattr(Session, "runs", 0)
    monkeypatch.setattr(ort, "InferenceSession", Session)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr(ort.OrtValue, "ortvalue_from_numpy", place)
    return Session


def test_a_prepared_call_computes_what_lies_on_the_gpu(cuda, tmp_path):
    images = scenes(3)
    with open_artifact(write_artifact(tmp_path), device="cuda:1") as session:
        call = session.prepared(images)
        assert cuda.asked == [((1, *images.shape[1:]), "cuda", 1), ("classes", "cuda", 1)] * 3
        assert cuda.runs == 0
        call()
        call()
        assert cuda.runs == 6
        assert [binding.waited for binding in cuda.bindings] == [2, 2, 2]
    found = np.concatenate([b.real.copy_outputs_to_cpu()[0] for b in cuda.bindings])
    assert np.array_equal(found, expected(images, *classifier(3)))


def test_on_a_cpu_it_is_run(tmp_path):
    images = scenes(3)
    with open_artifact(write_artifact(tmp_path), device="cpu") as session:
        assert np.array_equal(session.prepared(images)(), expected(images, *classifier(3)))
