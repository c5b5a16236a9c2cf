"""What a channel asks of a device, and when the device does not follow.

Rules only: nothing here reads or writes a file. What is no fault (a pause, a canary that another
device was drawn for) is an answer; what somebody has to look at is a refusal.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timezone

from edgeinc.schema import Channel, Condemned, DeviceConfig, Spent, State
from edgeinc.update.refusal import Refusal

DAY_S, HOUR_S = 86_400.0, 3_600.0
MAX_BACKOFF_S = DAY_S


@dataclass(frozen=True)
class Stays:
    """Why a device serves on what it serves. `reason`: "" where that is what is asked for."""

    reason: str
    text: str


HELD = Stays("HELD", "held by hand; `edgeinc device hold --off` ends it")


def refuse_wrong_clock(state: State, now: float) -> None:
    """Refuse to judge by a clock that is behind what this device has seen.

    Raises:
        Refusal: `CLOCK`. Expired metadata would look current.
    """
    if now < state.last_trusted - DAY_S:
        raise Refusal(
            "CLOCK",
            f"the clock says {date(now)}, and this device has seen {date(state.last_trusted)}",
            hint="set the clock, then repeat; what is served stays served",
        )


def refuse_other_fleet(channel: Channel, config: DeviceConfig) -> None:
    """Refuse a channel that was signed for others.

    Raises:
        Refusal: `INCOMPATIBLE`.
    """
    if (channel.fleet, channel.model) != (config.fleet, config.model):
        raise Refusal(
            "INCOMPATIBLE",
            f"the channel is for {channel.model} in fleet {channel.fleet}; this device has "
            f"{config.model} in {config.fleet}",
            hint="publish a channel for this fleet and model",
        )


def why_it_stays(channel: Channel, state: State, config: DeviceConfig, empty: bool) -> Stays | None:
    """Why the channel changes nothing here; None when its step is to be taken.

    Args:
        channel: What is asked for.
        state: Of this device.
        config: Of this device.
        empty: There is nothing that it could serve.

    Raises:
        Refusal: `REVOKED`.
    """
    current, step = state.current, channel.step
    revoked = current is not None and current.step < state.revocation_floor
    if step < state.revocation_floor:
        raise Refusal(
            "REVOKED",
            f"the channel asks for step {step}, and nothing below step "
            f"{state.revocation_floor} may be served",
            hint="the operator of the channel has to promote a newer step",
        )
    if current is not None and current.bundle_id == channel.bundle_id:
        return Stays("", f"step {step} is served, as the channel asks")
    bad = _bad(channel, state)
    also = "; what is served was revoked" if revoked else "; nothing is served" if empty else ""
    if bad is not None and bad.by == "hand":
        text = f"step {step} was {bad.why}; `edgeinc device update --retry` takes it"
        return Stays("HELD", text + also)
    if channel.paused:
        return Stays("PAUSED", f"the channel is paused at step {step}{also}")
    # To serve nothing, or what was revoked, is worse than being among the first.
    if not revoked and not empty and not is_drawn(channel, config.device):
        text = f"step {step} goes to {channel.percent:g} % of the fleet, and not to this device"
        return Stays("NOT_SELECTED", text)
    if current is not None and step < current.step and not channel.rollback:
        text = f"the channel asks for step {step}, older than what is served, without a rollback"
        return Stays("OLDER", text)
    return None


def is_drawn(channel: Channel, device: str) -> bool:
    """Whether a device is among the percent of a fleet that a step goes to.

    The draw is the same for every call, and another one for another salt. A device that is drawn
    stays drawn when the percent rises.
    """
    drawn = int(hashlib.sha256((channel.salt + device).encode()).hexdigest(), 16) % 10_000
    return drawn < channel.percent * 100


def refuse_known(channel: Channel, state: State, now: float) -> None:
    """Refuse what was found bad here, or what has to wait.

    Raises:
        Refusal: `UNHEALTHY` or `DEFERRED`.
    """
    bad = _bad(channel, state)
    if bad is not None:
        raise Refusal(
            "UNHEALTHY",
            f"step {bad.step} was condemned here by {bad.by} on {date(bad.at)}: {bad.why}",
            hint="publish a corrected step; after a repair of this device, "
            "edgeinc device update --retry",
        )
    wait = next((d for d in state.deferred if d.bundle_id == channel.bundle_id), None)
    # A clock that was far ahead for a while must not defer for ever.
    if wait is not None and 0 < wait.not_before - now <= MAX_BACKOFF_S:
        raise Refusal(
            "DEFERRED",
            f"the proof of step {channel.step} was interrupted; it is tried again after "
            f"{date(wait.not_before)}",
            hint="wait, or do not: edgeinc device update --retry",
        )


def spent_today(spent: Spent | None, bundle_id: str, now: float) -> Spent:
    """What a bundle cost since its first byte of the day; after a day it may cost as much again."""
    if spent is None or spent.bundle_id != bundle_id or abs(now - spent.since) > DAY_S:
        return Spent(bundle_id, 0, now)
    return spent


def _bad(channel: Channel, state: State) -> Condemned | None:
    return next((b for b in state.bad if b.bundle_id == channel.bundle_id), None)


def backoff_s(count: int) -> float:
    """How long a bundle waits that was interrupted so often: an hour, two, four, at most a day."""
    return min(MAX_BACKOFF_S, HOUR_S * 2.0 ** min(count - 1, 10))


def date(seconds: float) -> str:
    """A time for people: `2026-11-20 22:41 UTC`."""
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f} s after 1970"
