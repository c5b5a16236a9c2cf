"""What only a CUDA device can show: `make test-gpu` on a machine that has one."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import edgeinc
from edgeinc.runs import open_run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_extension_trains_on_the_device_in_every_precision(base_run, precision):
    step = edgeinc.extend(
        base_run, new_classes=["car"], method="cil", device="cuda", precision=precision
    ).steps[0]
    assert step.host.gpu
    run = open_run(base_run)
    assert all(np.isfinite(row["loss"]) for row in run.metrics(1))
    old, new = load_file(run.weights(0)), load_file(run.weights(1))
    assert not torch.equal(old["head.0.weight"], new["head.0.weight"])


def test_session_on_the_device_agrees_with_the_cpu(base_run):
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    answers = []
    for device in ("cpu", "cuda"):
        with edgeinc.open_artifact(base_run, device=device) as session:
            assert session.provider.startswith(device)
            answers.append(session.run(images))
    assert (answers[0] == answers[1]).mean() > 0.999


def test_compiled_network_trains(base_run):
    edgeinc.extend(base_run, new_classes=["car"], method="cil", device="cuda", compile=True)
    assert len(open_run(base_run).steps) == 2
