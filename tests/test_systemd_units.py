"""The units under a real systemd: what happens when the server fails, and when it hangs.

systemd is started in namespaces of its own, with the units as they are and a program that does what
the test says. It needs root, systemd and cgroup2, and takes a minute.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[1] / "deploy" / "systemd"
SYSTEMD, PYTHON = Path("/lib/systemd/systemd"), Path("/usr/bin/python3")
PROGRAM = r"""#!/usr/bin/python3
import os, socket, sys, time
with open("/var/lib/edgeinc/calls", "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\n")
def says(name):
    path = "/var/lib/edgeinc/" + name
    return open(path).read().strip() if os.path.exists(path) else ""
if sys.argv[2] == "rollback":
    sys.exit(int(says("rollback") or 0))
if says("run"):
    sys.exit(int(says("run")))
told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
told.connect(os.environ["NOTIFY_SOCKET"])
told.send(b"READY=1\nSTATUS=step 1, 1 frames")
while not says("hang"):
    told.send(b"WATCHDOG=1")
    time.sleep(0.2)
time.sleep(999)
"""
BOOT = r"""
set -e
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for folder in /run /opt /var/lib; do mount -t tmpfs tmpfs "$folder"; done
[ ! -d /etc/edgeinc ] || mount -t tmpfs tmpfs /etc/edgeinc
mkdir -p /run/lock /run/systemd /opt/edgeinc/bin /var/lib/edgeinc/slots
ln -s slots /var/lib/edgeinc/current
cp "$1/program" /opt/edgeinc/bin/edgeinc
chmod -R a+rwX /opt /var/lib/edgeinc
chmod a+x /opt/edgeinc/bin/edgeinc
for file in passwd group; do mount --bind "$1/$file" "/etc/$file"; done
cp -r "$1/units" /run/units
export container=other SYSTEMD_UNIT_PATH=/run/units
exec /lib/systemd/systemd --system --unit=quiet.target --show-status=no
"""


def cgroup2():
    """Where the second version of control groups is mounted, or None."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    return None


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux"
        or os.geteuid() != 0
        or not SYSTEMD.exists()
        or not PYTHON.exists()
        or cgroup2() is None,
        reason="needs root, systemd, cgroup2 and /usr/bin/python3",
    ),
]


class Machine:
    """A systemd of its own. `pid`: of it, as seen from here."""

    def __init__(self, pid):
        self.pid = pid

    def run(self, *words):
        done = subprocess.run(
            ["nsenter", "-t", str(self.pid), "-m", "-p", "-C", "-i", "-u", "--", *words],
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def says(self, name, text=""):
        """What the program shall do from now on."""
        self.run(
            "sh",
            "-c",
            f"echo '{text}' > /var/lib/edgeinc/{name}"
            if text
            else f"rm -f /var/lib/edgeinc/{name}",
        )

    def is_(self, state):
        return self.run("systemctl", "show", "-P", "ActiveState", "edgeinc-serve") == state

    def calls(self, word):
        return [
            c
            for c in self.run("cat", "/var/lib/edgeinc/calls").splitlines()
            if c.split()[1] == word
        ]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Units, a program, and users, for every machine."""
    place = tmp_path_factory.mktemp("parts")
    shutil.copytree(UNITS, place / "units")
    for name in ("sysinit", "basic", "shutdown", "network-online", "time-sync", "multi-user"):
        (place / "units" / f"{name}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    (place / "units" / "quiet.target").write_text("[Unit]\nDescription=nothing\n")
    rollback = place / "units" / "edgeinc-rollback.service"
    text = rollback.read_text()
    assert text.count("sleep 60") == 1
    rollback.write_text(text.replace("sleep 60", "sleep 1"))
    serve = place / "units" / "edgeinc-serve.service"
    text = serve.read_text()
    assert "RestartSec=5\n" in text
    assert "WatchdogSec=30\n" in text
    text = text.replace("RestartSec=5\n", "RestartSec=0.2\n")
    serve.write_text(text.replace("WatchdogSec=30\n", "WatchdogSec=2\n"))
    (place / "program").write_text(PROGRAM)
    for name, line in (("passwd", "edgeinc:x:990:990::/:/bin/sh"), ("group", "edgeinc:x:990:")):
        known = Path("/etc", name).read_text().splitlines()
        others = [each for each in known if not each.startswith("edgeinc:")]
        (place / name).write_text("\n".join([*others, line]) + "\n")
    (place / "boot").write_text(BOOT)
    return place


@pytest.fixture
def machine(parts):
    group = cgroup2() / f"edgeinc-test-{os.getpid()}"
    group.mkdir(exist_ok=True)
    process = subprocess.Popen(
        ["sh", "-c", 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"', "sh", str(group),
         "unshare", "--mount", "--pid", "--fork", "--cgroup", "--ipc", "--uts", "--mount-proc",
         "--propagation", "private", "sh", str(parts / "boot"), str(parts)],
    )  # fmt: skip
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until(lambda: children.read_text().split())
    made = Machine(int(children.read_text().split()[0]))
    until(lambda: made.run("systemctl", "is-active", "quiet.target") == "active")
    yield made
    os.kill(made.pid, 9)  # and with it everything in its namespace
    process.wait()


def until(done, seconds=30.0):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_server_that_answers_runs_and_one_that_was_killed_is_started_again(machine):
    machine.run("systemctl", "start", "edgeinc-serve")
    assert machine.is_("active")
    assert machine.calls("run") == ["device run 0 --reconnect --metrics 9101"]
    machine.run("systemctl", "kill", "-s", "KILL", "edgeinc-serve")
    until(lambda: len(machine.calls("run")) == 2 and machine.is_("active"))
    assert machine.calls("rollback") == []
    machine.run("systemctl", "stop", "edgeinc-serve")
    assert machine.is_("inactive")


def test_a_server_that_hangs_is_ended_by_the_watchdog(machine):
    machine.run("systemctl", "start", "edgeinc-serve")
    machine.says("hang", "yes")
    until(lambda: machine.run("cat", "/run/edgeinc-serve/exit") == "ABRT")
    machine.says("hang")
    until(lambda: machine.is_("active"))
    assert machine.calls("rollback") == []


def test_a_server_that_fails_three_times_goes_back_and_starts_again(machine):
    machine.says("run", "1")
    machine.run("systemctl", "start", "--no-block", "edgeinc-serve")
    until(lambda: machine.calls("rollback"))
    assert machine.calls("rollback")[0] == "device rollback --failed --wait 600"
    # It fails with the older step as well, and there is none before that one.
    machine.says("rollback", "2")
    until(lambda: len(machine.calls("rollback")) == 3)
    assert len(machine.calls("run")) >= 9
    machine.says("run")
    until(lambda: machine.is_("active"))


@pytest.mark.parametrize("code", ["2", "4", "5", "217"])
def test_what_no_other_step_would_mend_is_tried_again_with_the_same(machine, code):
    machine.says("run", code)
    machine.run("systemctl", "start", "--no-block", "edgeinc-serve")
    until(lambda: len(machine.calls("run")) > 3)
    machine.says("run")
    until(lambda: machine.is_("active"))
    assert machine.calls("rollback") == []
