"""A whole device on a disk that is full, read-only or limited: it serves on and says why."""

import multiprocessing
import os
import resource
import signal
import stat
import sys

import pytest
from devices import Folder
from stations import NEW, OLD, step_of

from edgeinc.errors import EdgeincError, UpdateError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork, limits and modes")
RANDOM = os.urandom(200_000)


def in_child(work):
    """Run it in a process that may limit itself; what it returned."""
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()
    process = fork.Process(target=lambda: answers.put(work()))
    process.start()
    answer = answers.get()
    process.join(60)
    return answer


def refused(station):
    try:
        return station.update().change
    except UpdateError as err:
        return getattr(err, "reason", err.message)


@pytest.mark.parametrize(
    ("limit", "artifact"),
    [(0, RANDOM), (500, RANDOM), (5_000, RANDOM), (100_000, RANDOM), (100_000, bytes(200_000))],
    ids=["at the first write", "at the cache", "at the journal", "at the download", "at the slot"],
)
def test_a_file_may_not_grow(station, limit, artifact):
    """`RLIMIT_FSIZE`: the system itself refuses."""
    large = step_of(2, artifact, parent=OLD)
    station.publish(large)

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return refused(station)

    assert in_child(limited) == "NO_SPACE"
    assert station.serves == OLD.artifact
    assert not list((station.root / "slots").glob(".*"))
    assert station.update().step == 2
    assert station.serves == artifact


@pytest.mark.parametrize("place", ["", "slots", "dl", "tuf"])
def test_a_folder_that_is_read_only(station, place):
    """As a user without rights: root may write everywhere."""
    station.publish(NEW)
    folder = station.root / place
    if os.geteuid() == 0:
        for path in [station.root.parent, station.root, *station.root.rglob("*")]:
            os.chown(path, 12_345, 12_345, follow_symlinks=False)
        for path in station.repository.folder.rglob("*"):
            path.chmod(path.stat().st_mode | stat.S_IROTH | (stat.S_IXOTH if path.is_dir() else 0))
        station.repository.folder.chmod(0o755)
    folder.chmod(0o555)

    def without_rights():
        if os.geteuid() == 0:
            os.setuid(12_345)
        return refused(station)

    try:
        assert in_child(without_rights) == "DISK"
        assert station.serves == OLD.artifact
    finally:
        folder.chmod(0o755)
    assert in_child(without_rights) == "committed"
    assert station.serves == NEW.artifact


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can lend a file to another user")
def test_a_journal_of_another_user_is_not_a_damaged_one(station):
    """A hold that was set with `sudo` and a strict umask stays a hold."""
    station.publish(NEW)
    for path in [station.root.parent, station.root, *station.root.rglob("*")]:
        os.chown(path, 12_345, 12_345, follow_symlinks=False)
    journal = station.root / "state.json"
    os.chown(journal, 0, 0)
    journal.chmod(0o600)
    before = journal.read_bytes()

    def as_the_service():
        os.setuid(12_345)
        try:
            station.update()
        except EdgeincError as err:
            return err.message, err.hint
        return "taken", ""

    message, hint = in_child(as_the_service)
    assert "state.json may not be read by this user" in message
    assert "it belongs to root; repeat as that user: sudo -u root edgeinc" in hint
    assert journal.read_bytes() == before
    assert station.serves == OLD.artifact


class Dying(Folder):
    """A disk on which one file, or every write, fails with an input/output error."""

    def write_new(self, path, data):
        raise OSError(5, "Input/output error", str(path))

    append = write_new


def test_a_disk_that_dies_is_said_to_be_one(station):
    station.publish(NEW)
    station.world.disk = Dying()
    assert refused(station) == "DISK"
    station.world.disk = Folder()
    assert station.serves == OLD.artifact
    assert station.update().step == 2
