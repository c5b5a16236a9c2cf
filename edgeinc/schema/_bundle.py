"""What a publisher signs: a step and its files (manifest), and who gets which step (channel)."""

from __future__ import annotations

from typing import Literal

from edgeinc.schema._artifacts import Answer, HeadMode, Precision
from edgeinc.schema._document import Background, Size, document
from edgeinc.schema._plans import ClassInfo

BlobKind = Literal["full", "delta", "golden"]


@document
class BundleArtifact:
    """The file that a device serves; see `ArtifactCard`.

    `bytes` and `sha256` are those of the file itself, however it is transferred.
    """

    file_name: str
    bytes: int
    sha256: str
    topology_sha256: str
    weights_sha256: str
    precision: Precision
    head: HeadMode
    size: Size
    answer: Answer


@document
class BundleParent:
    """The step that this one extends."""

    step: int
    bundle_id: str
    artifact_sha256: str


@document
class BundleMethod:
    """How the step was learned. `exemplars`: old images that were kept; `trainable`: what moved."""

    name: str
    data_free: bool
    exemplars: int
    trainable: str


@document
class Blob:
    """A file of the repository from which a device makes the artifact, or with which it checks it.

    `full` is the artifact, packed. `delta` makes it from the artifact whose hash is `base_sha256`,
    which is "" in the others. `golden` holds questions with their answers. `codec`: how it is
    packed. `bytes` and `sha256` are those of the blob.
    """

    kind: BlobKind
    target: str
    bytes: int
    sha256: str
    base_sha256: str
    codec: str


@document
class BundleScore:
    """What the artifact scores, percent. `evaluated_on`: the hash of the file that was scored."""

    dataset: str
    images: int
    miou_all: float
    miou_old: float | None
    miou_new: float | None
    per_class: dict[str, float | None]
    forgetting: float | None
    evaluated_on: str


@document
class DeviceGates:
    """What a device demands before it serves a step for good.

    `golden_percent`: of the golden answer that must agree. `providers`: execution providers that
    may compute; none named means any. The trial lasts `trial_seconds` and `trial_frames`, whichever
    ends later; in it no class may fill more than `max_single_class_percent` of all pixels, and
    `min_agreement_old_percent` of those decided as an old class must be decided as before.
    """

    golden_percent: float
    max_p95_ms: float | None
    providers: tuple[str, ...]
    trial_seconds: float
    trial_frames: int
    max_single_class_percent: float
    min_agreement_old_percent: float | None


@document
class Requirements:
    """What a device needs. `edgeinc`: the oldest version; `runtimes`: none named means any."""

    edgeinc: str
    runtimes: tuple[str, ...]
    free_bytes: int


@document
class Manifest:
    """One published step. `producer`: version by package; `created`: ISO 8601 in UTC.

    `topology_changed`: the graph is another than the parent's, so engines have to be built anew.
    """

    model: str
    step: int
    created: str
    producer: dict[str, str]
    artifact: BundleArtifact
    parent: BundleParent | None
    method: BundleMethod
    classes: tuple[ClassInfo, ...]
    background: Background
    blobs: tuple[Blob, ...]
    metrics: BundleScore | None
    gates: DeviceGates
    requires: Requirements
    topology_changed: bool
    notes: str = ""
    schema: Literal["edgeinc.bundle/1"] = "edgeinc.bundle/1"


@document
class Channel:
    """What a fleet's operator asks for: which devices shall serve which step.

    `manifest`: its target path, and `bundle_id` its hash. `percent`: of the fleet, drawn by
    `salt`. `revoke_below`: no device may serve an older step. `rollback`: devices with a newer step
    shall go back to this one.
    """

    fleet: str
    model: str
    manifest: str
    bundle_id: str
    step: int
    percent: float
    salt: str
    paused: bool
    revoke_below: int
    rollback: bool
    updated: str
    schema: Literal["edgeinc.channel/1"] = "edgeinc.channel/1"
