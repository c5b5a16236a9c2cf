"""Real networks with every defect on the real runtime: condemned with a reason, the old one serves.

The files are right in all that can be signed; only running them shows what is wrong.
"""

import os
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from devices import GATES
from networks import SIZE, brightest, network
from stations import step_of

from edgeinc.runtimes import _golden
from edgeinc.update.probe import probe

pytest.importorskip("onnxruntime")


def int_constant(helper, types, name, values, kind="INT32"):
    tensor = helper.make_tensor(name, getattr(types, kind), [len(values)], values)
    return helper.make_node("Constant", [], [name], value=tensor)


def divides_by_zero(helper, types):
    """What the runtime refuses while it computes."""
    return [
        helper.make_node("Cast", ["images"], ["whole"], to=types.INT32),
        helper.make_node("Sub", ["whole", "whole"], ["nothing"]),
        helper.make_node("Div", ["whole", "nothing"], ["broken"]),
        helper.make_node("Cast", ["broken"], ["weighed"], to=types.FLOAT),
        helper.make_node("Mul", ["weighed", "weights"], ["scores"]),
    ]


def looping(turns):
    """Scores that are computed again and again."""

    def scored(helper, types):
        value = helper.make_tensor_value_info
        body = helper.make_graph(
            [
                helper.make_node("Identity", ["again"], ["on"]),
                helper.make_node("Neg", ["before"], ["after"]),
            ],
            "body",
            [
                value("turn", types.INT64, []),
                value("again", types.BOOL, []),
                value("before", types.FLOAT, None),
            ],
            [value("on", types.BOOL, []), value("after", types.FLOAT, None)],
        )
        tensor = helper.make_tensor("turns", types.INT64, [], [turns])
        return [
            helper.make_node("Constant", [], ["turns"], value=tensor),
            helper.make_node("Mul", ["floats", "weights"], ["begin"]),
            helper.make_node("Loop", ["turns", "", "begin"], ["scores"], body=body),
        ]

    return scored


def takes_memory(helper, types):
    """A gigabyte of floats beside the scores."""
    return [
        int_constant(helper, types, "shape", [256, 1 << 20], "INT64"),
        helper.make_node("Slice", ["weights", "zero", "one"], ["first"]),
        int_constant(helper, types, "zero", [0], "INT64"),
        int_constant(helper, types, "one", [1], "INT64"),
        helper.make_node("ReduceMax", ["floats"], ["least"], keepdims=0),
        helper.make_node("Expand", ["least", "shape"], ["much"]),
        helper.make_node("Neg", ["much"], ["more"]),
        helper.make_node("ReduceSum", ["more"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "weights"], ["scaled"]),
        helper.make_node("Mul", ["floats", "scaled"], ["scores"]),
    ]


def says_one_class(helper, types):
    return [
        helper.make_node("Mul", ["floats", "weights"], ["weighed"]),
        helper.make_node("Sub", ["weighed", "weighed"], ["scores"]),
    ]


def makes_nan(helper, types):
    """Finite weights, and zero through zero in all that is computed with them."""
    return [
        helper.make_node("Sub", ["floats", "floats"], ["nothing"]),
        helper.make_node("Div", ["nothing", "nothing"], ["nan"]),
        helper.make_node("Mul", ["nan", "weights"], ["scores"]),
    ]


ASKED = _golden.ask(brightest, SIZE)
SOUND = network((1, 1, 1), golden=ASKED)

DEFECTS = {
    "fails while it computes": ({"scored": divides_by_zero}, {}, {}, "ended"),
    "hangs": ({"scored": looping(2**62)}, {}, {"timeout_s": 3.0}, "took more than 3 s"),
    "takes all memory": (
        {"scored": takes_memory},
        {},
        {"memory_bytes": 700 << 20},
        "MB of memory",
    ),
    "is slow": ({"scored": looping(3_000)}, {"max_p95_ms": 1.0}, {}, "the gate is 1.0 ms"),
    "has weights that are NaN": ({"weights": (1, np.nan, 1)}, {}, {}, "not finite"),
    "computes NaN": ({"scored": makes_nan}, {}, {}, "one class to 100.0 %"),
    "says one class": ({"scored": says_one_class}, {}, {}, "one class to 100.0 %"),
    "says ids that are no class": ({"classes": 2}, {}, {}, "no class"),
    "decides otherwise than when it was exported": (
        {"weights": (1, 1, 9), "golden": ASKED},
        {},
        {},
        "golden answers are wrong",
    ),
    "runs on another provider": (
        {"golden": ASKED},
        {"providers": ("TensorrtExecutionProvider",)},
        {},
        "only TensorrtExecutionProvider is allowed",
    ),
    "cannot be loaded": (None, {}, {}, ""),
}


@pytest.mark.parametrize(
    ("network_of", "gates", "limits", "words"), DEFECTS.values(), ids=DEFECTS.keys()
)
def test_a_network_that_does_this_is_condemned(station, network_of, gates, limits, words):
    if network_of is None:
        content = SOUND[: len(SOUND) // 2]
    else:
        content = network(**{"weights": (1, 1, 1), **network_of})
    before = station.serves
    bad = step_of(2, content, gates=replace(GATES, **gates))
    station.publish(bad)
    with station.refusing("UNHEALTHY") as caught:
        station.update(prove=partial(probe, **limits))
    assert words in caught.value.message
    found = station.state
    assert [(b.step, b.by) for b in found.bad] == [(2, "probe")]
    assert words in found.bad[0].why
    assert not (station.root / "slots" / bad.id).exists()

    def never(*_):
        raise AssertionError("what was condemned is not run again")

    with station.refusing("UNHEALTHY"):
        station.update(prove=never)
    assert station.serves == before


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_a_network_that_takes_its_process_down_is_condemned(station, tmp_path, monkeypatch):
    """A library that crashes is a real signal in a real process; which network does it varies."""
    (tmp_path / "crashes.py").write_text("import os; os.kill(os.getpid(), 11)")
    monkeypatch.setattr("edgeinc.update.probe.CHILD", "crashes")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    station.publish(step_of(2, SOUND))
    with station.refusing("UNHEALTHY") as caught:
        station.update(prove=probe)
    assert "SIGSEGV" in caught.value.message
    assert [b.step for b in station.state.bad] == [2]


def test_a_corrected_step_is_proven_by_the_same_probe(station):
    station.publish(step_of(2, network((1, np.nan, 1))))
    with station.refusing("UNHEALTHY"):
        station.update(prove=probe)
    good = step_of(3, SOUND)
    station.publish(good)
    outcome = station.update(prove=probe)
    assert (outcome.change, outcome.step, outcome.proof) == ("committed", 3, "probe")
    assert station.serves == good.artifact
