"""Real kills, concurrent updaters, flipped bits and malformed journals: the device stays sane."""

import json
import multiprocessing
import os
import random
import signal
import sys
from dataclasses import replace

import pytest
from crashes import lay_out, scan
from devices import Repository, World, bundle, channel, installed, served, sha
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeinc.errors import EdgeincError
from edgeinc.schema import Held, State
from edgeinc.update import faults, journal
from edgeinc.update.disk import Disk
from edgeinc.update.refusal import Refusal
from edgeinc.update.sealed import seal

OLD = bundle(1)
NEW = bundle(2, parent=OLD, classes=3, golden=b"questions")
BYTES = {OLD.artifact, NEW.artifact}

forks = pytest.mark.skipif(sys.platform != "linux", reason="needs fork and SIGKILL")


def ready(root, scenario="healthy"):
    """A device that serves OLD and is asked for NEW, and its world."""
    world = World(Repository([OLD], channel(OLD)))
    installed(root, world)
    world.repository = Repository([OLD, NEW], channel(NEW), version=2)
    if scenario == "probe":
        world.bad_in_probe = {sha(NEW.artifact)}
    if scenario == "trial":
        world.bad_in_trial = {sha(NEW.artifact)}
    if scenario == "rollback":
        world.update(root)
    return world


def act(root, world, scenario):
    if scenario == "rollback":
        return world.device(root).rollback()
    return world.update(root)


SCENARIO_OF = {
    "probe.condemned": "probe",
    "trial.condemned": "trial",
    "rollback.stored": "rollback",
}


@forks
@pytest.mark.parametrize("name", faults.NAMES)
def test_a_process_killed_at_any_point_is_made_good_by_the_next(name, tmp_path):
    scenario = SCENARIO_OF.get(name, "healthy")
    world = ready(tmp_path / "device", scenario)

    def die():
        os.environ["EDGEINC_FAULT"] = f"kill@{name}"
        act(tmp_path / "device", world, scenario)

    process = multiprocessing.get_context("fork").Process(target=die)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL, f"{name} was not reached"
    assert served(tmp_path / "device") in BYTES

    if scenario == "rollback":
        assert served(tmp_path / "device") == OLD.artifact
        return
    world.settle(tmp_path / "device")
    good = scenario == "healthy"
    assert served(tmp_path / "device") == (NEW if good else OLD).artifact
    bad = {condemned.bundle_id for condemned in journal.load(tmp_path / "device").bad}
    assert bad == (set() if good else {NEW.id})


def test_a_point_that_is_not_registered_is_a_bug():
    with pytest.raises(KeyError):
        faults.point("nowhere")


def _compete(root, world, gate, answers):
    gate.wait()
    try:
        answers.put(world.update(root).change)
    except Refusal as err:
        answers.put(err.reason)


def compete(tmp_path, rounds):
    """Eight updaters at once; what each of them said."""
    fork = multiprocessing.get_context("fork")
    seen = set()
    for turn in range(rounds):
        root = tmp_path / str(turn)
        world = ready(root)
        world.disk = Disk()
        gate, answers = fork.Barrier(8), fork.SimpleQueue()
        crowd = [fork.Process(target=_compete, args=(root, world, gate, answers)) for _ in range(8)]
        for process in crowd:
            process.start()
        said = [answers.get() for _ in crowd]
        for process in crowd:
            process.join(60)
        assert said.count("committed") == 1, said
        assert set(said) <= {"committed", "nothing", "BUSY"}, said
        said.append(world.update(root).change)
        assert said[-1] == "nothing", "who comes after them finds nothing to do"
        assert served(root) == NEW.artifact
        state = journal.load(root)
        assert (state.previous.step, state.trial, state.bad) == (1, None, ())
        seen |= set(said)
    return seen


@forks
def test_of_eight_updaters_at_once_one_wins(tmp_path):
    compete(tmp_path, 3)


@forks
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_of_eight_updaters_at_once_one_wins_200_times(tmp_path):
    assert compete(tmp_path, 200) == {"committed", "nothing", "BUSY"}


# --------------------------------------------------------------------------------------- bit flips


@pytest.fixture(scope="module")
def updated(tmp_path_factory):
    """What lies on a device that went from OLD to NEW, and its world."""
    root = tmp_path_factory.mktemp("flips") / "device"
    world = ready(root)
    world.update(root)
    return scan(root), world


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_flipped_bit_never_reaches_what_is_served(data, updated, tmp_path_factory):
    state, world = updated
    files = sorted(
        name
        for name, content in state.items()
        if isinstance(content, bytes) and (name.startswith("slots/") or name.startswith("state"))
    )
    name = data.draw(st.sampled_from(files))
    bit = data.draw(st.integers(0, 8 * len(state[name]) - 1))
    flipped = bytearray(state[name])
    flipped[bit // 8] ^= 1 << bit % 8
    root = lay_out({**state, name: bytes(flipped)}, tmp_path_factory.mktemp("flip") / "device")
    assert served(root) in BYTES
    world.loaded.clear()
    world.device(root).recover()
    assert served(root) in BYTES
    world.settle(root)
    assert served(root) == NEW.artifact
    assert set(world.loaded) <= {sha(each) for each in BYTES}


def test_a_damaged_slot_is_made_again_and_needs_no_new_proof(tmp_path):
    world = ready(tmp_path / "device")
    world.update(tmp_path / "device")
    for model in (tmp_path / "device" / "slots").glob("*/model.onnx"):
        model.write_bytes(b"worn out")
    assert served(tmp_path / "device") is None
    world.loaded.clear()
    outcome = world.update(tmp_path / "device")
    assert (outcome.change, outcome.step, outcome.way) == ("committed", 2, "full")
    assert "damaged" in outcome.text
    assert served(tmp_path / "device") == NEW.artifact
    assert world.loaded == []


def test_where_both_journals_are_lost_the_proven_slot_and_the_floors_stay(tmp_path):
    root = tmp_path / "device"
    world = ready(root)
    world.update(root)
    for file in root.glob("state*.json"):
        file.write_bytes(b"")
    assert served(root) == NEW.artifact
    world.repository.version = 1  # an attacker offers what was before
    with pytest.raises(Refusal) as refused:
        world.update(root)
    assert refused.value.reason == "REPLAY"
    assert served(root) == NEW.artifact
    world.repository.version = 3
    assert world.update(root).change == "nothing"
    assert "state lost" in (root / "history.jsonl").read_text()


# ------------------------------------------------------------------------------ malformed journals

HELD = Held("a" * 64, 3, "b" * 64, 1.0)
GOOD = State(seq=7, current=HELD, previous=replace(HELD, bundle_id="c" * 64, step=2))


def malformed(rng, good):
    """Something that is not what was written: cut, mixed, nested, huge, or sealed nonsense."""
    kind = rng.randrange(6)
    if kind == 0:
        return good[: rng.randrange(len(good))]
    if kind == 1:
        data = bytearray(good)
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data)
    if kind == 2:
        return rng.randbytes(rng.randrange(400))
    if kind == 3:
        at, end = sorted(rng.randrange(len(good)) for _ in range(2))
        return good[:at] + good[end:] + good[at:end]
    if kind == 4:
        return resealed(
            rng.choice([b"[" * 5000, b'{"a":' * 5000, b"1" * 9000, b"null", b'"\\ud800"'])
        )
    body = json.loads(good.split(b'"document": ')[1][:-2])
    key = rng.choice(sorted(body.keys() - {"schema_version"}))  # a newer one has its own test
    body[key] = rng.choice([None, -1, 1e308, "x", [], {}, [[]], True, "\u0000", 2**70])
    return resealed(json.dumps(body).encode())


def resealed(body):
    """Bytes with a right hash, as only a program can make them."""
    return b'{"sha256": "' + sha(body).encode() + b'",\n"document": ' + body + b"}\n"


def read_malformed(tmp_path, count):
    good = seal(GOOD)
    before = replace(GOOD, seq=6)
    (tmp_path / journal.BEFORE).write_bytes(seal(before))
    rng, parsed = random.Random(5), 0
    for _ in range(count):
        (tmp_path / journal.STATE).write_bytes(malformed(rng, good))
        try:
            state = journal.load(tmp_path)
        except EdgeincError:  # sealed, with the number of a schema that is to come
            continue
        assert isinstance(state, State)
        parsed += state == before
    return parsed


def test_a_malformed_journal_gives_the_generation_before(tmp_path):
    assert read_malformed(tmp_path, 500) > 400


@pytest.mark.slow
def test_100000_malformed_journals(tmp_path):
    assert read_malformed(tmp_path, 100_000) > 80_000


def test_a_journal_of_a_newer_edgeinc_is_neither_read_nor_written_over(tmp_path):
    world = ready(tmp_path / "device")
    file = tmp_path / "device" / journal.STATE
    body = json.loads(file.read_bytes().split(b'"document": ')[1][:-2])
    file.write_bytes(resealed(json.dumps({**body, "schema_version": 2}).encode()))
    content = file.read_bytes()
    with pytest.raises(EdgeincError, match="newer edgeinc"):
        world.update(tmp_path / "device")
    assert file.read_bytes() == content
