"""What the agent and the server have to do with each other: two files and no more.

The agent alone writes the journal; the server alone writes `serving.json`. The server asks
`choices` what it shall serve, hashes it once more, and says what it does. It never chooses:

- when it starts, it serves what was committed; a trial that was open then is not begun (`ignore`),
  so a model that takes the server down with it is gone when the server is back;
- while it runs, a new attempt in the journal is a request to try that bundle between two frames;
- its verdict goes to `serving.json`; after a bad one it serves the old bundle again by itself.

`serving.json` is volatile: it is removed when a server ends well, so one that lies there belongs to
a server that runs, or to one that was cut off and will come back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edgeinc.schema import DeviceGates, Floor, Held, OpenTrial, Serving, State, Verdict
from edgeinc.update import journal, slots
from edgeinc.update.disk import Disk
from edgeinc.update.identity import SLOTS
from edgeinc.update.lock import SERVER, is_held
from edgeinc.update.refusal import Refusal
from edgeinc.update.sealed import read_sealed, seal

LINK, FILE = "current", "serving.json"
START_S = 120.0
"""A server that is asked has this long to take the bundle, or to come back."""
SLACK = 3.0
"""A trial may take this many times its seconds: its frames may come slowly."""
LOOK_EVERY_S = 0.5


@dataclass(frozen=True)
class Choice:
    """A bundle the server may serve. `attempt`: of the trial it belongs to, "" for none."""

    bundle: Held
    attempt: str


@dataclass(frozen=True)
class Judgement:
    """How a trial ended, and why."""

    verdict: Verdict
    why: str


Ask = Callable[[Path, OpenTrial, DeviceGates], Judgement]


def choices(root: Path, *, ignore: str = "") -> tuple[Choice, ...]:
    """What the server shall serve, the first that is sound.

    Reads the journal and nothing else, so that it can be called every second.

    Args:
        root: The device's folder.
        ignore: The attempt that was open when the server started.

    Raises:
        EdgeincError: The journal was written by a newer edgeinc.
    """
    state = journal.load(root)
    if state is None:
        proven = behind_link(root)
        return (Choice(proven, ""),) if proven else ()
    state = completed(root, state)
    found = []
    if state.trial is not None and state.trial.attempt not in ("", ignore):
        found.append(Choice(state.trial.bundle, state.trial.attempt))
    return (*found, *(Choice(bundle, "") for bundle in committed(state)))


def committed(state: State) -> tuple[Held, ...]:
    """What was proven here: the current bundle, and the one before it unless it was revoked."""
    before = state.previous
    if before is not None and before.step < state.revocation_floor:
        before = None
    return tuple(bundle for bundle in (state.current, before) if bundle is not None)


def completed(root: Path, state: State) -> State:
    """A state that knows the first commit.

    The generation before it does not; it counts when the newer one was damaged.

    Raises:
        EdgeincError: The slot was made by a newer edgeinc.
    """
    first = behind_link(root) if state.current is None else None
    if first is None or first.step < state.revocation_floor:
        return state
    return replace(state, current=first)


def behind_link(root: Path) -> Held | None:
    """The bundle that the link `current` names, where the journal is lost.

    Raises:
        EdgeincError: The slot was made by a newer edgeinc.
    """
    try:
        slot = root / SLOTS / (root / LINK).readlink().name
    except OSError:
        return None
    installed = slots.read(slot)
    if installed is None:
        return None
    return Held(installed.bundle_id, installed.step, installed.artifact_sha256, installed.at)


def model(root: Path, bundle: Held) -> Path:
    """The artifact of a bundle, hashed just now.

    Raises:
        Refusal: `CORRUPT`, the slot is damaged.
        EdgeincError: The slot was made by a newer edgeinc.
    """
    slot = root / SLOTS / bundle.bundle_id
    wrong = slots.damage(slot)
    if wrong:
        raise Refusal(
            "CORRUPT",
            f"the slot of step {bundle.step} is damaged: {wrong}",
            hint="edgeinc device update fetches it again",
        )
    return slot / slots.MODEL


def served(root: Path) -> Held | None:
    """What a server that starts now serves: the first committed bundle that is sound.

    Raises:
        EdgeincError: The journal or a slot was written by a newer edgeinc.
    """
    return next((b for b in _proven(root) if not slots.damage(root / SLOTS / b.bundle_id)), None)


def _proven(root: Path) -> tuple[Held, ...]:
    return tuple(choice.bundle for choice in choices(root) if not choice.attempt)


def state_from_slots(root: Path) -> State:
    """What can be known where both journals are lost: the slots remember what was seen.

    Raises:
        EdgeincError: A slot was made by a newer edgeinc.
    """
    found = [
        installed
        for bundle_id in slots.ids(root / SLOTS)
        if (installed := slots.read(root / SLOTS / bundle_id)) is not None
    ]
    floors: dict[str, Floor] = {}
    for role, floor in (pair for installed in found for pair in installed.floors.items()):
        if role not in floors or floor.version > floors[role].version:
            floors[role] = floor
    return State(
        seq=0,
        current=behind_link(root),
        floors=floors,
        revocation_floor=max((i.revocation_floor for i in found), default=0),
        last_trusted=max((i.at for i in found), default=0.0),
    )


# ----------------------------------------------------------------------------- what the server says


def say(root: Path, serving: Serving, disk: Disk) -> None:
    """Tell what is served. Readers see the old or the new content; no power cut matters here.

    Raises:
        OSError: The disk refused.
    """
    new = root / f".{FILE}.new"
    disk.remove(new)
    disk.write_new(new, seal(serving))
    disk.rename(new, root / FILE)


def heard(root: Path) -> Serving | None:
    """What the server said last, whether it still runs or not; None where there is no server."""
    return read_sealed(Serving, root / FILE)


def is_running(root: Path, said: Serving) -> bool:
    """Whether the server that said this is there: it holds a lock as long as it lives.

    Its process may have another number here than it says, where both are in containers.
    """
    return said.boot_id == boot_id() and is_held(root / SERVER)


def boot_id() -> str:
    """What names this boot of the machine; "" where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def ask(
    root: Path,
    trial: OpenTrial,
    gates: DeviceGates,
    *,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Judgement:
    """Wait for the server's verdict about the trial in the journal.

    Args:
        root: The device's folder.
        trial: What is tried.
        gates: How long it takes.
        clock: Seconds that never jump.
        sleep: Waits for seconds.
    """
    begun = None
    end = clock() + START_S
    while clock() < end:
        said = heard(root)
        if said is not None and said.attempt == trial.attempt:
            if said.verdict != "none":
                return Judgement(said.verdict, said.why)
            if said.waits:
                return Judgement("interrupted", f"the frames stopped: {said.waits}")
            if not is_running(root, said):
                return Judgement("interrupted", "the server ended during the trial")
            if begun is None:
                begun = clock()
                # At least one frame a second: fewer is no stream.
                end = begun + START_S + SLACK * max(gates.trial_seconds, gates.trial_frames)
        elif begun is not None:  # another server has begun, which does not go on with it
            return Judgement("interrupted", "the server ended during the trial")
        sleep(LOOK_EVERY_S)
    if begun is None:
        return Judgement("interrupted", f"no server took it within {START_S:.0f} s")
    return Judgement("interrupted", f"the trial did not end within {end - begun:.0f} s")
