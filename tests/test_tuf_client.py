"""tests/conformance/tuf_client speaks the client protocol of theupdateframework's tuf-conformance.

The suite itself is not a dependency: https://github.com/theupdateframework/tuf-conformance
"""

import os
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest
from trust_parts import BLOB, CONTENT, MANIFEST, everyone
from tuf.api.metadata import Metadata

from edgeinc.update.repository import Repository

CLIENT = Path(__file__).parent / "conformance" / "tuf_client"


@pytest.fixture
def client(tmp_path, server, published):
    """Run the executable in a process of its own; returns its exit code."""
    first = published.folder / "metadata" / "1.root.json"
    folder = ["--metadata-dir", tmp_path / "metadata"]
    urls = [*folder, "--metadata-url", f"{server.url}/metadata"]
    words = {"refresh": [*urls, "refresh"]}

    def run(command, *names, before=(), root=first):
        words["init"] = [*folder, "init", root]
        download = [word for name in names or [MANIFEST] for word in ("--target-name", name)]
        download += ["--target-base-url", f"{server.url}/targets", "--target-dir", tmp_path]
        words["download"] = [*urls, *download, "download"]
        done = subprocess.run(
            [*before, sys.executable, CLIENT, *words[command]],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(CLIENT.parents[2]), "NO_PROXY": "*"},
            timeout=60,
        )
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        return done.returncode

    return run


def test_it_can_be_executed():
    assert os.access(CLIENT, os.X_OK)
    assert CLIENT.read_text(encoding="utf-8").startswith("#!/usr/bin/env python3\n")


def test_init_asks_nobody_and_refresh_leaves_files_without_versions(client, server, tmp_path):
    assert client("init") == 0
    assert server.asked == []
    assert {f.name for f in (tmp_path / "metadata").glob("*.json")} == {"root.json"}
    assert client("refresh") == 0
    names = ("root", "timestamp", "snapshot", "targets")
    for name in names:
        assert Metadata.from_file(str(tmp_path / "metadata" / f"{name}.json")).signed.type == name
    assert {f.stem for f in (tmp_path / "metadata").glob("*.json")} == set(names)


def test_a_target_is_downloaded_once_and_stored_under_one_name(
    client, server, tmp_path, published, keys
):
    assert client("init") == 0
    assert client("download") == 0
    assert client("download") == 0
    assert len([path for path in server.asked if "manifest" in path]) == 1
    stored = tmp_path / "models%2Ferfnet%2Fstep-0001%2Fmanifest.json"
    assert stored.read_bytes() == CONTENT[MANIFEST]
    published.add_targets("model-erfnet", {MANIFEST: b"new"}, signers=everyone(keys))
    assert client("download") == 0
    assert stored.read_bytes() == b"new"
    assert client("download", "no/such/target") == 1


def test_several_targets_are_looked_up_in_one_session(client, server, tmp_path):
    assert client("init") == 0
    assert client("download", MANIFEST, BLOB) == 0
    assert (tmp_path / BLOB.replace("/", "%2F")).read_bytes() == CONTENT[BLOB]
    assert len([path for path in server.asked if "timestamp" in path]) == 1
    assert client("download", MANIFEST, "no/such/target") == 1


@pytest.mark.skipif(shutil.which("faketime") is None, reason="no faketime here")
def test_an_old_repository_is_taken_under_the_clock_of_its_time(client, server, keys, tmp_path):
    """As the suite plays those that it keeps as files; a device would refuse the clock."""
    old = datetime(2025, 2, 1, tzinfo=timezone.utc)
    repository = Repository(tmp_path / "old", now=lambda: old)
    roles = ("root", "targets", "snapshot", "timestamp", "model-erfnet")
    repository.create({role: keys[role] for role in roles})
    repository.add_targets("model-erfnet", {MANIFEST: b"old"}, signers=everyone(keys))
    server.folder = repository.folder
    (tmp_path / "root.json").write_bytes((server.folder / "metadata" / "1.root.json").read_bytes())
    assert client("init", root=tmp_path / "root.json") == 0
    assert client("download", before=("faketime", "2025-02-02 12:00:00")) == 0
    assert client("refresh") == 1  # today all of it is expired


def test_a_replay_and_an_expiry_end_with_1(client, published, keys, forge, clock, tmp_path):
    assert client("init") == 0
    published.resign([], signers=everyone(keys))
    assert client("refresh") == 0
    with forge.edit("timestamp") as timestamp:
        timestamp.version -= 1
    assert client("refresh") == 1
    for file in (tmp_path / "metadata").glob("*.json"):
        file.unlink()
    assert client("refresh") == 1  # the floors are beside the cache
    with forge.edit("timestamp") as timestamp:
        timestamp.version += 2
        clock.add(days=-1)
        timestamp.expires = clock.time
    assert client("download", BLOB) == 1
