"""What a device says about itself. Reading only: nothing here takes the lock or changes a file."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from edgeinc.schema import (
    DeviceCheck,
    DeviceStatus,
    Held,
    Refused,
    Serving,
    SlotCheck,
    SlotRole,
    State,
)
from edgeinc.update import journal, serving, slots
from edgeinc.update.identity import SLOTS, read_config
from edgeinc.update.orders import date


def status(root: Path, *, now: Callable[[], float] = time.time) -> DeviceStatus:
    """What runs, since when, why the last update was refused, and what to do.

    The slots are hashed, which takes about a second for every gigabyte.

    Raises:
        UsageError: The folder is no device.
        EdgeincError: The journal was written by a newer edgeinc.
    """
    config = read_config(root)
    state = journal.load(root)
    lost = state is None
    state = state or serving.state_from_slots(root)
    served = serving.served(root)
    installed = slots.read(root / SLOTS / served.bundle_id) if served else None
    said = serving.heard(root)
    damage = _damage(root, state, lost)
    return DeviceStatus(
        root=str(root),
        config=config,
        served=served,
        classes=installed.classes if installed else (),
        previous=state.previous,
        trial=state.trial,
        held=state.held,
        damage=damage,
        server=said,
        refused=state.refused,
        bad=state.bad,
        deferred=state.deferred,
        revocation_floor=state.revocation_floor,
        last_trusted=state.last_trusted,
        free_bytes=shutil.disk_usage(root).free,
        todo=_todo(root, state, served, damage, said, now()),
    )


def _damage(root: Path, state: State, lost: bool) -> str:
    if lost:
        return "both journals are damaged; this is what the slots tell"
    if state.current is None:
        return ""
    wrong = slots.damage(root / SLOTS / state.current.bundle_id)
    return f"step {state.current.step}: {wrong}" if wrong else ""


def _todo(
    root: Path, state: State, served: Held | None, damage: str, said: Serving | None, now: float
) -> str:
    """The one thing to do first; "" for nothing."""
    first = served is None and state.current is None
    if first and state.refused is None:
        return "install the first step: edgeinc device update"
    if damage and not first:
        return "fetch what is damaged again: edgeinc device update"
    if said is not None and not serving.is_running(root, said):
        return "start the server: it ended without a word"
    revoked = served is not None and served.step < state.revocation_floor
    if state.held:
        also = "; what is served was revoked" if revoked else ""
        return f"edgeinc device hold --off, when it shall take updates again{also}"
    if state.refused is not None:
        return _about(state.refused)
    if revoked:
        return "what is served was revoked: edgeinc device update says why it still is"
    days = (now - state.last_trusted) / 86_400
    if state.last_trusted and days > 7:
        return f"look for updates: the last were seen on {date(state.last_trusted)}"
    return ""


def _about(refused: Refused) -> str:
    return refused.hint or "see `edgeinc device history`"


_SPARE: tuple[SlotRole, int | None] = ("spare", None)


def verify(root: Path) -> DeviceCheck:
    """Hash every slot again.

    Raises:
        UsageError: The folder is no device.
        EdgeincError: The journal or a slot was written by a newer edgeinc.
    """
    read_config(root)
    state = journal.load(root) or serving.state_from_slots(root)
    trial = state.trial.bundle if state.trial else None
    named: tuple[tuple[SlotRole, Held | None], ...] = (
        ("trial", trial),
        ("previous", state.previous),
        ("current", state.current),
    )
    roles: dict[str, tuple[SlotRole, int | None]] = {
        bundle.bundle_id: (role, bundle.step) for role, bundle in named if bundle is not None
    }
    folder = root / SLOTS
    checks = []
    for bundle_id in sorted({*slots.ids(folder), *roles}):
        role, step = roles.get(bundle_id, _SPARE)
        if step is None:
            installed = slots.read(folder / bundle_id)
            step = installed.step if installed else None
        checks.append(SlotCheck(bundle_id, step, role, slots.damage(folder / bundle_id)))
    return DeviceCheck(str(root), tuple(checks))
