"""The keeper of a device's journal: nothing else takes the lock, recovers, or writes a state.

with keeper.changing("roll back"):             # locked, recovered; refusals are remembered
    keeper.store(current=before, previous=now)
    keeper.settle()
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from edgeinc.errors import MissingError, UpdateError
from edgeinc.schema import Condemned, Deferred, DeviceEvent, Held, Refused, State
from edgeinc.update import engines, faults, history, incoming, journal, orders, serving, slots
from edgeinc.update.disk import Disk, refusing
from edgeinc.update.identity import DOWNLOADS, SLOTS
from edgeinc.update.lock import LOCK, alone
from edgeinc.update.refusal import Refusal

_log = logging.getLogger(__name__)

MAX_TRIES = 3
"""A trial that was interrupted this often is deferred."""
MAX_BAD = 100
"""Condemned and deferred bundles that are remembered, the newest of each."""
Report = Callable[[DeviceEvent], None]


class Keeper:
    """Of the journal in one folder.

    Args:
        root: The device's folder.
        disk: Through which it is changed.
        now: Seconds since 1970.
        report: Told of every change, after it; what it raises changes nothing.

    Attributes:
        state: As it was stored last; of use inside `changing` only.
    """

    def __init__(
        self, root: Path, *, disk: Disk, now: Callable[[], float], report: Report | None
    ) -> None:
        self.root, self.disk, self.now, self._report = root, disk, now, report
        self.slots = root / SLOTS
        self.state = State(seq=0)

    @contextmanager
    def changing(self, what: str, *, wait_s: float = 0.0, remember: bool = True) -> Iterator[None]:
        """Hold the lock, recover, and remember why it was refused if it is.

        Args:
            what: What is done, for messages: "roll back".
            wait_s: Seconds to wait for another process that holds the lock.
            remember: Whether a refusal is for `status`; one of a look is not.

        Raises:
            Refusal: `BUSY`, another process holds the lock; `NO_SPACE` or `DISK`, the disk refused.
            EdgeincError: The journal was written by a newer edgeinc.
        """
        busy = f"another update of {self.root} is running"
        with refusing(what), alone(self.root / LOCK, busy, wait_s=wait_s):
            self._recover()
            try:
                with refusing(what):
                    yield
            except (UpdateError, MissingError) as err:
                if remember:
                    self._remember(err)
                raise

    def _recover(self) -> None:
        for name in (SLOTS, DOWNLOADS):
            self.disk.make_folder(self.root / name)  # somebody may have removed one
        state = journal.load(self.root)
        if state is None:
            state = serving.state_from_slots(self.root)
            self.state = journal.store(self.root, state, self.disk)
            self.tell("state lost", state.current, "both journals were damaged")
        self.state = state
        first = serving.completed(self.root, state).current
        if first != state.current:
            self.store(current=first)
            self.tell("state lost", first, "the journal of the first commit was damaged")
        slots.tidy(self.slots, slots.ids(self.slots), self.disk)
        self._leave_damaged()
        trial = state.trial
        if trial is None:
            pass
        elif (
            slots.damage(self.slots / trial.bundle.bundle_id)
            or trial.bundle.step < state.revocation_floor
        ):
            self.drop_trial("its slot is damaged, or it was revoked")
        elif trial.tries >= MAX_TRIES:
            self.defer(trial.bundle, f"its trial was interrupted {trial.tries} times")
        self.settle(spare=True)

    def _leave_damaged(self) -> None:
        """Serve the bundle before the current one if that is damaged; it is fetched again then.

        Where the one before is damaged nothing fetches it again: it is no way back any more.
        """
        state = self.state
        if state.current is not None and slots.damage(self.slots / state.current.bundle_id):
            sound = serving.served(self.root)
            if sound is None:
                return  # nothing is sound; an update that makes the slot again is the way out
            self.store(current=sound, previous=None)
            text = f"serves step {sound.step} until it is fetched"
            self.tell("slot damaged", state.current, text)
        elif state.previous is not None and slots.damage(self.slots / state.previous.bundle_id):
            self.store(previous=None)
            self.tell("slot damaged", state.previous, "there is nothing to go back to")
            with suppress(OSError):
                self.disk.remove_tree(self.slots / state.previous.bundle_id)

    def settle(self, *, spare: bool = False, making: str = "") -> None:
        """What follows from the journal: the link, and no slots beside those that are needed.

        Nothing depends on it, so a full disk is no fault here.

        Args:
            spare: Keep what was made or fetched and not tried yet.
            making: The bundle that is made now; what there is of it stays.
        """
        state = self.state
        with suppress(OSError):
            link = self.root / serving.LINK
            if state.current is not None:
                target = f"{SLOTS}/{state.current.bundle_id}"
                if not link.is_symlink() or str(link.readlink()) != target:
                    self.disk.link(link, target)
                    faults.point("link.turned")
            if not spare:
                trial = state.trial.bundle if state.trial else None
                held = [b.bundle_id for b in (state.current, state.previous, trial) if b]
                slots.tidy(self.slots, [*held, making], self.disk)
                engines.tidy(self.root, [*held, making], self.disk)
                if not making:
                    incoming.forget_others(self.root, None, self.disk)
                faults.point("slots.cleared")

    def drop_trial(self, why: str) -> None:
        """End the trial that is open, which says nothing about its bundle.

        Raises:
            OSError: The disk refused.
        """
        trial = self.state.trial
        self.store(trial=None)
        self.tell("trial dropped", trial.bundle if trial else None, why)

    def pardon(self, bundle_id: str) -> None:
        """Forget what was found here against a bundle, and what it cost.

        Raises:
            OSError: The disk refused.
        """
        state = self.state
        self.store(
            bad=tuple(b for b in state.bad if b.bundle_id != bundle_id),
            deferred=tuple(d for d in state.deferred if d.bundle_id != bundle_id),
            spent=None,
        )

    def condemned(self, bundle: Held, by: Literal["probe", "trial"], why: str) -> Refusal:
        """Never take a bundle again; the refusal to raise.

        Raises:
            OSError: The disk refused.
        """
        found = Condemned(bundle.bundle_id, bundle.step, by, why, self.now())
        self.store(trial=None, bad=(*self.state.bad, found)[-MAX_BAD:])
        faults.point(f"{by}.condemned")
        self.tell("condemned", bundle, f"by {by}: {why}")
        self.settle()
        current = self.state.current
        stays = f"step {current.step} stays served" if current else "nothing is served yet"
        return Refusal(
            "UNHEALTHY",
            f"step {bundle.step} failed its {by}: {why}",
            hint=f"{stays}; publish a corrected step",
        )

    def defer(self, bundle: Held, why: str) -> None:
        """Try a bundle again later: that it was interrupted says nothing against it.

        Raises:
            OSError: The disk refused.
        """
        others = tuple(d for d in self.state.deferred if d.bundle_id != bundle.bundle_id)
        mine = next((d for d in self.state.deferred if d.bundle_id == bundle.bundle_id), None)
        count = mine.count + 1 if mine else 1
        wait = Deferred(bundle.bundle_id, count, self.now() + orders.backoff_s(count))
        self.store(trial=None, deferred=(*others, wait)[-MAX_BAD:])
        self.tell("deferred", bundle, why)

    def store(self, **changes: Any) -> None:
        """Change fields of the state, durably.

        Raises:
            OSError: The disk refused.
        """
        self.state = journal.store(self.root, replace(self.state, **changes), self.disk)

    def _remember(self, err: UpdateError | MissingError) -> None:
        """Keep the reason for `status`, once; a disk that refuses is no second fault."""
        with suppress(OSError):
            # A write that failed may still be what is read.
            self.state = journal.load(self.root) or self.state
            reason = "MISSING" if isinstance(err, MissingError) else getattr(err, "reason", "TRUST")
            refused = Refused(reason, err.message, err.hint, self.now())
            known = self.state.refused
            if known is None or replace(known, at=refused.at) != refused:
                self.store(refused=refused)
                self.tell("refused", None, f"{reason}: {err.message}")

    def tell(self, what: str, bundle: Held | None, text: str) -> None:
        """Say what happened, after it; nothing depends on it."""
        event = DeviceEvent(
            at=self.now(),
            what=what,
            bundle_id=bundle.bundle_id if bundle else "",
            step=bundle.step if bundle else None,
            text=text,
        )
        history.note(self.root, event, self.disk)
        if self._report is not None:
            try:
                self._report(event)
            except Exception:  # whatever it is: a report can never undo what was done
                _log.warning("a report failed", exc_info=True)
