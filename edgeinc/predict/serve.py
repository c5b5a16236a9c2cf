"""`device run`: frames from a source to what a device serves, and pictures of the answers out.

Rules: the model is the one that the device's agent names, and it changes between two frames; every
frame that was read is answered or counted; a picture that cannot be written ends the command, not
the model; READY=1 and WATCHDOG=1 come from this loop alone.

    serve(Path("/var/lib/edgeinc"), "0", stop=stop)          # the first camera
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from edgeinc import draw
from edgeinc.data import Image
from edgeinc.data._files import read_image
from edgeinc.errors import DataError, MissingError, UsageError
from edgeinc.predict import _check_out, _image_files, _kind, _out_files
from edgeinc.predict._pictures import encoded, stamped
from edgeinc.predict._video import DEFAULT_FPS, opened, writer
from edgeinc.progress import SILENT, Progress
from edgeinc.runs import write_atomic
from edgeinc.schema import ServeResult
from edgeinc.update import serving
from edgeinc.update.device import Device
from edgeinc.update.identity import read_config
from edgeinc.update.notify import Systemd
from edgeinc.update.reports import Reporter
from edgeinc.update.server import Answer, Server
from edgeinc.update.source import repository
from edgeinc.update.watch import watch

_log = logging.getLogger(__name__)
Named = Iterator[tuple[str, Image]]
Write = Callable[[Image, Answer, str], None]
RECONNECT_S = 5.0
"""Between two looks for a camera."""


def serve(
    root: Path,
    source: str,
    *,
    stop: threading.Event,
    out: Path | None = None,
    repeat: bool = False,
    reconnect: bool = False,
    update_every_s: float | None = None,
    report_url: str | None = None,
    metrics: str | None = None,
    metrics_file: Path | None = None,
    progress: Progress = SILENT,
) -> ServeResult:
    """Answer every frame of a source until it ends.

    Args:
        root: The device's folder.
        source: An image, a folder of images, a video, or the number of a camera ("0").
        stop: Set by another thread or a signal handler: ends well after the frame at hand.
        out: MP4 file for a video or camera, image for an image, folder for a folder of images;
            None draws nothing.
        repeat: Begin again when images or a video end.
        reconnect: Wait for a camera that is not there, and open it again when it is gone.
        update_every_s: Look for updates in a thread of this process; None leaves that to others.
        report_url: Gets one JSON document for every change that this thread makes.
        metrics: PORT or HOST:PORT for Prometheus.
        metrics_file: File for Prometheus, written every few seconds.
        progress: Receives one unit per frame, and one line per change.

    Raises:
        UsageError: Options do not fit together, the folder is no device, or nothing is installed.
        MissingError: Runtime, accelerator, camera or `edgeinc[metrics]` is not here; or the source
            gives no images, or no more. That says nothing against what is served.
        Refusal: Nothing sound is installed, the first update was refused, or another process
            serves from this folder.
        EdgeincError: Too many frames failed one after the other, or no MP4 can be written.
        OSError: A picture cannot be written.
    """
    kind = _kind(source)
    if out is not None:
        _check_out(out, source, kind, "overlay")
    if report_url is not None and update_every_s is None:
        raise UsageError(
            "--report-url tells what an update did, and this process looks for none",
            hint="add --update-every SECONDS, or give it to `edgeinc device watch`",
        )
    config = read_config(root)
    reporter = Reporter(report_url, config) if report_url else None
    if update_every_s is not None and serving.served(root) is None:
        progress.message("nothing is installed yet: the first step is fetched")
        Device(root, report=reporter).update(repository(root))
    systemd = Systemd.of_environment()

    def told() -> int:
        return reporter.lost if reporter else 0

    begun = time.monotonic()
    with ExitStack() as stack:
        server = stack.enter_context(Server(root, message=progress.message))
        shown = _metrics(root, server, told, metrics, metrics_file, progress)
        if update_every_s is not None:
            agent = threading.Thread(
                target=watch,
                args=(root,),
                kwargs={
                    "every_s": update_every_s,
                    "stop": stop,
                    "say": lambda line: progress.message(f"update: {line}"),
                    "report": reporter,
                },
                name="agent",
                daemon=True,  # cut off by the end of the process, which it is made for
            )
            agent.start()
        stack.enter_context(_source_is_missing())
        if kind == "camera" and reconnect:
            waiting = _Waiting(server, stop, systemd, progress)
            frames, fps = _camera(source, waiting), DEFAULT_FPS
        else:
            frames, fps = stack.enter_context(_frames(source, kind, repeat))
        write = stack.enter_context(_pictures(source, kind, out, fps))
        with progress.task("serve", None, unit="frame") as task:
            for name, image in frames:
                if stop.is_set():
                    break
                answer = server.answer(image)
                if answer is not None:
                    systemd.alive(f"step {answer.step}, {server.frames} frames")
                    if write is not None:
                        write(image, answer, name)
                if shown is not None:
                    shown()
                task.advance(note=f"step {server.bundle.step}")
        systemd.ending()
        seconds = time.monotonic() - begun
        if reporter is not None:
            reporter.wait()
        if server.frames == 0 and not stop.is_set():
            raise DataError(f"{source} gave no frame", hint="play it in a viewer")
    return ServeResult(
        root=str(root),
        source=source,
        out=str(out or ""),
        step=server.bundle.step,
        frames=server.frames,
        faults=server.faults,
        fps=server.frames / seconds,
        p95_ms=server.p95_ms,
        exchanges=tuple(server.exchanges),
        reports_lost=told(),
    )


@contextmanager
def _source_is_missing() -> Iterator[None]:
    """What is wrong with the source is its own exit code: a service manager acts on it."""
    try:
        yield
    except DataError as err:
        raise MissingError(err.message, hint=err.hint) from err


class _Waiting:
    """What is done while there is no camera: people hear it once, agent and systemd every time."""

    def __init__(
        self, server: Server, stop: threading.Event, systemd: Systemd, progress: Progress
    ) -> None:
        self._server, self._stop = server, stop
        self._systemd, self._progress = systemd, progress
        self._said = ""

    def __call__(self, why: str) -> bool:
        """Wait a moment; False when the server shall end."""
        if why != self._said:
            self._progress.message(f"{why}; it is looked for every {RECONNECT_S:.0f} s")
            self._said = why
        self._systemd.waits(why)
        self._server.idle(why)
        return not self._stop.wait(RECONNECT_S)

    def over(self) -> None:
        """A frame came."""
        if self._said:
            self._progress.message("the camera gives images again")
            self._said = ""


def _camera(source: str, waits: _Waiting) -> Named:
    """Frames of a camera that comes and goes."""
    while True:
        try:
            with opened(source) as stream:
                for frame in stream.frames:
                    waits.over()
                    yield "", frame
            why = f"camera {source} gives no more images"
        except MissingError as err:
            why = err.message
        if not waits(why):
            return


def _metrics(
    root: Path,
    server: Server,
    reports_lost: Callable[[], int],
    address: str | None,
    file: Path | None,
    progress: Progress,
) -> Callable[[], None] | None:
    """Opens what Prometheus reads; a call for after each frame where there is a file."""
    if address is None and file is None:
        return None
    from edgeinc.update.metrics import Metrics  # an extra of its own

    shown = Metrics(
        root, serving=server.serving, step=lambda: server.bundle.step, reports_lost=reports_lost
    )
    if address is not None:
        progress.message(f"metrics: http://{shown.listen(address)}/metrics")
    if file is None:
        return None
    try:
        shown.write(file, at_once=True)
    except OSError as err:
        raise UsageError(
            f"metrics cannot be written to {file}: {err.strerror}", hint="--metrics-file FILE.prom"
        ) from err

    def write() -> None:
        try:
            shown.write(file)
        except OSError as err:  # a full disk is no reason to stop serving
            _log.warning("metrics were not written: %s", err)

    return write


@contextmanager
def _frames(
    source: str, kind: str, repeat: bool
) -> Iterator[tuple[Iterator[tuple[str, Image]], float]]:
    """Names and images, and how many a second there are."""
    if kind in ("image", "folder"):
        files = _image_files(Path(source)) if kind == "folder" else (Path(source),)
        yield _images(files, repeat), 0.0
        return
    with opened(source) as first:
        yield _video(source, kind, first.frames, repeat), first.fps


def _images(files: tuple[Path, ...], repeat: bool) -> Named:
    while True:
        for file in files:
            yield file.name, read_image(file)
        if not repeat:
            return


def _video(source: str, kind: str, frames: Iterator[Image], repeat: bool) -> Named:
    for frame in frames:
        yield "", frame
    if kind == "camera":
        raise MissingError(
            f"camera {source} gives no more images",
            hint="check that it is connected; with --reconnect it is waited for",
        )
    while repeat:
        with opened(source) as again:
            gave = False
            for frame in again.frames:
                gave = True
                yield "", frame
        if not gave:
            raise DataError(f"{source} gives no more frames", hint="look at the file and its disk")


@contextmanager
def _pictures(source: str, kind: str, out: Path | None, fps: float) -> Iterator[Write | None]:
    """A function that draws an answer over its image and writes it."""
    if out is None:
        yield None
        return
    if kind in ("video", "camera"):
        out.parent.mkdir(parents=True, exist_ok=True)
        with writer(out, fps) as append:
            yield lambda image, answer, name: append(_drawn(image, answer))
        return
    if kind == "folder":
        out.mkdir(parents=True, exist_ok=True)

    def write(image: Image, answer: Answer, name: str) -> None:
        path = _out_files([Path(name)], out, "overlay")[0] if kind == "folder" else out
        write_atomic(path, encoded(_drawn(image, answer), path.suffix))

    yield write


def _drawn(image: Image, answer: Answer) -> draw.Picture:
    classes = answer.table.classes
    picture = draw.overlay(image, answer.ids, draw.palette(classes))
    return stamped(picture, f"step {answer.step}, {len(classes)} classes")
