"""A whole device behind bad networks, servers, carriers and publishers."""

import multiprocessing
import os
import random
import shutil
import signal
import struct
import sys

import pytest
from devices import bundle, sha
from stations import NEW, OLD, step_of
from trust_parts import PORTAL, cut, everyone, raw, status

from edgeinc.update import _tree, incoming
from edgeinc.update._zstd import compress
from edgeinc.update.fetch import Gone

LARGE = step_of(2, random.Random(0).randbytes(300_000), parent=OLD)
FULL = "models/erfnet/step-2/full"


def blob(station):
    return station.file_of(FULL)


# ------------------------------------------------------------------------------ files on the server

FILES = {
    "empty": lambda data: b"",
    "padded": lambda data: data + bytes(100),
    "padded in front": lambda data: b"\0" + data,
    "zeros": lambda data: bytes(len(data)),
    **{f"{n}/16": lambda data, n=n: data[: len(data) * n // 16] for n in range(1, 16)},
}


@pytest.mark.parametrize("damage", FILES.values(), ids=FILES)
@pytest.mark.parametrize("what", [FULL, NEW.path, "channels/north/stable.json"])
def test_a_file_that_is_not_whole_is_refused_and_taken_when_it_is(station, damage, what):
    station.publish(NEW)
    file = station.file_of(what)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    with station.refusing("CORRUPT"):
        station.update()
    assert station.slept == []  # a file in a folder does not grow
    assert all(sha(f.read_bytes()) == f.name for f in (station.root / "dl").iterdir())
    file.write_bytes(whole)
    assert station.update().step == 2
    assert station.serves == NEW.artifact


@pytest.mark.parametrize("sixteenth", range(0, 17, 4))
def test_what_an_earlier_try_left_is_gone_on_with(station, sixteenth):
    station.publish(LARGE)
    data = blob(station).read_bytes()
    size = len(data) * sixteenth // 16
    (station.root / "dl" / f"{sha(data)}.part").write_bytes(data[:size])
    outcome = station.update()
    assert outcome.step == 2
    assert outcome.bytes == len(data) - size


def test_three_cuts_are_resumed(web):
    web.publish(LARGE)
    for after in (70_000, 80_000, 90_000):
        web.server.fault("full", cut(after), times=1)
    web.server.asked.clear()
    outcome = web.update()
    assert outcome.step == 2
    assert len([path for path in web.server.asked if path.endswith("full")]) == 4
    assert outcome.bytes < 1.05 * blob(web).stat().st_size
    assert web.serves == LARGE.artifact


# ------------------------------------------------------------------------------------- the server


def test_a_stale_timestamp_of_a_cache_is_no_fault_and_no_update(web):
    stale = (web.repository.folder / "metadata" / "timestamp.json").read_bytes()
    web.publish(NEW)
    web.server.fault("timestamp", raw(stale))
    assert web.update().change == "nothing"
    web.server.faults.clear()
    assert web.update().step == 2
    web.server.fault("timestamp", raw(stale))
    with web.refusing("REPLAY"):
        web.update()


def test_a_file_that_the_server_lacks_is_asked_for_once(web):
    web.publish(NEW)
    web.server.fault("full", status(404))
    with web.refusing("NETWORK") as caught:
        web.update()
    assert isinstance(caught.value, Gone)
    assert len([path for path in web.server.asked if path.endswith("full")]) == 1
    web.server.faults.clear()
    assert web.update().step == 2


@pytest.mark.parametrize("where", ["timestamp", "stable", "manifest", "full"])
def test_a_storm_of_503_is_waited_out_or_ends(web, where):
    web.publish(NEW)
    web.server.fault(where, status(503), times=2)
    assert web.update().step == 2
    assert len(web.slept) == 2
    web.publish(bundle(3, parent=NEW, classes=3))
    web.server.faults.clear()
    web.server.fault(where, status(503))
    with web.refusing("NETWORK"):
        web.update()


@pytest.mark.parametrize("where", ["timestamp", "stable", "manifest", "full", "."])
def test_a_captive_portal_is_not_taken_for_the_repository(web, where):
    web.publish(LARGE)
    web.server.fault(where, PORTAL)
    with web.refusing({"full": "NETWORK"}.get(where, "CORRUPT")):
        web.update()
    web.server.faults.clear()
    assert web.update().step == 2


def test_no_server_costs_nothing_but_this_update(station):
    station.publish(NEW)
    with station.refusing("NETWORK"):
        station.update("http://127.0.0.1:9")
    assert station.update().step == 2


def test_bytes_have_a_budget_over_all_tries_of_a_step(web):
    """A server that loses everything is not asked for ever, and a person can start again."""
    web.publish(LARGE)
    size = blob(web).stat().st_size

    def loses(handler):
        del handler.headers["Range"]
        handler.limit = 250_000

    web.server.fault("full", loses)
    with web.refusing("BUDGET"):
        web.update()
    for _ in range(3):
        before = web.received
        with web.refusing("BUDGET"):
            web.update()
        assert web.received - before < size / 2
    assert web.received < (incoming.BUDGET + 1) * size
    web.server.faults.clear()
    with web.refusing("BUDGET"):
        web.update()
    assert web.update(retry=True).step == 2


# --------------------------------------------------------------------------- the wrong delta


def of_networks(*, delta_of):
    """Two real files, and a delta for the second."""
    pytest.importorskip("onnx")
    from networks import network

    from edgeinc.update.delta import encode

    # What both have makes the full file larger than a delta.
    first, other, third = (
        network((1, weight, 1), golden={"notes": random.Random(0).randbytes(4_000).hex()})
        for weight in (1, 2, 3)
    )
    blob, result = encode(first, third, bits=6)
    step1 = step_of(1, first, notes="first")
    deltas = {
        "right": [(first, blob)],
        "damaged": [(first, blob[:-20] + bytes(20))],
        "of another base": [(first, encode(other, third, bits=6)[0])],
        "of another base, which it names": [(other, encode(other, third, bits=6)[0])],
        "to another result": [(first, encode(first, other, bits=6)[0])],
        "no delta": [(first, b"EZD1")],
        "a bomb": [(first, bomb(blob))],
    }[delta_of]
    return step1, step_of(2, result, deltas=deltas, parent=step1)


def bomb(blob):
    """Its first part unpacks to 64 MB."""
    head = bytearray(blob[:108])
    packed = compress(bytes(64 << 20), 19)
    struct.pack_into("<I", head, 92, len(packed))
    return bytes(head) + packed + blob[108 + struct.unpack_from("<I", blob, 92)[0] :]


@pytest.mark.parametrize(
    ("delta_of", "way"),
    [
        ("right", "delta"),
        ("damaged", "full"),
        ("of another base", "full"),
        ("of another base, which it names", "full"),
        ("to another result", "full"),
        ("no delta", "full"),
        ("a bomb", "full"),
    ],
)
def test_a_delta_that_does_not_fit_costs_the_full_file_and_no_more(station, delta_of, way):
    step1, step2 = of_networks(delta_of=delta_of)
    station.publish(step1)
    assert station.update().step == 1
    station.publish(step2)
    outcome = station.update()
    assert (outcome.change, outcome.step) == ("committed", 2)
    assert station.serves == step2.artifact
    full = len(step2.files["models/erfnet/step-2/full"])
    if way == "delta":
        assert outcome.bytes < full
    else:
        assert outcome.bytes >= full


# ---------------------------------------------------------------------------------- long ways


def published_ten_more(station, keys):
    """Steps 2 to 11, with a new key of the timestamp and a new root in between."""
    steps = [OLD]
    for number in range(2, 12):
        steps.append(bundle(number, parent=steps[-1], classes=number + 1))
        station.publish(steps[-1])
        station.later(days=2)
        station.repository.resign([], signers=everyone(station.keys))
        if number == 6:
            spare = keys["spare"][0]
            station.repository.rotate(
                "timestamp", [spare.public_key], signers=[*everyone(keys), spare]
            )
            station.keys = {**keys, "timestamp": [spare]}
    return steps[-1]


@pytest.mark.parametrize("way", ["server", "stick"])
def test_a_device_that_was_off_for_ten_steps_comes_up_in_one(web, keys, way):
    place = str(web.repository.folder) if way == "stick" else None
    last = published_ten_more(web, keys)
    outcome = web.update(place)
    assert (outcome.step, outcome.was_step) == (11, 1)
    assert web.serves == last.artifact
    assert web.state.floors["root"].version == 2


def test_a_stick_that_is_older_than_what_was_seen_is_refused(station):
    stick = station.copy("stick")
    station.publish(NEW)
    station.update()
    with station.refusing("REPLAY"):
        station.update(str(stick))
    (stick / "metadata" / "timestamp.json").unlink()
    with station.refusing("CORRUPT") as caught:
        station.update(str(stick))
    assert "copy the repository again" in caught.value.hint


def test_a_stick_without_the_delta_still_has_the_full_file(station):
    content = random.Random(1).randbytes(300_000)
    station.publish(step_of(2, content, deltas=[(OLD.artifact, b"EZD1")], parent=OLD))
    stick = station.copy("stick")
    next(stick.rglob("*.delta-0")).unlink()
    assert station.update(str(stick)).step == 2
    assert station.serves == content


# --------------------------------------------------------------------------- the publisher dies


def copies(station):
    """The files of a repository in the order in which they are to be uploaded."""
    folder = station.repository.folder
    files = [f.relative_to(folder) for f in folder.rglob("*") if f.is_file()]
    order = ("targets", "metadata", "metadata/timestamp.json")

    def rank(file):
        name = file.as_posix()
        return (max(i for i, begin in enumerate(order) if name.startswith(begin)), name)

    return sorted((f for f in files if f.parts[0] in ("targets", "metadata")), key=rank)


def test_an_upload_that_is_cut_off_after_any_file_shows_the_old_or_the_new(station):
    mirror = station.copy("mirror")
    station.publish(NEW)
    seen = []
    for file in copies(station):
        (mirror / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(station.repository.folder / file, mirror / file)
        seen.append(station.update(str(mirror)).change)
    assert set(seen[:-1]) == {"nothing"}
    assert seen[-1] == "committed"
    assert station.serves == NEW.artifact


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork and SIGKILL")
def test_a_publisher_killed_after_any_file_leaves_the_old_or_the_new(station):
    fork = multiprocessing.get_context("fork")
    changes, writes = [], 0
    while True:

        def publish(left=writes):
            real = _tree.write_atomic

            def write(path, content):
                nonlocal left
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                real(path, content)

            _tree.write_atomic = write
            station.publish(NEW)

        process = fork.Process(target=publish)
        process.start()
        process.join(60)
        changes.append(station.update().change)
        assert station.serves == (NEW if changes[-1] == "committed" else OLD).artifact
        if process.exitcode == 0:
            break
        station.publish(NEW)  # the publisher comes again
        assert station.update().step == 2
        assert process.exitcode == -signal.SIGKILL
        station.start_again()
        writes += 1
    assert writes >= 10
    assert set(changes[:-1]) == {"nothing"}
