"""A device: what it serves, and how that changes. Durable points are marked D1 to D7.

Rules: what is served was proven here; it changes by one write of the journal (D7), and by nothing
else; before that write everything can be cut off at any point and begun again. What was interrupted
is tried again, later each time; what was found bad is never taken again. Versions of metadata and
the revocation floor only rise. Only the holder of the lock changes anything; readers need no lock.

    device = Device(root)
    outcome = device.update(source)        # DeviceUpdate, or a Refusal that says why not
    device.rollback()
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from edgeinc.errors import UpdateError, UsageError
from edgeinc.runtimes import usable
from edgeinc.schema import (
    Channel,
    Condemned,
    DeviceUpdate,
    Held,
    Installed,
    Manifest,
    OpenTrial,
    UpdateChange,
)
from edgeinc.update import faults, incoming, orders, serving, slots
from edgeinc.update.disk import Disk
from edgeinc.update.identity import read_config
from edgeinc.update.incoming import Incoming, Plan
from edgeinc.update.keeper import MAX_TRIES, Keeper, Report
from edgeinc.update.manifest import read, read_channel
from edgeinc.update.orders import HELD, Stays
from edgeinc.update.probe import Probe, probe
from edgeinc.update.refusal import Refusal
from edgeinc.update.roles import channel_path
from edgeinc.update.source import Connect, SignedFiles

TakenBy = Literal["held", "delta", "full"]


class Device:
    """A folder that `init` made.

    Args:
        root: The folder.
        disk: Through which it is changed.
        now: Seconds since 1970; it may be wrong.
        prove: The probe.
        ask: Asks the server to try a bundle.
        report: Told of every change, after it; what it raises changes nothing.

    Raises:
        UsageError: The folder is no device.
    """

    def __init__(
        self,
        root: Path,
        *,
        disk: Disk | None = None,
        now: Callable[[], float] = time.time,
        prove: Probe = probe,
        ask: serving.Ask | None = None,
        report: Report | None = None,
    ) -> None:
        self.root, self._disk, self._now = root, disk or Disk(), now
        self._prove = prove
        self._ask = ask or partial(serving.ask, clock=time.monotonic, sleep=time.sleep)
        self.config = read_config(root)
        self._keeper = Keeper(root, disk=self._disk, now=now, report=report)

    # ---------------------------------------------------------------------------- what people ask

    def update(self, connect: Connect, *, retry: bool = False) -> DeviceUpdate:
        """Bring this device to what its channel asks for.

        Args:
            connect: Opens the repository; it is called once the lock is held.
            retry: Try again what was condemned or deferred here, and what used up its bytes.

        Raises:
            Refusal: It was not done, for a reason with a name; what was served still is.
            UpdateError: The source refused.
            MissingError: The device's runtime or accelerator is not here.
            EdgeincError: The journal was written by a newer edgeinc.
        """
        with self._keeper.changing("update this device"):
            if self._keeper.state.held:
                return self._stays(HELD)
            trial = self._keeper.state.trial
            try:
                source, channel, stays = self._asked_for(connect, retry=retry)
            except UpdateError as err:
                if trial is None or getattr(err, "reason", "") != "NETWORK":
                    raise
                return self._tried(trial, "held", 0)  # nobody said otherwise since
            if trial is not None:
                if stays is None and channel.bundle_id == trial.bundle.bundle_id:
                    return self._tried(trial, "held", 0)
                self._keeper.drop_trial(
                    stays.text if stays else f"step {channel.step} is asked for"
                )
            if stays is not None:
                if self._keeper.state.refused is not None:
                    self._keeper.store(refused=None)
                return self._stays(stays)
            orders.refuse_known(channel, self._keeper.state, self._now())
            return self._taken(source, channel)

    def check(self, connect: Connect) -> DeviceUpdate:
        """What `update` would do now. Only the floors are stored, and not why it was refused.

        Raises:
            Refusal: It would be refused.
            UpdateError: The source refused.
        """
        with self._keeper.changing("look for an update", remember=False):
            source, channel, stays = self._asked_for(connect)
            if stays is not None:
                return self._stays(stays)
            orders.refuse_known(channel, self._keeper.state, self._now())
            new, plan = self._planned(source, channel)
            text = f"step {channel.step} is there: {plan.way}, {plan.bytes:,} bytes"
            return self._outcome("available", text, _held(new, 0.0), way=plan.way)

    def rollback(self, *, failed: bool = False, wait_s: float = 0.0) -> DeviceUpdate:
        """Serve the bundle before the current one, which is not taken again until asked for.

        Again, it brings that one back.

        Args:
            failed: The server fails with the current one: never go to a newer one. A service
                manager that asks again and again ends at the oldest that is held. Where another
                one was being tried, that one is left, and tried again later.
            wait_s: Seconds to wait for an update that runs.

        Raises:
            UsageError: There is none.
            Refusal: It was revoked (`REVOKED`), or is damaged (`CORRUPT`).
        """
        with self._keeper.changing("roll back", wait_s=wait_s):
            state = self._keeper.state
            now, before = state.current, state.previous
            if failed and now is not None and state.trial is not None and state.trial.tries:
                tried = state.trial.bundle
                self._keeper.defer(tried, "the server failed while it was tried")
                text = f"step {now.step} stays served; the server failed while it tried step "
                return self._stays(Stays("DEFERRED", f"{text}{tried.step}"))
            if now is None or before is None:
                raise UsageError("there is no bundle to go back to", hint="edgeinc device status")
            if failed and before.step >= now.step:
                raise UsageError(
                    f"there is no older bundle to go back to: step {before.step} is not older than "
                    f"step {now.step}, which is served",
                    hint="edgeinc device rollback goes to it all the same",
                )
            if before.step < state.revocation_floor:
                raise Refusal(
                    "REVOKED",
                    f"step {before.step} was revoked: nothing below step "
                    f"{state.revocation_floor} may be served",
                    hint="publish a corrected step",
                )
            serving.model(self.root, before)
            why = "rolled back, as the server failed with it" if failed else "rolled back by hand"
            left = Condemned(now.bundle_id, now.step, "hand", why, self._now())
            self._keeper.store(
                current=replace(before, since=self._now()),
                previous=now,
                trial=None,
                bad=(*(b for b in state.bad if b.bundle_id != before.bundle_id), left),
            )
            faults.point("rollback.stored")
            self._keeper.settle()
            self._keeper.tell("rolled back", before, f"step {now.step} was {why}")
            return self._outcome(
                "committed", f"serves step {before.step} again", before, way="held", was=now
            )

    def hold(self, *, on: bool = True, wait_s: float = 0.0) -> DeviceUpdate:
        """Take no update until told otherwise; a trial that is open ends.

        Args:
            on: False takes updates again.
            wait_s: Seconds to wait for an update that runs.

        Raises:
            Refusal: Another update is running, or the disk refused.
        """
        with self._keeper.changing("hold this device", wait_s=wait_s):
            self._keeper.store(held=on, trial=None if on else self._keeper.state.trial)
            self._keeper.tell("held" if on else "released", self._keeper.state.current, "by hand")
            return self._stays(HELD if on else Stays("", "takes updates"))

    def recover(self) -> None:
        """Put in order what a crash or a worn disk left; every change begins with it.

        Raises:
            Refusal: Another update is running, or the disk refused.
        """
        with self._keeper.changing("recover"):
            pass

    # -------------------------------------------------------------------------- from slot to served

    def _asked_for(
        self, connect: Connect, *, retry: bool = False
    ) -> tuple[SignedFiles, Channel, Stays | None]:
        """The channel, once the floors it came with are durable (D1), and why to stay."""
        state, now = self._keeper.state, self._now()
        self.config = read_config(self.root)  # it may have been corrected
        orders.refuse_wrong_clock(state, now)
        source = connect(state.floors, state.last_trusted)
        floors = dict(source.refresh())
        if floors != state.floors or now > state.last_trusted + orders.HOUR_S:
            self._keeper.store(floors=floors, last_trusted=max(now, state.last_trusted))
            faults.point("floors.stored")
        path = channel_path(self.config.fleet)
        channel = read_channel(source.target(path), path)
        orders.refuse_other_fleet(channel, self.config)
        if channel.revoke_below > self._keeper.state.revocation_floor:
            self._keeper.store(revocation_floor=channel.revoke_below)
        if retry:
            self._keeper.pardon(channel.bundle_id)
        state, empty = self._keeper.state, serving.served(self.root) is None
        stays = HELD if state.held else orders.why_it_stays(channel, state, self.config, empty)
        served = stays is not None and not stays.reason
        if served and slots.damage(self._keeper.slots / channel.bundle_id):
            stays = None
        return source, channel, stays

    def _planned(self, source: SignedFiles, channel: Channel) -> tuple[Incoming, Plan]:
        state = self._keeper.state
        new = incoming.read_incoming(source, channel)
        sound = [
            bundle
            for bundle in (state.current, state.previous)
            if bundle is not None and not slots.damage(self._keeper.slots / bundle.bundle_id)
        ]
        served = self._manifest(sound[0]) if state.current in sound else None
        incoming.refuse_unfit(new, channel, self.config, served)
        bases = {b.artifact_sha256: self._keeper.slots / b.bundle_id / slots.MODEL for b in sound}
        plan = incoming.make_plan(new, self._keeper.slots, bases)
        usable(self.config.runtime)  # before anything is fetched for it
        if plan.way != "held":
            incoming.refuse_no_space(self.root, new, plan, self.config.runtime)
        return new, plan

    def _taken(self, source: SignedFiles, channel: Channel) -> DeviceUpdate:
        new, plan = self._planned(source, channel)
        bundle, current = _held(new, self._now()), self._keeper.state.current
        self._keeper.settle(making=new.bundle_id)  # what was made and never committed goes
        cost = 0 if plan.way == "held" else self._installed(source, new, plan)
        if current is not None and current.bundle_id == bundle.bundle_id:
            # It was proven here before its slot was damaged.
            self._keeper.store(refused=None, spent=None)
            self._keeper.settle()
            self._keeper.tell("restored", bundle, f"its slot was damaged; {cost} bytes")
            text = f"the slot of step {bundle.step} was damaged and is whole again"
            return self._outcome("committed", text, bundle, way=plan.way, cost=cost, was=current)
        slot, gates = self._keeper.slots / bundle.bundle_id, new.manifest.gates
        result = self._prove(slot, gates, self.config.runtime, self.config.provider)
        if result.verdict == "interrupted":
            self._keeper.defer(bundle, result.why)
            raise Refusal(
                "DEFERRED",
                f"the probe of step {bundle.step} was interrupted: {result.why}",
                hint="repeat later; as far as is known nothing is wrong with the step",
            )
        if result.verdict == "bad":
            raise self._keeper.condemned(bundle, "probe", result.why)  # D3
        faults.point("probe.passed")
        trial = OpenTrial(bundle, 0, "")
        if serving.heard(self.root) is not None:
            self._keeper.store(trial=trial)  # D4
            faults.point("trial.opened")
        return self._tried(trial, plan.way, cost)

    def _installed(self, source: SignedFiles, new: Incoming, plan: Plan) -> int:
        """Fetch a bundle into its slot (D2); bytes that were received."""
        state, manifest, now = self._keeper.state, new.manifest, self._now()
        spent = orders.spent_today(state.spent, new.bundle_id, now)
        budget = incoming.budget_bytes(manifest) - (spent.bytes if source.metered else 0)
        received = source.received_bytes
        installed = Installed(
            bundle_id=new.bundle_id,
            step=manifest.step,
            artifact_sha256=manifest.artifact.sha256,
            files={},
            classes=tuple(c.name for c in manifest.classes),
            floors=state.floors,
            revocation_floor=state.revocation_floor,
            at=now,
        )
        try:
            carrier = incoming.Carrier(self.root, source, self._disk, budget)
            incoming.install(self.root, new, plan, installed, carrier)
        finally:
            cost = source.received_bytes - received
            if cost and source.metered:
                self._keeper.store(spent=replace(spent, bytes=spent.bytes + cost))
        return cost

    def _tried(self, trial: OpenTrial, way: TakenBy, cost: int) -> DeviceUpdate:
        """Let the server try a bundle that passed the probe, and act on its verdict."""
        bundle, said = trial.bundle, serving.heard(self.root)
        if said is None:  # nothing serves here, or it was ended for good
            return self._committed(bundle, way, cost, "probe")
        if said.waits and serving.is_running(self.root, said):
            raise Refusal(  # before it counts as a try
                "DEFERRED",
                f"step {bundle.step} passed its probe, and the server has no frames to try it on: "
                f"{said.waits}",
                hint="nothing: it is tried when there are frames again",
            )
        gates = self._manifest(bundle).gates
        trial = OpenTrial(bundle, trial.tries + 1, secrets.token_hex(8))
        self._keeper.store(trial=trial)  # D5, before the server is asked: a crash counts
        faults.point("trial.counted")
        judgement = self._ask(self.root, trial, gates)
        faults.point("trial.judged")
        if judgement.verdict == "bad":
            raise self._keeper.condemned(bundle, "trial", judgement.why)  # D6
        if judgement.verdict == "interrupted":
            raise Refusal(
                "DEFERRED",
                f"the trial of step {bundle.step} was interrupted (try {trial.tries} of "
                f"{MAX_TRIES}): {judgement.why}",
                hint="see that the server runs, then repeat",
            )
        return self._committed(bundle, way, cost, "trial")

    def _committed(
        self,
        bundle: Held,
        way: TakenBy,
        cost: int,
        proof: Literal["probe", "trial"],
    ) -> DeviceUpdate:
        state = self._keeper.state
        was = state.current
        self._keeper.store(  # D7: from here on the new bundle is what this device serves
            current=replace(bundle, since=self._now()),
            previous=was,
            trial=None,
            deferred=tuple(d for d in state.deferred if d.bundle_id != bundle.bundle_id),
            spent=None,
            refused=None,
        )
        faults.point("commit.stored")
        self._keeper.tell("committed", bundle, f"by {proof}, {way}, {cost} bytes")
        self._keeper.settle()
        text = f"serves step {bundle.step}"
        return self._outcome("committed", text, bundle, way=way, cost=cost, was=was, proof=proof)

    # -------------------------------------------------------------------------------------- parts

    def _manifest(self, bundle: Held) -> Manifest:
        file = self._keeper.slots / bundle.bundle_id / slots.MANIFEST
        return read(file.read_bytes(), str(file))

    def _stays(self, stays: Stays) -> DeviceUpdate:
        return self._outcome("nothing", stays.text, self._keeper.state.current, reason=stays.reason)

    def _outcome(
        self,
        change: UpdateChange,
        text: str,
        bundle: Held | None,
        *,
        reason: str = "",
        way: Literal["", "held", "delta", "full"] = "",
        cost: int = 0,
        was: Held | None = None,
        proof: Literal["", "probe", "trial"] = "",
    ) -> DeviceUpdate:
        return DeviceUpdate(
            change=change,
            reason=reason,
            text=text,
            step=bundle.step if bundle else None,
            bundle_id=bundle.bundle_id if bundle else "",
            was_step=was.step if was else None,
            way=way,
            bytes=cost,
            proof=proof,
        )


def _held(new: Incoming, since: float) -> Held:
    manifest = new.manifest
    return Held(new.bundle_id, manifest.step, manifest.artifact.sha256, since)
