"""Work in a process of its own: what becomes of it when nobody waits for it any more."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeinc.child import run_child
from edgeinc.errors import EdgeincError
from edgeinc.progress import SILENT

SLEEPER = """
import json, os, sys, time
job = json.load(sys.stdin)
if job.get("file"):
    with open(job["file"], "w") as file:
        file.write(f"{os.getpid()} {sys.argv[1:]}\\n")
    time.sleep(600)
print(json.dumps({"result": {"argv": sys.argv[1:]}}))
"""
PARENT = """
import sys
from edgeinc.child import run_child
from edgeinc.progress import SILENT
with SILENT.task("child", None) as task:
    run_child("sleeper", {"file": sys.argv[1]}, task=task)
"""


@pytest.fixture
def sleeper(tmp_path, monkeypatch):
    """A module that children can be."""
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    paths = [str(tmp_path), str(Path(__file__).parents[1])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return tmp_path


def until(done, seconds=30.0):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_child_gives_its_result(sleeper):
    with SILENT.task("child", None) as task:
        found = run_child("sleeper", {}, task=task)
    assert found["argv"] == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_no_child_outlives_a_parent_that_was_killed(sleeper):
    file = sleeper / "pid"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(file)])
    until(lambda: file.exists() and file.read_text().endswith("\n"))
    child = int(file.read_text().split()[0])
    os.kill(child, 0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until(lambda: not _runs(child), 5.0)


def _runs(pid):
    """Whether a process is there and no zombie that waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_child_that_takes_too_long_is_ended(sleeper):
    file = sleeper / "pid"
    with SILENT.task("child", None) as task, pytest.raises(EdgeincError, match="more than 3 s"):
        run_child("sleeper", {"file": str(file)}, task=task, timeout_s=3.0)
    assert not _runs(int(file.read_text().split()[0]))
