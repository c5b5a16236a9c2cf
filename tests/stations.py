"""A device in the field, small: a signed repository, real metadata, real slots.

Only what proves a step is that of `devices.World`, unless a test gives the real probe.
"""

import shutil
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from devices import (
    CONFIG,
    Bundle,
    Folder,
    World,
    bundle,
    channel,
    served,
    sha,
)
from trust_parts import CHANNEL, FAST, FLEET, MODEL, Clock, Forge, everyone
from tuf.api.metadata import TargetFile

from edgeinc.schema import Blob
from edgeinc.update import _zstd, journal
from edgeinc.update.device import Device
from edgeinc.update.enrol import init
from edgeinc.update.fetch import Source, Trusted
from edgeinc.update.manifest import read, write
from edgeinc.update.refusal import Refusal
from edgeinc.update.repository import Repository

OLD = bundle(1)
NEW = bundle(2, parent=OLD, classes=3, golden=b"questions")


def step_of(number, artifact, *, full=None, deltas=(), **how):
    """A step with an artifact of its own; `deltas` are (artifact they start from, blob)."""
    made = bundle(number, **how)
    manifest = read(made.content, "made")
    full = _zstd.compress(artifact, 1) if full is None else full
    where = f"models/erfnet/step-{number}"
    files = {f"{where}/full": full}
    blobs = [Blob("full", f"{where}/full", len(full), sha(full), "", "zstd")]
    for index, (base, blob) in enumerate(deltas):
        path = f"{where}/delta-{index}"
        files[path] = blob
        blobs.append(Blob("delta", path, len(blob), sha(blob), sha(base), "ezd1-int6"))
    signed = replace(manifest.artifact, bytes=len(artifact), sha256=sha(artifact))
    content = write(replace(manifest, artifact=signed, blobs=tuple(blobs)))
    return Bundle(number, artifact, content, files)


class Station:
    """A device, new unless it is there, and all that it depends on.

    Args:
        folder: Of `device`.
        repository: What is offered.
        place: Where the device looks for it.
        keys: Of all roles.
        clock: Of the device and of the publisher.
    """

    def __init__(self, folder, repository, place, keys, clock):
        self.repository, self.place, self.keys, self.clock = repository, place, keys, clock
        self.root, self.world = folder / "device", World(None)
        self.trust = (repository.folder / "metadata" / "1.root.json").read_bytes()
        self.server, self.first, self.slept, self.received = None, None, [], 0
        if not self.root.exists():
            config = replace(CONFIG, fleet="north", repository=place)
            init(self.root, config, self.trust, disk=Folder())

    # ------------------------------------------------------------------------ the publisher

    def publish(self, *bundles, **asked):
        """Sign steps, and ask for the last."""
        files = {
            path: data for b in bundles for path, data in [(b.path, b.content), *b.files.items()]
        }
        self.repository.add_targets(MODEL, files, signers=everyone(self.keys))
        self.ask_for(bundles[-1], **asked)

    def ask_for(self, wanted, **asked):
        content = write(channel(wanted, fleet="north", **asked))
        self.repository.add_targets(FLEET, {CHANNEL: content}, signers=everyone(self.keys))

    def file_of(self, path):
        """Where the server has a target."""
        target = next(t for t in self.repository.listing().targets if t.path == path)
        folder, _, name = path.rpartition("/")
        return self.repository.folder / "targets" / folder / f"{target.sha256}.{name}"

    def lay_down(self, signed, path, content):
        """A target in metadata that somebody forges, and on the server."""
        signed.targets[path] = TargetFile.from_data(path, content, ["sha256"])
        file = self.repository.folder / "targets" / signed.targets[path].get_prefixed_paths()[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    def start_again(self):
        """The repository and the device are as they were when the test began."""
        for name in ("repo", "device"):
            shutil.rmtree(self.root.parent / name)
            shutil.copytree(self.first / name, self.root.parent / name, symlinks=True)

    def copy(self, name):
        """The repository as it is now, in another folder."""
        return shutil.copytree(self.repository.folder, self.root.parent / name)

    @property
    def forge(self):
        return Forge(self.repository, self.keys)

    # ------------------------------------------------------------------------ the device

    def trusted(self, floors, checked, place=None):
        return Trusted(
            self.root / "tuf",
            Source.at(place or self.place),
            root=self.trust,
            disk=self.world.disk,
            floors=floors,
            checked=self.clock.time.fromtimestamp(checked, self.clock.time.tzinfo)
            if checked
            else None,
            limits=FAST,
            now=self.clock,
            sleep=self.slept.append,
        )

    def update(self, place=None, *, disk=None, prove=None, retry=False):
        device = Device(
            self.root,
            disk=disk or self.world.disk,
            now=lambda: self.clock.time.timestamp(),
            prove=prove or self.world.prove,
            ask=self.world.ask,
        )
        sources = []

        def connect(floors, checked):
            sources.append(self.trusted(floors, checked, place))
            return sources[0]

        try:
            return device.update(connect, retry=retry)
        finally:
            self.received += sum(source.received_bytes for source in sources)

    @contextmanager
    def refusing(self, reason):
        """The block is refused for this reason, with a way out, and changes nothing served."""
        before = served(self.root)
        with pytest.raises(Refusal) as caught:
            yield caught
        assert caught.value.reason == reason, caught.value.message
        assert caught.value.hint
        assert served(self.root) == before
        state = self.state
        assert state.refused is not None
        assert state.refused.reason == reason
        assert not list((self.root / "slots").glob(".*"))

    @property
    def state(self):
        return journal.load(self.root)

    @property
    def serves(self):
        return served(self.root)

    def later(self, **duration):
        self.clock.time += timedelta(**duration)


@pytest.fixture(scope="session")
def _first_station(_first_published, keys, tmp_path_factory):
    """A repository that asks for OLD, and a device that serves it."""
    folder = tmp_path_factory.mktemp("station")
    shutil.copytree(_first_published, folder / "repo")
    made = Station(folder, Repository(folder / "repo"), str(folder / "repo"), keys, Clock())
    made.publish(OLD)
    assert made.update().change == "committed"
    return folder


@pytest.fixture
def station(_first_station, keys, clock):
    """A device that serves OLD from a folder, which asks for OLD; in memory where that can be."""
    shared = Path("/dev/shm")
    with TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        here = Path(folder)
        for name in ("repo", "device"):
            shutil.copytree(_first_station / name, here / name, symlinks=True)
        repository = Repository(here / "repo", now=clock)
        made = Station(here, repository, str(repository.folder), keys, clock)
        made.first = _first_station
        yield made


@pytest.fixture
def web(station, server):
    """The same behind a real server whose faults are scripted; it is `web.server`."""
    server.folder, station.place, station.server = station.repository.folder, server.url, server
    return station
