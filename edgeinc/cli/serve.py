"""Commands that serve: device run, device watch, demo-update."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from edgeinc.cli._command import LEARN, MACHINE, RESULT, WHAT, app, command, device_app, flag
from edgeinc.cli._device import ROOT, RootOption, become_owner
from edgeinc.cli._ui import Ui
from edgeinc.errors import UsageError
from edgeinc.schema import Exchange

ReportOption = Annotated[
    str | None,
    typer.Option(
        "--report-url",
        metavar="URL",
        help="Gets one JSON document for every change of this device.",
        rich_help_panel=MACHINE,
        show_default=False,
    ),
]


@command(
    device_app,
    "run",
    examples=[
        "edgeinc device run 0",
        "edgeinc device run 0 --reconnect --update-every 300 --metrics 9101",
        "edgeinc device run street.mp4 --out seen.mp4",
    ],
)
def run(
    ui: Ui,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Number of a camera, a video, an image or a folder of images.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="PATH",
            help="Draw the answers: MP4 of a video or camera, folder for a folder of images.",
            rich_help_panel=RESULT,
            show_default=False,
        ),
    ] = None,
    repeat: Annotated[
        bool, flag("--repeat", help="Begin again when images or a video end.", panel=WHAT)
    ] = False,
    reconnect: Annotated[
        bool,
        flag(
            "--reconnect",
            help="Wait for a camera that is not there, and open it again when it is gone.",
            panel=WHAT,
        ),
    ] = False,
    update_every: Annotated[
        float | None,
        typer.Option(
            "--update-every",
            metavar="SECONDS",
            help="Look for updates meanwhile; else `device watch` or a timer does.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            metavar="[HOST:]PORT",
            help="Answer Prometheus on /metrics; without HOST on this machine alone.",
            rich_help_panel=MACHINE,
            show_default=False,
        ),
    ] = None,
    metrics_file: Annotated[
        Path | None,
        typer.Option(
            "--metrics-file",
            metavar="FILE.prom",
            help="Write the same for the textfile collector of node_exporter.",
            rich_help_panel=MACHINE,
            show_default=False,
        ),
    ] = None,
    report_url: ReportOption = None,
    root: RootOption = ROOT,
) -> None:
    """Serve what this device holds, and exchange it between two frames.

    A new step is loaded beside the frames, tried on them, and left again at once when it is worse.
    Ends with the source, or well on Ctrl-C and SIGTERM. systemd is told over its socket.
    """
    from edgeinc.predict.serve import serve

    _positive(update_every, "--update-every")
    become_owner(root)
    with _stopped_by_signals() as stop:
        found = serve(
            root,
            source,
            stop=stop,
            out=out,
            repeat=repeat,
            reconnect=reconnect,
            update_every_s=update_every,
            report_url=report_url,
            metrics=metrics,
            metrics_file=metrics_file,
            progress=ui.progress,
        )
    ui.result(
        found,
        f"step {found.step} served last",
        ui.facts(
            ("frames", f"{found.frames}, {found.faults} without an answer"),
            ("speed", f"{found.fps:.1f} FPS, {found.p95_ms or 0:.1f} ms (p95 of a frame)"),
            *(("exchange", _exchange(e)) for e in found.exchanges),
            ("reports lost", found.reports_lost or None),
            ("pictures", found.out),
        ),
        essential=[found.out] if found.out else [],
    )


def _exchange(found: Exchange) -> str:
    usual = f", usually {found.usual_ms:.1f}" if found.usual_ms is not None else ""
    trial = {"none": "", "good": "; trial passed"}.get(found.verdict, f"; {found.why}")
    return (
        f"step {found.was_step} to {found.step} after frame {found.frame} ({found.way}): "
        f"{found.gap_ms:.1f} ms from answer to answer{usual}{trial}"
    )


@command(
    device_app,
    "watch",
    examples=["edgeinc device watch", "edgeinc device watch --every 3600"],
)
def watch(
    ui: Ui,
    every: Annotated[
        float,
        typer.Option(
            "--every",
            metavar="SECONDS",
            help="Between two looks, a quarter more or less by chance.",
            rich_help_panel=WHAT,
        ),
    ] = 900.0,
    report_url: ReportOption = None,
    root: RootOption = ROOT,
) -> None:
    """Look for updates now and then and take them, until stopped; one line for every change."""
    from edgeinc.update.identity import read_config
    from edgeinc.update.reports import Reporter
    from edgeinc.update.watch import watch as library

    _positive(every, "--every")
    become_owner(root)
    reporter = Reporter(report_url, read_config(root)) if report_url else None
    with _stopped_by_signals() as stop:
        library(root, every_s=every, stop=stop, say=ui.note, report=reporter)
    if reporter is not None:
        reporter.wait()


@command(
    app,
    "demo-update",
    panel=LEARN,
    examples=["edgeinc demo-update", "edgeinc demo-update --out /tmp/update-demo"],
)
def demo_update(
    ui: Ui,
    out: Annotated[
        str,
        typer.Option(
            "--out", metavar="DIR", help="New folder it works in.", rich_help_panel=RESULT
        ),
    ] = "edgeinc-demo-update",
) -> None:
    """Bring a new class to a device that serves, and a bad step, on generated images.

    Trains two steps, publishes them to a web server on this machine, and lets a device take them
    while it answers a video.
    """
    from edgeinc.demo_update import demo_update as story

    found = story(out, progress=ui.progress)
    ui.result(
        found,
        ui.facts(
            ("frames", f"{found.frames} at {found.fps:.0f} FPS, {found.faults} without an answer"),
            ("first step", f"{found.first_bytes:,} bytes"),
            ("its update", f"{found.update_bytes:,} bytes"),
            *(("exchange", _exchange(e)) for e in found.exchanges),
            ("new class", f"{found.new_class}, IoU {found.new_iou:.1f} on the video"),
            ("bad step", found.refused),
            ("serves", f"step {found.serves}"),
            ("video", found.video),
            ("picture", found.picture),
            ("took", f"{found.seconds:.0f} s"),
        ),
        essential=[found.picture],
        hint=["edgeinc", "device", "status", "--root", f"{found.folder}/device"],
    )
    ui.gate(found.failures, hint=f"everything is kept: {found.folder}")


def _positive(seconds: float | None, name: str) -> None:
    if seconds is not None and seconds <= 0:
        raise UsageError(f"{name} {seconds:g} is no time to wait", hint="seconds, such as 900")


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """Set by the first Ctrl-C or SIGTERM; the second one does what it always did."""
    stop = threading.Event()
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}

    def set_once(kind: int, frame: object) -> None:
        stop.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    for kind in before:
        signal.signal(kind, set_once)
    try:
        yield stop
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
