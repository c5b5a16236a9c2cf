"""A device with everything around it, small: a repository in memory, a probe and a server."""

import hashlib
import os
from dataclasses import dataclass, field, replace
from functools import cache

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from edgeinc.errors import EdgeincError
from edgeinc.schema import (
    Blob,
    BundleArtifact,
    BundleMethod,
    BundleParent,
    Channel,
    ClassInfo,
    DeviceConfig,
    DeviceGates,
    Floor,
    Manifest,
    ProbeResult,
    Requirements,
    Serving,
)
from edgeinc.update import _zstd, serving
from edgeinc.update.device import Device
from edgeinc.update.disk import Disk
from edgeinc.update.enrol import init
from edgeinc.update.manifest import bundle_id, write
from edgeinc.update.refusal import Refusal
from edgeinc.update.serving import Judgement

CONFIG = DeviceConfig(device="pole-7", fleet="poles", model="erfnet", repository="memory")
CHANNEL = "channels/poles/stable.json"
NOW = 1_800_000_000.0
WHEN = "2026-11-20T12:00:00+00:00"
GATES = DeviceGates(
    golden_percent=99.0,
    max_p95_ms=None,
    providers=(),
    trial_seconds=10.0,
    trial_frames=20,
    max_single_class_percent=98.0,
    min_agreement_old_percent=None,
)


def _root():
    """The root metadata of a repository that nobody else knows."""
    signer = CryptoSigner.generate_ed25519()
    root = Root()
    root.add_key(signer.public_key, "root")
    metadata = Metadata(root)
    metadata.sign(signer)
    return metadata.to_bytes()


ROOT = _root()


class Folder(Disk):
    """The real operations without the wait: what a power cut does is not asked for here."""

    def fsync(self, path):
        path.stat()

    def fsync_folder(self, path):
        path.stat()


def sha(content):
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Bundle:
    """A step as it was published: its manifest and its blobs by target path."""

    step: int
    artifact: bytes
    content: bytes
    files: dict

    @property
    def id(self):
        return bundle_id(self.content)

    @property
    def path(self):
        return f"models/erfnet/step-{self.step}/manifest.json"


def bundle(
    step, *, parent=None, classes=2, golden=None, gates=GATES, notes="", changed=(), artifact=b""
):
    """A published step whose artifact is some bytes."""
    artifact = artifact or b"artifact of step %d %s" % (step, notes.encode()) + bytes(range(200))
    packed = {"full": (_zstd.compress(artifact, 1), "zstd")}
    if golden is not None:
        packed["golden"] = (golden, "npz")
    where = f"models/erfnet/step-{step}"
    blobs = tuple(
        Blob(kind, f"{where}/{kind}", len(content), sha(content), "", codec)
        for kind, (content, codec) in packed.items()
    )
    manifest = Manifest(
        model="erfnet",
        step=step,
        created=WHEN,
        producer={"edgeinc": "0.1.0"},
        artifact=BundleArtifact(
            "step.onnx", len(artifact), sha(artifact), "0" * 64, "1" * 64, "fp32", "static",
            (64, 96), "classes",
        ),
        parent=parent and BundleParent(parent.step, parent.id, sha(parent.artifact)),
        method=BundleMethod("cil", data_free=True, exemplars=0, trainable="all"),
        classes=tuple(ClassInfo(i, f"class{i}", (i, i, i), 0) for i in range(classes)),
        background="none",
        blobs=blobs,
        metrics=None,
        gates=gates,
        requires=Requirements(edgeinc="0.1.0", runtimes=(), free_bytes=0),
        topology_changed=False,
    )  # fmt: skip
    manifest = replace(manifest, **dict(changed))
    return Bundle(step, artifact, write(manifest), {b.target: packed[b.kind][0] for b in blobs})


def channel(wanted, **fields):
    asked = Channel(
        fleet="poles", model="erfnet", manifest=wanted.path, bundle_id=wanted.id,
        step=wanted.step, percent=100.0, salt="s", paused=False, revoke_below=0, rollback=False,
        updated=WHEN,
    )  # fmt: skip
    return replace(asked, **fields)


@cache
def _written(asked):
    return write(asked)


@dataclass
class Repository:
    """Signed files in memory; `connect` is what a device asks for them."""

    bundles: list
    asked: Channel
    version: int = 1
    cut_after: int | None = None
    chunk: int = 100
    metered: bool = True
    served: list = field(default_factory=list)

    def connect(self, disk):
        return lambda floors, checked: Source(self, floors, disk)

    def files(self):
        return {
            CHANNEL: _written(self.asked),
            **{b.path: b.content for b in self.bundles},
            **{path: content for b in self.bundles for path, content in b.files.items()},
        }


class Source:
    """The contract of `SignedFiles` in a few lines: resumes, durable before it has its name."""

    def __init__(self, repository, floors, disk):
        self.repository, self.floors, self.disk = repository, floors, disk
        self.received_bytes = 0
        self.metered = repository.metered

    def refresh(self):
        seen = self.floors.get("timestamp", Floor(0))
        if self.repository.version < seen.version:
            raise Refusal("REPLAY", f"version {self.repository.version} is old", hint="wait")
        return {"timestamp": Floor(self.repository.version, ("key",))}

    def target(self, path):
        self.repository.served.append(path)
        return self.repository.files()[path]

    def download(self, path, to, *, budget_bytes):
        content = self.repository.files()[path]
        self.repository.served.append(path)
        part = to.with_name(to.name + ".part")
        begun = len(part.read_bytes()) if part.exists() else 0
        if begun > len(content) or (begun and content[:begun] != part.read_bytes()):
            self.disk.remove(part)
            begun = 0
        for start in range(begun, len(content), self.repository.chunk):
            chunk = content[start : start + self.repository.chunk]
            self.received_bytes += len(chunk)
            if self.received_bytes > budget_bytes:
                raise Refusal("BUDGET", f"{path} costs too much", hint="wait")
            if self.repository.cut_after is not None and start >= self.repository.cut_after:
                raise Refusal("NETWORK", "the connection was cut", hint="repeat")
            self.disk.append(part, chunk)
            self.disk.fsync(part)
        self.disk.rename(part, to)
        self.disk.fsync_folder(to.parent)


@dataclass
class World:
    """What the world does to a device: which bundles work, what time it is, what was loaded."""

    repository: Repository
    bad_in_probe: set = field(default_factory=set)
    bad_in_trial: set = field(default_factory=set)
    interrupted: set = field(default_factory=set)
    now: float = NOW
    loaded: list = field(default_factory=list)
    disk: Disk = field(default_factory=Folder)

    def device(self, root, disk=None, report=None):
        return Device(
            root,
            disk=disk or self.disk,
            now=lambda: self.now,
            prove=self.prove,
            ask=self.ask,
            report=report,
        )

    def update(self, root, disk=None, **how):
        connect = self.repository.connect(disk or self.disk)
        return self.device(root, disk).update(connect, **how)

    def prove(self, slot, gates, runtime, device):
        content = (slot / "model.onnx").read_bytes()
        self.loaded.append(sha(content))
        bad = sha(content) in self.bad_in_probe
        return ProbeResult("bad" if bad else "good", "wrong" if bad else "", "CPU", None, 1.0, None)

    def ask(self, root, trial, gates):
        """The server: it takes what the journal says, and hashes it."""
        choice = serving.choices(root)[0]
        assert choice.attempt == trial.attempt
        content = serving.model(root, choice.bundle).read_bytes()
        self.loaded.append(sha(content))
        if sha(content) in self.interrupted:
            return Judgement("interrupted", "the server ended")
        bad = sha(content) in self.bad_in_trial
        return Judgement("bad" if bad else "good", "one class everywhere" if bad else "")

    def settle(self, root, tries=8):
        """Run updates as a timer would, a day apart where they are deferred."""
        last = None
        for _ in range(tries):
            try:
                return self.update(root)
            except EdgeincError as err:
                last = err
                if getattr(err, "reason", "") == "UNHEALTHY" and "condemned" in err.message:
                    return err
                self.now += 90_000
        return last


def installed(root, world, *, server=True):
    """A device that serves what the repository asks for now."""
    init(root, CONFIG, ROOT, disk=world.disk)
    world.update(root)
    if server:
        start_server(root, world.disk)
    return root


def start_server(root, disk):
    said = Serving("", "", "none", "", os.getpid(), serving.boot_id(), NOW, 1, 0, None)
    serving.say(root, said, disk)


def served(root):
    """The bytes a server that starts now would load, or None."""
    held = serving.served(root)
    return serving.model(root, held).read_bytes() if held else None
