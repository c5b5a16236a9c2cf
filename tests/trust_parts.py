"""A repository on a real web server whose faults are scripted, and a device before it."""

import re
import shutil
import socket
import threading
import time
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http.server import ThreadingHTTPServer

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile

from edgeinc.update.disk import Disk
from edgeinc.update.fetch import Limits, Source, Trusted
from edgeinc.update.refusal import Refusal
from edgeinc.update.repository import Repository
from edgeinc.update.serving_files import Handler

MODEL, FLEET = "model-erfnet", "channel-north"
ROLES = ("root", "root", "root", "targets", "snapshot", "timestamp", MODEL, FLEET)
MANIFEST = "models/erfnet/step-0001/manifest.json"
BLOB = "models/erfnet/step-0001/full.zst"
CHANNEL = "channels/north/stable.json"
CONTENT = {MANIFEST: b'{"step": 1}', BLOB: bytes(range(256)) * 1024}
FAST = Limits(silence_s=2, window_s=0.3, least_bytes_per_s=2000, attempts=3, backoff_s=0.01)


@pytest.fixture(scope="session")
def keys():
    """Signers by role; `spare` has some of no role."""
    made = {role: [] for role in (*ROLES, "spare")}
    for role in (*ROLES, *["spare"] * 6):
        made[role].append(CryptoSigner.generate_ed25519())
    return made


@pytest.fixture(scope="session")
def _first_published(keys, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "repo"
    repository = Repository(folder)
    repository.create({role: keys[role] for role in ROLES})
    repository.add_targets(MODEL, CONTENT, signers=everyone(keys))
    repository.add_targets(FLEET, {CHANNEL: b'{"step": 1}'}, signers=everyone(keys))
    return folder


def everyone(keys):
    return [signer for role, signers in keys.items() if role != "spare" for signer in signers]


class Server(ThreadingHTTPServer):
    """Serves `folder`; `faults` are (pattern of the path, function) and come first."""

    daemon_threads = True

    def __init__(self):
        self.folder, self.asked, self.faults = None, [], []
        super().__init__(("127.0.0.1", 0), Scripted)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def fault(self, pattern, act, *, times=10**9):
        self.faults.append([re.compile(pattern), act, times])

    def handle_error(self, request, client_address):
        """A client that hangs up is what the tests are about."""


class Scripted(Handler):
    limit = None

    @property
    def folder(self):
        return self.server.folder

    def do_GET(self):
        self.server.asked.append(self.path)
        self.limit = None
        for fault in self.server.faults:
            if fault[2] > 0 and fault[0].search(self.path):
                fault[2] -= 1
                if fault[1](self):
                    self.close_connection = True
                    return
                break
        super().do_GET()

    def _send(self, file, first, length):
        if self.limit is None or self.limit >= length:
            super()._send(file, first, length)
            return
        super()._send(file, first, self.limit)
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True


def status(code):
    def act(handler):
        handler.send_response(code)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    return act


def cut(after):
    def act(handler):
        handler.limit = after

    return act


def whole(handler):
    """A server that knows no ranges."""
    del handler.headers["Range"]


def raw(*parts, pause=0.0, head=b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"):
    """Send bytes as they are, slowly; `parts` may be endless."""

    def act(handler):
        handler.wfile.write(head)
        for part in parts[0] if len(parts) == 1 and not isinstance(parts[0], bytes) else parts:
            handler.wfile.write(part)
            handler.wfile.flush()
            time.sleep(pause)
        return True

    return act


PORTAL = raw(b"<html><body>Please log in</body></html>")


@pytest.fixture(scope="session")
def _server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()


@pytest.fixture
def server(_server, published, monkeypatch):
    """The server, offering `published`, without faults."""
    monkeypatch.setenv("NO_PROXY", "*")
    _server.folder, _server.faults, _server.asked = published.folder, [], []
    return _server


class Clock:
    def __init__(self):
        self.time = datetime.now(timezone.utc)

    def __call__(self):
        return self.time

    def add(self, **duration):
        self.time += timedelta(**duration)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def published(_first_published, tmp_path, clock):
    """One step of one model and a channel, in a folder of its own."""
    shutil.copytree(_first_published, tmp_path / "repo")
    return Repository(tmp_path / "repo", now=clock)


class Device:
    """What a device keeps: its cache, its floors, and the root it came with."""

    def __init__(self, folder, place, clock):
        self.folder, self.clock = folder, clock
        self.cache = folder / "tuf"
        self.source = Source.at(place)
        self.floors, self.checked, self.slept = {}, None, []
        self.root = None

    def trusted(self, **options):
        return Trusted(
            self.cache,
            self.source,
            root=self.root,
            disk=options.pop("disk", Disk()),
            floors=self.floors,
            checked=self.checked,
            limits=options.pop("limits", FAST),
            now=self.clock,
            sleep=self.slept.append,
        )

    def refresh(self, **options):
        trusted = self.trusted(**options)
        self.floors, self.checked = trusted.refresh(), self.clock.time
        return trusted

    def take(self, path=BLOB, *, budget_bytes=10**7, **options):
        to = self.folder / "got"
        trusted = self.refresh(**options)
        trusted.download(path, to, budget_bytes=budget_bytes)
        return to.read_bytes()


@pytest.fixture
def device(server, tmp_path, clock):
    """A device that has seen nothing yet."""
    (tmp_path / "device").mkdir()
    made = Device(tmp_path / "device", server.url, clock)
    made.root = (server.folder / "metadata" / "1.root.json").read_bytes()
    return made


@contextmanager
def refused(reason):
    """The block is refused for this reason, with a way out."""
    with pytest.raises(Refusal) as caught:
        yield caught
    assert caught.value.reason == reason, caught.value.message
    assert caught.value.hint


# -------------------------------------------------------------------------------- forgeries


class Forge:
    """Whoever holds keys and can write to the server; signs whatever it likes."""

    def __init__(self, repository, keys):
        self.metadata, self.keys = repository.folder / "metadata", keys

    def version(self, role):
        timestamp = Metadata.from_file(str(self.metadata / "timestamp.json")).signed
        if role == "timestamp":
            return timestamp.version
        if role == "root":
            return max(int(f.name.split(".")[0]) for f in self.metadata.glob("*.root.json"))
        if role == "snapshot":
            return timestamp.snapshot_meta.version
        snapshot = Metadata.from_file(str(self.path("snapshot"))).signed
        return snapshot.meta[f"{role}.json"].version

    def path(self, role, version=None):
        if role == "timestamp":
            return self.metadata / "timestamp.json"
        return self.metadata / f"{version or self.version(role)}.{role}.json"

    def load(self, role):
        return Metadata.from_file(str(self.path(role)))

    def write(self, role, metadata, signers=None):
        metadata.signatures.clear()
        for signer in self.keys[role] if signers is None else signers:
            metadata.sign(signer, append=True)
        self.path(role, metadata.signed.version).write_bytes(metadata.to_bytes())

    @contextmanager
    def edit(self, role, *, signers=None, chain=True):
        """Change a role's content; then everything above is signed so that it fits."""
        metadata = self.load(role)
        yield metadata.signed
        self.write(role, metadata, signers)
        if not chain or role in ("root", "timestamp"):
            return
        if role == "snapshot":
            with self.edit("timestamp") as timestamp:
                timestamp.version += 1
                timestamp.snapshot_meta = MetaFile(metadata.signed.version)
            return
        with self.edit("snapshot") as snapshot:
            snapshot.version += 1
            snapshot.meta[f"{role}.json"] = MetaFile(metadata.signed.version)


@pytest.fixture
def forge(published, keys):
    return Forge(published, keys)
