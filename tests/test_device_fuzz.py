"""Flipped bits anywhere between a publisher and a served file, and malformed metadata.

Whatever is changed: what is served has the hash of the old or of the new step, and what is refused
is refused in one line.
"""

import json
import random
import shutil
from contextlib import suppress

import pytest
from crashes import lay_out, scan
from devices import sha
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stations import NEW, OLD, Station
from trust_parts import FLEET, MODEL, Clock, Forge

from edgeinc.errors import EdgeincError, UpdateError
from edgeinc.update.repository import Repository

SOUND = {OLD.artifact, NEW.artifact}


class Ground:
    """A repository that asks for NEW, and a device in one of its states, laid out for each try."""

    def __init__(self, folder, first, keys):
        self.folder, self.keys = folder, keys
        for name in ("repo", "device"):
            shutil.copytree(first / name, folder / name, symlinks=True)
        station = self.station()
        station.publish(NEW)
        self.asked = {"repo": scan(folder / "repo"), "device": scan(folder / "device")}
        station.update()
        self.done = {"repo": self.asked["repo"], "device": scan(folder / "device")}
        self.laid = {"repo": None, "device": None}

    def station(self):
        repository = Repository(self.folder / "repo")
        return Station(self.folder, repository, str(repository.folder), self.keys, Clock())

    def lay(self, state):
        """Make a state real, as far as it is not yet."""
        for name, wanted in state.items():
            if self.laid[name] != wanted:
                shutil.rmtree(self.folder / name)
                lay_out(wanted, self.folder / name)
            self.laid[name] = wanted if name == "repo" else None
        return self.station()


@pytest.fixture(scope="module")
def ground(_first_station, keys, tmp_path_factory):
    return Ground(tmp_path_factory.mktemp("ground"), _first_station, keys)


def flippable(state):
    """Every file of the repository and of the device; the lock has no content."""
    return sorted(
        (part, name)
        for part, files in state.items()
        for name, content in files.items()
        if isinstance(content, bytes) and content
    )


def flipped_in(state, part, name, bit):
    flipped = bytearray(state[part][name])
    flipped[bit // 8] ^= 1 << bit % 8
    return {**state, part: {**state[part], name: bytes(flipped)}}


def survives(ground, state, part, name, bit):
    """One flipped bit: nothing else is ever served, nothing crashes, and a good copy heals it."""
    station = ground.lay(flipped_in(state, part, name, bit))
    served = []
    try:
        served.append(station.serves)
        with suppress(UpdateError):
            station.update()
        served.append(station.serves)
        if part == "device" and name != "root.json":
            station.update()
            assert station.serves == NEW.artifact
    except EdgeincError:
        if name != "device.json":  # what makes it a device: damaged, it is said to be
            raise
    # The only slot may be the damaged one: then nothing is served until it is fetched again.
    alone = state is ground.asked and name.startswith("slots/")
    assert set(served) <= (SOUND | {None} if alone else SOUND)
    assert set(station.world.loaded) <= {sha(content) for content in SOUND}


STATES = ("asked", "done")


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_flipped_bit_anywhere_serves_the_old_or_the_new(data, ground):
    state = getattr(ground, data.draw(st.sampled_from(STATES)))
    part, name = data.draw(st.sampled_from(flippable(state)))
    survives(ground, state, part, name, data.draw(st.integers(0, 8 * len(state[part][name]) - 1)))


def test_a_first_step_is_served_when_the_newest_journal_is_worn(station):
    """The generation before it is from before the first commit; the link tells of that."""
    (station.root / "state.json").write_bytes(b"")
    assert station.serves == OLD.artifact
    assert station.update().change == "nothing"
    assert station.world.loaded == []
    assert station.state.current.step == 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_5000_flipped_bits(ground):
    rng = random.Random(3)
    for _ in range(5_000):
        state = getattr(ground, rng.choice(STATES))
        part, name = rng.choice(flippable(state))
        survives(ground, state, part, name, rng.randrange(8 * len(state[part][name])))


# ------------------------------------------------------------------------------ malformed metadata

ROLES = ("root", "timestamp", "snapshot", "targets", MODEL, FLEET)
ODD = (None, True, -1, 0, 2**70, 1e308, "", "x" * 300, "\u0000", [], {}, [[]], {"": {}}, "../x")


def damaged(rng, content):
    """Bytes changed, cut, doubled; or another value, a missing or a new key, somewhere inside."""
    kind = rng.randrange(7)
    if kind == 0:
        return content[: rng.randrange(len(content))]
    if kind == 1:
        data = bytearray(content)
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data)
    if kind == 2:
        return rng.choice([b"[" * 50_000, b'{"a":' * 50_000, b"1" * 9_000, b"null", b'"\\ud800"'])
    if kind == 3:
        return content + content[rng.randrange(len(content)) :]
    plain = json.loads(content)
    holder = plain
    while True:
        key = rng.choice(sorted(holder) if isinstance(holder, dict) else range(len(holder)))
        inner = holder[key]
        if not (isinstance(inner, (dict, list)) and inner) or rng.random() < 0.2:
            break
        holder = inner
    if kind == 4:
        del holder[key]
    elif kind == 5 and isinstance(holder, dict):
        holder[rng.choice(["extra", "_type", "keyids", "", "__class__"])] = rng.choice(ODD)
    else:
        holder[key] = rng.choice(ODD)
    return json.dumps(plain).encode()


def offered(rng, ground, count):
    """Damaged metadata, one file at a time; how many tries ended in a refusal."""
    station = ground.lay(ground.asked)
    forge, refused = Forge(station.repository, ground.keys), 0
    files = {role: forge.path(role) for role in ROLES if role != "root"}
    files["root"] = forge.metadata / "2.root.json"
    whole = {role: forge.path(role).read_bytes() for role in ROLES}
    for _ in range(count):
        role = rng.choice(ROLES)
        files[role].write_bytes(damaged(rng, whole[role]))
        shutil.rmtree(station.root / "tuf", ignore_errors=True)
        trusted = station.trusted({}, 0.0)
        try:
            trusted.refresh()
            trusted.target(NEW.path)
            trusted.target("channels/north/stable.json")
        except UpdateError as err:
            refused += bool(err.message and err.hint)
        if role == "root":
            files[role].unlink(missing_ok=True)
        else:
            files[role].write_bytes(whole[role])
    return refused


def test_malformed_metadata_is_refused(ground):
    assert offered(random.Random(4), ground, 300) > 250


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_100000_malformed_pieces_of_metadata(ground):
    assert offered(random.Random(5), ground, 100_000) > 80_000
