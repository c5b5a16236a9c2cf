"""What a device pays for an opened artifact: no torch, and little memory."""

import json
import runpy
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

LIMIT_MB = 250


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell")
def test_a_device_opens_erfnet_without_torch_in_little_memory(
    python, repository, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(repository / "benchmarks")
    monkeypatch.setattr("edgeinc.host.cores", lambda: 1)
    benchmark = runpy.run_path(str(repository / "benchmarks" / "device_start.py"))
    path = benchmark["artifact"](tmp_path, "360x480")
    assert path.stat().st_size > 8e6  # 2.1 million weights: not a small one
    done = python("-c", benchmark["CHILD"], path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["heavy"] == []
    assert 20 < told["resident_mb"] <= told["peak_mb"] < LIMIT_MB
