"""What a device remembers about what it serves, and what it says about it.

Times are seconds since 1970 in UTC. A bundle's id is the sha256 of its manifest.
"""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from edgeinc.schema._document import SCHEMA_VERSION, document
from edgeinc.schema._trust import Floor
from edgeinc.schema._updates import Way

Verdict = Literal["good", "bad", "interrupted"]
"""Of a probe or a trial. `interrupted`: something else ended it, so it says nothing."""
ServingVerdict = Literal["none", "good", "bad", "interrupted"]
"""Of a trial that the server judges; `none`: not yet."""
SlotRole = Literal["current", "previous", "trial", "spare"]
"""`spare`: nothing needs it; the next change removes it."""
UpdateChange = Literal["nothing", "available", "committed"]


@document
class DeviceConfig:
    """What makes a device this device; written once by `device init`.

    `repository`: URL or folder; `device`: its name in the fleet, which draws it for a canary;
    `runtime` and `provider`: what computes, as `--runtime` and `--device` name it.
    """

    device: str
    fleet: str
    model: str
    repository: str
    runtime: str = "onnxruntime"
    provider: str = "auto"
    schema_version: int = SCHEMA_VERSION


@document
class Held:
    """A bundle in a slot of this device. `since`: when it was committed, or its trial opened."""

    bundle_id: str
    step: int
    artifact_sha256: str
    since: float


@document
class OpenTrial:
    """A bundle that was proven by the probe and is being tried by the server.

    `tries`: how often the server was asked, each counted before it is asked; `attempt`: a random
    name of the newest, "" before the first.
    """

    bundle: Held
    tries: int
    attempt: str


@document
class Condemned:
    """A bundle that this device does not take again. `by`: what found it so; `hand` is a person."""

    bundle_id: str
    step: int
    by: Literal["probe", "trial", "hand"]
    why: str
    at: float


@document
class Deferred:
    """A bundle whose proof was interrupted too often. `not_before`: when it is tried again."""

    bundle_id: str
    count: int
    not_before: float


@document
class Spent:
    """Bytes that were transferred for a bundle. `since`: when the first of them was asked for."""

    bundle_id: str
    bytes: int
    since: float = 0.0


@document
class Refused:
    """Why the newest update was refused, and what to do about it."""

    reason: str
    message: str
    hint: str
    at: float


@document
class State:
    """The journal: the one truth about what a device serves and what it has seen.

    `seq` counts what was written. `floors`: by role; `revocation_floor`: no older step is
    installed. `last_trusted`: the newest time at which signed metadata was found to be current.
    """

    seq: int
    current: Held | None = None
    previous: Held | None = None
    trial: OpenTrial | None = None
    bad: tuple[Condemned, ...] = ()
    deferred: tuple[Deferred, ...] = ()
    floors: dict[str, Floor] = field(default_factory=dict)
    revocation_floor: int = 0
    last_trusted: float = 0.0
    spent: Spent | None = None
    held: bool = False
    refused: Refused | None = None
    schema_version: int = SCHEMA_VERSION


@document
class Installed:
    """What lies in a slot, beside it: hashes by file name, and the floors when it was built.

    `classes`: names, in the order of their ids.
    """

    bundle_id: str
    step: int
    artifact_sha256: str
    files: dict[str, str]
    classes: tuple[str, ...]
    floors: dict[str, Floor]
    revocation_floor: int
    at: float
    schema_version: int = SCHEMA_VERSION


@document
class Serving:
    """What the server says it does; volatile, rewritten about once a second.

    `started`: when the process began to serve; `attempt`: the name of the newest trial it took up,
    "" for none; `verdict` and `why`: of that trial; `p95_ms`: of a frame; `faults`: frames without
    an answer; `waits`: why there are no frames to answer, "" while there are.
    """

    bundle_id: str
    attempt: str
    verdict: ServingVerdict
    why: str
    pid: int
    boot_id: str
    started: float
    frames: int
    faults: int
    p95_ms: float | None
    waits: str = ""
    schema_version: int = SCHEMA_VERSION


@document
class Exchange:
    """A bundle that took the place of another between two frames.

    `frame`: how many were answered before it; `gap_ms`: from the last answer of the old bundle to
    the first of the new one; `usual_ms`: median from answer to answer before; `longest_ms`: the
    longest from answer to answer while it was loaded beside; `verdict` and `why`: of its trial,
    `none` where it had none or did not end.
    """

    step: int
    was_step: int
    way: Way
    frame: int
    ready_ms: float
    gap_ms: float
    usual_ms: float | None
    longest_ms: float
    verdict: ServingVerdict
    why: str


@document
class ServeResult:
    """What `device run` served. `faults`: frames without an answer; `fps`: frames per second."""

    root: str
    source: str
    out: str
    step: int
    frames: int
    faults: int
    fps: float
    p95_ms: float | None
    exchanges: tuple[Exchange, ...]
    reports_lost: int
    schema_version: int = SCHEMA_VERSION


@document
class UpdateDemoResult:
    """The story of `edgeinc demo-update`. `refused`: why the bad step was left; `serves`: the step.

    `new_iou`: of the new class on the video, percent. `failures` is empty when all was met.
    """

    folder: str
    frames: int
    faults: int
    fps: float
    exchanges: tuple[Exchange, ...]
    first_bytes: int
    update_bytes: int
    new_class: str
    new_iou: float
    refused: str
    serves: int | None
    video: str
    picture: str
    seconds: float
    failures: tuple[str, ...] = field(default=())
    schema_version: int = SCHEMA_VERSION


@document
class ProbeResult:
    """What a first run in a process of its own found.

    `provider`: what really computed; `golden_percent`: of the golden answers that agree, None where
    there are none; `peak_mb`: memory, None where the system does not tell.
    """

    verdict: Verdict
    why: str
    provider: str
    golden_percent: float | None
    p95_ms: float | None
    peak_mb: float | None
    schema_version: int = SCHEMA_VERSION


@document
class DeviceEvent:
    """A line of the device's history. Best effort: nothing is ever decided by it."""

    at: float
    what: str
    bundle_id: str
    step: int | None
    text: str
    schema_version: int = SCHEMA_VERSION


@document
class DeviceHistory:
    """The newest events, oldest first."""

    root: str
    events: tuple[DeviceEvent, ...]
    schema_version: int = SCHEMA_VERSION


@document
class DeviceUpdate:
    """What `device check` found or `device update` did.

    `change` is `nothing` with a `reason` where the device is not meant to change now (`HELD`,
    `PAUSED`, `NOT_SELECTED`), or serves the step already (""). `proof`: what the step passed, the
    probe alone or a trial in the server too. `bytes`: transferred.
    """

    change: UpdateChange
    reason: str
    text: str
    step: int | None
    bundle_id: str
    was_step: int | None
    way: Literal["", "held", "delta", "full"]
    bytes: int
    proof: Literal["", "probe", "trial"]
    schema_version: int = SCHEMA_VERSION


@document
class SlotCheck:
    """A slot whose files were hashed again. `damage`: "" where all are as they were signed."""

    bundle_id: str
    step: int | None
    role: SlotRole
    damage: str


@document
class DeviceCheck:
    """What `device verify` found."""

    root: str
    slots: tuple[SlotCheck, ...]
    schema_version: int = SCHEMA_VERSION


@document
class DeviceStatus:
    """One screen about a device.

    `served`: the bundle that is served, or None; `server`: what the server says, None where none
    runs; `todo`: what a person should do now, "" for nothing.
    """

    root: str
    config: DeviceConfig
    served: Held | None
    classes: tuple[str, ...]
    previous: Held | None
    trial: OpenTrial | None
    held: bool
    damage: str
    server: Serving | None
    refused: Refused | None
    bad: tuple[Condemned, ...]
    deferred: tuple[Deferred, ...]
    revocation_floor: int
    last_trusted: float
    free_bytes: int
    todo: str
    schema_version: int = SCHEMA_VERSION
