"""What publishing a step, or changing who gets it, did or would do."""

from __future__ import annotations

from edgeinc.schema._bundle import Blob, BundleScore, Channel
from edgeinc.schema._document import SCHEMA_VERSION, document


@document
class Attempt:
    """A way of coding the delta from the parent's artifact.

    `percent`: of the packed full file; `miou`: of what the delta leads to, None where it was not
    scored; `loss`: against the exported file, in points; `why_not`: "" for the one that was taken.
    """

    codec: str
    bytes: int
    percent: float
    miou: float | None
    loss: float | None
    why_not: str


@document
class PublishResult:
    """A step as it was published, or would be.

    `artifact`: the exported file it is made from. `parent`: step of the published one that it
    extends, None for the first. `deltas_from`: the steps whose artifacts a delta starts from.
    `unmet`: gates that were not met; nothing was signed then. `versions`: of the roles that were
    signed. `channel`: None where the step was published without telling a fleet.
    """

    folder: str
    artifact: str
    model: str
    step: int
    bundle_id: str
    manifest: str
    artifact_bytes: int
    artifact_sha256: str
    classes: tuple[str, ...]
    parent: int | None
    deltas_from: tuple[int, ...]
    blobs: tuple[Blob, ...]
    attempts: tuple[Attempt, ...]
    metrics: BundleScore | None
    topology_changed: bool
    channel: Channel | None
    unmet: tuple[str, ...]
    published: bool
    versions: dict[str, int]
    schema_version: int = SCHEMA_VERSION


@document
class ChannelResult:
    """What a fleet is asked to serve now, or would be."""

    folder: str
    path: str
    channel: Channel
    published: bool
    versions: dict[str, int]
    schema_version: int = SCHEMA_VERSION
