"""What a device serves changes between two frames, and goes back by itself when it is worse."""

import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from live import BASE, FRAMES, GROWN, QUICK, Fleet, network

from edgeinc.errors import EdgeincError, UsageError
from edgeinc.update import journal, serving, slots
from edgeinc.update.refusal import Refusal
from edgeinc.update.server import Server
from edgeinc.update.status import status

YELLOW = (slice(None), slice(34, None))


@pytest.fixture(scope="module")
def nets():
    """Exports by name, made once."""
    return {
        "base": network(BASE, step=1),
        "grown": network(GROWN, step=2),
        "breaks": network(GROWN, step=2, breaks=True),
        "swapped": network(GROWN[:, [1, 0, 2, 3]], step=2),
    }


@pytest.fixture(scope="module")
def _installed(tmp_path_factory, keys, nets):
    fleet = Fleet(tmp_path_factory.mktemp("installed"), keys)
    fleet.publish(1, nets["base"], count=3)
    fleet.install()
    return fleet


@pytest.fixture
def fleet(_installed, tmp_path):
    """A device that serves step 1, which has three classes."""
    return _installed.copied(tmp_path)


def stream(server, done, *, frames=FRAMES):
    """Answer frames at full speed until `done()`; every answer."""
    answers, end = [], time.monotonic() + 60
    while not done():
        assert time.monotonic() < end
        answers.append(server.answer(frames[len(answers) % len(frames)]))
        time.sleep(0.002)  # a camera leaves the agent some of the time
    return answers


def beside(act):
    """Run in a thread; a function that says whether it ended, and one that gives what it gave."""
    found = []

    def run():
        try:
            found.append(act())
        except EdgeincError as err:
            found.append(err)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return lambda: not thread.is_alive(), lambda: found[0]


def updated(server, fleet, **how):
    """Stream while the agent updates; the answers and what came of it."""
    ended, outcome = beside(lambda: fleet.update(**how))
    return stream(server, ended), outcome()


def test_no_frame_is_lost_while_a_step_that_adds_a_class_is_taken(fleet, nets):
    fleet.publish(2, nets["grown"], count=4)
    with Server(fleet.root) as server:
        answers, outcome = updated(server, fleet)
        said = serving.heard(fleet.root)
        assert (outcome.change, outcome.step, outcome.proof) == ("committed", 2, "trial")
        assert (said.verdict, said.faults, server.faults) == ("good", 0, 0)
        assert None not in answers
        assert len(answers) == server.frames
        # Every answer is of the old or of the new bundle, and it changed once.
        steps = [answer.step for answer in answers]
        (exchange,) = server.exchanges
        assert steps == [1] * exchange.frame + [2] * (len(steps) - exchange.frame)
        for answer in answers:
            assert (answer.ids[YELLOW] == (3 if answer.step == 2 else 0)).all()
            assert len(answer.table.classes) == (4 if answer.step == 2 else 3)
        assert (exchange.verdict, exchange.way) == ("good", "reload")
        assert 0 < exchange.gap_ms < 1000
    assert serving.heard(fleet.root) is None


def test_answers_have_the_size_of_their_frame(fleet):
    with Server(fleet.root) as server:
        answer = server.answer(np.zeros((90, 70, 3), np.uint8))
        assert answer.ids.shape == (90, 70)


@pytest.mark.parametrize(
    ("name", "gates", "why"),
    [
        ("breaks", QUICK, "after 0 frames"),
        ("swapped", replace(QUICK, min_agreement_old_percent=90.0), "decided as before"),
        ("grown", replace(QUICK, max_single_class_percent=30.0), "of all pixels"),
    ],
)
def test_a_step_that_is_worse_on_frames_is_left_and_the_reason_is_kept(
    fleet, nets, name, gates, why
):
    bad = fleet.publish(2, nets[name], count=4, gates=gates)
    with Server(fleet.root) as server:
        answers, outcome = updated(server, fleet)
        assert isinstance(outcome, Refusal)
        assert outcome.reason == "UNHEALTHY"
        assert why in outcome.message
        assert None not in answers
        assert answers[-1].step == 1
        assert server.faults == 0
        assert server.exchanges[0].verdict == "bad"
        assert journal.load(fleet.root).bad[0].bundle_id == bad
        told = status(fleet.root)
        assert why in told.bad[0].why
        assert told.served.step == 1
        # It goes on, and does not try again.
        again, outcome = updated(server, fleet)
        assert "condemned here by trial" in outcome.message
        assert {answer.step for answer in again} == {1}


def test_a_rollback_by_hand_is_served_between_two_frames(fleet, nets):
    fleet.publish(2, nets["grown"], count=4)
    from edgeinc.update.device import Device

    with Server(fleet.root) as server:
        updated(server, fleet)
        for step in (1, 2, 1):
            Device(fleet.root).rollback()
            stream(server, lambda wanted=step: server.bundle.step == wanted)
            assert server.answer(FRAMES[0]).ids[0, -1] == (3 if step == 2 else 0)
        assert server.faults == 0


def test_a_server_that_starts_during_a_trial_serves_what_was_committed(fleet, nets):
    new = fleet.publish(2, nets["grown"], count=4)
    cut_off = Server(fleet.root)
    beside(fleet.update)
    stream(cut_off, lambda: cut_off.bundle.bundle_id == new)
    cut_off.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert journal.load(fleet.root).trial.bundle.bundle_id == new
    with Server(fleet.root) as server:
        stream(server, lambda: server.frames > 300)
        assert server.bundle.step == 1


def test_one_server_at_a_time_serves_from_a_folder(fleet):
    with Server(fleet.root):
        with pytest.raises(Refusal, match="another process serves") as found:
            Server(fleet.root)
        assert found.value.reason == "BUSY"
        assert serving.heard(fleet.root) is not None
    Server(fleet.root).close()


def test_a_server_that_ended_before_its_first_frame_is_waited_for_by_nobody(fleet, nets):
    with pytest.raises(KeyboardInterrupt), Server(fleet.root):
        raise KeyboardInterrupt
    assert serving.heard(fleet.root) is None
    fleet.publish(2, nets["grown"], count=4)
    assert fleet.update().proof == "probe"


def test_a_server_that_could_not_lock_at_first_is_known_later(fleet, monkeypatch):
    from edgeinc.update import server as module

    real, full = module.alone, [OSError(28, "No space left on device")]

    @contextmanager
    def alone(*given, **how):
        if full:
            raise full.pop()
        with real(*given, **how):
            yield

    monkeypatch.setattr(module, "alone", alone)
    with Server(fleet.root) as server:
        server.answer(FRAMES[0])
        assert serving.is_running(fleet.root, serving.heard(fleet.root))
        with pytest.raises(Refusal, match="another process serves"):
            Server(fleet.root)


def test_a_server_that_cannot_begin_leaves_its_place_to_the_next(fleet):
    file = next(fleet.root.glob("slots/*/model.onnx"))
    content = file.read_bytes()
    file.write_bytes(b"worn")
    with pytest.raises(Refusal, match="damaged"):
        Server(fleet.root)
    file.write_bytes(content)
    Server(fleet.root).close()


@pytest.mark.parametrize("name", [slots.MODEL, slots.INSTALLED])
def test_a_damaged_slot_is_one_clear_line(fleet, name):
    file = next(fleet.root.glob(f"slots/*/{name}"))
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(Refusal, match="slot of step 1 is damaged") as found:
        Server(fleet.root)
    assert "edgeinc device update" in found.value.hint


def test_a_device_without_a_step_says_how_to_get_one(tmp_path, keys, nets):
    from devices import CONFIG, ROOT

    from edgeinc.update.enrol import init

    init(tmp_path / "device", CONFIG, ROOT)
    with pytest.raises(UsageError, match="nothing is installed") as found:
        Server(tmp_path / "device")
    assert "edgeinc device update" in found.value.hint


def test_a_slot_that_is_damaged_before_the_exchange_says_nothing_against_the_step(fleet, nets):
    fleet.publish(2, nets["grown"], count=4)
    with Server(fleet.root) as server:
        from edgeinc.update import device as module

        real = module.serving.ask

        def damaging(root, trial, gates, **how):
            (root / "slots" / trial.bundle.bundle_id / slots.MODEL).write_bytes(b"worn")
            return real(root, trial, gates, clock=time.monotonic, sleep=time.sleep)

        from edgeinc.update.source import repository

        ended, outcome = beside(
            lambda: module.Device(fleet.root, ask=damaging).update(repository(fleet.root))
        )
        answers = stream(server, ended)
        assert outcome().reason == "DEFERRED"
        assert {answer.step for answer in answers} == {1}
    assert journal.load(fleet.root).bad == ()


def test_frames_that_fail_are_counted_and_too_many_end_the_server(fleet, nets):
    fleet.publish(2, nets["breaks"], count=4)
    fleet.update()  # no server runs: the probe alone proves it
    dark = np.zeros_like(FRAMES[0])
    server = Server(fleet.root)
    assert server.answer(dark) is not None
    assert server.answer(FRAMES[0]) is None
    assert server.answer(dark) is not None
    with pytest.raises(EdgeincError, match="30 frames in a row"):
        stream(server, lambda: False, frames=FRAMES)
    assert serving.heard(fleet.root).faults == 31
