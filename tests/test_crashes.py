"""No power cut, at any point of an update, takes what was proven or loses what was committed."""

import errno
import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from crashes import BROKEN, Recorder, Tree, lay_out, scan
from devices import Folder, Repository, World, bundle, channel, installed, served, sha

from edgeinc.errors import EdgeincError
from edgeinc.update import faults, journal, serving
from edgeinc.update.refusal import Refusal

DRAWS = 20
OLD = bundle(1)
NEW = bundle(2, parent=OLD, classes=3, golden=b"questions")


@pytest.fixture
def memory(tmp_path):
    """A folder for thousands of states, in memory where the system has that."""
    shared = Path("/dev/shm")
    where = Path(tempfile.mkdtemp(dir=shared)) if shared.is_dir() else tmp_path
    yield where
    shutil.rmtree(where, ignore_errors=True)


class Scenario:
    """A device that serves OLD, and what happens to it."""

    def __init__(self, name):
        self.name = name
        self.world = World(Repository([OLD], channel(OLD)))
        if name == "probe":
            self.world.bad_in_probe = {sha(NEW.artifact)}
        if name == "trial":
            self.world.bad_in_trial = {sha(NEW.artifact)}

    def prepare(self, root):
        installed(root, self.world)
        self.ask_new()
        if self.name == "rollback":
            self.world.update(root)
        return root

    def ask_new(self):
        self.world.repository.bundles = [OLD, NEW]
        self.world.repository.asked = channel(NEW)
        self.world.repository.version = 2

    def run(self, root, disk=None):
        if self.name == "rollback":
            return self.world.device(root, disk).rollback()
        return self.world.update(root, disk)

    @property
    def ends_with(self):
        return NEW if self.name == "healthy" else OLD


SCENARIOS = ("healthy", "probe", "trial", "rollback")


class Record:
    """What a scenario did to the disk, and how far it was when it had proven and acknowledged."""

    def __init__(self, scenario, root, kind=Recorder):
        self.scenario = scenario
        scenario.prepare(root)
        self.start = scan(root)
        disk = kind(root)
        self.seen = {}

        def point(name):
            self.seen[name] = len(disk.ops)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(faults, "point", point)
            try:
                scenario.run(root, disk)
            except Refusal as err:
                if err.reason != "UNHEALTHY":
                    raise
        self.ops = disk.ops
        done = "rollback.stored" if scenario.name == "rollback" else "commit.stored"
        self.proven = self.seen.get("trial.judged", 0) if scenario.name == "healthy" else 0
        self.acknowledged = self.seen.get(done, len(self.ops) + 1)
        self.condemned = min(
            self.seen.get(name, len(self.ops) + 1)
            for name in ("probe.condemned", "trial.condemned")
        )


class Enumerator:
    """Cuts the power behind every operation of a record and looks what comes back."""

    def __init__(self, record, memory, draws=DRAWS, seed=0):
        self.record, self.memory, self.draws = record, memory, draws
        self.rng = random.Random(seed)
        self.points = self.states = 0
        self.violations = Counter()

    def run(self, first=0):
        tree = Tree(self.record.start)
        for point, op in enumerate([None, *self.record.ops]):
            if op is not None:
                tree.do(op)
            if point < first:
                continue
            self.points += 1
            for index in range(3 + self.draws):
                fixed = (tree.killed, tree.minimal, tree.maximal)
                state = fixed[index]() if index < 3 else tree.drawn(self.rng)
                self.states += 1
                self._reboot(point, state, twice=index % 3 == 2, again=index % 6 == 0)
        return self

    def _reboot(self, point, state, *, twice, again):
        root = lay_out(state, self.memory / "boot")
        world = self.record.scenario.world
        world.now, world.loaded = 1_800_000_000.0, []
        try:
            self._look(point, root, "at boot")
            if twice:
                root = self._cut_again(point, root)
                self._look(point, root, "after a second cut")
            world.device(root).recover()
            self._look(point, root, "recovered")
            if again:
                self._converge(root)
        except (EdgeincError, OSError, AssertionError, KeyError) as err:
            self.violations[f"{type(err).__name__}: {err}"[:80]] += 1
        if set(world.loaded) - {sha(OLD.artifact), sha(NEW.artifact)}:
            self.violations["something with a wrong hash was loaded"] += 1
        shutil.rmtree(root)

    def _cut_again(self, point, root):
        """The power goes off somewhere in recovery or in the update after it."""
        start, disk = scan(root), Recorder(root)
        world = self.record.scenario.world
        try:
            world.device(root, disk).recover()
            if self.record.scenario.name != "rollback":
                self.record.scenario.run(root, disk)
        except Refusal:
            pass
        shutil.rmtree(root)
        tree = Tree(start)
        for op in disk.ops[: self.rng.randint(0, len(disk.ops))]:
            tree.do(op)
        return lay_out(tree.drawn(self.rng), root)

    def _look(self, point, root, when):
        """What must hold behind every power cut."""
        record, name = self.record, self.record.scenario.name
        now = served(root)
        state = journal.load(root)
        twice = when != "at boot"  # an update may have gone on since
        allowed = {OLD.artifact} if name != "rollback" else {OLD.artifact, NEW.artifact}
        if name == "healthy" and (twice or point >= record.proven):
            allowed.add(NEW.artifact)
        if now not in allowed:
            self.violations[f"{when}: served {now and now[:18]}"] += 1
        if point >= record.acknowledged and now != record.scenario.ends_with.artifact:
            self.violations[f"{when}: an acknowledged change was lost"] += 1
        if state is None:
            self.violations[f"{when}: the state was lost"] += 1
            return
        condemned = NEW.id in {bad.bundle_id for bad in state.bad}
        if name == "healthy" and condemned:
            self.violations[f"{when}: a good bundle was condemned"] += 1
        if point >= record.condemned and not condemned:
            self.violations[f"{when}: what was found bad was forgotten"] += 1
        if point >= record.seen.get("floors.stored", len(record.ops) + 1) and (
            state.floors["timestamp"].version < 2
        ):
            self.violations[f"{when}: a floor fell"] += 1

    def _converge(self, root):
        """Updates go on as they do on a device, and end where they had ended without the cut."""
        world, name = self.record.scenario.world, self.record.scenario.name
        if name == "rollback":
            if journal.load(root).current.bundle_id == NEW.id:
                world.device(root).rollback()
        else:
            world.settle(root)
        if served(root) != self.record.scenario.ends_with.artifact:
            self.violations["it does not converge"] += 1
        left = [p.name for p in (root / "slots").iterdir() if p.name.startswith(".")]
        if left:
            self.violations["something is left over"] += 1


def enumerated(name, memory, kind=Recorder, draws=DRAWS, around_commit=False):
    record = Record(Scenario(name), memory / "device", kind)
    found = Enumerator(record, memory, draws).run(record.proven if around_commit else 0)
    shutil.rmtree(memory / "device")
    return found


@pytest.mark.timeout(900)  # seconds on a quiet core, minutes beside other work
def test_every_crash_of_every_update_leaves_something_proven(memory):
    found = [enumerated(name, memory) for name in SCENARIOS]
    assert [dict(each.violations) for each in found] == [{}] * len(SCENARIOS)
    assert sum(each.points for each in found) >= 80
    assert sum(each.states for each in found) >= 1_900


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_the_enumerator_catches_a_disk_that_promises_too_much(kind, memory):
    found = enumerated("healthy", memory, kind, draws=4, around_commit=True)
    assert found.violations.total() > 0


class Full(Folder):
    """A disk that is full from one operation on; removing still works."""

    def __init__(self, after):
        self.left = after

    def _take(self, path, data=b""):
        if self.left <= 0:
            if data:
                path.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        self.left -= 1

    def write_new(self, path, data):
        self._take(path, data)
        super().write_new(path, data)

    def append(self, path, data):
        self._take(path)
        super().append(path, data)

    def fsync(self, path):
        self._take(path)
        super().fsync(path)

    def rename(self, old, new):
        self._take(new)
        super().rename(old, new)

    def fsync_folder(self, path):
        self._take(path)
        super().fsync_folder(path)

    def make_folder(self, path):
        self._take(path)
        super().make_folder(path)

    def make_link(self, path, target):
        self._take(path)
        super().make_link(path, target)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_disk_that_is_full_from_any_operation_on(name, memory):
    record = Record(Scenario(name), memory / "device")
    for after in range(len(record.ops) + 1):
        root = lay_out(record.start, memory / f"full-{after}")
        scenario = record.scenario
        reason = ""
        try:
            scenario.run(root, Full(after))
        except Refusal as err:
            reason = err.reason
        assert reason in ("", "NO_SPACE", "UNHEALTHY"), after
        now = served(root)
        assert now in (OLD.artifact, scenario.ends_with.artifact, NEW.artifact)
        if name in ("probe", "trial"):
            assert now == OLD.artifact, after
        if not reason:
            assert now == scenario.ends_with.artifact, after
        if name != "rollback":  # space is there again
            scenario.world.settle(root)
            assert served(root) == scenario.ends_with.artifact, after
        shutil.rmtree(root)


def test_recovery_on_a_full_disk_leaves_what_is_served(memory):
    scenario = Scenario("healthy")
    root = scenario.prepare(memory / "device")
    with pytest.raises(Refusal) as refused:
        scenario.run(root, Full(9))
    assert refused.value.reason == "NO_SPACE"
    with pytest.raises(Refusal):
        scenario.run(root, Full(0))
    assert served(root) == OLD.artifact
    assert serving.served(root).step == 1
