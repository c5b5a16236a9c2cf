"""Commands on a device: device check, update, status, history, rollback, hold, verify."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from edgeinc.cli._command import RUN, WHAT, command, device_app, flag
from edgeinc.cli._device import ROOT, RootOption, become_owner, rooted
from edgeinc.cli._ui import Ui
from edgeinc.errors import EdgeincError
from edgeinc.schema import DeviceStatus, DeviceUpdate, Held

WaitOption = Annotated[
    float,
    typer.Option(
        "--wait",
        metavar="SECONDS",
        min=0,
        help="For an update that runs to end, before it is refused.",
        rich_help_panel=RUN,
    ),
]
FromOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="DIR|URL",
        help="A copy of the repository, as on a USB stick; else the device's own.",
        rich_help_panel=WHAT,
        show_default=False,
    ),
]


@command(
    device_app,
    "check",
    examples=["edgeinc device check", "edgeinc device check --from /media/usb/repo --json"],
)
def check(ui: Ui, source: FromOption = None, root: RootOption = ROOT) -> None:
    """Say what an update would do now, and change nothing.

    Exit 5 when it would be refused; `--json` then names the reason.
    """
    from edgeinc.update.device import Device
    from edgeinc.update.source import repository

    become_owner(root)
    found = Device(root).check(repository(root, place=source))
    hint = ["edgeinc", "device", "update", *rooted(root)] if found.change == "available" else []
    ui.result(found, *_lines(ui, found), essential=[found.change], hint=hint)


@command(
    device_app,
    "update",
    examples=[
        "edgeinc device update",
        "edgeinc device update --from /media/usb/repo",
        "edgeinc device update --retry --json",
    ],
)
def update(
    ui: Ui,
    source: FromOption = None,
    retry: Annotated[
        bool,
        flag("--retry", help="Try again what was condemned or deferred here.", panel=WHAT),
    ] = False,
    root: RootOption = ROOT,
) -> None:
    """Bring this device to what its channel asks for: fetch, prove, try, commit.

    What is served stays served until the new step is proven. Exit 0 also when there is nothing to
    do, 5 when it was refused; `--json` then names the reason.
    """
    from edgeinc.update.device import Device
    from edgeinc.update.source import repository

    become_owner(root)
    with ui.progress.task("update", None) as task:
        task.advance(0, note="fetch, prove, try, commit")
        found = Device(root).update(repository(root, place=source), retry=retry)
    ui.result(found, *_lines(ui, found), essential=[found.change])


def _lines(ui: Ui, found: DeviceUpdate) -> list[str | Table]:
    fetched = f"{found.bytes:,} bytes ({found.way})" if found.way not in ("", "held") else ""
    proof = {"": "", "probe": "probe", "trial": "probe, and a trial in the server"}[found.proof]
    return [found.text, ui.facts(("fetched", fetched), ("proven by", proof))]


@command(
    device_app,
    "status",
    examples=["edgeinc device status", "edgeinc device status --json"],
)
def status(ui: Ui, root: RootOption = ROOT) -> None:
    """Say what runs, since when, why the last update was refused, and what to do."""
    from edgeinc.update import status as library

    become_owner(root)
    found = library.status(root)
    ui.result(
        found,
        ui.facts(*_status_facts(found)),
        essential=[f"step {found.served.step}" if found.served else "nothing"],
    )


def _status_facts(found: DeviceStatus) -> list[tuple[str, object]]:
    from edgeinc.update.orders import date

    config, said, refused, trial = found.config, found.server, found.refused, found.trial
    server = ""
    if said is not None:
        p95 = f", {said.p95_ms:.1f} ms (p95)" if said.p95_ms is not None else ""
        server = f"{said.frames} frames, {said.faults} without an answer{p95}"
        server += f"; no frames now: {said.waits}" if said.waits else ""
    why = f"{refused.reason} on {date(refused.at)}: {refused.message}" if refused else ""
    return [
        ("device", f"{config.device} in {config.fleet}, {config.model} on {config.runtime}"),
        ("updates", config.repository),
        ("serves", _bundle(found.served) if found.served else "nothing"),
        ("classes", list(found.classes)),
        ("before", _bundle(found.previous) if found.previous else ""),
        ("on trial", f"{_bundle(trial.bundle)}, try {trial.tries}" if trial else ""),
        ("server", server),
        ("held", "takes no updates until told otherwise" if found.held else ""),
        ("damage", found.damage),
        ("refused", why),
        *(("condemned", f"step {b.step} by {b.by}: {b.why}") for b in found.bad),
        *(("deferred", f"{d.bundle_id[:12]} until {date(d.not_before)}") for d in found.deferred),
        ("revoked", f"below step {found.revocation_floor}" if found.revocation_floor else ""),
        ("checked", date(found.last_trusted) if found.last_trusted else "never"),
        ("free", f"{found.free_bytes / 1e9:.1f} GB"),
        ("do", found.todo or "nothing"),
    ]


def _bundle(held: Held) -> str:
    from edgeinc.update.orders import date

    return f"step {held.step} ({held.bundle_id[:12]}) since {date(held.since)}"


@command(
    device_app,
    "history",
    examples=["edgeinc device history", "edgeinc device history --limit 5 --json"],
)
def history(
    ui: Ui,
    limit: Annotated[
        int,
        typer.Option(
            "--limit", metavar="N", min=1, help="Newest events only.", rich_help_panel=WHAT
        ),
    ] = 50,
    root: RootOption = ROOT,
) -> None:
    """List what happened on this device, oldest first."""
    from edgeinc.update import history as library
    from edgeinc.update.identity import read_config
    from edgeinc.update.orders import date

    become_owner(root)
    read_config(root)
    found = library.newest(root, limit)
    rows = [(date(e.at), e.what, e.step, e.text) for e in found.events]
    ui.result(
        found,
        ui.table(("when", "what", "step", ""), rows) if rows else "nothing happened yet",
        essential=[e.what for e in found.events[-1:]],
    )


@command(
    device_app,
    "rollback",
    examples=["edgeinc device rollback", "edgeinc device rollback --failed --wait 600"],
)
def rollback(
    ui: Ui,
    failed: Annotated[
        bool,
        flag("--failed", help="The server fails with it: never go to a newer step.", panel=WHAT),
    ] = False,
    wait: WaitOption = 0.0,
    root: RootOption = ROOT,
) -> None:
    """Serve the step before the current one; again, and the newer one is back.

    The step that was left is not taken again until `edgeinc device update --retry`. Exit 2 when
    there is none to go to, 5 when it was revoked or is damaged.
    """
    from edgeinc.update.device import Device

    become_owner(root)
    found = Device(root).rollback(failed=failed, wait_s=wait)
    ui.result(found, found.text, essential=[found.change])


@command(
    device_app,
    "hold",
    examples=["edgeinc device hold", "edgeinc device hold --off"],
)
def hold(
    ui: Ui,
    off: Annotated[bool, flag("--off", help="Take updates again.", panel=WHAT)] = False,
    wait: WaitOption = 0.0,
    root: RootOption = ROOT,
) -> None:
    """Take no update until told otherwise."""
    from edgeinc.update.device import Device

    become_owner(root)
    found = Device(root).hold(on=not off, wait_s=wait)
    ui.result(found, found.text, essential=[found.reason or "released"])


@command(
    device_app,
    "verify",
    examples=["edgeinc device verify", "edgeinc device verify --json"],
)
def verify(ui: Ui, root: RootOption = ROOT) -> None:
    """Hash everything this device holds again. Exit 1 when something is damaged."""
    from edgeinc.update import status as library

    become_owner(root)
    found = library.verify(root)
    rows = [(s.role, s.step, s.bundle_id[:12], s.damage or "whole") for s in found.slots]
    damaged = [slot for slot in found.slots if slot.damage]
    ui.result(
        found,
        ui.table(("slot", "step", "bundle", ""), rows) if rows else "no slots yet",
        essential=["damaged" if damaged else "whole"],
    )
    if damaged:
        raise EdgeincError(
            f"{len(damaged)} of {len(found.slots)} slots are damaged",
            hint="edgeinc device update fetches what it serves again, and removes the others",
        )
