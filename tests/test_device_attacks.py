"""Attacks on a whole device: it refuses with a reason, serves on, and takes what is genuine."""

import json
import shutil
from dataclasses import replace
from datetime import timedelta, timezone

import pytest
import rfc8785
from devices import Repository, World, bundle, channel, installed, served
from stations import NEW, OLD, step_of
from trust_parts import CHANNEL, FLEET, MODEL, everyone

from edgeinc.errors import EdgeincError, UpdateError
from edgeinc.schema import ClassInfo
from edgeinc.update import _zstd
from edgeinc.update.manifest import bundle_id, write


def takes(station, wanted=NEW):
    """The genuine repository still works."""
    outcome = station.update()
    assert (outcome.change, outcome.step) == ("committed", wanted.step)
    assert station.serves == wanted.artifact


# ------------------------------------------------------------------- keys, thresholds, expiry


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp", MODEL, FLEET])
@pytest.mark.parametrize("signers", ["of no role", "of another role", "none"])
def test_a_step_that_the_right_keys_did_not_sign_is_refused(station, keys, role, signers):
    station.publish(NEW)
    genuine = station.copy("genuine")
    other = MODEL if role == FLEET else FLEET
    wrong = {"of no role": keys["spare"][:1], "of another role": keys[other], "none": []}[signers]
    with station.forge.edit(role, signers=wrong) as signed:
        signed.version += 1
    with station.refusing("TRUST"):
        station.update()
    assert station.world.loaded == []
    _offer(station, genuine, keys)
    takes(station)


def _offer(station, folder, keys):
    """The publisher goes on from a copy, with versions above all that were seen."""
    shutil.rmtree(station.repository.folder)
    shutil.copytree(folder, station.repository.folder)
    for _ in range(3):
        station.repository.resign([], signers=everyone(keys))


def test_a_root_below_its_threshold_changes_nothing(station, keys):
    station.publish(NEW)
    with station.forge.edit("root", signers=keys["root"][:1]) as root:
        root.version += 1
        root.add_key(keys["spare"][0].public_key, "timestamp")
    with station.refusing("TRUST"):
        station.update()
    assert station.state.floors["root"].version == 1
    (station.repository.folder / "metadata" / "2.root.json").unlink()
    takes(station)


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp", MODEL, FLEET])
def test_expired_metadata_stops_updates_and_not_the_serving(station, keys, role):
    station.publish(NEW)
    with station.forge.edit(role) as signed:
        signed.version += 1
        signed.expires = station.clock.time.astimezone(timezone.utc) - timedelta(seconds=1)
    with station.refusing("TRUST") as caught:
        station.update()
    assert "expired" in caught.value.message
    with station.forge.edit(role) as signed:
        signed.version += 1
        signed.expires = station.clock.time.astimezone(timezone.utc) + timedelta(days=1)
    takes(station)


# ------------------------------------------------------------------------------------- replay

CACHES = {
    "intact": lambda root: None,
    "deleted": lambda root: shutil.rmtree(root / "tuf"),
    "zero-length": lambda root: [f.write_bytes(b"") for f in (root / "tuf").rglob("*.json")],
    "journal torn": lambda root: (root / "state.json").write_bytes(b""),
    "cache and both journals lost": lambda root: [
        shutil.rmtree(root / "tuf"),
        *(file.write_bytes(b"") for file in root.glob("state*.json")),
    ],
}


@pytest.mark.parametrize("damage", CACHES.values(), ids=CACHES)
def test_a_replayed_repository_is_refused(station, damage):
    old = station.copy("old")
    station.publish(NEW)
    takes(station)
    damage(station.root)
    with station.refusing("REPLAY"):
        station.update(str(old))
    assert station.serves in (OLD.artifact, NEW.artifact)  # the journal before may be in force
    station.update()
    assert station.serves == NEW.artifact


def test_an_old_channel_in_new_metadata_is_refused(station, keys):
    """Mix-and-match: yesterday's order under today's snapshot."""
    old = station.forge.path(FLEET).read_bytes()
    station.publish(NEW)
    station.forge.path(FLEET).write_bytes(old)
    with station.refusing("CORRUPT"):
        station.update()


def test_a_fleet_cannot_order_what_no_model_team_signed(station, keys):
    evil = bundle(9)
    station.ask_for(evil)
    with station.refusing("TRUST") as caught:
        station.update()
    assert evil.path in caught.value.message


def test_a_fleet_that_signs_a_step_itself_is_not_heard(station, keys):
    evil = bundle(2, notes="evil")
    station.ask_for(evil)
    with station.forge.edit(FLEET) as signed:
        signed.version += 1
        for path, content in {evil.path: evil.content, **evil.files}.items():
            station.lay_down(signed, path, content)
    with station.refusing("TRUST"):
        station.update()


@pytest.mark.parametrize("what", ["manifest", "blobs"])
def test_a_fleet_cannot_sign_a_step_under_its_own_path(station, keys, what):
    """With the keys of the fleet and the online ones, and nothing of the model's."""
    evil, below = bundle(2, notes="evil"), "channels/north"
    named = json.loads(evil.content)
    if what == "blobs":
        for blob in named["blobs"]:
            blob["target"] = f"{below}/{blob['kind']}"
    content = rfc8785.dumps(named)
    path = f"{below}/manifest.json" if what == "manifest" else evil.path
    order = json.loads(write(channel(evil, fleet="north")))
    order |= {"manifest": path, "bundle_id": bundle_id(content)}
    with station.forge.edit(FLEET) as signed:
        signed.version += 1
        station.lay_down(signed, CHANNEL, rfc8785.dumps(order))
        for name, blob in evil.files.items():
            station.lay_down(signed, f"{below}/{name.rpartition('/')[2]}", blob)
        if what == "manifest":
            station.lay_down(signed, path, content)
    if what == "blobs":  # the model's own team cannot point at files of the fleet either
        with station.forge.edit(MODEL) as signed:
            signed.version += 1
            station.lay_down(signed, path, content)
    served = station.state.current
    with pytest.raises(EdgeincError) as refused:
        station.update()
    assert "not a file of a release of erfnet" in str(refused.value.message)
    assert station.state.current == served


def test_a_model_team_cannot_order_anything(station, keys):
    station.publish(NEW, paused=True)
    order = write(channel(NEW, fleet="north"))
    with station.forge.edit(MODEL) as signed:
        signed.version += 1
        station.lay_down(signed, CHANNEL, order)
    assert station.update().reason == "PAUSED"


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", MODEL])
@pytest.mark.parametrize("cache", ["intact", "deleted"])
def test_after_a_fast_forward_new_keys_bring_updates_back(station, keys, role, cache):
    good = station.forge.load(role).signed.version
    with station.forge.edit(role) as signed:
        signed.version = 1_000_000
    assert station.update().change == "nothing"
    assert station.state.floors[role].version == 1_000_000
    with station.forge.edit(role) as signed:
        signed.version = good
    with station.refusing("REPLAY"):
        station.update()
    snapshot, timestamp = keys["spare"][:2]
    with station.forge.edit("root") as root:
        root.version += 1
        for top, spare in (("snapshot", snapshot), ("timestamp", timestamp)):
            root.revoke_key(root.roles[top].keyids[0], top)
            root.add_key(spare.public_key, top)
    station.keys = {**keys, "snapshot": [snapshot], "timestamp": [timestamp]}
    forge = station.forge
    with forge.edit("snapshot") as signed:
        signed.version = 100
    with forge.edit("timestamp") as signed:
        signed.version = 100
    if cache == "deleted":
        shutil.rmtree(station.root / "tuf")
    station.publish(NEW)
    takes(station)


# -------------------------------------------------------------------------- orders to go back


@pytest.mark.parametrize("rollback", [False, True])
def test_nothing_goes_below_what_was_revoked(station, rollback):
    station.publish(NEW, revoke_below=2)
    takes(station)
    station.ask_for(OLD, rollback=rollback)
    with station.refusing("REVOKED"):
        station.update()
    assert station.state.revocation_floor == 2


def test_a_fleet_goes_back_by_an_order_and_not_without_one(station):
    station.publish(NEW)
    takes(station)
    station.ask_for(OLD)
    assert station.update().reason == "OLDER"
    assert station.serves == NEW.artifact
    station.ask_for(OLD, rollback=True)
    takes(station, OLD)


# -------------------------------------------------------------------------------------- clocks


@pytest.mark.parametrize(
    ("days", "reason"), [(-50 * 365, "CLOCK"), (-2, "CLOCK"), (10 * 365, "TRUST")]
)
def test_a_wrong_clock_stops_updates_until_it_is_set(station, days, reason):
    station.publish(NEW)
    station.later(days=days)
    with station.refusing(reason):
        station.update()
    station.later(days=-days)
    takes(station)


def test_a_clock_that_jumps_during_an_update_is_noticed_by_the_next(station):
    station.publish(NEW)

    def jump(*slot):
        station.later(days=-50 * 365)
        return station.world.prove(*slot)

    assert station.update(prove=jump).change == "committed"
    with station.refusing("CLOCK"):
        station.update()
    station.later(days=50 * 365)
    assert station.update().change == "nothing"


# --------------------------------------------------------------------------- what was signed badly


def test_a_step_that_renames_an_id_is_refused(station):
    names = tuple(ClassInfo(i, f"other{i}", (i, i, i), 0) for i in range(2))
    station.publish(bundle(2, parent=OLD, changed={"classes": names}))
    with station.refusing("INCOMPATIBLE") as caught:
        station.update()
    assert "another meaning" in caught.value.message
    station.publish(bundle(3, parent=OLD))
    assert station.update().step == 3


def unpacks_to_much():
    """A few kilobytes that would be 64 MB."""
    return step_of(2, b"artifact", full=_zstd.compress(bytes(64 << 20), 1), parent=OLD)


def names_a_path_outside():
    made = bundle(2, parent=OLD)
    old = b"models/erfnet/step-2/full"
    return replace(made, content=made.content.replace(old, b"models/../../../etc/passwd"))


def has_an_endless_header():
    made = bundle(2, parent=OLD)
    return replace(made, content=b'{"notes":"' + b"x" * (1 << 20) + made.content[1:])


def names_a_file_in_a_folder():
    made = bundle(2, parent=OLD)
    return replace(made, content=made.content.replace(b'"step.onnx"', b'"../../step.onnx"'))


def is_nested_without_end():
    return replace(bundle(2, parent=OLD), content=b'{"a":' * 5000)


def is_empty():
    return replace(bundle(2, parent=OLD), content=b"")


def has_another_full_file():
    made = bundle(2, parent=OLD)
    return step_of(2, made.artifact, full=_zstd.compress(b"x" * len(made.artifact), 1), parent=OLD)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (unpacks_to_much, "CORRUPT"),
        (names_a_path_outside, "INCOMPATIBLE"),
        (has_an_endless_header, "CORRUPT"),
        (names_a_file_in_a_folder, "INCOMPATIBLE"),
        (is_nested_without_end, "INCOMPATIBLE"),
        (is_empty, "INCOMPATIBLE"),
        (has_another_full_file, "CORRUPT"),
    ],
    ids=lambda one: getattr(one, "__name__", one),
)
def test_what_is_signed_and_cannot_be_right_is_refused(station, make, reason):
    station.publish(make())
    station.world.loaded.clear()
    with station.refusing(reason):
        station.update()
    assert station.world.loaded == []
    assert list((station.root / "dl").iterdir()) == []
    station.publish(NEW)
    takes(station)


def test_golden_answers_that_unpack_to_too_much_are_refused(station):
    made = bundle(2, parent=OLD, golden=_zstd.compress(bytes(65 << 20), 1))
    packed = made.content.replace(b'"codec":"npz"', b'"codec":"zstd"')
    station.publish(replace(made, content=packed))
    with station.refusing("CORRUPT"):
        station.update()
    assert list((station.root / "dl").iterdir()) == []


# ------------------------------------------------------------------------------- concurrency


def test_an_update_that_comes_during_a_rollback_is_told_to_wait(tmp_path):
    world = World(Repository([OLD], channel(OLD)))
    root = installed(tmp_path / "device", world)
    world.repository = Repository([OLD, NEW], channel(NEW), version=2)
    world.update(root)
    said = []

    def meanwhile(event):
        if event.what == "rolled back":
            with pytest.raises(UpdateError) as busy:
                world.update(root)
            said.append(busy.value.reason)

    world.device(root, report=meanwhile).rollback()
    assert said == ["BUSY"]
    assert served(root) == OLD.artifact
