"""What an attacker offers is refused, and the genuine repository works afterwards.

Written from the client workflow of the TUF specification (section 5) and from what a power cut does
to the files of a device.
"""

import json
import shutil
from datetime import datetime, timedelta, timezone
from urllib.parse import unquote

import pytest
from trust_parts import BLOB, CHANNEL, CONTENT, FLEET, MANIFEST, MODEL, everyone, refused
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, MetaFile, TargetFile, Targets

from edgeinc.errors import UpdateError

TOP = ("root", "targets", "snapshot", "timestamp")


def advance(repository, keys, times=1):
    """New versions of everything that is not root."""
    for _ in range(times):
        repository.resign([], signers=everyone(keys))


def copy_of(published, tmp_path):
    shutil.copytree(published.folder, tmp_path / "old")
    return tmp_path / "old"


# ---------------------------------------------------------------------------- expiry and clocks


@pytest.mark.parametrize("role", [*TOP, MODEL])
def test_expired_metadata_of_any_role_is_refused(device, forge, clock, role):
    with forge.edit(role) as signed:
        signed.version += 1
        signed.expires = clock.time.astimezone(timezone.utc) - timedelta(seconds=1)
    with refused("TRUST") as caught:
        device.refresh().target(MANIFEST)
    assert "expired" in caught.value.message


def test_a_device_that_slept_past_every_expiry_takes_what_was_signed_meanwhile(
    device, published, keys, clock
):
    device.refresh()
    clock.add(days=100)
    with refused("TRUST"):
        device.refresh()
    advance(published, keys)
    device.refresh()


def test_an_expired_root_between_two_others_does_not_stop_a_device(
    device, published, forge, keys, clock
):
    with forge.edit("root") as root:
        root.version += 1
        root.expires = clock.time - timedelta(days=1)
    with forge.edit("root") as root:
        root.version += 1
        root.expires = clock.time + timedelta(days=1)
    assert device.refresh() is not None
    assert device.floors["root"].version == 3


@pytest.mark.parametrize(
    "when",
    [datetime(1971, 1, 1, tzinfo=timezone.utc), datetime(2025, 1, 1, tzinfo=timezone.utc)],
    ids=str,
)
def test_a_clock_before_this_code_was_written_takes_nothing(device, clock, server, when):
    clock.time = when
    with refused("CLOCK"):
        device.refresh()
    assert server.asked == []


def test_a_clock_that_jumped_back_takes_nothing_until_it_is_set(device, clock):
    clock.add(days=2)
    device.refresh()
    clock.add(hours=-23)
    device.refresh()
    device.checked = clock.time
    clock.add(hours=-25)
    with refused("CLOCK"):
        device.refresh()
    clock.add(hours=2)
    device.refresh()


def test_a_clock_ten_years_ahead_takes_nothing(device, clock):
    clock.add(days=3650)
    with refused("TRUST"):
        device.refresh()


# ------------------------------------------------------------------------------------ rollback


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", MODEL, FLEET])
@pytest.mark.parametrize("cache", ["intact", "deleted"])
def test_a_lower_version_of_any_role_is_refused(device, published, forge, keys, role, cache):
    advance(published, keys, 2)
    device.refresh()
    with forge.edit(role) as signed:
        signed.version -= 1
    if cache == "deleted":
        shutil.rmtree(device.cache)
    with refused("REPLAY"):
        device.refresh()


def test_a_role_that_vanished_from_the_snapshot_is_refused(device, published, forge):
    device.refresh()
    with forge.edit("snapshot") as snapshot:
        snapshot.version += 1
        del snapshot.meta[f"{FLEET}.json"]
    with refused("TRUST"):
        device.refresh()
    shutil.rmtree(device.cache)
    with refused("REPLAY"):
        device.refresh()


DAMAGES = {
    "intact": lambda cache: None,
    "deleted": shutil.rmtree,
    "zero-length": lambda cache: [f.write_bytes(b"") for f in cache.glob("*.json")],
    "zero-length with roots": lambda cache: [f.write_bytes(b"") for f in cache.rglob("*.json")],
    "garbage": lambda cache: [f.write_bytes(b'{"signed": 1}') for f in cache.rglob("*.json")],
    "no root link": lambda cache: (cache / "root.json").unlink(),
    "root is a folder": lambda cache: [
        (cache / "root.json").unlink(),
        (cache / "root.json").mkdir(),
    ],
    "a file": lambda cache: [shutil.rmtree(cache), cache.write_bytes(b"")],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_replay_is_refused_whatever_happened_to_the_cache(
    device, published, server, keys, tmp_path, damage
):
    old = copy_of(published, tmp_path)
    advance(published, keys)
    device.refresh()
    floors = device.floors
    damage(device.cache)
    server.folder = old
    with refused("REPLAY"):
        device.refresh()
    assert device.floors == floors
    server.folder = published.folder
    assert device.take() == CONTENT[BLOB]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cache_heals_by_itself(device, damage):
    device.refresh()
    damage(device.cache)
    assert device.take() == CONTENT[BLOB]


def test_roots_that_are_withheld_are_missed(device, published, keys, tmp_path):
    published.resign(["root"], signers=everyone(keys))
    device.refresh()
    shutil.rmtree(device.cache)
    (published.folder / "metadata" / "2.root.json").unlink()
    with refused("REPLAY") as caught:
        device.refresh()
    assert "root" in caught.value.message


def test_leftovers_of_a_refresh_that_was_cut_off_go(device):
    device.refresh()
    (device.cache / "tmpabc").write_bytes(b"{")
    device.refresh()
    assert not (device.cache / "tmpabc").exists()


# ------------------------------------------------------------------------- fast-forward


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", MODEL])
@pytest.mark.parametrize("cache", ["intact", "deleted"])
def test_versions_run_up_by_a_thief_come_down_when_the_online_keys_are_replaced(
    device, published, forge, keys, role, cache
):
    good = forge.load(role).signed.version
    with forge.edit(role) as signed:
        signed.version = 1_000_000
    device.refresh()
    assert device.floors[role].version == 1_000_000
    with forge.edit("root") as root:
        root.version += 1
        for top, spare in (("snapshot", keys["spare"][0]), ("timestamp", keys["spare"][1])):
            root.revoke_key(root.roles[top].keyids[0], top)
            root.add_key(spare.public_key, top)
    forge.keys = {**keys, "snapshot": [keys["spare"][0]], "timestamp": [keys["spare"][1]]}
    with forge.edit(role) as signed:
        signed.version = good
    with forge.edit("snapshot") as snapshot:
        snapshot.version = 3
    with forge.edit("timestamp") as timestamp:
        timestamp.version = 3
    if cache == "deleted":
        shutil.rmtree(device.cache)
    device.refresh()
    assert device.floors[role].version == (3 if role in ("snapshot", "timestamp") else good)
    assert device.take() == CONTENT[BLOB]


def test_a_floor_stays_while_its_key_does(device, published, keys):
    """A second key beside the first is no reason to go back."""
    advance(published, keys, 2)
    device.refresh()
    floor = device.floors["timestamp"]
    published.rotate(
        "timestamp",
        [keys["timestamp"][0].public_key, keys["spare"][0].public_key],
        signers=everyone(keys),
    )
    device.floors["timestamp"] = type(floor)(floor.version + 100, floor.keys)
    shutil.rmtree(device.cache)
    with refused("REPLAY"):
        device.refresh()


# --------------------------------------------------------------------- signatures and root


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp", MODEL])
@pytest.mark.parametrize("signers", ["spare", "none", "of another role"])
def test_metadata_that_its_role_did_not_sign_is_refused(device, forge, keys, role, signers):
    wrong = {"spare": keys["spare"][:1], "none": [], "of another role": keys[FLEET]}[signers]
    with forge.edit(role, signers=wrong) as signed:
        signed.version += 1
    with refused("TRUST"):
        device.refresh().target(MANIFEST)


@pytest.mark.parametrize("role", ["snapshot", MODEL])
def test_one_flipped_bit_of_content_or_signature_is_refused(device, forge, role):
    text = forge.path(role).read_text()
    for old, new in (('"expires":"2', '"expires":"3'), ('"sig":"', '"sig":"0')):
        assert old in text
        forge.path(role).write_text(text.replace(old, new, 1))
        with refused("CORRUPT"):  # the hash in what names it
            device.refresh().target(MANIFEST)
    forge.path(role).write_text(text)
    device.refresh().target(MANIFEST)


def test_two_signatures_of_the_same_key_are_one(device, forge, keys):
    with forge.edit("root", signers=[keys["root"][0], keys["root"][0]]) as root:
        root.version += 1
    with refused("TRUST"):
        device.refresh()


@pytest.mark.parametrize(
    ("old", "new", "taken"),
    [(2, 2, True), (2, 1, False), (1, 2, False), (0, 2, False), (2, 0, False)],
)
def test_a_new_root_needs_the_threshold_of_the_old_and_of_the_new(
    device, forge, keys, old, new, taken
):
    fresh = keys["spare"][:3]
    with forge.edit("root", signers=[*keys["root"][:old], *fresh[:new]]) as root:
        root.version += 1
        for keyid in list(root.roles["root"].keyids):
            root.revoke_key(keyid, "root")
        for signer in fresh:
            root.add_key(signer.public_key, "root")
    if taken:
        device.refresh()
        assert device.floors["root"].version == 2
    else:
        with refused("TRUST"):
            device.refresh()
        assert not (device.cache / "root_history" / "2.root.json").exists()


def test_a_root_cannot_lower_the_threshold_by_itself(device, forge, keys):
    with forge.edit("root", signers=keys["root"][:1]) as root:
        root.version += 1
        root.roles["root"].threshold = 1
    with refused("TRUST"):
        device.refresh()


def test_a_root_under_the_next_name_with_another_version_is_refused(device, forge):
    metadata = forge.load("root")
    metadata.signed.version = 3
    forge.write("root", metadata)
    forge.path("root", 3).rename(forge.path("root", 2))
    with refused("REPLAY"):
        device.refresh()


def test_three_roots_in_a_row_are_walked_one_by_one(device, published, keys, server):
    for _ in range(3):
        published.resign(["root"], signers=everyone(keys))
    device.refresh()
    asked = [path.rpartition("/")[2] for path in server.asked if "root" in path]
    assert asked == ["2.root.json", "3.root.json", "4.root.json", "5.root.json"]
    assert device.floors["root"].version == 4


def test_a_key_that_root_revoked_signs_nothing_more(device, published, keys):
    device.refresh()
    published.rotate(
        "timestamp", [keys["spare"][0].public_key], signers=[*everyone(keys), keys["spare"][0]]
    )
    device.refresh()
    file = published.folder / "metadata" / "timestamp.json"
    metadata = Metadata.from_file(str(file))
    metadata.signed.version += 1
    metadata.sign(keys["timestamp"][0])
    file.write_bytes(metadata.to_bytes())
    with refused("TRUST"):
        device.refresh()


def test_a_root_of_another_repository_opens_nothing(device, keys):
    metadata = Metadata.from_bytes(device.root)
    for keyid in list(metadata.signed.roles["timestamp"].keyids):
        metadata.signed.revoke_key(keyid, "timestamp")
    metadata.signed.add_key(keys["spare"][0].public_key, "timestamp")
    metadata.signatures.clear()
    for signer in keys["root"]:
        metadata.sign(signer, append=True)
    device.root = metadata.to_bytes()
    with refused("TRUST"):
        device.refresh()


@pytest.mark.parametrize("root", [b"", b"{}", b"[" * 100_000, b'{"signed": {}, "signatures": []}'])
def test_a_bootstrap_root_that_is_none_is_refused(device, root):
    device.root = root
    with refused("CORRUPT"):
        device.refresh()


# ------------------------------------------------------------------------------- mix-and-match


def test_targets_of_one_day_do_not_go_with_the_snapshot_of_another(device, published, forge, keys):
    old = forge.path(MODEL).read_bytes()
    published.add_targets(MODEL, {MANIFEST: b"{}"}, signers=everyone(keys))
    forge.path(MODEL).write_bytes(old)
    with refused("CORRUPT"):
        device.refresh().target(MANIFEST)


def test_without_hashes_the_version_still_has_to_fit(device, published, forge, keys):
    old = forge.path(MODEL).read_bytes()
    with forge.edit(MODEL) as signed:
        signed.version += 1
    forge.path(MODEL).write_bytes(old)
    with refused("REPLAY"):
        device.refresh().target(MANIFEST)


def test_a_snapshot_that_the_timestamp_does_not_name_is_refused(device, forge):
    with forge.edit("snapshot", chain=False) as snapshot:
        snapshot.meta[f"{MODEL}.json"] = MetaFile(9)
    with refused("CORRUPT"):
        device.refresh()


# --------------------------------------------------------------------------------- delegations


def test_a_role_cannot_sign_outside_its_paths(device, forge):
    with forge.edit(FLEET) as signed:
        signed.version += 1
        signed.targets["models/erfnet/step-0009/manifest.json"] = TargetFile.from_data("x", b"x")
        signed.targets[MANIFEST] = TargetFile.from_data("x", b"evil")
    trusted = device.refresh()
    assert not trusted.signs("models/erfnet/step-0009/manifest.json")
    assert trusted.target(MANIFEST) == CONTENT[MANIFEST]
    assert trusted.target(CHANNEL) == b'{"step": 1}'


@pytest.mark.parametrize(
    "path",
    [
        "models/erfnet/manifest.json",
        "models/erfnet/step-0001/more/manifest.json",
        "models/erfnet2/step-0001/manifest.json",
        "MODELS/erfnet/step-0001/manifest.json",
        "xmodels/erfnet/step-0001/manifest.json",
    ],
)
def test_a_pattern_means_the_whole_path_and_no_slash_more(device, forge, path):
    with forge.edit(MODEL) as signed:
        signed.version += 1
        signed.targets[path] = TargetFile.from_data(path, b"x")
    assert not device.refresh().signs(path)


def delegate(forge, keys, parent, *children):
    """Give `parent` delegations: name, pattern, terminating, signed targets."""
    with forge.edit(parent) as signed:
        signed.version += 1
        signed.delegations = Delegations({}, {})
        for name, pattern, terminating, _ in children:
            signed.delegations.roles[name] = DelegatedRole(name, [], 1, terminating, [pattern])
            signed.add_key(keys["spare"][0].public_key, name)
    for name, _, _, targets in children:
        signed = Targets(expires=datetime.now(timezone.utc) + timedelta(days=9))
        signed.targets = {path: TargetFile.from_data(path, path.encode()) for path in targets}
        forge.write(name, Metadata(signed), keys["spare"][:1])
        with forge.edit("snapshot") as snapshot:
            snapshot.version += 1
            snapshot.meta[f"{name}.json"] = MetaFile(1)


A = "models/erfnet/site-a/step-0002.manifest.json"


@pytest.mark.parametrize(("terminating", "found"), [(True, False), (False, True)])
def test_a_terminating_role_ends_the_search(device, forge, keys, terminating, found):
    delegate(
        forge,
        keys,
        MODEL,
        ("one", "models/erfnet/site-a/*", terminating, []),
        ("two", "models/erfnet/*/*", False, [A]),
    )
    assert device.refresh().signs(A) is found


def test_the_first_of_two_roles_wins(device, forge, keys, server):
    b = "models/erfnet/site-b/x"
    delegate(
        forge,
        keys,
        MODEL,
        ("one", "models/erfnet/site-a/*", False, [A]),
        ("two", "models/erfnet/*/*", False, [A, b]),
    )
    trusted = device.refresh()
    assert trusted.signs(A)
    assert not any("two" in path for path in server.asked)
    assert trusted.signs(b)


def test_a_role_is_trusted_by_each_delegation_for_itself(device, forge, keys):
    """Two roles delegate to a third with different keys; those of the first alone signed it."""
    a, b = "models/erfnet/site-a/x", "models/erfnet/site-b/x"
    delegate(
        forge,
        keys,
        MODEL,
        ("one", "models/erfnet/site-a/*", False, []),
        ("two", "models/erfnet/site-b/*", False, []),
    )
    shared = Metadata(Targets(expires=datetime.now(timezone.utc) + timedelta(days=9)))
    shared.signed.targets = {path: TargetFile.from_data(path, b"x") for path in (a, b)}
    for name, key in (("one", keys["spare"][0]), ("two", keys["spare"][1])):
        parent = Metadata.from_file(str(forge.path(name)))
        parent.signed.delegations = Delegations({}, {})
        role = DelegatedRole("shared", [], 1, False, ["models/*/*/*"])
        parent.signed.delegations.roles["shared"] = role
        parent.signed.add_key(key.public_key, "shared")
        forge.write(name, parent, keys["spare"][:1])
    with forge.edit("snapshot") as snapshot:
        snapshot.version += 1
        snapshot.meta["shared.json"] = MetaFile(1)
    forge.write("shared", shared, keys["spare"][:1])
    for paths in ((a, b), (b, a)):
        trusted = device.refresh()
        for path in paths:
            if path == a:
                assert trusted.signs(a)
                continue
            with refused("TRUST"):
                trusted.signs(b)


def test_roles_that_delegate_to_each_other_end(device, forge, keys):
    delegate(forge, keys, MODEL, ("one", "models/erfnet/site-a/*", False, []))
    with forge.edit(MODEL):
        pass
    loop = Metadata.from_file(str(forge.path("one")))
    loop.signed.delegations = Delegations({}, {})
    loop.signed.delegations.roles["one"] = DelegatedRole("one", [], 1, False, ["models/*/*/*"])
    loop.signed.add_key(keys["spare"][0].public_key, "one")
    forge.write("one", loop, keys["spare"][:1])
    assert not device.refresh().signs(A)


@pytest.mark.parametrize("name", ["?", "#", "/site", "../site", "%2e%2e", "a b", "ümlaut"])
def test_unusual_names_of_roles_stay_in_the_folders(device, forge, keys, name, published):
    delegate(forge, keys, MODEL, ("plain", "models/erfnet/site-a/*", False, [A]))
    with forge.edit(MODEL) as signed:
        role = signed.delegations.roles.pop("plain")
        role.name = name
        signed.delegations.roles[name] = role
    file = published.folder / "metadata" / f"1.{name}.json"  # as a web server finds it
    file.parent.mkdir(exist_ok=True)
    forge.path("plain").rename(file)
    with forge.edit("snapshot") as snapshot:
        snapshot.version += 1
        snapshot.meta[f"{name}.json"] = MetaFile(1)
    assert device.refresh().signs(A)
    files = {f for f in device.folder.rglob("*") if f.is_file()}
    assert all(f.parent in (device.cache, device.cache / "root_history") for f in files)


@pytest.mark.parametrize("name", ["a b", "ü", "a%20b", "a+b", "a'b", "step&x=1"])
def test_unusual_names_of_files_are_fetched(device, forge, published, name):
    path = f"models/erfnet/step-0001/{name}"
    target = TargetFile.from_data(path, b"content")
    with forge.edit(MODEL) as signed:
        signed.version += 1
        signed.targets[path] = target
    file = published.folder / "targets" / unquote(target.get_prefixed_paths()[0])
    file.write_bytes(b"content")
    assert device.refresh().target(path) == b"content"


def test_a_site_signs_below_its_own_path_only(device, published, keys):
    spare = keys["spare"][0]
    signers = [*everyone(keys), spare]
    published.rotate("site-a", [spare.public_key], signers=signers, model="erfnet")
    published.add_targets("site-a", {A: b"site"}, signers=signers)
    trusted = device.refresh()
    assert trusted.target(A) == b"site"
    with pytest.raises(UpdateError):
        trusted.target("models/erfnet/site-b/step-0002.manifest.json")


# ------------------------------------------------------------------------------ hostile shapes


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["signed"].pop("expires"),
        lambda d: d["signed"].update(version="1"),
        lambda d: d["signed"].update(version=-1),
        lambda d: d["signed"].update(_type="root"),
        lambda d: d["signed"].update(spec_version="9.0.0"),
        lambda d: d["signed"].update(meta={}),
        lambda d: d["signed"].update(expires="soon"),
        lambda d: d.update(signatures={}),
        lambda d: d.update(signatures=[{"keyid": "x"}]),
        lambda d: d.clear(),
    ],
)
def test_metadata_of_another_shape_is_refused_in_one_line(device, published, change):
    file = published.folder / "metadata" / "timestamp.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    with pytest.raises(UpdateError) as caught:
        device.refresh()
    assert "\n" not in caught.value.message
