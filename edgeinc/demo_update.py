"""A step's way to a device that serves, on synthetic streets: taken, and a bad one refused.

A network is trained and extended, both steps are published to a real web server on this machine,
and a real `edgeinc device run` answers a video at full speed meanwhile. Then a step is published
that gives one class to everything. No data, no network beyond this machine, no GPU.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from time import perf_counter

import cv2
import numpy as np

from edgeinc import draw
from edgeinc.data import Image, Mask
from edgeinc.data.streets import LABELS, render
from edgeinc.demo import teach
from edgeinc.deploy.export import export
from edgeinc.errors import EdgeincError, UsageError
from edgeinc.evaluation import predict_native
from edgeinc.predict._pictures import encoded
from edgeinc.predict._video import opened, writer
from edgeinc.progress import SILENT, Progress
from edgeinc.runtimes import _golden, open_artifact
from edgeinc.schema import DeviceConfig, Exchange, ServeResult, UpdateDemoResult, from_json
from edgeinc.update import ceremony, enrol, journal, serving
from edgeinc.update.device import Device
from edgeinc.update.publish import publish
from edgeinc.update.serving_files import server_of
from edgeinc.update.source import repository
from edgeinc.update.status import status
from edgeinc.update.terms import Terms

NEW = "car"
SCENES = 200
EPOCHS = (14, 20)
"""Of the base step and of the extension."""
VIDEO_FRAMES, VIDEO_SIZE = 40, (240, 320)
GATES = {"trial_seconds": 3.0, "trial_frames": 60}
FLEET = "demo"
SCORED = 16
"""Scenes that an exported and a published file are scored on."""
LEAST_NEW = 20.0
"""IoU in percent that the new class must reach on the video."""
LEAST_SHOWN = 0.02
"""Share of the street that shows the new class best."""
PATIENCE_S = 120.0
_FOLDERS = ("scenes", "run", "keys", "repo", "device", "street.mp4", "seen.mp4", "before-after.png")


def demo_update(out: str | os.PathLike[str], *, progress: Progress = SILENT) -> UpdateDemoResult:
    """Run the story in a folder that is new or empty.

    Args:
        out: The folder; data, run, keys, repository, device, video and picture stay in it.
        progress: Told about every stretch of work.

    Returns:
        What the device did; `failures` names what was not met.

    Raises:
        UsageError: The folder holds something.
        EdgeincError: As from the functions the demo calls, or the device did not move in time.
    """
    start, out = perf_counter(), Path(out)
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty", hint="give a new folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    run, repo, root = out / "run", out / "repo", out / "device"
    files = _trained(out / "scenes", run, progress)
    video = _video(out / "street.mp4")
    ceremony.begin(repo, models=["erfnet"], fleets=[FLEET], made=out / "keys", given=())
    keys = [f"file:{out / 'keys'}"]
    terms = Terms(gates=GATES)
    publish(repo, files[0], keys=keys, terms=terms, limit=SCORED, progress=progress)
    with _offered(repo) as url:
        trust = (repo / "metadata" / "1.root.json").read_bytes()
        enrol.init(root, DeviceConfig("demo-device", FLEET, "erfnet", url, provider="cpu"), trust)
        first = Device(root).update(repository(root))
        progress.message(f"the device {first.text}: {first.bytes:,} bytes fetched over HTTP")
        with _serving(root, video, out / "seen.mp4", progress) as end:
            publish(repo, files[1], keys=keys, terms=terms, limit=SCORED, progress=progress)
            _until(lambda: _step(root) == 1, "the device takes step 1", progress)
            taken = _bytes(root)
            bad = _constant(files[1], out / "run" / "constant.onnx")
            unseen = Terms(gates=GATES, unscored=True)  # a score would have shown it
            publish(repo, bad, keys=keys, terms=unseen, progress=progress)
            _until(lambda: _condemned(root) != "", "the device tries step 2", progress)
            told = status(root)
            found = end()
    shown, new_iou = _picture(out, video, files[1], found)
    return UpdateDemoResult(
        folder=str(out),
        frames=found.frames,
        faults=found.faults,
        fps=found.fps,
        exchanges=found.exchanges,
        first_bytes=first.bytes,
        update_bytes=taken,
        new_class=NEW,
        new_iou=new_iou,
        refused=_condemned(root),
        serves=told.served.step if told.served else None,
        video=str(out / "seen.mp4"),
        picture=str(shown),
        seconds=round(perf_counter() - start, 1),
        failures=_failures(found, new_iou, _count(out / "seen.mp4")),
    )


def _trained(data: Path, run: Path, progress: Progress) -> list[Path]:
    """Exports of step 0 and step 1."""
    teach(data, run, scenes=SCENES, new=[NEW], epochs=EPOCHS, progress=progress)
    return [
        Path(export(run, step=s, head="dynamic", limit=SCORED, progress=progress).path)
        for s in (0, 1)
    ]


def _video(path: Path) -> Path:
    """A street per frame: nothing of it was trained on."""
    with writer(path, 10.0) as append:
        for i in range(VIDEO_FRAMES):
            append(_street(i)[0])
    return path


def _street(i: int) -> tuple[Image, Mask]:
    return render(50_000_000 + i, VIDEO_SIZE)


@contextmanager
def _offered(repo: Path) -> Iterator[str]:
    """The address at which a web server on this machine offers the repository."""
    with server_of(repo, port=0) as server:
        Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def _serving(
    root: Path, video: Path, out: Path, progress: Progress
) -> Iterator[Callable[[], ServeResult]]:
    """A real `edgeinc device run`; a function that ends it and gives its result."""
    command = [sys.executable, "-m", "edgeinc", "device", "run", str(video), "--repeat"]
    command += ["--out", str(out), "--root", str(root), "--update-every", "1", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)

    def end() -> ServeResult:
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=PATIENCE_S)
        if process.returncode:
            raise EdgeincError(f"device run ended with exit code {process.returncode}")
        return from_json(ServeResult, said, source="device run")

    def serves() -> bool:
        if process.poll() is not None:
            raise EdgeincError(f"device run ended with exit code {process.returncode}")
        said = serving.heard(root)
        return said is not None and said.frames >= VIDEO_FRAMES

    try:
        _until(serves, "the device serves", progress)
        yield end
    finally:
        process.kill()
        process.wait()


def _until(done: Callable[[], bool], what: str, progress: Progress) -> None:
    end = time.monotonic() + PATIENCE_S
    with progress.task(what, None, unit="s") as task:
        while not done():
            if time.monotonic() > end:
                raise EdgeincError(f"not within {PATIENCE_S:.0f} s: {what}")
            time.sleep(0.2)
            task.advance(0, note=what)


def _step(root: Path) -> int | None:
    state = journal.load(root)
    return state.current.step if state and state.current else None


def _bytes(root: Path) -> int:
    """Bytes of the newest update, as the history has them."""
    from edgeinc.update.history import newest

    said = [event.text for event in newest(root).events if event.what == "committed"]
    return int(said[-1].rpartition(", ")[2].removesuffix(" bytes"))


def _condemned(root: Path) -> str:
    state = journal.load(root)
    return f"{state.bad[-1].by}: {state.bad[-1].why}" if state and state.bad else ""


def _constant(good: Path, path: Path) -> Path:
    """A next step that was ruined in training: every weight is zero, so one class wins all.

    It was exported as it is, so the probe finds what its export found; the frames tell.
    """
    import onnx

    model = onnx.load(good)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = np.zeros(tuple(tensor.dims), np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    entries = {p.key: p.value for p in model.metadata_props} | {"step": json.dumps(2)}
    onnx.helper.set_model_props(model, entries)
    onnx.save(model, path)
    with open_artifact(path) as session:
        golden = _golden.ask(session.run, session.size)
    onnx.helper.set_model_props(model, entries | golden)
    onnx.save(model, path)
    return path


def _picture(out: Path, video: Path, artifact: Path, found: ServeResult) -> tuple[Path, float]:
    """The same street before and after the exchange, from the video that the device wrote.

    Returns:
        The picture, of the street on which the new class is found best, and the IoU of that class
        over the whole video in percent.
    """
    path, label = out / "before-after.png", next(x.id for x in LABELS if x.name == NEW)
    both, either = np.zeros(VIDEO_FRAMES), np.zeros(VIDEO_FRAMES)
    with opened(str(video)) as stream, open_artifact(artifact) as session:
        classes = session.table.classes
        new = next(c.id for c in classes if c.name == NEW)
        for i, frame in enumerate(stream.frames):
            truth, seen = _street(i)[1] == label, predict_native(session, frame) == new
            both[i], either[i] = (truth & seen).sum(), (truth | seen).sum()
    large = np.where(either > LEAST_SHOWN * np.prod(VIDEO_SIZE), both / np.maximum(either, 1), 0)
    best, exchange = int(large.argmax()), _first(found.exchanges)
    before = max((i for i in range(exchange.frame) if i % VIDEO_FRAMES == best), default=best)
    after = exchange.frame + (best - exchange.frame) % VIDEO_FRAMES
    shown = _frames(out / "seen.mp4", (before, after))
    legend = draw.legend([c.name for c in classes], [c.color for c in classes], width=2 * 512)
    sheet = draw.contact_sheet(
        [shown], titles=["before the update", "after"], footer=legend, cell_width=512
    )
    path.write_bytes(encoded(sheet, ".png"))
    return path, float(100 * both.sum() / max(1, either.sum()))


def _first(exchanges: Sequence[Exchange]) -> Exchange:
    if not exchanges:
        raise EdgeincError("the device served one step all the time")
    return exchanges[0]


def _frames(video: Path, wanted: Sequence[int]) -> list[Image]:
    with opened(str(video)) as stream:
        return [frame for i, frame in enumerate(stream.frames) if i in wanted]


def _count(video: Path) -> int:
    capture = cv2.VideoCapture(str(video))
    try:
        return int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    finally:
        capture.release()


def _failures(found: ServeResult, new_iou: float, drawn: int) -> tuple[str, ...]:
    failed = []
    if found.faults or drawn != found.frames:
        failed.append(f"{found.faults} frames without an answer, {drawn} of {found.frames} drawn")
    if [(e.step, e.verdict) for e in found.exchanges] != [(1, "good"), (2, "bad")]:
        failed.append("the device did not take step 1 and refuse step 2 in its trial")
    if found.step != 1:
        failed.append(f"step {found.step} was served last, and not step 1")
    if new_iou < LEAST_NEW:
        failed.append(f"{NEW} has IoU {new_iou:.1f} on the video, below {LEAST_NEW:g}")
    return tuple(failed)
