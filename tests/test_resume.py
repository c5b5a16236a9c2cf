"""Every method continues a step that died to the bytes of one that did not."""

import shutil

import numpy as np
import pytest
import torch

import edgeinc
from edgeinc import registry
from edgeinc.data._synth import synth
from edgeinc.runs import open_run
from edgeinc.training import execute
from edgeinc.training.state import State

SIZE = (32, 64)
QUICK = {"batch_size": 2, "limit": 4, "precision": "fp32", "threads": 1, "workers": 0}
OPTIONS = {
    "hrhf": ["method.per_class=3", "method.batch=8", "method.iterations=1"],
    "rw": ["method.every=2"],
}
"""Of methods that would prepare for long, or not get round to something in so few iterations."""


class Died(BaseException):
    """The end of a process, as nothing in it can catch it."""


@pytest.fixture(scope="module")
def tiny_data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "tiny"
    synth(root, n=20, size=SIZE, seed=0)
    (root / "val.txt").unlink()  # a score is not what this is about
    return root


@pytest.fixture(scope="module")
def bases(tiny_data, tmp_path_factory):
    """Runs of one step by network, background and the method that trained it, made when asked."""
    folder, made = tmp_path_factory.mktemp("bases"), {}

    def base(network, background, method):
        key = f"{network}-{background}-{method}"
        if key not in made:
            made[key] = folder / key
            edgeinc.train(
                tiny_data,
                classes=["road", "sky", "building"],
                model=network,
                background=background,
                method=method,
                size=SIZE,
                run=made[key],
                sets=["model.width=0.125", *OPTIONS.get(method, ())],
                epochs=1,
                **QUICK,
            )
        return made[key]

    return base


def dies_in_its_second_epoch(monkeypatch, attempt):
    """An attempt that ends where it is about to save its state for the second time."""
    save, calls = State.save, []

    def first_save(state, *arguments):
        calls.append(state)
        if len(calls) == 2:
            raise Died
        save(state, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(State, "save", first_save)
        with pytest.raises(Died):
            attempt()
    torch.manual_seed(99)  # another process would have other random numbers
    np.random.seed(99)


def dies_at_its_close(monkeypatch, attempt):
    """An attempt that ends when all is trained and closed, just before its weights are written."""
    write = execute.write_atomic

    def last_write(path, content):
        if path.name == "weights.safetensors":
            raise Died
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(execute, "write_atomic", last_write)
        with pytest.raises(Died):
            attempt()


def kept(run):
    """Weights, the method's memory and what was logged of the extension."""
    memory = run.memory(1)
    timing = ("seconds", "wait_s")
    logged = [{k: v for k, v in row.items() if k not in timing} for row in run.metrics(1)]
    return run.weights(1).read_bytes(), memory and memory.read_bytes(), logged


CASES = [
    pytest.param(method, network, own, marks=pytest.mark.slow if network == "bisenet" else ())
    for method in registry.names("methods")
    for network in ("erfnet", "bisenet")
    for own in ([True, False] if registry.load("methods", method).prepares else [False])
]
"""Method, network, and whether step 0 was trained by the method or by plain training."""


@pytest.mark.parametrize(("method", "network", "own"), CASES)
def test_a_step_that_died_twice_ends_in_the_bytes_of_an_unbroken_one(
    bases, tmp_path, monkeypatch, method, network, own
):
    plugin = registry.load("methods", method)
    background = "none" if "none" in plugin.backgrounds else "virtual"
    base = bases(network, background, method if own else "finetune")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for run in (whole, broken):
        shutil.copytree(base, run)

    def extend(run, **options):
        edgeinc.extend(
            run,
            new_classes=["tree", "car"],
            method=method,
            sets=OPTIONS.get(method, ()),
            labels="new-and-old" if plugin.labels == "new-and-old" else None,
            epochs=2,
            **QUICK,
            **options,
        )

    extend(whole)
    dies_in_its_second_epoch(monkeypatch, lambda: extend(broken))
    dies_at_its_close(monkeypatch, lambda: extend(broken, resume=True))
    assert open_run(broken).pending.index == 1
    extend(broken, resume=True)

    expected, found = kept(open_run(whole)), kept(open_run(broken))
    assert found[2] == expected[2]
    assert len(found[2]) == 4
    assert found[:2] == expected[:2]
    if own and method not in ("ssul", "lwf_mc"):  # what these prepare is part of the network
        assert found[1]
    assert found[0] != open_run(base).weights(0).read_bytes()
