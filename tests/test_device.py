"""What a device does with what its channel asks for, and what it says about it."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from dataclasses import replace

import pytest
from devices import (
    CONFIG,
    GATES,
    ROOT,
    Repository,
    World,
    bundle,
    channel,
    installed,
    served,
    sha,
)

from edgeinc.cli import main
from edgeinc.errors import MissingError, UsageError
from edgeinc.schema import (
    ClassInfo,
    DeviceStatus,
    OpenTrial,
    ProbeResult,
    Requirements,
    Serving,
    from_json,
)
from edgeinc.update import history, journal, orders, serving
from edgeinc.update.device import Device
from edgeinc.update.enrol import init
from edgeinc.update.lock import LOCK, SERVER, alone
from edgeinc.update.refusal import Refusal
from edgeinc.update.status import status, verify

OLD = bundle(1)
NEW = bundle(2, parent=OLD, classes=3, golden=b"questions")
FIX = bundle(3, parent=NEW, classes=3)


@pytest.fixture
def world():
    return World(Repository([OLD], channel(OLD)))


@pytest.fixture
def root(tmp_path, world):
    """A device with a server, which serves step 1 and is asked for step 2."""
    folder = installed(tmp_path / "device", world)
    world.repository = Repository([OLD, NEW], channel(NEW), version=2)
    with alone(folder / SERVER, "the server runs"):
        yield folder


def refused(world, root, reason, **how):
    with pytest.raises(Refusal) as found:
        world.update(root, **how)
    assert found.value.reason == reason
    assert found.value.exit_code == 5
    assert found.value.hint
    return found.value


# ---------------------------------------------------------------------------------- the usual way


def test_the_first_step_is_proven_by_the_probe_where_no_server_runs(tmp_path, world):
    init(tmp_path / "device", CONFIG, ROOT)
    outcome = world.update(tmp_path / "device")
    assert (outcome.change, outcome.step, outcome.was_step) == ("committed", 1, None)
    assert (outcome.proof, outcome.way) == ("probe", "full")
    assert outcome.bytes == sum(len(c) for c in OLD.files.values())
    assert (tmp_path / "device" / "current" / "model.onnx").read_bytes() == OLD.artifact


def test_a_step_goes_through_probe_and_trial(root, world):
    world.loaded.clear()
    outcome = world.update(root)
    assert (outcome.change, outcome.step, outcome.was_step) == ("committed", 2, 1)
    assert outcome.proof == "trial"
    assert world.loaded == [sha(NEW.artifact)] * 2
    assert served(root) == NEW.artifact
    assert (root / "current" / "golden.npz").read_bytes() == b"questions"
    assert world.update(root).change == "nothing"
    assert {path.name for path in (root / "slots").iterdir()} == {OLD.id, NEW.id}
    assert list((root / "dl").iterdir()) == []


def test_current_and_the_one_before_are_kept_and_no_more(root, world):
    world.update(root)
    world.repository = Repository([OLD, NEW, FIX], channel(FIX), version=3)
    world.update(root)
    assert {path.name for path in (root / "slots").iterdir()} == {NEW.id, FIX.id}


def test_check_says_what_an_update_would_do_and_changes_nothing(root, world):
    found = world.device(root).check(world.repository.connect(world.disk))
    full = next(len(c) for path, c in NEW.files.items() if path.endswith("full"))
    assert (found.change, found.step, found.way) == ("available", 2, "full")
    assert f"{full:,} bytes" in found.text
    assert served(root) == OLD.artifact
    assert journal.load(root).floors["timestamp"].version == 2


def test_a_cut_connection_is_gone_on_with(root, world):
    world.repository.cut_after = 100
    refused(world, root, "NETWORK")
    spent = journal.load(root).spent.bytes
    world.repository.cut_after = None
    outcome = world.update(root)
    total = sum(len(c) for c in NEW.files.values())
    assert outcome.change == "committed"
    assert total <= spent + outcome.bytes < total + world.repository.chunk + 1


def test_a_bundle_that_never_arrives_runs_out_of_its_budget(root, world):
    world.repository = Repository([OLD, FIX], channel(FIX), version=2, cut_after=0)
    total = sum(len(c) for c in FIX.files.values())
    for _ in range(3 * total // world.repository.chunk + 9):
        with pytest.raises(Refusal) as found:
            world.update(root)
        if found.value.reason == "BUDGET":
            break
    refused(world, root, "BUDGET")
    assert journal.load(root).spent.bytes <= 3 * total + world.repository.chunk
    world.repository.cut_after = None
    assert world.update(root, retry=True).change == "committed"


# ------------------------------------------------------------------------------------- it stays


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"paused": True}, "PAUSED"),
        ({"percent": 0.0}, "NOT_SELECTED"),
        ({"bundle_id": bundle(0).id, "step": 0}, "OLDER"),
    ],
)
def test_what_is_no_fault_is_an_answer(root, world, asked, reason):
    world.repository.asked = replace(channel(NEW), **asked)
    outcome = world.update(root)
    assert (outcome.change, outcome.reason) == ("nothing", reason)
    assert served(root) == OLD.artifact


def test_a_device_that_is_held_asks_nobody(root, world):
    world.device(root).hold()
    world.repository.served.clear()
    assert world.update(root).reason == "HELD"
    assert world.repository.served == []
    world.device(root).hold(on=False)
    assert world.update(root).change == "committed"


def test_a_canary_draws_its_percent_and_keeps_whom_it_drew():
    ids = [f"device-{i}" for i in range(2000)]
    ten, thirty = (
        {i for i in ids if orders.is_drawn(channel(NEW, percent=p), i)} for p in (10.0, 30.0)
    )
    assert 150 <= len(ten) <= 250
    assert ten < thirty
    assert {i for i in ids if orders.is_drawn(channel(NEW, percent=10.0, salt="t"), i)} != ten


@pytest.mark.parametrize(
    "asked", [{"paused": True}, {"percent": 0.0}, {"bundle_id": bundle(0).id, "step": 0}]
)
def test_a_look_that_finds_no_fault_forgets_the_last_refusal(root, world, asked):
    world.repository.asked = channel(NEW, bundle_id=FIX.id)
    refused(world, root, "CORRUPT")
    assert status(root).refused.reason == "CORRUPT"
    world.repository.asked = replace(channel(NEW), **asked)
    assert world.update(root).change == "nothing"
    assert status(root).refused is None


def test_a_device_that_serves_what_was_revoked_is_drawn_with_the_first(root, world):
    world.repository.asked = channel(NEW, percent=0.0, revoke_below=2, paused=True)
    assert world.update(root).reason == "PAUSED"
    assert "revoked" in world.update(root).text
    assert "revoked" in status(root, now=lambda: world.now).todo
    world.repository.asked = channel(NEW, percent=0.0, revoke_below=2)
    assert world.update(root).change == "committed"
    assert status(root, now=lambda: world.now).todo == ""


def test_a_step_that_was_left_by_hand_is_not_taken_because_of_a_revocation(root, world):
    world.update(root)
    world.device(root).rollback()
    world.repository.asked = channel(NEW, revoke_below=2)
    world.repository.version = 3
    outcome = world.update(root)
    assert (outcome.reason, "what is served was revoked" in outcome.text) == ("HELD", True)
    assert world.update(root, retry=True).change == "committed"


# ------------------------------------------------------------------------------------ it is refused


def test_a_clock_that_is_behind_stops_updates_and_not_the_serving(root, world):
    world.now -= 400 * 86_400
    assert "clock" in refused(world, root, "CLOCK").message
    assert served(root) == OLD.artifact


def test_an_older_repository_is_refused_after_it_was_seen_newer(root, world):
    world.update(root)
    world.repository.version = 1
    refused(world, root, "REPLAY")


def test_a_channel_that_names_another_bundle_is_refused(root, world):
    world.repository.asked = channel(NEW, bundle_id=FIX.id)
    refused(world, root, "CORRUPT")
    world.repository.asked = channel(NEW, step=9)
    refused(world, root, "INCOMPATIBLE")


@pytest.mark.parametrize("what", ["fleet", "model"])
def test_a_channel_for_others_is_refused(root, world, what):
    others = {what: "other"}
    if what == "model":
        others["manifest"] = NEW.path.replace("erfnet", "other")
    world.repository.asked = channel(NEW, **others)
    assert "other" in refused(world, root, "INCOMPATIBLE").message


def test_a_bundle_for_another_runtime_version_or_class_table_is_refused(root, world):
    for fields, word in (
        ({"requires": Requirements("99.0", (), 0)}, "edgeinc 99.0"),
        ({"requires": Requirements("0.1.0", ("tensorrt",), 0)}, "tensorrt"),
        (
            {"classes": tuple(ClassInfo(i, f"other{i}", (i, i, i), 0) for i in range(3))},
            "another meaning",
        ),
    ):
        unfit = bundle(2, parent=OLD, changed=fields)
        world.repository = Repository([OLD, unfit], channel(unfit), version=3)
        assert word in refused(world, root, "INCOMPATIBLE").message
    assert not any(path.endswith("full") for path in world.repository.served)


def test_too_little_space_is_seen_before_anything_is_fetched(root, world):
    needs = Requirements("0.1.0", (), 1 << 49)
    large = bundle(2, parent=OLD, changed={"requires": needs})
    world.repository = Repository([OLD, large], channel(large), version=3)
    refused(world, root, "NO_SPACE")
    assert not any(path.endswith("full") for path in world.repository.served)
    before = (root / "state.json").read_bytes()
    refused(world, root, "NO_SPACE")
    assert (root / "state.json").read_bytes() == before, "the same refusal is written once"


def test_wrong_bytes_never_come_into_a_slot(root, world):
    path = next(p for p in NEW.files if p.endswith("full"))
    files = {**NEW.files, path: NEW.files[path][:-1] + b"\x00"}
    world.repository = Repository([OLD, replace(NEW, files=files)], channel(NEW), version=3)
    refused(world, root, "CORRUPT")
    assert {p.name for p in (root / "slots").iterdir()} == {OLD.id}
    assert not any(p.name == sha(NEW.files[path]) for p in (root / "dl").iterdir())


def test_a_look_is_no_refusal(root, world):
    world.repository.asked = channel(NEW, bundle_id=FIX.id)
    with pytest.raises(Refusal, match="is not the bundle the channel names"):
        world.device(root).check(world.repository.connect(world.disk))
    assert status(root).refused is None


def test_a_first_step_that_is_refused_says_why_before_it_says_to_install(tmp_path, world):
    init(tmp_path / "device", CONFIG, ROOT)
    assert "edgeinc device update" in status(tmp_path / "device").todo
    world.repository.asked = channel(OLD, bundle_id=FIX.id)
    hint = refused(world, tmp_path / "device", "CORRUPT").hint
    assert status(tmp_path / "device").todo == hint


def test_nothing_is_fetched_for_a_runtime_that_is_not_here(root, world, monkeypatch):
    from edgeinc.runtimes import Availability
    from edgeinc.runtimes.onnxruntime import OnnxRuntime

    gone = Availability(False, reason="it is gone", fix="pip install it")
    monkeypatch.setattr(OnnxRuntime, "availability", classmethod(lambda cls: gone))
    world.repository.served.clear()
    with pytest.raises(MissingError, match="it is gone"):
        world.update(root)
    assert not any(path.endswith("full") for path in world.repository.served)
    assert status(root).refused.reason == "MISSING"


def test_a_bundle_may_cost_as_much_again_on_another_day(root, world):
    world.repository = Repository([OLD, FIX], channel(FIX), version=2, cut_after=0)
    total = sum(len(c) for c in FIX.files.values())
    for _ in range(3 * total // world.repository.chunk + 9):
        with pytest.raises(Refusal):
            world.update(root)
    assert "after a day" in refused(world, root, "BUDGET").hint
    world.repository.cut_after = None
    refused(world, root, "BUDGET")
    world.now += 86_401
    assert world.update(root).change == "committed"


def test_bytes_of_a_folder_cost_nothing(root, world):
    world.repository = Repository([OLD, FIX], channel(FIX), version=2, cut_after=0, metered=False)
    for _ in range(99):
        refused(world, root, "NETWORK")
    assert journal.load(root).spent is None
    world.repository.metered = True
    for _ in range(3 * sum(len(c) for c in FIX.files.values()) // world.repository.chunk + 9):
        with pytest.raises(Refusal):
            world.update(root)
    refused(world, root, "BUDGET")
    world.repository.metered, world.repository.cut_after = False, None  # a stick is brought
    assert world.update(root).change == "committed"


# ------------------------------------------------------------------------------ condemned, deferred


@pytest.mark.parametrize("by", ["probe", "trial"])
def test_what_was_found_bad_is_not_taken_again(root, world, by):
    getattr(world, f"bad_in_{by}").add(sha(NEW.artifact))
    said = refused(world, root, "UNHEALTHY")
    assert by in said.message
    assert served(root) == OLD.artifact
    assert not (root / "slots" / NEW.id).exists()
    world.loaded.clear()
    assert "condemned" in refused(world, root, "UNHEALTHY").message
    assert world.loaded == []
    getattr(world, f"bad_in_{by}").clear()  # the machine was repaired
    assert world.update(root, retry=True).change == "committed"
    assert journal.load(root).bad == ()


def test_a_corrected_step_is_taken_after_a_bad_one(root, world):
    world.bad_in_probe.add(sha(NEW.artifact))
    refused(world, root, "UNHEALTHY")
    world.repository = Repository([OLD, NEW, FIX], channel(FIX), version=3)
    assert world.update(root).step == 3


def test_an_interrupted_trial_is_deferred_longer_each_time_and_never_condemned(root, world):
    world.interrupted.add(sha(NEW.artifact))
    waits = []
    for _ in range(3):
        for _ in range(3):
            refused(world, root, "DEFERRED")
        refused(world, root, "DEFERRED")  # `recover` gave up, and this one is too early
        waits.append(journal.load(root).deferred[0].not_before - world.now)
        world.now += waits[-1] + 1
    assert waits == [3600, 7200, 14400]
    assert served(root) == OLD.artifact
    assert journal.load(root).bad == ()
    world.interrupted.clear()
    assert world.update(root).change == "committed"
    assert journal.load(root).deferred == ()


def test_a_probe_that_was_killed_from_outside_is_deferred(root, world):
    died = ProbeResult("interrupted", "it was killed from outside", "", None, None, None)
    device = Device(root, disk=world.disk, now=lambda: world.now, prove=lambda *_: died)
    with pytest.raises(Refusal, match="interrupted") as found:
        device.update(world.repository.connect(world.disk))
    assert found.value.reason == "DEFERRED"
    assert journal.load(root).bad == ()


def test_slots_that_were_never_committed_do_not_pile_up(root, world):
    died = ProbeResult("interrupted", "it was killed from outside", "", None, None, None)
    for step in range(2, 6):
        new = bundle(step, parent=OLD)
        world.repository = Repository([OLD, new], channel(new), version=step)
        device = Device(root, disk=world.disk, now=lambda: world.now, prove=lambda *_: died)
        with pytest.raises(Refusal, match="interrupted"):
            device.update(world.repository.connect(world.disk))
        assert {path.name for path in (root / "slots").iterdir()} == {OLD.id, new.id}
    world.now += 4000
    outcome = world.update(root)
    assert (outcome.step, outcome.way, outcome.bytes) == (5, "held", 0)


def on_trial(root, world):
    """A device whose trial of NEW was cut off once."""
    world.interrupted.add(sha(NEW.artifact))
    refused(world, root, "DEFERRED")
    world.interrupted.clear()
    assert journal.load(root).trial.bundle.bundle_id == NEW.id


@pytest.mark.parametrize(
    "asked",
    [channel(NEW, paused=True), channel(NEW, percent=0.0), channel(OLD)],
    ids=["paused", "not drawn", "the old one"],
)
def test_an_open_trial_ends_when_the_channel_asks_for_it_no_more(root, world, asked):
    on_trial(root, world)
    world.repository.asked = asked
    assert world.update(root).change == "nothing"
    assert journal.load(root).trial is None
    assert served(root) == OLD.artifact
    assert [e.what for e in history.newest(root).events][-1] == "trial dropped"
    world.repository.asked = channel(NEW)
    outcome = world.update(root)
    assert (outcome.step, outcome.way) == (2, "held")


def test_an_open_trial_ends_for_a_newer_step(root, world):
    on_trial(root, world)
    world.repository = Repository([OLD, NEW, FIX], channel(FIX, revoke_below=3), version=3)
    outcome = world.update(root)
    assert (outcome.step, outcome.was_step) == (3, 1)
    assert journal.load(root).trial is None


def test_an_open_trial_goes_on_where_nobody_can_be_asked_and_not_against_what_is_said(root, world):
    def unreachable(floors, checked):
        raise Refusal("NETWORK", "no route to host", hint="wait")

    on_trial(root, world)
    world.repository.version = 1
    refused(world, root, "REPLAY")
    world.repository.version = 2
    world.now -= 400 * 86_400
    refused(world, root, "CLOCK")
    world.now += 400 * 86_400
    assert journal.load(root).trial.tries == 1
    assert served(root) == OLD.artifact
    outcome = world.device(root).update(unreachable)
    assert (outcome.step, outcome.proof) == (2, "trial")


def test_a_server_without_frames_is_not_waited_for_and_costs_no_try(root, world):
    said = replace(serving.heard(root), waits="camera 0 cannot be opened")
    serving.say(root, said, world.disk)
    for _ in range(5):
        assert "camera 0 cannot be opened" in refused(world, root, "DEFERRED").message
    assert journal.load(root).trial.tries == 0
    assert journal.load(root).deferred == ()
    serving.say(root, replace(said, waits=""), world.disk)
    outcome = world.update(root)
    assert (outcome.step, outcome.way, outcome.proof) == (2, "held", "trial")


def test_a_clock_that_was_far_ahead_defers_nothing_for_ever(root, world):
    world.interrupted.add(sha(NEW.artifact))
    for _ in range(4):
        refused(world, root, "DEFERRED")
    state = journal.load(root)
    far = replace(state.deferred[0], not_before=world.now + 10 * 365 * 86_400)
    journal.store(root, replace(state, deferred=(far,)), world.disk)
    world.interrupted.clear()
    assert world.update(root).change == "committed"


# ----------------------------------------------------------------------------------- going back


def test_rollback_serves_the_step_before_and_again_brings_the_newer_one_back(root, world):
    world.update(root)
    back = world.device(root).rollback()
    assert (back.step, back.was_step, served(root)) == (1, 2, OLD.artifact)
    assert world.update(root).reason == "HELD"  # what a person left is not taken by a timer
    assert world.device(root).rollback().step == 2
    assert served(root) == NEW.artifact
    assert world.update(root).reason == ""


def test_rollback_never_goes_below_what_was_revoked(root, world):
    world.repository.asked = channel(NEW, revoke_below=2)
    world.update(root)
    with pytest.raises(Refusal) as found:
        world.device(root).rollback()
    assert found.value.reason == "REVOKED"
    world.repository = Repository([OLD, NEW], channel(OLD, rollback=True), version=3)
    refused(world, root, "REVOKED")
    (root / "slots" / NEW.id / "model.onnx").write_bytes(b"worn out")
    assert served(root) is None, "what was revoked is not served, not even instead of nothing"


def test_a_rollback_of_the_fleet_goes_the_same_way_as_an_update(root, world):
    world.update(root)
    world.repository = Repository([OLD, NEW], channel(OLD, rollback=True), version=3)
    outcome = world.update(root)
    assert (outcome.step, outcome.way, outcome.proof) == (1, "held", "trial")


def test_a_server_that_fails_brings_no_newer_step_back(root, world):
    world.update(root)
    back = world.device(root).rollback(failed=True)
    assert (back.step, served(root)) == (1, OLD.artifact)
    assert "the server failed" in world.update(root).text
    with pytest.raises(UsageError, match="no older bundle"):
        world.device(root).rollback(failed=True)
    assert served(root) == OLD.artifact
    assert world.device(root).rollback().step == 2


def test_a_server_that_fails_while_it_tries_a_step_leaves_that_one(root, world):
    world.update(root)
    world.repository = Repository([OLD, NEW, FIX], channel(FIX), version=3)
    world.interrupted.add(sha(FIX.artifact))
    refused(world, root, "DEFERRED")
    outcome = world.device(root).rollback(failed=True)
    assert (outcome.change, outcome.step) == ("nothing", 2)
    state = journal.load(root)
    assert (state.trial, state.bad) == (None, ())
    assert [d.bundle_id for d in state.deferred] == [FIX.id]
    assert served(root) == NEW.artifact


def test_a_server_that_fails_while_it_tries_the_second_step_leaves_that_one_too(root, world):
    on_trial(root, world)  # nothing is held before the first step
    assert world.device(root).rollback(failed=True).change == "nothing"
    assert [d.bundle_id for d in journal.load(root).deferred] == [NEW.id]


def test_a_rollback_waits_for_an_update_that_runs(root, world):
    world.update(root)
    with alone(root / LOCK, "an update runs"):
        with pytest.raises(Refusal) as found:
            world.device(root).rollback(wait_s=0.1)
        assert found.value.reason == "BUSY"
        waiting = ThreadPoolExecutor().submit(world.device(root).rollback, wait_s=30.0)
        with pytest.raises(TimeoutError):
            waiting.result(0.2)
    assert waiting.result(30).step == 1


def test_there_is_nothing_before_the_first_step(root, world):
    with pytest.raises(UsageError, match="no bundle to go back"):
        world.device(root).rollback()


# ------------------------------------------------------------------------------- agent and server


def test_a_server_that_starts_during_a_trial_serves_what_was_committed(root, world):
    world.update(root)
    state = journal.load(root)
    trial = OpenTrial(replace(state.previous), 1, "abc")
    journal.store(root, replace(state, trial=trial), world.disk)
    running = serving.choices(root)
    assert [(c.bundle.step, c.attempt) for c in running] == [(1, "abc"), (2, ""), (1, "")]
    restarted = serving.choices(root, ignore="abc")
    assert [(c.bundle.step, c.attempt) for c in restarted] == [(2, ""), (1, "")]


class Clock:
    def __init__(self, at_each=None):
        self.now, self.at_each = 0.0, at_each or (lambda now: None)

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.at_each(self.now)


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ([], "interrupted"),
        ([(5, "none", 1)], "interrupted"),
        ([(5, "none", None), (9, "good", None)], "good"),
        ([(5, "none", None), (9, "bad", None)], "bad"),
        ([(5, "none", None)], "interrupted"),
        ([(5, "none", None), (9, "again", None)], "interrupted"),
    ],
    ids=["nobody comes", "it dies", "good", "bad", "no end", "another begins"],
)
def test_the_agent_waits_for_the_server_and_not_for_ever(root, world, said, verdict):
    trial = OpenTrial(journal.load(root).current, 1, "abc")
    pending = list(said)

    def server(now):
        if pending and now >= pending[0][0]:
            _, word, pid = pending.pop(0)
            boot = serving.boot_id() if pid is None else "another boot"
            attempt, word = ("", "none") if word == "again" else ("abc", word)
            told = Serving(OLD.id, attempt, word, "why", os.getpid(), boot, 0.0, 1, 0, None)
            serving.say(root, told, world.disk)

    clock = Clock(server)
    found = serving.ask(root, trial, GATES, clock=clock, sleep=clock.sleep)
    assert found.verdict == verdict
    assert clock.now < (400 if said and said[-1][1] == "none" else 130)


def test_a_server_runs_as_long_as_it_holds_its_lock_whatever_number_it_has(root, world):
    boot = serving.boot_id()
    said = Serving(OLD.id, "abc", "none", "", 2**30, boot, 0.0, 1, 0, None)  # of another container
    assert serving.is_running(root, said)
    assert not serving.is_running(root, replace(said, boot_id="before the power cut"))
    other = root.parent
    assert not serving.is_running(other, said)
    with alone(other / SERVER, "a server runs"):
        assert serving.is_running(other, said)
    assert not serving.is_running(other, said)


# ------------------------------------------------------------------------------- what it says


def test_status_tells_what_runs_why_not_more_and_what_to_do(root, world):
    world.bad_in_trial.add(sha(NEW.artifact))
    refused(world, root, "UNHEALTHY")
    found = status(root, now=lambda: world.now)
    assert (found.served.step, found.classes) == (1, ("class0", "class1"))
    assert found.refused.reason == "UNHEALTHY"
    assert "one class everywhere" in found.refused.message
    assert [b.step for b in found.bad] == [2]
    assert found.todo
    world.repository = Repository([OLD, NEW, FIX], channel(FIX), version=3)
    world.update(root)
    assert status(root, now=lambda: world.now).refused is None


def test_a_report_that_fails_changes_nothing(root, world):
    def report(event):
        raise RuntimeError("the network is down")

    device = world.device(root, report=report)
    assert device.update(world.repository.connect(world.disk)).change == "committed"
    assert served(root) == NEW.artifact


def test_history_is_read_around_what_a_crash_cut_off(root, world):
    world.update(root)
    file = root / history.FILE
    file.write_bytes(file.read_bytes() + b'{"at": 1, "wh')
    assert [e.what for e in history.newest(root).events] == ["committed", "committed"]
    assert [e.step for e in history.newest(root, 1).events] == [2]


def test_verify_names_the_damaged_slot(root, world):
    world.update(root)
    (root / "slots" / OLD.id / "manifest.json").write_bytes(b"{}")
    found = {slot.role: slot.damage for slot in verify(root).slots}
    assert found == {"current": "", "previous": "manifest.json is not what was signed"}


def test_folders_that_somebody_removed_are_made_again(root, world):
    shutil.rmtree(root / "dl")
    assert world.update(root).change == "committed"
    shutil.rmtree(root / "slots")
    shutil.rmtree(root / "dl")
    outcome = world.update(root)
    assert (outcome.change, outcome.step, outcome.way) == ("committed", 2, "full")
    assert served(root) == NEW.artifact


@pytest.mark.parametrize("asked", [{"percent": 0.0}, {"paused": True}])
def test_a_device_that_serves_nothing_takes_what_there_is(root, world, asked):
    """A new one that comes during a canary, and one whose only slot is worn."""
    first = root.parent / "first"
    init(first, CONFIG, ROOT)
    (root / "slots" / OLD.id / "model.onnx").write_bytes(b"worn out")
    world.repository.asked = channel(NEW, **asked)
    for each in (first, root):
        outcome = world.device(each).update(world.repository.connect(world.disk))
        if "paused" in asked:
            assert (outcome.reason, "nothing is served" in outcome.text) == ("PAUSED", True)
        else:
            assert served(each) == NEW.artifact


def test_a_slot_that_is_whole_again_is_no_refusal(root, world):
    world.repository = Repository([OLD], channel(OLD), version=2, cut_after=0)
    (root / "slots" / OLD.id / "model.onnx").write_bytes(b"worn out")
    refused(world, root, "NETWORK")
    world.repository.cut_after = None
    assert "whole again" in world.update(root).text
    assert status(root).refused is None
    assert journal.load(root).spent is None


def test_a_damaged_slot_that_is_not_served_is_no_way_back_and_goes(root, world):
    world.update(root)
    (root / "slots" / OLD.id / "model.onnx").write_bytes(b"worn out")
    assert world.update(root).change == "nothing"
    assert [slot.damage for slot in verify(root).slots] == [""]
    with pytest.raises(UsageError, match="no bundle to go back to"):
        world.device(root).rollback()
    assert "slot damaged" in [e.what for e in history.newest(root).events]


def test_a_folder_becomes_a_device_once(tmp_path):
    with pytest.raises(UsageError, match="is no device"):
        Device(tmp_path)
    init(tmp_path, CONFIG, ROOT)
    with pytest.raises(UsageError, match="already"):
        init(tmp_path, CONFIG, ROOT)
    with pytest.raises(UsageError, match="fleet"):
        init(tmp_path / "other", replace(CONFIG, fleet="../up"), ROOT)
    with pytest.raises(UsageError, match="unknown runtime 'onnx'"):
        init(tmp_path / "other", replace(CONFIG, runtime="onnx"), ROOT)


# ------------------------------------------------------------------------------- the command line


def run(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main(["device", *map(str, words)])
    return end.value.code, *capsys.readouterr()


def test_commands_for_people_and_programs(root, world, capsys):
    world.bad_in_probe.add(sha(NEW.artifact))
    refused(world, root, "UNHEALTHY")
    code, out, _ = run(capsys, "status", "--root", root)
    assert code == 0
    assert "step 1" in out
    assert "UNHEALTHY" in out
    assert "condemned  step 2 by probe: wrong" in out
    assert "updates    memory" in out
    assert "publish a corrected step" in out
    assert len(out.splitlines()) < 25
    _, out, _ = run(capsys, "status", "--root", root, "--json")
    assert from_json(DeviceStatus, out, source="status").served.step == 1
    code, _, err = run(capsys, "rollback", "--root", root)
    assert (code, "no bundle to go back to" in err) == (2, True)
    code, out, _ = run(capsys, "hold", "--root", root, "--json")
    assert (code, json.loads(out)["reason"]) == (0, "HELD")
    code, out, _ = run(capsys, "history", "--root", root)
    assert (code, "condemned" in out) == (0, True)
    assert run(capsys, "verify", "--root", root)[0] == 0
    next((root / "slots").glob("*/model.onnx")).write_bytes(b"worn out")
    code, out, err = run(capsys, "verify", "--root", root)
    assert (code, "model.onnx" in out, "damaged" in err) == (1, True, True)


def test_a_refusal_carries_its_reason_for_programs(root, world, capsys):
    world.repository.asked = channel(NEW, revoke_below=2)
    world.update(root)
    code, _, err = run(capsys, "rollback", "--root", root, "--json")
    assert code == 5
    assert json.loads(err)["error"]["reason"] == "REVOKED"


def test_a_folder_that_is_no_device_is_named(tmp_path, capsys):
    for command in ("status", "history", "verify", "hold", "rollback"):
        code, _, err = run(capsys, command, "--root", tmp_path)
        assert (code, str(tmp_path) in err) == (2, True), command
