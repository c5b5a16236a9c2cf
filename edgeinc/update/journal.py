"""The journal: `state.json`, the one truth about a device, and the generation before it.

Rules: a state is written whole, made durable, and only then given the name that is read; the
generation before it stays as `state.prev.json`; what is damaged is not believed, so the older one
counts; where both are damaged there is no state, and the caller has to start from its slots.

    state = store(folder, replace(load(folder), held=True), disk)
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from edgeinc.schema import State
from edgeinc.update import faults
from edgeinc.update.disk import Disk
from edgeinc.update.sealed import read_sealed, seal

STATE, BEFORE, NEW = "state.json", "state.prev.json", ".state.json.new"


def load(folder: Path) -> State | None:
    """The newest state that is not damaged; None where there is none.

    Raises:
        EdgeincError: It was written by a newer edgeinc.
    """
    for name in (STATE, BEFORE):
        state = read_sealed(State, folder / name)
        if state is not None:
            return state
    return None


def store(folder: Path, state: State, disk: Disk) -> State:
    """Make a state durable; when this returns, no power cut takes it back.

    Only the holder of the device's lock may call this.

    Returns:
        The state as it was written, with the next `seq`.

    Raises:
        OSError: The disk refused. Either state may be the one that `load` gives then.
    """
    state = replace(state, seq=state.seq + 1)
    new, now = folder / NEW, folder / STATE
    try:
        if new.exists():  # left by a crash
            disk.remove(new)
        disk.write_new(new, seal(state))
        disk.fsync(new)
    except OSError:
        with suppress(OSError):
            disk.remove(new)
        raise
    faults.point("journal.written")
    if read_sealed(State, now) is not None:  # a damaged one is worth less than the one before
        disk.rename(now, folder / BEFORE)
        faults.point("journal.kept")
    disk.rename(new, now)
    faults.point("journal.renamed")
    disk.fsync_folder(folder)
    faults.point("journal.stored")
    return state
