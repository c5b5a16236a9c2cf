"""What a publisher does with a repository, by commands and by functions; files on disk decide."""

import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from filelock import FileLock
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import CryptoSigner
from trust_parts import BLOB, CHANNEL, CONTENT, FLEET, MANIFEST, MODEL, everyone
from tuf.api.metadata import Metadata

from edgeinc import runs
from edgeinc.cli import main
from edgeinc.errors import EdgeincError, MissingError, RunError, UsageError
from edgeinc.update import keys as key_module
from edgeinc.update.ceremony import begin
from edgeinc.update.keys import generate, public_key, signer_of, signers_of
from edgeinc.update.refusal import Refusal
from edgeinc.update.repository import Repository
from edgeinc.update.roles import channel_path, kind_of, model_role, release_path
from edgeinc.update.serving_files import Handler, server_of
from edgeinc.update.verify import verify

HOME = ["file:keys/offline", "file:keys/teams", "file:keys/online"]


@pytest.fixture
def edgeinc(tmp_path, monkeypatch, capsys):
    """Run `edgeinc repo ...` in an empty folder; the document of `--json`, or (code, error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "*")

    def run(*words, fails=0):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["repo", *map(str, words), "--json"])
        out, err = capsys.readouterr()
        assert end.value.code == fails, err
        assert "Traceback" not in err
        return json.loads(err)["error"] if fails else json.loads(out)

    return run


@pytest.fixture
def made(edgeinc, tmp_path):
    """A repository made by the command, with its keys beside it."""
    edgeinc("init", "repo", "--model", "erfnet", "--fleet", "north", "--keys", "keys")
    return tmp_path / "repo"


def signing(*uris):
    return [word for uri in uris or HOME for word in ("--key", uri)]


def state(folder):
    """Content of every file, without the lock."""
    files = (f for f in folder.rglob("*") if f.is_file() and f.name != ".lock")
    return {str(f.relative_to(folder)): f.read_bytes() for f in files}


# -------------------------------------------------------------------------------------- init


def test_init_makes_roles_thresholds_and_lifetimes(edgeinc, made):
    roles = {role["name"]: role for role in edgeinc("ls", "repo")["roles"]}
    assert {name: (len(r["keys"]), r["threshold"]) for name, r in roles.items()} == {
        "root": (3, 2),
        **dict.fromkeys(("targets", "snapshot", "timestamp", MODEL, FLEET), (1, 1)),
    }
    assert len({key for role in roles.values() for key in role["keys"]}) == 8
    days = {name: round(role["days_left"]) for name, role in roles.items()}
    assert days == {
        **{"root": 365, "targets": 365, MODEL: 180, FLEET: 30},
        **{"snapshot": 7, "timestamp": 3},
    }
    assert roles[MODEL]["paths"] == ["models/erfnet/*/*"]
    assert edgeinc("verify", "repo")["versions"]["root"] == 1


def test_keys_are_for_their_owner_and_offline_ones_lie_apart(made, tmp_path):
    files = sorted(
        str(f.relative_to(tmp_path / "keys")) for f in (tmp_path / "keys").rglob("*.pem")
    )
    assert files == [
        "offline/root-1.pem",
        "offline/root-2.pem",
        "offline/root-3.pem",
        "offline/targets.pem",
        "online/snapshot.pem",
        "online/timestamp.pem",
        "teams/channel-north.pem",
        "teams/model-erfnet.pem",
    ]
    for file in (tmp_path / "keys").rglob("*.pem"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not any(b"PRIVATE" in content for content in state(made).values())


def test_init_takes_keys_that_are_there(edgeinc, tmp_path):
    generate(tmp_path / "mine.pem")
    edgeinc("init", "repo", "--keys", "keys", "--key", "timestamp=file:mine.pem")
    roles = {role["name"]: role for role in edgeinc("ls", "repo")["roles"]}
    assert roles["timestamp"]["keys"] == [public_key("file:mine.pem").keyid]
    assert not (tmp_path / "keys" / "online" / "timestamp.pem").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["repo"], "root has no key"),
        (["repo", "--keys", "repo/keys"], "offered to everyone"),
        (["repo", "--keys", "keys", "--threshold", "4"], "4 of its 3 keys"),
        (["repo", "--keys", "a/b/keys", "--threshold", "4"], "4 of its 3 keys"),
        (["repo", "--keys", "keys", "--model", "../x"], "'../x' cannot be the name of a model"),
        (["repo", "--keys", "keys", "--fleet", ""], "'' cannot be the name of a fleet"),
        (["repo", "--keys", "keys", "--key", "root"], "not ROLE=URI"),
        (["repo", "--keys", ""], "names no folder"),
        (["repo", "--keys", "keys", "--key", "root=file:"], "'file:' is not a key"),
        (["repo", "--keys", "keys", "--key", "boss=file:x"], "no role boss"),
        (["repo", "--keys", "keys", "--key", "root=file:x"], "x cannot be read"),
        (["full", "--keys", "keys"], "full is not empty"),
    ],
)
def test_init_refuses_and_makes_nothing(edgeinc, tmp_path, words, says):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    error = edgeinc("init", *words, fails=2)
    assert says in error["message"]
    assert error["hint"]
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


class Failing:
    """`os.fsync` that fails once, at the call of this number: by then the file has its content."""

    def __init__(self, monkeypatch, at, error):
        self.calls, self.at, self.error, self.real = 0, at, error, os.fsync
        monkeypatch.setattr(os, "fsync", self)

    def __call__(self, descriptor):
        self.calls += 1
        if self.calls == self.at:
            raise self.error
        self.real(descriptor)


def test_init_that_fails_anywhere_leaves_nothing_and_can_be_repeated(tmp_path, monkeypatch):
    def init():
        made = tmp_path / "a" / "keys"
        return begin(tmp_path / "b" / "repo", models=["erfnet"], fleets=["n"], made=made, given=())

    at, full = 1, OSError(errno.ENOSPC, "no space")
    while True:
        with monkeypatch.context() as patch:
            failing = Failing(patch, at, full if at % 2 else KeyboardInterrupt())
            try:
                init()
                break
            except (RunError, KeyboardInterrupt):
                assert list(tmp_path.iterdir()) == [], f"write {at}"
        at += 1
    assert at == failing.calls + 1 > 20
    verify(str(tmp_path / "b" / "repo"))


def test_init_takes_back_nothing_that_was_there(edgeinc, tmp_path, monkeypatch):
    for folder in ("repo", "keys/offline"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "keys" / "offline" / "mine.pem").write_text("mine")
    (tmp_path / "repo" / ".lock").touch()  # of a process that was killed
    with monkeypatch.context() as patch:
        Failing(patch, 12, OSError(errno.ENOSPC, "no space"))
        error = edgeinc("init", "repo", "--keys", "keys", fails=1)
    assert "the disk is full" in error["message"]
    left = [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*")]
    assert left == ["keys/offline/mine.pem"]
    assert (tmp_path / "repo").is_dir()
    edgeinc("init", "repo", "--keys", "keys")
    edgeinc("verify", "repo")


def test_of_two_that_make_a_repository_the_second_changes_nothing(tmp_path, keys, monkeypatch):
    """It looked before the first began, and came to its turn after the first was done."""
    late, first = Repository(tmp_path / "repo"), Repository(tmp_path / "repo")
    given = {role: keys[role] for role in ("root", "targets", "snapshot", "timestamp")}
    looked = late.check_new

    def slow():
        looked()
        first.create(given)

    monkeypatch.setattr(late, "check_new", slow)
    with pytest.raises(UsageError, match="not empty"):
        late.create(given)
    verify(str(tmp_path / "repo"))


def test_a_key_on_a_full_disk_leaves_no_file(tmp_path):
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom edgeinc.errors import RunError\n"
        "from edgeinc.update.keys import generate\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))\n"
        "try: generate(Path(sys.argv[1]))\n"
        "except RunError as err: print(err.message)\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "key.pem")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "the disk is full" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_second_init_overwrites_no_key(edgeinc, made, tmp_path):
    error = edgeinc("init", "other", "--keys", "keys", fails=2)
    assert "root-1.pem exists" in error["message"]
    assert not (tmp_path / "other").exists()


# --------------------------------------------------------------------------------- keys by URI


def test_a_key_that_others_may_read_is_refused(tmp_path):
    generate(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(0o640)
    with pytest.raises(UsageError, match="0640"):
        signer_of(f"file:{tmp_path / 'key.pem'}")


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("key.pem", "is not a key"),
        ("ftp://x", "is not a key"),
        ("file:", "is not a key"),  # not every key below this folder
        ("hsm:abc", "its ID is a number"),
        ("azurekms:x", "is not a key"),
        ("azurekms://vault", "is not a key"),
        ("file:none.pem", "cannot be read"),
        ("file:text.pem", "not a private key"),
        ("file:empty", "no .pem file"),
    ],
)
def test_what_is_no_key_is_said_in_one_line(tmp_path, monkeypatch, uri, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.pem").touch(0o600)
    with pytest.raises(UsageError, match=says) as caught:
        signers_of([uri])
    assert caught.value.hint


@pytest.mark.parametrize("uri", ["gcpkms:projects/p", "awskms:alias/x", "hv:name"])
def test_a_token_or_service_without_its_package_says_which(uri):
    with pytest.raises(MissingError) as caught:
        signer_of(uri)
    assert uri in caught.value.message


def test_a_token_without_its_package_says_which_extra(monkeypatch):
    def missing(*asked):
        raise UnsupportedLibraryError("'python-pkcs11' required")

    monkeypatch.setattr(key_module.HSMSigner, "import_", missing)
    with pytest.raises(MissingError, match="python-pkcs11") as caught:
        signer_of("hsm:2")
    assert caught.value.hint == 'pip install "edgeinc[hsm]"'


@pytest.mark.parametrize(
    ("uri", "name", "arguments"),
    [
        ("hsm:3?label=Yubi+1", "HSMSigner", (3, "Yubi 1", print)),
        ("hsm:", "HSMSigner", (None, None, print)),
        ("awskms:alias/edge:inc", "AWSSigner", ("alias/edge:inc",)),
        ("gcpkms:projects/p/x/1", "GCPSigner", ("projects/p/x/1",)),
        ("azurekms://vault.vault.azure.net/keys/name", "AzureSigner", ("vault", "name")),
        ("hv:name", "VaultSigner", ("name",)),
    ],
)
def test_services_are_asked_as_securesystemslib_wants_it(keys, monkeypatch, uri, name, arguments):
    """No token or cloud is here: what is asked of securesystemslib is looked at."""
    asked, spare = [], keys["spare"][0]
    kind = getattr(key_module, name)

    def imported(*given):
        asked.append(given)
        return uri, spare.public_key

    monkeypatch.setattr(kind, "import_", imported)
    monkeypatch.setattr(kind, "from_priv_key_uri", lambda *given: asked.append(given) or spare)
    assert signer_of(uri, secret=print) is spare
    assert asked == [arguments, (uri, spare.public_key, print)]


# ------------------------------------------------------------------------------------ targets


def test_added_files_lie_under_their_hash_and_are_listed(edgeinc, published):
    listing = edgeinc("ls", published.folder)
    assert [(t["path"], t["role"], t["bytes"]) for t in listing["targets"]] == [
        (CHANNEL, FLEET, 11),
        (BLOB, MODEL, len(CONTENT[BLOB])),
        (MANIFEST, MODEL, len(CONTENT[MANIFEST])),
    ]
    assert published.read(MANIFEST) == CONTENT[MANIFEST]
    assert published.read("models/erfnet/step-0009/manifest.json") is None
    verdict = edgeinc("verify", published.folder)
    assert (verdict["targets"], verdict["soon"]) == (3, {})


def test_paths_are_made_by_one_rule():
    assert release_path("erfnet", 3, "manifest.json") == "models/erfnet/step-0003/manifest.json"
    assert release_path("m", 3, "x", site="a") == "models/m/site-a/step-0003.x"
    assert channel_path("north") == "channels/north/stable.json"
    for bad in ("", "..", "a/b", "a b", "x" * 65, "a*"):
        with pytest.raises(UsageError):
            release_path(bad, 1, "x")
        with pytest.raises(UsageError):
            model_role(bad)
    for bad in ("model-", "model-a/b", "boss", "snapshots"):
        with pytest.raises(UsageError):
            kind_of(bad)


@pytest.mark.parametrize(
    ("role", "path", "says"),
    [
        (MODEL, CHANNEL, "may not sign channels"),
        (FLEET, MANIFEST, "may not sign models"),
        (MODEL, "models/other/step-0001/x", "may not sign"),
        ("targets", MANIFEST, "signs no files"),
        ("model-none", MANIFEST, "no role model-none"),
    ],
)
def test_a_role_signs_its_own_paths_only(published, keys, role, path, says):
    before = state(published.folder)
    with pytest.raises(UsageError, match=says):
        published.add_targets(role, {path: b"x"}, signers=everyone(keys))
    assert state(published.folder) == before


@pytest.mark.parametrize("missing", [MODEL, "snapshot", "timestamp"])
def test_without_a_key_nothing_is_changed(published, keys, missing):
    before = state(published.folder)
    signers = everyone({role: s for role, s in keys.items() if role != missing})
    with pytest.raises(UsageError, match=f"{missing} needs 1 of its 1 key"):
        published.add_targets(MODEL, {MANIFEST: b"new"}, signers=signers)
    assert state(published.folder) == before


def test_removed_files_are_signed_no_longer(published, keys, device):
    published.add_targets(MODEL, {}, signers=everyone(keys), remove=[BLOB])
    assert published.read(BLOB) is None
    assert not device.refresh().signs(BLOB)
    with pytest.raises(UsageError, match="does not sign"):
        published.add_targets(MODEL, {}, signers=everyone(keys), remove=[BLOB])


def test_a_publisher_that_dies_at_any_write_leaves_the_old_or_the_new(
    published, keys, device, monkeypatch
):
    """A device that comes after each write sees a repository that fits together."""
    real, seen, writes = runs.write_atomic, [], []

    def dying(path, data):
        if len(writes) == dying.after:
            raise KeyboardInterrupt
        writes.append(path.name)
        real(path, data)

    monkeypatch.setattr("edgeinc.update._tree.write_atomic", dying)
    for dying.after in range(6):
        writes.clear()
        new = str(dying.after).encode()
        with suppress(KeyboardInterrupt):
            published.add_targets(MODEL, {BLOB: new, MANIFEST: new}, signers=everyone(keys))
        seen.append(device.refresh().target(MANIFEST))
        assert device.take() == (new if seen[-1] == new else CONTENT[BLOB])
    assert seen == [CONTENT[MANIFEST]] * 5 + [b"5"]
    assert writes[-1] == "timestamp.json"
    assert writes[-2].endswith("snapshot.json")


def test_only_the_timestamp_is_ever_replaced(published, keys):
    before = state(published.folder)
    published.resign([], signers=everyone(keys))
    after = state(published.folder)
    assert {name for name in before if after[name] != before[name]} == {"metadata/timestamp.json"}


def test_two_publishers_at_once_are_kept_apart(published, keys):
    with FileLock(published.folder / ".lock"), pytest.raises(EdgeincError, match="another process"):
        published.resign([], signers=everyone(keys))


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("timestamp.json", b"{", "is not metadata"),
        ("3.snapshot.json", None, "is missing"),
        ("2.model-erfnet.json", b"", "is not metadata"),
    ],
)
def test_a_damaged_repository_is_said_to_be_one(published, keys, file, content, says):
    path = published.folder / "metadata" / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(EdgeincError, match=says) as caught:
        published.resign([], signers=everyone(keys))
    assert str(path) in caught.value.message


@pytest.mark.parametrize("role", [MODEL, "targets", "snapshot", "timestamp"])
def test_the_publisher_signs_nothing_on_top_of_a_forgery(published, forge, keys, role):
    with forge.edit(role, signers=keys["spare"][:1]) as signed:
        signed.version += 1
    with pytest.raises(EdgeincError, match=f"{role} is not signed by the keys of its role"):
        published.resign([], signers=everyone(keys))


# ------------------------------------------------------------------------- resign, rotate, sign


class Careless(CryptoSigner):
    """A service that hashes once more what it is given, and signs that."""

    def sign(self, payload):
        return super().sign(hashlib.sha256(payload).digest())


def test_a_signature_that_no_device_would_take_is_not_written(published, keys):
    def everyone_but_one(role):
        (good,) = keys[role]
        careless = Careless(good._private_key, good.public_key)
        return [careless if signer is good else signer for signer in everyone(keys)]

    before = {f: f.read_bytes() for f in published.folder.rglob("*") if f.is_file()}
    for role in (MODEL, "timestamp"):
        with pytest.raises(EdgeincError, match="does not verify as ed25519") as caught:
            published.resign([], signers=everyone_but_one(role))
        assert keys[role][0].public_key.keyid[:8] in caught.value.message
    assert {f: f.read_bytes() for f in published.folder.rglob("*") if f.is_file()} == before


def test_resign_prolongs_what_the_keys_can_sign(edgeinc, made):
    done = edgeinc("resign", "repo", *signing("file:keys/online"))
    assert done["versions"] == {"snapshot": 2, "timestamp": 2}
    done = edgeinc("resign", "repo", *signing())
    assert done["versions"] == {
        **{"targets": 2, MODEL: 2, FLEET: 2},
        **{"snapshot": 3, "timestamp": 3},
    }
    done = edgeinc("resign", "repo", "timestamp", *signing("file:keys/online/timestamp.pem"))
    assert done["versions"] == {"timestamp": 4}
    done = edgeinc("resign", "repo", "snapshot", *signing("file:keys"))
    assert done["versions"] == {"snapshot": 4, "timestamp": 5}
    done = edgeinc("resign", "repo", "root", *signing())
    assert done["versions"]["root"] == 2
    edgeinc("verify", "repo")


def test_an_expired_repository_is_resigned(published, keys, device, clock):
    clock.add(days=400)
    published.resign(["root"], signers=everyone(keys))
    published.resign([], signers=everyone(keys))
    device.refresh()


def test_a_ceremony_over_three_machines(edgeinc, made, tmp_path):
    """One key of root here, one there, and the online keys where they always are."""
    words = ("rotate", "repo", "timestamp", "--new-key", "file:keys/online/new.pem")
    done = edgeinc(*words, *signing("file:keys/offline/root-1.pem"))
    assert (done["published"], done["versions"]) == (False, {"root": 2})
    assert done["key_files"] == ["keys/online/new.pem"]
    assert edgeinc("ls", "repo")["waiting"] == 2
    assert edgeinc("verify", "repo")["versions"]["root"] == 1
    error = edgeinc("sign", "repo", *signing("file:keys/teams"), fails=2)
    assert "root 2" in error["message"]
    done = edgeinc("sign", "repo", *signing("file:keys/offline/root-3.pem"))
    assert done["missing"] == ["the keys of snapshot", "the keys of timestamp"]
    done = edgeinc("sign", "repo", *signing("file:keys/online"))
    assert done["published"]
    assert edgeinc("ls", "repo")["waiting"] is None
    assert edgeinc("verify", "repo")["versions"]["root"] == 2
    (tmp_path / "keys" / "online" / "timestamp.pem").unlink()
    edgeinc("resign", "repo", *signing("file:keys/online"))
    error = edgeinc("sign", "repo", *signing(), fails=2)
    assert "no root waits" in error["message"]


def test_all_keys_of_root_are_replaced_and_old_devices_follow(edgeinc, made, tmp_path):
    new = [w for n in (1, 2, 3) for w in ("--new-key", f"file:keys/offline/next-{n}.pem")]
    edgeinc("rotate", "repo", "root", *new, *signing())
    for n in (1, 2, 3):
        (tmp_path / "keys" / "offline" / f"root-{n}.pem").unlink()
    edgeinc("resign", "repo", "root", *signing())
    assert edgeinc("verify", "repo")["versions"]["root"] == 3


def test_a_public_key_is_enough_for_who_signs_elsewhere(edgeinc, made, tmp_path):
    signer = generate(tmp_path / "elsewhere.pem")
    private = load_pem_private_key((tmp_path / "elsewhere.pem").read_bytes(), None)
    public = private.public_key()
    (tmp_path / "public.pem").write_bytes(
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    words = ("rotate", "repo", "root", "--new-key", "file:public.pem")
    for n in (1, 2):
        words += ("--new-key", f"file:keys/offline/root-{n}.pem")
    assert edgeinc(*words, *signing())["published"]
    roles = {role["name"]: role for role in edgeinc("ls", "repo")["roles"]}
    assert signer.public_key.keyid in roles["root"]["keys"]


def test_a_new_model_a_new_site_and_a_new_key_of_a_fleet(edgeinc, made):
    edgeinc("rotate", "repo", "model-bisenet", "--new-key", "file:keys/teams/b.pem", *signing())
    words = ("--model", "bisenet", "--new-key", "file:keys/teams/site.pem")
    edgeinc("rotate", "repo", "site-a", *words, *signing())
    edgeinc("rotate", "repo", FLEET, "--new-key", "file:keys/teams/f.pem", *signing())
    roles = {role["name"]: role for role in edgeinc("ls", "repo")["roles"]}
    assert roles["model-bisenet"]["paths"] == ["models/bisenet/*/*"]
    assert roles["site-a"]["paths"] == ["models/bisenet/site-a/*"]
    assert len(roles[FLEET]["keys"]) == 1
    verdict = edgeinc("verify", "repo")
    assert {"model-bisenet", "site-a"} <= verdict["versions"].keys()
    error = edgeinc(
        *("rotate", "repo", "site-a", "--model", "erfnet", "--new-key", "file:keys/teams/f.pem"),
        *signing(),
        fails=2,
    )
    assert "site-a belongs to model-bisenet" in error["message"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["boss", "--new-key", "file:n.pem"], "'boss' is not a role"),
        (["timestamp"], "timestamp gets 0 keys"),
        (["site-a", "--new-key", "file:n.pem"], "'' cannot be the name of a model"),
        (["site-a", "--model", "x", "--new-key", "file:n.pem"], "no model x"),
        ([FLEET, "--model", "erfnet", "--new-key", "file:n.pem"], "lies below no model"),
        (["channel-b", "--model", "erfnet", "--new-key", "file:n.pem"], "lies below no model"),
        (["timestamp", "--new-key", "file:"], "'file:' is not a key"),
        (["timestamp", "--new-key", "file:n.pem", "--threshold", "2"], "2 of its 1 key"),
        (["timestamp", "--new-key", "file:repo/n.pem"], "offered to everyone"),
        (["timestamp", "--new-key", "file:n.pem", "--new-key", "file:n.pem"], "1 different"),
    ],
)
def test_rotate_refuses_and_changes_nothing(edgeinc, made, tmp_path, words, says):
    before = state(made)
    error = edgeinc("rotate", "repo", *words, *signing(), fails=2)
    assert says in error["message"]
    assert state(made) == before
    assert not (tmp_path / "n.pem").exists()


def test_rotate_that_fails_keeps_a_key_that_is_in_force_and_no_other(
    edgeinc, made, tmp_path, monkeypatch
):
    """A new root counts as soon as it is there, though the timestamp could not be written."""
    before = state(made)
    for at in range(1, 20):
        with monkeypatch.context() as patch:
            failing = Failing(patch, at, OSError(errno.ENOSPC, "no space"))
            words = ("rotate", "repo", "timestamp", "--new-key", "file:new/t.pem", *signing())
            with suppress(AssertionError):
                edgeinc(*words, fails=1)
        if failing.calls < at:
            break
        named = (made / "metadata" / "2.root.json").exists()
        assert (tmp_path / "new" / "t.pem").exists() == (tmp_path / "new").exists() == named
        if named:
            edgeinc("resign", "repo", *signing("file:new", "file:keys/online"))
        edgeinc("verify", "repo")
        for path in (tmp_path / "new", made):
            shutil.rmtree(path, ignore_errors=True)
        for name, content in before.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_bytes(content)
    assert at > 6


def test_a_second_change_of_root_waits_for_the_first(edgeinc, made):
    one = signing("file:keys/offline/root-1.pem")
    edgeinc("rotate", "repo", "timestamp", "--new-key", "file:a.pem", *one)
    error = edgeinc("rotate", "repo", "snapshot", "--new-key", "file:b.pem", *one, fails=1)
    assert "waits for signatures" in error["message"]


def test_a_publisher_that_died_between_root_and_timestamp_is_helped_by_resign(
    published, keys, device, monkeypatch
):
    real, spare = runs.write_atomic, keys["spare"][0]
    signers = [*everyone(keys), spare]

    def dying(path, data):
        if path.name == "timestamp.json":
            raise KeyboardInterrupt
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr("edgeinc.update._tree.write_atomic", dying)
        with pytest.raises(KeyboardInterrupt):
            published.rotate("timestamp", [spare.public_key], signers=signers)
    published.resign([], signers=signers)
    device.refresh()
    assert device.floors["root"].version == 2


# ------------------------------------------------------------------------------------ verify


@pytest.mark.parametrize("name", ["full.zst", "model-erfnet.json", "snapshot.json"])
def test_verify_finds_every_flipped_bit(published, edgeinc, name):
    file = max(published.folder.rglob(f"*.{name}"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    error = edgeinc("verify", published.folder, fails=5)
    assert error["hint"]


def test_verify_goes_by_url_with_the_root_of_the_devices(published, server, edgeinc, tmp_path):
    shutil.copy(published.folder / "metadata" / "1.root.json", tmp_path / "root.json")
    assert edgeinc("verify", server.url, "--root", "root.json")["targets"] == 3
    assert "--root" in edgeinc("verify", server.url, fails=2)["hint"]


def test_verify_finds_a_role_that_no_device_asks(published, forge, keys):
    spare = keys["spare"][0]
    signers = [*everyone(keys), spare]
    published.rotate("site-a", [spare.public_key], signers=signers, model="erfnet")
    with forge.edit(MODEL) as signed:
        signed.version += 1
        signed.delegations.roles["site-a"].paths = ["channels/south/*"]
    with pytest.raises(Refusal, match=f"no device ever asks site-a: {MODEL} may not sign channels"):
        verify(str(published.folder))


def test_a_damaged_file_of_an_older_step_says_the_way_out(published):
    next(published.folder.rglob("*.full.zst")).write_bytes(b"")
    with pytest.raises(EdgeincError, match=r"full.zst is not as it was signed") as caught:
        published.read(BLOB)
    assert "from a copy" in caught.value.hint


def test_verify_says_what_it_cannot_begin_with(edgeinc, made, tmp_path):
    (tmp_path / "other.json").write_text("{}")
    for file, says in (
        ("other.json", "no root metadata"),
        ("repo/metadata/timestamp.json", "metadata of timestamp, and a device begins with a root"),
    ):
        error = edgeinc("verify", "repo", "--root", file, fails=2)
        assert says in error["message"]
        assert "1.root.json" in error["hint"]
    assert "no metadata/1.root.json in keys" in edgeinc("verify", "keys", fails=2)["message"]


def test_a_waiting_root_that_is_damaged_says_the_way_out(edgeinc, made):
    (made / "pending").mkdir()
    for content in (b"{}", (made / "metadata" / "timestamp.json").read_bytes()):
        (made / "pending" / "root.json").write_bytes(content)
        error = edgeinc("resign", "repo", "root", *signing(), fails=1)
        assert "pending/root.json" in error["message"]
        assert "remove the file" in error["hint"]


def test_verify_says_what_expires_soon(published, clock):
    soon = clock.time + timedelta(days=2.5)
    assert verify(str(published.folder), now=soon).soon == {
        "timestamp": pytest.approx(0.5, abs=0.1)
    }


@pytest.mark.parametrize(
    "words", [("ls",), ("gc",), ("resign",), ("sign",), ("serve",), ("rotate", "root")], ids=str
)
def test_a_folder_that_is_no_repository_is_refused(edgeinc, tmp_path, words):
    (tmp_path / "empty").mkdir()
    more = ["--new-key", "file:n.pem"] if "rotate" in words else []
    error = edgeinc(words[0], "empty", *words[1:], *more, fails=2)
    assert "empty is not a repository" in error["message"]
    assert "repo init" in error["hint"]


# ---------------------------------------------------------------------------------------- gc


def test_gc_removes_what_nobody_can_ask_for_and_nothing_else(published, keys, device, clock):
    published.add_targets(MODEL, {BLOB: b"new"}, signers=everyone(keys))
    old = {f for f in published.folder.rglob("*.full.zst") if f.read_bytes() == CONTENT[BLOB]}
    for file in published.folder.rglob("*.*"):
        os.utime(file, (0, 0))
    assert published.gc().files == ()  # metadata that names it is in force
    clock.add(days=200)
    published.resign([], signers=everyone(keys))
    for file in published.folder.rglob("*.*"):
        os.utime(file, (0, 0))
    planned = published.gc(dry_run=True)
    assert not planned.removed
    assert old < {published.folder / name for name in planned.files}
    assert published.gc().files == planned.files
    assert not any(file.exists() for file in old)
    assert device.take() == b"new"
    assert (published.folder / "metadata" / "1.root.json").exists()


def test_gc_leaves_what_is_young(published, keys, clock):
    published.add_targets(MODEL, {BLOB: b"new"}, signers=everyone(keys))
    clock.add(days=200)
    published.resign([], signers=everyone(keys))
    assert published.gc().files == ()


STRAY = (
    *("metadata/._1.root.json", "metadata/9.junk.json", "metadata/x.root.json"),
    *("metadata/.DS_Store", "metadata/1.root.json~", "metadata/.1.root.json.swp"),
    *("metadata/\u00b2.root.json", "metadata/07.root.json", "metadata/notes.txt"),
    *("metadata/2.model-erfnet copy.json", "targets/.DS_Store", "targets/models/Thumbs.db"),
    "targets/models/erfnet/step-0001/._full.zst",
)


def test_files_of_others_are_in_nobodys_way_and_stay(published, keys, edgeinc, clock):
    edgeinc("verify", published.folder)
    for name in STRAY:
        (published.folder / name).write_bytes(b"\0 not ours")
        os.utime(published.folder / name, (0, 0))
    (published.folder / "metadata" / "8.root.json").mkdir()
    edgeinc("ls", published.folder)
    edgeinc("verify", published.folder)
    assert published.gc().files == ()
    published.resign(["root"], signers=everyone(keys))
    clock.add(days=400)
    published.resign(["root"], signers=everyone(keys))
    published.add_targets(MODEL, {BLOB: b"new"}, signers=everyone(keys))
    for file in published.folder.rglob("*.*"):
        os.utime(file, (0, 0))
    assert len(published.gc().files) > 5
    assert [name for name in STRAY if not (published.folder / name).exists()] == []
    assert published.read(BLOB) == b"new"


def test_gc_removes_what_was_begun_or_damaged(published, clock, keys):
    published.resign([], signers=everyone(keys))
    old = published.folder / "metadata" / "1.snapshot.json"
    old.write_bytes(b"")
    name = next(published.folder.rglob("*.full.zst")).name
    begun = [
        published.folder / "metadata" / ".2.snapshot.json.ab3_9xyz",
        published.folder / "targets" / f".{name}.ab3_9xyz",
    ]
    for file in (old, *begun):
        file.touch()
        os.utime(file, (0, 0))
    removed = {published.folder / file for file in published.gc().files}
    assert removed == {old, *begun}


# -------------------------------------------------------------------------------------- serve


@pytest.fixture
def get(published):
    """Ask the server that `edgeinc repo serve` starts."""
    with server_of(published.folder, port=0) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()

        def ask(path, method="GET", **headers):
            connection = http.client.HTTPConnection("127.0.0.1", running.server_port, timeout=5)
            connection.request(method, path, headers=headers)
            reply = connection.getresponse()
            return reply.status, reply.headers, reply.read()

        yield ask
        running.shutdown()


def test_serving_says_what_may_be_kept(get, published):
    code, headers, body = get("/metadata/timestamp.json")
    assert (code, headers["Cache-Control"]) == (200, "no-cache")
    assert body == (published.folder / "metadata" / "timestamp.json").read_bytes()
    assert "immutable" in get("/metadata/1.root.json")[1]["Cache-Control"]
    assert get("/metadata/1.root.json", "HEAD")[2] == b""


def test_serving_gives_ranges_of_the_same_file_only(get, published):
    file = next(published.folder.rglob("*.full.zst"))
    path = f"/{file.relative_to(published.folder).as_posix()}"
    code, headers, body = get(path, Range="bytes=1000-")
    assert (code, body) == (206, CONTENT[BLOB][1000:])
    assert headers["Content-Range"] == f"bytes 1000-{len(CONTENT[BLOB]) - 1}/{len(CONTENT[BLOB])}"
    assert get(path, Range="bytes=5-9")[2] == CONTENT[BLOB][5:10]
    assert get(path, **{"Range": "bytes=5-", "If-Range": headers["ETag"]})[0] == 206
    assert get(path, **{"Range": "bytes=5-", "If-Range": '"other"'})[0] == 200
    assert get(path, Range=f"bytes={len(CONTENT[BLOB])}-")[0] == 416


@pytest.fixture
def raw(published, capfd):
    """Send bytes as they are to the same server, and say what comes; nothing may be printed."""
    with server_of(published.folder, port=0) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()

        def send(request, *, wait=True):
            sock = socket.create_connection(("127.0.0.1", running.server_port), timeout=5)
            sock.sendall(request)
            if not wait:
                return sock
            with sock, sock.makefile("rb") as reply:
                return reply.read()

        yield send
        running.shutdown()
    assert capfd.readouterr() == ("", "")


def asking(path, *headers, method="GET"):
    lines = (f"{method} {path} HTTP/1.1", "Host: here", "Connection: close", *headers, "", "")
    return "\r\n".join(lines).encode("latin-1")


SIZE = len(CONTENT[BLOB])


@pytest.mark.parametrize(
    ("asked", "status", "first", "last"),
    [
        ("bytes=0-", 206, 0, SIZE - 1),
        ("bytes=0-0", 206, 0, 0),
        ("Bytes=7-8", 206, 7, 8),
        ("bytes=-5", 206, SIZE - 5, SIZE - 1),
        (f"bytes=-{SIZE + 1}", 206, 0, SIZE - 1),
        ("bytes=5-" + "9" * 5000, 206, 5, SIZE - 1),
        ("bytes=-" + "9" * 5000, 206, 0, SIZE - 1),
        ("bytes=" + "0" * 5000 + "5-6", 206, 5, 6),
        (f"bytes={SIZE}-", 416, 0, 0),
        ("bytes=" + "9" * 5000 + "-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
        *((text, 200, 0, SIZE - 1) for text in ("bytes=5-2", "bytes=0-1,3-4", "bytes=-", "")),
        *((text, 200, 0, SIZE - 1) for text in ("bytes=a-b", "lines=1-2", "bytes=\xb2-", "5-6")),
    ],
)
def test_ranges_are_answered_as_http_says(raw, published, asked, status, first, last):
    file = next(published.folder.rglob("*.full.zst"))
    path = f"/{file.relative_to(published.folder).as_posix()}"
    head, _, body = raw(asking(path, f"Range: {asked}")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    ranges = {206: f"bytes {first}-{last}/{SIZE}", 416: f"bytes */{SIZE}", 200: ""}
    said = re.findall(rb"Content-Range: (.*)\r", head + b"\r")
    assert said == [ranges[status].encode()] * (status != 200)
    assert body == (b"" if status == 416 else CONTENT[BLOB][first : last + 1])
    head = raw(asking(path, f"Range: {asked}", method="HEAD"))
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"Content-Length: %d\r\n" % SIZE in head


def test_an_empty_file_has_no_ranges(raw, published):
    (published.folder / "targets" / "empty").touch()
    for asked in ("bytes=0-", "bytes=-5"):
        reply = raw(asking("/targets/empty", f"Range: {asked}"))
        assert reply.startswith(b"HTTP/1.1 200 ")
        assert b"Content-Length: 0\r\n" in reply


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/metadata/%00", 404),
        ("/metadata/1.root.json%00", 404),
        ("/metadata/" + "x" * 300, 404),
        ("/metadata/" + "x/" * 5000, 404),
        ("/metadata/%ff%fe", 404),
        ("/metadata/loop", 404),
        ("/metadata/\xff", 404),
        ("http://[", 404),
        ("http://here", 404),
        ("metadata/1.root.json", 404),
        ("*", 404),
        ("/" + "x" * 70_000, 414),
        ("http://here/metadata/1.root.json", 200),
    ],
    ids=lambda value: str(value)[:24],
)
def test_odd_paths_get_an_answer(raw, published, path, status):
    (published.folder / "metadata" / "loop").symlink_to("loop")
    assert raw(asking(path)).startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize(
    "request_", [b"\0\xff\r\n\r\n", b"\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b""]
)
def test_what_is_no_request_ends_the_connection_only(raw, request_):
    with raw(request_, wait=False) as sock:
        sock.shutdown(socket.SHUT_WR)
        with suppress(OSError):
            sock.recv(65_536)
    assert raw(asking("/metadata/1.root.json")).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_hangs_up_is_no_trouble(raw, published):
    (published.folder / "targets" / "large").touch()
    os.truncate(published.folder / "targets" / "large", 50_000_000)
    for _ in range(3):
        sock = raw(asking("/targets/large"), wait=False)
        sock.recv(1000)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()  # with a reset
    assert raw(asking("/metadata/1.root.json")).startswith(b"HTTP/1.1 200 ")


def test_a_file_that_shrinks_is_seen_to_be_cut(raw, published, monkeypatch):
    file = published.folder / "targets" / "large"
    file.write_bytes(bytes(10_000))
    sent = Handler._send

    def late(self, opened, first, length):
        os.truncate(file, 4000)
        sent(self, opened, first, length)

    monkeypatch.setattr(Handler, "_send", late)
    keeping = asking("/targets/large").replace(b"Connection: close\r\n", b"")
    head, _, body = raw(keeping).partition(b"\r\n\r\n")  # it ends, or this waits in vain
    assert b"Content-Length: 10000" in head
    assert len(body) == 4000


def test_a_file_that_vanishes_or_cannot_be_read_is_not_there(raw, published, monkeypatch):
    def gone(path, *mode):
        raise FileNotFoundError(path)

    monkeypatch.setattr("edgeinc.update.serving_files.Path.open", gone)
    assert raw(asking("/metadata/1.root.json")).startswith(b"HTTP/1.1 404 ")


def test_a_connection_without_a_word_is_closed(raw, monkeypatch):
    monkeypatch.setattr(Handler, "timeout", 0.2)
    start = time.monotonic()
    assert raw(b"GET /metadata") == b""
    assert 0.1 < time.monotonic() - start < 4


def test_connections_have_a_bound_and_come_free_again(published, monkeypatch, capfd):
    monkeypatch.setattr("edgeinc.update.serving_files._CONNECTIONS", 2)
    with server_of(published.folder, port=0) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        place, request = ("127.0.0.1", running.server_port), asking("/metadata/1.root.json")

        def ask():
            with socket.create_connection(place, timeout=5) as sock:
                sock.sendall(request)
                with sock.makefile("rb") as reply, suppress(ConnectionResetError):
                    return reply.read().startswith(b"HTTP/1.1 200 ")
            return False

        def in_time(wanted):
            end = time.monotonic() + 5
            while ask() != wanted and time.monotonic() < end:
                time.sleep(0.02)
            return time.monotonic() < end

        idle = [socket.create_connection(place) for _ in range(2)]
        assert in_time(False)
        for sock in idle:
            sock.close()
        assert in_time(True)
        running.shutdown()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/metadata", "/metadata/", "/.lock", "/metadata/../.lock", "/metadata/%2e%2e/.lock"),
        *("/pending/root.json", "/../secret", "/metadata/link"),
    ],
)
def test_serving_gives_nothing_else(get, published, path):
    (published.folder / ".lock").touch()
    (published.folder.parent / "secret").write_text("secret")
    (published.folder / "metadata" / "link").symlink_to(published.folder.parent / "secret")
    assert get(path)[0] == 404


def test_a_port_in_use_is_one_line(published):
    with (
        server_of(published.folder, port=0) as running,
        pytest.raises(EdgeincError, match="cannot listen"),
    ):
        server_of(published.folder, port=running.server_port)


@pytest.mark.parametrize("place", [{"port": 70_000}, {"bind": "x" * 70}], ids=["port", "name"])
def test_an_address_that_cannot_be_is_one_line(published, place):
    with pytest.raises(EdgeincError, match="cannot listen at") as caught:
        server_of(published.folder, **{"port": 0, **place})
    assert "--bind" in caught.value.hint


def test_metadata_is_what_the_specification_calls_it(published):
    for file in (published.folder / "metadata").glob("*.json"):
        signed = Metadata.from_file(str(file)).signed
        assert signed.spec_version.startswith("1.0.")
    assert Metadata.from_file(
        str(published.folder / "metadata" / "1.root.json")
    ).signed.consistent_snapshot
