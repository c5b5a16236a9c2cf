"""What a repository has published of a model: steps, their artifacts, and what fleets are asked.

Read as the publisher reads it, from the signed files themselves, so that the next step starts from
the bytes that devices hold and not from a file of that name on this machine.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from edgeinc.errors import EdgeincError
from edgeinc.schema import Channel, Manifest
from edgeinc.update._zstd import decompress
from edgeinc.update.manifest import bundle_id, read, read_channel
from edgeinc.update.repository import Repository
from edgeinc.update.roles import channel_path, model_role, release_path, site_role

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Release:
    """A published step. `site`: whose it is, "" for the model's own."""

    path: str
    site: str
    bundle_id: str
    manifest: Manifest


def releases(repository: Repository, model: str, *, site: str = "") -> list[Release]:
    """The steps that a device can hold which takes steps of a model, or of a site below it.

    Returns:
        The newest first; of the same step, the site's first.

    Raises:
        UsageError: Not a repository, or not a name.
        EdgeincError: The repository is damaged.
    """
    roles = {model_role(model): "", **({site_role(site): site} if site else {})}
    found = []
    for target in repository.listing().targets:
        if target.role in roles and target.path.endswith(MANIFEST):
            content = repository.read(target.path) or b""
            manifest = read(content, target.path)
            if target.path == release_path(model, manifest.step, MANIFEST, site=roles[target.role]):
                found.append(Release(target.path, roles[target.role], bundle_id(content), manifest))
    return sorted(found, key=lambda r: (r.manifest.step, r.site), reverse=True)


def artifact_of(repository: Repository, release: Release) -> bytes:
    """The artifact of a published step, from its own full blob.

    Raises:
        EdgeincError: The blob is gone or damaged.
    """
    full = next(b for b in release.manifest.blobs if b.kind == "full")
    content = repository.read(full.target) or b""
    artifact = release.manifest.artifact
    content = decompress(content, limit=artifact.bytes) if content else content
    if hashlib.sha256(content).hexdigest() != artifact.sha256:
        raise EdgeincError(
            f"{full.target} is not the artifact of step {release.manifest.step}",
            hint="restore the repository from a copy",
        )
    return content


def channel_of(repository: Repository, fleet: str) -> Channel | None:
    """What a fleet is asked to serve; None where nothing was said yet.

    Raises:
        UsageError: Not a repository, or not a name.
        EdgeincError: The repository is damaged.
    """
    path = channel_path(fleet)
    content = repository.read(path)
    return None if content is None else read_channel(content, path)
