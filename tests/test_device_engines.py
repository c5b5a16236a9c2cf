"""A device that computes with engines: built once, refitted where they can be, exchanged if not.

TensorRT is the behavioural fake, which executes what an engine was built from; everything else is
real: the repository, the agent, the build and the probe in their processes, the server.
"""

import json
import os
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from engines import machine
from live import BASE, FRAMES, GROWN, Fleet, network
from test_serve import beside, stream, updated

from edgeinc.update import engines
from edgeinc.update.refusal import Refusal
from edgeinc.update.server import Server

__all__ = ["machine"]

OTHER = BASE[:, [1, 0, 2]]
"""The same graph with other weights: red and green change places."""


class OnTensorRT(Fleet):
    def config(self):
        return replace(super().config(), runtime="tensorrt", provider="auto")


@pytest.fixture
def fleet(tmp_path, keys, machine):
    machine("10.16.1")
    fleet = OnTensorRT(tmp_path, keys)
    fleet.publish(1, network(BASE, step=1), count=3)
    return fleet


def built(fleet):
    """The engines that are there: the bundles they were built from, and when."""
    folder = fleet.root / engines.ENGINES
    return {e.parent.name: e.stat().st_mtime_ns for e in folder.glob(f"*/{engines.ENGINE}")}


def ids(server):
    return server.answer(FRAMES[0]).ids[0, ::17].tolist()


def test_the_first_step_is_built_and_served(fleet):
    assert fleet.install().change == "committed"
    with Server(fleet.root) as server:
        assert ids(server) == [0, 1, 0]
    card = json.loads(next(fleet.root.glob("engines/*/model.engine.json")).read_text())
    assert card["refit"] == "all"


def test_other_weights_go_into_the_engine_that_is_there(fleet):
    """No build, no frame lost; also after the server starts anew, with the first slot gone."""
    fleet.install()
    before = built(fleet)
    with Server(fleet.root) as server:
        for step, matrix in ((2, OTHER), (3, BASE), (4, OTHER)):
            fleet.publish(step, network(matrix, step=step), count=3)
            answers, outcome = updated(server, fleet)
            assert (outcome.change, outcome.proof) == ("committed", "trial")
            assert all(answers)
            assert server.exchanges[-1].way == "weights"
        assert ids(server) == [1, 0, 0]
    assert built(fleet) == before
    with Server(fleet.root) as server:
        assert ids(server) == [1, 0, 0]


def test_another_graph_gets_an_engine_of_its_own(fleet):
    """It is built while the old one serves; rolled back by hand, the old engine serves again."""
    fleet.install()
    (first,) = built(fleet)
    fleet.publish(2, network(GROWN, step=2), count=4)
    with Server(fleet.root) as server:
        answers, outcome = updated(server, fleet)
        assert outcome.change == "committed"
        assert all(answers)
        assert [answer.step for answer in answers] == sorted(answer.step for answer in answers)
        assert server.exchanges[-1].way == "reload"
        assert ids(server) == [0, 1, 3]
        assert set(built(fleet)) == {first, outcome.bundle_id}
        fleet.device().rollback()
        stream(server, lambda: server.bundle.step == 1)
        assert ids(server) == [0, 1, 0]
    with Server(fleet.root) as server:
        assert ids(server) == [0, 1, 0]


def test_a_graph_that_is_worse_leaves_the_old_engine_serving(fleet):
    """It breaks on a frame of the trial."""
    fleet.install()
    fleet.publish(2, network(GROWN, step=2, breaks=True), count=4)
    bright = np.full_like(FRAMES, 255)
    with Server(fleet.root) as server:
        ended, outcome = beside(fleet.update)
        answers = stream(server, ended, frames=bright)
        refusal = outcome()
        assert isinstance(refusal, Refusal)
        assert refusal.reason == "UNHEALTHY"
        assert "trial" in refusal.message
        assert all(answers)
        assert {answer.step for answer in answers} == {1}
        assert ids(server) == [0, 1, 0]


@pytest.mark.parametrize("harm", ["gone", "changed", "of another machine"])
def test_an_engine_that_cannot_be_used_is_built_again(fleet, machine, harm):
    fleet.install()
    (engine,) = fleet.root.glob("engines/*/model.engine")
    if harm == "gone":
        engine.unlink()
    elif harm == "changed":
        content = bytearray(engine.read_bytes())
        content[len(content) // 2] ^= 1
        engine.write_bytes(content)
    else:
        machine("11.4.0")
    said = []
    with Server(fleet.root, message=said.append) as server:
        assert ids(server) == [0, 1, 0]
    assert "building one, which takes minutes" in said[0]
    said.clear()
    with Server(fleet.root, message=said.append) as server:
        assert ids(server) == [0, 1, 0]
    assert said == []


def test_what_cannot_be_built_here_is_tried_again_later(fleet, machine):
    """A build that fails says nothing against the bundle: it is not condemned."""
    fleet.install()
    fleet.publish(2, network(GROWN, step=2), count=4)
    machine("10.16.1", build="not enough memory")
    with pytest.raises(Refusal, match="not enough memory") as refused:
        fleet.update()
    assert refused.value.reason == "DEFERRED"
    machine("10.16.1")
    assert fleet.update(retry=True).change == "committed"


def mine(process):
    """Whether a process was started by this test; others run beside it."""
    try:
        return "edgeinc.deploy._build_child" in process.cmdline() and (
            process.environ()["EDGEINC_CACHE"] == os.environ["EDGEINC_CACHE"]
        )
    except Exception:  # it ended meanwhile, or is another user's
        return False


def test_a_build_that_hangs_ends_with_all_its_processes(fleet, machine, monkeypatch):
    psutil = pytest.importorskip("psutil")
    fleet.install()
    fleet.publish(2, network(GROWN, step=2), count=4)
    machine("10.16.1", hang=60)
    monkeypatch.setattr(engines, "BUILD_LIMIT_S", 2.0)
    with pytest.raises(Refusal, match="not built within 2 s"):
        fleet.update()
    assert not [p for p in psutil.process_iter() if mine(p)]


def test_weights_that_are_refitted_wrong_get_an_engine_of_their_own(fleet, machine):
    """What TensorRT 11.3 is documented to do: the golden answer finds it, a build mends it."""
    fleet.install()
    fleet.publish(2, network(OTHER, step=2, bias=[0, 0, 80]), count=3)
    machine("10.16.1", fault="refitted wrong")
    assert fleet.update().change == "committed"
    with Server(fleet.root) as server:
        assert ids(server) == [1, 0, 0]
    assert len(built(fleet)) == 2


def test_engines_of_bundles_that_are_gone_are_removed(fleet):
    """That of the bundle before stays, for a rollback."""
    fleet.install()
    matrix, found = BASE, []
    for step in (2, 3, 4):
        matrix = np.column_stack([matrix, np.zeros(3)])
        fleet.publish(step, network(matrix, step=step), count=matrix.shape[1])
        fleet.update()
        found.append(len(built(fleet)))
    assert found == [2, 2, 2]
