"""Whom a device that serves tells: systemd, Prometheus, and a URL, which can change nothing."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from live import BASE, FRAMES, GROWN, QUICK, Fleet, network

from edgeinc.cli import main as command_line
from edgeinc.errors import EdgeincError, MissingError, UsageError
from edgeinc.predict._video import Stream, opened, writer
from edgeinc.progress import SILENT
from edgeinc.schema import ServeResult, from_json
from edgeinc.update import journal, serving
from edgeinc.update.device import Device
from edgeinc.update.enrol import init
from edgeinc.update.notify import Systemd
from edgeinc.update.reports import Reporter
from edgeinc.update.source import repository
from edgeinc.update.status import status
from edgeinc.update.watch import watch

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs signals and unix sockets")


@pytest.fixture(scope="module")
def nets():
    return {"base": network(BASE, step=1), "grown": network(GROWN, step=2)}


@pytest.fixture(scope="module")
def _installed(tmp_path_factory, keys, nets):
    fleet = Fleet(tmp_path_factory.mktemp("installed"), keys)
    fleet.publish(1, nets["base"], count=3)
    fleet.install()
    return fleet


@pytest.fixture
def fleet(_installed, tmp_path):
    """A device that serves step 1, which has three classes."""
    return _installed.copied(tmp_path)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i, frame in enumerate(FRAMES):
        cv2.imwrite(str(folder / f"{i}.png"), frame[..., ::-1])
    return folder


@pytest.fixture
def start():
    """Starts a command of edgeinc in a process of its own, which does not outlive the test."""
    started = []

    def run(*words, **settings):
        process = subprocess.Popen(
            [sys.executable, "-m", "edgeinc", *map(str, words)],
            env={**os.environ, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def main(words):
    """The exit code of a command in this process."""
    with pytest.raises(SystemExit) as end:
        command_line(words)
    return end.value.code or 0


def until(done, seconds=30.0):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def frames(root):
    said = serving.heard(root)
    return said.frames if said else 0


# ---------------------------------------------------------------------------------- real processes


@linux
def test_systemd_hears_of_frames_and_a_signal_ends_it_well(fleet, images, start, tmp_path):
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.bind(str(tmp_path / "notify"))
    listening.settimeout(30)
    where = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    process = start("device", "run", images, "--repeat", "--json", "--root", fleet.root, **where)
    assert listening.recv(500).startswith(b"READY=1\nSTATUS=step 1, 1 frames")
    assert listening.recv(500).startswith(b"WATCHDOG=1")
    os.kill(process.pid, signal.SIGSTOP)  # frames stop: so does the watchdog
    time.sleep(0.5)
    listening.setblocking(False)
    with suppress(BlockingIOError):  # what was said before
        listening.recv(500)
    time.sleep(1.5)
    with pytest.raises(BlockingIOError):
        listening.recv(500)
    os.kill(process.pid, signal.SIGCONT)
    listening.settimeout(30)
    assert listening.recv(500).startswith(b"WATCHDOG=1")
    process.terminate()
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    found = from_json(ServeResult, out, source="stdout")
    assert (found.step, found.faults) == (1, 0)
    assert found.frames > 3
    assert serving.heard(fleet.root) is None
    words = []
    while b"STOPPING=1" not in words:
        words.append(listening.recv(500))


@linux
def test_a_server_killed_in_a_trial_serves_the_old_step_again(fleet, nets, images, start):
    words = ("device", "run", images, "--repeat", "--root", fleet.root)
    server = start(*words)
    until(lambda: frames(fleet.root) > 0)
    fleet.publish(2, nets["grown"], count=4, gates=replace(QUICK, trial_seconds=60.0))
    agent = start("device", "watch", "--every", "1", "--root", fleet.root)
    until(lambda: (s := serving.heard(fleet.root)) is not None and s.attempt)
    server.kill()
    agent.kill()
    agent.wait()
    server.wait()
    assert status(fleet.root).served.step == 1
    assert not serving.is_running(fleet.root, serving.heard(fleet.root))
    again = start(*words)
    until(lambda: serving.heard(fleet.root).pid == again.pid)
    until(lambda: frames(fleet.root) > 0)
    assert serving.is_running(fleet.root, serving.heard(fleet.root))
    held = journal.load(fleet.root).current.bundle_id
    assert serving.heard(fleet.root).bundle_id == held
    assert journal.load(fleet.root).trial.tries == 1


@linux
def test_an_agent_killed_in_a_trial_is_followed_by_one_that_ends_it(fleet, nets, images, start):
    start("device", "run", images, "--repeat", "--root", fleet.root)
    until(lambda: frames(fleet.root) > 0)
    fleet.publish(2, nets["grown"], count=4)
    agent = start("device", "update", "--root", fleet.root, EDGEINC_FAULT="kill@trial.judged")
    assert agent.wait(30) == -signal.SIGKILL
    assert status(fleet.root).served.step == 1  # proven, and not committed: nobody wrote it
    assert fleet.update().proof == "trial"
    assert status(fleet.root).served.step == 2
    assert serving.heard(fleet.root).faults == 0


# --------------------------------------------------------------------------- in this process


def test_every_frame_of_a_video_is_answered_and_drawn(fleet, tmp_path, capsys):
    with writer(tmp_path / "street.mp4", 10.0) as append:
        for _ in range(25):
            append(FRAMES[0])
    out = tmp_path / "seen.mp4"
    words = ["device", "run", str(tmp_path / "street.mp4"), "--out", str(out), "--json"]
    assert main([*words, "--root", str(fleet.root)]) == 0
    found = from_json(ServeResult, capsys.readouterr().out, source="stdout")
    assert (found.frames, found.faults, found.step) == (25, 0, 1)
    with opened(str(out)) as stream:
        assert len(list(stream.frames)) == 25


def test_every_image_of_a_folder_gets_its_picture(fleet, images, tmp_path):
    words = ["device", "run", str(images), "--out", str(tmp_path / "seen")]
    assert main([*words, "--root", str(fleet.root)]) == 0
    assert len(list((tmp_path / "seen").iterdir())) == len(FRAMES)


class Said:
    """Keeps what people are told."""

    task = staticmethod(SILENT.task)

    def __init__(self):
        self.lines = []

    def message(self, text):
        self.lines.append(text)


class Camera:
    """Stands for a camera, which no machine that tests has: at each look frames, or none is there.

    Args:
        looks: Frames that are given before it is gone; None, it is not there.
    """

    def __init__(self, *looks):
        self.looks = list(looks)

    @contextmanager
    def opened(self, source):
        look = self.looks.pop(0)
        if look is None:
            raise MissingError(f"camera {source} cannot be opened", hint="plug it in")
        yield Stream(iter([FRAMES[0]] * look), 25.0, None)


@linux
def test_a_camera_that_comes_and_goes_is_waited_for(fleet, tmp_path, monkeypatch, capsys):
    from edgeinc.predict import serve as module

    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.bind(str(tmp_path / "notify"))
    listening.settimeout(30)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setattr(module, "RECONNECT_S", 0.01)
    camera, stop = Camera(None, None, 3, None, 2), threading.Event()

    heard = set()

    def look(source):
        heard.add(serving.heard(fleet.root).waits)
        if not camera.looks:
            stop.set()
            camera.looks.append(None)
        return camera.opened(source)

    monkeypatch.setattr(module, "opened", look)
    out = tmp_path / "seen.mp4"
    said = Said()
    found = module.serve(fleet.root, "0", stop=stop, out=out, reconnect=True, progress=said)
    assert (found.frames, found.faults) == (5, 0)
    of_camera = [line.partition(";")[0] for line in said.lines if "camera" in line]
    gone, again = "camera 0 gives no more images", "the camera gives images again"
    missing = "camera 0 cannot be opened"
    assert of_camera == [missing, again, gone, missing, again, gone, missing]
    with opened(str(out)) as stream:
        assert len(list(stream.frames)) == 5
    words = []
    while not words or b"STOPPING=1" not in words[-1]:
        words.append(listening.recv(500))
    assert words[0] == b"STATUS=camera 0 cannot be opened"  # not ready, and not dead
    assert heard == {"", "camera 0 cannot be opened", "camera 0 gives no more images"}
    ready = next(i for i, word in enumerate(words) if word.startswith(b"READY=1"))
    assert words[ready + 1].startswith(b"WATCHDOG=1\nSTATUS=camera 0")


def test_a_camera_that_is_gone_ends_the_command_unless_it_shall_wait(fleet, monkeypatch, capsys):
    from edgeinc.predict import serve as module

    for camera, line in ((Camera(None), "cannot be opened"), (Camera(2), "no more images")):
        monkeypatch.setattr(module, "opened", camera.opened)
        assert main(["device", "run", "0", "--root", str(fleet.root)]) == 4
        assert line in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line", "code"),
    [
        (["gone.mp4"], "no such source: gone.mp4", 2),
        (["IMAGES", "--report-url", "http://127.0.0.1/"], "--report-url tells", 2),
        (["IMAGES", "--update-every", "0"], "--update-every 0", 2),
        (["IMAGES", "--root", "EMPTY"], "EMPTY is no device", 2),
        (["IMAGES", "--metrics-file", "EMPTY/a.prom"], "metrics cannot be written to", 2),
        (["IMAGES", "--metrics", "TAKEN"], "cannot listen at TAKEN", 2),
        (["DAMAGED"], "is not a video that can be read", 4),
    ],
)
def test_what_cannot_be_run_is_one_clear_line(fleet, images, tmp_path, capsys, words, line, code):
    """Never 1: that is for a step that fails, and a service manager goes back to the one before."""
    (tmp_path / "street.mp4").write_bytes(b"no video")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        names = {"IMAGES": str(images), "TAKEN": port, "DAMAGED": str(tmp_path / "street.mp4")}
        names |= {"EMPTY": str(tmp_path / "EMPTY"), "EMPTY/a.prom": str(tmp_path / "EMPTY/a.prom")}
        words = ["device", "run", "--root", str(fleet.root), *(names.get(w, w) for w in words)]
        assert main(words) == code
    said = capsys.readouterr().err.strip().splitlines()
    assert line.replace("TAKEN", port) in said[0]
    assert said[1].startswith("hint: ")
    assert len(said) == 2


def test_a_slot_that_is_damaged_ends_the_command_with_one_line(fleet, images, capsys):
    next(fleet.root.glob("slots/*/model.onnx")).write_bytes(b"worn")
    assert main(["device", "run", str(images), "--root", str(fleet.root)]) == 5
    assert "error: the slot of step 1 is damaged: model.onnx is not" in capsys.readouterr().err


def test_the_first_step_is_fetched_where_the_server_looks_for_updates(fleet, images, tmp_path):
    shutil.rmtree(fleet.root)
    init(fleet.root, fleet.config(), fleet.trust())
    words = ["device", "run", str(images), "--root", str(fleet.root)]
    assert main(words) == 2
    assert main([*words, "--update-every", "60"]) == 0
    assert status(fleet.root).served.step == 1


def test_the_agent_outlives_every_error_and_says_each_once(fleet, nets):
    said, stop = [], threading.Event()
    fleet.publish(2, nets["grown"], count=4)
    hidden = fleet.folder.rename(fleet.folder.with_name("away"))
    agent = threading.Thread(
        target=watch,
        args=(fleet.root,),
        kwargs={"every_s": 0.05, "stop": stop, "say": said.append},
    )
    agent.start()
    until(lambda: len(said) == 1)
    time.sleep(0.5)
    hidden.rename(fleet.folder)
    until(lambda: len(said) == 3)
    stop.set()
    agent.join(30)
    assert not agent.is_alive()
    assert said[0].startswith("refused (NETWORK)")
    assert said[1:] == ["serves step 2", "step 2 is served, as the channel asks"]


def test_nothing_is_said_where_nobody_listens(tmp_path):
    Systemd("").alive("x")
    Systemd(str(tmp_path / "gone")).alive("x")


class Ear(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        if self.server.act == "hang":
            self.server.over.wait(20)
        self.send_response(500 if self.server.act == "fail" else 204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format, *args):
        """Quiet."""


@pytest.fixture
def ear():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Ear)
    server.heard, server.act, server.over = [], "take", threading.Event()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("act", ["take", "fail", "hang", "gone"])
def test_what_becomes_of_a_report_changes_nothing_but_a_count(fleet, nets, ear, act):
    ear.act = act
    url = f"http://127.0.0.1:{ear.server_port}/changes"
    if act == "gone":
        url = "http://127.0.0.1:9/changes"
    device = Device(fleet.root)
    reporter = Reporter(url, device.config, timeout_s=0.5)
    fleet.publish(2, nets["grown"], count=4)
    outcome = Device(fleet.root, report=reporter).update(repository(fleet.root))
    assert (outcome.change, outcome.step) == ("committed", 2)
    until(lambda: reporter.sent + reporter.lost == 1)
    assert (reporter.sent, reporter.lost) == ((1, 0) if act == "take" else (0, 1))
    if act != "gone":
        said = ear.heard[0]
        assert (said["device"], said["what"], said["step"]) == ("pole-7", "committed", 2)


def test_a_url_that_is_none_is_refused(fleet):
    with pytest.raises(UsageError, match="no URL"):
        Reporter("ftp://x", Device(fleet.root).config)


def test_prometheus_reads_what_is_served(fleet):
    pytest.importorskip("prometheus_client")
    from edgeinc.update.metrics import Metrics
    from edgeinc.update.server import Server

    with Server(fleet.root) as server:
        shown = Metrics(
            fleet.root,
            serving=server.serving,
            step=lambda: server.bundle.step,
            reports_lost=lambda: 0,
        )
        for frame in FRAMES:
            server.answer(frame)
        address = shown.listen("0")
        assert address.startswith("127.0.0.1:")
        text = urllib.request.urlopen(f"http://{address}/metrics").read().decode()
        file = fleet.root.parent / "edgeinc.prom"
        shown.write(file, at_once=True)
        for lines in (text.splitlines(), file.read_text().splitlines()):
            assert "edgeinc_step 1.0" in lines
            assert f"edgeinc_frames_total {len(FRAMES)}.0" in lines
            assert "edgeinc_faults_total 0.0" in lines
            assert "edgeinc_refused 0.0" in lines
        with pytest.raises(UsageError, match="no address"):
            shown.listen("here")
        with pytest.raises(EdgeincError, match="cannot listen"):
            shown.listen(address)


# ------------------------------------------------------------------------------------------- units


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_knows_every_line_of_the_units(repository, tmp_path):
    units = sorted((repository / "deploy" / "systemd").glob("*.service"))
    assert len(units) == 3
    for unit in units:  # the program is not installed where the units expect it
        text = unit.read_text().replace("/opt/edgeinc/bin/edgeinc", sys.executable)
        (tmp_path / unit.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, sorted(tmp_path.glob("*.service")))],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "edgeinc-" not in done.stderr
