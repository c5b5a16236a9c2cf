"""Root's commands on a device that another user serves."""

import os
import shutil
import site
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from devices import CONFIG, ROOT

from edgeinc.update import journal
from edgeinc.update.enrol import init

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root can become another user"
)
NOBODY = 65534


def readable_python():
    """A Python of this version that everyone can execute, or None."""
    for python in (sys.executable, "/usr/bin/python3"):
        done = (
            subprocess.run(
                [python, "-c", "import sys; print(*sys.version_info[:2])"],
                user=NOBODY,
                capture_output=True,
                text=True,
            )
            if Path(python).exists() and _may_run(python)
            else None
        )
        if done and done.stdout.split() == [str(n) for n in sys.version_info[:2]]:
            return python
    return None


def _may_run(python):
    """Whether a user without rights of its own gets to a file."""
    done = subprocess.run(["/bin/sh", "-c", f'test -x "{python}"'], user=NOBODY)
    return done.returncode == 0


@pytest.fixture
def root():
    """A device in a folder of the user nobody, which that user gets to."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    init(folder / "device", CONFIG, ROOT)
    for path in [folder / "device", *(folder / "device").rglob("*")]:
        os.chown(path, NOBODY, NOBODY)
    yield folder / "device"
    shutil.rmtree(folder)


def edgeinc(python, *words):
    packages = [str(Path(__file__).parents[1]), *site.getsitepackages()]
    return subprocess.run(
        [python, "-m", "edgeinc", "device", *map(str, words)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(packages)},
        capture_output=True,
        text=True,
        cwd="/",
    )


def test_what_root_changes_stays_the_owners(root):
    python = readable_python()
    if python is None:
        pytest.skip("no Python here that everyone can execute")
    done = edgeinc(python, "hold", "--root", root)
    assert done.returncode == 0, done.stderr
    assert journal.load(root).held
    assert edgeinc(python, "update", "--retry", "--root", root).returncode == 0
    files = [root, *root.rglob("*")]
    assert {path.lstat().st_uid for path in files} == {NOBODY}


def test_an_owner_without_a_name_gets_no_group_of_roots(root):
    python = readable_python()
    if python is None:
        pytest.skip("no Python here that everyone can execute")
    for path in [root, *root.rglob("*")]:
        os.chown(path, 54321, 54321)
    become = (
        "import os; from pathlib import Path; os.setgroups([0, 4, 27])\n"
        "from edgeinc.cli._device import become_owner\n"
        f"become_owner(Path({str(root)!r})); print(os.getuid(), os.getgid(), os.getgroups())"
    )
    packages = [str(Path(__file__).parents[1]), *site.getsitepackages()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(packages)}
    words = [python, "-c", become]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, cwd="/")
    assert done.stdout.strip() == "54321 54321 [54321]", done.stderr


def test_an_owner_who_cannot_read_the_program_is_named(root):
    if _may_run(sys.executable):
        pytest.skip("this Python is everyone's")
    before = (root / "state.json").read_bytes()
    done = edgeinc(sys.executable, "hold", "--root", root)
    assert done.returncode == 2
    assert "belongs to nobody, who cannot read" in done.stderr
    assert "/opt/edgeinc" in done.stderr
    assert (root / "state.json").read_bytes() == before


def test_files_of_another_user_in_the_cache_are_fetched_again(root):
    python = readable_python()
    if python is None:
        pytest.skip("no Python here that everyone can execute")
    cache = root / "tuf"
    cache.mkdir()
    os.chown(cache, NOBODY, NOBODY)
    (cache / "timestamp.json").write_bytes(b"root's")
    (cache / "timestamp.json").chmod(0o600)
    stick = root.parent / "stick"
    (stick / "metadata").mkdir(parents=True)
    done = edgeinc(python, "check", "--from", stick, "--root", root)
    assert done.returncode == 5
    assert f"{stick}/metadata/timestamp.json: no such file" in done.stderr
    assert not (cache / "timestamp.json").exists()
